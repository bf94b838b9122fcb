//! One connected serve, and what it may do with what is kept.

use super::{Entry, Holding, Keeper, Name};
use crate::binder::server::Refusals;
use crate::binder::wire::{self, Socket};
use crate::sandbox::Watched;
use socket2::{SockRef, Type};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use sternline_api::{Failure, Reason};
use tokio::time::timeout;

/// How long a serve that comes waits for the one before to go.
const HAND_OVER: Duration = Duration::from_secs(5);

/// A connected serve. Dropped, it leaves behind what it has here.
pub(in crate::binder::server) struct Guest {
    pub(super) keeper: Arc<Keeper>,
    pub(super) id: u64,
    pub(super) name: Name,
    pub(super) instance: String,
}

/// What was kept under one key.
pub(in crate::binder::server) struct Left {
    pub(in crate::binder::server) key: String,
    pub(in crate::binder::server) sockets: Vec<(Socket, Arc<OwnedFd>)>,
    pub(in crate::binder::server) record: Vec<u8>,
    pub(in crate::binder::server) watched: Option<Watched>,
}

impl Guest {
    /// Keeps what was checked.
    ///
    /// # Errors
    /// A limit, a descriptor that is no listening socket, or another serve.
    pub(in crate::binder::server) fn keep(
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
        holding.until = None;
        Ok(())
    }

    /// Closes a part of what is kept. What is not there is closed already.
    pub(in crate::binder::server) fn discard(&self, discard: &wire::Discard) {
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
    pub(in crate::binder::server) async fn take(&self) -> Result<Vec<Left>, Failure> {
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
        holding.own(self.id, &self.instance);
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
                holding.own(self.id, &self.instance);
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
