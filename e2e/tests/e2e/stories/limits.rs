//! Limits: what is beyond one is turned away, counted and reported, and what
//! is within it does not notice.

use crate::support::client::{call, reason, request};
use crate::support::runner::themed;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target};
use crate::support::{SOON, is_at_least, same, until};
use anyhow::{Context as _, Result, bail, ensure};
use sternline_api::v1alpha1 as pb;
use sternline_e2e::report::{Echo, End, Ended, Holding, Listeners, Many};

themed! {
    every node:
        the_257th_connection_is_rejected_counted_and_reported,
        the_connections_of_a_node_have_a_limit_across_sessions,
        the_sessions_of_a_sandbox_have_a_limit,
        the_sessions_of_a_node_have_a_limit,
        the_listeners_of_a_session_have_a_limit,
        tokens_in_flight_have_a_limit_and_none_is_evicted,
        a_token_that_nobody_redeems_frees_its_ports,
        a_hold_above_the_limit_is_refused,
        a_connection_that_stays_silent_too_long_is_ended,
        a_shim_with_few_descriptors_lowers_its_limit,
        a_shim_without_descriptors_rejects_and_recovers,
        a_forward_without_descriptors_rejects_and_recovers;
    container runtimes:
}

async fn the_257th_connection_is_rejected_counted_and_reported(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let forward = stage.forward(&shim, &pod, &words).await?;

    let many: Many = pod
        .probe("many --to 127.0.0.1:8080 --connections 257 --bytes 1000")
        .await?;

    same("carried their data", many.ok, 256)?;
    same("failed", many.failed, [(End::Reset, 1)].into())?;
    let labels = [r#"reason="connection_limit""#];
    shim.counts("sternline_rejections_total", &labels, 1.0)
        .await?;
    let told = |event: &serde_json::Value| event["reason"] == "connection_limit";
    let event = forward.event("rejected", SOON, told).await?;
    same("reported", event["count"].as_u64(), Some(1))?;
    until("the session to list it", SOON, || async {
        Ok((shim.sessions().await?[0].rejected_total == 1).then_some(()))
    })
    .await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    Ok(())
}

async fn the_connections_of_a_node_have_a_limit_across_sessions(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let pod = stage.pod("web").await?;
    let shim = stage.shim("--max-connections-per-node 5").await?;
    let port = target.port();
    let _one = stage.forward(&shim, &pod, &format!("8081:{port}")).await?;
    let two = stage.forward(&shim, &pod, &format!("8082:{port}")).await?;
    let mut held = pod
        .spawn("hold --to 127.0.0.1:8081 --connections 5")
        .await?;
    let _: Holding = held.report(SOON).await?;

    let ended: Ended = pod.probe("expect-end --to 127.0.0.1:8082").await?;

    same("the sixth, in another session", ended.ended, End::Reset)?;
    let told = |event: &serde_json::Value| event["reason"] == "node_connection_limit";
    two.event("rejected", SOON, told).await?;
    let labels = [r#"reason="node_connection_limit""#];
    shim.counts("sternline_rejections_total", &labels, 1.0)
        .await?;
    held.kill().await?;
    shim.connections_are(0, SOON).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8082").await?;
    Ok(())
}

async fn the_sessions_of_a_sandbox_have_a_limit(stage: &mut Stage) -> Result<()> {
    let (pod, other) = (stage.pod("web").await?, stage.pod("other").await?);
    let shim = stage.shim("--max-sessions-per-sandbox 2").await?;
    let mut first = stage.forward(&shim, &pod, "8081").await?;
    let _second = stage.forward(&shim, &pod, "8082").await?;
    let place = format!("sandbox/{}", pod.id());

    let refusal = stage.refused(&shim, &place, "8083").await?;

    refusal.is(1, &["2"])?;
    // Another sandbox has its own count, and an ended session frees its place.
    let _other = stage.forward(&shim, &other, "8083").await?;
    first.kill().await?;
    until("the first session to be gone", SOON, || async {
        Ok((shim.sessions().await?.len() == 2).then_some(()))
    })
    .await?;
    let _third = stage.forward(&shim, &pod, "8083").await?;
    Ok(())
}

async fn the_sessions_of_a_node_have_a_limit(stage: &mut Stage) -> Result<()> {
    let (pod, other) = (stage.pod("web").await?, stage.pod("other").await?);
    let shim = stage.shim("--max-sessions-per-node 1").await?;
    let _first = stage.forward(&shim, &pod, "8081").await?;
    let place = format!("sandbox/{}", other.id());
    let refusal = stage.refused(&shim, &place, "8082").await?;
    refusal.is(1, &["1"])?;
    let labels = [r#"reason="session_limit""#];
    shim.counts("sternline_rejections_total", &labels, 1.0)
        .await
}

async fn the_listeners_of_a_session_have_a_limit(stage: &mut Stage) -> Result<()> {
    let pod = stage.pod("web").await?;
    let shim = stage.shim("--max-listeners-per-session 3").await?;
    let place = format!("sandbox/{}", pod.id());
    let refusal = stage.refused(&shim, &place, "8081 8082 8083 8084").await?;
    refusal.is(1, &["3"])?;
    let bound: Listeners = pod.probe("listeners").await?;
    same("listeners in the pod", bound.listeners.len(), 0)?;
    let _forward = stage.forward(&shim, &pod, "8081 8082 8083").await?;
    Ok(())
}

async fn tokens_in_flight_have_a_limit_and_none_is_evicted(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("--max-tokens 2").await?);
    let first = call(&shim, request(&pod, &[8081])).await?;
    call(&shim, request(&pod, &[8082])).await?;

    let Err(status) = call(&shim, request(&pod, &[8083])).await else {
        bail!("a third token was given");
    };

    same("reason", reason(&status).as_str(), "token_limit")?;
    let bound: Listeners = pod.probe("listeners").await?;
    let third = bound.listeners.iter().filter(|a| a.port() == 8083);
    same("bound for the third", third.count(), 0)?;
    let (address, path) = crate::support::client::split(&first.url)?;
    crate::support::client::redeem(address, &path).await?;
    Ok(())
}

async fn a_token_that_nobody_redeems_frees_its_ports(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("--token-ttl 5s").await?);
    call(&shim, request(&pod, &[8081])).await?;
    let bound: Listeners = pod.probe("listeners").await?;
    same("bound at first", bound.listeners.len(), 2)?;

    shim.idle(SOON).await?;

    let output = pod.run("listen --address 127.0.0.1:8081").await?;
    same(
        "free again",
        (output.code, output.stderr),
        (0, String::new()),
    )
}

async fn a_hold_above_the_limit_is_refused(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("--max-hold 10s").await?);
    let place = format!("sandbox/{}", pod.id());
    let refusal = stage.refused(&shim, &place, "8080 --hold 11s").await?;
    refusal.is(2, &["hold", "10"])?;
    let _forward = stage.forward(&shim, &pod, "8080 --hold 10s").await?;
    Ok(())
}

