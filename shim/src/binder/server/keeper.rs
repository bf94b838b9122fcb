//! What a serve that is gone has left, until the next one takes it or its time
//! is over.
//!
//! serve deposits copies of its listeners while it lives; a process that is
//! killed has no last word. Nothing here knows what a record says.

mod guest;

pub(super) use guest::{Guest, Left};

use crate::binder::Binder;
use crate::binder::wire::{self, Socket};
use crate::sandbox::Watched;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

/// What may be kept. Each is a flag of `sternline-shim binder`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepLimits {
    /// How long what a serve left is kept; zero keeps nothing.
    pub grace: Duration,
    /// Sessions, and sockets of serve's own.
    pub entries: u32,
    /// Descriptors of all of them.
    pub descriptors: u32,
}

impl Default for KeepLimits {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(10),
            entries: 4096,
            descriptors: 16_384,
        }
    }
}

/// Everything that is kept, for all serves.
pub(super) struct Keeper {
    limits: KeepLimits,
    binder: Arc<dyn Binder>,
    state: Mutex<State>,
    /// Told when a serve is gone.
    departures: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    holdings: HashMap<Name, Holding>,
    next_id: u64,
}

/// A user, and what its serve calls itself.
type Name = (u32, String);

/// What one serve, and those after it, has here.
#[derive(Default)]
struct Holding {
    /// The connection that it belongs to; none once that is gone.
    owner: Option<u64>,
    /// The process at the other end of it.
    instance: String,
    entries: BTreeMap<String, Entry>,
    /// Ends what was left, when its time is over.
    expiry: Option<AbortOnDropHandle<()>>,
    /// Which time it was left last.
    leaving: u64,
    /// When the owner came.
    since: Option<Instant>,
    /// The time that what was left has, while no owner has gone on with it.
    until: Option<Instant>,
}

struct Entry {
    id: u64,
    sockets: Vec<(Socket, Arc<OwnedFd>)>,
    record: Option<Vec<u8>>,
    watched: Option<Watched>,
    /// Waits until the sandbox is gone.
    _watch: Option<AbortOnDropHandle<()>>,
}

impl Keeper {
    pub(super) fn new(limits: KeepLimits, binder: Arc<dyn Binder>) -> Arc<Self> {
        Arc::new(Self {
            limits,
            binder,
            state: Mutex::default(),
            departures: watch::Sender::default(),
        })
    }

    /// How long what a serve left is kept.
    pub(super) fn grace(&self) -> Duration {
        self.limits.grace
    }

    /// Lets a serve in that wants something kept, if anything is. One that was
    /// here before and lost its connection deposits again what it still has.
    pub(super) fn enter(self: &Arc<Self>, uid: u32, hello: &wire::Hello) -> Option<Guest> {
        if hello.name.is_empty() || self.limits.grace.is_zero() {
            return None;
        }
        let name = (uid, hello.name.clone());
        let mut state = self.lock();
        let id = state.next_id();
        if let Some(holding) = state.holdings.get_mut(&name)
            && holding.instance == hello.instance
        {
            holding.own(id, &hello.instance);
            holding.entries.clear();
        }
        Some(Guest {
            keeper: Arc::clone(self),
            id,
            name,
            instance: hello.instance.clone(),
        })
    }

    /// Closes everything.
    pub(super) fn clear(&self) {
        self.lock().holdings.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every step under the lock leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A serve is gone.
    fn left(self: &Arc<Self>, name: &Name, id: u64) {
        let mut state = self.lock();
        let leaving = state.next_id();
        let Some(holding) = state.holdings.get_mut(name) else {
            return;
        };
        if holding.owner != Some(id) {
            return;
        }
        holding.owner = None;
        holding.leaving = leaving;
        if holding.entries.is_empty() {
            state.holdings.remove(name);
        } else {
            let until = holding.leave(self.limits.grace);
            tracing::info!(
                serve = name.1,
                kept = holding.entries.len(),
                grace = ?until.saturating_duration_since(Instant::now()),
                "serve is gone, what it left is kept for the next"
            );
            let (keeper, name) = (Arc::downgrade(self), name.clone());
            let expire = async move {
                sleep_until(until).await;
                if let Some(keeper) = keeper.upgrade() {
                    keeper.expire(&name, leaving);
                }
            };
            holding.expiry = Some(AbortOnDropHandle::new(tokio::spawn(expire)));
        }
        drop(state);
        self.departures.send_replace(());
    }

    /// The time is over of what was left then.
    fn expire(&self, name: &Name, leaving: u64) {
        let mut state = self.lock();
        let is_it = |h: &Holding| h.owner.is_none() && h.leaving == leaving;
        // Else it was taken a moment ago, and may have been left again.
        if !state.holdings.get(name).is_some_and(is_it) {
            return;
        }
        let holding = state.holdings.remove(name).unwrap_or_default();
        tracing::warn!(
            serve = name.1,
            closed = holding.entries.len(),
            "no serve came in time, what the last one left is closed (--restart-grace)"
        );
    }

    /// The sandbox of an entry is gone.
    fn gone(&self, name: &Name, key: &str, id: u64) {
        let mut state = self.lock();
        if let Some(holding) = state.holdings.get_mut(name)
            && holding.entries.get(key).is_some_and(|entry| entry.id == id)
        {
            holding.entries.remove(key);
            tracing::info!(key, "its sandbox is gone, and nothing of it is kept");
        }
    }

    /// Nothing of a sandbox that cannot be watched is kept either: it would
    /// outlive the sandbox unnoticed.
    fn watch(
        self: &Arc<Self>,
        name: Name,
        key: String,
        id: u64,
        watched: Watched,
    ) -> AbortOnDropHandle<()> {
        let (keeper, binder): (Weak<Self>, _) = (Arc::downgrade(self), Arc::clone(&self.binder));
        AbortOnDropHandle::new(tokio::spawn(async move {
            if let Ok(mut gone) = binder.watch(watched).await {
                gone.wait().await;
            }
            if let Some(keeper) = keeper.upgrade() {
                keeper.gone(&name, &key, id);
            }
        }))
    }
}

impl Holding {
    fn own(&mut self, id: u64, instance: &str) {
        self.owner = Some(id);
        instance.clone_into(&mut self.instance);
        self.expiry = None;
        self.since = Some(Instant::now());
    }

