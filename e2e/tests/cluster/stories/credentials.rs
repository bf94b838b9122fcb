//! Who people are to the API server: tokens that ended, and programs that answer
//! with one.

use crate::shared::check::{same, says};
use crate::shared::enclosure::STATE;
use crate::shared::target::{Manner, Target};
use crate::support::cluster::Cluster;
use crate::support::doctor::Findings;
use crate::support::forward::{Forward, probe_in};
use crate::support::runner::themed;
use crate::support::shop::{self, SHOP};
use crate::support::token;
use anyhow::Result;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use sternline_e2e::report::Echo;

themed! {
    a_token_that_ended_or_is_none_is_refused_in_kubectls_words,
    a_credential_program_runs_once_for_as_long_as_its_answer_is_valid,
}

async fn a_token_that_ended_or_is_none_is_refused_in_kubectls_words(
    cluster: &Cluster,
) -> Result<()> {
    shop::open(cluster).await?;
    for (name, token) in [
        ("late", token::ends_in(cluster, SHOP, -60).await?),
        ("wrong", "not-a-token".to_owned()),
    ] {
        let user = cluster.user_of(name, &format!("token: {token}"))?;
        let path = format!("/api/v1/namespaces/{SHOP}/pods/plain");
        let kubectl = user.attempt(&format!("get --raw {path}")).await?.stderr;
        let kubectl = kubectl.trim_end();
        says(
            "kubectl",
            kubectl,
            "error: You must be logged in to the server (Unauthorized)",
        )?;
        let said = Forward::start_in(SHOP, &user, "pod/plain 9003")?;
        let said = said.refused(4).await?;
        anyhow::ensure!(said.starts_with(kubectl), "{name}: {said}");
        let mut doctor = Forward::start_in(SHOP, &user, "doctor pod/plain")?;
        same("the doctor's exit code", doctor.exit().await?.code, 4)?;
        let found = doctor.process().stdout();
        says(
            "the doctor",
            &found,
            "FAIL  cluster: You must be logged in to the server",
        )?;
    }
    // It was the time that was wrong with the first.
    let user = token::ends_in(cluster, SHOP, 3600).await?;
    let user = cluster.user_of("timely", &format!("token: {user}"))?;
    Findings::of(&user, SHOP, "pod/plain").await?.failed(0)
}

async fn a_credential_program_runs_once_for_as_long_as_its_answer_is_valid(
    cluster: &Cluster,
) -> Result<()> {
    shop::open(cluster).await?;
    let token = token::ends_in(cluster, SHOP, 3600).await?;
    let directory = Path::new(STATE).join("credentials");
    fs::create_dir_all(&directory)?;
    for (name, end) in [
        ("lasting", "2100-01-01T00:00:00Z"),
        ("over", "2000-01-01T00:00:00Z"),
    ] {
        let (program, runs) = (directory.join(name), directory.join(format!("{name}.runs")));
        let answer = format!(
            r#"{{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{{"token":"{token}","expirationTimestamp":"{end}"}}}}"#
        );
        let text = format!(
            "#!/bin/sh\necho run >>{}\necho '{answer}'\n",
            runs.display()
        );
        fs::write(&program, text)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700))?;
        let user = format!(
            "exec: {{ apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, command: {} }}",
            program.display()
        );
        let user = cluster.user_of(name, &user)?;

        let target = Target::start(Manner::Echo).await?;
        // The Deployment, its pods and the stream: three requests.
        let words = format!("deploy/front 9003:{}", target.port());
        let forward = Forward::start_in(SHOP, &user, &words)?;
        let pod = forward.pod().await?;
        let words = "echo --to 127.0.0.1:9003 --bytes 1000 --timeout 60";
        let echo: Echo = probe_in(SHOP, cluster, &pod, words).await?;
        same("bytes that came back", echo.bytes, 1000)?;
        forward.stop().await?;
        let runs = fs::read_to_string(runs)?.lines().count();
        let expected = if name == "lasting" { 1 } else { 3 };
        same("runs of the program", runs, expected)?;
    }
    Ok(())
}
