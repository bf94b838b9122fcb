//! Faults of the way and of the target: noticed within a bound, told in one
//! sentence, and survived where that is possible.

use crate::support::link::Link;
use crate::support::runner::themed;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target, nobody};
use crate::support::{SOON, is_at_least, same, says, until};
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use sternline_api::v1alpha1::SessionState;
use sternline_e2e::report::{Echo, End, Ended, Holding, Listeners};

themed! {
    every node:
        a_shim_that_is_killed_ends_its_forward_with_7,
        a_link_that_falls_silent_is_noticed_at_both_ends,
        a_forward_that_freezes_is_noticed_by_the_shim,
        a_shim_that_freezes_is_noticed_by_the_forward,
        a_link_that_is_cut_within_the_hold_comes_back,
        a_hold_that_runs_out_frees_the_port,
        a_target_that_refuses_is_a_reset_and_the_session_lives,
        a_target_that_does_not_answer_is_given_up_in_time,
        a_target_that_is_not_there_yet_can_come_later;
    container runtimes:
}

/// Two PINGs missed, at an interval of 1 s, and room for a busy machine; less
/// than the default interval takes.
const PING_BOUND: Duration = Duration::from_secs(20);

/// A shim that streams on a Unix socket, whose link can fail.
const FRAIL: &str = "--ping-interval 1s --streaming-address unix:";

async fn a_shim_that_is_killed_ends_its_forward_with_7(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, mut shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    let held = pod.spawn("hold --to 127.0.0.1:8080").await?;
    let _: Holding = held.report(SOON).await?;

    shim.kill().await?;

    let exit = forward.exit(PING_BOUND).await?;
    same("exit code", exit.code, 7)?;
    let ended = forward.event("ended", SOON, |_| true).await?;
    same("reason", ended["reason"].as_str(), Some("tunnel_lost"))?;
    let ended: Ended = held.report(SOON).await?;
    ensure!(
        ended.ended != End::Timeout,
        "the connection in the pod hangs"
    );
    same(
        "at the target",
        target.ended(1, SOON).await?[0].end,
        End::Reset,
    )?;
    let bound: Listeners = pod.probe("listeners").await?;
    same("listeners in the pod", bound.listeners.len(), 0)
}

