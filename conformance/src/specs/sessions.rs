//! Several sessions, and several tunnels of one (§2.4, §9).

use super::pod;
use crate::{
    context::{Context, Forward, request, tcp},
    spec::{Spec, spec},
    verdict::{Step, check, failed, skip},
    wire::tunnel::Manner,
};
use std::{sync::Arc, time::Duration};
use sternline_api::v1alpha1::{self as pb, control_message::Event};
use tonic::Code;

pub(super) const SPECS: &[Spec] = &[
    spec!(required "session.two", "1", [], "Two sessions of one sandbox are served side by side.", two),
    spec!(required "session.stop-one", "2.4", [], "Stopping one session leaves the other of its sandbox alone.", stop_one),
    spec!(required "session.port-taken", "2.3", [], "A port of another session is a port in use.", port_taken),
    spec!(required "session.counts", "2.4", [], "ListSessions counts tunnels and open connections.", counts),
    spec!(required "session.hold", "9.3", [], "With a hold, the listeners outlive the loss of the tunnel.", hold),
    spec!(required "session.hold-ends", "9.3", [], "When the hold is over, the listeners are freed.", hold_ends),
    spec!(required "session.resume", "9.3", [], "A resume ticket opens a tunnel with a control stream and ready.", resume),
    spec!(required "session.resume-supersedes", "9.3", [], "A resumed tunnel takes the place of one that is still up.", supersedes),
    spec!(required "session.ticket-once", "9.1", [], "A ticket works once.", ticket_once),
    spec!(required "session.join-limit", "9.1", [], "A session with limits.tunnels_per_session tunnels hands out no ticket to join.", join_limit),
    spec!(required "session.join", "9.2", [], "A join ticket adds a tunnel beside the first.", join),
];

async fn two(context: &Context) -> Step {
    let pod = context.pod().await?;
    let one = context.forward_in(&pod, 0, Manner::default()).await?;
    let other = context.forward_in(&pod, 0, Manner::default()).await?;
    for (forward, word) in [(&one, b"one"), (&other, b"two")] {
        let (mut inside, stream) = forward.connect().await?;
        stream.send(word).await?;
        let received = pod::read(&mut inside, 3, context.patience).await?;
        pod::same(word, &received)?;
    }
    Ok(())
}

async fn stop_one(context: &Context) -> Step {
    let pod = context.pod().await?;
    let one = context.forward_in(&pod, 0, Manner::default()).await?;
    let other = context.forward_in(&pod, 0, Manner::default()).await?;
    if let Err(status) = context.stop(&one.opened.response.session_id).await {
        return failed("the session is stopped", crate::context::describe(&status));
    }
    other.connect().await.map(drop)
}

async fn port_taken(context: &Context) -> Step {
    let forward = context.forward().await?;
    let again = request(&forward.pod.id, &[tcp("127.0.0.1", forward.address.port())]);
    context
        .refused(again, Code::AlreadyExists, "port_in_use")
        .await
        .map(drop)
}

async fn session(context: &Context, forward: &Forward) -> Step<pb::Session> {
    let id = &forward.opened.response.session_id;
    let listed = context.list(&forward.pod.id).await?;
    match listed.into_iter().find(|session| session.session_id == *id) {
        Some(session) => Ok(session),
        None => failed("the session in the list", "it is not there"),
    }
}

async fn counts(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (_inside, _stream) = forward.connect().await?;
    context
        .eventually("ACTIVE, 1 tunnel, 1 connection, 1 so far", || async {
            let session = session(context, &forward).await?;
            let active = session.state == pb::SessionState::Active as i32;
            let good = active
                && session.tunnels == 1
                && session.connections == 1
                && session.connections_total == 1;
            Ok((!good).then(|| format!("{session:?}")))
        })
        .await
}

async fn held(context: &Context, hold_ms: u64) -> Step<Forward> {
    if context.limits().max_hold_ms < hold_ms {
        return skip("the node allows no hold as long as this");
    }
    let pod = context.pod().await?;
    context.forward_in(&pod, hold_ms, Manner::default()).await
}

