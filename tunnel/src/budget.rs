//! Bytes that wait in buffers, counted for a session and for the whole process,
//! and bytes that went through.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long a wait for room lasts before it looks again unasked.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Bytes that all sessions of a process may hold in buffers.
///
/// Up to half of it goes to whoever comes first. Beyond that a session gets no
/// more than its equal share of the other half, so that one which hoards cannot
/// starve the rest, and the whole never exceeds the limit.
#[derive(Debug)]
pub struct ProcessBudget {
    limit: u64,
    used: AtomicU64,
    sessions: AtomicU32,
    /// How many wait in [`Budget::charge`], so that giving back costs nothing
    /// while nobody does.
    waiting: AtomicU32,
    released: Notify,
}

impl ProcessBudget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicU64::new(0),
            sessions: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            released: Notify::new(),
        })
    }

    /// Bytes in buffers now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// A session's part, given back when its last clone and its last
    /// [`Charge`] are dropped.
    #[must_use]
    pub fn session(self: &Arc<Self>) -> Budget {
        self.sessions.fetch_add(1, Relaxed);
        Budget(Arc::new(SessionBudget {
            process: Arc::clone(self),
            used: AtomicU64::new(0),
        }))
    }
}

/// A session's part of a [`ProcessBudget`].
#[derive(Clone, Debug)]
pub struct Budget(Arc<SessionBudget>);

#[derive(Debug)]
struct SessionBudget {
    process: Arc<ProcessBudget>,
    used: AtomicU64,
}

impl Drop for SessionBudget {
    fn drop(&mut self) {
        self.process.sessions.fetch_sub(1, Relaxed);
        self.process.released.notify_waiters();
    }
}

impl Budget {
    /// Bytes that this session holds now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.used.load(Relaxed)
    }

    /// Takes `bytes`, or nothing if there is no room.
    #[must_use]
    pub fn try_charge(&self, bytes: usize) -> Option<Charge> {
        let bytes = bytes as u64;
        let process = &self.0.process;
        let all = process.used.fetch_add(bytes, SeqCst) + bytes;
        let mine = self.0.used.fetch_add(bytes, Relaxed) + bytes;
        let half = process.limit / 2;
        let fair = || half / u64::from(process.sessions.load(Relaxed).max(1));
        if all <= half || (all <= process.limit && mine <= fair()) {
            return Some(Charge {
                budget: self.clone(),
                bytes,
            });
        }
        self.0.used.fetch_sub(bytes, Relaxed);
        process.used.fetch_sub(bytes, SeqCst);
        None
    }

    /// Takes `bytes` as soon as there is room.
    pub async fn charge(&self, bytes: usize) -> Charge {
        let _waiting = Waiting::enter(&self.0.process);
        loop {
            let released = self.0.process.released.notified();
            tokio::pin!(released);
            // Registered before the attempt, so that no release is missed.
            released.as_mut().enable();
            if let Some(charge) = self.try_charge(bytes) {
                return charge;
            }
            // Two attempts may have failed over each other with nothing held that
            // could be given back: look again.
            let _ = timeout(LOOK_AGAIN, released).await;
        }
    }
}

/// One more that waits, until dropped.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn enter(process: &'a ProcessBudget) -> Self {
        process.waiting.fetch_add(1, SeqCst);
        Self(&process.waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Bytes taken from a [`Budget`], given back on drop.
#[derive(Debug)]
pub struct Charge {
    budget: Budget,
    bytes: u64,
}

impl Charge {
    /// Gives back all but `keep` bytes.
    pub(crate) fn shrink(&mut self, keep: usize) {
        let back = self.bytes.saturating_sub(keep as u64);
        self.bytes -= back;
        self.budget.give_back(back);
    }

    /// Takes `more` bytes on top, or nothing if there is no room.
    pub(crate) fn grow(&mut self, more: usize) -> bool {
        match self.budget.try_charge(more) {
            Some(mut charge) => {
                self.bytes += charge.bytes;
                charge.bytes = 0;
                true
            }
            None => false,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }
}

impl Budget {
    fn give_back(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let process = &self.0.process;
        self.0.used.fetch_sub(bytes, Relaxed);
        process.used.fetch_sub(bytes, SeqCst);
        if process.waiting.load(SeqCst) > 0 {
            process.released.notify_waiters();
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

/// Bytes that went through, seen from the sockets of this side. Adding to one
/// adds to its parent.
#[derive(Debug, Default)]
pub struct Traffic {
    from_socket: AtomicU64,
    to_socket: AtomicU64,
    parent: Option<Arc<Self>>,
}

impl Traffic {
    /// Counters whose additions also reach `parent`.
    #[must_use]
    pub fn below(parent: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self {
            parent: Some(Arc::clone(parent)),
            ..Self::default()
        })
    }

    /// Bytes read from sockets so far.
    #[must_use]
    pub fn from_socket(&self) -> u64 {
        self.from_socket.load(Relaxed)
    }

    /// Bytes written to sockets so far.
    #[must_use]
    pub fn to_socket(&self) -> u64 {
        self.to_socket.load(Relaxed)
    }

    pub(crate) fn add_from_socket(&self, bytes: usize) {
        self.from_socket.fetch_add(bytes as u64, Relaxed);
        if let Some(parent) = &self.parent {
            parent.add_from_socket(bytes);
        }
    }

    pub(crate) fn add_to_socket(&self, bytes: usize) {
        self.to_socket.fetch_add(bytes as u64, Relaxed);
        if let Some(parent) = &self.parent {
            parent.add_to_socket(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hoarder_leaves_the_others_their_share() {
        let process = ProcessBudget::new(1000);
        let hoarder = process.session();
        let other = process.session();
        let held: Vec<_> = (0..100).map_while(|_| hoarder.try_charge(50)).collect();
        assert_eq!(hoarder.used(), 500, "half goes to whoever comes first");
        let share: Vec<_> = (0..100).map_while(|_| other.try_charge(50)).collect();
        assert_eq!(other.used(), 250, "an equal share of the other half");
        assert!(process.used() <= 1000);
        drop((held, share));
        assert_eq!(process.used(), 0);
        assert_eq!(hoarder.used(), 0);
    }

    #[test]
    fn charges_grow_and_shrink_within_the_limit() {
        let process = ProcessBudget::new(100);
        let session = process.session();
        let mut charge = session.try_charge(40).expect("room");
        assert!(charge.grow(10));
        assert!(!charge.grow(60));
        assert_eq!(session.used(), 50);
        charge.shrink(5);
        assert_eq!((session.used(), charge.bytes()), (5, 5));
        drop(charge);
        assert_eq!(process.used(), 0);
    }

    #[tokio::test]
    async fn a_waiter_gets_what_another_gives_back() {
        let process = ProcessBudget::new(100);
        let session = process.session();
        let held = session.try_charge(50).expect("room");
        let waiter = tokio::spawn({
            let other = process.session();
            async move { other.charge(50).await.bytes() }
        });
        tokio::task::yield_now().await;
        drop(held);
        assert_eq!(waiter.await.expect("no panic"), 50);
    }

    #[test]
    fn traffic_adds_up_to_its_parent() {
        let all = Arc::new(Traffic::default());
        let (a, b) = (Traffic::below(&all), Traffic::below(&all));
        a.add_from_socket(3);
        b.add_from_socket(4);
        b.add_to_socket(5);
        assert_eq!((a.from_socket(), b.to_socket()), (3, 5));
        assert_eq!((all.from_socket(), all.to_socket()), (7, 5));
    }
}
