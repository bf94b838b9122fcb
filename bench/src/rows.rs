//! The rows of the table: what is measured, against what, and what is asked.

mod table;

pub(crate) use table::{Scale, rows};

use crate::contender::Kind;
use crate::load::Direction;
use crate::stats::Need;
use serde::Serialize;
use std::path::Path;

/// Under which conditions a row is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// Node and workstation joined by a pair of devices.
    Near,
    /// 40 ms there and back.
    Far,
    /// The same, one packet in a thousand lost, cubic at both ends.
    LossCubic,
    /// The same with BBR.
    LossBbr,
    /// Fresh contenders, one at a time: memory.
    Memory,
    /// Starts and set-ups, one after the other.
    Setup,
}

impl Phase {
    /// Every phase, in the order of a run.
    pub(crate) const ALL: [Self; 6] = [
        Self::Near,
        Self::Far,
        Self::LossCubic,
        Self::LossBbr,
        Self::Memory,
        Self::Setup,
    ];

    /// Why it cannot be had on this machine.
    pub(crate) fn missing(self) -> Option<String> {
        let algorithms = || {
            let path = "/proc/sys/net/ipv4/tcp_available_congestion_control";
            std::fs::read_to_string(path).unwrap_or_default()
        };
        let lacks = |name: &str| !algorithms().split_ascii_whitespace().any(|a| a == name);
        match self {
            Self::Near | Self::Memory | Self::Setup => None,
            _ if !Path::new("/dev/net/tun").exists() => Some("there is no /dev/net/tun".to_owned()),
            Self::LossBbr if lacks("bbr") => Some("the kernel has no BBR loaded".to_owned()),
            Self::Far | Self::LossCubic | Self::LossBbr => None,
        }
    }

    /// What it is, for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Near => "on one machine",
            Self::Far => "40 ms round trip",
            Self::LossCubic => "40 ms, 0.1 % loss, cubic",
            Self::LossBbr => "40 ms, 0.1 % loss, BBR",
            Self::Memory => "memory",
            Self::Setup => "starts and set-ups",
        }
    }
}

/// What is measured of one contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subject {
    /// Who.
    pub(crate) kind: Kind,
    /// What it does.
    pub(crate) job: Job,
}

/// A measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Job {
    /// One of the load generator's works.
    Bulk(u32, Direction),
    /// New connections, so many at once.
    Connections(u32),
    /// Messages there and back.
    RoundTrip(Option<Direction>),
    /// Connections that carry nothing.
    Idle(u32),
    /// Connections that finished their own direction.
    HalfClosed(u32),
    /// Streams that nobody reads.
    Unread(u32, Direction),
    /// The call to the first byte.
    Call,
    /// The shim's start until everything listens.
    ShimStart,
    /// The command line's start until it forwards.
    ClientStart,
}

impl Job {
    /// Whether the load generator does it; else the runner does it itself.
    pub(crate) fn is_load(self) -> bool {
        !matches!(self, Self::Call | Self::ShimStart | Self::ClientStart)
    }

    /// Connections that a contender must be able to hold for it, if more than
    /// its defaults allow.
    pub(crate) fn connections(self) -> u32 {
        match self {
            // The look at a neighbour takes one more.
            Self::Idle(n) | Self::HalfClosed(n) | Self::Unread(n, _) => n + 16,
            // Over a long wire, those that end are still there when the next
            // ones begin.
            Self::Connections(n) if n > 64 => n * 4,
            _ => 0,
        }
    }
}

impl std::fmt::Display for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bulk(streams, direction) => write!(f, "bulk/{streams}/{direction}"),
            Self::Connections(at_once) => write!(f, "connections/{at_once}"),
            Self::RoundTrip(None) => f.write_str("round-trip"),
            Self::RoundTrip(Some(beside)) => write!(f, "round-trip/beside/{beside}"),
            Self::Idle(n) => write!(f, "idle/{n}"),
            Self::HalfClosed(n) => write!(f, "half-closed/{n}"),
            Self::Unread(n, direction) => write!(f, "unread/{n}/{direction}"),
            Self::Call => f.write_str("call"),
            Self::ShimStart => f.write_str("shim-start"),
            Self::ClientStart => f.write_str("client-start"),
        }
    }
}

/// What a figure of Sternline is set against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reference {
    /// Measured beside it in each round.
    pub(crate) subject: Subject,
    /// Which of its figures.
    pub(crate) figure: &'static str,
}

/// A row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// `F1` and so on.
    pub(crate) id: &'static str,
    /// What it says, for people.
    pub(crate) what: String,
    /// Under which conditions.
    pub(crate) phase: Phase,
    /// What is measured.
    pub(crate) subject: Subject,
    /// Which of its figures.
    pub(crate) figure: &'static str,
    /// What it is divided by; none where the figure itself counts.
    pub(crate) against: Option<Reference>,
    /// What is asked; none where the figure is only for comparison.
    pub(crate) need: Option<Need>,
}
