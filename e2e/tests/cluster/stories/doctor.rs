//! `kubectl rpf doctor`, where something is missing.

use crate::shared::check::{says, until};
use crate::support::cluster::Cluster;
use crate::support::doctor::Findings;
use crate::support::forward::{Forward, PEOPLE, SOON};
use crate::support::install::{self, NAMESPACE};
use crate::support::runner::themed;
use anyhow::Result;

themed! {
    who_may_not_forward_is_told_whom_to_ask,
    a_node_without_a_shim_is_named,
}

async fn who_may_not_forward_is_told_whom_to_ask(cluster: &Cluster) -> Result<()> {
    let words = format!(
        "create rolebinding onlooker --namespace {PEOPLE} --clusterrole sternline-viewer --user onlooker"
    );
    cluster.admin().run(&words).await?;
    for (user, pod) in [("onlooker", "ok"), ("stranger", "skip")] {
        let user = cluster.user(user, &[])?;
        let found = Findings::of(&user, PEOPLE, "pod/on-one").await?;
        found.has("ok", "gateway", "reverse.sternline.dev/v1alpha1 is served")?;
        for verb in ["get", "create"] {
            let what = format!("you may not {verb} pods/portforward of reverse.sternline.dev");
            found.has("FAIL", "rights", &what)?;
        }
        let next = "ask an administrator for the role sternline-user in namespace people";
        found.has("FAIL", "rights", next)?;
        found.has(pod, "pod", "")?;
        found.failed(2)?;
    }
    let words = format!("delete rolebinding onlooker --namespace {PEOPLE}");
    cluster.admin().run(&words).await.map(drop)
}

async fn a_node_without_a_shim_is_named(cluster: &Cluster) -> Result<()> {
    let admin = cluster.admin();
    // The shim of node one stays as it is.
    install::patch_shims(
        cluster,
        r#"{"spec":{"updateStrategy":{"type":"OnDelete","rollingUpdate":null},"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"one"}}}}}"#,
    )
    .await?;
    until("the shim of node two to go", 4 * SOON, || async {
        let left = install::shims_of(cluster, "two").await?;
        Ok(left.is_empty().then_some(()))
    })
    .await?;

    let found = Findings::of(admin, PEOPLE, "pod/on-two").await?;
    found.has("ok", "node", "two is ready")?;
    found.has("FAIL", "shim", "no pod of DaemonSet sternline-shim is on node two: `kubectl -n sternline describe daemonset sternline-shim` says why")?;
    found.failed(1)?;
    Findings::of(admin, PEOPLE, "pod/on-one").await?.failed(0)?;
    let said = Forward::start(admin, "pod/on-two 9003")?.refused(6).await?;
    says(
        "it",
        &said,
        "Error from server (ServiceUnavailable): node \"two\" has no shim that runs",
    )?;
    says("it", &said, "kubectl --namespace sternline get pods")?;

    install::patch_shims(
        cluster,
        r#"{"spec":{"updateStrategy":{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":1}},"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":null}}}}}"#,
    )
    .await?;
    cluster
        .rolled_out("daemonset/sternline-shim", NAMESPACE)
        .await?;
    Findings::of(admin, PEOPLE, "pod/on-two").await?.failed(0)
}
