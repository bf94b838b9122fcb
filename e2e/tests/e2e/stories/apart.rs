//! serve and binder as two processes: neither can do the other's job, and
//! sessions outlive the binder.

use crate::support::binder::SERVE;
use crate::support::client::{call, request};
use crate::support::process::Process;
use crate::support::programs;
use crate::support::runner::themed;
use crate::support::shim::Shim;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target};
use crate::support::{same, says, until};
use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, chown};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;
use sternline_api::v1alpha1 as pb;
use sternline_e2e::report::{Echo, Listeners};
use tokio::process::Command;

themed! {
    every node:
        serve_has_no_privileges_and_the_binder_few,
        a_serve_that_could_enter_namespaces_does_not_start,
        the_binder_lets_nobody_in_but_serve,
        a_binder_that_dies_takes_no_session_with_it,
        a_binder_that_freezes_is_not_waited_for_for_ever,
        both_go_when_they_are_told_to;
    container runtimes:
}

const SOON: Duration = Duration::from_secs(15);

/// A field of `/proc/PID/status`.
fn status(process: &Process, field: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let words = line
        .with_context(|| format!("no {field}"))?
        .split_whitespace();
    Ok(words.collect::<Vec<_>>().join(" "))
}

async fn serve_has_no_privileges_and_the_binder_few(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, mut shim) = (stage.pod("web").await?, stage.shim_apart("").await?);
    let words = format!("80:{}", target.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:80").await?;

    let serve = shim.process();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        same(set, status(serve, set)?, "0000000000000000".to_owned())?;
    }
    for ids in ["Uid", "Gid"] {
        same(
            ids,
            status(serve, ids)?,
            format!("{SERVE} {SERVE} {SERVE} {SERVE}"),
        )?;
    }
    same("Groups", status(serve, "Groups")?, SERVE.to_string())?;
    same("NoNewPrivs", status(serve, "NoNewPrivs")?, "1".to_owned())?;
    same("Seccomp", status(serve, "Seccomp")?, "2".to_owned())?;
    says(
        "the log of serve",
        &shim.stderr(),
        "tried to enter a network namespace and was refused (EPERM)",
    )?;
    let told = shim
        .client()
        .status(pb::StatusRequest {})
        .await?
        .into_inner();
    let told = told.conditions.iter().find(|c| c.r#type == "Confined");
    let told = &told
        .context("serve does not say that it is confined")?
        .message;
    says("the status", told, "capabilities []")?;
    says("the status", told, "Landlock: enforced")?;
    says("the status", told, "seccomp: enforced")?;

    let binder = shim.binder()?.process();
    // CAP_NET_BIND_SERVICE, CAP_SYS_PTRACE and CAP_SYS_ADMIN.
    let few = "0000000000280400";
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        same(set, status(binder, set)?, few.to_owned())?;
    }
    for set in ["CapInh", "CapAmb"] {
        same(set, status(binder, set)?, "0000000000000000".to_owned())?;
    }
    same(
        "NoNewPrivs of the binder",
        status(binder, "NoNewPrivs")?,
        "1".to_owned(),
    )
}

async fn a_serve_that_could_enter_namespaces_does_not_start(stage: &mut Stage) -> Result<()> {
    let directory = stage.file("privileged");
    fs::create_dir(&directory)?;
    let binder = format!("--binder=unix:{}", directory.join("binder.sock").display());
    let serve = |flags: &[&str]| -> Result<Process> {
        let mut command = Command::new(programs::shim()?);
        command.args(["serve", &binder, "--socket"]);
        command.arg(directory.join("shim.sock")).args(flags);
        stage.start("privileged", command)
    };
    let mut refused = serve(&[])?;
    same("exit code", refused.exit(SOON).await?.code, 1)?;
    let said = refused.stderr();
    for word in [
        "uid 0",
        "CAP_SYS_ADMIN",
        "can enter a network namespace",
        "--run-as",
        "--allow-privileged-serve",
    ] {
        says("the refusal", &said, word)?;
    }
    // Whoever insists gets it, with a warning.
    let warned = serve(&["--allow-privileged-serve"])?;
    until("the server to serve", SOON, || async {
        Ok(warned.stderr().contains("serving").then_some(()))
    })
    .await?;
    says(
        "the log",
        &warned.stderr(),
        "allowed by --allow-privileged-serve",
    )
}

