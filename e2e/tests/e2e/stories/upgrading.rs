//! serve is replaced, or dies, beside a binder that keeps what it had: no port
//! becomes free, and the clients come back.

use crate::support::binder::SERVE;
use crate::support::client::{Tunnel, call, redeem, request, split};
use crate::support::forward::Forward;
use crate::support::node::{Pod, Spawned};
use crate::support::process::Process;
use crate::support::programs;
use crate::support::runner::themed;
use crate::support::shim::Shim;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target};
use crate::support::{SOON, same, says, until};
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use std::io::Write as _;
use std::time::{Duration, Instant};
use sternline_api::v1alpha1 as pb;
use sternline_e2e::report::{Besieged, Echo, Holding, Listeners};
use tokio::process::Command;

themed! {
    every node:
        no_port_is_free_while_serve_is_replaced,
        what_nobody_takes_over_is_closed,
        a_sandbox_that_goes_meanwhile_is_let_go,
        connections_may_finish_before_serve_leaves,
        an_order_to_end_ends_everything_for_good,
        two_serves_at_once_are_refused,
        a_binder_that_died_before_is_given_everything_again,
        a_ticket_is_good_until_the_next_one_is_told;
    container runtimes:
}

const FIRST: u16 = 20_000;
const FORWARDS: u16 = 5;
const EACH: u16 = 10;

/// Five sessions with ten listeners each in one pod. Only the last asked for a hold.
async fn fifty(stage: &Stage, shim: &Shim, pod: &Pod, target: &Target) -> Result<Vec<Forward>> {
    let mut forwards = Vec::new();
    for n in 0..FORWARDS {
        let ports = (0..EACH).map(|port| FIRST + n * EACH + port);
        let specs = ports.map(|port| format!("{port}:{}", target.port()));
        let hold = if n + 1 == FORWARDS { " --hold 60s" } else { "" };
        let words = specs.collect::<Vec<_>>().join(" ") + hold;
        forwards.push(stage.forward(shim, pod, &words).await?);
    }
    Ok(forwards)
}

/// One that lasts through everything else.
async fn besiege(pod: &Pod) -> Result<Spawned> {
    let count = FORWARDS * EACH;
    pod.spawn(&format!("besiege --first {FIRST} --count {count}"))
        .await
}

/// What it found so far, some rounds from now.
async fn besieged(siege: &Spawned) -> Result<Besieged> {
    let last = || {
        let text = siege.stdout();
        let mut lines = text.lines().rev();
        lines.find_map(|line| serde_json::from_str::<Besieged>(line).ok())
    };
    let rounds = last().map_or(0, |seen| seen.rounds);
    until("more of the siege", SOON, || async {
        Ok(last().filter(|seen| seen.rounds > rounds + 20))
    })
    .await
}

async fn back(forward: &Forward, times: usize) -> Result<()> {
    until("the forward to be back", SOON, || async {
        Ok((forward.events("reconnected").len() >= times).then_some(()))
    })
    .await
}

async fn no_port_is_free_while_serve_is_replaced(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, mut shim) = (
        stage.pod("web").await?,
        stage.shim_apart("--restart-grace 60s").await?,
    );
    let before = settled(&mut shim).await?;
    let mut forwards = fifty(stage, &shim, &pod, &target).await?;
    let streaming = shim.streaming_address()?;
    let mut siege = besiege(&pod).await?;
    for (times, signal) in [Signal::SIGTERM, Signal::SIGKILL].into_iter().enumerate() {
        besieged(&siege).await?;
        shim.signal(signal)?;
        shim.exit(SOON).await?;
        ensure!(shim.socket().exists(), "the call's socket is gone");
        // Nobody serves, and yet nothing is free and nobody is refused.
        besieged(&siege).await?;
        let start = Instant::now();
        shim.serve_again(stage).await?;
        let up = start.elapsed();
        for forward in &forwards {
            back(forward, times + 1).await?;
        }
        writeln!(
            std::io::stderr(),
            "after {signal}: serve was up within {up:?}, 50 listeners were back within {:?}",
            start.elapsed()
        )?;
        same("where it streams", shim.streaming_address()?, streaming)?;
        for n in 0..FORWARDS * EACH {
            let _: Echo = pod
                .probe(&format!("echo --to 127.0.0.1:{}", FIRST + n))
                .await?;
        }
    }
    let seen = besieged(&siege).await?;
    siege.kill().await?;
    same("free while serve was away", seen.free, vec![])?;
    same("refused while serve was away", seen.refused, vec![])?;
    same(
        "taken over",
        shim.metric("sternline_sessions_taken_over_total", &[])
            .await?,
        5.0,
    )?;

    for forward in &mut forwards {
        forward.signal(Signal::SIGINT)?;
        same("exit code", forward.exit(SOON).await?.code, 0)?;
    }
    // At once: the goodbye was answered when the binder had closed them too.
    let bound: Listeners = pod.probe("listeners").await?;
    same("listeners in the pod", bound.listeners, vec![])?;
    shim.idle(SOON).await?;
    binder_has(&mut shim, before).await
}

