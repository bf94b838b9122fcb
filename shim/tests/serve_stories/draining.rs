//! How the node goes away: streams may finish, and nothing waits for ever.

use crate::support::client::{connect, is_free};
use crate::support::node::refusal;
use crate::support::{Client, Node, at, eventually, free, held, pod, pod_reset, request, within};
use std::time::Duration;
use sternline_api::v1alpha1::{self as pb, control_message::Event};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Longer than any test takes: what ends within it did not wait for it.
const LONG: &[&str] = &["--drain-timeout", "1h"];

/// A session that holds, with one connection open.
async fn busy(node: &Node) -> (Client, pb::Ready, TcpStream) {
    let asked = held(request(&[free()]), Duration::from_secs(600));
    let mut client = node.session(asked).await;
    let ready = client.ready().await;
    let (_, connection) = pod(&ready.bound[0]).await;
    (client, ready, connection)
}

async fn draining(client: &mut Client) -> pb::Draining {
    match client.event().await {
        Some(Event::Draining(draining)) => draining,
        other => panic!("{other:?} instead of draining"),
    }
}

async fn drained(client: &mut Client) {
    let ending = client.ending().await;
    assert_eq!(ending.code, "draining");
    assert_eq!(
        ending.message,
        "sandbox web: the node's shim is shutting down"
    );
}

async fn health(node: &Node, service: &str) -> i32 {
    let check = tonic_health::pb::HealthCheckRequest {
        service: service.into(),
    };
    let mut health = tonic_health::pb::health_client::HealthClient::new(node.channel());
    let health = within("the check", health.check(check)).await;
    health.expect("an answer").into_inner().status
}

#[tokio::test]
async fn streams_finish_and_nothing_new_comes() {
    let mut node = Node::start(LONG).await;
    let (mut client, ready, mut connection) = busy(&node).await;
    node.terminate();

    let told = draining(&mut client).await;
    assert_eq!(told.deadline_ms, 3_600_000);
    assert!(told.message.contains("shutting down"), "{told:?}");
    let (code, word, _) = node.refused(request(&[free()])).await;
    assert_eq!(
        (code, word.as_str()),
        (tonic::Code::Unavailable, "draining")
    );
    for service in ["", "sternline.v1alpha1.ReversePortForwardService"] {
        assert_eq!(health(&node, service).await, 2, "{service} is not serving");
    }
    // The kernel keeps it.
    let mut late = connect(&ready.bound[0]).await;
    connection.write_all(b"still here").await.expect("open");
    let mut echo = [0; 10];
    within("the echo", connection.read_exact(&mut echo))
        .await
        .expect("open");
    assert_eq!(&echo, b"still here");

    drop(connection);
    drained(&mut client).await;
    pod_reset(&mut late).await;
    node.stopped().await;
    assert!(is_free(&ready.bound[0]) && node.at_rest());
    assert_eq!(
        node.metric("sternline_connections_total{status=\"ok\"}"),
        1.0
    );
    assert_eq!(
        node.metric("sternline_sessions_total{end=\"draining\"}"),
        1.0
    );
}

#[tokio::test]
async fn a_session_without_streams_ends_at_once_and_is_told_so() {
    let mut node = Node::start(LONG).await;
    let mut client = node
        .session(held(request(&[free()]), Duration::from_secs(600)))
        .await;
    let ready = client.ready().await;
    let waiting = node.open(request(&[free()])).await;
    let (busy_client, _, _connection) = busy(&node).await;
    node.terminate();

    assert_eq!(draining(&mut client).await.deadline_ms, 0);
    drained(&mut client).await;
    eventually("the ends", async || node.sessions().await.len() == 1).await;
    assert!(is_free(&ready.bound[0]) && is_free(&waiting.bound[0]));
    let refused = node.try_upgrade(&waiting.url).await.expect_err("void");
    assert_eq!(
        (refused.status, refused.body["reason"].as_str()),
        (503, Some("draining"))
    );
    // Whose last client goes without a word is not waited for either.
    drop(busy_client);
    node.stopped().await;
    assert!(node.at_rest());
}

