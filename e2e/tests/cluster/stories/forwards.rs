//! The whole way: from a pod on a node, through gateway and API server, to a server
//! on the workstation.

use crate::shared::check::{same, says, until};
use crate::shared::process::Process;
use crate::shared::programs;
use crate::shared::target::{Manner, Target};
use crate::support::cluster::Cluster;
use crate::support::forward::{Forward, PEOPLE, SOON, probe};
use crate::support::kubectl::Kubectl;
use crate::support::runner::themed;
use anyhow::{Result, anyhow};
use std::path::Path;
use std::time::Duration;
use sternline_api::span;
use sternline_e2e::report::{Echo, Listening, Many, Transfer};
use tokio::process::Command;

themed! {
    a_pod_of_a_deployment_reaches_a_server_on_the_workstation,
    megabytes_each_way_at_once_arrive_unchanged,
    two_hundred_connections_at_once_carry_data,
    whoever_may_not_is_told_so_and_recorded,
    get_alone_is_refused_by_the_gateway,
    a_session_outlives_the_api_server_within_its_hold,
    a_session_that_is_idle_for_longer_than_a_request_may_take_goes_on,
    the_doctor_finds_nothing_wrong,
    switched_off_forwards_end_and_switched_on_they_come_up,
}

/// Somebody who may forward from people's pods: the role was bound by an earlier story
/// or is now.
async fn developer(cluster: &Cluster) -> Result<Kubectl> {
    let name = "developer";
    let words = format!(
        "create rolebinding {name} --namespace {PEOPLE} --clusterrole sternline-user --user {name}"
    );
    let answer = cluster.admin().attempt(&words).await?;
    if answer.code != 0 {
        says("a second binding", &answer.stderr, "already exists")?;
    }
    cluster.user(name, &[])
}

/// Sends bytes from the Deployment's pod and expects them back.
async fn echoes(cluster: &Cluster) -> Result<()> {
    let words = "echo --to 127.0.0.1:9003 --bytes 100000 --timeout 60";
    let echo: Echo = probe(cluster, "deploy/php", words).await?;
    same("bytes that came back", echo.bytes, 100_000)
}

async fn a_pod_of_a_deployment_reaches_a_server_on_the_workstation(
    cluster: &Cluster,
) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let words = format!("deploy/php 9003:{}", target.port());
    let forward = Forward::up(&developer(cluster).await?, &words).await?;
    echoes(cluster).await?;
    same("connections at the server", target.accepted(), 1)?;
    forward.stop().await?;
    // And nothing is left in the pod.
    let listeners = "listeners";
    let found: serde_json::Value = probe(cluster, "deploy/php", listeners).await?;
    same(
        "listeners",
        found["listeners"].clone(),
        serde_json::json!([]),
    )
}

async fn megabytes_each_way_at_once_arrive_unchanged(cluster: &Cluster) -> Result<()> {
    let bytes = 256 * 1024 * 1024_u64;
    let plan = format!("--send {bytes} --receive {bytes} --seed 7 --timeout 100");
    let mut command = Command::new(programs::probe()?);
    command.args(format!("serve-transfer --address 127.0.0.1:0 {plan}").split(' '));
    let mut server = Process::start("server", command, Path::new("/run"))?;
    let read = |line: &str| serde_json::from_str::<Listening>(line).ok();
    let listening = server.line("the server to listen", SOON, read).await?;
    let words = format!("deploy/php 9003:{}", listening.listening.port());
    let forward = Forward::up(&developer(cluster).await?, &words).await?;

    let transfer = format!("transfer --to 127.0.0.1:9003 {plan}");
    let inside: Transfer = probe(cluster, "deploy/php", &transfer).await?;

    same("the server's exit code", server.exit(SOON).await?.code, 0)?;
    let read = |line: &str| serde_json::from_str::<Transfer>(line).ok();
    let outside = server.line("the server's report", SOON, read).await?;
    same("bytes out of the pod", outside.received, bytes)?;
    same("bytes into the pod", inside.received, bytes)?;
    same("SHA-256 out", outside.received_sha256, inside.sent_sha256)?;
    same("SHA-256 in", inside.received_sha256, outside.sent_sha256)?;
    forward.stop().await
}

async fn two_hundred_connections_at_once_carry_data(cluster: &Cluster) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let words = format!("deploy/php 9003:{}", target.port());
    let forward = Forward::up(&developer(cluster).await?, &words).await?;
    let many = "many --to 127.0.0.1:9003 --connections 200 --bytes 10000 --timeout 60";
    let many: Many = probe(cluster, "deploy/php", many).await?;
    same("failed", many.failed.len(), 0)?;
    same("carried their data", many.ok, 200)?;
    forward.stop().await
}

