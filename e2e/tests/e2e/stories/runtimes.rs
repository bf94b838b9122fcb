//! The container runtime under live sessions: it restarts, is upgraded, goes
//! away and comes back. Pods outlive it, and so do sessions.

use crate::support::runner::themed;
use crate::support::stage::Stage;
use crate::support::standing::Standing;
use crate::support::target::{Manner, Target};
use crate::support::{SOON, same, says, until};
use anyhow::{Context as _, Result, ensure};
use std::time::Duration;
use sternline_api::v1alpha1 as pb;
use sternline_e2e::report::{Echo, Listeners};
use tokio::net::UnixListener;

themed! {
    every node:
        two_shims_on_one_node_do_not_mix;
    container runtimes:
        a_runtime_that_restarts_does_not_end_a_session,
        a_runtime_whose_socket_goes_and_comes_back_does_not_end_a_session;
    upgraded runtimes:
        a_runtime_that_is_upgraded_does_not_end_a_session
}

impl Standing {
    /// Nothing of it has ended.
    async fn stands(&mut self) -> Result<()> {
        same("the forward", self.forward.ended(), None)?;
        same("sessions", self.shim.sessions().await?.len(), 1)?;
        // One that has just ended may be counted for a moment.
        self.shim.connections_are(3, SOON).await
    }

    /// The session works, and its end is noticed, as if nothing had been.
    async fn goes_on(mut self) -> Result<()> {
        let _: Echo = self.pod.probe("echo --to 127.0.0.1:8080").await?;
        self.stands().await?;
        self.pod.remove().await?;
        same("exit code", self.forward.exit(SOON).await?.code, 9)
    }

    /// What the shim says of the runtime.
    async fn runtime(&self) -> Result<pb::StatusResponse> {
        let mut client = self.shim.client();
        Ok(client.status(pb::StatusRequest {}).await?.into_inner())
    }
}

/// Longer than several polls.
async fn a_while() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

async fn a_runtime_that_restarts_does_not_end_a_session(stage: &mut Stage) -> Result<()> {
    let mut standing = Standing::on(stage, "", "").await?;
    let node = stage.node().clone();

    node.pause_runtime().await?;
    a_while().await;
    standing.stands().await?;
    node.resume_runtime().await?;

    standing.goes_on().await
}

async fn a_runtime_that_is_upgraded_does_not_end_a_session(stage: &mut Stage) -> Result<()> {
    let node = stage.node().clone();
    node.downgrade_runtime(crate::support::node::Runtime::chosen()?)
        .await?;
    let mut standing = Standing::on(stage, "", "").await?;
    let before = standing.runtime().await?.runtime;
    ensure!(
        !before.ends_with(node.version().rsplit(' ').next().unwrap_or_default()),
        "{before} is no older release than {}",
        node.version()
    );

    node.upgrade_runtime().await?;

    standing.stands().await?;
    until("the shim to know the new release", SOON, || async {
        let now = standing.runtime().await?;
        let reachable = now
            .conditions
            .iter()
            .any(|c| c.r#type == "RuntimeReachable" && c.status);
        Ok((reachable && now.runtime != before).then_some(()))
    })
    .await?;
    // Pods that the new release makes are served beside those of the old one.
    let pod = stage.pod("young").await?;
    let words = format!("8080:{}", standing.target.port());
    let _forward = stage.forward(&standing.shim, &pod, &words).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    drop(_forward);
    until("the old session alone", SOON, || async {
        Ok((standing.shim.sessions().await?.len() == 1).then_some(()))
    })
    .await?;
    standing.goes_on().await
}

async fn a_runtime_whose_socket_goes_and_comes_back_does_not_end_a_session(
    stage: &mut Stage,
) -> Result<()> {
    let mut standing = Standing::on(stage, "", "").await?;
    let node = stage.node().clone();
    let socket = node.runtime_socket()?;
    let place = format!("sandbox/{}", standing.pod.id());
    node.pause_runtime().await?;

    // Nothing there; something that is no socket; one that never answers.
    let _ = std::fs::remove_file(socket);
    let gone = stage.refused(&standing.shim, &place, "8081").await?;
    gone.is(6, &["runtime", &socket.display().to_string()])?;
    std::fs::write(socket, "no socket")?;
    let other = stage.refused(&standing.shim, &place, "8081").await?;
    other.is(6, &["runtime", &socket.display().to_string()])?;
    std::fs::remove_file(socket)?;
    let mute = UnixListener::bind(socket)?;
    let silent = stage.refused(&standing.shim, &place, "8081").await?;
    silent.is(6, &["runtime", "did not answer"])?;
    standing.stands().await?;
    drop(mute);
    std::fs::remove_file(socket)?;
    node.resume_runtime().await?;

    // A call is answered again as soon as the runtime is.
    let words = format!("8081:{}", standing.target.port());
    let mut again = stage.forward(&standing.shim, &standing.pod, &words).await?;
    let _: Echo = standing.pod.probe("echo --to 127.0.0.1:8081").await?;
    again.kill().await?;
    until("the old session alone", SOON, || async {
        Ok((standing.shim.sessions().await?.len() == 1).then_some(()))
    })
    .await?;
    standing.goes_on().await
}

async fn two_shims_on_one_node_do_not_mix(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let pod = stage.pod("web").await?;
    let (mut one, two) = (stage.shim("").await?, stage.shim("").await?);
    let words = |port: u16| format!("{port}:{}", target.port());
    let mut of_one = stage.forward(&one, &pod, &words(8080)).await?;
    let mut of_two = stage.forward(&two, &pod, &words(8081)).await?;

    for port in [8080, 8081] {
        let _: Echo = pod.probe(&format!("echo --to 127.0.0.1:{port}")).await?;
    }
    let place = format!("sandbox/{}", pod.id());
    let taken = stage.refused(&two, &place, &words(8080)).await?;
    taken.is(5, &["127.0.0.1:8080"])?;
    // Each knows its own sessions alone, and stops no others.
    let (theirs, ours) = (one.sessions().await?, two.sessions().await?);
    same("sessions of each", (theirs.len(), ours.len()), (1, 1))?;
    ensure!(theirs[0].session_id != ours[0].session_id, "one id for two");
    let mut stop = stage.cli(&two, &format!("stop {}", theirs[0].session_id))?;
    ensure!(
        stop.exit(SOON).await?.code != 0,
        "it stopped another's session"
    );
    says("the refusal", &stop.stderr(), &theirs[0].session_id)?;

    // The end of one is nothing to the other.
    one.kill().await?;
    same("exit code", of_one.exit(SOON).await?.code, 7)?;
    let bound: Listeners = pod.probe("listeners").await?;
    let ports: Vec<u16> = bound
        .listeners
        .iter()
        .map(std::net::SocketAddr::port)
        .collect();
    same("listeners in the pod", ports, vec![8081, 8081])?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8081").await?;
    let _freed = stage.forward(&two, &pod, &words(8080)).await?;
    same("the other forward", of_two.ended(), None)?;

    // Both notice the end of the pod.
    let again = stage.shim("").await?;
    let mut of_again = stage.forward(&again, &pod, &words(8082)).await?;
    pod.remove().await?;
    same("exit code", of_two.exit(SOON).await?.code, 9)?;
    same("exit code", of_again.exit(SOON).await?.code, 9).context("the third shim's")
}
