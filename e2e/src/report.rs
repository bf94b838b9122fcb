//! What the probe prints: one JSON object on a line of its standard output.
//! Times are in milliseconds unless the name says seconds.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// First line of everything that listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// The address as bound.
    pub listening: SocketAddr,
    /// The process, by the number that it knows of.
    pub pid: u32,
}

/// First line of everything that holds connections until it is ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Connections that carried their first byte and are kept open.
    pub holding: u32,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The peer finished: a clean end of stream.
    Eof,
    /// The peer reset the connection.
    Reset,
    /// Nobody listens there.
    Refused,
    /// Nothing happened for as long as the probe was told to wait.
    Timeout,
    /// Bytes arrived that nobody sent.
    Corrupt,
    /// Something else.
    Other,
}

impl From<&std::io::Error> for End {
    fn from(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        match error.kind() {
            Kind::UnexpectedEof => Self::Eof,
            // Writing after a reset arrived is the same news as reading it.
            Kind::ConnectionReset | Kind::BrokenPipe => Self::Reset,
            Kind::ConnectionRefused => Self::Refused,
            Kind::TimedOut | Kind::WouldBlock => Self::Timeout,
            Kind::InvalidData => Self::Corrupt,
            _ => Self::Other,
        }
    }
}

/// Last line of everything that waits for a connection to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// How.
    pub ended: End,
    /// Bytes received before.
    pub received: u64,
    /// Milliseconds from the connect, or from the start of waiting.
    pub after_ms: u64,
}

/// An echo that came back whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Echo {
    /// Bytes sent and received.
    pub bytes: u64,
    /// Time until the connection stood.
    pub connect_ms: f64,
    /// Time from the first byte sent to the last received.
    pub echo_ms: f64,
}

/// One side of a transfer in both directions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// Bytes sent.
    pub sent: u64,
    /// SHA-256 of them.
    pub sent_sha256: String,
    /// Bytes received until the peer finished.
    pub received: u64,
    /// SHA-256 of them.
    pub received_sha256: String,
    /// Time for both directions.
    pub seconds: f64,
}

/// Many connections open at once, each of which echoed data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Many {
    /// Connections that carried everything, all of them open until the last
    /// was through.
    pub ok: u32,
    /// The others, by how they ended.
    pub failed: BTreeMap<End, u32>,
    /// Time until the last connection stood.
    pub connect_ms: f64,
    /// Time for the data, from the moment that all stood.
    pub data_seconds: f64,
    /// Longest time that one connection took for its data.
    pub slowest_ms: f64,
}

/// Connections that were made and reset at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Storm {
    /// Connections made and reset, by either end.
    pub resets: u32,
    /// Connections that could not be made, by how they ended.
    pub failed: BTreeMap<End, u32>,
    /// Time for all.
    pub seconds: f64,
}

/// Connections that each sent a pattern, finished, and read until the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchanged {
    /// Everything came back, and a clean end after it.
    pub whole: u32,
    /// Cut off, and told so: a reset.
    pub cut: u32,
    /// Not connected at all: refused.
    pub refused: u32,
    /// What must never be, by the words that say it.
    pub wrong: BTreeMap<String, u32>,
}

/// Bytes written to a connection that nobody reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Bytes that the kernel took before it took no more.
    pub written: u64,
}

/// Who listens in the network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listeners {
    /// Their addresses, IPv4 first.
    pub listeners: Vec<SocketAddr>,
}

/// What became of attempts to take ports that somebody has, so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Besieged {
    /// How often every port was tried.
    pub rounds: u64,
    /// Addresses that could be listened on.
    pub free: Vec<SocketAddr>,
    /// Addresses at which nobody took a connection.
    pub refused: Vec<SocketAddr>,
}

/// What came of trying to come into network namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trespass {
    /// The user that tried.
    pub uid: u32,
    /// Each way that was tried, in order.
    pub attempts: Vec<Attempt>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// What was tried.
    pub what: String,
    /// How it was refused; none if it was not.
    pub refused: Option<String>,
}
