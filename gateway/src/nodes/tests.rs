use super::*;
use crate::authority::Keyring;
use crate::kube::fake::Fake;
use http_body_util::Full;
use hyper::body::Frame;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use std::pin::Pin;
use std::task::{Context, Poll};
use x509_parser::prelude::{FromDer as _, X509Certificate};

const POD: &str = "/api/v1/namespaces/sternline/pods/shim-x";

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

fn pod() -> Value {
    json!({
        "metadata": {"name": "shim-x", "uid": "u1", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "sternline-shim", "controller": true},
        ]},
        "spec": {"nodeName": "worker-1"},
    })
}

fn verdict() -> Value {
    json!({
        "authenticated": true,
        "audiences": ["sternline-gateway"],
        "user": {
            "username": "system:serviceaccount:sternline:sternline-shim",
            "extra": {
                "authentication.kubernetes.io/pod-name": ["shim-x"],
                "authentication.kubernetes.io/pod-uid": ["u1"],
            },
        },
    })
}

fn nodes(fake: &Arc<Fake>) -> Nodes {
    let lifetimes = Lifetimes::default();
    let ring = Arc::new(Keyring::generate(now(), &lifetimes).expect("a root"));
    let material = Material::issue(ring, &["g.n.svc".to_owned()], now(), &lifetimes);
    let material = Arc::new(material.expect("issued"));
    Nodes {
        api: Arc::clone(fake) as Arc<dyn Api>,
        namespace: "sternline".to_owned(),
        shims: "sternline-shim".to_owned(),
        material: watch::Sender::new(Some(material)).subscribe(),
        lifetimes,
        room: Semaphore::new(AT_ONCE),
    }
}

/// A cluster that says so of the token `t` and of the pod.
fn cluster(verdict: Value, pod: Option<Value>) -> Arc<Fake> {
    let fake = Fake::default();
    fake.answers(REVIEWS, move |review| {
        assert_eq!(
            review["spec"],
            json!({"token": "t", "audiences": ["sternline-gateway"]})
        );
        json!({"status": verdict})
    });
    if let Some(pod) = pod {
        fake.put(POD, pod);
    }
    Arc::new(fake)
}

fn key_and_request() -> (KeyPair, String) {
    let key = KeyPair::generate().expect("a key");
    // It would like to be another.
    let params = CertificateParams::new(vec!["worker-9.node.reverse.sternline.dev".to_owned()]);
    let request = params
        .expect("a name")
        .serialize_request(&key)
        .expect("one");
    (key, request.pem().expect("PEM"))
}

fn post(body: &str, token: Option<&str>) -> Request<Full<Bytes>> {
    let mut request = Request::post(PATH);
    if let Some(token) = token {
        request = request.header("authorization", token);
    }
    request
        .body(Full::from(body.to_owned()))
        .expect("a request")
}

async fn asked(fake: &Arc<Fake>) -> Result<Certificate, Status> {
    let request = post(&key_and_request().1, Some("Bearer t"));
    nodes(fake).certify(request, now()).await
}

#[tokio::test]
async fn a_shim_has_a_certificate_for_its_node_and_its_key() {
    let fake = cluster(verdict(), Some(pod()));
    let (key, request) = key_and_request();
    let certificate = nodes(&fake)
        .certify(post(&request, Some("Bearer t")), now())
        .await;
    let answer: Value =
        serde_json::from_slice(&certificate.expect("signed").to_json()).expect("JSON");
    assert_eq!(answer["notAfter"], "2033-05-19T03:33:20.000000Z");
    let pem = answer["certificate"].as_str().expect("PEM");
    let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
    let (_, parsed) = X509Certificate::from_der(&leaf).expect("DER");
    assert_eq!(
        parsed.public_key().raw,
        rcgen::PublicKeyData::subject_public_key_info(&key)
    );
    let names = parsed
        .subject_alternative_name()
        .expect("sound")
        .expect("some");
    let names = format!("{:?}", names.value.general_names);
    assert!(
        names.contains("worker-1.node.reverse.sternline.dev"),
        "{names}"
    );
    assert!(!names.contains("worker-9"), "{names}");
}

