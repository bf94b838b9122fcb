//! Forwards, from the API server's request to the node's bytes.

use crate::support::LONG;
use crate::support::cluster::{Cluster, Gateway};
use crate::support::shim::Shim;
use serde_json::json;
use std::time::Duration;
use sternline_api::v1alpha1 as pb;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

pub(crate) const FORWARD: &str = "/apis/reverse.sternline.dev/v1alpha1/namespaces/shop/pods/web-0/portforward?listen=9003&hold=30s";
pub(crate) const PROTOCOL: &str = "v1alpha1.reverse.sternline.dev";
pub(crate) const ADA: [(&str, &str); 3] = [
    ("X-Remote-User", "ada"),
    ("X-Remote-Uid", "7"),
    ("X-Remote-Group", "dev"),
];

pub(crate) fn raw() -> Vec<(&'static str, &'static str)> {
    let form = [("upgrade", "sternline"), ("sternline-protocol", PROTOCOL)];
    [&ADA[..], &form].concat()
}

fn websocket() -> Vec<(&'static str, &'static str)> {
    let form = [
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", PROTOCOL),
    ];
    [&ADA[..], &form].concat()
}

/// A cluster with a pod, the shim of its node, and a gateway.
pub(crate) async fn all(flags: &[&str]) -> (Cluster, Shim, Gateway) {
    let cluster = Cluster::installed();
    let (shim, listener) = Shim::bind().await;
    cluster.with_pod(shim.address.ip());
    let port = shim.address.port().to_string();
    let flags = [&["--shim-port", port.as_str()], flags].concat();
    let gateway = Gateway::start(&cluster, &flags).await;
    shim.serve(listener, &cluster.ring(), "worker-1");
    (cluster, shim, gateway)
}

/// Both forms carry bytes, and the node is told who asks, for what, with a grant.
#[tokio::test]
async fn a_forward_goes_through_in_the_form_that_it_came_in() {
    let (_cluster, shim, gateway) = all(&[]).await;
    for (form, upgrade) in [(websocket(), "websocket"), (raw(), "sternline")] {
        let (fields, mut io) = gateway.proxy.forward(FORWARD, &form).await.expect("a 101");
        assert_eq!(fields["upgrade"], upgrade);
        io.write_all(b"bytes of a tunnel").await.expect("taken");
        let mut back = [0; 17];
        io.read_exact(&mut back).await.expect("sent back");
        assert_eq!(&back, b"bytes of a tunnel");
    }
    let (calls, streams) = shim.with(|state| (state.calls.clone(), state.streams.clone()));
    let pod = pb::Pod {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        uid: "u1".to_owned(),
    };
    let by = calls[0].target.clone().expect("one").by;
    assert_eq!(by, Some(pb::target::By::Pod(pod.clone())));
    assert_eq!(calls[0].listeners[0].port, 9003);
    assert_eq!(calls[0].options.clone().expect("some").hold_ms, 30_000);
    let requester = calls[0].requester.clone().expect("one");
    assert_eq!(
        (requester.user.as_str(), requester.uid.as_str()),
        ("ada", "7")
    );
    assert_eq!(requester.groups, ["dev"]);
    let (path, fields) = &streams[0];
    assert_eq!(path, "/v1alpha1/sessions/token-1");
    assert_eq!(fields["sec-websocket-key"], "dGhlIHNhbXBsZSBub25jZQ==");
    assert!(fields.get("x-remote-user").is_none(), "{fields:?}");
    let grant = Shim::grant(fields);
    assert_eq!((grant.node.as_str(), grant.pod), ("worker-1", Some(pod)));
}

/// Whoever comes back with a ticket makes no session, and has a new grant.
#[tokio::test]
async fn a_ticket_leads_to_the_session_that_is_there() {
    let (_cluster, shim, gateway) = all(&[]).await;
    let form = [&raw()[..], &[("sternline-ticket", "ticket-1")]].concat();
    let (_, mut io) = gateway.proxy.forward(FORWARD, &form).await.expect("a 101");
    io.write_all(b"x").await.expect("taken");
    io.read_exact(&mut [0]).await.expect("sent back");
    let (calls, streams) = shim.with(|state| (state.calls.len(), state.streams.clone()));
    assert_eq!(calls, 0);
    assert_eq!(streams[0].0, "/v1alpha1/sessions/ticket-1");
    assert!(streams[0].1.get("sternline-ticket").is_none());
    assert_eq!(
        Shim::grant(&streams[0].1).requester.expect("one").user,
        "ada"
    );
    assert_eq!(gateway.recorded("tunnel_start").await["resumed"], true);
}

