//! Bytes from a pod to the workstation and back: all of them, unchanged, in
//! both directions, with the ends as they were.

use crate::support::programs;
use crate::support::runner::themed;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target};
use crate::support::{SOON, same, until};
use anyhow::Result;
use sternline_e2e::pattern::checksum;
use sternline_e2e::report::{Echo, End, Ended, Listening, Many, Transfer};
use tokio::process::Command;

themed! {
    every node:
        a_process_in_a_pod_reaches_a_server_on_the_workstation,
        one_gibibyte_each_way_at_once_arrives_unchanged,
        a_thousand_connections_at_once_carry_data,
        what_a_target_says_after_the_pod_has_finished_arrives,
        what_a_pod_says_after_the_target_has_finished_arrives,
        a_reset_by_the_pod_reaches_the_target_as_a_reset,
        a_reset_by_the_target_reaches_the_pod_as_a_reset,
        a_target_that_speaks_first_is_heard,
        a_target_that_closes_at_once_is_a_clean_end,
        a_thousand_connections_one_after_the_other_leave_nothing_open;
    container runtimes:
}

const MIB: u64 = 1024 * 1024;

async fn a_process_in_a_pod_reaches_a_server_on_the_workstation(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let forward = stage.forward(&shim, &pod, &words).await?;

    let echo: Echo = pod.probe("echo --to 127.0.0.1:8080 --bytes 100000").await?;

    same("bytes that came back", echo.bytes, 100_000)?;
    let seen = target.ended(1, SOON).await?;
    same("bytes at the server", seen[0].received, 100_000)?;
    let closed = forward.event("closed", SOON, |_| true).await?;
    same(
        "counted from the pod",
        closed["bytes_from_pod"].as_u64(),
        Some(100_000),
    )?;
    same(
        "counted to the pod",
        closed["bytes_to_pod"].as_u64(),
        Some(100_000),
    )?;
    same("how it ended", closed["end"].as_str(), Some("clean"))
}

