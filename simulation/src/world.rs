//! What all parts of a run share.

use crate::binder::Ports;
use crate::plan::Behaviour;
use crate::records::{Record, Records};
use crate::rng::Rng;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// What happened in a run, to see that runs are not idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sessions that were set up.
    pub sessions: u64,
    /// Connections that pods opened.
    pub connections: u64,
    /// Connections of which both sides saw the end of everything.
    pub whole: u64,
    /// Connections that one side or the other saw cut off.
    pub cut: u64,
    /// Times that a client came back to its session.
    pub reconnected: u64,
    /// Connections turned away, and dials that failed.
    pub rejected: u64,
    /// Faults that were put in.
    pub faults: u64,
    /// Bytes that arrived and were right.
    pub bytes: u64,
    /// Virtual milliseconds.
    pub took_ms: u64,
}

/// One run's world.
#[derive(Debug)]
pub(crate) struct World {
    start: Instant,
    trace: Mutex<Vec<String>>,
    failures: Mutex<Vec<String>>,
    pub(crate) stats: Mutex<Stats>,
    pub(crate) records: Mutex<Records>,
    /// What the target of each connection is to do.
    pub(crate) behaviours: Mutex<BTreeMap<u64, Behaviour>>,
    rng: Mutex<Rng>,
    /// Ends of connections that are not closed.
    pub(crate) sockets: Arc<AtomicUsize>,
    /// Ends of wires that are not closed.
    pub(crate) wires: Arc<AtomicUsize>,
    /// Who listens in which sandbox.
    pub(crate) ports: Ports,
}

impl World {
    pub(crate) fn new(rng: Rng) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            trace: Mutex::default(),
            failures: Mutex::default(),
            stats: Mutex::default(),
            records: Mutex::default(),
            behaviours: Mutex::default(),
            rng: Mutex::new(rng),
            sockets: Arc::default(),
            wires: Arc::default(),
            ports: Ports::default(),
        })
    }

    /// Notes an event.
    pub(crate) fn note(&self, event: impl AsRef<str>) {
        let at = self.start.elapsed().as_micros();
        lock(&self.trace).push(format!("{at:>12} {}", event.as_ref()));
    }

    /// Notes that something does not hold.
    pub(crate) fn fail(&self, what: impl AsRef<str>) {
        self.note(format!("FAILURE {}", what.as_ref()));
        lock(&self.failures).push(what.as_ref().to_owned());
    }

    pub(crate) fn rng(&self) -> Rng {
        lock(&self.rng).fork()
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut lock(&self.stats));
    }

    pub(crate) fn record(&self, connection: u64, change: impl FnOnce(&mut Record)) {
        change(lock(&self.records).entry(connection).or_default());
    }

    /// Ends of connections and of wires that are open.
    pub(crate) fn open(&self) -> (usize, usize) {
        (self.sockets.load(Relaxed), self.wires.load(Relaxed))
    }

    pub(crate) fn elapsed_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    pub(crate) fn take(&self) -> (Vec<String>, Vec<String>) {
        let trace = std::mem::take(&mut *lock(&self.trace));
        (trace, std::mem::take(&mut *lock(&self.failures)))
    }
}

/// Nothing panics while it holds one of these.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
