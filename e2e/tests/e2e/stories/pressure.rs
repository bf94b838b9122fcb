//! Under pressure: streams that stall, flood, storm or trickle hurt themselves
//! and nobody else, and memory stays within the budget.

use crate::support::node::Pod;
use crate::support::process::Usage;
use crate::support::runner::themed;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target};
use crate::support::{SOON, is_at_least, same, until};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::time::Duration;
use sternline_e2e::report::{Echo, Holding, Many, Storm, Written};

themed! {
    every node:
        a_pod_that_does_not_read_stalls_only_itself,
        a_target_that_does_not_read_stalls_only_itself,
        every_stream_stalled_stays_within_the_budget,
        a_session_that_hoards_does_not_starve_another,
        a_forward_that_stops_reading_under_a_flood_is_dropped_in_time,
        a_thousand_resets_at_once_leave_the_session_usable,
        single_bytes_to_a_stalled_target_leave_the_session_usable;
    container runtimes:
}

const MIB: u64 = 1024 * 1024;

/// What a session may hold in buffers by default.
const BUDGET: u64 = 64 * MIB;

/// What bookkeeping, stacks and the allocator may take beyond the buffers.
const OVERHEAD: u64 = 24 * MIB;

/// A hundred connections echo all that they were given, in the probe's time.
async fn hundred(pod: &Pod) -> Result<()> {
    let many: Many = pod
        .probe("many --to 127.0.0.1:8080 --connections 100 --bytes 65536 --rounds 4")
        .await?;
    same("carried their data", many.ok, 100)
}

fn within_budget(what: &str, idle: Usage, loaded: Usage) -> Result<()> {
    let grown = loaded.memory_peak.saturating_sub(idle.memory);
    let most = BUDGET + OVERHEAD;
    ensure!(grown <= most, "{what} grew by {grown} bytes, over {most}");
    Ok(())
}

/// One stream stalls while a hundred others work; `stall` makes it stall, and
/// its target does what `manner` says.
async fn one_stalls(stage: &mut Stage, manner: Manner, stall: &str) -> Result<()> {
    let (echo, bad) = (
        Target::start(Manner::Echo).await?,
        Target::start(manner).await?,
    );
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{} 8081:{}", echo.port(), bad.port());
    let forward = stage.forward(&shim, &pod, &words).await?;
    hundred(&pod).await?;
    let idle = (shim.usage()?, forward.usage()?);

    let stalled = pod.spawn(stall).await?;
    if manner == Manner::Flood {
        let _: Holding = stalled.report(SOON).await?;
        // The flood fills whatever it can fill.
        tokio::time::sleep(Duration::from_secs(1)).await;
    } else {
        let written: Written = stalled.report(Duration::from_secs(60)).await?;
        is_at_least("written before it stalled", written.written, 64 * 1024)?;
        ensure!(written.written < BUDGET, "{written:?} went nowhere");
    }
    hundred(&pod).await?;

    // Nor was the stalled one ended to make room.
    shim.connections_are(1, SOON).await?;
    within_budget("the shim", idle.0, shim.usage()?)?;
    within_budget("the forward", idle.1, forward.usage()?)
}

async fn a_pod_that_does_not_read_stalls_only_itself(stage: &mut Stage) -> Result<()> {
    one_stalls(stage, Manner::Flood, "stall --to 127.0.0.1:8081").await
}

async fn a_target_that_does_not_read_stalls_only_itself(stage: &mut Stage) -> Result<()> {
    let stall = "stall --to 127.0.0.1:8081 --flood true";
    one_stalls(stage, Manner::Stall, stall).await
}

async fn every_stream_stalled_stays_within_the_budget(stage: &mut Stage) -> Result<()> {
    let (echo, bad) = (
        Target::start(Manner::Echo).await?,
        Target::start(Manner::Flood).await?,
    );
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{} 8081:{}", echo.port(), bad.port());
    let forward = stage.forward(&shim, &pod, &words).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    let idle = (shim.usage()?, forward.usage()?);

    // Both ends write all that fits, and neither reads: 255 of 256 streams.
    let flood = "stall --to 127.0.0.1:8081 --flood true --connections 255";
    let stalled = pod.spawn(flood).await?;
    let _: Written = stalled.report(Duration::from_secs(120)).await?;

    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    within_budget("the shim", idle.0, shim.usage()?)?;
    within_budget("the forward", idle.1, forward.usage()?)
}

