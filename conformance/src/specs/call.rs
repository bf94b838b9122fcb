//! What the calls answer (§2.2, §2.4).

use crate::{
    context::{Context, refusal, request, tcp},
    spec::{Spec, spec},
    verdict::{Step, check, failed},
};
use std::time::SystemTime;
use sternline_api::{
    protocol::{API_VERSION, STREAM_PROTOCOL},
    v1alpha1 as pb,
};
use tonic::Code;

pub(super) const SPECS: &[Spec] = &[
    spec!(required "call.version", "2.4", [], "Version names the server and lists the call's version and the streaming protocol.", version),
    spec!(required "call.status-conditions", "2.4", [], "Status has the conditions Ready and RuntimeReachable.", conditions),
    spec!(required "call.status-limits", "2.4", [], "Status tells limits that allow at least one of everything.", limits),
    spec!(required "call.expiry", "2.2", [], "expires_at_ms is the time of the call plus limits.token_ttl_ms.", expiry),
    spec!(required "call.limits", "2.2", [], "The answer carries the limits of the session, as in Status.", same_limits),
    spec!(required "call.session-id", "2.2", [], "The session's id is no secret: it is not part of the URL.", session_id),
    spec!(required "call.bound-order", "2.2", [], "bound[] is in the order of the request, IPv4 before IPv6, ids from 0.", bound_order),
    spec!(required "call.list", "2.4", [], "ListSessions shows a waiting session with its sandbox and addresses.", list),
    spec!(required "call.list-labels", "2.2", [], "ListSessions shows a session's labels.", list_labels),
    spec!(required "call.list-narrowed", "2.4", [], "ListSessions with a sandbox shows that sandbox's sessions alone.", list_narrowed),
    spec!(required "call.stop-unknown", "2.4", [], "StopSession of an unknown session is NOT_FOUND.", stop_unknown),
    spec!(required "call.stop-prefix", "2.4", [], "StopSession takes a prefix that fits only one session.", stop_prefix),
    spec!(required "call.stop-frees", "2.4", [], "When StopSession answers, the listeners are free.", stop_frees),
];

async fn version(context: &Context) -> Step {
    let answer = context.client.clone().version(pb::VersionRequest {}).await;
    let Ok(answer) = answer.map(tonic::Response::into_inner) else {
        return failed("Version answers", "an error");
    };
    let good = !answer.name.is_empty()
        && answer
            .api_versions
            .iter()
            .any(|version| version == API_VERSION)
        && answer
            .protocols
            .iter()
            .any(|protocol| protocol == STREAM_PROTOCOL);
    check(
        good,
        &format!("a name, {API_VERSION}, {STREAM_PROTOCOL}"),
        format!("{answer:?}"),
    )
}

async fn conditions(context: &Context) -> Step {
    for wanted in ["Ready", "RuntimeReachable"] {
        let found = context
            .status
            .conditions
            .iter()
            .find(|c| c.r#type == wanted);
        let seen = format!("{:?}", context.status.conditions);
        check(
            found.is_some_and(|c| c.status),
            &format!("{wanted} is true"),
            seen,
        )?;
    }
    Ok(())
}

async fn limits(context: &Context) -> Step {
    let limits = context.limits();
    let least = [
        limits.connections_per_session,
        limits.connections_per_node,
        limits.sessions_per_sandbox,
        limits.sessions_per_node,
        limits.listeners_per_session,
        limits.tokens_in_flight,
        limits.tunnels_per_session,
    ];
    let times = [
        limits.token_ttl_ms,
        limits.dial_timeout_ms,
        limits.ping_interval_ms,
    ];
    let bytes = [
        limits.buffer_bytes_per_session,
        limits.buffer_bytes_per_node,
    ];
    let good = least.iter().all(|n| *n > 0) && times.iter().chain(&bytes).all(|n| *n > 0);
    check(good, "limits other than 0", format!("{limits:?}"))
}

async fn expiry(context: &Context) -> Step {
    let pod = context.pod().await?;
    let now = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(0))
    };
    let before = now();
    let opened = context.open(&pod, &[tcp("127.0.0.1", 0)]).await?;
    let ttl = context.limits().token_ttl_ms;
    // A clock that a node rounds may be a little off.
    let fits = (before + ttl - 50..=now() + ttl + 50).contains(&opened.response.expires_at_ms);
    let expected = format!("between {} and {}", before + ttl, now() + ttl);
    check(fits, &expected, opened.response.expires_at_ms)
}

