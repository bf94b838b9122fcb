//! The audit log: what it says of whom, and that nothing waits for it.

use crate::support::audit::{records, told};
use crate::support::binder::give_to_serve;
use crate::support::client::{call, request};
use crate::support::disk::Disk;
use crate::support::node::Pod;
use crate::support::runner::themed;
use crate::support::shim::Shim;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target, nobody};
use crate::support::{SOON, is_at_least, same, says, until};
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use sternline_e2e::report::{Echo, Ended, Holding, Many};
use tokio::process::Command;

themed! {
    every node:
        sessions_and_connections_are_recorded_with_who_where_and_how_long,
        a_connection_cut_by_the_end_of_its_session_is_recorded_with_its_bytes,
        connections_that_are_turned_away_are_summed_up,
        a_full_disk_stops_no_forward_and_the_loss_is_told,
        a_shim_that_must_record_refuses_sessions_while_it_cannot,
        a_log_that_was_moved_away_is_begun_anew,
        a_reader_that_sleeps_delays_nobody,
        the_audit_log_can_be_standard_output;
    container runtimes:
        the_pod_of_a_session_is_named
}

async fn shim(stage: &Stage, log: &Path, flags: &str) -> Result<Shim> {
    let flags = format!("--audit-log {} {flags}", log.display());
    stage.shim(&flags).await
}

/// So many connections at once, each with 100 bytes that come back.
async fn many(pod: &Pod, count: usize) -> Result<Many> {
    let words = format!("many --to 127.0.0.1:8080 --connections {count} --bytes 100");
    pod.probe(&words).await
}

/// The records of an event so far.
fn of<'a>(event: &str, records: &'a [Value]) -> Vec<&'a Value> {
    records.iter().filter(|r| r["event"] == event).collect()
}

