//! What a line of the audit log says.
//!
//! Fields, their types and when they are there are listed in
//! docs/operations.md; a test holds that list to what is written here.

use super::clock::rfc3339;
use crate::binder::PodRef;
use crate::limits::millis;
use crate::session::cut;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use sternline_api::v1alpha1 as pb;

/// Version of the lines: fields are added within one, never renamed or removed.
const VERSION: u32 = 1;

/// Most bytes of a string that somebody else chose.
const MAX_STRING: usize = 256;

/// Most bytes of a sentence.
const MAX_SENTENCE: usize = 1024;

/// Most groups of a requester; whoever has more is known by the first.
const MAX_GROUPS: usize = 32;

/// Whom a session is about.
#[derive(Clone, Debug, Serialize)]
pub struct Subject {
    session_id: String,
    requester: Requester,
    sandbox_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Pod>,
}

#[derive(Clone, Debug, Serialize)]
struct Requester {
    user: String,
    uid: String,
    groups: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Pod {
    namespace: String,
    name: String,
    uid: String,
}

impl Subject {
    /// Names a session; strings that are too long are cut here.
    #[must_use]
    pub fn new(
        session_id: &str,
        requester: &pb::Requester,
        sandbox_id: &str,
        pod: Option<&PodRef>,
    ) -> Self {
        let short = |text: &str| cut(text.to_owned(), MAX_STRING);
        let mut groups: Vec<String> = requester.groups.iter().map(|g| short(g)).collect();
        if let Some(more) = groups.len().checked_sub(MAX_GROUPS).filter(|n| *n > 0) {
            groups.truncate(MAX_GROUPS);
            groups.push(format!("{more} more ..."));
        }
        Self {
            session_id: short(session_id),
            requester: Requester {
                user: short(&requester.user),
                uid: short(&requester.uid),
                groups,
            },
            sandbox_id: short(sandbox_id),
            pod: pod.map(|pod| Pod {
                namespace: short(&pod.namespace),
                name: short(&pod.name),
                uid: short(&pod.uid),
            }),
        }
    }
}

/// A listener: its id, and the address that it has in the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its id.
    pub id: u32,
    /// Where it listens.
    pub addr: SocketAddr,
}

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    ShimStart,
    ShimEnd,
    SessionStart {
        listeners: Vec<Listener>,
        hold: Duration,
    },
    ListenersChanged {
        listeners: Vec<Listener>,
    },
    Connection(Connection),
    Rejections {
        rejections: Vec<(&'static str, u64)>,
    },
    /// With its duration.
    SessionEnd(SessionEnd, Duration),
    Lost {
        lost: u64,
    },
}

/// A forwarded connection that ended.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// The listener that it came in by.
    pub listener: Listener,
    /// Who connected, as the pod's network knows it.
    pub peer: SocketAddr,
    /// Bytes that the pod sent.
    pub bytes_from_pod: u64,
    /// Bytes that the pod was sent.
    pub bytes_to_pod: u64,
    /// How long it was open.
    pub duration: Duration,
    /// How it ended, in the words of `sternline_connections_total`.
    pub end: &'static str,
}

/// A session that ended.
#[derive(Clone, Debug)]
pub struct SessionEnd {
    /// Connections that were forwarded.
    pub connections: u64,
    /// Connections that were turned away.
    pub rejected: u64,
    /// Bytes that the pod sent.
    pub bytes_from_pod: u64,
    /// Bytes that the pod was sent.
    pub bytes_to_pod: u64,
    /// Why, as a word of the error table.
    pub end: &'static str,
    /// Why, as a sentence.
    pub message: String,
}

impl SessionEnd {
    /// The end of a session, for this reason.
    #[must_use]
    pub fn new(end: &'static str, message: &str) -> Self {
        Self {
            connections: 0,
            rejected: 0,
            bytes_from_pod: 0,
            bytes_to_pod: 0,
            end,
            message: cut(message.to_owned(), MAX_SENTENCE),
        }
    }
}

/// One line to be, without its id.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) time: SystemTime,
    pub(super) subject: Option<Arc<Subject>>,
    pub(super) event: Event,
}

/// The line as it is written. What does not belong to the event is left out.
#[derive(Default, Serialize)]
#[serde(default)]
struct Line<'a> {
    version: u32,
    id: &'a str,
    time: String,
    event: &'static str,
    #[serde(flatten)]
    subject: Option<&'a Subject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shim: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listeners: Option<Vec<Place>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<Place>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<Peer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_from_pod: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_to_pod: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejections: Option<Vec<Rejection>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
}

#[derive(Serialize)]
struct Place {
    id: u32,
    address: String,
    port: u16,
}

#[derive(Serialize)]
struct Peer {
    address: String,
    port: u16,
}

#[derive(Serialize)]
struct Rejection {
    reason: &'static str,
    count: u64,
}

impl From<&Listener> for Place {
    fn from(listener: &Listener) -> Self {
        Self {
            id: listener.id,
            address: listener.addr.ip().to_string(),
            port: listener.addr.port(),
        }
    }
}

