use super::*;
use crate::kube::fake::Fake;
use serde_json::{Value, json};

const POD: &str = "/api/v1/namespaces/shop/pods/web-0";
const SHIMS: &str = "/api/v1/namespaces/sternline/pods?fieldSelector=spec.nodeName%3Dworker%2D1";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

fn pod() -> Value {
    json!({
        "metadata": {"name": "web-0", "namespace": "shop", "uid": "u1"},
        "spec": {"nodeName": "worker-1"},
        "status": {"phase": "Running", "podIP": "10.1.0.9"},
    })
}

fn shim(address: &str, ready: &str) -> Value {
    json!({
        "metadata": {"name": "s", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "sternline-shim", "controller": true},
        ]},
        "spec": {"nodeName": "worker-1"},
        "status": {
            "phase": "Running",
            "podIP": address,
            "conditions": [{"type": "Ready", "status": ready}],
        },
    })
}

fn cluster(pod: Option<Value>, shims: &[Value]) -> Arc<Fake> {
    let fake = Fake::default();
    fake.answers(
        REVIEWS,
        |review| json!({"status": {"allowed": review["spec"]["user"] == "ada"}}),
    );
    fake.put(
        "/api/v1/namespaces/shop",
        json!({"metadata": {"name": "shop"}}),
    );
    fake.put(
        "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies",
        json!({"items": []}),
    );
    fake.put(SHIMS, json!({"items": shims}));
    if let Some(pod) = pod {
        fake.put(POD, pod);
    }
    Arc::new(fake)
}

async fn route(fake: &Arc<Fake>, user: &str, query: &str) -> Result<Route, Failure> {
    let router = Router {
        api: Arc::clone(fake) as Arc<dyn Api>,
        namespace: "sternline".to_owned(),
        shims: "sternline-shim".to_owned(),
        port: 10251,
    };
    let asked = ForwardRequest::parse("shop", "web-0", query).expect(query);
    let user = User {
        name: user.to_owned(),
        ..User::default()
    };
    router.route(&user, &asked).await
}

async fn reason(pod: Value) -> Option<Reason> {
    let fake = cluster(Some(pod), &[shim("10.0.0.1", "True")]);
    let routed = route(&fake, "ada", "listen=80").await;
    routed.err().map(|failure| failure.reason)
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = pod();
    change(&mut pod);
    pod
}

#[tokio::test]
async fn a_pod_leads_to_the_shim_of_its_node() {
    let fake = cluster(Some(pod()), &[shim("10.0.0.1", "True")]);
    let routed = route(&fake, "ada", "listen=80&uid=u1")
        .await
        .expect("a way");
    assert_eq!(routed.node, "worker-1");
    assert_eq!(routed.shim, "10.0.0.1:10251".parse().expect("an address"));
    assert_eq!(routed.pod.uid, "u1");
    let v6 = cluster(Some(pod()), &[shim("fd00::1", "True")]);
    let routed = route(&v6, "ada", "listen=80").await.expect("a way");
    assert_eq!(routed.shim, "[fd00::1]:10251".parse().expect("an address"));
}

#[tokio::test]
async fn whoever_may_not_learns_nothing_about_the_pod() {
    let there = cluster(Some(pod()), &[shim("10.0.0.1", "True")]);
    let missing = cluster(None, &[]);
    let mut said = Vec::new();
    for fake in [there, missing] {
        let failure = route(&fake, "eve", "listen=80")
            .await
            .expect_err("forbidden");
        assert_eq!(failure.reason, Reason::Forbidden);
        said.push(failure.message);
        assert_eq!(fake.asked().len(), 1, "nothing else was looked at");
    }
    assert_eq!(said[0], said[1]);
}

