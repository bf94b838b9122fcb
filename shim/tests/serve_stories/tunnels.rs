//! Tunnels, tickets and holds.

use crate::support::client::{connect, greeting, is_free};
use crate::support::{Client, Node, eventually, free, held, pod, pod_reset, request, within};
use std::time::Duration;
use sternline_api::v1alpha1::{self as pb, control_message::Event};
use tokio::time::{Instant, sleep};

const HOLD: Duration = Duration::from_secs(600);

/// A session that holds, its client and its first tickets.
async fn holding(node: &Node, hold: Duration) -> (Client, pb::Ready, pb::Tickets) {
    let mut client = node.session(held(request(&[free()]), hold)).await;
    let ready = client.ready().await;
    let tickets = ready.tickets.clone().expect("tickets");
    (client, ready, tickets)
}

async fn state(node: &Node) -> Option<pb::SessionState> {
    node.sessions().await.first().map(pb::Session::state)
}

async fn lose(node: &Node, client: Client) {
    drop(client);
    eventually("the loss", async || {
        state(node).await == Some(pb::SessionState::Held)
    })
    .await;
}

#[tokio::test]
async fn ready_comes_first_and_tells_everything() {
    let node = Node::start(&["--max-connections-per-session", "9"]).await;
    let answer = node.open(held(request(&[free(), free()]), HOLD)).await;
    let mut client = Client::serve(node.upgrade(&answer.url).await, "first").await;
    let ready = client.ready().await;
    assert_eq!(ready.session_id, answer.session_id);
    assert_eq!(ready.bound, answer.bound);
    assert_eq!(ready.limits, answer.limits);
    assert_eq!(ready.hold_ms, 600_000);
    let tickets = ready.tickets.expect("tickets");
    assert!(tickets.join.len() >= 32 && tickets.resume.len() >= 32);
    assert_ne!(tickets.join, tickets.resume);
    assert_eq!(state(&node).await, Some(pb::SessionState::Active));
    assert_eq!(node.metric("sternline_tunnels_active"), 1.0);
}

#[tokio::test]
async fn a_joined_tunnel_shares_the_work_and_its_loss_is_its_own() {
    let node = Node::start(&[]).await;
    let (mut first, ready, tickets) = holding(&node, HOLD).await;
    let second = Client::serve(node.upgrade(&tickets.join).await, "second").await;
    let fresh = first.tickets().await;
    assert_ne!(fresh.join, tickets.join);
    assert_ne!(fresh.resume, tickets.resume);
    for old in [&tickets.join, &tickets.resume] {
        let refused = node.try_upgrade(old).await.expect_err("an old ticket");
        assert_eq!(refused.status, 404);
    }
    let (one, mut one_io) = pod(&ready.bound[0]).await;
    let (two, mut two_io) = pod(&ready.bound[0]).await;
    let mut both = [one.clone(), two];
    both.sort();
    assert_eq!(both, ["first/0", "second/0"], "each in turn");
    drop(second);
    let lost = if one == "second/0" {
        &mut one_io
    } else {
        &mut two_io
    };
    pod_reset(lost).await;
    for _ in 0..3 {
        assert_eq!(pod(&ready.bound[0]).await.0, "first/0");
    }
    assert_eq!(state(&node).await, Some(pb::SessionState::Active));
}

#[tokio::test]
async fn the_loss_of_the_control_stream_closes_the_joined_tunnels() {
    let node = Node::start(&[]).await;
    let (mut first, _, tickets) = holding(&node, HOLD).await;
    let mut second = Client::serve(node.upgrade(&tickets.join).await, "second").await;
    let fresh = first.tickets().await;
    lose(&node, first).await;
    second.closed().await;
    let refused = node
        .try_upgrade(&fresh.join)
        .await
        .expect_err("nothing to join");
    assert_eq!(refused.status, 404);
}

