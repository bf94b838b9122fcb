//! Limits, as `Status` tells them (§6.4, §11).

use super::pod;
use crate::{
    context::{Context, Forward, describe, request, tcp},
    spec::{Spec, spec},
    verdict::{Step, check, failed, skip},
    wire::frame::CANCEL,
};
use std::time::Duration;
use sternline_api::v1alpha1::{self as pb, control_message::Event};
use tokio::net::TcpStream;
use tonic::Code::ResourceExhausted;

pub(super) const SPECS: &[Spec] = &[
    spec!(required "limit.connections", "6.4", [], "One connection more than limits.connections_per_session is reset.", connections),
    spec!(required "limit.rejected-event", "6.4", [], "A connection that is turned away is told in rejected, with connection_limit.", rejected_event),
    spec!(required "limit.connection-returned", "6.4", [], "A connection that ended makes room for another.", connection_returned),
    spec!(required "limit.listeners", "11", [], "One listener more than limits.listeners_per_session fails with listener_limit.", listeners),
    spec!(required "limit.sessions", "11", [], "One session more than limits.sessions_per_sandbox fails with session_limit.", sessions),
    spec!(required "limit.node-connections", "6.4", ["serial"], "One connection more than limits.connections_per_node is reset, with node_connection_limit.", node_connections),
    spec!(required "limit.idle", "6.4", ["slow"], "A stream that was silent for limits.idle_timeout_ms is reset with CANCEL.", idle),
    spec!(required "limit.session-returned", "11", [], "A session that ended makes room for another.", session_returned),
];

type Pairs = Vec<(TcpStream, crate::wire::stream::Stream)>;

/// A session with as many connections as it may have.
async fn full(context: &Context) -> Step<(Forward, Pairs)> {
    let most = context.limits().connections_per_session;
    if most > 512 {
        return skip(format!("{most} connections are too many to try"));
    }
    let forward = context.forward().await?;
    let mut pairs = Vec::new();
    for _ in 0..most {
        pairs.push(forward.connect().await?);
    }
    context.step(format!("{most} connections are open"));
    Ok((forward, pairs))
}

async fn connections(context: &Context) -> Step {
    let (forward, _pairs) = full(context).await?;
    match forward.pod.try_connect(forward.address).await? {
        Ok(mut one_more) => pod::reset(&mut one_more, context.patience).await,
        // Reset before the connect returned.
        Err(_) => Ok(()),
    }
}

async fn rejected_event(context: &Context) -> Step {
    let (forward, _pairs) = full(context).await?;
    let _one_more = forward.pod.try_connect(forward.address).await?;
    let rejected = forward
        .control
        .find(context.patience, "rejected", |event| match event {
            Event::Rejected(rejected) => Some(rejected),
            _ => None,
        });
    let rejected = rejected.await?;
    let good =
        rejected.reason == "connection_limit" && rejected.listener_id == 0 && rejected.count == 1;
    check(
        good,
        "connection_limit, listener 0, count 1",
        format!("{rejected:?}"),
    )
}

async fn connection_returned(context: &Context) -> Step {
    let (forward, mut pairs) = full(context).await?;
    if let Some((inside, stream)) = pairs.pop() {
        stream.end();
        drop(inside);
        stream.over(context.patience).await;
        context.step("one connection ended on both sides");
    }
    // The node may take a moment to notice.
    context
        .eventually("room for another connection", || async {
            let Ok(_inside) = forward.pod.try_connect(forward.address).await? else {
                return Ok(Some("the connection was reset".into()));
            };
            let wait = Duration::from_millis(300);
            let arrived = forward
                .tunnel
                .shared
                .wait_for(wait, "", |state| state.requests.pop_front());
            Ok(arrived.await.err().map(|_| "no CONNECT came".into()))
        })
        .await
}

