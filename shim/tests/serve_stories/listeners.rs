//! Listeners that come and go while a session lasts.

use crate::support::client::is_free;
use crate::support::{Client, Node, at, eventually, free, pod, request};
use std::io::ErrorKind;
use sternline_api::v1alpha1 as pb;

async fn session(node: &Node) -> (Client, pb::Ready) {
    let mut client = node.session(request(&[free()])).await;
    let ready = client.ready().await;
    (client, ready)
}

#[tokio::test]
async fn one_is_added_used_and_removed() {
    let node = Node::start(&[]).await;
    let (mut client, ready) = session(&node).await;
    client.add(1, 5, free());
    let added = client.changed().await;
    assert_eq!((added.request_id, added.listener_id), (1, 5));
    assert_eq!((added.error.as_str(), added.bound.len()), ("", 1));
    let (greeting, _connection) = pod(&added.bound[0]).await;
    assert_eq!(greeting, "first/5");
    assert_eq!(node.sessions().await[0].bound.len(), 2);

    client.remove(2, 5);
    let removed = client.changed().await;
    assert_eq!((removed.request_id, removed.error.as_str()), (2, ""));
    assert!(removed.bound.is_empty());
    assert!(is_free(&added.bound[0]), "answered when it is free");
    assert_eq!(node.sessions().await[0].bound, ready.bound);
    // The very same address can be had again at once.
    client.add(3, 6, at("127.0.0.1", added.bound[0].port));
    assert_eq!(client.changed().await.bound[0].port, added.bound[0].port);
    assert_eq!(node.metric("sternline_listeners_active"), 2.0);
}

#[tokio::test]
async fn what_cannot_be_added_or_removed_is_told_why() {
    let node = Node::start(&[]).await;
    let (mut client, ready) = session(&node).await;
    let taken = at("127.0.0.1", ready.bound[0].port);
    for (listener_id, listener, word) in [
        (0, free(), "invalid_request"),
        (1, taken, "port_in_use"),
        (1, at("0.0.0.0", 0), "wide_bind_denied"),
        (1, at("", 65536), "invalid_request"),
        (1, at("here", 80), "invalid_request"),
    ] {
        client.add(9, listener_id, listener);
        let answer = client.changed().await;
        assert_eq!((answer.request_id, answer.error.as_str()), (9, word));
        assert!(answer.bound.is_empty() && !answer.message.is_empty());
        let counted = format!("sternline_errors_total{{type=\"{word}\"}}");
        assert!(node.metric(&counted) >= 1.0, "{word} is not counted");
    }
    client.remove(9, 77);
    assert_eq!(client.changed().await.error, "unknown_listener");
    pod(&ready.bound[0]).await;
}

#[tokio::test]
async fn an_answer_fits_a_message_whatever_was_asked_for() {
    let node = Node::start(&[]).await;
    let (mut client, _) = session(&node).await;
    client.add(1, 1, at(&"\u{1}".repeat(60_000), 80));
    assert_eq!(client.changed().await.error, "invalid_request");
    client.remove(2, 0);
    assert_eq!(client.changed().await.error, "");
}

#[tokio::test]
async fn wide_listeners_are_added_where_they_are_allowed() {
    let node = Node::start(&["--allow-wide-bind"]).await;
    let (mut client, _) = session(&node).await;
    client.add(1, 1, at("0.0.0.0", 0));
    let added = client.changed().await;
    assert_eq!(added.error, "");
    assert_eq!(added.bound[0].address, "0.0.0.0");
}

/// A sandbox that is gone may have an id that is the beginning of another's.
#[tokio::test]
async fn nothing_is_added_in_another_sandbox() {
    let node = Node::start(&[]).await;
    let (mut client, _) = session(&node).await;
    node.binder.pose_as("web-2");
    client.add(1, 1, free());
    assert_eq!(client.changed().await.error, "sandbox_gone");
    let bound = pb::Bound::from_addr(0, node.binder.last_bound()[0]);
    eventually("the socket's end", async || is_free(&bound)).await;
    assert_eq!(node.metric("sternline_listeners_active"), 1.0);
}

/// What is being bound when the session ends is not left behind.
#[tokio::test]
async fn a_listener_on_its_way_ends_with_its_session() {
    let node = Node::start(&[]).await;
    let (client, ready) = session(&node).await;
    let first = node.binder.last_bound();
    node.binder.stall();
    client.add(1, 1, free());
    eventually("the bind", async || node.binder.last_bound() != first).await;
    let bound = pb::Bound::from_addr(0, node.binder.last_bound()[0]);
    assert!(!is_free(&bound));
    node.stop_session(&ready.session_id).await.expect("stopped");
    assert!(is_free(&bound), "StopSession answers when it is free");
}

#[tokio::test]
async fn only_so_many_are_on_their_way() {
    let node = Node::start(&[]).await;
    let (mut client, _) = session(&node).await;
    node.binder.stall();
    for id in 1..=9 {
        client.add(id, id, free());
    }
    let refused = client.changed().await;
    assert_eq!(
        (refused.request_id, refused.error.as_str()),
        (9, "listener_limit")
    );
}

/// Removing a listener leaves its open connections alone and resets the queued.
#[tokio::test]
async fn open_connections_outlive_their_listener() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let node = Node::start(&[]).await;
    let (mut client, ready) = session(&node).await;
    let (_, mut open) = pod(&ready.bound[0]).await;
    client.remove(1, 0);
    client.changed().await;
    open.write_all(b"x").await.expect("sent");
    assert_eq!(open.read_u8().await.expect("echoed"), b'x');
    let address = ready.bound[0].to_addr().expect("an address");
    let refused = tokio::net::TcpStream::connect(address).await;
    assert_eq!(
        refused.expect_err("free").kind(),
        ErrorKind::ConnectionRefused
    );
}