#[tokio::test]
async fn a_resume_takes_the_place_of_tunnels_that_still_live() {
    let node = Node::start(&[]).await;
    let (mut old, ready, tickets) = holding(&node, HOLD).await;
    let (_, mut connection) = pod(&ready.bound[0]).await;
    let mut new = Client::serve(node.upgrade(&tickets.resume).await, "new").await;
    let again = new.ready().await;
    assert_eq!(again.bound, ready.bound);
    assert_eq!(old.ending().await.code, "superseded");
    old.closed().await;
    pod_reset(&mut connection).await;
    assert_eq!(pod(&ready.bound[0]).await.0, "new/0");
    let fresh = again.tickets.expect("tickets");
    for used in [&tickets.join, &tickets.resume] {
        assert_eq!(node.try_upgrade(used).await.expect_err("used").status, 404);
    }
    // And once more, with the ticket that it brought.
    let mut newest = Client::serve(node.upgrade(&fresh.resume).await, "newest").await;
    newest.ready().await;
    assert_eq!(new.ending().await.code, "superseded");
    eventually("one tunnel", async || node.sessions().await[0].tunnels == 1).await;
}

#[tokio::test]
async fn what_connects_during_a_hold_is_served_after_it() {
    let node = Node::start(&[]).await;
    let (client, ready, tickets) = holding(&node, HOLD).await;
    lose(&node, client).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(connect(&ready.bound[0]).await);
    }
    sleep(Duration::from_millis(50)).await;
    let mut new = Client::serve(node.upgrade(&tickets.resume).await, "new").await;
    new.ready().await;
    for io in &mut waiting {
        assert_eq!(greeting(io).await.expect("served"), "new/0");
    }
}

#[tokio::test]
async fn a_hold_that_is_over_frees_everything() {
    let node = Node::start(&[]).await;
    let (client, ready, tickets) = holding(&node, Duration::from_secs(3)).await;
    lose(&node, client).await;
    let lost = Instant::now();
    assert!(!is_free(&ready.bound[0]));
    eventually("the end", async || node.sessions().await.is_empty()).await;
    assert!(lost.elapsed() > Duration::from_secs(1), "it held");
    assert!(is_free(&ready.bound[0]) && node.at_rest());
    let late = node.try_upgrade(&tickets.resume).await.expect_err("over");
    assert_eq!(late.status, 404);
    assert_eq!(
        node.metric("sternline_sessions_total{end=\"tunnel_lost\"}"),
        1.0
    );
}

#[tokio::test]
async fn without_a_hold_a_loss_is_the_end() {
    let node = Node::start(&[]).await;
    let (client, ready, _) = holding(&node, Duration::ZERO).await;
    let (_, mut connection) = pod(&ready.bound[0]).await;
    drop(client);
    pod_reset(&mut connection).await;
    eventually("the end", async || node.sessions().await.is_empty()).await;
    assert!(is_free(&ready.bound[0]));
}

/// The link breaks again while the client comes back: in the middle of the
/// Upgrade, after it, and when the announcement was on its way.
#[tokio::test]
async fn a_resume_that_fails_may_be_tried_again() {
    let node = Node::start(&[]).await;
    let (client, ready, tickets) = holding(&node, HOLD).await;
    lose(&node, client).await;
    let path = format!("/v1alpha1/sessions/{}", tickets.resume);
    for _ in 0..3 {
        let mut io = node.stream().await;
        crate::support::client::send(&mut io, &crate::support::client::upgrade(&path)).await;
        drop(io);
        drop(node.upgrade(&tickets.resume).await);
    }
    // One attempt hangs and does not stand in the way of the next.
    let hanging = node.upgrade(&tickets.resume).await;
    let unheard = Client::serve(node.upgrade(&tickets.resume).await, "unheard").await;
    eventually("the tunnel", async || {
        state(&node).await == Some(pb::SessionState::Active)
    })
    .await;
    lose(&node, unheard).await;
    let mut new = Client::serve(node.upgrade(&tickets.resume).await, "new").await;
    new.ready().await;
    assert_eq!(pod(&ready.bound[0]).await.0, "new/0");
    // What was admitted with a ticket that brought a tunnel comes to nothing.
    let mut late = Client::serve(hanging, "late").await;
    late.closed().await;
    assert_eq!(pod(&ready.bound[0]).await.0, "new/0");
    assert_eq!(
        node.try_upgrade(&tickets.resume)
            .await
            .expect_err("used")
            .status,
        404
    );
}

