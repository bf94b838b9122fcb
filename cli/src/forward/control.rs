//! The control stream as the client uses it: a queue towards the node, and the
//! rule for each event from it.

use super::mapping::Mapping;
use crate::clean::clean;
use crate::fault::{Fault, exit};
use crate::report::{Event as Told, Rejected, Reporter};
use sternline_api::Reason;
use sternline_api::v1alpha1::{Ending, Tickets, control_message::Event};
use sternline_tunnel::ControlSender;
use tokio::sync::mpsc;

/// Messages that may wait for the node. Changes of targets are all there is,
/// and one that is lost is told again by the next change.
const QUEUE: usize = 64;

/// Messages towards the node.
#[derive(Clone, Debug)]
pub(super) struct ControlQueue(mpsc::Sender<Event>);

impl ControlQueue {
    /// Starts the task that sends. It ends once every clone of the queue is
    /// gone and the last message has left, or when the tunnel is lost.
    pub(super) fn start(mut sender: ControlSender) -> Self {
        let (queue, mut events) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let last = matches!(event, Event::Ending(_));
                if let Err(error) = sender.send(event).await {
                    tracing::debug!(%error, "a control message was not sent");
                    return;
                }
                if last {
                    break;
                }
            }
            sender.finish().await;
        });
        Self(queue)
    }

    /// Sends a message unless the node has stopped to read.
    pub(super) fn send(&self, event: Event) {
        if self.0.try_send(event).is_err() {
            tracing::debug!("a control message was dropped: the node does not read");
        }
    }

    /// Says that we end the session, and why.
    pub(super) fn end(&self, reason: Reason, message: &str) {
        self.send(Event::Ending(Ending {
            code: reason.label().to_owned(),
            message: message.to_owned(),
        }));
    }
}

/// What an event of the node asks of us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing more.
    Told,
    /// Keep these tickets.
    Tickets(Tickets),
    /// The session is over.
    Ended(Fault),
    /// The node asks for what only the user may: the session is given up.
    Violation(Fault),
}

/// Judges one event of the node, after its first.
pub(super) fn hear(event: Event, mapping: &Mapping, reporter: &dyn Reporter) -> Heard {
    match event {
        Event::Tickets(tickets) => Heard::Tickets(tickets),
        Event::Rejected(rejected) => {
            let port = mapping.route(Some(rejected.listener_id)).map(|r| r.port);
            let reason = clean(&rejected.reason);
            let count = rejected.count.max(1);
            let connections = if count == 1 {
                "1 connection was"
            } else {
                "connections were"
            };
            let number = if count == 1 {
                String::new()
            } else {
                format!("{count} ")
            };
            let place = port.map_or_else(|| "unknown listener".to_owned(), |port| port.to_string());
            let message =
                format!("{number}{connections} turned away by the server for {place}: {reason}");
            reporter.report(&Told::Rejected(Rejected {
                connection: None,
                listener_id: port.map(|_| rejected.listener_id),
                port,
                reason,
                count,
                message,
            }));
            Heard::Told
        }
        Event::Draining(draining) => {
            reporter.report(&Told::Draining {
                deadline_ms: draining.deadline_ms,
                message: clean(&draining.message),
            });
            Heard::Told
        }
        Event::Ending(ending) => Heard::Ended(ended(&ending)),
        Event::Ready(_) => violation("announced the session a second time"),
        Event::AddListener(_) | Event::ListenerChanged(_) => {
            violation("asked for a listener, which only you may")
        }
        Event::RemoveListener(_) | Event::Target(_) => {
            violation("sent what only a client may send")
        }
    }
}

fn violation(what: &str) -> Heard {
    Heard::Violation(Fault::protocol(format!(
        "the server {what}: the forward is given up"
    )))
}

/// The end that a server gave a session.
pub(super) fn ended(ending: &Ending) -> Fault {
    let reason = Reason::from_label(&ending.code).filter(|reason| *reason != Reason::Done);
    let exit = match reason.map_or(exit::ENDED, Reason::exit) {
        // These say nothing that "ended by the server" does not say better.
        exit::STOPPED | exit::OTHER | exit::USAGE => exit::ENDED,
        code => code,
    };
    let why = match (ending.message.as_str(), ending.code.as_str()) {
        ("", "") => "no reason was given",
        ("", code) => code,
        (message, _) => message,
    };
    Fault {
        exit,
        ..Fault::because(
            reason.unwrap_or(Reason::Stopped),
            format!("the server ended the session: {why}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse_all;
    use std::sync::Mutex;
    use sternline_api::v1alpha1 as pb;

    #[derive(Debug, Default)]
    struct Heap(Mutex<Vec<String>>);

    impl Reporter for Heap {
        fn report(&self, event: &Told) {
            let json = serde_json::to_string(event).expect("JSON");
            self.0.lock().expect("unpoisoned").push(json);
        }
    }

    fn heard(event: Event) -> (Heard, Vec<String>) {
        let specs = parse_all(&["8080"]).expect("specs");
        let bound = pb::Bound {
            listener_id: 0,
            address: "::1".into(),
            port: 8080,
        };
        let mapping = Mapping::check(&specs, &[bound]).expect("fits");
        let heap = Heap::default();
        let heard = hear(event, &mapping, &heap);
        (heard, heap.0.into_inner().expect("unpoisoned"))
    }

    #[test]
    fn every_event_that_would_make_a_mapping_ends_the_session() {
        for event in [
            Event::AddListener(pb::AddListener::default()),
            Event::ListenerChanged(pb::ListenerChanged::default()),
            Event::RemoveListener(pb::RemoveListener::default()),
            Event::Ready(pb::Ready::default()),
            Event::Target(pb::TargetState::default()),
        ] {
            let (heard, told) = heard(event.clone());
            assert!(matches!(heard, Heard::Violation(_)), "{event:?}");
            assert!(told.is_empty());
        }
    }

    #[test]
    fn an_end_keeps_its_words_and_gets_its_code() {
        for (code, message, exit, says) in [
            (
                "sandbox_gone",
                "sandbox web was removed",
                9,
                "sandbox web was removed",
            ),
            ("stopped", "", 9, "stopped"),
            ("superseded", "x", 7, "x"),
            ("internal", "oops", 9, "oops"),
            ("done", "", 9, "done"),
            ("of_a_newer_release", "\x1b[1mbold", 9, "[1mbold"),
            ("feature_off", "off", 6, "off"),
        ] {
            let fault = ended(&Ending {
                code: code.into(),
                message: message.into(),
            });
            assert_eq!(fault.exit, exit, "{code}");
            assert_eq!(
                fault.message,
                format!("the server ended the session: {says}")
            );
        }
    }

    #[test]
    fn rejections_are_told_with_their_port_and_cleaned() {
        let (_, told) = heard(Event::Rejected(pb::Rejected {
            reason: "connection_limit\x1b[2J".into(),
            listener_id: 0,
            count: 3,
        }));
        assert!(
            told[0].contains(r#""port":8080,"reason":"connection_limit[2J","count":3"#),
            "{told:?}"
        );
        assert!(
            told[0].contains("3 connections were turned away by the server for 8080"),
            "{told:?}"
        );
    }
}
