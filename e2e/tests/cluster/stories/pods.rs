//! Pods that nobody can forward from: one sentence for each, and its exit code, from
//! the plug-in where it may look, and from the gateway where it may not.

use crate::shared::check::{says, until};
use crate::support::cluster::Cluster;
use crate::support::doctor::Findings;
use crate::support::forward::{Forward, SOON};
use crate::support::install::{self, NAMESPACE};
use crate::support::network::NOWHERE;
use crate::support::runner::themed;
use anyhow::{Context as _, Result};

themed! {
    a_pod_that_does_not_run_is_refused_with_its_state,
    a_pod_that_is_deleted_ends_whoever_waits_for_it_or_has_it,
    a_pod_where_no_shim_is_or_answers_is_refused_with_its_node,
}

/// Where they are.
const ODD: &str = "odd";

/// Makes the pods, unless they are there, and waits until they are as they are to be.
async fn come(cluster: &Cluster) -> Result<()> {
    let admin = cluster.admin();
    admin.apply(include_str!("../manifests/odd.yaml")).await?;
    let phases = format!(
        "get pods --namespace {ODD} -o jsonpath={{range.items[*]}}{{.metadata.name}}={{.status.phase}};{{end}}"
    );
    until("the odd pods", 4 * SOON, || async {
        let said = admin.run(&phases).await?;
        let wanted = ["done=Succeeded;", "host=Running;", "leaving=Running;"];
        Ok(wanted.iter().all(|one| said.contains(one)).then_some(()))
    })
    .await
}

/// What a forward from a pod is refused with.
async fn refused(cluster: &Cluster, user: &str, words: &str, code: i32) -> Result<String> {
    let user = cluster.user(user, &[])?;
    let forward = Forward::start_in(ODD, &user, words)?;
    forward.refused(code).await.context(words.to_owned())
}

async fn a_pod_that_does_not_run_is_refused_with_its_state(cluster: &Cluster) -> Result<()> {
    come(cluster).await?;
    let patience = "waiting 9003 --pod-running-timeout 1s";
    for (user, words, code, sentence) in [
        (
            "seeing",
            patience,
            3,
            "error: pod/waiting does not run: pod/waiting is Pending (Unschedulable): waited for 1s, --pod-running-timeout waits longer",
        ),
        (
            "blind",
            "waiting 9003",
            3,
            "Error from server (Conflict): pod \"odd/waiting\" is pending: wait until it runs",
        ),
        (
            "seeing",
            "done 9003",
            3,
            "error: pod/done has completed: nothing can listen in it any more",
        ),
        (
            "blind",
            "done 9003",
            3,
            "Error from server (Conflict): pod \"odd/done\" has completed: nothing runs in it any more",
        ),
        (
            "seeing",
            "host 9003",
            6,
            "Error from server (Conflict): pod \"odd/host\" uses its node's own network",
        ),
        (
            "blind",
            "host 9003",
            6,
            "Error from server (Conflict): pod \"odd/host\" uses its node's own network",
        ),
        (
            "blind",
            "none 9003",
            3,
            "Error from server (NotFound): pods \"none\" not found",
        ),
    ] {
        let said = refused(cluster, user, words, code).await?;
        anyhow::ensure!(said.starts_with(sentence), "{words}, {user}: {said}");
    }
    let found = Findings::of(cluster.admin(), ODD, "host").await?;
    found.has(
        "FAIL",
        "pod",
        "pod/host uses its node's own network: forwards are refused there, name another pod",
    )?;
    found.failed(1)
}

async fn a_pod_that_is_deleted_ends_whoever_waits_for_it_or_has_it(
    cluster: &Cluster,
) -> Result<()> {
    come(cluster).await?;
    let user = cluster.user("seeing", &[])?;
    let words = "waiting 9003 --pod-running-timeout 10m -v";
    let mut waits = Forward::start_in(ODD, &user, words)?;
    until("a forward to wait for its pod", SOON, || {
        let waits = waits
            .process()
            .stderr()
            .contains("waiting for a pod that runs");
        async move { Ok(waits.then_some(())) }
    })
    .await?;
    let has = Forward::start_in(ODD, &user, "leaving 9003")?;
    has.pod().await?;

    let delete = format!("delete pod waiting leaving --namespace {ODD} --wait=false");
    cluster.admin().run(&delete).await?;

    let ended = waits.exit().await?.code;
    let said = waits.process().stderr();
    anyhow::ensure!(ended == 3, "it ended with {ended}: {said}");
    let last = said.lines().last().unwrap_or_default();
    says(
        "it",
        last,
        "Error from server (NotFound): pods \"waiting\" not found",
    )?;
    let said = has.refused(9).await?;
    says("it", &said, "the server ended the session")?;
    // Nothing comes back under the name.
    let again = refused(cluster, "seeing", "waiting 9003", 3).await?;
    says("it", &again, "Error from server (NotFound)")
}

