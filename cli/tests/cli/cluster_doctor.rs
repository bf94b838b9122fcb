//! `doctor`, and completion as kubectl asks for it.

use crate::support::{Cluster, Program, Run, pod, status};
use serde_json::{Value, json};

const APISERVICE: &str =
    "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.reverse.sternline.dev";
const GROUP: &str = "/apis/reverse.sternline.dev/v1alpha1";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const SHIMS: &str = "/api/v1/namespaces/sys/pods?fieldSelector=spec.nodeName%3Dnode-1";

fn condition(name: &str, status: &str, message: &str) -> Value {
    json!([{"type": name, "status": status, "message": message}])
}

/// A cluster in which everything is in order.
async fn healthy() -> Cluster {
    let cluster = Cluster::start(0).await;
    cluster.put("/version", json!({"gitVersion": "v1.36.2"}));
    cluster.put(
        APISERVICE,
        json!({"spec": {"service": {"namespace": "sys"}}, "status": {"conditions": condition("Available", "True", "")}}),
    );
    cluster.put(GROUP, json!({"resources": []}));
    cluster.put(REVIEWS, json!({"status": {"allowed": true}}));
    cluster.put("/api/v1/namespaces/shop", json!({"metadata": {}}));
    cluster.put(
        "/api/v1/nodes/node-1",
        json!({"metadata": {"labels": {"kubernetes.io/os": "linux"}}, "status": {"conditions": condition("Ready", "True", "")}}),
    );
    cluster.put(
        SHIMS,
        json!({"items": [pod("other", "Running"), pod("sternline-shim-x", "Running")]}),
    );
    cluster
}

async fn doctor(cluster: &Cluster) -> Run {
    Program::spawn(cluster.command(&["doctor", "pod/web"]))
        .end()
        .await
}

#[track_caller]
fn says(run: &Run, word: &str, step: &str, what: &str) {
    let start = format!("{word:<5} {step}: ");
    let fits = |line: &String| line.starts_with(&start) && line.contains(what);
    assert!(run.stdout.iter().any(fits), "{start}{what}: {run:#?}");
}

#[tokio::test]
async fn a_healthy_cluster_passes_every_check() {
    let cluster = healthy().await;
    let run = doctor(&cluster).await;
    assert_eq!(run.code, 0, "{run:#?}");
    assert!(
        run.stdout.iter().all(|line| line.starts_with("ok ")),
        "{run:#?}"
    );
    says(&run, "ok", "cluster", "Kubernetes v1.36.2");
    says(&run, "ok", "APIService", "namespace sys");
    says(&run, "ok", "pod", "pod/web runs on node node-1");
    says(
        &run,
        "ok",
        "shim",
        "pod/sternline-shim-x in namespace sys is ready",
    );
    assert!(cluster.forwards().is_empty());
}

#[tokio::test]
async fn each_thing_that_is_missing_says_what_to_do() {
    let cluster = healthy().await;
    let deny = json!({"metadata": {"annotations": {"reverse.sternline.dev/policy": "deny"}}});
    let pending = json!({"items": [pod("sternline-shim-x", "Pending")]});
    let windows = json!({"metadata": {"labels": {"kubernetes.io/os": "windows"}}, "status": {"conditions": condition("Ready", "True", "")}});
    let dead = json!({"spec": {}, "status": {"conditions": condition("Available", "False", "no endpoints")}});
    let mut host = pod("web", "Running");
    host["spec"]["hostNetwork"] = true.into();
    for (path, object, step, what) in [
        (
            APISERVICE,
            dead,
            "APIService",
            "no endpoints: `kubectl -n sternline get pods`",
        ),
        (
            REVIEWS,
            json!({"status": {"allowed": false, "reason": "no role\u{1b}"}}),
            "rights",
            "you may not create pods/portforward of reverse.sternline.dev (no role): ask",
        ),
        (
            "/api/v1/namespaces/shop",
            deny,
            "namespace",
            "denies forwards",
        ),
        (
            "/api/v1/namespaces/shop",
            json!({"metadata": {"annotations": {"reverse.sternline.dev/policy": "Allow"}}}),
            "namespace",
            "says \"Allow\", which is neither allow nor deny",
        ),
        (
            "/api/v1/namespaces/shop/pods/web",
            host,
            "pod",
            "its node's own network",
        ),
        ("/api/v1/nodes/node-1", windows, "node", "runs windows"),
        (
            SHIMS,
            json!({"items": []}),
            "shim",
            "no pod of DaemonSet sternline-shim is on node node-1",
        ),
        (
            SHIMS,
            pending,
            "shim",
            "pod/sternline-shim-x is Pending in namespace sys",
        ),
    ] {
        let cluster = match path {
            SHIMS => &cluster,
            _ => &healthy().await,
        };
        cluster.put(path, object);
        let run = doctor(cluster).await;
        assert_eq!(run.code, 1, "{run:#?}");
        says(&run, "FAIL", step, what);
        run.is_clean();
    }
}

