//! The tunnels of a session: which are up, and which one a stream takes.

use crate::metrics;
use crate::session::Session;
use std::pin::pin;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering::Relaxed},
};
use sternline_tunnel::Dialer;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// A tunnel that is up.
#[derive(Debug)]
struct Tunnel {
    id: u64,
    dialer: Dialer,
    /// Moves its bytes; ending it closes the tunnel.
    driver: Option<AbortHandle>,
    _active: metrics::Active,
}

/// The tunnels, owned by the session's task.
#[derive(Debug)]
pub(super) struct Tunnels {
    session: Arc<Session>,
    up: Vec<Tunnel>,
    /// What streams may take, for the tasks that accept.
    open: Arc<Open>,
}

/// The tunnels that streams may take now.
#[derive(Debug, Default)]
struct Open {
    dialers: Mutex<Vec<Dialer>>,
    /// Told of every change. Who waits is woken in the order of coming, which a
    /// watch channel leaves to chance.
    changed: Notify,
}

impl Open {
    fn dialers(&self) -> MutexGuard<'_, Vec<Dialer>> {
        // Nothing panics while it is locked.
        self.dialers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tunnels {
    pub(super) fn new(session: Arc<Session>) -> Self {
        Self {
            session,
            up: Vec::new(),
            open: Arc::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.up.len()
    }

    pub(super) fn picker(&self) -> Picker {
        Picker {
            open: Arc::clone(&self.open),
            next: Arc::default(),
        }
    }

    pub(super) fn add(&mut self, id: u64, dialer: Dialer, driver: Option<AbortHandle>) {
        self.up.push(Tunnel {
            id,
            dialer,
            driver,
            _active: metrics::Active::tunnel(),
        });
        self.publish();
    }

    /// Forgets a tunnel that ended; whether it was one of these.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        let before = self.up.len();
        self.up.retain(|tunnel| tunnel.id != id);
        self.publish();
        self.up.len() < before
    }

    /// Closes all, and with them their streams.
    pub(super) fn close(&mut self) {
        for driver in self.take() {
            driver.abort();
        }
    }

    /// Gives them up, to be closed by the caller; no new stream takes them.
    pub(super) fn take(&mut self) -> Vec<AbortHandle> {
        let drivers = self.up.drain(..).filter_map(|tunnel| tunnel.driver);
        let drivers = drivers.collect();
        self.publish();
        drivers
    }

    /// Lets go of the tunnels, so that they close by themselves once their
    /// streams are gone.
    pub(super) fn release(&mut self) {
        self.up.clear();
        self.publish();
    }

    fn publish(&self) {
        let dialers: Vec<_> = self.up.iter().map(|tunnel| tunnel.dialer.clone()).collect();
        let count = u32::try_from(dialers.len()).unwrap_or(u32::MAX);
        self.session.counts.tunnels.store(count, Relaxed);
        *self.open.dialers() = dialers;
        self.open.changed.notify_waiters();
    }
}

/// Chooses the tunnel of a new stream: each in turn.
#[derive(Clone, Debug)]
pub(super) struct Picker {
    open: Arc<Open>,
    next: Arc<AtomicUsize>,
}

impl Picker {
    /// Waits until a tunnel is up; for ever once the session is over, whose end
    /// cancels whoever waits.
    pub(super) async fn up(&self) {
        while self.open.dialers().is_empty() {
            let mut changed = pin!(self.open.changed.notified());
            // Registered before the second look, so that no change is missed.
            changed.as_mut().enable();
            if self.open.dialers().is_empty() {
                changed.await;
            }
        }
    }

    /// A tunnel for one stream; waits while none is up.
    pub(super) async fn pick(&self) -> Dialer {
        loop {
            self.up().await;
            let dialers = self.open.dialers();
            if !dialers.is_empty() {
                let turn = self.next.fetch_add(1, Relaxed);
                return dialers[turn % dialers.len()].clone();
            }
        }
    }
}
