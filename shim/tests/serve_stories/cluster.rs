//! The port that gateways come to.

use crate::support::client::{self, upgrade};
use crate::support::gateway::{Gateway, listeners, pod, requester};
use crate::support::node::{Call, refusal};
use crate::support::{self, Client, Head, Node, Stream, eventually, free, head_of, within};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use sternline_api::grant::to_header;
use sternline_api::protocol::GRANT_HEADER;
use sternline_api::v1alpha1::{self as pb, Grant};
use tonic::Code;

async fn start(gateway: &Gateway) -> (Node, SocketAddr) {
    let flags = gateway.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let node = Node::start(&flags).await;
    let port = node.cluster.expect("a port");
    (node, port)
}

/// A node that has its certificate, and the call of a gateway at it.
async fn enrolled(gateway: &Gateway) -> (Node, SocketAddr, Call) {
    let (node, port) = start(gateway).await;
    eventually("the certificate", async || certificate(&node).await).await;
    let call = Call::new(gateway.call(port).await);
    (node, port, call)
}

/// Whether Status says that the node has its certificate.
async fn certificate(node: &Node) -> bool {
    let status = node.call.clone().status(pb::StatusRequest {}).await;
    let conditions = status.expect("an answer").into_inner().conditions;
    let mut found = conditions.into_iter();
    found.any(|condition| condition.r#type == "ClusterCertificate" && condition.status)
}

fn request(gateway: &Gateway, grant: &Grant) -> pb::ReversePortForwardRequest {
    pb::ReversePortForwardRequest {
        target: Some(pb::Target {
            by: grant.pod.clone().map(pb::target::By::Pod),
        }),
        listeners: listeners(grant),
        requester: grant.requester.clone(),
        grant: gateway.sign(grant),
        options: Some(pb::SessionOptions {
            hold_ms: 30_000,
            ..pb::SessionOptions::default()
        }),
    }
}

async fn open(
    call: &mut Call,
    request: pb::ReversePortForwardRequest,
) -> Result<pb::ReversePortForwardResponse, (Code, String, String)> {
    let answer = within("the call", call.reverse_port_forward(request)).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| refusal(&status))
}

/// Brings a client to what is at the end of a path.
async fn bring(
    gateway: &Gateway,
    port: SocketAddr,
    path: &str,
    grant: Option<&Grant>,
) -> Result<Stream, Head> {
    let mut io = gateway.stream(port).await;
    let mut text = upgrade(path);
    if let Some(grant) = grant {
        let value = to_header(&gateway.sign(grant));
        text = text.replacen(
            "\r\n\r\n",
            &format!("\r\n{GRANT_HEADER}: {value}\r\n\r\n"),
            1,
        );
    }
    client::send(&mut io, &text).await;
    let head = head_of(&mut io).await;
    if head.status == 101 {
        Ok(io)
    } else {
        Err(head)
    }
}

fn path(url: &str) -> String {
    let rest = url.strip_prefix("https://worker-1.node.reverse.sternline.dev:");
    let at = rest.expect("the node's name").find('/').expect("a path");
    rest.expect("the node's name")[at..].to_owned()
}

/// A session by this grant, and its client.
async fn forward(gateway: &Gateway, port: SocketAddr, call: &mut Call, grant: &Grant) -> Client {
    let answer = open(call, request(gateway, grant)).await;
    let answer = answer.expect("a session");
    let io = bring(gateway, port, &path(&answer.url), Some(grant)).await;
    Client::serve(io.expect("101"), "first").await
}

#[tokio::test]
async fn a_gateway_opens_a_session_and_brings_its_client() {
    let gateway = Gateway::start().await;
    let (node, port, mut call) = enrolled(&gateway).await;
    let grant = gateway.grant(&pod("web"), "ada");
    let mut client = forward(&gateway, port, &mut call, &grant).await;
    let bound = client.ready().await.bound;
    let (greeting, _io) = support::pod(&bound[0]).await;
    assert!(!greeting.is_empty());
    let session = node.sessions().await.remove(0);
    assert_eq!(session.pod, grant.pod);
    assert_eq!(session.requester, grant.requester);
    client.goodbye().await;
    eventually("the end", async || node.at_rest()).await;
    assert_eq!(gateway.shown.load(Ordering::Relaxed), 1, "the token");
}

