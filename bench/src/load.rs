//! The load generator: one work a process, its figures as one line of JSON.

mod bulk;
mod connections;
mod hold;
mod round_trip;

use crate::{target, usage};
use anyhow::{Context as _, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bound on a single connect, answer or message.
const STEP: Duration = Duration::from_secs(15);

/// Names of figures, with their units.
pub(crate) mod figure {
    /// Bytes a second, all streams together, counted where they are read.
    pub(crate) const RATE: &str = "bytes_per_second";
    /// CPU seconds that the contender's processes took for 10^9 bytes.
    pub(crate) const CPU: &str = "cpu_seconds_per_gb";
    /// Jain's index over the streams.
    pub(crate) const JAIN: &str = "jain";
    /// The slowest stream by the mean of all.
    pub(crate) const SLOWEST: &str = "slowest_by_mean";
    /// From the start to 90 % of the final rate, in milliseconds.
    pub(crate) const RAMP: &str = "ramp_ms";
    /// Connections a second.
    pub(crate) const CONNECTIONS: &str = "connections_per_second";
    /// Connect to first byte, in microseconds: median and 99th percentile.
    pub(crate) const FIRST_BYTE_P50: &str = "first_byte_p50_us";
    /// See [`FIRST_BYTE_P50`].
    pub(crate) const FIRST_BYTE_P99: &str = "first_byte_p99_us";
    /// Round trip of a message, in microseconds.
    pub(crate) const TRIP_P50: &str = "round_trip_p50_us";
    /// See [`TRIP_P50`].
    pub(crate) const TRIP_P99: &str = "round_trip_p99_us";
    /// Resident memory a connection on the node's side, in KiB.
    pub(crate) const NODE_KIB: &str = "node_kib_per_connection";
    /// The same on the workstation's side.
    pub(crate) const CLIENT_KIB: &str = "client_kib_per_connection";
    /// The most by which memory grew on the node's side, in MiB.
    pub(crate) const NODE_MIB: &str = "node_mib";
    /// The same on the workstation's side.
    pub(crate) const CLIENT_MIB: &str = "client_mib";
    /// A time, in milliseconds.
    pub(crate) const MILLIS: &str = "ms";
    /// What went wrong and was tried again.
    pub(crate) const ERRORS: &str = "errors";
}

/// Which way the bytes of bulk go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Direction {
    /// From the pod out to the workstation.
    PodOut,
    /// From the workstation into the pod.
    OutPod,
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PodOut => "pod-out",
            Self::OutPod => "out-pod",
        })
    }
}

/// `sternline-bench load`.
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Where to connect: the target itself, or a contender's listener.
    #[arg(long)]
    pub(crate) connect: SocketAddr,
    /// The target's control socket.
    #[arg(long)]
    pub(crate) control: PathBuf,
    /// Processes of the contender on the node's side.
    #[arg(long)]
    pub(crate) node_pid: Vec<u32>,
    /// Processes of the contender on the workstation's side.
    #[arg(long)]
    pub(crate) client_pid: Vec<u32>,
    /// Length of the measurement, in seconds.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) seconds: f64,
    /// Time before it that is not counted, in seconds.
    #[arg(long, default_value_t = 0.3)]
    pub(crate) warm: f64,
    /// What to do.
    #[command(subcommand)]
    pub(crate) work: Work,
}

/// What a generator does.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub(crate) enum Work {
    /// Look whether a connection reaches the target and an answer comes back.
    Check,
    /// As many bytes as go through.
    Bulk {
        /// Streams at once.
        #[arg(long)]
        streams: u32,
        /// Which way.
        #[arg(long)]
        direction: Direction,
    },
    /// New connections, each with one byte there and one back.
    Connections {
        /// How many at once.
        #[arg(long)]
        at_once: u32,
    },
    /// Messages of 64 bytes there and back, one at a time.
    RoundTrip {
        /// A bulk stream beside it.
        #[arg(long)]
        beside: Option<Direction>,
    },
    /// Connections that carry nothing.
    Idle {
        /// How many.
        #[arg(long)]
        connections: u32,
    },
    /// Connections that finished their own direction.
    HalfClosed {
        /// How many.
        #[arg(long)]
        connections: u32,
    },
    /// Streams that are fed as much as they take and that nobody reads.
    Unread {
        /// How many.
        #[arg(long)]
        streams: u32,
        /// Which way.
        #[arg(long)]
        direction: Direction,
    },
}

/// Figures by name.
pub(crate) type Figures = BTreeMap<String, f64>;

impl Load {
    /// Does the work.
    ///
    /// # Errors
    /// The target is not reached, or the figures would mean nothing.
    pub(crate) async fn run(&self) -> Result<Figures> {
        let mut control = target::counters(&self.control)?;
        let figures = match &self.work {
            Work::Check => connections::check(self.connect).await,
            Work::Bulk { streams, direction } => {
                bulk::run(self, &mut control, *streams, *direction).await
            }
            Work::Connections { at_once } => connections::run(self, *at_once).await,
            Work::RoundTrip { beside } => round_trip::run(self, &mut control, *beside).await,
            Work::Idle { connections } => hold::idle(self, *connections, false).await,
            Work::HalfClosed { connections } => hold::idle(self, *connections, true).await,
            Work::Unread { streams, direction } => hold::unread(self, *streams, *direction).await,
        };
        control.drop_kept()?;
        figures
    }

    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm)
    }

    /// CPU time of the contender so far.
    fn cpu(&self) -> Duration {
        usage::cpu(&[self.node_pid.as_slice(), &self.client_pid].concat())
    }

    /// Memory of the contender on the node and at the workstation, in bytes.
    fn memory(&self) -> (u64, u64) {
        (
            usage::memory(&self.node_pid),
            usage::memory(&self.client_pid),
        )
    }
}

/// Connects and sends the first byte.
async fn open(address: SocketAddr, verb: u8) -> Result<TcpStream> {
    let opened = timeout(STEP, async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&[verb]).await?;
        std::io::Result::Ok(stream)
    });
    let stream = opened
        .await
        .with_context(|| format!("{address} took no connection within {STEP:?}"))?;
    stream.with_context(|| format!("cannot connect to {address}"))
}

/// The number that tells the streams of this run from those of others.
fn run_number() -> u32 {
    std::process::id()
}
