//! What a serve that is gone has left, until the next one takes it or its time
//! is over.
//!
//! serve deposits copies of its listeners while it lives; a process that is
//! killed has no last word. Nothing here knows what a record says.

use super::Refusals;
use crate::binder::Binder;
use crate::binder::wire::{self, Socket};
use crate::sandbox::Watched;
use socket2::{SockRef, Type};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use sternline_api::{Failure, Reason};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// How long a serve that comes waits for the one before to go.
const HAND_OVER: Duration = Duration::from_secs(5);

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
}

struct Entry {
    id: u64,
    sockets: Vec<(Socket, Arc<OwnedFd>)>,
    record: Option<Vec<u8>>,
    watched: Option<Watched>,
    /// Waits until the sandbox is gone.
    _watch: Option<AbortOnDropHandle<()>>,
}

/// A connected serve. Dropped, it leaves behind what it has here.
pub(super) struct Guest {
    keeper: Arc<Keeper>,
    id: u64,
    name: Name,
    instance: String,
}

/// What was kept under one key.
pub(super) struct Left {
    pub(super) key: String,
    pub(super) sockets: Vec<(Socket, Arc<OwnedFd>)>,
    pub(super) record: Vec<u8>,
    pub(super) watched: Option<Watched>,
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
            holding.owner = Some(id);
            holding.expiry = None;
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
        let Some(holding) = state.holdings.get_mut(name) else {
            return;
        };
        if holding.owner != Some(id) {
            return;
        }
        holding.owner = None;
        if holding.entries.is_empty() {
            state.holdings.remove(name);
        } else {
            let grace = self.limits.grace;
            tracing::info!(
                serve = name.1,
                kept = holding.entries.len(),
                ?grace,
                "serve is gone, what it left is kept for the next"
            );
            let (keeper, name) = (Arc::downgrade(self), name.clone());
            let expire = async move {
                sleep(grace).await;
                if let Some(keeper) = keeper.upgrade() {
                    keeper.expire(&name);
                }
            };
            holding.expiry = Some(AbortOnDropHandle::new(tokio::spawn(expire)));
        }
        drop(state);
        self.departures.send_replace(());
    }

    fn expire(&self, name: &Name) {
        let mut state = self.lock();
        // Taken a moment ago.
        if state.holdings.get(name).is_none_or(|h| h.owner.is_some()) {
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

impl State {
    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.holdings.values().flat_map(|h| h.entries.values())
    }
}

impl Guest {
    /// Keeps what was checked.
    ///
    /// # Errors
    /// A limit, a descriptor that is no listening socket, or another serve.
    pub(super) fn keep(
        &self,
        keep: wire::Keep,
        watched: Option<Watched>,
        descriptors: Vec<OwnedFd>,
        refusals: &Refusals,
    ) -> Result<(), Failure> {
        if !descriptors.iter().all(listens) {
            let message = "the binder keeps sockets that listen, and nothing else";
            return Err(Failure::new(Reason::InvalidRequest, message));
        }
        let keeper = &self.keeper;
        let limits = keeper.limits;
        let mut state = keeper.lock();
        let entries = state.entries().count();
        let held: usize = state.entries().map(|entry| entry.sockets.len()).sum();
        let id = state.next_id();
        let holding = state.holdings.entry(self.name.clone()).or_default();
        self.own(holding)?;
        let is_new = !holding.entries.contains_key(&keep.key);
        if is_new && entries >= limits.entries as usize {
            let so_far = refusals.kept.fetch_add(1, Relaxed) + 1;
            let most = limits.entries;
            tracing::warn!(most, so_far, "something is not kept (--max-kept)");
            return Err(full("--max-kept", most));
        }
        if held + descriptors.len() > limits.descriptors as usize {
            let so_far = refusals.kept.fetch_add(1, Relaxed) + 1;
            let most = limits.descriptors;
            tracing::warn!(
                most,
                so_far,
                "something is not kept (--max-kept-descriptors)"
            );
            return Err(full("--max-kept-descriptors", most));
        }
        let entry = holding.entries.entry(keep.key.clone());
        let entry = entry.or_insert_with(|| Entry {
            id,
            sockets: Vec::new(),
            record: None,
            _watch: watched.clone().map(|watched| {
                let (name, key) = (self.name.clone(), keep.key.clone());
                keeper.watch(name, key, id, watched)
            }),
            watched,
        });
        let descriptors = descriptors.into_iter().map(Arc::new);
        entry
            .sockets
            .extend(keep.sockets.into_iter().zip(descriptors));
        if let Some(record) = keep.record {
            entry.record = Some(record);
        }
        Ok(())
    }

    /// Closes a part of what is kept. What is not there is closed already.
    pub(super) fn discard(&self, discard: &wire::Discard) {
        let mut state = self.keeper.lock();
        let Some(holding) = state.holdings.get_mut(&self.name) else {
            return;
        };
        if holding.owner != Some(self.id) {
            return;
        }
        match discard.listener_id {
            None => drop(holding.entries.remove(&discard.key)),
            Some(id) => {
                if let Some(entry) = holding.entries.get_mut(&discard.key) {
                    entry.sockets.retain(|(socket, _)| socket.listener_id != id);
                }
            }
        }
    }

    /// Takes over what the serve before has left; waits a while for it to go. It
    /// stays here, for the serve after this one.
    ///
    /// # Errors
    /// The serve before does not go.
    pub(super) async fn take(&self) -> Result<Vec<Left>, Failure> {
        let mut departures = self.keeper.departures.subscribe();
        let taken = timeout(HAND_OVER, async {
            loop {
                if let Some(left) = self.try_take() {
                    return left;
                }
                // The sender is the keeper's own.
                let _ = departures.changed().await;
            }
        });
        taken.await.map_err(|_| self.elsewhere())
    }

    fn try_take(&self) -> Option<Vec<Left>> {
        let mut state = self.keeper.lock();
        let holding = state.holdings.entry(self.name.clone()).or_default();
        if holding.owner.is_some_and(|owner| owner != self.id) {
            return None;
        }
        holding.owner = Some(self.id);
        holding.instance.clone_from(&self.instance);
        holding.expiry = None;
        // What the serve before did not finish was never told anybody.
        holding.entries.retain(|_, entry| entry.record.is_some());
        let left = holding.entries.iter().map(|(key, entry)| Left {
            key: key.clone(),
            sockets: entry.sockets.clone(),
            record: entry.record.clone().unwrap_or_default(),
            watched: entry.watched.clone(),
        });
        Some(left.collect())
    }

    /// Makes a holding this serve's: what another left, and this one did not
    /// take, is closed.
    fn own(&self, holding: &mut Holding) -> Result<(), Failure> {
        match holding.owner {
            Some(owner) if owner == self.id => Ok(()),
            Some(_) => Err(self.elsewhere()),
            None => {
                holding.owner = Some(self.id);
                holding.instance.clone_from(&self.instance);
                holding.expiry = None;
                holding.entries.clear();
                Ok(())
            }
        }
    }

    fn elsewhere(&self) -> Failure {
        Failure::new(
            Reason::PortInUse,
            format!(
                "another server with the socket {} is connected to the binder: stop it, then start this one",
                self.name.1
            ),
        )
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.keeper.left(&self.name, self.id);
    }
}

fn listens(descriptor: &OwnedFd) -> bool {
    let socket = SockRef::from(descriptor);
    let kind = socket.r#type().is_ok_and(|kind| kind == Type::STREAM);
    kind && socket.is_listener().unwrap_or(false)
}

fn full(flag: &str, most: u32) -> Failure {
    Failure::new(
        Reason::SessionLimit,
        format!("the binder keeps {most} for a restart, which is its limit ({flag})"),
    )
}