async fn one_gibibyte_each_way_at_once_arrives_unchanged(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let gib = 1024 * MIB;
    let plan = format!("--send {gib} --receive {gib} --seed 7 --timeout 120");
    let mut command = Command::new(programs::probe()?);
    command.args(format!("serve-transfer --address 127.0.0.1:0 {plan}").split(' '));
    let mut server = stage.start("server", command)?;
    let read = |line: &str| serde_json::from_str::<Listening>(line).ok();
    let listening = server
        .line("the server to listen", SOON, read)
        .await?
        .listening;
    let words = format!("8080:{}", listening.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;

    let inside: Transfer = pod
        .probe(&format!("transfer --to 127.0.0.1:8080 {plan}"))
        .await?;

    same("the server's exit code", server.exit(SOON).await?.code, 0)?;
    let read = |line: &str| serde_json::from_str::<Transfer>(line).ok();
    let outside = server.line("the server's report", SOON, read).await?;
    same("bytes out of the pod", outside.received, gib)?;
    same("bytes into the pod", inside.received, gib)?;
    same("SHA-256 out", outside.received_sha256, inside.sent_sha256)?;
    same("SHA-256 in", inside.received_sha256, outside.sent_sha256)
}

async fn a_thousand_connections_at_once_carry_data(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let pod = stage.pod("web").await?;
    let shim = stage.shim("--max-connections-per-session 1000").await?;
    let words = format!("8080:{}", target.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;

    let many: Many = pod
        .probe("many --to 127.0.0.1:8080 --connections 1000 --bytes 10000 --timeout 60")
        .await?;

    same("failed", many.failed.len(), 0)?;
    same("carried their data", many.ok, 1000)?;
    let seen = target.ended(1000, SOON).await?;
    let whole = seen.iter().filter(|one| one.received == 10_000);
    same("whole at the server", whole.count(), 1000)
}

async fn what_a_target_says_after_the_pod_has_finished_arrives(stage: &mut Stage) -> Result<()> {
    let (seed, bytes) = (5, 3 * MIB);
    let target = Target::start(Manner::AnswerAtTheEnd { seed, bytes }).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;

    let send = 5 * MIB;
    let inside: Transfer = pod
        .probe(&format!(
            "finish-first --to 127.0.0.1:8080 --send {send} --seed 6"
        ))
        .await?;

    same("answered", inside.received, bytes)?;
    same(
        "SHA-256 of the answer",
        inside.received_sha256,
        checksum(seed, bytes),
    )?;
    let seen = target.ended(1, SOON).await?;
    same("at the server", seen[0].received, send)?;
    same(
        "SHA-256 at the server",
        &seen[0].sha256,
        &inside.sent_sha256,
    )?;
    same("end at the server", seen[0].end, End::Eof)
}

async fn what_a_pod_says_after_the_target_has_finished_arrives(stage: &mut Stage) -> Result<()> {
    let (seed, bytes) = (8, 5 * MIB);
    let target = Target::start(Manner::FinishFirst { seed, bytes }).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;

    let send = 3 * MIB;
    let inside: Transfer = pod
        .probe(&format!(
            "finish-last --to 127.0.0.1:8080 --send {send} --seed 9"
        ))
        .await?;

    same("received", inside.received, bytes)?;
    same(
        "SHA-256 received",
        inside.received_sha256,
        checksum(seed, bytes),
    )?;
    let seen = target.ended(1, SOON).await?;
    same("at the server", seen[0].received, send)?;
    same("SHA-256 at the server", &seen[0].sha256, &checksum(9, send))?;
    same("end at the server", seen[0].end, End::Eof)
}

async fn a_reset_by_the_pod_reaches_the_target_as_a_reset(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let forward = stage.forward(&shim, &pod, &words).await?;

    let output = pod.run("reset --to 127.0.0.1:8080 --after 100").await?;

    same("the probe's exit code", output.code, 0)?;
    let seen = target.ended(1, SOON).await?;
    same("at the server", seen[0].received, 100)?;
    same("end at the server", seen[0].end, End::Reset)?;
    let closed = forward.event("closed", SOON, |_| true).await?;
    same("how it ended", closed["end"].as_str(), Some("pod_reset"))
}

async fn a_reset_by_the_target_reaches_the_pod_as_a_reset(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Reset).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let forward = stage.forward(&shim, &pod, &words).await?;

    let ended: Ended = pod
        .probe("expect-end --to 127.0.0.1:8080 --send 100")
        .await?;

    same("end in the pod", ended.ended, End::Reset)?;
    let closed = forward.event("closed", SOON, |_| true).await?;
    same("how it ended", closed["end"].as_str(), Some("target_reset"))
}

async fn a_target_that_speaks_first_is_heard(stage: &mut Stage) -> Result<()> {
    let (seed, bytes) = (3, 20);
    let target = Target::start(Manner::FinishFirst { seed, bytes }).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;

    let inside: Transfer = pod
        .probe("finish-last --to 127.0.0.1:8080 --send 0")
        .await?;

    same(
        "its greeting",
        inside.received_sha256,
        checksum(seed, bytes),
    )
}

async fn a_target_that_closes_at_once_is_a_clean_end(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Close).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;

    let ended: Ended = pod.probe("expect-end --to 127.0.0.1:8080").await?;

    same("end in the pod", ended.ended, End::Eof)?;
    same("received before", ended.received, 0)
}

async fn a_thousand_connections_one_after_the_other_leave_nothing_open(
    stage: &mut Stage,
) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let forward = stage.forward(&shim, &pod, &words).await?;
    let lap = "many --to 127.0.0.1:8080 --connections 100 --bytes 100";
    let _: Many = pod.probe(lap).await?;
    target.ended(100, SOON).await?;
    shim.connections_are(0, SOON).await?;
    let before = (shim.usage()?.descriptors, forward.usage()?.descriptors);

    for _ in 0..9 {
        let many: Many = pod.probe(lap).await?;
        same("carried their data", many.ok, 100)?;
    }

    target.ended(1000, SOON).await?;
    shim.connections_are(0, SOON).await?;
    // The last sockets are closed a moment after the last end was told.
    until("no more descriptors than before", SOON, || async {
        let now = (shim.usage()?.descriptors, forward.usage()?.descriptors);
        Ok((now.0 <= before.0 && now.1 <= before.1).then_some(()))
    })
    .await
}
