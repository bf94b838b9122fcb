//! Every limit turns away the one who comes last, says so, and is counted.

use crate::support::client::connect;
use crate::support::{Client, Node, eventually, free, in_sandbox, pod, pod_reset, request};
use sternline_api::v1alpha1::{self as pb, control_message::Event};
use tonic::Code;

fn rejections(node: &Node, reason: &str) -> f64 {
    node.metric(&format!(
        "sternline_rejections_total{{reason=\"{reason}\"}}"
    ))
}

async fn refused(node: &Node, request: pb::ReversePortForwardRequest, word: &str, part: &str) {
    let (code, said, sentence) = node.refused(request).await;
    assert_eq!((code, said.as_str()), (Code::ResourceExhausted, word));
    assert!(sentence.contains(part), "{sentence}");
    assert_eq!(rejections(node, word), 1.0);
}

#[tokio::test]
async fn sessions_of_a_sandbox() {
    let node = Node::start(&["--max-sessions-per-sandbox", "2"]).await;
    let first = node.open(request(&[free()])).await;
    node.open(request(&[free()])).await;
    let flag = "--max-sessions-per-sandbox";
    refused(&node, request(&[free()]), "session_limit", flag).await;
    let bound = pb::Bound::from_addr(0, node.binder.last_bound()[0]);
    assert!(
        crate::support::client::is_free(&bound),
        "a refused one listens"
    );
    node.open(in_sandbox("other", &[free()])).await;
    node.stop_session(&first.session_id).await.expect("stopped");
    node.open(request(&[free()])).await;
}

#[tokio::test]
async fn sessions_of_the_node() {
    let node = Node::start(&["--max-sessions-per-node", "2"]).await;
    let first = node.open(in_sandbox("a", &[free()])).await;
    node.open(in_sandbox("b", &[free()])).await;
    let another = in_sandbox("c", &[free()]);
    refused(
        &node,
        another.clone(),
        "session_limit",
        "--max-sessions-per-node",
    )
    .await;
    node.stop_session(&first.session_id).await.expect("stopped");
    node.open(another).await;
}

#[tokio::test]
async fn tokens_that_wait() {
    let node = Node::start(&["--max-tokens", "2"]).await;
    let first = node.open(request(&[free()])).await;
    let second = node.open(request(&[free()])).await;
    refused(&node, request(&[free()]), "token_limit", "--max-tokens").await;
    assert_eq!(node.sessions().await.len(), 2, "the refused one is gone");
    let bound = pb::Bound::from_addr(0, node.binder.last_bound()[0]);
    assert!(
        crate::support::client::is_free(&bound),
        "a refused one listens"
    );
    // A token that is redeemed makes room, and so does the end of its session.
    let _client = Client::serve(node.upgrade(&first.url).await, "first").await;
    node.open(request(&[free()])).await;
    node.stop_session(&second.session_id)
        .await
        .expect("stopped");
    node.open(request(&[free()])).await;
}

#[tokio::test]
async fn listeners_of_a_session() {
    let node = Node::start(&["--max-listeners-per-session", "2"]).await;
    let three = request(&[free(), free(), free()]);
    refused(
        &node,
        three,
        "listener_limit",
        "--max-listeners-per-session",
    )
    .await;
    let mut client = node.session(request(&[free(), free()])).await;
    client.ready().await;
    client.add(7, 2, free());
    let answer = client.changed().await;
    assert_eq!(
        (answer.request_id, answer.error.as_str()),
        (7, "listener_limit")
    );
    assert_eq!(rejections(&node, "listener_limit"), 2.0);
    client.remove(8, 0);
    assert_eq!(client.changed().await.error, "");
    client.add(9, 2, free());
    assert_eq!(client.changed().await.error, "", "one was removed");
}

async fn turned_away(client: &mut Client) -> (String, u32, u64) {
    match client.event().await {
        Some(Event::Rejected(told)) => (told.reason, told.listener_id, told.count),
        other => panic!("{other:?} instead of a rejection"),
    }
}

#[tokio::test]
async fn connections_of_a_session() {
    let node = Node::start(&["--max-connections-per-session", "2"]).await;
    let mut client = node.session(request(&[free(), free()])).await;
    let ready = client.ready().await;
    let (_, first) = pod(&ready.bound[0]).await;
    let (_, _second) = pod(&ready.bound[1]).await;
    pod_reset(&mut connect(&ready.bound[1]).await).await;
    let told = turned_away(&mut client).await;
    assert_eq!(told, ("connection_limit".into(), 1, 1), "with its listener");
    assert_eq!(rejections(&node, "connection_limit"), 1.0);
    let counted = "sternline_connections_total{status=\"connection_limit\"}";
    assert_eq!(node.metric(counted), 1.0);
    let listed = &node.sessions().await[0];
    assert_eq!((listed.connections, listed.rejected_total), (2, 1));
    drop(first);
    eventually("room for one more", async || {
        node.metric("sternline_connections_active") < 2.0
    })
    .await;
    pod(&ready.bound[0]).await;
}

#[tokio::test]
async fn connections_of_the_node() {
    let node = Node::start(&["--max-connections-per-node", "2"]).await;
    let mut one = node.session(in_sandbox("one", &[free()])).await;
    let mut two = node.session(in_sandbox("two", &[free()])).await;
    let (first, second) = (one.ready().await, two.ready().await);
    let _busy = (pod(&first.bound[0]).await, pod(&first.bound[0]).await);
    pod_reset(&mut connect(&second.bound[0]).await).await;
    let told = turned_away(&mut two).await;
    assert_eq!(told, ("node_connection_limit".into(), 0, 1));
    assert_eq!(rejections(&node, "node_connection_limit"), 1.0);
    drop(one);
    eventually("permits to be back", async || {
        node.metric("sternline_connections_active") == 0.0
    })
    .await;
    pod(&second.bound[0]).await;
}

#[tokio::test]
async fn tunnels_of_a_session() {
    let node = Node::start(&["--max-tunnels-per-session", "2"]).await;
    let mut client = node.session(request(&[free()])).await;
    let ticket = client.ready().await.tickets.expect("tickets").join;
    let second = Client::serve(node.upgrade(&ticket).await, "second").await;
    let full = client.tickets().await;
    assert_eq!(full.join, "", "there is no room");
    assert!(!full.resume.is_empty());
    drop(second);
    let room = client.tickets().await;
    assert!(!room.join.is_empty(), "there is room again");
    assert_eq!(room.resume, full.resume, "nobody used it");
    let _third = Client::serve(node.upgrade(&room.join).await, "third").await;
    client.tickets().await;
    assert_eq!(node.sessions().await[0].tunnels, 2);
}

/// Those on their way count, so that nobody gathers connections with one ticket.
#[tokio::test]
async fn tunnels_on_their_way() {
    let node = Node::start(&["--max-tunnels-per-session", "1"]).await;
    let mut client = node.session(request(&[free()])).await;
    let tickets = client.ready().await.tickets.expect("tickets");
    assert_eq!(tickets.join, "", "there is no room");
    let first = node.upgrade(&tickets.resume).await;
    let second = node.try_upgrade(&tickets.resume).await;
    let second = second.expect_err("one too many");
    assert_eq!(second.status, 429);
    assert_eq!(second.body["reason"], "tunnel_limit");
    assert_eq!(rejections(&node, "tunnel_limit"), 1.0);
    Client::serve(first, "new").await.ready().await;
}