async fn whoever_may_not_is_told_so_and_recorded(cluster: &Cluster) -> Result<()> {
    let user = cluster.user("viewer-of-people", &[])?;
    let mut forward = Forward::start(&user, "deploy/php 9003")?;
    same("the exit code", forward.exit().await?.code, 4)?;
    let said = forward.process().stderr();
    says("it", &said, "Error from server (Forbidden)")?;
    until("a line of the audit log", SOON, || async {
        let log = cluster.control().lock().await.audit_log();
        let refused =
            |line: &&str| line.contains("viewer-of-people") && line.contains("\"code\":403");
        Ok(log.lines().any(|line| refused(&line)).then_some(()))
    })
    .await
}

async fn get_alone_is_refused_by_the_gateway(cluster: &Cluster) -> Result<()> {
    let admin = cluster.admin();
    admin
        .run(
            "create clusterrole looks-at-forwards --verb get \
             --resource pods.reverse.sternline.dev/portforward",
        )
        .await?;
    for role in ["looks-at-forwards", "sternline-viewer"] {
        let words = format!(
            "create rolebinding half-{role} --namespace {PEOPLE} --clusterrole {role} --user half"
        );
        admin.run(&words).await?;
    }
    let mut forward = Forward::start(&cluster.user("half", &[])?, "deploy/php 9003")?;
    same("the exit code", forward.exit().await?.code, 4)?;
    let said = forward.process().stderr();
    says("it", &said, "Error from server (Forbidden)")?;
    says("it", &said, "create")
}

async fn a_session_outlives_the_api_server_within_its_hold(cluster: &Cluster) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let words = format!("deploy/php 9003:{} --hold 2m", target.port());
    let forward = Forward::up(&developer(cluster).await?, &words).await?;
    echoes(cluster).await?;
    let mut control = cluster.control().lock().await;
    control.restart_api_server().await?;
    drop(control);
    cluster.admin().run_until("get --raw /readyz", SOON).await?;
    // A connection that is made meanwhile waits in the pod.
    echoes(cluster).await?;
    forward.stop().await
}

/// How long nothing moves. The API server ends what is no long-running request after
/// 60 s.
pub(crate) fn idle() -> Result<Duration> {
    match std::env::var("STERNLINE_IDLE") {
        Err(_) => Ok(Duration::from_secs(75)),
        Ok(text) => span::parse(&text).map_err(|error| anyhow!("STERNLINE_IDLE={text}: {error}")),
    }
}

async fn a_session_that_is_idle_for_longer_than_a_request_may_take_goes_on(
    cluster: &Cluster,
) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let words = format!("deploy/php 9003:{} --hold 0s", target.port());
    let mut forward = Forward::up(&developer(cluster).await?, &words).await?;
    tokio::time::sleep(idle()?).await;
    same("how it ended", forward.process().ended(), None)?;
    echoes(cluster).await?;
    forward.stop().await
}

async fn the_doctor_finds_nothing_wrong(cluster: &Cluster) -> Result<()> {
    let mut doctor = Forward::start(&developer(cluster).await?, "doctor deploy/php")?;
    let code = doctor.exit().await?.code;
    let said = doctor.process().stdout();
    anyhow::ensure!(
        code == 0,
        "it ended with {code}: {}",
        doctor.process().story()
    );
    says("it", &said, "ok")
}

async fn switched_off_forwards_end_and_switched_on_they_come_up(cluster: &Cluster) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let words = format!("deploy/php 9003:{}", target.port());
    let user = developer(cluster).await?;
    let mut forward = Forward::up(&user, &words).await?;
    let switch = "patch configmap sternline-switch --namespace sternline --type merge --patch";
    let admin = cluster.admin();
    admin
        .run(&format!("{switch} {{\"data\":{{\"switch\":\"off\"}}}}"))
        .await?;
    let ended = forward.process().exit(4 * SOON).await?;
    anyhow::ensure!(
        ended.code == 6,
        "it ended with {ended:?}: {}",
        forward.process().story()
    );
    admin
        .run(&format!("{switch} {{\"data\":{{\"switch\":null}}}}"))
        .await?;
    let up = until("a forward to come up again", 4 * SOON, || async {
        let forward = Forward::up(&user, &words).await;
        Ok(forward.ok())
    });
    let forward = up.await?;
    echoes(cluster).await?;
    forward.stop().await
}