/// How many descriptors the binder has between two looks at its sandboxes.
async fn settled(shim: &mut Shim) -> Result<usize> {
    let process = shim.binder()?.process();
    let deadline = Instant::now() + SOON;
    let (mut last, mut times) = (0, 0);
    while times < 20 {
        ensure!(Instant::now() < deadline, "the binder does not settle");
        let now = process.usage()?.descriptors;
        times = if now == last { times + 1 } else { 0 };
        last = now;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(last)
}

/// Waits until its log says so.
async fn binder_says(shim: &mut Shim, words: &str) -> Result<()> {
    let process = shim.binder()?.process();
    until(words, SOON, || async {
        Ok(process.stderr().contains(words).then_some(()))
    })
    .await
}

/// Waits until the binder has so many descriptors: between two looks at its
/// sandboxes.
async fn binder_has(shim: &mut Shim, descriptors: usize) -> Result<()> {
    let process = shim.binder()?.process();
    let what = format!("the binder to have {descriptors} descriptors");
    let reached = until(&what, SOON, || async {
        Ok((process.usage()?.descriptors == descriptors).then_some(()))
    });
    let reached = reached.await;
    let now = process.usage()?.descriptors;
    reached.with_context(|| format!("it has {now}"))
}

async fn what_nobody_takes_over_is_closed(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, mut shim) = (
        stage.pod("web").await?,
        stage.shim_apart("--restart-grace 2s").await?,
    );
    let words = format!("8080:{}", target.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    shim.kill().await?;
    let lost = forward.event("lost", SOON, |_| true).await?;
    same(
        "tries to come back for",
        lost["hold_ms"].as_u64(),
        Some(2000),
    )?;

    until("the listeners to be closed", SOON, || async {
        let bound: Listeners = pod.probe("listeners").await?;
        Ok(bound.listeners.is_empty().then_some(()))
    })
    .await?;
    same("exit code", forward.exit(SOON).await?.code, 7)?;
    binder_says(&mut shim, "no serve came in time").await?;
    // And the next one begins with nothing.
    shim.serve_again(stage).await?;
    same("sessions", shim.sessions().await?.len(), 0)?;
    let _again = stage.forward(&shim, &pod, &words).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    Ok(())
}

async fn a_sandbox_that_goes_meanwhile_is_let_go(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, mut shim) = (
        stage.pod("web").await?,
        stage.shim_apart("--restart-grace 5m").await?,
    );
    let (other, before) = (stage.pod("db").await?, settled(&mut shim).await?);
    let words = format!("8080:{} --hold 60s", target.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    let stays = stage.forward(&shim, &other, &words).await?;
    shim.kill().await?;
    pod.remove().await?;
    // One that serve's connection had is less; two listeners are the other's.
    binder_has(&mut shim, before + 1).await?;
    binder_says(&mut shim, "its sandbox is gone").await?;

    shim.serve_again(stage).await?;
    back(&stays, 1).await?;
    same("sessions", shim.sessions().await?.len(), 1)?;
    same("exit code", forward.exit(SOON).await?.code, 7)?;
    let _: Echo = other.probe("echo --to 127.0.0.1:8080").await?;
    Ok(())
}

async fn connections_may_finish_before_serve_leaves(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let flags = "--restart-grace 60s --drain-timeout 10m";
    let (pod, mut shim) = (stage.pod("web").await?, stage.shim_apart(flags).await?);
    let words = format!("8080:{}", target.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    let mut held = pod
        .spawn("hold --to 127.0.0.1:8080 --connections 3")
        .await?;
    let _: Holding = held.report(SOON).await?;

    shim.signal(Signal::SIGTERM)?;
    let told = forward.event("draining", SOON, |_| true).await?;
    says("the notice", &told["message"].to_string(), "restarting")?;
    same("connections", shim.sessions().await?[0].connections, 3)?;
    // It comes too late for this serve, and waits for the next.
    let mut late = pod
        .spawn("hold --to 127.0.0.1:8080 --connections 1")
        .await?;
    held.kill().await?;
    same("exit code", shim.exit(SOON).await?.code, 0)?;
    same("the forward", forward.ended(), None)?;
    shim.serve_again(stage).await?;
    back(&forward, 1).await?;
    let _: Holding = late.report(SOON).await?;
    late.kill().await
}

async fn an_order_to_end_ends_everything_for_good(stage: &mut Stage) -> Result<()> {
    let (pod, mut shim) = (
        stage.pod("web").await?,
        stage.shim_apart("--restart-grace 5m").await?,
    );
    let before = settled(&mut shim).await?;
    let mut forward = stage.forward(&shim, &pod, "8080 --hold 60s").await?;
    shim.signal(Signal::SIGINT)?;
    same("exit code", forward.exit(SOON).await?.code, 9)?;
    same("exit code of serve", shim.exit(SOON).await?.code, 0)?;
    ensure!(!shim.socket().exists(), "its socket is left");
    let bound: Listeners = pod.probe("listeners").await?;
    same("listeners in the pod", bound.listeners, vec![])?;
    // Its connection and the two sockets of its own.
    binder_has(&mut shim, before - 3).await
}

async fn two_serves_at_once_are_refused(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, mut shim) = (stage.pod("web").await?, stage.shim_apart("").await?);
    let words = format!("8080:{}", target.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;
    let mut command = Command::new(programs::shim()?);
    command
        .arg("serve")
        .arg(format!("--run-as={SERVE}:{SERVE}"));
    command.arg("--socket").arg(shim.socket());
    let binder = shim.binder()?.socket();
    command.arg(format!("--binder=unix:{}", binder.display()));
    let mut second: Process = stage.start("second", command)?;
    same("exit code", second.exit(SOON).await?.code, 1)?;
    says(
        "the refusal",
        &second.stderr(),
        "another server with the socket",
    )?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    Ok(())
}

async fn a_binder_that_died_before_is_given_everything_again(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, mut shim) = (
        stage.pod("web").await?,
        stage.shim_apart("--restart-grace 60s").await?,
    );
    let words = format!("8080:{}", target.port());
    let forward = stage.forward(&shim, &pod, &words).await?;
    let kept = settled(&mut shim).await?;
    shim.binder()?.kill().await?;
    shim.binder()?.again(stage).await?;
    binder_has(&mut shim, kept).await?;
    shim.kill().await?;
    shim.serve_again(stage).await?;
    back(&forward, 1).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    Ok(())
}

async fn a_ticket_is_good_until_the_next_one_is_told(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, mut shim) = (
        stage.pod("web").await?,
        stage.shim_apart("--restart-grace 60s").await?,
    );
    let mut wish = request(&pod, &[8080]);
    wish.options = Some(pb::SessionOptions {
        hold_ms: 60_000,
        ..Default::default()
    });
    let session = call(&shim, wish).await?;
    let (address, token) = split(&session.url)?;
    let first = redeem(address, &token).await?;
    let mut tunnel = Tunnel::serve(first, target.address()).await?;
    let tickets = tunnel.ready().await?.tickets.context("no tickets")?;
    let path = format!("/v1alpha1/sessions/{}", tickets.resume);
    shim.kill().await?;
    shim.serve_again(stage).await?;

    // What the first of these is told is lost on its way, as far as the node knows.
    for _ in 0..2 {
        let stream = until("the ticket to be taken", SOON, || async {
            Ok(redeem(address, &path).await.ok())
        });
        let mut tunnel = Tunnel::serve(stream.await?, target.address()).await?;
        let ready = tunnel.ready().await?;
        same("session", &ready.session_id, &session.session_id)?;
        let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
        tunnel.cut().await;
    }
    Ok(())
}