#[tokio::test]
async fn each_pod_that_cannot_be_listened_in_has_its_reason() {
    let phase = |phase: &str| with(|pod| pod["status"]["phase"] = json!(phase));
    for (pod, wanted) in [
        (pod(), None),
        (phase("Unknown"), None),
        (phase("Pending"), Some(Reason::SandboxNotReady)),
        (phase("Succeeded"), Some(Reason::SandboxNotReady)),
        (phase("Failed"), Some(Reason::SandboxNotReady)),
        (
            with(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")),
            Some(Reason::SandboxNotReady),
        ),
        (
            with(|pod| pod["spec"] = json!({})),
            Some(Reason::SandboxNotReady),
        ),
        (
            with(|pod| pod["spec"]["os"] = json!({"name": "windows"})),
            Some(Reason::VmRuntime),
        ),
        (
            with(|pod| pod["spec"]["nodeSelector"] = json!({"kubernetes.io/os": "windows"})),
            Some(Reason::VmRuntime),
        ),
        (
            with(|pod| pod["spec"]["os"] = json!({"name": "linux"})),
            None,
        ),
        (
            with(|pod| pod["spec"]["hostNetwork"] = json!(true)),
            Some(Reason::HostNetwork),
        ),
    ] {
        assert_eq!(reason(pod.clone()).await, wanted, "{pod}");
    }
}

#[tokio::test]
async fn a_pod_that_is_not_there_or_another_one_is_told_apart() {
    let fake = cluster(None, &[]);
    let failure = route(&fake, "ada", "listen=80").await.expect_err("missing");
    assert_eq!(failure.reason, Reason::SandboxNotFound);
    assert!(
        failure.message.starts_with("pods \"web-0\" not found"),
        "{failure}"
    );
    let fake = cluster(Some(pod()), &[shim("10.0.0.1", "True")]);
    let failure = route(&fake, "ada", "listen=80&uid=u0")
        .await
        .expect_err("replaced");
    assert_eq!(failure.reason, Reason::PodReplaced);
}

#[tokio::test]
async fn a_node_without_a_shim_is_named() {
    let foreign = |change: fn(&mut Value)| {
        let mut one = shim("10.0.0.1", "True");
        change(&mut one);
        one
    };
    for shims in [
        vec![],
        vec![foreign(|one| {
            one["metadata"]["ownerReferences"] = json!([]);
        })],
        vec![foreign(|one| {
            one["metadata"]["ownerReferences"][0]["name"] = json!("other");
        })],
        vec![foreign(|one| {
            one["metadata"]["ownerReferences"][0]["controller"] = json!(false);
        })],
        vec![foreign(|one| one["spec"]["nodeName"] = json!("worker-2"))],
        vec![foreign(|one| one["status"]["phase"] = json!("Pending"))],
        vec![foreign(|one| one["status"]["podIP"] = json!(""))],
        vec![foreign(|one| {
            one["metadata"]["deletionTimestamp"] = json!("now");
        })],
    ] {
        let fake = cluster(Some(pod()), &shims);
        let failure = route(&fake, "ada", "listen=80").await.expect_err("no shim");
        assert_eq!(failure.reason, Reason::NodeUnavailable, "{shims:?}");
        assert!(failure.message.contains("\"worker-1\""), "{failure}");
    }
}

#[tokio::test]
async fn the_shim_that_is_ready_is_preferred() {
    let (old, new) = (shim("10.0.0.1", "False"), shim("10.0.0.2", "True"));
    for shims in [[old.clone(), new.clone()], [new, old.clone()]] {
        let fake = cluster(Some(pod()), &shims);
        let routed = route(&fake, "ada", "listen=80").await.expect("a way");
        assert_eq!(routed.shim.ip().to_string(), "10.0.0.2");
    }
    let fake = cluster(Some(pod()), &[old]);
    route(&fake, "ada", "listen=80")
        .await
        .expect("better than none");
}

#[tokio::test]
async fn a_namespace_that_denies_is_obeyed() {
    let fake = cluster(Some(pod()), &[shim("10.0.0.1", "True")]);
    let denying = json!({"metadata": {"annotations": {"reverse.sternline.dev/policy": "deny"}}});
    fake.put("/api/v1/namespaces/shop", denying);
    let failure = route(&fake, "ada", "listen=80").await.expect_err("denied");
    assert_eq!(failure.reason, Reason::Forbidden);
}