async fn a_connection_that_stays_silent_too_long_is_ended(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let pod = stage.pod("web").await?;
    let shim = stage.shim("--idle-timeout 3s").await?;
    let words = format!("8080:{}", target.port());
    let forward = stage.forward(&shim, &pod, &words).await?;

    let ended: Ended = pod.probe("expect-end --to 127.0.0.1:8080 --send 5").await?;

    same("end in the pod", ended.ended, End::Reset)?;
    same("echoed before", ended.received, 5)?;
    is_at_least("milliseconds", ended.after_ms, 2900)?;
    let closed = forward.event("closed", SOON, |_| true).await?;
    same("reported", closed["end"].as_str(), Some("idle_timeout"))
}

async fn a_shim_with_few_descriptors_lowers_its_limit(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let pod = stage.pod("web").await?;
    // Some are kept for everything that is no connection.
    let shim = stage.shim_with_descriptors(576, "").await?;
    let mut client = shim.client();
    let limits = client
        .status(pb::StatusRequest {})
        .await?
        .into_inner()
        .limits;
    let limit = limits.context("no limits")?.connections_per_node;
    ensure!(
        (1..=200).contains(&limit),
        "{limit} connections with 576 descriptors"
    );
    let words = format!("8080:{}", target.port());
    let forward = stage.forward(&shim, &pod, &words).await?;

    let connections = limit + 50;
    let many: Many = pod
        .probe(&format!(
            "many --to 127.0.0.1:8080 --connections {connections}"
        ))
        .await?;

    same("carried their data", many.ok, limit)?;
    same("failed", many.failed, [(End::Reset, 50)].into())?;
    let told = |event: &serde_json::Value| event["reason"] == "node_connection_limit";
    forward.event("rejected", SOON, told).await?;
    shim.connections_are(0, SOON).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    Ok(())
}

async fn a_shim_without_descriptors_rejects_and_recovers(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let forward = stage.forward(&shim, &pod, &words).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    // What its own limit should prevent, made to happen all the same.
    shim.limit_descriptors(shim.usage()?.descriptors + 20)?;

    let many: Many = pod
        .probe("many --to 127.0.0.1:8080 --connections 100 --bytes 1000")
        .await?;

    is_at_least("carried their data", many.ok, 10)?;
    let rejected = many.failed.get(&End::Reset).copied().unwrap_or_default();
    same("carried or rejected", many.ok + rejected, 100)?;
    is_at_least("rejected", rejected, 10)?;
    let told = |event: &serde_json::Value| event["reason"] == "descriptor_limit";
    forward.event("rejected", SOON, told).await?;
    let labels = [r#"reason="descriptor_limit""#];
    shim.counts("sternline_rejections_total", &labels, f64::from(rejected))
        .await?;
    shim.connections_are(0, SOON).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    Ok(())
}

async fn a_forward_without_descriptors_rejects_and_recovers(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let forward = stage
        .forward_with_descriptors(64, &shim, &pod, &words)
        .await?;

    let many: Many = pod
        .probe("many --to 127.0.0.1:8080 --connections 100 --bytes 1000")
        .await?;

    is_at_least("carried their data", many.ok, 10)?;
    let rejected = many.failed.get(&End::Reset).copied().unwrap_or_default();
    same("carried or rejected", many.ok + rejected, 100)?;
    is_at_least("rejected", rejected, 1)?;
    let event = forward.event("rejected", SOON, |_| true).await?;
    let sentence = event["message"].as_str().context("no sentence")?;
    crate::support::says("the report", sentence, "descriptor")
        .or_else(|_| crate::support::says("the report", sentence, "open files"))?;
    shim.connections_are(0, SOON).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    Ok(())
}
