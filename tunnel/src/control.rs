//! The control stream: one message type, length-delimited, both ways.

use crate::TunnelError;
use crate::chunk::{Chunk, InFlight};
use crate::stream::Inbound;
use bytes::{Buf as _, Bytes, BytesMut};
use h2::SendStream;
use http::StatusCode;
use prost::Message as _;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;
use sternline_api::protocol::MAX_CONTROL_MESSAGE;
use sternline_api::v1alpha1::{ControlMessage, control_message::Event};
use tokio::time::timeout;

/// How long a message may take to be handed to HTTP/2. A peer that does not
/// read its control stream is of no use.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How long [`ControlSender::finish`] waits for the last message to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// An unsigned varint of a length takes at most this many bytes here: five hold
/// 35 bits, and longer ones are refused.
const MAX_PREFIX: usize = 5;

/// Both halves of a control stream.
#[derive(Debug)]
pub struct ControlStream {
    sender: ControlSender,
    receiver: ControlReceiver,
}

impl ControlStream {
    pub(crate) fn new(send: SendStream<Chunk>, inbound: Inbound) -> Self {
        Self {
            sender: ControlSender {
                send,
                in_flight: Arc::default(),
            },
            receiver: ControlReceiver {
                inbound,
                buffer: BytesMut::new(),
            },
        }
    }

    /// The halves, to be used by two tasks.
    #[must_use]
    pub fn split(self) -> (ControlSender, ControlReceiver) {
        (self.sender, self.receiver)
    }
}

/// Sends control messages.
#[derive(Debug)]
pub struct ControlSender {
    send: SendStream<Chunk>,
    in_flight: Arc<InFlight>,
}

impl ControlSender {
    /// Sends one event. Not cancel safe: a message cut short leaves the stream
    /// unusable.
    ///
    /// # Errors
    /// The message is longer than [`MAX_CONTROL_MESSAGE`], the peer does not
    /// read, or the tunnel is gone.
    pub async fn send(&mut self, event: Event) -> Result<(), TunnelError> {
        let message = ControlMessage { event: Some(event) };
        let mut bytes = encode(&message)?;
        let sent = timeout(SEND_TIMEOUT, async {
            while !bytes.is_empty() {
                self.send.reserve_capacity(bytes.len());
                let granted = match self.send.capacity() {
                    0 => poll_fn(|cx| self.send.poll_capacity(cx))
                        .await
                        .ok_or(TunnelError::Closed)??,
                    granted => granted,
                };
                let piece = bytes.split_to(granted.min(bytes.len()));
                self.send
                    .send_data(Chunk::new(piece, &self.in_flight, None), false)?;
            }
            Ok(())
        });
        sent.await.unwrap_or(Err(TunnelError::Slow {
            what: "read the control stream",
            within: SEND_TIMEOUT,
        }))
    }

    /// Ends our direction and waits until HTTP/2 wrote the last message, at most
    /// a second. What it wrote may still wait for the byte stream: let the
    /// driver end by itself, or [`crate::Acceptor::close`] return.
    pub async fn finish(mut self) {
        if self.send.send_data(Chunk::end(), true).is_ok() {
            let _ = timeout(FLUSH_TIMEOUT, poll_fn(|cx| self.in_flight.poll_empty(cx))).await;
        }
    }
}

/// Receives control messages.
#[derive(Debug)]
pub struct ControlReceiver {
    inbound: Inbound,
    buffer: BytesMut,
}