impl Record {
    /// The line, with its newline: printable ASCII and nothing else.
    pub(super) fn line(&self, id: &str) -> Vec<u8> {
        let mut line = Line {
            version: VERSION,
            id,
            time: rfc3339(self.time),
            subject: self.subject.as_deref(),
            ..Line::default()
        };
        let places = |listeners: &[Listener]| Some(listeners.iter().map(Place::from).collect());
        match &self.event {
            Event::ShimStart => {
                line.event = "shim_start";
                line.shim = Some(env!("CARGO_PKG_VERSION"));
            }
            Event::ShimEnd => line.event = "shim_end",
            Event::SessionStart { listeners, hold } => {
                line.event = "session_start";
                line.listeners = places(listeners);
                line.hold_ms = Some(millis(*hold));
            }
            Event::ListenersChanged { listeners } => {
                line.event = "listeners_changed";
                line.listeners = places(listeners);
            }
            Event::Connection(connection) => {
                line.event = "connection";
                line.listener = Some(Place::from(&connection.listener));
                line.peer = Some(Peer {
                    address: connection.peer.ip().to_string(),
                    port: connection.peer.port(),
                });
                line.bytes_from_pod = Some(connection.bytes_from_pod);
                line.bytes_to_pod = Some(connection.bytes_to_pod);
                line.duration_ms = Some(millis(connection.duration));
                line.end = Some(connection.end);
            }
            Event::Rejections { rejections } => {
                line.event = "rejections";
                let of = |&(reason, count): &_| Rejection { reason, count };
                line.rejections = Some(rejections.iter().map(of).collect());
            }
            Event::SessionEnd(end, duration) => {
                line.event = "session_end";
                line.connections = Some(end.connections);
                line.rejected = Some(end.rejected);
                line.bytes_from_pod = Some(end.bytes_from_pod);
                line.bytes_to_pod = Some(end.bytes_to_pod);
                line.duration_ms = Some(millis(*duration));
                line.end = Some(end.end);
                line.message = Some(&end.message);
            }
            Event::Lost { lost } => {
                line.event = "lost";
                line.lost = Some(*lost);
            }
        }
        let mut bytes = Vec::with_capacity(512);
        let mut serializer = Serializer::with_formatter(&mut bytes, Ascii(CompactFormatter));
        // Strings and numbers, into memory: nothing that could fail.
        let _ = line.serialize(&mut serializer);
        bytes.push(b'\n');
        bytes
    }
}

/// Escapes all that is not printable ASCII. JSON alone leaves characters as they
/// are that a terminal obeys: DEL, the C1 controls, those that turn text round.
struct Ascii(CompactFormatter);

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut plain = 0;
        for (at, odd) in fragment.char_indices() {
            if matches!(odd, ' '..='~') {
                continue;
            }
            self.0.write_string_fragment(writer, &fragment[plain..at])?;
            for unit in odd.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            plain = at + odd.len_utf8();
        }
        self.0.write_string_fragment(writer, &fragment[plain..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;
    use std::time::UNIX_EPOCH;

    fn line(subject: Subject) -> String {
        let record = Record {
            time: UNIX_EPOCH,
            subject: Some(Arc::new(subject)),
            event: Event::SessionEnd(SessionEnd::new("done", "x"), Duration::ZERO),
        };
        String::from_utf8(record.line("r-1")).expect("text")
    }

    fn of(user: &str, groups: Vec<String>) -> Subject {
        let requester = pb::Requester {
            user: user.to_owned(),
            groups,
            ..pb::Requester::default()
        };
        Subject::new("s", &requester, "sandbox", None)
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        let user = "\u{1b}[31m\u{7f}\u{9b}2J\u{202e}\u{2028}\n\"\\ü😀";
        let line = line(of(user, Vec::new()));
        assert!(line.trim_end().bytes().all(|b| (b' '..=b'~').contains(&b)));
        let read: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(read["requester"]["user"], user);
    }

    #[test]
    fn long_strings_are_cut_with_a_mark() {
        let many = (0..100).map(|n| format!("group-{n}")).collect();
        let read: Value = serde_json::from_str(&line(of(&"ü".repeat(5000), many))).expect("JSON");
        let user = read["requester"]["user"].as_str().expect("text");
        assert!(
            user.len() <= MAX_STRING + 4 && user.ends_with(" ..."),
            "{user}"
        );
        let groups = read["requester"]["groups"].as_array().expect("list");
        assert_eq!(groups.len(), MAX_GROUPS + 1);
        assert_eq!(groups[MAX_GROUPS], "68 more ...");
    }

    proptest! {
        #[test]
        fn any_string_comes_back_as_it_was(user in "\\PC{0,40}|.{0,40}") {
            let line = line(of(&user, Vec::new()));
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(line.trim_end().is_ascii());
            let read: Value = serde_json::from_str(&line).expect("JSON");
            prop_assert_eq!(read["requester"]["user"].as_str(), Some(user.as_str()));
        }
    }
}