/// Either end of a tunnel is the end of it, at the other side too.
#[tokio::test]
async fn whoever_closes_ends_it_for_both() {
    let (_cluster, shim, gateway) = all(&[]).await;
    let (_, io) = gateway.proxy.forward(FORWARD, &raw()).await.expect("a 101");
    drop(io);
    let ended = gateway.recorded("tunnel_end").await;
    assert_eq!(ended["end"], "client_closed");
    shim.is_left().await;

    let (_cluster, shim, gateway) = all(&[]).await;
    shim.with(|state| state.hang_up_after = Some(5));
    let (_, mut io) = gateway.proxy.forward(FORWARD, &raw()).await.expect("a 101");
    io.write_all(b"bytes").await.expect("taken");
    let mut said = String::new();
    let read = timeout(LONG, io.read_to_string(&mut said)).await;
    read.expect("in time").expect("ended in order");
    assert_eq!(said, "bytes");
    assert_eq!(gateway.recorded("tunnel_end").await["end"], "node_closed");
}

/// The audit log says who, where, how much and how long.
#[tokio::test]
async fn what_was_carried_is_recorded() {
    let (_cluster, _shim, gateway) = all(&[]).await;
    let (_, mut io) = gateway.proxy.forward(FORWARD, &raw()).await.expect("a 101");
    io.write_all(&[7; 1000]).await.expect("taken");
    io.read_exact(&mut [0; 1000]).await.expect("sent back");
    drop(io);
    let started = gateway.recorded("tunnel_start").await;
    let ended = gateway.recorded("tunnel_end").await;
    for record in [&started, &ended] {
        assert_eq!(record["requester"]["user"], "ada");
        assert_eq!(
            record["pod"],
            json!({"namespace": "shop", "name": "web-0", "uid": "u1"})
        );
        assert_eq!(record["listeners"], json!([{"address": "", "port": 9003}]));
        assert_eq!(
            (&record["session_id"], &record["node"]),
            (&json!("s1"), &json!("worker-1"))
        );
        assert_eq!(record["resumed"], false);
    }
    let bytes = (&ended["bytes_from_node"], &ended["bytes_to_node"]);
    assert_eq!(bytes, (&json!(1000), &json!(1000)));
    let text = format!("{started}{ended}");
    assert!(!text.contains("token-1"), "{text}");
}

/// Whoever goes away while the node is still asked is recorded too.
#[tokio::test]
async fn whoever_goes_away_too_soon_is_recorded() {
    let cluster = Cluster::installed();
    let (shim, listener) = Shim::bind().await;
    cluster.with_pod(shim.address.ip());
    let port = shim.address.port().to_string();
    let gateway = Gateway::start(&cluster, &["--shim-port", &port]).await;
    let form = raw();
    // Connected to, the node says nothing.
    let _silent = tokio::select! {
        answer = gateway.proxy.forward(FORWARD, &form) => panic!("{:?}", answer.map(drop)),
        connected = timeout(LONG, listener.accept()) => connected.expect("in time"),
    };
    let abandoned = gateway.recorded("abandoned").await;
    assert_eq!(abandoned["requester"]["user"], "ada");
    assert_eq!(abandoned["node"], "worker-1");
    assert!(abandoned.get("end").is_none(), "{abandoned}");
}

/// Told to go, a gateway lets tunnels go on for a while, and then ends them.
#[tokio::test]
async fn a_gateway_that_goes_ends_its_tunnels_at_last() {
    let (_cluster, shim, gateway) = all(&["--drain-timeout", "8s"]).await;
    let (_, mut io) = gateway.proxy.forward(FORWARD, &raw()).await.expect("a 101");
    gateway.order().await;
    sleep(Duration::from_millis(200)).await;
    io.write_all(b"x").await.expect("taken");
    io.read_exact(&mut [0]).await.expect("it goes on for now");
    let ended = timeout(LONG, io.read(&mut [0])).await.expect("in time");
    assert!(matches!(ended, Ok(0)), "{ended:?}");
    assert_eq!(gateway.recorded("tunnel_end").await["end"], "draining");
    shim.is_left().await;
    gateway.gone().await;
}

/// Many at once, through one gateway.
#[tokio::test]
async fn many_tunnels_at_once_do_not_mix() {
    let (_cluster, shim, gateway) = all(&[]).await;
    let mut tunnels = Vec::new();
    for _ in 0..50 {
        let (_, io) = gateway.proxy.forward(FORWARD, &raw()).await.expect("a 101");
        tunnels.push(io);
    }
    for (number, io) in tunnels.iter_mut().enumerate() {
        let sent = vec![u8::try_from(number).expect("small"); 3000];
        io.write_all(&sent).await.expect("taken");
        let mut back = vec![0; 3000];
        io.read_exact(&mut back).await.expect("sent back");
        assert!(sent == back, "tunnel {number}");
    }
    drop(tunnels);
    shim.is_left().await;
}
