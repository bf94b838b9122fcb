//! The gateway and a real shim, from the shim's certificate to a connection's
//! bytes; only the Kubernetes API and the namespace are made up.

use crate::forward::raw;
use crate::support::binder::FakeBinder;
use crate::support::client::Asker;
use crate::support::cluster::{Cluster, Gateway, MAP};
use crate::support::tunnel::Tunnel;
use crate::support::until;
use clap::Parser as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;
use sternline_gateway::authority::{Lifetimes, Profile};
use sternline_shim::app::App;
use sternline_shim::config::{Cli, Command};
use sternline_shim::drain::{Order, Orders};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

const FORWARD: &str = "/apis/reverse.sternline.dev/v1alpha1/namespaces/shop/pods/web-0/portforward?listen=127.0.0.1:0&hold=1m";

/// The gateway is known by the name of its Service, which leads nowhere here: stands
/// at an address for it.
async fn stand_in(listener: TcpListener, cluster: &Cluster, gateway: Asker) {
    let ring = cluster.ring();
    let profile = Profile::Gateway(vec!["127.0.0.1".to_owned()]);
    let identity = ring.identity(&profile, SystemTime::now(), &Lifetimes::default());
    let identity = identity.expect("signed");
    let chain = CertificateDer::pem_slice_iter(identity.issued.certificate.as_bytes());
    let chain = chain.collect::<Result<_, _>>().expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    while let Ok((io, _)) = listener.accept().await {
        let (acceptor, gateway) = (acceptor.clone(), gateway.clone());
        tokio::spawn(async move {
            let Ok(mut node) = acceptor.accept(io).await else {
                return;
            };
            let mut gateway = gateway.connect().await.expect("there");
            let _ = tokio::io::copy_bidirectional(&mut node, &mut gateway).await;
        });
    }
}

struct Whole {
    cluster: Cluster,
    gateway: Gateway,
    orders: mpsc::Sender<Order>,
    _dir: tempfile::TempDir,
}

/// A cluster, a gateway, and a shim on node `worker-1` that has its certificate.
async fn whole() -> Whole {
    let cluster = Cluster::installed();
    cluster.with_pod("127.0.0.1".parse().expect("an address"));
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "sternline-shim", "controller": true,
    });
    let pod = json!({
        "metadata": {"uid": "u9", "ownerReferences": [owner]},
        "spec": {"nodeName": "worker-1"},
    });
    cluster
        .api
        .put("/api/v1/namespaces/sternline/pods/shim-x", pod);
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    cluster.api.answers(reviews, |review| {
        json!({"status": {
            "authenticated": review["spec"]["token"] == "shims-token",
            "audiences": ["sternline-gateway"],
            "user": {
                "username": "system:serviceaccount:sternline:sternline-shim",
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["shim-x"],
                    "authentication.kubernetes.io/pod-uid": ["u9"],
                },
            },
        }})
    });
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("token"), "shims-token").expect("written");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let enrolment = listener.local_addr().expect("an address");
    let app = shim(&path("s.sock"), enrolment, &path("token"), &path("ca.crt")).await;
    let port = app.addresses.cluster.expect("a port").port().to_string();
    let gateway = Gateway::start(&cluster, &["--shim-port", &port]).await;
    let bundle = cluster.api.object(MAP)["data"]["ca.crt"].clone();
    std::fs::write(path("ca.crt"), bundle.as_str().expect("a bundle")).expect("written");
    let asker = gateway.stranger.clone();
    let ring = Cluster {
        api: Arc::clone(&cluster.api),
        proxy: cluster.proxy.clone(),
    };
    tokio::spawn(async move { stand_in(listener, &ring, asker).await });
    let (orders, taken) = Orders::channel();
    tokio::spawn(app.run(taken));
    Whole {
        cluster,
        gateway,
        orders,
        _dir: dir,
    }
}

async fn shim(socket: &str, gateway: SocketAddr, token: &str, bundle: &str) -> App {
    let gateway = format!("https://{gateway}");
    let words = [
        ["sternline-shim", "serve"],
        ["--standalone", "--socket"],
        [socket, "--cluster-address"],
        ["127.0.0.1:0", "--gateway"],
        [&gateway, "--gateway-token"],
        [token, "--authority-bundle"],
        [bundle, "--node-name"],
        ["worker-1", "--drain-timeout"],
    ];
    let words = words.concat().into_iter().chain(["0s"]);
    let Command::Serve(config) = Cli::parse_from(words).command else {
        unreachable!("serve was asked for");
    };
    let app = App::bind_with(*config, FakeBinder::new()).await;
    app.expect("everything can be bound")
}

/// A shim gets its certificate; a forward listens at its node; a connection comes
/// out at the client; the client is lost, and comes back with its ticket.
#[tokio::test(flavor = "multi_thread")]
async fn a_forward_works_from_end_to_end_and_comes_back() {
    let whole = whole().await;
    let open = async || whole.gateway.proxy.forward(FORWARD, &raw()).await;
    // Until the shim has its certificate nobody gets in.
    let (_, io) = until(async || open().await.ok()).await;
    let mut tunnel = Tunnel::serve(io).await;
    assert_eq!(tunnel.ready.hold_ms, 60_000);
    let bound = tunnel.ready.bound[0].clone();
    let address = (
        bound.address.as_str(),
        u16::try_from(bound.port).expect("a port"),
    );
    carries(&mut tunnel, address).await;

    let (session, tickets) = (
        tunnel.ready.session_id.clone(),
        tunnel.ready.tickets.clone(),
    );
    drop(tunnel);
    let ticket = tickets.expect("some").resume;
    let fields = [&raw()[..], &[("sternline-ticket", ticket.as_str())]].concat();
    let (_, io) = whole
        .gateway
        .proxy
        .forward(FORWARD, &fields)
        .await
        .expect("a 101");
    let mut tunnel = Tunnel::serve(io).await;
    assert_eq!(tunnel.ready.session_id, session);
    assert_eq!(tunnel.ready.bound[0], bound, "it listened all the while");
    carries(&mut tunnel, address).await;

    // Another user has the ticket, and the right to forward, and still not this.
    let ticket = tunnel.ready.tickets.clone().expect("some").resume;
    whole.cluster.api.answers(
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        |_| json!({"status": {"allowed": true}}),
    );
    let mut fields = [&raw()[..], &[("sternline-ticket", ticket.as_str())]].concat();
    fields[0].1 = "eve";
    let refused = whole.gateway.proxy.forward(FORWARD, &fields).await;
    let (code, status) = refused.expect_err("another user");
    assert!([403, 404].contains(&code), "{status}");
    carries(&mut tunnel, address).await;

    // Ends with the shim, and the client learns of it.
    whole.orders.send(Order::End).await.expect("told");
    let ended = whole.gateway.recorded("tunnel_end").await;
    assert!(ended["bytes_from_node"].as_u64() > Some(0), "{ended}");
}

/// What a process in the pod says, and what it is answered, arrives.
async fn carries(tunnel: &mut Tunnel, address: (&str, u16)) {
    let mut pod = TcpStream::connect(address).await.expect("it listens");
    pod.write_all(b"from the pod").await.expect("taken");
    pod.shutdown().await.expect("half closed");
    assert_eq!(tunnel.answer(b"from the client").await, b"from the pod");
    let mut heard = String::new();
    tunnel
        .drive(pod.read_to_string(&mut heard))
        .await
        .expect("in order");
    assert_eq!(heard, "from the client");
}
