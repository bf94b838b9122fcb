//! The call itself, as a program makes it.

use crate::support::client::{call, reason, request};
use crate::support::runner::themed;
use crate::support::same;
use crate::support::stage::Stage;
use anyhow::{Context as _, Result, ensure};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{SystemTime, UNIX_EPOCH};
use sternline_api::protocol::{API_VERSION, STREAM_PROTOCOL};
use sternline_api::v1alpha1 as pb;
use sternline_e2e::report::Listeners;

themed! {
    every node:
        the_answer_has_everything_that_a_client_needs,
        what_only_a_gateway_may_say_is_forbidden_to_others,
        requests_that_make_no_sense_are_refused,
        version_and_status_tell_what_is_served,
        sessions_are_listed_with_what_they_do,
        the_socket_is_for_its_owner_alone,
        a_shim_that_was_killed_can_be_started_again_in_its_place,
        a_second_shim_does_not_take_the_socket_of_a_first;
    container runtimes:
        the_status_names_the_runtime
}

async fn the_answer_has_everything_that_a_client_needs(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;

    let answer = call(&shim, request(&pod, &[8080, 0])).await?;

    let ids: Vec<u32> = answer.bound.iter().map(|b| b.listener_id).collect();
    same("listeners", ids, vec![0, 0, 1, 1])?;
    let first = (answer.bound[0].address.as_str(), answer.bound[0].port);
    same("first address", first, ("127.0.0.1", 8080))?;
    let second = (answer.bound[1].address.as_str(), answer.bound[1].port);
    same("second address", second, ("::1", 8080))?;
    ensure!(answer.bound[2].port != 0, "a port of 0 is reported");
    same("ports agree", answer.bound[2].port, answer.bound[3].port)?;
    let ttl = answer.expires_at_ms.saturating_sub(now);
    ensure!((55_000..=90_000).contains(&ttl), "expires in {ttl} ms");
    ensure!(
        !answer.url.contains(&answer.session_id),
        "the id opens something"
    );
    let token = answer.url.rsplit('/').next().unwrap_or_default();
    // 128 bits in a base of 64 take 22 characters.
    ensure!(token.len() >= 22, "a token of {} characters", token.len());
    let limits = answer.limits.context("no limits")?;
    same("connections", limits.connections_per_session, 256)
}

async fn what_only_a_gateway_may_say_is_forbidden_to_others(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let plain = request(&pod, &[8080]);
    let mut requester = plain.clone();
    requester.requester = Some(pb::Requester {
        user: "somebody".to_owned(),
        ..Default::default()
    });
    let mut grant = plain.clone();
    grant.grant = b"grant".to_vec();
    let mut by_pod = plain;
    by_pod.target = Some(pb::Target {
        by: Some(pb::target::By::Pod(pb::Pod {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            uid: "uid-web".to_owned(),
        })),
    });
    for wish in [requester, grant, by_pod] {
        let status = call(&shim, wish).await.err().context("was taken")?;
        same("reason", reason(&status).as_str(), "forbidden")?;
    }
    let bound: Listeners = pod.probe("listeners").await?;
    same("listeners in the pod", bound.listeners.len(), 0)
}

async fn requests_that_make_no_sense_are_refused(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let good = request(&pod, &[8080]);
    let with = |change: &dyn Fn(&mut pb::ReversePortForwardRequest)| {
        let mut wish = good.clone();
        change(&mut wish);
        wish
    };
    let labels = |key: &str, value: &str, count: usize| pb::SessionOptions {
        labels: (0..count)
            .map(|n| (format!("{key}{n}"), value.to_owned()))
            .collect(),
        ..Default::default()
    };
    let wishes = [
        with(&|wish| wish.target = None),
        with(&|wish| wish.listeners.clear()),
        with(&|wish| wish.listeners[0].port = 65_536),
        with(&|wish| wish.listeners[0].protocol = 17),
        with(&|wish| wish.listeners[0].address = "localhost".to_owned()),
        with(&|wish| wish.listeners[0].address = "[::1]".to_owned()),
        with(&|wish| wish.listeners[0].address = "::ffff:127.0.0.1".to_owned()),
        with(&|wish| wish.listeners.push(wish.listeners[0].clone())),
        with(&|wish| wish.options = Some(labels("key", "value", 17))),
        with(&|wish| wish.options = Some(labels(&"k".repeat(64), "value", 1))),
        with(&|wish| wish.options = Some(labels("key", &"v".repeat(254), 1))),
    ];
    for (number, wish) in wishes.into_iter().enumerate() {
        let status = call(&shim, wish).await.err();
        let status = status.with_context(|| format!("request {number} was taken"))?;
        same(
            &format!("{number}: {status}"),
            reason(&status).as_str(),
            "invalid_request",
        )?;
        ensure!(
            status.message().split(' ').count() > 3,
            "{number}: no sentence"
        );
    }
    let bound: Listeners = pod.probe("listeners").await?;
    same("listeners in the pod", bound.listeners.len(), 0)
}

