//! One user with hundreds of sessions.

use super::changes::UPGRADED;
use crate::shared::check::{same, says, until};
use crate::shared::target::{Manner, Target};
use crate::support::cluster::{Clock, Cluster};
use crate::support::crowd::Crowd;
use crate::support::forward::{Forward, SOON, probe_in};
use crate::support::install::{self, Flag, NAMESPACE};
use crate::support::late::{LATE, ONE, TWO, developer, total};
use crate::support::runner::themed;
use anyhow::Result;
use sternline_e2e::report::Many;

themed! {
    five_hundred_sessions_of_one_user_carry_data_and_leave_nothing,
}

/// Sessions in each of two pods, as many as the upgraded shim allows.
const EACH: u16 = 250;

/// The first port; none of them is one that the kernel chooses.
const FIRST: u16 = 20_000;

/// However unevenly they come to the two gateways.
pub(crate) const ROOM: Flag = (
    "Deployment",
    "sternline-gateway",
    0,
    "--max-sessions-per-user=500",
);

/// What there is of sessions: at the gateways, at the shims, and their listeners.
async fn counts(cluster: &Cluster) -> Result<[f64; 3]> {
    Ok([
        total(
            cluster,
            "sternline-gateway",
            "sternline_gateway_tunnels_active",
        )
        .await?,
        total(cluster, "sternline-shim", "sternline_sessions_active").await?,
        total(cluster, "sternline-shim", "sternline_listeners_active").await?,
    ])
}

async fn count_to(cluster: &Cluster, expected: [f64; 3]) -> Result<()> {
    let last = std::sync::Mutex::new([0.0; 3]);
    let counted = until("the counts", 2 * SOON, || async {
        let found = counts(cluster).await?;
        if let Ok(mut last) = last.lock() {
            *last = found;
        }
        Ok((found == expected).then_some(()))
    });
    let counted = counted.await;
    counted.map_err(|error| error.context(format!("found {last:?}, expected {expected:?}")))
}

async fn five_hundred_sessions_of_one_user_carry_data_and_leave_nothing(
    cluster: &Cluster,
) -> Result<()> {
    install::apply_with(cluster, &[UPGRADED, ROOM]).await?;
    for what in ["deployment/sternline-gateway", "daemonset/sternline-shim"] {
        cluster.rolled_out(what, NAMESPACE).await?;
    }
    let mut clock = Clock::start();
    count_to(cluster, [0.0; 3]).await?;
    let user = developer(cluster)?;
    let target = Target::start(Manner::Echo).await?;
    let mut crowd = Crowd::new(&user, target.address()).await?;
    for pod in [ONE, TWO] {
        crowd.open(pod, FIRST..FIRST + EACH).await?;
    }
    same("tunnels", crowd.up(), 2 * usize::from(EACH))?;
    let all = 2.0 * f64::from(EACH);
    clock.tell("five hundred sessions of one user are up")?;
    count_to(cluster, [all, all, 2.0 * all]).await?;

    // One more than the shim allows is told so.
    let mut more = Forward::start_in(LATE, &user, &format!("{ONE} 9003"))?;
    same("the exit code", more.exit().await?.code, 1)?;
    let said = more.process().stderr();
    says("it", &said, "Error from server (TooManyRequests)")?;
    says("it", &said, "--max-sessions-per-sandbox")?;

    for pod in [ONE, TWO] {
        let words = format!(
            "many --to 127.0.0.1:{FIRST} --connections {EACH} --ports {EACH} --bytes 10000 --timeout 60"
        );
        let many: Many = probe_in(LATE, cluster, pod, &words).await?;
        same("failed", many.failed.len(), 0)?;
        same("carried their data", many.ok, u32::from(EACH))?;
    }
    same("tunnels", crowd.up(), 2 * usize::from(EACH))?;
    same("connections", target.accepted(), 2 * usize::from(EACH))?;
    clock.tell("they carried data")?;
    drop(crowd);
    count_to(cluster, [0.0; 3]).await?;
    clock.tell("nothing is left of them")
}
