//! How it ends: whoever goes, and in whatever way, the others are told why and
//! nothing is left over.

use crate::support::leftovers::Inventory;
use crate::support::runner::themed;
use crate::support::shim::Shim;
use crate::support::stage::Stage;
use crate::support::standing::{Standing, port_is_free};
use crate::support::target::{Manner, Target};
use crate::support::{SOON, same, says, until};
use anyhow::Result;
use nix::sys::signal::Signal;
use std::time::Duration;
use sternline_e2e::report::{Echo, End, Holding, Listeners};

themed! {
    every node:
        a_forward_that_is_killed_frees_its_port_at_once,
        a_shim_that_is_killed_resets_what_was_open,
        a_forward_that_is_interrupted_says_goodbye,
        a_pod_that_is_removed_ends_its_forward_with_9,
        a_pod_that_is_removed_amid_a_transfer_ends_its_forward_with_9,
        the_end_of_one_pod_is_nothing_to_another,
        a_pod_that_is_replaced_by_its_like_ends_its_forward_with_9,
        a_session_can_be_stopped_from_outside,
        a_hundred_sessions_one_after_the_other_leave_nothing_behind;
    container runtimes:
        a_pod_that_is_stopped_ends_its_forward_with_9
}

async fn a_forward_that_is_killed_frees_its_port_at_once(stage: &mut Stage) -> Result<()> {
    let mut standing = Standing::on(stage, "", "").await?;

    standing.forward.kill().await?;
    // Long before a missed PING could tell.
    standing.shim.idle(SOON).await?;

    standing.connections_are_reset().await?;
    let pod = &standing.pod;
    for address in ["127.0.0.1:8080", "[::1]:8080"] {
        let output = pod.run(&format!("listen --address {address}")).await?;
        same("free", (output.code, output.stderr), (0, String::new()))?;
    }
    Ok(())
}

async fn a_shim_that_is_killed_resets_what_was_open(stage: &mut Stage) -> Result<()> {
    let mut standing = Standing::on(stage, "", "").await?;

    standing.shim.kill().await?;

    // Nothing of ours is left to say so: the kernel does.
    standing.connections_are_reset().await?;
    same("exit code", standing.forward.exit(SOON).await?.code, 7)?;
    standing.port_is_free(SOON).await
}

async fn a_forward_that_is_interrupted_says_goodbye(stage: &mut Stage) -> Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let target = Target::start(Manner::Echo).await?;
        let (pod, shim) = (
            stage.pod(&format!("{signal}").to_lowercase()).await?,
            stage.shim("").await?,
        );
        let words = format!("8080:{} --hold 60s", target.port());
        let mut forward = stage.forward(&shim, &pod, &words).await?;
        let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;

        forward.signal(signal)?;

        same("exit code", forward.exit(SOON).await?.code, 0)?;
        // A goodbye frees the port at once, whatever the hold.
        port_is_free(&pod, SOON).await?;
        let ended = forward.event("ended", SOON, |_| true).await?;
        same("reason", ended["reason"].as_str(), Some("done"))?;
    }
    Ok(())
}

