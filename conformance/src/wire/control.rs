//! The control stream (§5): messages with a length before them.

use super::stream::Stream;
use crate::verdict::{Step, failed};
use prost::Message as _;
use std::time::Duration;
use sternline_api::v1alpha1::{self as pb, control_message::Event};

/// The client's end of a control stream.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) stream: Stream,
}

impl Control {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream }
    }

    /// The next event from the node, which is to be what is expected.
    async fn event(&self, expected: &str, wait: Duration) -> Step<Event> {
        let receive = |length| self.stream.receive_within(length, expected, wait);
        let (mut length, mut shift) = (0_usize, 0);
        loop {
            let byte = receive(1).await?[0];
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 21 {
                return failed("a length of at most 65,536", "a longer prefix");
            }
        }
        let bytes = receive(length).await?;
        match pb::ControlMessage::decode(&bytes[..]) {
            Ok(message) => match message.event {
                Some(event) => Ok(event),
                None => failed("an event of the protocol", "an event of another kind"),
            },
            Err(error) => failed("a ControlMessage", format!("{error}")),
        }
    }

    /// The first message, which has to be `ready`.
    pub(crate) async fn ready(&self) -> Step<pb::Ready> {
        let expected = "ready as the first message";
        match self.event(expected, self.stream.patience()).await? {
            Event::Ready(ready) => Ok(ready),
            other => failed(expected, format!("{other:?}")),
        }
    }

    /// Waits for `ending`, over other events.
    pub(crate) async fn ending(&self) -> Step<pb::Ending> {
        self.ending_within(self.stream.patience()).await
    }

    /// The same, with another patience.
    pub(crate) async fn ending_within(&self, wait: Duration) -> Step<pb::Ending> {
        let ending = self.find(wait, "ending", |event| match event {
            Event::Ending(ending) => Some(ending),
            _ => None,
        });
        ending.await
    }

    /// The next event that `pick` takes, over others, within `wait`.
    pub(crate) async fn find<T>(
        &self,
        wait: Duration,
        expected: &str,
        pick: impl Fn(Event) -> Option<T>,
    ) -> Step<T> {
        let found = async {
            loop {
                if let Some(found) = pick(self.event(expected, wait).await?) {
                    return Ok(found);
                }
            }
        };
        match tokio::time::timeout(wait, found).await {
            Ok(found) => found,
            Err(_) => failed(expected, format!("nothing within {wait:?}")),
        }
    }

    /// Sends one event.
    pub(crate) async fn send(&self, event: Event) -> Step {
        self.stream.send(&encode(event)).await
    }
}

/// One event with its length before it.
pub(crate) fn encode(event: Event) -> Vec<u8> {
    pb::ControlMessage { event: Some(event) }.encode_length_delimited_to_vec()
}

/// `ending {code: "done"}`: the client wants to stop.
pub(crate) fn done() -> Event {
    Event::Ending(pb::Ending {
        code: "done".into(),
        message: "The suite is done.".into(),
    })
}