#[tokio::test]
async fn a_client_comes_back_with_a_new_grant_of_the_same_user_and_pod() {
    let gateway = Gateway::start().await;
    let (_node, port, mut call) = enrolled(&gateway).await;
    let grant = gateway.grant(&pod("web"), "ada");
    let mut client = forward(&gateway, port, &mut call, &grant).await;
    let ticket = client.ready().await.tickets.expect("some").resume;
    drop(client);
    let path = format!("/v1alpha1/sessions/{ticket}");
    let other_user = gateway.grant(&pod("web"), "bob");
    let other_pod = gateway.grant(&pod("db"), "ada");
    for grant in [None, Some(&other_user), Some(&other_pod)] {
        let head = bring(&gateway, port, &path, grant)
            .await
            .expect_err("refused");
        assert_eq!(
            (head.status, head.body["reason"].as_str()),
            (403, Some("forbidden"))
        );
    }
    let again = gateway.grant(&pod("web"), "ada");
    let io = bring(&gateway, port, &path, Some(&again)).await;
    let mut client = Client::serve(io.expect("101"), "second").await;
    client.ready().await;
    // What is added stands on the new grant, and is inside it.
    client.add(1, 7, free());
    assert_eq!(client.changed().await.error, "");
    for (request, outside) in [
        (2, support::at("127.0.0.1", 9)),
        (3, support::at("127.0.0.2", 0)),
    ] {
        client.add(request, 8, outside);
        assert_eq!(client.changed().await.error, "forbidden");
    }
}

#[tokio::test]
async fn who_may_no_longer_have_what_listens_does_not_come_back() {
    let gateway = Gateway::start().await;
    let (_node, port, mut call) = enrolled(&gateway).await;
    let grant = gateway.grant(&pod("web"), "ada");
    let mut client = forward(&gateway, port, &mut call, &grant).await;
    let ticket = client.ready().await.tickets.expect("some").resume;
    drop(client);
    let path = format!("/v1alpha1/sessions/{ticket}");
    let less = Grant {
        listeners: vec![support::at("127.0.0.2", 0)],
        ..gateway.grant(&pod("web"), "ada")
    };
    let shorter = Grant {
        max_hold_ms: 29_999,
        ..gateway.grant(&pod("web"), "ada")
    };
    for grant in [&less, &shorter] {
        let head = bring(&gateway, port, &path, Some(grant)).await;
        assert_eq!(head.expect_err("refused").status, 403);
    }
    let same = gateway.grant(&pod("web"), "ada");
    let io = bring(&gateway, port, &path, Some(&same)).await;
    io.expect("101");
}