async fn the_binder_lets_nobody_in_but_serve(stage: &mut Stage) -> Result<()> {
    let (pod, mut shim) = (stage.pod("web").await?, stage.shim_apart("").await?);
    let binder = shim.binder()?;
    let socket = binder.socket();
    let mode = fs::metadata(&socket)?.permissions().mode();
    same("mode of the binder's socket", mode & 0o777, 0o600)?;
    // Even where the file lets everybody in, the kernel says who comes.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
    let stranger = SERVE - 1;
    let directory = stage.file("stranger");
    fs::create_dir(&directory)?;
    chown(
        &directory,
        Some(Uid::from_raw(stranger)),
        Some(Gid::from_raw(stranger)),
    )?;
    let mut command = Command::new(programs::shim()?);
    command
        .arg("serve")
        .arg(format!("--binder=unix:{}", socket.display()))
        .arg(format!("--run-as={stranger}:{stranger}"))
        .arg("--socket")
        .arg(directory.join("shim.sock"));
    let other = stage.start("stranger", command)?;
    until("the stranger to be turned away", SOON, || async {
        let said = binder.process().stderr();
        Ok(said
            .contains("a process of another user was turned away")
            .then_some(()))
    })
    .await?;
    says(
        "the binder's log",
        &binder.process().stderr(),
        &format!("uid={stranger}"),
    )?;
    until("the stranger to say so", SOON, || async {
        Ok(other.stderr().contains("cannot be asked").then_some(()))
    })
    .await?;
    // serve is served as before.
    call(&shim, request(&pod, &[8080])).await?;
    Ok(())
}

async fn a_binder_that_dies_takes_no_session_with_it(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, mut shim) = (stage.pod("web").await?, stage.shim_apart("").await?);
    let words = format!("8080:{}", target.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;

    shim.binder()?.kill().await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    let told = until("the trouble to be said", SOON, || async {
        trouble(&shim).await
    })
    .await?;
    says("the status", &told, "binder.sock")?;
    let place = format!("sandbox/{}", pod.id());
    let refusal = stage.refused(&shim, &place, "8081").await?;
    refusal.is(6, &["the binder at", "cannot be asked"])?;
    let bound: Listeners = pod.probe("listeners").await?;
    same("listeners in the pod", bound.listeners.len(), 2)?;

    shim.binder()?.again(stage).await?;
    until("the binder to be found again", SOON, || async {
        Ok(trouble(&shim).await?.is_none().then_some(()))
    })
    .await?;
    same("the forward", forward.ended(), None)?;
    let _second = stage.forward(&shim, &pod, "8081").await?;
    // What began under the old binder is watched by the new one.
    pod.remove().await?;
    same("exit code", forward.exit(SOON).await?.code, 9)?;
    let ended = forward.event("ended", SOON, |_| true).await?;
    same("reason", ended["reason"].as_str(), Some("sandbox_gone"))?;
    shim.idle(SOON).await
}

/// Why the binder cannot be asked, if so.
async fn trouble(shim: &Shim) -> Result<Option<String>> {
    let status = shim
        .client()
        .status(pb::StatusRequest {})
        .await?
        .into_inner();
    let reachable = status
        .conditions
        .into_iter()
        .find(|c| c.r#type == "RuntimeReachable");
    let reachable = reachable.context("serve does not say")?;
    Ok((!reachable.status).then_some(reachable.message))
}

async fn a_binder_that_freezes_is_not_waited_for_for_ever(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, mut shim) = (stage.pod("web").await?, stage.shim_apart("").await?);
    let words = format!("8080:{}", target.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;

    shim.binder()?.process().signal(Signal::SIGSTOP)?;
    // A signal takes a moment to stop every thread.
    let what = "the frozen binder to be told of";
    let told = until(what, SOON, || trouble(&shim)).await;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    shim.binder()?.process().signal(Signal::SIGCONT)?;

    says("the status", &told?, "no answer within")?;
    until("the binder to answer again", SOON, || async {
        Ok(trouble(&shim).await?.is_none().then_some(()))
    })
    .await?;
    call(&shim, request(&pod, &[8081])).await?;
    Ok(())
}

async fn both_go_when_they_are_told_to(stage: &mut Stage) -> Result<()> {
    let (pod, mut shim) = (
        stage.pod("web").await?,
        stage.shim_apart("--restart-grace 0s").await?,
    );
    call(&shim, request(&pod, &[8080])).await?;
    shim.signal(Signal::SIGTERM)?;
    same("exit code of serve", shim.exit(SOON).await?.code, 0)?;
    same("its socket is left", shim.socket().exists(), false)?;
    let bound: Listeners = pod.probe("listeners").await?;
    same("listeners in the pod", bound.listeners.len(), 0)?;
    shim.binder()?.goes().await
}
