//! The command line as a person and a script see it.

use crate::support::runner::themed;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target};
use crate::support::{SOON, programs, same, says, until};
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use std::path::Path;
use sternline_e2e::report::{Echo, Listeners};
use tokio::process::Command;

themed! {
    every node:
        it_says_what_kubectl_would_say,
        it_is_silent_when_asked_to_be,
        bad_specs_are_usage_errors_before_anything_is_contacted,
        without_a_shim_it_says_so,
        the_ready_file_is_there_while_the_forward_is,
        a_target_can_be_a_unix_socket,
        a_target_can_be_another_host,
        it_lists_the_sessions,
        it_stops_a_session_by_the_beginning_of_its_id,
        an_unknown_session_cannot_be_stopped,
        it_tells_both_versions,
        a_wrapped_command_runs_while_the_forward_is_up,
        a_wrapped_command_that_ends_by_a_signal_is_128_and_its_number,
        a_wrapped_command_that_cannot_run_is_126_or_127,
        a_wrapped_command_gets_the_signals,
        a_wrapped_command_never_starts_without_a_forward,
        a_wrapped_command_ends_when_the_forward_is_lost;
    container runtimes:
}

async fn it_says_what_kubectl_would_say(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let (id, port) = (pod.id(), target.port());
    let forward = stage.cli(&shim, &format!("forward sandbox/{id} 8080:{port}"))?;
    let expected = [
        format!("Forwarding from 127.0.0.1:8080 in sandbox/{id} -> localhost:{port}"),
        format!("Forwarding from [::1]:8080 in sandbox/{id} -> localhost:{port}"),
        "Handling connection for 8080".to_owned(),
    ];
    let lines = |count: usize| {
        let forward = &forward;
        async move {
            until("lines", SOON, || async {
                let lines: Vec<String> = forward.stdout().lines().map(str::to_owned).collect();
                Ok((lines.len() >= count).then_some(lines))
            })
            .await
        }
    };
    same("lines", lines(2).await?, expected[..2].to_vec())?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    same("lines", lines(3).await?, expected.to_vec())?;
    same("complaints", forward.stderr(), String::new())
}

async fn it_is_silent_when_asked_to_be(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!(
        "forward --quiet sandbox/{} 8080:{}",
        pod.id(),
        target.port()
    );
    let mut forward = stage.cli(&shim, &words)?;
    until("the session", SOON, || async {
        let sessions = shim.sessions().await?;
        Ok(sessions.first().filter(|s| s.tunnels == 1).map(drop))
    })
    .await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    forward.signal(Signal::SIGINT)?;
    same("exit code", forward.exit(SOON).await?.code, 0)?;
    same("lines", forward.stdout(), String::new())
}

async fn bad_specs_are_usage_errors_before_anything_is_contacted(stage: &mut Stage) -> Result<()> {
    let mut shim = stage.shim("").await?;
    // Whoever contacted it would fail with 6.
    shim.kill().await?;
    let specs = [
        "65536",
        "-1",
        "http",
        "8080:65536",
        "8080:0",
        "0",
        ":",
        "8080:",
        "8080:host:",
        "[::1:8080",
        "nohost:8080:3000",
        "8080:unix:",
        "8080 8080",
        "127.0.0.1:8080 8080",
        "0.0.0.0:8080 127.0.0.1:8080",
    ];
    for spec in specs {
        let refusal = stage.refused(&shim, "sandbox/web", spec).await?;
        same(
            &format!("exit code of {spec}: {}", refusal.stderr),
            refusal.code,
            2,
        )?;
        let words = refusal.stderr.split_whitespace().count();
        ensure!(words > 4, "{spec}: {:?}", refusal.stderr);
    }
    Ok(())
}

async fn without_a_shim_it_says_so(stage: &mut Stage) -> Result<()> {
    let mut shim = stage.shim("--restart-grace 0s").await?;
    shim.kill().await?;
    let refusal = stage.refused(&shim, "sandbox/web", "8080").await?;
    refusal.is(6, &[&shim.socket().display().to_string()])?;
    std::fs::remove_file(shim.socket())?;
    let refusal = stage.refused(&shim, "sandbox/web", "8080").await?;
    refusal.is(6, &[&shim.socket().display().to_string()])
}

async fn the_ready_file_is_there_while_the_forward_is(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let path = stage.directory().join("ready.json");
    let words = format!(
        "forward sandbox/{} 0:3000 --ready-file {}",
        pod.id(),
        path.display()
    );
    let mut forward = stage.cli(&shim, &words)?;

    let text = until("the ready file", SOON, || async {
        Ok(std::fs::read_to_string(&path).ok())
    })
    .await?;

    let ready: serde_json::Value = serde_json::from_str(&text)?;
    let port = ready["bound"][0]["port"].as_u64().context("no port")?;
    let bound: Listeners = pod.probe("listeners").await?;
    same("port", u64::from(bound.listeners[0].port()), port)?;
    forward.signal(Signal::SIGTERM)?;
    same("exit code", forward.exit(SOON).await?.code, 0)?;
    same("there afterwards", path.exists(), false)
}

async fn a_target_can_be_a_unix_socket(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let path = stage.directory().join("target.sock");
    let listener = tokio::net::UnixListener::bind(&path)?;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await
    });
    let words = format!("8080:unix:{}", path.display());
    let _forward = stage.forward(&shim, &pod, &words).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080 --bytes 100000").await?;
    let copied = tokio::time::timeout(SOON, server).await???;
    same("bytes", copied, 100_000)
}