async fn a_pod_that_is_removed_ends_its_forward_with_9(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let shim = stage.shim("").await?;
    // The first call makes what stays: connections to the runtime, threads.
    let first = stage.pod("first").await?;
    stage.forward(&shim, &first, "8080").await?.kill().await?;
    shim.idle(SOON).await?;
    first.remove().await?;
    let (before, usage) = (Inventory::take()?, shim.usage()?);

    let pod = stage.pod("web").await?;
    let words = format!("8080:{}", target.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    let held = pod
        .spawn("hold --to 127.0.0.1:8080 --connections 3")
        .await?;
    let _: Holding = held.report(SOON).await?;
    pod.remove().await?;

    let exit = forward.exit(SOON).await?;
    same("exit code", exit.code, 9)?;
    let ended = forward.event("ended", SOON, |_| true).await?;
    same("reason", ended["reason"].as_str(), Some("sandbox_gone"))?;
    says("the farewell", &ended["message"].to_string(), pod.id())?;
    shim.idle(SOON).await?;
    drop((held, forward));
    before.restored(SOON).await?;
    nothing_kept(&shim, usage.descriptors, usage.threads).await
}

/// The shim has no more descriptors and threads than before.
async fn nothing_kept(shim: &Shim, descriptors: usize, threads: usize) -> Result<()> {
    let what = format!("the shim to be back at {descriptors} descriptors and {threads} threads");
    until(&what, SOON, || async {
        let now = shim.usage()?;
        Ok((now.descriptors <= descriptors && now.threads <= threads).then_some(()))
    })
    .await
}

async fn a_pod_that_is_stopped_ends_its_forward_with_9(stage: &mut Stage) -> Result<()> {
    let mut standing = Standing::on(stage, "", "").await?;

    standing.pod.stop().await?;

    let exit = standing.forward.exit(SOON).await?;
    same("exit code", exit.code, 9)?;
    standing.target.ended(3, SOON).await?;
    let ended = standing.forward.event("ended", SOON, |_| true).await?;
    same("reason", ended["reason"].as_str(), Some("sandbox_gone"))
}

async fn a_pod_that_is_removed_amid_a_transfer_ends_its_forward_with_9(
    stage: &mut Stage,
) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    let _transfer = pod
        .spawn("echo --to 127.0.0.1:8080 --bytes 100000000000")
        .await?;
    until("the transfer to run", SOON, || async {
        let bytes = shim.metric("sternline_bytes_total", &[]).await?;
        Ok((bytes > 1e6).then_some(()))
    })
    .await?;

    pod.remove().await?;

    let exit = forward.exit(SOON).await?;
    same("exit code", exit.code, 9)?;
    let seen = target.ended(1, SOON).await?;
    same("end at the target", seen[0].end, End::Reset)
}

async fn the_end_of_one_pod_is_nothing_to_another(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, other) = (stage.pod("web").await?, stage.pod("other").await?);
    let shim = stage.shim("").await?;
    let words = format!("8080:{}", target.port());
    let mut one = stage.forward(&shim, &pod, &words).await?;
    let mut two = stage.forward(&shim, &other, &words).await?;

    pod.remove().await?;

    same("exit code", one.exit(SOON).await?.code, 9)?;
    let _: Echo = other.probe("echo --to 127.0.0.1:8080").await?;
    same("the other forward", two.ended(), None)
}

async fn a_pod_that_is_replaced_by_its_like_ends_its_forward_with_9(
    stage: &mut Stage,
) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;

    // The same name at once; where names are ids, the same id.
    pod.remove().await?;
    let pod = stage.pod("web").await?;

    same("exit code", forward.exit(SOON).await?.code, 9)?;
    let bound: Listeners = pod.probe("listeners").await?;
    same("listeners in the new pod", bound.listeners.len(), 0)?;
    let _forward = stage.forward(&shim, &pod, &words).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    Ok(())
}

async fn a_session_can_be_stopped_from_outside(stage: &mut Stage) -> Result<()> {
    let mut standing = Standing::on(stage, "", "").await?;
    let id = standing.shim.sessions().await?[0].session_id.clone();

    let mut stop = stage.cli(&standing.shim, &format!("stop {id}"))?;

    same("exit code of stop", stop.exit(SOON).await?.code, 0)?;
    // It answers when the listeners are free.
    standing.port_is_free(Duration::ZERO).await?;
    same("exit code", standing.forward.exit(SOON).await?.code, 9)?;
    let ended = standing.forward.event("ended", SOON, |_| true).await?;
    same("reason", ended["reason"].as_str(), Some("stopped"))?;
    standing.connections_are_reset().await
}

async fn a_hundred_sessions_one_after_the_other_leave_nothing_behind(
    stage: &mut Stage,
) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let mut usage = None;
    for turn in 0..100 {
        let mut forward = stage.forward(&shim, &pod, &words).await?;
        let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
        match turn % 2 {
            0 => forward.kill().await?,
            _ => forward.signal(Signal::SIGINT)?,
        }
        shim.idle(SOON).await?;
        // The first ten warm it up.
        if turn == 10 {
            usage = Some(shim.usage()?);
        }
    }
    let usage = usage.map_or((0, 0), |usage| (usage.descriptors, usage.threads));
    nothing_kept(&shim, usage.0, usage.1).await?;
    port_is_free(&pod, SOON).await
}