async fn a_link_that_falls_silent_is_noticed_at_both_ends(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let pod = stage.pod("web").await?;
    let socket = stage.directory().join("streaming.sock");
    let shim = stage.shim(&format!("{FRAIL}{}", socket.display())).await?;
    let link = Link::before(&socket)?;
    let words = format!("8080:{}", target.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    let held = pod.spawn("hold --to 127.0.0.1:8080").await?;
    let _: Holding = held.report(SOON).await?;

    // PINGs keep an idle link up.
    tokio::time::sleep(Duration::from_secs(4)).await;
    same("the forward while idle", forward.ended(), None)?;
    link.fall_silent();

    shim.idle(PING_BOUND).await?;
    let exit = forward.exit(PING_BOUND).await?;
    same("exit code", exit.code, 7)?;
    let ended: Ended = held.report(SOON).await?;
    same("end in the pod", ended.ended, End::Reset)?;
    same(
        "at the target",
        target.ended(1, SOON).await?[0].end,
        End::Reset,
    )?;
    let output = pod.run("listen --address 127.0.0.1:8080").await?;
    same("free", (output.code, output.stderr), (0, String::new()))
}

async fn a_forward_that_freezes_is_noticed_by_the_shim(stage: &mut Stage) -> Result<()> {
    let pod = stage.pod("web").await?;
    let shim = stage.shim("--ping-interval 1s").await?;
    let forward = stage.forward(&shim, &pod, "8080:3000").await?;

    forward.signal(Signal::SIGSTOP)?;
    let gone = shim.idle(PING_BOUND).await;
    forward.signal(Signal::SIGCONT)?;

    gone?;
    let output = pod.run("listen --address 127.0.0.1:8080").await?;
    same("free", (output.code, output.stderr), (0, String::new()))
}

async fn a_shim_that_freezes_is_noticed_by_the_forward(stage: &mut Stage) -> Result<()> {
    let pod = stage.pod("web").await?;
    let shim = stage.shim("--ping-interval 1s").await?;
    let mut forward = stage.forward(&shim, &pod, "8080:3000").await?;

    shim.signal(Signal::SIGSTOP)?;
    let exit = forward.exit(PING_BOUND).await;
    shim.signal(Signal::SIGCONT)?;

    same("exit code", exit?.code, 7)
}

async fn a_link_that_is_cut_within_the_hold_comes_back(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let pod = stage.pod("web").await?;
    let socket = stage.directory().join("streaming.sock");
    let shim = stage.shim(&format!("{FRAIL}{}", socket.display())).await?;
    let link = Link::before(&socket)?;
    let words = format!("8080:{} --hold 20s", target.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    let held = pod.spawn("hold --to 127.0.0.1:8080").await?;
    let _: Holding = held.report(SOON).await?;

    link.drop_connections();

    forward.event("lost", SOON, |_| true).await?;
    forward.event("reconnected", SOON, |_| true).await?;
    let ended: Ended = held.report(SOON).await?;
    same("the connection that was open", ended.ended, End::Reset)?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    same("sessions", shim.sessions().await?.len(), 1)?;
    // And again: tickets rotate.
    link.drop_connections();
    until("a second return", SOON, || async {
        Ok((forward.events("reconnected").len() == 2).then_some(()))
    })
    .await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    same("the forward", forward.ended(), None)
}

async fn a_hold_that_runs_out_frees_the_port(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let mut forward = stage.forward(&shim, &pod, "8080:3000 --hold 8s").await?;

    let killed = Instant::now();
    forward.kill().await?;

    let state = SessionState::Held;
    until("the session to be held", SOON, || async {
        let sessions = shim.sessions().await?;
        Ok(sessions.first().filter(|s| s.state() == state).map(drop))
    })
    .await?;
    let output = pod.run("listen --address 127.0.0.1:8080").await?;
    same("taken while held", output.code, 1)?;
    shim.idle(Duration::from_secs(8) + SOON).await?;
    is_at_least("held for", killed.elapsed(), Duration::from_millis(7900))?;
    let output = pod.run("listen --address 127.0.0.1:8080").await?;
    same("free", (output.code, output.stderr), (0, String::new()))
}

async fn a_target_that_refuses_is_a_reset_and_the_session_lives(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let port = nobody()?.port();
    let mut forward = stage.forward(&shim, &pod, &format!("8080:{port}")).await?;

    let ended: Ended = pod.probe("expect-end --to 127.0.0.1:8080 --send 5").await?;

    same("end in the pod", ended.ended, End::Reset)?;
    let told = |event: &serde_json::Value| event["reason"] == "target_refused";
    let event = forward.event("rejected", SOON, told).await?;
    let sentence = event["message"].as_str().unwrap_or_default();
    says("the report", sentence, "connect: connection refused")?;
    says("the report", sentence, &port.to_string())?;
    let labels = [r#"target_refused""#];
    shim.counts("sternline_connections_total", &labels, 1.0)
        .await?;
    same("the forward", forward.ended(), None)
}

async fn a_target_that_does_not_answer_is_given_up_in_time(stage: &mut Stage) -> Result<()> {
    let pod = stage.pod("web").await?;
    let shim = stage.shim("--dial-timeout 1s").await?;
    // A listener whose queue is full: the kernel drops what comes on top.
    let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    deaf.bind(&"127.0.0.1:0".parse::<SocketAddr>()?.into())?;
    deaf.listen(1)?;
    let address = deaf.local_addr()?.as_socket().context("no address")?;
    let mut queue = Vec::new();
    for _ in 0..4 {
        let queued = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        queued.set_nonblocking(true)?;
        // On loopback the kernel has queued it, or dropped it, on return.
        let _ = queued.connect(&address.into());
        queue.push(queued);
    }
    let words = format!("8080:127.0.0.1:{}", address.port());
    let forward = stage.forward(&shim, &pod, &words).await?;

    let ended: Ended = pod.probe("expect-end --to 127.0.0.1:8080").await?;

    same("end in the pod", ended.ended, End::Reset)?;
    is_at_least("milliseconds", ended.after_ms, 900)?;
    // The default is ten times as long.
    is_at_least("milliseconds at most", 8000, ended.after_ms)?;
    let told = |event: &serde_json::Value| event["reason"] == "target_timeout";
    forward.event("rejected", SOON, told).await?;
    drop(queue);
    Ok(())
}

async fn a_target_that_is_not_there_yet_can_come_later(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let address = nobody()?;
    let words = format!("8080:127.0.0.1:{}", address.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;
    let ended: Ended = pod.probe("expect-end --to 127.0.0.1:8080").await?;
    same("before", ended.ended, End::Reset)?;

    let _target = Target::start_at(address, Manner::Echo).await?;

    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    Ok(())
}
