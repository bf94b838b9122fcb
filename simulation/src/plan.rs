//! What a seed stands for: limits, clients, connections, faults.

use crate::rng::Rng;
use std::time::Duration;
use sternline_shim::limits::Limits;

/// One client: a forward of the command line.
#[derive(Clone, Debug)]
pub(crate) struct ClientPlan {
    pub(crate) sandbox: String,
    /// As typed; the target's port says who is there, see [`TargetKind`].
    pub(crate) specs: Vec<String>,
    pub(crate) hold: Duration,
    pub(crate) starts: Duration,
    /// When it is asked to stop.
    pub(crate) stops: Duration,
    /// Microseconds that its link takes, least and most.
    pub(crate) delay: (u64, u64),
    pub(crate) connections: Vec<ConnectionPlan>,
}

/// One connection of a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionPlan {
    /// After the client started.
    pub(crate) at: Duration,
    /// Which of the bound addresses.
    pub(crate) listener: u64,
    pub(crate) pod: Behaviour,
    pub(crate) target: Behaviour,
}

/// What a process does with a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    /// Bytes that it sends.
    pub(crate) sends: usize,
    /// It reads to the end before it sends.
    pub(crate) listens_first: bool,
    /// It waits now and then, so many milliseconds at most.
    pub(crate) pauses: u64,
    /// It resets the connection after it read or wrote so much.
    pub(crate) resets_after: Option<usize>,
}

/// Who is at a target's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetKind {
    Serves,
    Refuses,
    Hangs,
}

/// Targets' ports, and who is there.
pub(crate) const SERVES: u16 = 3000;
pub(crate) const REFUSES: u16 = 3001;
pub(crate) const HANGS: u16 = 3002;

impl TargetKind {
    pub(crate) fn at(port: u16) -> Self {
        match port {
            REFUSES => Self::Refuses,
            HANGS => Self::Hangs,
            _ => Self::Serves,
        }
    }
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A client's link carries nothing for so many milliseconds.
    Cut(usize, u64),
    /// A client's connections are reset, as both ends or one of them see it.
    Reset(usize, [bool; 2]),
    /// A client dies.
    Kill(usize),
    /// The operator stops a client's session.
    Stop(usize),
    /// A client's sandbox stops.
    Gone(usize),
    /// The node drains, and ends every session after so many milliseconds.
    Drain(u64),
}

/// A whole run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) limits: Limits,
    pub(crate) clients: Vec<ClientPlan>,
    /// When, and what.
    pub(crate) faults: Vec<(Duration, Fault)>,
}

/// Until when clients run at the least.
const BUSY_MS: u64 = 40_000;

impl Plan {
    pub(crate) fn of(rng: &mut Rng) -> Self {
        let connections_per_session = rng.pick(&[2, 8, 32, 32]);
        let session = rng.pick(&[300_000, 2 << 20, 16 << 20]);
        let limits = Limits {
            connections_per_session,
            connections_per_node: rng.pick(&[4, 64, 64, 64, 64]),
            sessions_per_sandbox: rng.pick(&[2, 4]),
            sessions_per_node: 4,
            buffer_bytes_per_session: session,
            buffer_bytes_per_node: session * rng.between(1, 3),
            dial_timeout: Duration::from_secs(rng.pick(&[1, 10])),
            token_ttl: Duration::from_secs(rng.pick(&[5, 60])),
            idle_timeout: Duration::from_secs(rng.pick(&[0, 0, 20])),
            ping_interval: Duration::from_secs(rng.pick(&[1, 5, 15])),
            ..Limits::default()
        };
        let count = rng.between(1, 3) as usize;
        let clients: Vec<_> = (0..count).map(|_| ClientPlan::of(rng)).collect();
        let mut faults = Vec::new();
        // Every fifth run is without: there everything must arrive.
        if !rng.percent(20) {
            for _ in 0..rng.between(1, 6) {
                let at = Duration::from_millis(rng.between(0, BUSY_MS));
                faults.push((at, Fault::of(rng, count)));
            }
            faults.sort_by_key(|(at, _)| *at);
        }
        Self {
            limits,
            clients,
            faults,
        }
    }
}

impl ClientPlan {
    fn of(rng: &mut Rng) -> Self {
        let sandbox = rng.pick(&["web", "db"]).to_owned();
        let listeners = rng.between(1, 3);
        let specs = (0..listeners).map(|_| {
            // Fixed ports may be taken by another client.
            let port = rng.pick(&[0, 0, 0, 8080, 9003]);
            let target = rng.pick(&[SERVES, SERVES, SERVES, SERVES, REFUSES, HANGS]);
            format!("{port}:{target}")
        });
        let mut specs: Vec<String> = specs.collect();
        specs.dedup_by_key(|spec| {
            spec.split(':')
                .next()
                .map(str::to_owned)
                .filter(|p| p != "0")
        });
        let connections = (0..rng.between(0, 14)).map(|_| ConnectionPlan::of(rng));
        let connections = connections.collect();
        let least = rng.pick(&[50, 1_000, 20_000]);
        Self {
            sandbox,
            specs,
            hold: Duration::from_secs(rng.pick(&[0, 5, 30, 120])),
            starts: Duration::from_millis(rng.between(0, 5_000)),
            stops: Duration::from_millis(rng.between(BUSY_MS, BUSY_MS + 20_000)),
            delay: (least, least * rng.between(1, 10)),
            connections,
        }
    }
}

impl ConnectionPlan {
    fn of(rng: &mut Rng) -> Self {
        let listens_first = rng.between(0, 9);
        Self {
            at: Duration::from_millis(rng.between(0, 30_000)),
            listener: rng.number(),
            // Never both, or they would wait for each other.
            pod: Behaviour::of(rng, listens_first == 0),
            target: Behaviour::of(rng, listens_first == 1),
        }
    }
}

impl Behaviour {
    fn of(rng: &mut Rng, listens_first: bool) -> Self {
        let resets = rng.percent(10);
        Self {
            sends: rng.length(150_000),
            listens_first,
            pauses: rng.pick(&[0, 0, 5, 400]),
            resets_after: resets.then(|| rng.length(20_000)),
        }
    }

    pub(crate) fn is_patient(self) -> bool {
        self.resets_after.is_none()
    }

    /// Whether it may take longer over what has arrived than a stream may be silent.
    pub(crate) fn dawdles(self) -> bool {
        self.pauses >= 400
    }
}

impl Fault {
    fn of(rng: &mut Rng, clients: usize) -> Self {
        let client = rng.between(0, clients as u64 - 1) as usize;
        match rng.between(0, 19) {
            0..=5 => Self::Cut(client, rng.pick(&[50, 900, 8_000, 60_000])),
            6..=13 => Self::Reset(
                client,
                rng.pick(&[[true, true], [true, false], [false, true]]),
            ),
            14..=15 => Self::Kill(client),
            16 => Self::Stop(client),
            17..=18 => Self::Gone(client),
            _ => Self::Drain(rng.between(0, 10_000)),
        }
    }
}
