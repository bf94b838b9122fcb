//! What the binder keeps for this process, as the connection's task knows it:
//! with copies of its own, so that it can be deposited again with another binder.

use super::Change;
use super::link::{Link, Loss, send, send_packet};
use super::pending::Pending;
use crate::binder::channel::Channel;
use crate::binder::deposits::{Content, Refused};
use crate::binder::wire::{self, Discard, Keep, Socket, ask};
use crate::metrics;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;
use sternline_api::Failure;
use tokio::sync::{oneshot, watch};

/// What is deposited, and what is not yet with the binder that is connected.
pub(super) struct Kept {
    deposits: BTreeMap<String, Content>,
    again: VecDeque<String>,
    /// How long the binder keeps things; none while it is not connected.
    grace: watch::Sender<Option<Duration>>,
    /// What the binder does not keep, until it is closed.
    refused: Refused,
    /// The last binder kept nothing.
    never: bool,
}

impl Kept {
    pub(super) fn new(grace: watch::Sender<Option<Duration>>, refused: Refused) -> Self {
        Self {
            refused,
            deposits: BTreeMap::new(),
            again: VecDeque::new(),
            grace,
            never: false,
        }
    }

    /// A binder is connected and keeps what is left for so long.
    pub(super) fn connected(&mut self, grace: Duration) {
        self.never = grace.is_zero();
        if self.never {
            self.deposits.clear();
        }
        self.again = self.deposits.keys().cloned().collect();
        self.grace.send_replace(Some(grace));
    }

    pub(super) fn lost(&mut self) {
        self.again.clear();
        self.grace.send_replace(None);
    }

    /// Whether something is to be deposited again.
    pub(super) fn is_behind(&self) -> bool {
        !self.again.is_empty()
    }

    /// Forgets what is not kept.
    pub(super) fn forget(&mut self, key: &str) {
        self.deposits.remove(key);
        self.again.retain(|one| one != key);
    }

    /// Remembers what came from the binder itself.
    pub(super) fn took(&mut self, key: &str, content: &Content) -> std::io::Result<()> {
        let copy = |(socket, fd): &(Socket, OwnedFd)| Ok((socket.clone(), fd.try_clone()?));
        let sockets: std::io::Result<Vec<_>> = content.sockets.iter().map(copy).collect();
        let content = Content {
            sockets: sockets?,
            record: content.record.clone(),
            watched: content.watched.clone(),
        };
        self.deposits.insert(key.to_owned(), content);
        Ok(())
    }

    /// Makes a change without a binder: it is told when there is one.
    pub(super) fn note(&mut self, change: Change) {
        match change {
            Change::Keep {
                key,
                sockets,
                record,
                watched,
                reply,
            } => {
                self.add(&key, sockets, record, watched);
                let _ = reply.send(Ok(()));
            }
            Change::Discard {
                key,
                listener_id,
                reply,
            } => {
                self.discard(&key, listener_id);
                let _ = reply.send(());
            }
        }
    }

    /// Where the new sockets of this key begin.
    fn add(
        &mut self,
        key: &str,
        sockets: Vec<(Socket, OwnedFd)>,
        record: Option<Vec<u8>>,
        watched: Option<crate::sandbox::Watched>,
    ) -> usize {
        if self.never || self.refused.has(key) {
            return 0;
        }
        let deposit = self.deposits.entry(key.to_owned()).or_default();
        let known = deposit.sockets.len();
        deposit.sockets.extend(sockets);
        if let Some(record) = record {
            deposit.record = record;
        }
        if watched.is_some() {
            deposit.watched = watched;
        }
        known
    }

    fn discard(&mut self, key: &str, listener_id: Option<u32>) {
        match listener_id {
            None => {
                self.forget(key);
                self.refused.remove(key);
            }
            Some(id) => {
                if let Some(deposit) = self.deposits.get_mut(key) {
                    deposit
                        .sockets
                        .retain(|(socket, _)| socket.listener_id != id);
                }
            }
        }
    }

    /// The packets of a deposit, from a socket on, and the descriptors that go
    /// with each.
    fn packets(&self, id: u64, key: &str, from: usize) -> Vec<(Vec<u8>, Vec<BorrowedFd<'_>>)> {
        let Some(deposit) = self.deposits.get(key) else {
            return Vec::new();
        };
        let mut rest = deposit.sockets.get(from..).unwrap_or_default();
        let mut packets = Vec::new();
        loop {
            let (some, others) = rest.split_at(rest.len().min(wire::MAX_DESCRIPTORS));
            let last = others.is_empty();
            let keep = Keep {
                key: key.to_owned(),
                sockets: some.iter().map(|(socket, _)| socket.clone()).collect(),
                record: last.then(|| deposit.record.clone()),
                sandbox: deposit.watched.as_ref().map(Into::into),
                more: !last,
            };
            let packet = wire::encode_ask(id, ask::What::Keep(keep));
            packets.push((packet, some.iter().map(|(_, fd)| fd.as_fd()).collect()));
            if last {
                return packets;
            }
            rest = others;
        }
    }
}

impl Link {
    /// Makes a change, here and with the binder that is connected.
    pub(super) async fn change(&mut self, change: Change, channel: &Channel) -> Result<(), Loss> {
        match change {
            Change::Keep {
                key,
                sockets,
                record,
                watched,
                reply,
            } => {
                let from = self.kept.add(&key, sockets, record, watched);
                let kept = &self.kept;
                if kept.never || kept.refused.has(&key) || kept.again.contains(&key) {
                    // Nothing is kept, or all of it goes there in a moment.
                    let _ = reply.send(Ok(()));
                    return Ok(());
                }
                self.deposit(key, from, Some(reply), channel).await
            }
            Change::Discard {
                key,
                listener_id,
                reply,
            } => {
                self.kept.discard(&key, listener_id);
                if self.kept.never {
                    let _ = reply.send(());
                    return Ok(());
                }
                let id = self.next_id();
                self.pending.insert(id, Pending::Discard(reply));
                let discard = Discard { key, listener_id };
                send(channel, id, ask::What::Discard(discard)).await
            }
        }
    }

    /// Deposits the next of what another binder kept.
    pub(super) async fn catch_up(&mut self, channel: &Channel) -> Result<(), Loss> {
        match self.kept.again.pop_front() {
            Some(key) => self.deposit(key, 0, None, channel).await,
            None => Ok(()),
        }
    }

    async fn deposit(
        &mut self,
        key: String,
        from: usize,
        reply: Option<oneshot::Sender<Result<(), Failure>>>,
        channel: &Channel,
    ) -> Result<(), Loss> {
        let id = self.next_id();
        let reply = reply.unwrap_or_else(|| oneshot::channel().0);
        self.pending.insert(id, Pending::Keep(key.clone(), reply));
        for (packet, descriptors) in self.kept.packets(id, &key, from) {
            send_packet(channel, &packet, &descriptors).await?;
        }
        Ok(())
    }

    /// The binder does not keep it: what it has of it is closed.
    pub(super) async fn not_kept(
        &mut self,
        key: String,
        failure: &Failure,
        channel: &Channel,
    ) -> Result<(), Loss> {
        self.kept.forget(&key);
        if self.kept.refused.add(&key) {
            tracing::warn!(key, %failure, "not kept for a restart");
            metrics::not_kept();
        }
        let (id, listener_id) = (self.next_id(), None);
        send(
            channel,
            id,
            ask::What::Discard(Discard { key, listener_id }),
        )
        .await
    }
}