#[tokio::test]
async fn what_is_not_granted_is_refused() {
    let gateway = Gateway::start().await;
    let (node, _port, mut call) = enrolled(&gateway).await;
    let good = || request(&gateway, &gateway.grant(&pod("web"), "ada"));
    let elsewhere = Grant {
        node: "worker-2".to_owned(),
        ..gateway.grant(&pod("web"), "ada")
    };
    let over = Grant {
        expires_at_ms: 1,
        ..gateway.grant(&pod("web"), "ada")
    };
    let ungranted = pb::ReversePortForwardRequest {
        grant: Vec::new(),
        ..good()
    };
    let other_pod = pb::ReversePortForwardRequest {
        target: request(&gateway, &gateway.grant(&pod("db"), "ada")).target,
        ..good()
    };
    let other_user = pb::ReversePortForwardRequest {
        requester: Some(requester("root")),
        ..good()
    };
    let more = pb::ReversePortForwardRequest {
        listeners: vec![support::at("127.0.0.1", 9)],
        ..good()
    };
    let longer = pb::ReversePortForwardRequest {
        options: Some(pb::SessionOptions {
            hold_ms: 60_001,
            ..Default::default()
        }),
        ..good()
    };
    let by_id = pb::ReversePortForwardRequest {
        target: support::request(&[]).target,
        ..good()
    };
    for (request, what) in [
        (request(&gateway, &elsewhere), "worker-2"),
        (request(&gateway, &over), "expired"),
        (ungranted, "missing"),
        (other_pod, "another pod or user"),
        (other_user, "another pod or user"),
        (more, "does not permit"),
        (longer, "permits a hold"),
        (by_id, "names the pod"),
    ] {
        let (code, word, sentence) = open(&mut call, request).await.expect_err(what);
        assert_eq!(
            (code, word.as_str()),
            (Code::PermissionDenied, "forbidden"),
            "{sentence}"
        );
        assert!(sentence.contains(what), "{sentence}");
    }
    let once = good();
    open(&mut call, once.clone()).await.expect("a session");
    let (_, _, sentence) = open(&mut call, once).await.expect_err("replayed");
    assert!(sentence.contains("once"), "{sentence}");
    let list = call.list_sessions(pb::ListSessionsRequest::default()).await;
    assert_eq!(
        list.expect_err("the node's own").code(),
        Code::PermissionDenied
    );
    let own = node.open(support::request(&[free()])).await;
    let stop = |session_id: String| pb::StopSessionRequest { session_id };
    let refused = call.stop_session(stop(own.session_id.clone())).await;
    let refused = refused.expect_err("the node's own");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let granted = node.sessions().await.into_iter().map(|one| one.session_id);
    let granted = granted
        .filter(|id| *id != own.session_id)
        .collect::<Vec<_>>();
    let stopped = call.stop_session(stop(granted[0].clone())).await;
    stopped.expect("one of a gateway's");
    assert_eq!(node.sessions().await.len(), 1);
}

#[tokio::test]
async fn sessions_of_the_node_and_of_gateways_are_apart() {
    let gateway = Gateway::start().await;
    let (node, port, mut call) = enrolled(&gateway).await;
    let grant = gateway.grant(&pod("web"), "ada");
    let answer = open(&mut call, request(&gateway, &grant))
        .await
        .expect("a session");
    let head = node
        .try_upgrade(
            &answer
                .url
                .replace(&answer.url[..answer.url.rfind('/').expect("one")], "")
                .replace('/', ""),
        )
        .await;
    assert_eq!(head.expect_err("refused").status, 403);
    let own = node.open(support::request(&[free()])).await;
    let head = bring(&gateway, port, &node.path(&own.url), Some(&grant)).await;
    assert_eq!(head.expect_err("refused").status, 403);
}

#[tokio::test]
async fn nobody_but_gateways_comes_in() {
    let gateway = Gateway::start().await;
    let (node, port, _call) = enrolled(&gateway).await;
    let stranger = support::tls::Authority::new().issue("127.0.0.1");
    let of_a_node = gateway
        .authority
        .node("worker-2.node.reverse.sternline.dev");
    for (identity, alpn) in [
        (None, "h2"),
        (None, "http/1.1"),
        (Some(&stranger), "h2"),
        (Some(&of_a_node), "h2"),
    ] {
        assert!(gateway.is_refused(port, identity, alpn).await, "{alpn}");
    }
    let refused =
        node.metric("sternline_streaming_handshakes_total{result=\"client_certificate\"}");
    assert_eq!(refused, 4.0);
}

#[tokio::test]
async fn the_token_is_shown_to_nobody_who_is_not_trusted() {
    let gateway = Gateway::impostor().await;
    let (node, port) = start(&gateway).await;
    // It came again, so that its first try is over.
    let tries = async || gateway.came.load(Ordering::Relaxed) >= 2;
    eventually("two tries", tries).await;
    assert_eq!(gateway.shown.load(Ordering::Relaxed), 0, "to an impostor");
    assert!(!certificate(&node).await);
    assert!(
        gateway.is_refused(port, None, "h2").await,
        "no certificate, no handshake"
    );
}