async fn same_limits(context: &Context) -> Step {
    let pod = context.pod().await?;
    let opened = context.open(&pod, &[tcp("127.0.0.1", 0)]).await?;
    let (there, here) = (context.status.limits, opened.response.limits);
    check(there == here, &format!("{there:?}"), format!("{here:?}"))
}

async fn session_id(context: &Context) -> Step {
    let pod = context.pod().await?;
    let response = context.open(&pod, &[tcp("127.0.0.1", 0)]).await?.response;
    let apart = !response.session_id.is_empty() && !response.url.contains(&response.session_id);
    check(
        apart,
        "an id that is not part of the URL",
        response.session_id,
    )
}

async fn bound_order(context: &Context) -> Step {
    let pod = context.pod().await?;
    pod.needs_v6().await?;
    let asked = [tcp("127.0.0.2", 0), tcp("", 0), tcp("::1", 0)];
    let opened = context.open(&pod, &asked).await?;
    let seen: Vec<_> = opened
        .response
        .bound
        .iter()
        .map(|b| (b.listener_id, b.address.as_str()))
        .collect();
    let expected = [(0, "127.0.0.2"), (1, "127.0.0.1"), (1, "::1"), (2, "::1")];
    check(
        seen == expected,
        &format!("{expected:?}"),
        format!("{seen:?}"),
    )
}

async fn list(context: &Context) -> Step {
    let pod = context.pod().await?;
    let opened = context.open(&pod, &[tcp("127.0.0.1", 0)]).await?;
    let listed = context.list(&pod.id).await?;
    let found = listed
        .iter()
        .find(|session| session.session_id == opened.response.session_id);
    let Some(session) = found else {
        return failed("the session in the list", format!("{listed:?}"));
    };
    let good = session.sandbox_id == pod.id
        && session.state == pb::SessionState::Waiting as i32
        && session.bound == opened.response.bound
        && session.tunnels == 0;
    check(
        good,
        "its sandbox, WAITING, its addresses, no tunnel",
        format!("{session:?}"),
    )
}

async fn list_labels(context: &Context) -> Step {
    let pod = context.pod().await?;
    let mut request = request(&pod.id, &[tcp("127.0.0.1", 0)]);
    let labels = std::collections::HashMap::from([("who".to_owned(), "the suite".to_owned())]);
    request.options = Some(pb::SessionOptions {
        hold_ms: 0,
        labels: labels.clone(),
    });
    context.open_with(request).await?;
    let listed = context.list(&pod.id).await?;
    check(
        listed.iter().any(|session| session.labels == labels),
        "the labels",
        format!("{listed:?}"),
    )
}

async fn list_narrowed(context: &Context) -> Step {
    let (one, other) = (context.pod().await?, context.pod().await?);
    context.open(&one, &[tcp("127.0.0.1", 0)]).await?;
    context.open(&other, &[tcp("127.0.0.1", 0)]).await?;
    let listed = context.list(&one.id).await?;
    let alone = listed.iter().all(|session| session.sandbox_id == one.id);
    check(alone, "sessions of one sandbox", format!("{listed:?}"))
}

async fn stop_unknown(context: &Context) -> Step {
    let answer = context.stop("no-such-session").await;
    match answer {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        other => refusal(other, Code::NotFound, "a word").map(drop),
    }
}

async fn stop_prefix(context: &Context) -> Step {
    let pod = context.pod().await?;
    let opened = context.open(&pod, &[tcp("127.0.0.1", 0)]).await?;
    let id = &opened.response.session_id;
    check(id.len() > 4, "an id of more than 4 characters", id)?;
    if let Err(status) = context.stop(&id[..id.len() - 1]).await {
        return failed("the session is stopped", crate::context::describe(&status));
    }
    let listed = context.list(&pod.id).await?;
    check(
        listed.is_empty(),
        "no session is left",
        format!("{listed:?}"),
    )
}

async fn stop_frees(context: &Context) -> Step {
    let pod = context.pod().await?;
    let opened = context.open(&pod, &[tcp("", 0)]).await?;
    if let Err(status) = context.stop(&opened.response.session_id).await {
        return failed("the session is stopped", crate::context::describe(&status));
    }
    let there = pod.listening().await?;
    check(
        there.is_empty(),
        "nothing listens any more",
        format!("{there:?}"),
    )
}
