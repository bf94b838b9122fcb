//! The built program, beside a Kubernetes API over TLS.

use crate::support::client::Asker;
use crate::support::cluster::{Cluster, MAP};
use crate::support::pki::Authority;
use crate::support::{Fake, LONG, until};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use sternline_gateway::kube::{Api as _, ApiError, Ask, Client, Place, Verb};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;

/// Serves what `api` has, to who shows this token; counts connections.
async fn serve(
    api: Arc<Fake>,
    authority: &Authority,
    token: &'static str,
) -> (SocketAddr, Arc<AtomicU32>) {
    let pair = authority.issue("kubernetes");
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes());
    let chain = chain.collect::<Result<_, _>>().expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let connections = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            count.fetch_add(1, SeqCst);
            let (api, acceptor) = (Arc::clone(&api), acceptor.clone());
            tokio::spawn(async move {
                let Ok(io) = acceptor.accept(io).await else {
                    return;
                };
                let service = service_fn(|request| {
                    let api = Arc::clone(&api);
                    async move { Ok::<_, Infallible>(answer(&api, request, token).await) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(io), service)
                    .await;
            });
        }
    });
    (address, connections)
}

/// A kubeconfig for that, in a directory.
fn kubeconfig(dir: &Path, server: SocketAddr, authority: &Authority) -> PathBuf {
    let path = dir.join("config");
    let config = json!({
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://{server}"),
            "tls-server-name": "kubernetes",
            "certificate-authority-data": BASE64_STANDARD.encode(authority.pem()),
        }}],
        "users": [{"name": "u", "user": {"token": "secret-token"}}],
    });
    std::fs::write(&path, config.to_string()).expect("written");
    path
}

async fn answer(api: &Fake, request: Request<Incoming>, token: &str) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let bearer = head
        .headers
        .get("authorization")
        .map(|value| value.as_bytes());
    let body = body.collect().await.expect("a body").to_bytes();
    let verb = match head.method {
        Method::GET => Verb::Get,
        Method::POST => Verb::Create,
        Method::PUT => Verb::Replace,
        _ => Verb::Merge,
    };
    let ask = Ask {
        verb,
        path: head.uri.to_string(),
        body: serde_json::from_slice(&body).ok(),
    };
    let (code, body) = if bearer != Some(format!("Bearer {token}").as_bytes()) {
        (401, json!({"message": "who are you?"}))
    } else {
        match api.send(ask).await {
            Ok(found) => (200, found),
            Err(ApiError::Refused { code, message, .. }) => (code, json!({"message": message})),
            Err(other) => (500, json!({"message": other.to_string()})),
        }
    };
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).expect("a status");
    response
}

#[tokio::test]
async fn the_program_serves_and_goes_when_it_is_told() {
    let cluster = Cluster::installed();
    let authority = Authority::new("kubernetes-ca");
    let (server, _) = serve(Arc::clone(&cluster.api), &authority, "secret-token").await;
    let dir = tempfile::tempdir().expect("a directory");
    let ready = dir.path().join("ready");
    let kubeconfig = kubeconfig(dir.path(), server, &authority);
    let mut program = Command::new(env!("CARGO_BIN_EXE_sternline-gateway"));
    program
        .args(["serve", "--address", "127.0.0.1:0", "-vv"])
        .args([
            "--metrics-address",
            "127.0.0.1:0",
            "--namespace",
            "sternline",
        ])
        .args(["--drain-timeout", "0s", "--kubeconfig"])
        .arg(&kubeconfig)
        .arg("--ready-file")
        .arg(&ready)
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let program = program.spawn().expect("started");
    let written = until(async || std::fs::read(&ready).ok()).await;
    let written: Value = serde_json::from_slice(&written).expect("JSON");
    let address = |field: &str| written[field].as_str().expect(field).parse().expect(field);
    let map = cluster.api.object(MAP);
    let asker = Asker {
        address: address("address"),
        bundle: map["data"]["ca.crt"].as_str().expect("a bundle").to_owned(),
        name: "sternline-gateway.sternline.svc".to_owned(),
        pair: None,
    };
    assert_eq!(asker.get("/apis", &[]).await.0, 200);
    let metrics: SocketAddr = address("metrics");
    let page = clear_text(metrics).await;
    assert!(
        page.contains("sternline_gateway_handshakes_total{result=\"ok\"}"),
        "{page}"
    );

    let pid = program.id().expect("running").to_string();
    let told = Command::new("kill").arg(&pid).status().await.expect("kill");
    assert!(told.success());
    let output = tokio::time::timeout(LONG, program.wait_with_output()).await;
    let output = output.expect("in time").expect("ended");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(!ready.exists(), "the ready file goes with it");
    for secret in ["secret-token", "PRIVATE"] {
        assert!(!log.contains(secret), "{log}");
    }
}

async fn clear_text(address: SocketAddr) -> String {
    let io = tokio::net::TcpStream::connect(address)
        .await
        .expect("connected");
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(io)).await;
    let (mut sender, connection) = shaken.expect("HTTP/1.1");
    tokio::spawn(connection);
    let request = Request::get("/metrics").header("host", "m");
    let request = request.body(Full::<Bytes>::default()).expect("a request");
    let page = sender.send_request(request).await.expect("an answer");
    let page = page.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8_lossy(&page).into_owned()
}

#[tokio::test]
async fn without_a_cluster_it_says_what_to_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_sternline-gateway"))
        .args(["--address", "127.0.0.1:0"])
        .env_clear()
        .output()
        .await
        .expect("ran");
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("--kubeconfig"), "{log}");
}

/// What is asked one after the other goes over one connection.
#[tokio::test]
async fn connections_to_the_kubernetes_api_are_kept() {
    let cluster = Cluster::installed();
    let authority = Authority::new("kubernetes-ca");
    let (server, connections) = serve(Arc::clone(&cluster.api), &authority, "secret-token").await;
    let dir = tempfile::tempdir().expect("a directory");
    let config = kubeconfig(dir.path(), server, &authority);
    let client = Client::new(Place::from_kubeconfig(&config).expect("sound"));
    for _ in 0..5 {
        client.send(Ask::get(MAP)).await.expect("there");
    }
    let missing = client
        .send(Ask::get("/nowhere"))
        .await
        .expect_err("not there");
    assert!(missing.is_not_found(), "{missing}");
    assert_eq!(connections.load(SeqCst), 1);
}
