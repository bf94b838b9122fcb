//! The events of a forward. Their JSON form is an interface: fields are added
//! to it, and neither renamed nor removed.

use serde::Serialize;
use std::net::SocketAddr;

/// Something that happened. Every string in it is clean.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Everything listens.
    Ready(Ready),
    /// A process in the pod connected; its target is dialled now.
    Connection(Connection),
    /// A connection that reached its target came to its end.
    Closed(Closed),
    /// Connections were turned away.
    Rejected(Rejected),
    /// The node will end the session soon.
    Draining {
        /// Milliseconds until then.
        deadline_ms: u64,
        /// Why.
        message: String,
    },
    /// The connection to the node is lost, and is tried again.
    Lost(Lost),
    /// The connection to the node is back.
    Reconnected(Reconnected),
    /// The forward is over. The last event, always.
    Ended(Ended),
}

/// Everything listens.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    /// Names the session in `sternline sessions` and `sternline stop`.
    pub session_id: String,
    /// Where, as the user named it.
    pub place: String,
    /// The namespace of the pod, where it was found through a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// How long the listeners outlive a lost connection, in milliseconds.
    pub hold_ms: u64,
    /// Every address that listens.
    pub bound: Vec<Forwarding>,
}

impl Ready {
    /// The same for the environment of a wrapped command: every address with its
    /// port, and the port of the first.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut bound: Vec<_> = self.bound.iter().collect();
        bound.sort_by_key(|one| one.listener_id);
        let all: Vec<_> = bound
            .iter()
            .map(|one| one.bound.socket().to_string())
            .collect();
        let first = bound.first().map(|one| one.bound.port.to_string());
        vec![
            ("STERNLINE_BOUND", all.join(",")),
            ("STERNLINE_PORT", first.unwrap_or_default()),
        ]
    }
}

/// One address that listens, and where it leads.
#[derive(Clone, Debug, Serialize)]
pub struct Forwarding {
    /// Position of the SPEC on the command line, from 0.
    pub listener_id: u32,
    /// The address in the sandbox.
    #[serde(flatten)]
    pub bound: Address,
    /// What is dialled on this machine.
    pub target: String,
}

/// An address and its port, each a field.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Address {
    /// The IP address, without brackets.
    pub address: std::net::IpAddr,
    /// The port.
    pub port: u16,
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self {
            address: addr.ip(),
            port: addr.port(),
        }
    }
}

impl Address {
    /// Both together, IPv6 in brackets.
    #[must_use]
    pub fn socket(self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

/// A process in the pod connected.
#[derive(Clone, Debug, Serialize)]
pub struct Connection {
    /// Counts the connections of this command, from 1.
    pub connection: u64,
    /// The listener it came through.
    pub listener_id: u32,
    /// The listener's port.
    pub port: u16,
    /// The connecting process's address, as the node says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    /// What is dialled.
    pub target: String,
}

/// A connection came to its end.
#[derive(Clone, Debug, Serialize)]
pub struct Closed {
    /// As in [`Connection`].
    pub connection: u64,
    /// The listener it came through.
    pub listener_id: u32,
    /// The listener's port.
    pub port: u16,
    /// Bytes that the pod sent and the target took.
    pub bytes_from_pod: u64,
    /// Bytes that the target sent.
    pub bytes_to_pod: u64,
    /// From its arrival to its end.
    pub duration_ms: u64,
    /// How: `clean`, or a word of the error table.
    pub end: &'static str,
}

/// Connections were turned away.
#[derive(Clone, Debug, Serialize)]
pub struct Rejected {
    /// The connection, where it came as far as this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<u64>,
    /// The listener, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener_id: Option<u32>,
    /// The listener's port, where the listener is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// A word of the error table.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// One sentence.
    pub message: String,
}

/// The connection to the node is lost.
#[derive(Clone, Debug, Serialize)]
pub struct Lost {
    /// Open connections that were reset by it.
    pub connections: usize,
    /// How long it is tried again, in milliseconds.
    pub hold_ms: u64,
    /// Why.
    pub message: String,
}

/// The connection to the node is back.
#[derive(Clone, Debug, Serialize)]
pub struct Reconnected {
    /// Where, as the user named it.
    pub place: String,
    /// After how long.
    pub after_ms: u64,
    /// The server's id of the session, which is no secret.
    pub session_id: String,
    /// Whether that is another session than before: nobody listened meanwhile.
    pub new_session: bool,
}

/// The forward is over.
#[derive(Clone, Debug, Serialize)]
pub struct Ended {
    /// A word of the error table; `done` when we were asked to stop.
    pub reason: String,
    /// One sentence.
    pub message: String,
    /// The exit code of this program, unless a wrapped command decides.
    pub exit_code: u8,
    /// Connections that came in.
    pub connections: u64,
    /// Bytes that the pod sent and targets took, of all connections.
    pub bytes_from_pod: u64,
    /// Bytes that targets sent, of all connections.
    pub bytes_to_pod: u64,
}

impl Ended {
    /// Whether the forward failed, as opposed to having done its work: an exit
    /// code other than 0 may be that of the wrapped command.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.reason != sternline_api::Reason::Done.label()
    }
}