/// Says of a pod, or its status, what no kubelet says.
async fn patch(cluster: &Cluster, namespace: &str, pod: &str, status: &str) -> Result<()> {
    let words = format!(
        "patch pod {pod} --namespace {namespace} --subresource status --type strategic --patch {{\"status\":{status}}}"
    );
    cluster.admin().run(&words).await.map(drop)
}

async fn a_pod_where_no_shim_is_or_answers_is_refused_with_its_node(
    cluster: &Cluster,
) -> Result<()> {
    let admin = cluster.admin();
    admin.apply(include_str!("../manifests/odd.yaml")).await?;
    let told = among_ghosts(cluster).await;
    admin
        .run("delete node ghost panes --ignore-not-found")
        .await?;
    // Without a kubelet nobody else ends them.
    for pods in [
        format!("strayed lost glass glazed --namespace {ODD}"),
        format!("--namespace {NAMESPACE} --field-selector spec.nodeName=ghost"),
    ] {
        let force = format!("delete pods {pods} --ignore-not-found --force --grace-period 0");
        admin.run(&force).await?;
    }
    told?;
    let words = format!("delete namespace {ODD} --wait=false");
    admin.run(&words).await?;
    cluster
        .rolled_out("daemonset/sternline-shim", NAMESPACE)
        .await
}

async fn among_ghosts(cluster: &Cluster) -> Result<()> {
    let admin = cluster.admin();
    admin
        .apply(include_str!("../manifests/ghosts.yaml"))
        .await?;
    let running = r#"{"phase":"Running"}"#;
    for pod in ["strayed", "lost", "glass", "glazed"] {
        patch(cluster, ODD, pod, running).await?;
    }
    let shimless = |node: &str| {
        format!(
            "Error from server (ServiceUnavailable): node {node:?} has no shim that runs: see kubectl --namespace sternline get pods --output wide"
        )
    };
    for (pod, sentence) in [
        ("lost", shimless("nowhere")),
        ("strayed", shimless("ghost")),
        ("glass", shimless("panes")),
        ("glazed", "Error from server (Conflict): pod \"odd/glazed\" runs on Windows, where there is no network namespace to listen in".to_owned()),
    ] {
        for user in ["seeing", "blind"] {
            let said = refused(cluster, user, &format!("{pod} 9003"), 6).await?;
            anyhow::ensure!(said.starts_with(&sentence), "{pod}, {user}: {said}");
        }
    }
    let found = Findings::of(admin, ODD, "glass").await?;
    found.has(
        "FAIL",
        "node",
        "panes runs windows: forwards need Linux, name a pod on another node",
    )?;

    // The DaemonSet has its pod there all the same; it runs, as far as is known.
    let shim = until("the shim of a node that is none", SOON, || async {
        let shims = install::shims_of(cluster, "ghost").await?;
        Ok(shims.into_iter().next())
    })
    .await?;
    let status =
        format!(r#"{{"phase":"Running","podIP":"{NOWHERE}","podIPs":[{{"ip":"{NOWHERE}"}}]}}"#);
    patch(cluster, NAMESPACE, &shim, &status).await?;
    let said = refused(cluster, "seeing", "strayed 9003", 6).await?;
    let sentence = "Error from server (ServiceUnavailable): the shim of node \"ghost\" cannot be reached by the gateway";
    says("it", &said, sentence)?;
    let found = Findings::of(admin, ODD, "strayed").await?;
    found.has(
        "FAIL",
        "node",
        "ghost is not ready: `kubectl describe node ghost` says why",
    )?;
    found.has(
        "FAIL",
        "shim",
        "is Running in namespace sternline and is not ready",
    )
}