async fn sessions_and_connections_are_recorded_with_who_where_and_how_long(
    stage: &mut Stage,
) -> Result<()> {
    let echo = Target::start(Manner::Echo).await?;
    let nowhere = nobody()?.port();
    let log = stage.file("audit.log");
    let (pod, shim) = (stage.pod("web").await?, shim(stage, &log, "").await?);
    let made = call(&shim, request(&pod, &[8079])).await?;
    let words = format!("127.0.0.1:8080:{} 127.0.0.1:8081:{nowhere}", echo.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080 --bytes 1000").await?;
    let _: Ended = pod.probe("expect-end --to 127.0.0.1:8081").await?;
    let mut connections = told(&log, "connection", 2).await?;
    // The second may be over before the first.
    connections.sort_by_key(|record| record["listener"]["id"].as_u64());
    forward.signal(Signal::SIGTERM)?;
    forward.exit(SOON).await?;
    let ends = told(&log, "session_end", 1).await?;
    let starts = told(&log, "session_start", 2).await?;

    let (session, start) = (&connections[0]["session_id"], &starts[1]);
    same("session", &start["session_id"], session)?;
    let who = json!({"user": "uid:0", "uid": "0", "groups": ["gid:0"]});
    let listeners = json!([
        {"id": start["listeners"][0]["id"], "address": "127.0.0.1", "port": 8080},
        {"id": start["listeners"][1]["id"], "address": "127.0.0.1", "port": 8081},
    ]);
    same("listeners", &start["listeners"], &listeners)?;
    for record in connections.iter().chain(&ends).chain([start]) {
        same("version", record["version"].as_u64(), Some(1))?;
        same("session", &record["session_id"], session)?;
        same("who", &record["requester"], &who)?;
        same("where", record["sandbox_id"].as_str(), Some(pod.id()))?;
    }
    let [good, bad] = [&connections[0], &connections[1]];
    same("listener", &good["listener"], &listeners[0])?;
    same("peer", good["peer"]["address"].as_str(), Some("127.0.0.1"))?;
    same("from the pod", good["bytes_from_pod"].as_u64(), Some(1000))?;
    same("to the pod", good["bytes_to_pod"].as_u64(), Some(1000))?;
    same("end", good["end"].as_str(), Some("ok"))?;
    same("end", bad["end"].as_str(), Some("target_refused"))?;
    same("listener", &bad["listener"], &listeners[1])?;
    let end = &ends[0];
    same("end", end["end"].as_str(), Some("done"))?;
    same("connections", end["connections"].as_u64(), Some(2))?;
    same("from the pod", end["bytes_from_pod"].as_u64(), Some(1000))?;

    let text = std::fs::read_to_string(&log)?;
    let token = made.url.rsplit('/').next().context("no token")?;
    ensure!(!text.contains(token), "a token is in the audit log");
    ensure!(!text.contains("/sessions/"), "a path is in the audit log");
    Ok(())
}

async fn the_pod_of_a_session_is_named(stage: &mut Stage) -> Result<()> {
    let log = stage.file("audit.log");
    let (pod, shim) = (stage.pod("web").await?, shim(stage, &log, "").await?);
    call(&shim, request(&pod, &[8080])).await?;
    let start = &told(&log, "session_start", 1).await?[0];
    let listed = shim.sessions().await?;
    let named = listed[0].pod.as_ref().context("no pod is listed")?;
    let expected = json!({"namespace": named.namespace, "name": named.name, "uid": named.uid});
    same("pod", &start["pod"], &expected)
}

async fn a_connection_cut_by_the_end_of_its_session_is_recorded_with_its_bytes(
    stage: &mut Stage,
) -> Result<()> {
    let echo = Target::start(Manner::Echo).await?;
    let log = stage.file("audit.log");
    let (pod, shim) = (stage.pod("web").await?, shim(stage, &log, "").await?);
    let words = format!("8080:{}", echo.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    let held = pod
        .spawn("hold --to 127.0.0.1:8080 --connections 3")
        .await?;
    let _: Holding = held.report(SOON).await?;

    forward.signal(Signal::SIGTERM)?;
    forward.exit(SOON).await?;

    let end = &told(&log, "session_end", 1).await?[0];
    let cut = told(&log, "connection", 3).await?;
    let moved: u64 = cut
        .iter()
        .filter_map(|c| c["bytes_from_pod"].as_u64())
        .sum();
    is_at_least("bytes", moved, 3)?;
    same("bytes", end["bytes_from_pod"].as_u64(), Some(moved))?;
    let all = records(&log)?;
    let last = all.iter().rposition(|r| r["event"] == "connection");
    let end = all.iter().position(|r| r["event"] == "session_end");
    ensure!(last < end, "a connection is told after its session's end");
    Ok(())
}

async fn connections_that_are_turned_away_are_summed_up(stage: &mut Stage) -> Result<()> {
    let echo = Target::start(Manner::Echo).await?;
    let log = stage.file("audit.log");
    let shim = shim(stage, &log, "--max-connections-per-session 10").await?;
    let pod = stage.pod("web").await?;
    let words = format!("8080:{}", echo.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    let held = pod
        .spawn("hold --to 127.0.0.1:8080 --connections 10")
        .await?;
    let _: Holding = held.report(SOON).await?;

    // Fewer at once than the kernel's queue holds, which is as long as the
    // limit: what finds it full is never seen by the shim.
    for _ in 0..20 {
        let failed = many(&pod, 10).await?.failed;
        same("turned away", failed.values().sum::<u32>(), 10)?;
    }
    // Told by itself, not by the end.
    told(&log, "rejections", 1).await?;
    forward.kill().await?;

    let end = &told(&log, "session_end", 1).await?[0];
    let all = records(&log)?;
    let sums = of("rejections", &all);
    ensure!(sums.len() < 20, "{} lines", sums.len());
    let parts = sums
        .iter()
        .flat_map(|r| r["rejections"].as_array().into_iter().flatten());
    let parts: Vec<&Value> = parts.collect();
    ensure!(
        parts.iter().all(|p| p["reason"] == "connection_limit"),
        "{parts:?}"
    );
    let counted: u64 = parts.iter().filter_map(|p| p["count"].as_u64()).sum();
    same("counted", counted, 200)?;
    same("at the end", end["rejected"].as_u64(), Some(200))
}

async fn a_full_disk_stops_no_forward_and_the_loss_is_told(stage: &mut Stage) -> Result<()> {
    let echo = Target::start(Manner::Echo).await?;
    let disk = Disk::small(&stage.file("disk"))?;
    let log = disk.path().join("audit.log");
    let (pod, shim) = (
        stage.pod("web").await?,
        shim(stage, &log, "--audit-queue 16").await?,
    );
    let words = format!("8080:{}", echo.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;
    told(&log, "session_start", 1).await?;

    let filler = disk.fill()?;
    same("carried their data", many(&pod, 100).await?.ok, 100)?;
    shim.counts("sternline_audit_failing", &[], 1.0).await?;
    is_at_least(
        "lost",
        shim.metric("sternline_audit_lost_total", &[]).await?,
        1.0,
    )?;
    says("the log", &shim.stderr(), "the audit log cannot be written")?;
    std::fs::remove_file(filler)?;

    told(&log, "lost", 1).await?;
    let written = until("each connection to be written or lost", SOON, || async {
        let lost = told(&log, "lost", 1).await?;
        let lost = lost.iter().filter_map(|record| record["lost"].as_u64());
        let written = told(&log, "connection", 0).await?.len() as u64;
        Ok((written + lost.sum::<u64>() == 100).then_some(written))
    })
    .await?;
    shim.counts("sternline_audit_failing", &[], 0.0).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    told(&log, "connection", written as usize + 1).await?;
    Ok(())
}

async fn a_shim_that_must_record_refuses_sessions_while_it_cannot(stage: &mut Stage) -> Result<()> {
    let echo = Target::start(Manner::Echo).await?;
    let disk = Disk::small(&stage.file("disk"))?;
    let log = disk.path().join("audit.log");
    let (pod, shim) = (
        stage.pod("web").await?,
        shim(stage, &log, "--audit-required").await?,
    );
    let words = format!("8080:{}", echo.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;
    told(&log, "session_start", 1).await?;

    let filler = disk.fill()?;
    same("carried their data", many(&pod, 100).await?.ok, 100)?;
    shim.counts("sternline_audit_failing", &[], 1.0).await?;
    let place = format!("sandbox/{}", pod.id());
    let refusal = stage.refused(&shim, &place, "8081:1").await?;
    refusal.is(6, &["--audit-required"])?;
    let label = [r#"type="audit_unavailable""#];
    shim.counts("sternline_errors_total", &label, 1.0).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    std::fs::remove_file(filler)?;

    shim.counts("sternline_audit_failing", &[], 0.0).await?;
    let _second = stage.forward(&shim, &pod, "8081:1").await?;
    told(&log, "connection", 101).await?;
    Ok(())
}

async fn a_log_that_was_moved_away_is_begun_anew(stage: &mut Stage) -> Result<()> {
    let log = stage.file("audit.log");
    let (pod, shim) = (stage.pod("web").await?, shim(stage, &log, "").await?);
    call(&shim, request(&pod, &[8080])).await?;
    told(&log, "session_start", 1).await?;

    let first = stage.file("audit.log.1");
    std::fs::rename(&log, &first)?;
    call(&shim, request(&pod, &[8081])).await?;
    until("the new log", SOON, || async {
        Ok(log.exists().then_some(()))
    })
    .await?;
    told(&log, "session_start", 1).await?;
    same(
        "sessions in the old log",
        of("session_start", &records(&first)?).len(),
        1,
    )?;

    // Moved away and asked for at once, with nothing to write.
    let second = stage.file("audit.log.2");
    std::fs::rename(&log, &second)?;
    shim.signal(Signal::SIGHUP)?;
    until("the next log", SOON, || async {
        Ok(log.exists().then_some(()))
    })
    .await?;
    call(&shim, request(&pod, &[8082])).await?;
    told(&log, "session_start", 1).await?;
    let whole = [records(&first)?, records(&second)?, records(&log)?].concat();
    let numbers = whole
        .iter()
        .filter_map(|r| r["id"].as_str()?.rsplit('-').next()?.parse().ok());
    let expected: Vec<usize> = (1..=whole.len()).collect();
    same("numbers", numbers.collect::<Vec<usize>>(), expected)
}

async fn a_reader_that_sleeps_delays_nobody(stage: &mut Stage) -> Result<()> {
    let echo = Target::start(Manner::Echo).await?;
    let pipe = stage.file("audit.pipe");
    mkfifo(&pipe, Mode::from_bits_truncate(0o600))?;
    give_to_serve(&pipe)?;
    let (pod, shim) = (
        stage.pod("web").await?,
        shim(
            stage,
            &pipe,
            "--audit-queue 16 --max-connections-per-session 1000",
        )
        .await?,
    );
    let words = format!("8080:{}", echo.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    // A writer that was merely held up catches up; one before a full pipe does not.
    until("the log to fail", Duration::from_secs(120), || async {
        same("carried their data", many(&pod, 200).await?.ok, 200)?;
        let failing = shim.metric("sternline_audit_failing", &[]).await?;
        Ok((failing == 1.0).then_some(()))
    })
    .await?;
    is_at_least(
        "lost",
        shim.metric("sternline_audit_lost_total", &[]).await?,
        1.0,
    )?;

    let mut cat = Command::new("cat");
    cat.arg(&pipe);
    let cat = stage.start("cat", cat)?;
    told(cat.stdout_path(), "lost", 1).await?;
    forward.kill().await?;
    told(cat.stdout_path(), "session_end", 1).await?;
    Ok(())
}

async fn the_audit_log_can_be_standard_output(stage: &mut Stage) -> Result<()> {
    let (pod, mut shim) = (stage.pod("web").await?, stage.shim("--audit-log -").await?);
    let _forward = stage.forward(&shim, &pod, "8080").await?;
    shim.signal(Signal::SIGTERM)?;
    same("exit code", shim.exit(SOON).await?.code, 0)?;
    let lines = records(shim.stdout_path())?;
    let events: Vec<_> = lines
        .iter()
        .filter_map(|line| line["event"].as_str())
        .collect();
    let expected = vec!["shim_start", "session_start", "session_end", "shim_end"];
    same("events", events, expected)
}