async fn version_and_status_tell_what_is_served(stage: &mut Stage) -> Result<()> {
    let shim = stage.shim("--max-sessions-per-node 7").await?;
    let mut client = shim.client();
    let version = client.version(pb::VersionRequest {}).await?.into_inner();
    same("name", version.name.as_str(), "sternline-shim")?;
    same("call", version.api_versions, vec![API_VERSION.to_owned()])?;
    same(
        "protocols",
        version.protocols,
        vec![STREAM_PROTOCOL.to_owned()],
    )?;
    let status = client.status(pb::StatusRequest {}).await?.into_inner();
    let limits = status.limits.context("no limits")?;
    same("sessions", limits.sessions_per_node, 7)?;
    for kind in ["Ready", "RuntimeReachable"] {
        let found = status.conditions.iter().find(|c| c.r#type == kind);
        same(kind, found.map(|c| c.status), Some(true))?;
    }
    same("wide bind", status.wide_bind_allowed, false)
}

async fn sessions_are_listed_with_what_they_do(stage: &mut Stage) -> Result<()> {
    let (pod, other) = (stage.pod("web").await?, stage.pod("other").await?);
    let shim = stage.shim("").await?;
    let mut wish = request(&pod, &[8080]);
    wish.options = Some(pb::SessionOptions {
        labels: [("why".to_owned(), "because".to_owned())].into(),
        ..Default::default()
    });
    let made = call(&shim, wish).await?;
    call(&shim, request(&other, &[8080])).await?;

    let mine = pb::ListSessionsRequest {
        sandbox_id: pod.id().to_owned(),
    };
    let listed = shim.client().list_sessions(mine).await?.into_inner();

    same("sessions of the pod", listed.sessions.len(), 1)?;
    same("sessions of the node", shim.sessions().await?.len(), 2)?;
    let session = &listed.sessions[0];
    same("id", &session.session_id, &made.session_id)?;
    same("state", session.state(), pb::SessionState::Waiting)?;
    same("bound", &session.bound, &made.bound)?;
    same(
        "label",
        session.labels.get("why").map(String::as_str),
        Some("because"),
    )
}

async fn the_socket_is_for_its_owner_alone(stage: &mut Stage) -> Result<()> {
    let shim = stage.shim("").await?;
    let mode = std::fs::metadata(shim.socket())?.permissions().mode();
    same("mode", mode & 0o777, 0o600)
}

async fn a_shim_that_was_killed_can_be_started_again_in_its_place(stage: &mut Stage) -> Result<()> {
    let (pod, mut shim) = (
        stage.pod("web").await?,
        stage.shim("--restart-grace 0s").await?,
    );
    call(&shim, request(&pod, &[8080])).await?;
    shim.kill().await?;
    ensure!(shim.socket().exists(), "nothing is left to be in the way");

    let again = stage.shim_on(shim.socket(), "").await?;

    call(&again, request(&pod, &[8080])).await?;
    Ok(())
}

async fn a_second_shim_does_not_take_the_socket_of_a_first(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let second = stage.shim_on(shim.socket(), "").await;
    let error = second.err().context("a second shim came up")?;
    let socket = shim.socket().display().to_string();
    crate::support::says("its complaint", &format!("{error:#}"), &socket)?;
    call(&shim, request(&pod, &[8080])).await?;
    Ok(())
}

async fn the_status_names_the_runtime(stage: &mut Stage) -> Result<()> {
    let shim = stage.shim("").await?;
    let mut client = shim.client();
    let status = client.status(pb::StatusRequest {}).await?.into_inner();
    // Name and series; builders decorate the rest.
    let (name, version) = stage
        .node()
        .version()
        .split_once(' ')
        .context("no version")?;
    let series = version
        .rsplit_once('.')
        .map_or(version, |(series, _)| series);
    crate::support::says("the status", &status.runtime, name)?;
    crate::support::says("the status", &status.runtime, series)
}