async fn hold(context: &Context) -> Step {
    let Forward {
        pod,
        tunnel,
        address,
        control,
        ..
    } = held(context, 30_000).await?;
    drop((tunnel, control));
    context.step("the tunnel is lost");
    // The node may take a moment to notice, and cut the hold short only then.
    let until = tokio::time::Instant::now() + Duration::from_secs(3);
    while tokio::time::Instant::now() < until {
        let there = pod.listening().await?;
        check(
            there.contains(&address),
            &format!("{address} listens"),
            format!("{there:?}"),
        )?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn hold_ends(context: &Context) -> Step {
    let Forward {
        pod,
        tunnel,
        address,
        control,
        ..
    } = held(context, 500).await?;
    drop((tunnel, control));
    context.step("the tunnel is lost");
    context
        .freed(&pod, address, Duration::from_millis(500) + context.patience)
        .await
}

fn ticket(forward: &Forward, join: bool) -> Step<String> {
    let tickets = forward.ready.tickets.clone().unwrap_or_default();
    let ticket = if join { tickets.join } else { tickets.resume };
    match ticket.is_empty() {
        true => skip("the node hands no such ticket out"),
        false => Ok(ticket),
    }
}

async fn resume(context: &Context) -> Step {
    let forward = held(context, 30_000).await?;
    let place = forward.opened.place.with_token(&ticket(&forward, false)?);
    let Forward {
        pod,
        tunnel,
        address,
        control,
        ..
    } = forward;
    drop((tunnel, control));
    context.step("the tunnel is lost");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let tunnel = context.redeem(&place).await?;
    let ready = tunnel.control().await?.ready().await?;
    let told: Vec<_> = ready.bound.iter().filter_map(pb::Bound::to_addr).collect();
    check(told == [address], &address.to_string(), format!("{told:?}"))?;
    let _inside = pod.connect(address).await?;
    tunnel.accept().await.map(drop)
}

async fn supersedes(context: &Context) -> Step {
    let forward = held(context, 30_000).await?;
    let place = forward.opened.place.with_token(&ticket(&forward, false)?);
    let newer = context.redeem(&place).await?;
    newer.control().await?.ready().await?;
    let ending = forward.control.ending().await?;
    check(ending.code == "superseded", "superseded", ending.code)?;
    let _inside = forward.pod.connect(forward.address).await?;
    newer.accept().await.map(drop)
}

async fn ticket_once(context: &Context) -> Step {
    let forward = held(context, 30_000).await?;
    let place = forward.opened.place.with_token(&ticket(&forward, true)?);
    let _second = context.redeem(&place).await?;
    fresh(context, &forward).await?;
    context.step("fresh tickets were told");
    let again = place.ask(place.raw().as_bytes(), context.patience).await?;
    check(again.status == 404, "404 for a used ticket", again.status)
}

/// Waits for the tickets that replace those that were used.
async fn fresh(context: &Context, forward: &Forward) -> Step<pb::Tickets> {
    let told = forward
        .control
        .find(context.patience, "fresh tickets", |event| match event {
            Event::Tickets(tickets) => Some(tickets),
            _ => None,
        });
    told.await
}

async fn join_limit(context: &Context) -> Step {
    let most = context.limits().tunnels_per_session;
    if most > 64 {
        return skip(format!("{most} tunnels are too many to try"));
    }
    let forward = context.forward().await?;
    let mut join = forward.ready.tickets.clone().unwrap_or_default().join;
    let mut tunnels = Vec::new();
    for number in 1..most {
        if join.is_empty() {
            return failed("a ticket to join", format!("none after {number} tunnels"));
        }
        let place = forward.opened.place.with_token(&join);
        tunnels.push(context.redeem(&place).await?);
        join = fresh(context, &forward).await?.join;
    }
    context.step(format!("{most} tunnels are up"));
    check(join.is_empty(), "no ticket to join", "one more")
}

async fn join(context: &Context) -> Step {
    let forward = context.forward().await?;
    let place = forward.opened.place.with_token(&ticket(&forward, true)?);
    let second = context.redeem(&place).await?;
    fresh(context, &forward).await?;
    context
        .eventually("2 tunnels", || async {
            let tunnels = session(context, &forward).await?.tunnels;
            Ok((tunnels != 2).then(|| tunnels.to_string()))
        })
        .await?;
    // Each new connection comes over one of the two.
    let (first, second) = (
        Arc::clone(&forward.tunnel.shared),
        Arc::clone(&second.shared),
    );
    let mut inside = Vec::new();
    for _ in 0..8 {
        inside.push(forward.pod.connect(forward.address).await?);
    }
    let arrived = async {
        while first.lock().requests.len() + second.lock().requests.len() < 8 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    crate::verdict::within(
        context.patience,
        "8 connections over the two tunnels",
        arrived,
    )
    .await?;
    let (one, two) = (first.lock().requests.len(), second.lock().requests.len());
    check(
        one > 0 && two > 0,
        "both tunnels carry connections",
        format!("{one} and {two}"),
    )
}
