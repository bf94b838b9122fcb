//! The tunnels of a session: which are up, and which one a stream takes.

use crate::metrics;
use crate::session::Session;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};
use sternline_tunnel::Dialer;
use tokio::sync::watch;
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
    dialers: watch::Sender<Vec<Dialer>>,
}

impl Tunnels {
    pub(super) fn new(session: Arc<Session>) -> Self {
        Self {
            session,
            up: Vec::new(),
            dialers: watch::Sender::new(Vec::new()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.up.len()
    }

    pub(super) fn picker(&self) -> Picker {
        Picker {
            dialers: self.dialers.subscribe(),
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
        self.dialers.send_replace(dialers);
    }
}

/// Chooses the tunnel of a new stream: each in turn.
#[derive(Clone, Debug)]
pub(super) struct Picker {
    dialers: watch::Receiver<Vec<Dialer>>,
    next: Arc<AtomicUsize>,
}

impl Picker {
    /// Waits until a tunnel is up.
    pub(super) async fn up(&mut self) {
        if self.dialers.wait_for(|up| !up.is_empty()).await.is_err() {
            // The session is over; whoever waits here is cancelled with it.
            std::future::pending::<()>().await;
        }
    }

    /// A tunnel for one stream; waits while none is up.
    pub(super) async fn pick(&mut self) -> Dialer {
        loop {
            self.up().await;
            let dialers = self.dialers.borrow();
            if !dialers.is_empty() {
                let turn = self.next.fetch_add(1, Relaxed);
                return dialers[turn % dialers.len()].clone();
            }
        }
    }
}