async fn node_connections(context: &Context) -> Step {
    let limits = context.limits();
    let most = limits.connections_per_node;
    if most > 1000 || limits.connections_per_session < 2 {
        return skip(format!("{most} connections are too many to try"));
    }
    if (1..60_000).contains(&limits.idle_timeout_ms) {
        return skip("streams are reset as idle before all are open");
    }
    // One less than a session may have, so that its own limit is not met.
    let each = limits.connections_per_session - 1;
    let sessions = most.div_ceil(each);
    if sessions > limits.sessions_per_node {
        return skip("limits.sessions_per_node is reached first");
    }
    context
        .eventually("no connection of an earlier spec is left", || async {
            let mut client = context.client.clone();
            let status = client.status(pb::StatusRequest {}).await;
            let open = status.map_or(0, |status| status.into_inner().connections);
            Ok((open > 0).then(|| format!("{open} connections")))
        })
        .await?;
    let (mut forwards, mut pairs) = (Vec::new(), Vec::new());
    let mut pod = context.pod().await?;
    for number in 0..sessions {
        if number > 0 && number % limits.sessions_per_sandbox == 0 {
            pod = context.pod().await?;
        }
        let forward = context.forward_in(&pod, 0, Default::default()).await?;
        for _ in 0..each.min(most - number * each) {
            pairs.push(forward.connect().await?);
        }
        forwards.push(forward);
    }
    context.step(format!(
        "{most} connections are open in {sessions} sessions"
    ));
    let Some(last) = forwards.last() else {
        return skip("the node allows no connection");
    };
    let one_more = last.pod.try_connect(last.address).await?;
    let rejected = last
        .control
        .find(context.patience, "rejected", |event| match event {
            Event::Rejected(rejected) => Some(rejected.reason),
            _ => None,
        });
    let reason = rejected.await?;
    check(
        reason == "node_connection_limit",
        "node_connection_limit",
        reason,
    )?;
    match one_more {
        Ok(mut one_more) => pod::reset(&mut one_more, context.patience).await,
        // Reset before the connect returned.
        Err(_) => Ok(()),
    }
}

async fn idle(context: &Context) -> Step {
    let idle = context.limits().idle_timeout_ms;
    if idle == 0 {
        return skip("streams may be silent for ever here");
    }
    if idle > 60_000 {
        return skip(format!("{idle} ms are too long to wait"));
    }
    let forward = context.forward().await?;
    let (mut inside, stream) = forward.connected().await?;
    context.step("a byte went each way, and then nothing");
    let wait = Duration::from_millis(idle) + context.patience * 2;
    let code = stream.was_reset_within(wait).await?;
    check(code == CANCEL, "CANCEL (8)", code)?;
    pod::reset(&mut inside, context.patience).await
}

async fn listeners(context: &Context) -> Step {
    let most = context.limits().listeners_per_session;
    if most > 1000 {
        return skip(format!("{most} listeners are too many to try"));
    }
    let pod = context.pod().await?;
    let asked = vec![tcp("127.0.0.1", 0); most as usize + 1];
    let request = request(&pod.id, &asked);
    context
        .refused(request, ResourceExhausted, "listener_limit")
        .await
        .map(drop)
}

async fn sessions(context: &Context) -> Step {
    let most = context.limits().sessions_per_sandbox;
    if most > 200 {
        return skip(format!("{most} sessions are too many to try"));
    }
    let pod = context.pod().await?;
    for _ in 0..most {
        context.open(&pod, &[tcp("127.0.0.1", 0)]).await?;
    }
    let request = request(&pod.id, &[tcp("127.0.0.1", 0)]);
    context
        .refused(request, ResourceExhausted, "session_limit")
        .await
        .map(drop)
}

async fn session_returned(context: &Context) -> Step {
    let most = context.limits().sessions_per_sandbox;
    if most > 200 {
        return skip(format!("{most} sessions are too many to try"));
    }
    let pod = context.pod().await?;
    let mut last = None;
    for _ in 0..most {
        last = Some(context.open(&pod, &[tcp("127.0.0.1", 0)]).await?);
    }
    context.step(format!("the sandbox has {most} sessions"));
    let Some(opened) = last else {
        return skip("the node allows no session");
    };
    if let Err(status) = context.stop(&opened.response.session_id).await {
        return failed("the session is stopped", describe(&status));
    }
    context.open(&pod, &[tcp("127.0.0.1", 0)]).await.map(drop)
}