#[tokio::test]
async fn without_an_install_it_says_how_to_get_one() {
    let cluster = healthy().await;
    cluster.hook(|seen| match seen.path.as_str() {
        APISERVICE => Some(status(404, "NotFound", "no", "")),
        GROUP => Some((404, "404 page not found".into())),
        _ => None,
    });
    let run = doctor(&cluster).await;
    run.failed(1, "2 checks failed");
    says(&run, "FAIL", "APIService", "kubectl apply -k");
    says(&run, "FAIL", "gateway", "not installed in this cluster");
}

#[tokio::test]
async fn who_may_look_at_nothing_is_told_of_rights_alone() {
    let cluster = healthy().await;
    cluster.hook(|seen| {
        let open = [GROUP, REVIEWS, "/version"].contains(&seen.path.as_str());
        (!open).then(|| status(403, "Forbidden", "no", ""))
    });
    let run = doctor(&cluster).await;
    assert_eq!(run.code, 0, "{run:#?}");
    for step in ["APIService", "namespace"] {
        says(&run, "skip", step, "you may not look");
    }
    says(&run, "skip", "pod", "you may not look at pods");
    cluster.down(true);
    doctor(&cluster).await.failed(6, "unable to connect");
}

#[tokio::test]
async fn kubectl_completes_kinds_names_and_namespaces() {
    let cluster = Cluster::start(0).await;
    let link = cluster.dir.path().join("kubectl_complete-rpf");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sternline"), &link).unwrap();
    let named = |names: &[&str]| json!({"items": names.iter().map(|name| json!({"metadata": {"name": name}})).collect::<Vec<_>>()});
    cluster.put(
        "/api/v1/namespaces?limit=500",
        named(&["shop", "kube-system", "staging"]),
    );
    cluster.put(
        "/api/v1/namespaces/shop/pods?limit=500",
        named(&["web-0", "web-1", "db-0"]),
    );
    cluster.put(
        "/apis/apps/v1/namespaces/staging/deployments?limit=500",
        named(&["php", "redis"]),
    );
    let config = cluster.config();
    let offered = async |words: &[&str]| {
        let mut command = tokio::process::Command::new(&link);
        command.args(words).env("KUBECONFIG", &config);
        let run = Program::spawn(command).end().await;
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{run:?}");
        run.stdout
    };
    assert_eq!(offered(&["-n", "s"]).await, ["shop", "staging", ":4"]);
    assert_eq!(offered(&["web"]).await, ["web-0", "web-1", ":4"]);
    assert_eq!(
        offered(&["-n", "staging", "deploy/p"]).await,
        ["deploy/php", ":4"]
    );
    assert_eq!(offered(&["--context", ""]).await, ["dev", ":4"]);
    assert_eq!(offered(&["doctor", "db"]).await, ["db-0", ":4"]);
    cluster.down(true);
    assert_eq!(offered(&["web"]).await, [":4"]);
}