/// A hold is not made longer by attempts that fail.
#[tokio::test]
async fn attempts_do_not_prolong_a_hold() {
    let node = Node::start(&[]).await;
    let (client, ready, tickets) = holding(&node, Duration::from_millis(400)).await;
    lose(&node, client).await;
    let lost = Instant::now();
    while node.try_upgrade(&tickets.resume).await.is_ok() {
        sleep(Duration::from_millis(20)).await;
        assert!(lost.elapsed() < Duration::from_secs(20), "held for ever");
    }
    eventually("the end", async || is_free(&ready.bound[0])).await;
}

/// A client that comes at the last moment is waited for.
#[tokio::test]
async fn a_resume_that_began_in_time_is_not_late() {
    let node = Node::start(&[]).await;
    let (client, _, tickets) = holding(&node, Duration::from_secs(3)).await;
    lose(&node, client).await;
    let io = node.upgrade(&tickets.resume).await;
    sleep(Duration::from_millis(3_500)).await;
    Client::serve(io, "new").await.ready().await;
}

#[tokio::test]
async fn a_join_that_fails_changes_nothing() {
    let node = Node::start(&[]).await;
    let (mut client, ready, tickets) = holding(&node, HOLD).await;
    drop(node.upgrade(&tickets.join).await);
    sleep(Duration::from_millis(50)).await;
    assert_eq!(pod(&ready.bound[0]).await.0, "first/0");
    // A tunnel that was up for a moment counts as used; else the ticket is good.
    let ticket = match tokio::time::timeout(Duration::from_secs(1), client.tickets()).await {
        Ok(fresh) => fresh.join,
        Err(_) => tickets.join,
    };
    let _second = Client::serve(node.upgrade(&ticket).await, "second").await;
    client.tickets().await;
}

/// A goodbye frees the listeners at once, however long a hold was asked for, and
/// however hastily the client leaves.
#[tokio::test]
async fn a_goodbye_is_never_taken_for_a_loss() {
    let node = Node::start(&[]).await;
    let mut quick = 0;
    for _ in 0..40 {
        let (client, ready, _) = holding(&node, HOLD).await;
        let said = Instant::now();
        client.goodbye().await;
        eventually("the end", async || node.sessions().await.is_empty()).await;
        assert!(is_free(&ready.bound[0]));
        quick += u32::from(said.elapsed() < Duration::from_millis(700));
    }
    // Whoever waits for something to run out takes a second each time.
    assert!(quick >= 10, "{quick} of 40 at once");
    assert_eq!(node.metric("sternline_sessions_total{end=\"done\"}"), 40.0);
}

/// A client that waits for the node to close need not wait long.
#[tokio::test]
async fn a_goodbye_is_answered_with_the_end_of_the_tunnel() {
    let node = Node::start(&[]).await;
    let mut took = Vec::new();
    // One that waits for something to run out takes a second each time.
    for _ in 0..5 {
        let (mut client, _, _) = holding(&node, HOLD).await;
        let said = Instant::now();
        client.say(Event::Ending(pb::Ending {
            code: "done".into(),
            message: String::new(),
        }));
        client.closed().await;
        if said.elapsed() < Duration::from_millis(700) {
            return;
        }
        took.push(said.elapsed());
    }
    panic!("not once at once: {took:?}");
}

/// A client that never reads what it is told is cut off, and its session ends.
#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let node = Node::start(&["--ping-interval", "100ms"]).await;
    let (client, ready, _) = holding(&node, Duration::ZERO).await;
    client.freeze();
    within("the end", async {
        while !is_free(&ready.bound[0]) {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    eventually("the rest", async || node.at_rest()).await;
}
