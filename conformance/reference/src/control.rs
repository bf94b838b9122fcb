//! The control stream.

use crate::{node::Node, session::Session};
use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use prost::Message as _;
use std::sync::Arc;
use sternline_api::{
    Reason,
    protocol::MAX_CONTROL_MESSAGE,
    v1alpha1::{self as pb, control_message::Event},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Sends events as they come. Control messages are small: h2 keeps them until
/// the client's window lets them go.
pub(crate) async fn send(mut stream: SendStream<Bytes>, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        let message = pb::ControlMessage { event: Some(event) };
        let bytes = Bytes::from(message.encode_length_delimited_to_vec());
        if stream.send_data(bytes, false).is_err() {
            return;
        }
    }
}

/// Takes events until the stream ends or the client breaks the protocol.
pub(crate) async fn receive(
    mut stream: RecvStream,
    answers: mpsc::Sender<Event>,
    session: &Arc<Session>,
    node: &Arc<Node>,
    down: &CancellationToken,
) {
    let mut bytes = BytesMut::new();
    while let Some(Ok(chunk)) = stream.data().await {
        let _ = stream.flow_control().release_capacity(chunk.len());
        bytes.extend_from_slice(&chunk);
        loop {
            let mut look = &bytes[..];
            let Ok(length) = prost::decode_length_delimiter(&mut look) else {
                break;
            };
            if length > MAX_CONTROL_MESSAGE && !node.faults.has("any-length") {
                return down.cancel();
            }
            if look.len() < length {
                break;
            }
            let head = bytes.len() - look.len();
            let message = pb::ControlMessage::decode(&look[..length]);
            let _ = bytes.split_to(head + length);
            match message {
                Ok(message) => act(message.event, &answers, session, node, down).await,
                Err(_) => return down.cancel(),
            }
        }
        if node.faults.has("frame-is-message") {
            bytes.clear();
        }
    }
}

async fn act(
    event: Option<Event>,
    answers: &mpsc::Sender<Event>,
    session: &Arc<Session>,
    node: &Arc<Node>,
    down: &CancellationToken,
) {
    let faults = &node.faults;
    let refused = |request_id, listener_id| pb::ListenerChanged {
        request_id,
        listener_id,
        bound: Vec::new(),
        error: Reason::FeatureOff.label().into(),
        message: "Listeners cannot be changed here.".into(),
    };
    match event {
        None if faults.has("unknown-event-ends") => down.cancel(),
        Some(Event::Target(_)) if faults.has("target-down-ends") => {
            session.end(Reason::TargetFailed).await;
        }
        Some(Event::AddListener(_)) if faults.has("add-unanswered") => {}
        Some(Event::AddListener(add)) => {
            let changed = refused(add.request_id, add.listener_id);
            let _ = answers.send(Event::ListenerChanged(changed)).await;
        }
        Some(Event::RemoveListener(remove)) => {
            let mut changed = refused(remove.request_id, remove.listener_id);
            if faults.has("remove-always-fine") {
                changed.error.clear();
            }
            let _ = answers.send(Event::ListenerChanged(changed)).await;
        }
        Some(Event::Ending(_)) if faults.has("done-holds") => down.cancel(),
        Some(Event::Ending(_)) => session.end(Reason::Done).await,
        _ => {}
    }
}