async fn a_forward_that_stops_reading_under_a_flood_is_dropped_in_time(
    stage: &mut Stage,
) -> Result<()> {
    let target = Target::start(Manner::Stall).await?;
    let pod = stage.pod("web").await?;
    let shim = stage.shim("--ping-interval 1s").await?;
    let words = format!("8080:{}", target.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    let idle = shim.usage()?;
    forward.signal(Signal::SIGSTOP)?;
    // Enough to fill the link and every buffer before it.
    let flood = "stall --to 127.0.0.1:8080 --flood true --connections 64";
    let stalled = pod.spawn(flood).await?;

    // Two PINGs missed, and room for a busy machine.
    shim.idle(Duration::from_secs(20)).await?;

    within_budget("the shim", idle, shim.usage()?)?;
    forward.signal(Signal::SIGCONT)?;
    same("exit code", forward.exit(SOON).await?.code, 7)?;
    drop(stalled);
    Ok(())
}

async fn a_session_that_hoards_does_not_starve_another(stage: &mut Stage) -> Result<()> {
    let (echo, bad) = (
        Target::start(Manner::Echo).await?,
        Target::start(Manner::Flood).await?,
    );
    let pod = stage.pod("web").await?;
    let node_budget = 32 * MIB;
    let flags =
        format!("--buffer-bytes-per-node {node_budget} --buffer-bytes-per-session {node_budget}");
    let shim = stage.shim(&flags).await?;
    let words = format!("8080:{}", echo.port());
    let modest = stage.forward(&shim, &pod, &words).await?;
    let words = format!("8081:{}", bad.port());
    let _hoarder = stage.forward(&shim, &pod, &words).await?;
    hundred(&pod).await?;
    let idle = shim.usage()?;

    let flood = "stall --to 127.0.0.1:8081 --flood true --connections 200";
    let stalled = pod.spawn(flood).await?;
    let _: Written = stalled.report(Duration::from_secs(120)).await?;
    hundred(&pod).await?;

    let buffered = shim.metric("sternline_buffered_bytes", &[]).await?;
    ensure!(
        buffered <= node_budget as f64,
        "{buffered} bytes are buffered"
    );
    same("turned away", modest.events("rejected").len(), 0)?;
    let closed = modest.events("closed");
    let unclean = closed.iter().filter(|event| event["end"] != "clean");
    same("ended otherwise than cleanly", unclean.count(), 0)?;
    let grown = shim.usage()?.memory_peak.saturating_sub(idle.memory);
    let most = node_budget + OVERHEAD;
    ensure!(grown <= most, "the shim grew by {grown} bytes, over {most}");
    Ok(())
}

async fn a_thousand_resets_at_once_leave_the_session_usable(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;

    let storm: Storm = pod
        .probe("storm --to 127.0.0.1:8080 --connections 1000")
        .await?;

    is_at_least("resets", storm.resets, 900)?;
    // What is left in the queue may take every place once more.
    until("an exchange", SOON, || async {
        let output = pod.run("echo --to 127.0.0.1:8080").await?;
        Ok((output.code == 0).then_some(()))
    })
    .await?;
    shim.connections_are(0, SOON).await?;
    same("the forward", forward.ended(), None)
}

async fn single_bytes_to_a_stalled_target_leave_the_session_usable(
    stage: &mut Stage,
) -> Result<()> {
    let (echo, bad) = (
        Target::start(Manner::Echo).await?,
        Target::start(Manner::Stall).await?,
    );
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{} 8081:{}", echo.port(), bad.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;

    let trickle = pod.spawn("tiny --to 127.0.0.1:8081 --count 20000").await?;
    let written: Written = trickle.report(Duration::from_secs(60)).await?;

    same("written", written.written, 20_000)?;
    let _: Echo = pod
        .probe("echo --to 127.0.0.1:8080 --bytes 1000000")
        .await?;
    same("the forward", forward.ended(), None)
}
