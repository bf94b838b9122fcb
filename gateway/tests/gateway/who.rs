//! Who is believed to be whom.

use crate::support::client::read;
use crate::support::cluster::{Cluster, Gateway, MAP};
use crate::support::pki::Authority;
use crate::support::until;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

pub(crate) const FORWARD: &str =
    "/apis/reverse.sternline.dev/v1alpha1/namespaces/shop/pods/web-0/portforward?listen=9003";

/// Whoever has no certificate of the front proxy is nobody, whatever it says.
#[tokio::test]
async fn forged_identity_is_refused() {
    let cluster = Cluster::installed();
    let gateway = Gateway::start(&cluster, &[]).await;
    let fields = [
        ("X-Remote-User", "system:admin"),
        ("X-Remote-Group", "system:masters"),
    ];
    let other = Authority::new("another-ca").issue("front-proxy");
    for asker in [&gateway.stranger, &gateway.stranger.showing(&other)] {
        let (code, status) = asker.get(FORWARD, &fields).await;
        assert_eq!(
            (code, &status["reason"]),
            (401, &json!("Unauthorized")),
            "{status}"
        );
        assert_eq!(status["kind"], "Status");
    }
    let (code, status) = gateway.proxy.get(FORWARD, &[]).await;
    assert_eq!(code, 401, "the proxy names nobody: {status}");
    let (code, _) = gateway.proxy.get(FORWARD, &fields).await;
    assert_ne!(code, 401, "the proxy is believed");
}

/// What every client of the cluster reads depends on nobody's identity.
#[tokio::test]
async fn discovery_and_health_need_no_identity() {
    let cluster = Cluster::installed();
    let gateway = Gateway::start(&cluster, &[]).await;
    for path in ["/healthz", "/livez", "/readyz"] {
        let (code, body) = gateway.stranger.get(path, &[]).await;
        assert_eq!((code, body), (200, json!("ok\n")), "{path}");
    }
    for path in [
        "/apis",
        "/apis/reverse.sternline.dev",
        "/apis/reverse.sternline.dev/v1alpha1",
        "/apis/reverse.sternline.dev/v1alpha1?timeout=32s",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/apis/reverse.sternline.dev/v1alpha1",
        "/version",
    ] {
        let (code, body) = gateway.stranger.get(path, &[]).await;
        assert_eq!(code, 200, "{path}");
        assert!(body.is_object(), "{path}");
    }
    let (code, status) = gateway.stranger.get("/api/v1/secrets", &[]).await;
    assert_eq!((code, &status["reason"]), (404, &json!("NotFound")));
}

/// The authority of the front proxy changes while the gateway runs.
#[tokio::test]
async fn a_front_proxy_with_a_new_authority_is_believed() {
    let cluster = Cluster::installed();
    let gateway = Gateway::start(&cluster, &[]).await;
    let authority = Authority::new("its-successor");
    cluster.trust(&authority);
    let proxy = gateway.stranger.showing(&authority.issue("front-proxy"));
    let fields = [("X-Remote-User", "ada")];
    assert_ne!(proxy.get(FORWARD, &fields).await.0, 401);
    assert_eq!(
        gateway.proxy.get(FORWARD, &fields).await.0,
        401,
        "the old one"
    );
    let named = gateway.stranger.showing(&authority.issue("somebody-else"));
    assert_eq!(
        named.get(FORWARD, &fields).await.0,
        401,
        "its name is not allowed"
    );
}

/// Each group is a field of the request.
#[tokio::test]
async fn a_user_may_have_many_groups() {
    let cluster = Cluster::installed();
    let gateway = Gateway::start(&cluster, &[]).await;
    let groups: Vec<String> = (0..1000).map(|n| format!("company:team:{n:060}")).collect();
    let mut fields = vec![("X-Remote-User", "ada")];
    fields.extend(
        groups
            .iter()
            .map(|group| ("X-Remote-Group", group.as_str())),
    );
    let (code, status) = gateway.proxy.get(FORWARD, &fields).await;
    assert!(![401, 431].contains(&code), "{status}");
}

/// Whoever connects and says nothing shuts nobody out.
#[tokio::test]
async fn silent_strangers_make_room() {
    let cluster = Cluster::installed();
    let gateway = Gateway::start(&cluster, &["--max-connections", "8"]).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(
            TcpStream::connect(gateway.stranger.address)
                .await
                .expect("taken"),
        );
    }
    let (code, _) = gateway.proxy.get("/readyz", &[]).await;
    assert_eq!(code, 200);
    let mut first = silent.remove(0);
    let ended = first.read(&mut [0; 1]).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "the oldest was closed");
}

/// Certificates and roots change under clients that read the bundle.
#[tokio::test]
async fn certificates_are_renewed_while_it_serves() {
    let cluster = Cluster::installed();
    let flags = [
        "--root-lifetime",
        "24s",
        "--overlap",
        "8s",
        "--certificate-lifetime",
        "8s",
    ];
    let gateway = Gateway::start(&cluster, &flags).await;
    let mut seen = Vec::new();
    until(async || {
        let mut asker = gateway.stranger.clone();
        let map = cluster.api.object(MAP);
        asker.bundle = map["data"]["ca.crt"].as_str().expect("a bundle").to_owned();
        let io = asker
            .connect()
            .await
            .expect("it is trusted at every moment");
        let chain = io.get_ref().1.peer_certificates().expect("one").to_vec();
        if seen.last() != Some(&chain) {
            seen.push(chain);
        }
        (seen.len() > 2).then_some(())
    })
    .await;
}

/// Told to go, it says so to probes, and goes once nothing is left.
#[tokio::test]
async fn told_to_go_it_is_ready_no_more_and_goes() {
    let cluster = Cluster::installed();
    let gateway = Gateway::start(&cluster, &["--drain-timeout", "1h"]).await;
    gateway.order().await;
    let said = until(async || {
        let (code, said) = gateway.stranger.get("/readyz", &[]).await;
        (code == 503).then_some(said)
    });
    assert_eq!(said.await, json!("this gateway is shutting down\n"));
    assert_eq!(
        gateway.stranger.get("/apis", &[]).await.0,
        200,
        "still served"
    );
    gateway.gone().await;
}

/// A shim shows its token at the same port, beside the API, and becomes its node.
#[tokio::test]
async fn a_shim_gets_the_certificate_of_its_node() {
    let cluster = Cluster::installed();
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    cluster.api.answers(reviews, |review| {
        let valid = review["spec"]["token"] == "shims-token";
        json!({"status": {
            "authenticated": valid,
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
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "sternline-shim", "controller": true,
    });
    let pod = json!({
        "metadata": {"uid": "u9", "ownerReferences": [owner]},
        "spec": {"nodeName": "worker-7"},
    });
    cluster
        .api
        .put("/api/v1/namespaces/sternline/pods/shim-x", pod);
    let gateway = Gateway::start(&cluster, &[]).await;
    let key = rcgen::KeyPair::generate().expect("a key");
    let request = rcgen::CertificateParams::default().serialize_request(&key);
    let request = request.and_then(|request| request.pem()).expect("PEM");
    for (token, code) in [("shims-token", 200), ("another", 401)] {
        let request = http::Request::post("/v1alpha1/node-certificate")
            .header("host", "gateway")
            .header("authorization", format!("Bearer {token}"))
            .body(request.clone().into())
            .expect("a request");
        let (answered, body) = read(gateway.stranger.send(request).await).await;
        assert_eq!(answered, code, "{body}");
        if code == 200 {
            let certificate = body["certificate"].as_str().expect("PEM");
            assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----"));
            assert!(body["notAfter"].is_string());
        }
    }
}
