//! A node that goes away, or is told to stop forwarding: everybody is told, and
//! nothing hangs.

use crate::support::client::{call, reason, request};
use crate::support::http::get;
use crate::support::runner::themed;
use crate::support::stage::Stage;
use crate::support::standing::{Standing, port_is_free};
use crate::support::target::{Manner, Target};
use crate::support::{SOON, same, says};
use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;
use sternline_e2e::report::Echo;

themed! {
    every node:
        a_shim_that_is_told_to_go_lets_connections_finish,
        a_shim_that_is_told_twice_goes_at_once,
        an_idle_shim_goes_at_once;
    container runtimes:
}

impl Standing {
    /// The forward ends with this code and word.
    async fn ends(&mut self, code: i32, reason: &str) -> Result<()> {
        same("exit code", self.forward.exit(SOON).await?.code, code)?;
        let ended = self.forward.event("ended", SOON, |_| true).await?;
        same("reason", ended["reason"].as_str(), Some(reason))
    }

    async fn shim_is_gone(&mut self) -> Result<()> {
        same("exit code of the shim", self.shim.exit(SOON).await?.code, 0)?;
        same("socket left", self.shim.socket().exists(), false)
    }
}

async fn a_shim_that_is_told_to_go_lets_connections_finish(stage: &mut Stage) -> Result<()> {
    let mut standing = Standing::on(
        stage,
        "--restart-grace 0s --drain-timeout 10m",
        "--hold 60s",
    )
    .await?;

    standing.shim.signal(Signal::SIGTERM)?;

    let told = standing.forward.event("draining", SOON, |_| true).await?;
    same("deadline", told["deadline_ms"].as_u64(), Some(600_000))?;
    says("the notice", &told["message"].to_string(), "shutting down")?;
    let Err(refused) = call(&standing.shim, request(&standing.pod, &[8081])).await else {
        bail!("a call was answered while draining");
    };
    same("refusal", reason(&refused), "draining".to_owned())?;
    let ready = get(standing.shim.metrics_address()?, "/readyz").await?;
    same("ready", ready.status, 503)?;
    same("forward", standing.forward.ended(), None)?;
    same(
        "connections",
        standing.shim.sessions().await?[0].connections,
        3,
    )?;

    // The last connection is over, and with it everything else.
    standing.held.kill().await?;
    standing.ends(9, "draining").await?;
    standing.shim_is_gone().await?;
    standing.port_is_free(SOON).await
}

async fn a_shim_that_is_told_twice_goes_at_once(stage: &mut Stage) -> Result<()> {
    let mut standing = Standing::on(stage, "--drain-timeout 10m", "--hold 60s").await?;

    standing.shim.signal(Signal::SIGTERM)?;
    standing.forward.event("draining", SOON, |_| true).await?;
    standing.shim.signal(Signal::SIGINT)?;

    standing.ends(9, "draining").await?;
    standing.shim_is_gone().await?;
    standing.connections_are_reset().await?;
    standing.port_is_free(SOON).await
}

async fn an_idle_shim_goes_at_once(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, mut shim) = (
        stage.pod("web").await?,
        stage.shim("--restart-grace 0s --drain-timeout 10m").await?,
    );
    let words = format!("8080:{}", target.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    shim.connections_are(0, SOON).await?;

    shim.signal(Signal::SIGTERM)?;

    same("exit code", forward.exit(SOON).await?.code, 9)?;
    same("exit code of the shim", shim.exit(SOON).await?.code, 0)?;
    ensure!(!shim.socket().exists(), "the socket is left");
    port_is_free(&pod, SOON).await
}