async fn a_target_can_be_another_host(stage: &mut Stage) -> Result<()> {
    let target = Target::start_at("127.0.0.77:0".parse()?, Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:127.0.0.77:{}", target.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    same("accepted", target.accepted(), 1)
}

async fn it_lists_the_sessions(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let _forward = stage.forward(&shim, &pod, "8080").await?;
    let id = shim.sessions().await?[0].session_id.clone();

    let mut table = stage.cli(&shim, "sessions")?;
    same("exit code", table.exit(SOON).await?.code, 0)?;
    says("the table", &table.stdout(), &id)?;
    says("the table", &table.stdout(), "8080")?;

    let mut json = stage.cli(&shim, "sessions --output json")?;
    same("exit code", json.exit(SOON).await?.code, 0)?;
    serde_json::from_str::<serde_json::Value>(json.stdout().trim()).context("no JSON")?;
    says("the JSON", &json.stdout(), pod.id())
}

async fn it_stops_a_session_by_the_beginning_of_its_id(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let mut forward = stage.forward(&shim, &pod, "8080").await?;
    let id = shim.sessions().await?[0].session_id.clone();
    let mut stop = stage.cli(&shim, &format!("stop {}", &id[..id.len() - 1]))?;
    same("exit code", stop.exit(SOON).await?.code, 0)?;
    same("exit code", forward.exit(SOON).await?.code, 9)
}

async fn an_unknown_session_cannot_be_stopped(stage: &mut Stage) -> Result<()> {
    let shim = stage.shim("").await?;
    let mut stop = stage.cli(&shim, "stop nosuch")?;
    let code = stop.exit(SOON).await?.code;
    ensure!(code != 0, "exit code {code}");
    says("the refusal", &stop.stderr(), "nosuch")
}

async fn it_tells_both_versions(stage: &mut Stage) -> Result<()> {
    let shim = stage.shim("").await?;
    let mut version = stage.cli(&shim, "version")?;
    same("exit code", version.exit(SOON).await?.code, 0)?;
    says("it", &version.stdout(), env!("CARGO_PKG_VERSION"))?;
    says("it", &version.stdout(), "v1alpha1")?;
    says("it", &version.stdout(), "sternline-shim")
}

/// The CLI with a command wrapped in it, which a shell runs.
fn wrapped(
    stage: &Stage,
    socket: &Path,
    place: &str,
    command: &[&str],
) -> Result<crate::support::process::Process> {
    let mut cli = Command::new(programs::cli()?);
    cli.arg("forward").arg("--socket").arg(socket);
    cli.args([place, "8080", "--"]).args(command);
    stage.start("wrapper", cli)
}

async fn a_wrapped_command_runs_while_the_forward_is_up(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let place = format!("sandbox/{}", pod.id());
    let script = format!("{} sessions; exit 42", programs::cli()?.display());
    let mut cli = Command::new(programs::cli()?);
    cli.env("STERNLINE_SOCKET", shim.socket());
    cli.args(["forward", &place, "8080", "--", "sh", "-c", &script]);
    let mut wrapper = stage.start("wrapper", cli)?;

    same("exit code", wrapper.exit(SOON).await?.code, 42)?;
    says("what the command saw", &wrapper.stdout(), "8080")?;
    shim.idle(SOON).await
}

async fn a_wrapped_command_that_ends_by_a_signal_is_128_and_its_number(
    stage: &mut Stage,
) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let place = format!("sandbox/{}", pod.id());
    let kill = ["sh", "-c", "kill -KILL $$"];
    let mut wrapper = wrapped(stage, shim.socket(), &place, &kill)?;
    same("exit code", wrapper.exit(SOON).await?.code, 128 + 9)
}

async fn a_wrapped_command_that_cannot_run_is_126_or_127(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let place = format!("sandbox/{}", pod.id());
    let plain = stage.directory().join("plain");
    std::fs::write(&plain, "no program")?;
    let plain = plain.display().to_string();
    for (command, code) in [("/no/such/program", 127), (plain.as_str(), 126)] {
        let mut wrapper = wrapped(stage, shim.socket(), &place, &[command])?;
        same(command, wrapper.exit(SOON).await?.code, code)?;
        says("it", &wrapper.stderr(), command)?;
    }
    shim.idle(SOON).await
}

async fn a_wrapped_command_gets_the_signals(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let place = format!("sandbox/{}", pod.id());
    let script = "trap 'echo term; exit 5' TERM; echo up; while :; do sleep 0.1; done";
    let mut wrapper = wrapped(stage, shim.socket(), &place, &["sh", "-c", script])?;
    let up = |line: &str| (line == "up").then_some(());
    wrapper.line("the command to be up", SOON, up).await?;
    wrapper.signal(Signal::SIGTERM)?;
    same("exit code", wrapper.exit(SOON).await?.code, 5)?;
    says("the command", &wrapper.stdout(), "term")
}

async fn a_wrapped_command_never_starts_without_a_forward(stage: &mut Stage) -> Result<()> {
    let shim = stage.shim("").await?;
    let mark = stage.directory().join("mark");
    let command = ["touch", &mark.display().to_string()];
    let mut wrapper = wrapped(stage, shim.socket(), "sandbox/nosuch", &command)?;
    same("exit code", wrapper.exit(SOON).await?.code, 125)?;
    same("the command ran", mark.exists(), false)
}

async fn a_wrapped_command_ends_when_the_forward_is_lost(stage: &mut Stage) -> Result<()> {
    let (pod, mut shim) = (stage.pod("web").await?, stage.shim("").await?);
    let place = format!("sandbox/{}", pod.id());
    let script = "trap 'echo term; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    let mut wrapper = wrapped(stage, shim.socket(), &place, &["sh", "-c", script])?;
    let up = |line: &str| (line == "up").then_some(());
    wrapper.line("the command to be up", SOON, up).await?;

    shim.kill().await?;

    same("exit code", wrapper.exit(SOON).await?.code, 7)?;
    says("the command", &wrapper.stdout(), "term")
}
