//! A port that is taken: the refusal says by whom.

use crate::support::node::Pod;
use crate::support::runner::themed;
use crate::support::shim::Shim;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target};
use crate::support::{same, says, until};
use anyhow::{Context as _, Result};
use std::time::Duration;
use sternline_e2e::report::{Echo, Listeners, Listening};

themed! {
    every node:
        a_port_of_a_process_is_refused_with_its_name,
        of_several_addresses_the_one_that_is_taken_is_named,
        a_port_of_another_forward_is_refused_with_its_session;
    container runtimes:
}

const SOON: Duration = Duration::from_secs(10);

/// How the refusal names the probe that listens. In the pods of a runtime it is
/// in another container than the first.
fn named(pod: &Pod, app: &Listening) -> String {
    let pid = app.pid;
    match pod {
        Pod::Standalone(_) => format!("sternline-probe (pid {pid}) in"),
        Pod::Cri(_) => format!("sternline-probe (pid {pid} in the pod) in"),
    }
}

/// The forward is refused with `said` in its sentence. A machine that is busy may
/// not have found out in time at first.
async fn refused_with(
    stage: &Stage,
    shim: &Shim,
    pod: &Pod,
    words: &str,
    said: &str,
) -> Result<()> {
    let place = format!("sandbox/{}", pod.id());
    until(&format!("the refusal to say {said:?}"), SOON, || async {
        let refusal = stage.refused(shim, &place, words).await?;
        refusal.is(5, &["is already in use"])?;
        Ok(refusal.stderr.contains(said).then_some(()))
    })
    .await
}

async fn port_is_free(pod: &Pod) -> Result<()> {
    until("the port to be free", SOON, || async {
        let bound: Listeners = pod.probe("listeners").await?;
        Ok(bound.listeners.is_empty().then_some(()))
    })
    .await
}

async fn a_port_of_a_process_is_refused_with_its_name(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    for (app, refused) in [
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("[::1]:8080", "[::1]:8080"),
        ("0.0.0.0:8080", "127.0.0.1:8080"),
        ("[::]:8080", "[::1]:8080"),
        ("[::]:8080 --dual true", "127.0.0.1:8080"),
    ] {
        let mut app = pod
            .spawn(&format!("listen --keep true --address {app}"))
            .await?;
        let listening: Listening = app.report(SOON).await?;

        let said = format!("{refused} is already in use by {}", named(&pod, &listening));
        refused_with(stage, &shim, &pod, "8080:3000", &said).await?;
        app.kill().await?;
        port_is_free(&pod).await?;
    }
    Ok(())
}

async fn of_several_addresses_the_one_that_is_taken_is_named(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let app = pod
        .spawn("listen --keep true --address 127.0.0.1:8082")
        .await?;
    let listening: Listening = app.report(SOON).await?;
    let target = Target::start(Manner::Echo).await?;
    let words = format!("8083:{}", target.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;

    let words = "8081:3000 8082:3000 8083:3000";
    let said = format!(
        "127.0.0.1:8082 is already in use by {}",
        named(&pod, &listening)
    );
    refused_with(stage, &shim, &pod, words, &said).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8083").await?;
    Ok(())
}

async fn a_port_of_another_forward_is_refused_with_its_session(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("[::1]:8080:{}", target.port());
    let forward = stage.forward(&shim, &pod, &words).await?;
    let ready = &forward.events("ready")[0];
    let id = ready["session_id"].as_str().context("no session")?;
    let place = format!("sandbox/{}", pod.id());

    let refusal = stage.refused(&shim, &place, "8080").await?;

    let said = format!(
        "[::1]:8080 is already in use by session {id} in sandbox {}",
        pod.id()
    );
    refusal.is(5, &[&said, &format!("`sternline stop {id}`")])?;
    // The hint works.
    let mut stop = stage.cli(&shim, &format!("stop {id}"))?;
    same("exit code of stop", stop.exit(SOON).await?.code, 0)?;
    let again = stage.forward(&shim, &pod, "8080").await?;
    says("bound", &again.events("ready")[0].to_string(), "8080")
}
