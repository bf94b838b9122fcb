//! How sessions end, and that they tell why.

use crate::support::client::is_free;
use crate::support::{
    Client, Node, Stream, eventually, free, held, in_sandbox, pod, pod_reset, request, within,
};
use bytes::{Bytes, BytesMut};
use std::time::Duration;
use sternline_api::v1alpha1::{self as pb, control_message::Event};
use sternline_tunnel::control::{decode, encode};
use tokio::time::Instant;

async fn session(node: &Node) -> (Client, pb::Ready) {
    let asked = held(request(&[free()]), Duration::from_secs(600));
    let mut client = node.session(asked).await;
    let ready = client.ready().await;
    (client, ready)
}

#[tokio::test]
async fn a_sandbox_that_is_gone_ends_its_sessions_with_that_reason() {
    let node = Node::start(&[]).await;
    let (mut client, ready) = session(&node).await;
    let waiting = node.open(request(&[free()])).await;
    let other = node.open(in_sandbox("other", &[free()])).await;
    let (_, mut connection) = pod(&ready.bound[0]).await;
    node.binder.remove("web");
    pod_reset(&mut connection).await;
    let ending = client.ending().await;
    assert_eq!(ending.code, "sandbox_gone");
    assert_eq!(ending.message, "sandbox web stopped");
    client.closed().await;
    eventually("the end", async || node.sessions().await.len() == 1).await;
    assert!(is_free(&ready.bound[0]) && is_free(&waiting.bound[0]));
    assert!(
        !is_free(&other.bound[0]),
        "another sandbox is not concerned"
    );
    assert_eq!(
        node.try_upgrade(&waiting.url)
            .await
            .expect_err("over")
            .status,
        404
    );
}

#[tokio::test]
async fn a_stopped_session_is_free_when_that_is_answered() {
    let node = Node::start(&[]).await;
    let (mut client, ready) = session(&node).await;
    let (_, mut connection) = pod(&ready.bound[0]).await;
    node.stop_session(&ready.session_id).await.expect("stopped");
    assert!(is_free(&ready.bound[0]));
    assert!(node.sessions().await.is_empty());
    pod_reset(&mut connection).await;
    assert_eq!(client.ending().await.code, "stopped");
}

/// Whoever stops a session that is ending already waits for the end as well.
#[tokio::test]
async fn two_who_stop_a_session_both_wait() {
    let node = Node::start(&[]).await;
    let (client, ready) = session(&node).await;
    // Does not close at its end: that takes its second.
    client.freeze();
    let began = Instant::now();
    let first = node.stop_session(&ready.session_id);
    let second = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        node.stop_session(&ready.session_id).await
    };
    let (first, second) = tokio::join!(first, second);
    first.expect("stopped");
    second.expect("stopped as well");
    assert!(is_free(&ready.bound[0]) && node.at_rest());
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_session_that_nobody_came_to_can_be_stopped() {
    let node = Node::start(&[]).await;
    let answer = node.open(request(&[free()])).await;
    node.stop_session(&answer.session_id)
        .await
        .expect("stopped");
    assert!(is_free(&answer.bound[0]) && node.at_rest());
    assert_eq!(
        node.try_upgrade(&answer.url)
            .await
            .expect_err("over")
            .status,
        404
    );
}

/// A control stream that breaks its framing is told so.
#[tokio::test]
async fn a_broken_control_stream_ends_the_session_with_that_reason() {
    let node = Node::start(&[]).await;
    let answer = node.open(request(&[free()])).await;
    let mut raw = Raw::serve(node.upgrade(&answer.url).await).await;
    raw.send(Bytes::from_static(&[0xff; 6]));
    let said = raw.everything().await;
    let last = said.into_iter().last().and_then(|message| message.event);
    let Some(Event::Ending(ending)) = last else {
        panic!("{last:?} is no end");
    };
    assert_eq!(ending.code, "protocol_error");
    eventually("the end", async || node.sessions().await.is_empty()).await;
    assert!(is_free(&answer.bound[0]));
}

/// Events that mean nothing change nothing.
#[tokio::test]
async fn what_only_a_node_may_say_is_passed_over() {
    let node = Node::start(&[]).await;
    let (mut client, ready) = session(&node).await;
    client.say(Event::Tickets(pb::Tickets::default()));
    client.say(Event::Draining(pb::Draining::default()));
    client.say(Event::Target(pb::TargetState {
        listener_id: 0,
        up: false,
    }));
    client.remove(1, 9);
    assert_eq!(client.changed().await.error, "unknown_listener");
    pod(&ready.bound[0]).await;
}

/// A client that asks without end and never reads the answers is cut off before
/// anything grows.
#[tokio::test]
async fn a_client_that_only_talks_is_cut_off() {
    let node = Node::start(&[]).await;
    let answer = node.open(request(&[free()])).await;
    let mut raw = Raw::serve(node.upgrade(&answer.url).await).await;
    let remove = pb::RemoveListener {
        request_id: 1,
        listener_id: 9,
    };
    let message = encode(&pb::ControlMessage {
        event: Some(Event::RemoveListener(remove)),
    });
    let message = message.expect("short");
    // Takes the frames, so that its own HTTP/2 bears them, and gives no window
    // back: to the node that is a client which does not read.
    let Raw { mut recv, .. } = raw;
    let taking = tokio::spawn(async move { while let Some(Ok(_)) = recv.data().await {} });
    eventually("the cut", async || {
        for _ in 0..100 {
            // An error means that the stream is over, which the test is about.
            let _ = raw.send.send_data(message.clone(), false);
        }
        is_free(&answer.bound[0])
    })
    .await;
    within("the end of the tunnel", taking)
        .await
        .expect("no panic");
    eventually("the rest", async || node.at_rest()).await;
}

/// A client on bare HTTP/2, which may say and leave unread what it likes.
struct Raw {
    send: h2::SendStream<Bytes>,
    recv: h2::RecvStream,
    _driving: tokio_util::task::AbortOnDropHandle<()>,
}

impl Raw {
    async fn serve(io: Stream) -> Self {
        let mut builder = h2::server::Builder::new();
        builder.enable_connect_protocol();
        let http2 = within("HTTP/2", builder.handshake::<_, Bytes>(io)).await;
        let mut http2 = http2.expect("HTTP/2");
        let control = within("the control stream", http2.accept()).await;
        let (request, mut respond) = control.expect("a stream").expect("HTTP/2");
        let send = respond.send_response(http::Response::new(()), false);
        let driving = tokio::spawn(async move { while let Some(Ok(_)) = http2.accept().await {} });
        Self {
            send: send.expect("answered"),
            recv: request.into_body(),
            _driving: tokio_util::task::AbortOnDropHandle::new(driving),
        }
    }

    fn send(&mut self, bytes: Bytes) {
        // An error means that the stream is over, which the test is about.
        let _ = self.send.send_data(bytes, false);
    }

    /// What the node says until the end.
    async fn everything(&mut self) -> Vec<pb::ControlMessage> {
        let mut bytes = BytesMut::new();
        within("the end of the control stream", async {
            while let Some(Ok(data)) = self.recv.data().await {
                bytes.extend_from_slice(&data);
            }
        })
        .await;
        let messages = std::iter::from_fn(|| decode(&mut bytes).expect("messages"));
        messages.collect()
    }
}
