//! A node that goes away, or is told to stop forwarding: everybody is told, and
//! nothing hangs.

use crate::support::client::{call, reason, request};
use crate::support::forward::Forward;
use crate::support::http::get;
use crate::support::node::{Pod, Spawned};
use crate::support::runner::themed;
use crate::support::shim::Shim;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target};
use crate::support::{SOON, same, says, until};
use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;
use sternline_e2e::report::{Echo, End, Ended, Holding};

themed! {
    every node:
        a_shim_that_is_told_to_go_lets_connections_finish,
        a_shim_that_is_told_twice_goes_at_once,
        an_idle_shim_goes_at_once;
    container runtimes:
}

/// A pod with a forward, and connections through it that stay open.
struct Standing {
    target: Target,
    pod: Pod,
    shim: Shim,
    forward: Forward,
    held: Spawned,
}

impl Standing {
    async fn on(stage: &Stage, flags: &str) -> Result<Self> {
        let target = Target::start(Manner::Echo).await?;
        let (pod, shim) = (stage.pod("web").await?, stage.shim(flags).await?);
        let words = format!("8080:{} --hold 60s", target.port());
        let forward = stage.forward(&shim, &pod, &words).await?;
        let held = pod
            .spawn("hold --to 127.0.0.1:8080 --connections 3")
            .await?;
        let _: Holding = held.report(SOON).await?;
        Ok(Self {
            target,
            pod,
            shim,
            forward,
            held,
        })
    }

    /// The forward ends with this code and word.
    async fn ends(&mut self, code: i32, reason: &str) -> Result<()> {
        same("exit code", self.forward.exit(SOON).await?.code, code)?;
        let ended = self.forward.event("ended", SOON, |_| true).await?;
        same("reason", ended["reason"].as_str(), Some(reason))
    }

    async fn connections_are_reset(&self) -> Result<()> {
        let ended: Ended = self.held.report(SOON).await?;
        same("end in the pod", ended.ended, End::Reset)?;
        for seen in self.target.ended(3, SOON).await? {
            same("end at the target", seen.end, End::Reset)?;
        }
        Ok(())
    }

    async fn shim_is_gone(&mut self) -> Result<()> {
        same("exit code of the shim", self.shim.exit(SOON).await?.code, 0)?;
        same("socket left", self.shim.socket().exists(), false)
    }
}

/// An application can listen on the port, on both addresses.
async fn port_is_free(pod: &Pod) -> Result<()> {
    until("the port to be free", SOON, || async {
        for address in ["127.0.0.1:8080", "[::1]:8080"] {
            let output = pod.run(&format!("listen --address {address}")).await?;
            if output.code != 0 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

async fn a_shim_that_is_told_to_go_lets_connections_finish(stage: &mut Stage) -> Result<()> {
    let mut standing = Standing::on(stage, "--drain-timeout 10m").await?;

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
    port_is_free(&standing.pod).await
}

async fn a_shim_that_is_told_twice_goes_at_once(stage: &mut Stage) -> Result<()> {
    let mut standing = Standing::on(stage, "--drain-timeout 10m").await?;

    standing.shim.signal(Signal::SIGTERM)?;
    standing.forward.event("draining", SOON, |_| true).await?;
    standing.shim.signal(Signal::SIGINT)?;

    standing.ends(9, "draining").await?;
    standing.shim_is_gone().await?;
    standing.connections_are_reset().await?;
    port_is_free(&standing.pod).await
}

async fn an_idle_shim_goes_at_once(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, mut shim) = (
        stage.pod("web").await?,
        stage.shim("--drain-timeout 10m").await?,
    );
    let words = format!("8080:{}", target.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    shim.connections_are(0, SOON).await?;

    shim.signal(Signal::SIGTERM)?;

    same("exit code", forward.exit(SOON).await?.code, 9)?;
    same("exit code of the shim", shim.exit(SOON).await?.code, 0)?;
    ensure!(!shim.socket().exists(), "the socket is left");
    port_is_free(&pod).await
}