    /// How long it is kept from now on. One that took it, had nothing kept, and was
    /// gone before the grace was over did not get to serve: starts that fail, one
    /// after the other, do not lengthen the time.
    fn leave(&mut self, grace: Duration) -> Instant {
        let is_short = |since: Instant| since.elapsed() < grace;
        let before = self.until.filter(|_| self.since.is_some_and(is_short));
        let until = before.unwrap_or_else(|| Instant::now() + grace);
        self.until = Some(until);
        until
    }
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.holdings.values().flat_map(|h| h.entries.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binder::LocalBinder;
    use crate::binder::server::Refusals;
    use tokio::time::sleep;

    const SECOND: Duration = Duration::from_secs(1);

    fn keeper() -> Arc<Keeper> {
        let nowhere = "/nonexistent/netns".into();
        let binder = LocalBinder::standalone(nowhere, false, SECOND).expect("a binder");
        let limits = KeepLimits {
            grace: SECOND * 10,
            ..KeepLimits::default()
        };
        Keeper::new(limits, Arc::new(binder))
    }

    fn enter(keeper: &Arc<Keeper>, instance: u32) -> Guest {
        let hello = wire::Hello {
            name: "one".to_owned(),
            instance: instance.to_string(),
            ..wire::Hello::default()
        };
        keeper.enter(0, &hello).expect("kept")
    }

    fn keep(guest: &Guest) {
        let keep = wire::Keep {
            key: "s1".to_owned(),
            record: Some(Vec::new()),
            ..wire::Keep::default()
        };
        let kept = guest.keep(keep, None, Vec::new(), &Refusals::default());
        kept.expect("there is room");
    }

    #[tokio::test(start_paused = true)]
    async fn starts_that_fail_do_not_lengthen_the_time() {
        let keeper = keeper();
        let taken = async |guest: &Guest| guest.take().await.expect("its turn").len();
        keep(&enter(&keeper, 0));
        for instance in 1..=3 {
            sleep(SECOND * 3).await;
            assert_eq!(taken(&enter(&keeper, instance)).await, 1, "{instance}");
        }
        // This one goes on with it.
        let next = enter(&keeper, 4);
        assert_eq!(taken(&next).await, 1);
        keep(&next);
        drop(next);
        sleep(SECOND * 9).await;
        // This one serves, and has nothing to be kept meanwhile.
        let long = enter(&keeper, 5);
        assert_eq!(taken(&long).await, 1);
        sleep(SECOND * 60).await;
        drop(long);
        for (instance, left) in [(6, 1), (7, 0)] {
            sleep(SECOND * 6).await;
            assert_eq!(taken(&enter(&keeper, instance)).await, left, "{instance}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_and_left_again_has_a_time_of_its_own() {
        let keeper = keeper();
        let name = (0, "one".to_owned());
        keep(&enter(&keeper, 0));
        let first = keeper.lock().holdings[&name].leaving;
        let next = enter(&keeper, 1);
        next.take().await.expect("its turn");
        drop(next);
        let second = keeper.lock().holdings[&name].leaving;
        // A timer that could not be stopped any more.
        keeper.expire(&name, first);
        assert!(keeper.lock().holdings.contains_key(&name));
        keeper.expire(&name, second);
        assert!(!keeper.lock().holdings.contains_key(&name));
    }
}
