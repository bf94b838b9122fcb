//! What whoever looks after the node can see: metrics, health, logs.

use crate::support::client::{call, request};
use crate::support::http::get;
use crate::support::runner::themed;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target, nobody};
use crate::support::{SOON, is_at_least, same, says, until};
use anyhow::{Context as _, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use sternline_e2e::report::{Echo, Ended, Holding};

themed! {
    every node:
        metrics_count_what_happened,
        after_real_traffic_the_metrics_are_those_that_are_documented,
        metrics_go_back_to_nothing_when_all_is_over,
        health_is_served,
        the_log_walks_the_set_up_and_keeps_the_secrets,
        logs_can_be_json,
        setting_up_takes_less_than_half_a_second;
    container runtimes:
        without_its_runtime_the_shim_is_not_ready
}

async fn metrics_count_what_happened(stage: &mut Stage) -> Result<()> {
    let echo = Target::start(Manner::Echo).await?;
    let nowhere = nobody()?.port();
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{} 8081:{nowhere}", echo.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;

    for _ in 0..3 {
        let _: Echo = pod.probe("echo --to 127.0.0.1:8080 --bytes 1000").await?;
    }
    let _: Ended = pod.probe("expect-end --to 127.0.0.1:8081").await?;
    let held = pod
        .spawn("hold --to 127.0.0.1:8080 --connections 2")
        .await?;
    let _: Holding = held.report(SOON).await?;
    let expected = [
        ("sternline_connections_total", r#"status="ok""#, 3.0),
        (
            "sternline_connections_total",
            r#"status="target_refused""#,
            1.0,
        ),
        ("sternline_connections_active", "", 2.0),
        ("sternline_connection_duration_seconds_count", "", 4.0),
        ("sternline_sessions_active", "", 1.0),
        ("sternline_tunnels_active", "", 1.0),
        ("sternline_listeners_active", "", 4.0),
        ("sternline_bytes_total", r#"direction="from_pod""#, 3002.0),
        ("sternline_bytes_total", r#"direction="to_pod""#, 3002.0),
        ("sternline_setup_duration_seconds_count", "", 1.0),
    ];
    for (name, label, value) in expected {
        shim.counts(name, &[label], value).await?;
    }
    Ok(())
}

async fn after_real_traffic_the_metrics_are_those_that_are_documented(
    stage: &mut Stage,
) -> Result<()> {
    let echo = Target::start(Manner::Echo).await?;
    let pod = stage.pod("web").await?;
    let shim = stage.shim("--max-connections-per-session 5").await?;
    let words = format!("8080:{}", echo.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    let place = format!("sandbox/{}", pod.id());
    stage
        .refused(&shim, &place, "8080")
        .await?
        .is(5, &["8080"])?;
    let held = pod
        .spawn("hold --to 127.0.0.1:8080 --connections 5")
        .await?;
    let _: Holding = held.report(SOON).await?;
    let _: Ended = pod.probe("expect-end --to 127.0.0.1:8080").await?;
    forward.kill().await?;
    shim.idle(SOON).await?;
    let waiting = call(&shim, request(&pod, &[8082])).await?;
    shim.counts("sternline_tokens_waiting", &[], 1.0).await?;
    shim.counts("sternline_limit", &[r#"limit="tokens""#], 1000.0)
        .await?;
    shim.counts("sternline_sessions_total", &[], 1.0).await?;
    // Also where serve may read hardly anything.
    let descriptors = shim.metric("sternline_open_descriptors", &[]).await?;
    is_at_least("descriptors", descriptors, 5.0)?;

    let served = served(&shim.metrics().await?);
    let documented = documented()?;
    for (name, (kind, labels)) in &documented {
        let found = served.get(name).map(|found| (&found.0, &found.1));
        same(name, found, Some((kind, labels)))?;
    }
    for name in served.keys() {
        ensure!(
            documented.contains_key(name),
            "{name} is served and not documented"
        );
    }
    let token = waiting.url.rsplit('/').next().unwrap_or_default();
    ensure!(
        !shim.metrics().await?.contains(token),
        "a token is in the metrics"
    );
    Ok(())
}

/// Kind and labels of each metric, by name.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// Those that an endpoint serves.
fn served(text: &str) -> Metrics {
    let mut all = Metrics::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            all.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        }
        let Some((series, rest)) = line.split_once('{') else {
            continue;
        };
        let parts = ["", "_bucket", "_sum", "_count"];
        let name = parts.iter().find_map(|part| {
            let name = series.strip_suffix(part)?;
            all.contains_key(name).then(|| name.to_owned())
        });
        if let Some((_, labels)) = name.and_then(|name| all.get_mut(&name)) {
            let inside = rest.split_once('}').map_or("", |(inside, _)| inside);
            let names = inside.split(',').filter_map(|pair| pair.split_once('='));
            let names = names.map(|(name, _)| name.to_owned());
            labels.extend(names.filter(|name| name != "le"));
        }
    }
    all
}

/// Those that docs/operations.md lists, the gateway's left out.
fn documented() -> Result<Metrics> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let page = std::fs::read_to_string(page)?;
    let rows = page.lines().filter(|line| {
        line.starts_with("| `sternline_") && !line.starts_with("| `sternline_gateway_")
    });
    let cells = rows.map(|row| row.split('|').map(|cell| cell.replace('`', "")));
    let cells: Vec<Vec<String>> = cells.map(Iterator::collect).collect();
    let metrics = cells.iter().map(|row| {
        let name = row.get(1).context("no name")?.trim().to_owned();
        let kind = row.get(2).context("no kind")?.trim().to_owned();
        let labels = row.get(3).context("no labels")?.split(',').map(str::trim);
        let labels = labels.filter(|label| !label.is_empty()).map(str::to_owned);
        Ok((name, (kind, labels.collect())))
    });
    metrics.collect()
}

async fn metrics_go_back_to_nothing_when_all_is_over(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Flood).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    let stalled = pod
        .spawn("stall --to 127.0.0.1:8080 --connections 20")
        .await?;
    let _: Holding = stalled.report(SOON).await?;
    until("bytes to wait for their readers", SOON, || async {
        let buffered = shim.metric("sternline_buffered_bytes", &[]).await?;
        Ok((buffered > 1e6).then_some(()))
    })
    .await?;

    forward.kill().await?;
    shim.idle(SOON).await?;

    for name in [
        "sternline_connections_active",
        "sternline_sessions_active",
        "sternline_tunnels_active",
        "sternline_listeners_active",
        "sternline_buffered_bytes",
    ] {
        shim.counts(name, &[], 0.0).await?;
    }
    let label = r#"end="tunnel_lost""#;
    shim.counts("sternline_sessions_total", &[label], 1.0).await
}

async fn health_is_served(stage: &mut Stage) -> Result<()> {
    let shim = stage.shim("").await?;
    for path in ["/healthz", "/readyz"] {
        same(path, get(shim.metrics_address()?, path).await?.status, 200)?;
    }
    same(
        "elsewhere",
        get(shim.metrics_address()?, "/").await?.status,
        404,
    )
}

async fn without_its_runtime_the_shim_is_not_ready(stage: &mut Stage) -> Result<()> {
    let shim = stage.shim("").await?;
    let node = stage.node().clone();
    node.pause_runtime().await?;
    let ready = get(shim.metrics_address()?, "/readyz").await;
    let health = get(shim.metrics_address()?, "/healthz").await;
    node.resume_runtime().await?;
    same("ready", ready?.status, 503)?;
    same("healthy", health?.status, 200)?;
    shim.is_ready().await
}

async fn the_log_walks_the_set_up_and_keeps_the_secrets(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("-vvv").await?);
    let made = call(&shim, request(&pod, &[8079])).await?;
    let _forward = stage.forward(&shim, &pod, "8080").await?;

    let steps = [
        "request is valid",
        "entering the sandbox",
        "bound and listening",
        "client is upgrading",
        "tunnel up",
    ];
    let in_order = |log: &str| {
        steps.iter().try_fold(0, |from, step| {
            log[from..].find(step).map(|at| from + at).ok_or(*step)
        })
    };
    let walked = until("every step in the log", SOON, || async {
        Ok(in_order(&shim.stderr()).ok())
    });
    let walked = walked.await;
    let log = shim.stderr();
    walked.with_context(|| format!("no {:?} in its place in:\n{log}", in_order(&log).err()))?;
    for session in shim.sessions().await? {
        says("the log", &log, &session.session_id)?;
    }
    let token = made.url.rsplit('/').next().unwrap_or_default();
    ensure!(!log.contains(token), "a token is in the log");
    ensure!(
        !log.contains("/v1alpha1/sessions/"),
        "a path with a token is in the log"
    );
    Ok(())
}

async fn logs_can_be_json(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (
        stage.pod("web").await?,
        stage.shim("--log-format json").await?,
    );
    call(&shim, request(&pod, &[8080])).await?;
    let log = until("whole lines", SOON, || async {
        let log = shim.stderr();
        Ok((log.lines().count() >= 2 && log.ends_with('\n')).then_some(log))
    })
    .await?;
    for line in log.lines() {
        let value: serde_json::Value =
            serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        ensure!(value["level"].is_string(), "no level: {line}");
        ensure!(value["message"].is_string(), "no message: {line}");
    }
    Ok(())
}

async fn setting_up_takes_less_than_half_a_second(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    for _ in 0..50 {
        let mut forward = stage.forward(&shim, &pod, "8080").await?;
        forward.kill().await?;
        shim.idle(SOON).await?;
    }
    let name = "sternline_setup_duration_seconds";
    let all = shim.metric(&format!("{name}_count"), &[]).await?;
    let quick = shim
        .metric(&format!("{name}_bucket"), &[r#"le="0.5""#])
        .await?;
    same("set up", all, 50.0)?;
    // A busy machine may hold some up; the benchmark tells how many.
    is_at_least("within half a second", quick, 25.0)
}