impl ControlReceiver {
    /// The next event that this release knows; `None` at the end of the stream.
    /// Cancel safe.
    ///
    /// # Errors
    /// A message that is too long, cut short or not protobuf; a control stream
    /// that the peer refused; a tunnel that is gone.
    pub async fn recv(&mut self) -> Result<Option<Event>, TunnelError> {
        loop {
            if let Some(message) = decode(&mut self.buffer)? {
                match message.event {
                    Some(event) => return Ok(Some(event)),
                    // From a newer release: not for us.
                    None => continue,
                }
            }
            match self.data().await? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    return Err(TunnelError::Control(format!(
                        "it ended inside a message, after {} bytes of it",
                        self.buffer.len()
                    )));
                }
            }
        }
    }

    async fn data(&mut self) -> Result<Option<Bytes>, TunnelError> {
        let recv = loop {
            match &mut self.inbound {
                Inbound::Open(recv) => break recv,
                Inbound::Awaiting(response) => {
                    let response = response.await?;
                    if response.status() != StatusCode::OK {
                        return Err(TunnelError::ControlRefused(response.status()));
                    }
                    self.inbound = Inbound::Open(response.into_body());
                }
            }
        };
        let Some(data) = recv.data().await.transpose()? else {
            return Ok(None);
        };
        recv.flow_control().release_capacity(data.len())?;
        Ok(Some(data))
    }
}

/// One message with its length before it.
///
/// # Errors
/// It is longer than [`MAX_CONTROL_MESSAGE`].
pub fn encode(message: &ControlMessage) -> Result<Bytes, TunnelError> {
    let len = message.encoded_len();
    if len > MAX_CONTROL_MESSAGE {
        return Err(TunnelError::Control(format!(
            "a message of {len} bytes is longer than the {MAX_CONTROL_MESSAGE} allowed"
        )));
    }
    Ok(message.encode_length_delimited_to_vec().into())
}

/// Takes one whole message from the front of `buffer`; `None` if more bytes are
/// needed. Never asks for more than [`MAX_CONTROL_MESSAGE`].
///
/// # Errors
/// A length above the limit or without end, or bytes that are no message.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<ControlMessage>, TunnelError> {
    let prefix = buffer.iter().take(MAX_PREFIX).position(|b| b & 0x80 == 0);
    let Some(prefix) = prefix else {
        if buffer.len() < MAX_PREFIX {
            return Ok(None);
        }
        return Err(TunnelError::Control("a length that has no end".to_owned()));
    };
    let len = prost::decode_length_delimiter(&buffer[..=prefix])
        .map_err(|error| TunnelError::Control(error.to_string()))?;
    if len > MAX_CONTROL_MESSAGE {
        return Err(TunnelError::Control(format!(
            "a message of {len} bytes is longer than the {MAX_CONTROL_MESSAGE} allowed"
        )));
    }
    if buffer.len() < prefix + 1 + len {
        return Ok(None);
    }
    buffer.advance(prefix + 1);
    let message = ControlMessage::decode(buffer.split_to(len))
        .map_err(|error| TunnelError::Control(error.to_string()))?;
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sternline_api::v1alpha1::Ending;

    fn ending(message: &str) -> ControlMessage {
        ControlMessage {
            event: Some(Event::Ending(Ending {
                code: "done".into(),
                message: message.into(),
            })),
        }
    }

    #[test]
    fn too_long_a_message_is_neither_sent_nor_awaited() {
        assert!(encode(&ending(&"x".repeat(MAX_CONTROL_MESSAGE))).is_err());
        let mut prefix = BytesMut::new();
        prost::encode_length_delimiter(MAX_CONTROL_MESSAGE + 1, &mut prefix).expect("fits");
        assert!(decode(&mut prefix).is_err());
        assert!(decode(&mut BytesMut::from(&[0xff; 5][..])).is_err());
    }

    #[test]
    fn an_event_of_a_newer_release_is_no_error() {
        // Field 99, length-delimited, empty.
        let mut bytes = BytesMut::from(&[3, 0x9a, 0x06, 0x00][..]);
        let message = decode(&mut bytes).expect("readable").expect("whole");
        assert_eq!(message.event, None);
        assert!(bytes.is_empty());
    }

    proptest! {
        #[test]
        fn messages_survive_any_cut(texts in prop::collection::vec(".{0,200}", 1..5), cut in 1_usize..50) {
            let sent: Vec<_> = texts.iter().map(|t| ending(t)).collect();
            let wire: Vec<u8> = sent.iter().flat_map(|m| encode(m).expect("short")).collect();
            let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(message) = decode(&mut buffer).expect("valid") {
                    got.push(message);
                }
            }
            prop_assert_eq!(sent, got);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut buffer) {}
        }
    }
}