#[tokio::test]
async fn the_time_to_finish_is_bounded() {
    let mut node = Node::start(&["--drain-timeout", "300ms"]).await;
    let (mut client, ready, mut connection) = busy(&node).await;
    node.terminate();
    assert_eq!(draining(&mut client).await.deadline_ms, 300);
    pod_reset(&mut connection).await;
    drained(&mut client).await;
    node.stopped().await;
    assert!(is_free(&ready.bound[0]) && node.at_rest());
    let cut = "sternline_connections_total{status=\"session_ended\"}";
    assert_eq!(node.metric(cut), 1.0);
}

#[tokio::test]
async fn a_second_order_ends_everything_at_once() {
    let mut node = Node::start(LONG).await;
    let (mut client, _, mut connection) = busy(&node).await;
    node.terminate();
    draining(&mut client).await;
    node.terminate();
    pod_reset(&mut connection).await;
    drained(&mut client).await;
    node.stopped().await;
    assert!(node.at_rest());
}

#[tokio::test]
async fn without_time_to_drain_everything_ends_at_once() {
    let mut node = Node::start(&["--drain-timeout", "0s"]).await;
    let (mut client, _, mut connection) = busy(&node).await;
    node.terminate();
    assert_eq!(draining(&mut client).await.deadline_ms, 0);
    pod_reset(&mut connection).await;
    drained(&mut client).await;
    node.stopped().await;
}

/// A client that hears nothing any more does not keep the node.
#[tokio::test]
async fn a_frozen_client_keeps_the_node_no_longer_than_the_time_to_drain() {
    let mut node = Node::start(&["--drain-timeout", "100ms"]).await;
    let (client, ready, mut connection) = busy(&node).await;
    client.freeze();
    let began = Instant::now();
    node.terminate();
    pod_reset(&mut connection).await;
    node.stopped().await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    assert!(is_free(&ready.bound[0]) && node.at_rest());
}

#[tokio::test]
async fn nobody_comes_to_a_session_that_drains_and_nothing_is_added() {
    let mut node = Node::start(LONG).await;
    let (mut client, ready, connection) = busy(&node).await;
    let tickets = ready.tickets.clone().expect("tickets");
    node.terminate();
    draining(&mut client).await;
    for ticket in [&tickets.join, &tickets.resume] {
        let refused = node.try_upgrade(ticket).await.expect_err("draining");
        assert_eq!(
            (refused.status, refused.body["reason"].as_str()),
            (503, Some("draining"))
        );
    }
    client.add(1, 7, at("127.0.0.1", 0));
    assert_eq!(client.changed().await.error, "draining");
    drop(connection);
    drained(&mut client).await;
    node.stopped().await;
}

/// A call that was waiting for its sockets when the shutdown began gets none.
#[tokio::test]
async fn a_call_under_way_at_a_shutdown_is_refused() {
    let mut node = Node::start(LONG).await;
    // Keeps the shutdown busy.
    let (_client, _, connection) = busy(&node).await;
    node.binder.stall();
    let before = node.binder.last_bound();
    let mut call = node.another_call().await;
    let asking = tokio::spawn(async move { call.reverse_port_forward(request(&[free()])).await });
    eventually("the bind", async || node.binder.last_bound() != before).await;
    let bound = pb::Bound::from_addr(0, node.binder.last_bound()[0]);
    node.terminate();
    let call = "sternline.v1alpha1.ReversePortForwardService";
    eventually("the shutdown", async || health(&node, call).await == 2).await;
    node.binder.go_on();
    let refused = asking.await.expect("no panic").expect_err("refused");
    assert_eq!(refusal(&refused).1, "draining");
    assert!(is_free(&bound));
    drop(connection);
    node.stopped().await;
}