#[tokio::test]
async fn whoever_is_no_shim_has_none() {
    let with = |change: fn(&mut Value)| {
        let mut verdict = verdict();
        change(&mut verdict);
        cluster(verdict, Some(pod()))
    };
    let on = |change: fn(&mut Value)| {
        let mut pod = pod();
        change(&mut pod);
        cluster(verdict(), Some(pod))
    };
    for (fake, code) in [
        (with(|v| v["authenticated"] = json!(false)), 401),
        (
            with(|v| v["audiences"] = json!(["https://kubernetes.default.svc"])),
            401,
        ),
        (with(|v| v["audiences"] = json!([])), 401),
        (
            with(|v| v["user"]["username"] = json!("system:serviceaccount:shop:sternline-shim")),
            403,
        ),
        (
            with(|v| v["user"]["username"] = json!("system:serviceaccount:sternline:default")),
            403,
        ),
        (with(|v| v["user"]["extra"] = json!({})), 403),
        (
            with(|v| v["user"]["extra"]["authentication.kubernetes.io/pod-uid"] = json!(["u2"])),
            403,
        ),
        (cluster(verdict(), None), 403),
        (on(|p| p["metadata"]["ownerReferences"] = json!([])), 403),
        (
            on(|p| p["metadata"]["ownerReferences"][0]["kind"] = json!("ReplicaSet")),
            403,
        ),
        (
            on(|p| p["metadata"]["ownerReferences"][0]["name"] = json!("other")),
            403,
        ),
        (
            on(|p| p["metadata"]["ownerReferences"][0]["apiVersion"] = json!("evil/v1")),
            403,
        ),
        (on(|p| p["spec"] = json!({})), 403),
    ] {
        let refused = asked(&fake).await.expect_err("refused");
        assert_eq!(refused.code, code, "{}", refused.message);
    }
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let fake = cluster(verdict(), Some(pod()));
    let nodes = nodes(&fake);
    for (body, token, code) in [
        ("nonsense".to_owned(), Some("Bearer t"), 400),
        ("x".repeat(LONGEST + 1), Some("Bearer t"), 400),
        (key_and_request().1, None, 401),
        (key_and_request().1, Some("Basic t"), 401),
    ] {
        let refused = nodes.certify(post(&body, token), now()).await;
        assert_eq!(refused.expect_err("refused").code, code);
    }
    let get = Request::get(PATH)
        .body(Full::<Bytes>::default())
        .expect("a request");
    assert_eq!(
        nodes.certify(get, now()).await.expect_err("refused").code,
        405
    );
}

/// A body that never comes.
struct Stalled;

impl Body for Stalled {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Pending
    }
}

#[tokio::test]
async fn who_sends_nothing_keeps_nobody_out() {
    let fake = cluster(verdict(), Some(pod()));
    let nodes = Nodes {
        room: Semaphore::new(1),
        ..nodes(&fake)
    };
    let stalled = Request::post(PATH).header("authorization", "Bearer x");
    let stalled = nodes.certify(stalled.body(Stalled).expect("a request"), now());
    let request = post(&key_and_request().1, Some("Bearer t"));
    tokio::select! {
        biased;
        _ = stalled => panic!("nothing came"),
        certified = nodes.certify(request, now()) => drop(certified.expect("a place")),
    }
}

#[tokio::test(start_paused = true)]
async fn a_crowd_waits_outside() {
    let fake = cluster(verdict(), Some(pod()));
    let nodes = Nodes {
        room: Semaphore::new(0),
        ..nodes(&fake)
    };
    let request = post(&key_and_request().1, Some("Bearer t"));
    assert_eq!(
        nodes.certify(request, now()).await.expect_err("full").code,
        429
    );
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn without_the_kubernetes_api_nobody_is_believed() {
    let fake = cluster(verdict(), Some(pod()));
    fake.set_down(true);
    assert_eq!(asked(&fake).await.expect_err("down").code, 503);
}
