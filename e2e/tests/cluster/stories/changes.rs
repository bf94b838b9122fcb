//! What changes under live sessions: pods and programs.

use crate::shared::check::{same, says, until};
use crate::shared::target::Target;
use crate::support::cluster::Cluster;
use crate::support::forward::SOON;
use crate::support::install::{self, Flag, NAMESPACE};
use crate::support::late::{LATE, Line, ONE, TWO, inside, metric, process_of};
use crate::support::runner::themed;
use anyhow::Result;
use std::collections::BTreeMap;
use sternline_e2e::report::{End, Ended, Exchanged};

themed! {
    a_pod_that_is_made_after_the_shims_is_forwarded_from_at_once,
    a_serve_that_is_killed_is_followed_by_one_that_goes_on,
    a_shim_that_is_upgraded_is_come_back_to_by_who_holds,
    a_gateway_that_is_killed_resets_and_another_goes_on,
}

/// What is different in the release that shims are upgraded to.
pub(crate) const UPGRADED: Flag = (
    "DaemonSet",
    "sternline-shim",
    1,
    "--max-sessions-per-sandbox=250",
);

async fn a_pod_that_is_made_after_the_shims_is_forwarded_from_at_once(
    cluster: &Cluster,
) -> Result<()> {
    let admin = cluster.admin();
    admin.apply(include_str!("../manifests/late.yaml")).await?;
    let ready = format!("wait pod --all --namespace {LATE} --for=condition=Ready --timeout=60s");
    admin.run(&ready).await?;
    for pod in [ONE, TWO] {
        let line = Line::up(cluster, pod, "").await?;
        line.echoes(cluster).await?;
        line.forward.stop().await?;
    }
    Ok(())
}

/// The binder keeps the listeners: the session is the same, and goes on without a hold.
async fn a_serve_that_is_killed_is_followed_by_one_that_goes_on(cluster: &Cluster) -> Result<()> {
    let mut line = Line::up(cluster, ONE, "--hold 0s").await?;
    let mut open = line.hold(cluster).await?;
    process_of("/sternline-shim serve", "NODE_NAME", "one")?.kill()?;
    // The port stays taken: who connects meanwhile waits.
    line.echoes(cluster).await?;
    was_reset(&mut open).await?;
    line.complains_of("1 open connection was reset").await?;
    line.complains_of("Reconnected to pod/late-one").await?;
    let said = line.forward.process().stderr();
    same("a new session", said.contains("new session"), false)?;
    line.forward.stop().await
}

/// A shim's pod goes with binder and serve: nothing is left to come back to.
async fn a_shim_that_is_upgraded_is_come_back_to_by_who_holds(cluster: &Cluster) -> Result<()> {
    let mut held = Line::up(cluster, ONE, "--hold 2m").await?;
    let mut loose = Line::up(cluster, TWO, "--hold 0s").await?;
    let mut open = loose.hold(cluster).await?;
    install::apply_with(cluster, &[UPGRADED]).await?;

    // What is open has a while to finish.
    let draining = "warning: the server ends this session within 10s";
    loose.complains_of(draining).await?;
    let ended = loose.forward.exit().await?;
    let said = loose.forward.process().stderr();
    same("how it ended without a hold", ended.code, 9)?;
    says("it", &said, "the server ended the session")?;
    says("it", &said, "the node's shim is shutting down")?;
    was_reset(&mut open).await?;

    let back = "in a new session: connections were refused meanwhile";
    held.complains_of("trying for 2m to come back").await?;
    held.complains_of(back).await?;
    // On the same port.
    held.echoes(cluster).await?;
    cluster
        .rolled_out("daemonset/sternline-shim", NAMESPACE)
        .await?;
    held.echoes(cluster).await?;
    held.forward.stop().await
}

async fn a_gateway_that_is_killed_resets_and_another_goes_on(cluster: &Cluster) -> Result<()> {
    const CONNECTIONS: u32 = 8;
    let mut line = Line::up(cluster, TWO, "--hold 2m").await?;
    let carried = || {
        metric(
            cluster,
            "sternline-gateway",
            "sternline_gateway_bytes_total",
        )
    };
    // Other stories had theirs carried by either.
    let before: BTreeMap<_, _> = carried().await?.into_iter().collect();
    // More than gets through before it is killed.
    let words = format!(
        "exchange --to 127.0.0.1:9003 --connections {CONNECTIONS} --bytes 4294967296 --timeout 60"
    );
    let mut transfer = inside(cluster, TWO, &words)?;
    let pod = until("a gateway to carry it", SOON, || async {
        let mut carried = carried().await?.into_iter();
        let since = |pod: &String| before.get(pod).copied().unwrap_or_default();
        let carrier = carried.find(|(pod, bytes)| bytes - since(pod) > 16e6);
        Ok(carrier.map(|(pod, _)| pod))
    })
    .await?;
    process_of("/sternline-gateway serve", "HOSTNAME", &pod)?.kill()?;

    transfer.exit(SOON).await?;
    let read = |line: &str| serde_json::from_str::<Exchanged>(line).ok();
    let exchanged = transfer.line("its report", SOON, read).await?;
    let expected = Exchanged {
        cut: CONNECTIONS,
        ..Exchanged::default()
    };
    same("how the pod saw them end", exchanged, expected)?;
    all_were_reset(&line.target, CONNECTIONS).await?;
    line.complains_of("8 open connections were reset").await?;
    line.complains_of("Reconnected to pod/late-two").await?;
    let said = line.forward.process().stderr();
    same("a new session", said.contains("new session"), false)?;
    line.echoes(cluster).await?;
    line.forward.stop().await?;
    cluster
        .rolled_out("deployment/sternline-gateway", NAMESPACE)
        .await
}

/// The process in the pod saw its connection reset, and no clean end.
async fn was_reset(held: &mut crate::shared::process::Process) -> Result<()> {
    held.exit(SOON).await?;
    let read = |line: &str| serde_json::from_str::<Ended>(line).ok();
    let ended = held.line("how it ended", SOON, read).await?;
    same("how the pod saw it end", ended.ended, End::Reset)
}

/// The server on the workstation saw the same of all of them.
async fn all_were_reset(target: &Target, count: u32) -> Result<()> {
    for seen in target.ended(usize::try_from(count)?, SOON).await? {
        same("how the server saw it end", seen.end, End::Reset)?;
    }
    Ok(())
}
