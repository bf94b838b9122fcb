//! What the binder keeps for this process, as the connection's task knows it:
//! with copies of its own, so that it can be deposited again with another binder.

use super::link::{Link, Loss, send, send_packet};
use super::pending::Pending;
use super::{Change, New};
use crate::binder::channel::Channel;
use crate::binder::deposits::{Content, Refused, Standing};
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
    standing: watch::Sender<Standing>,
    /// What the binder does not keep, until it is closed. Of this the process has
    /// no copies, but for what is its own.
    refused: Refused,
    /// The last binder kept nothing.
    never: bool,
}

/// Whether it is a socket of this process's own, on which all sessions depend.
fn is_own(content: &Content) -> bool {
    content.watched.is_none()
}

impl Kept {
    pub(super) fn new(standing: watch::Sender<Standing>, refused: Refused) -> Self {
        Self {
            refused,
            deposits: BTreeMap::new(),
            again: VecDeque::new(),
            standing,
            never: false,
        }
    }

    /// A binder is connected and keeps what is left for so long.
    pub(super) fn connected(&mut self, grace: Duration) {
        self.never = grace.is_zero();
        self.again.clear();
        if self.never {
            let refused = &self.refused;
            self.deposits.retain(|key, content| {
                let stays = is_own(content);
                if !stays {
                    refused.add(key);
                }
                stays
            });
        } else {
            let (own, others): (Vec<_>, Vec<_>) = self
                .deposits
                .iter()
                .partition(|(_, content)| is_own(content));
            let keys = own.into_iter().chain(others).map(|(key, _)| key.clone());
            self.again.extend(keys);
        }
        self.standing
            .send_modify(|standing| standing.grace = Some(grace));
    }

    pub(super) fn lost(&mut self) {
        self.again.clear();
        self.tell_all(false);
    }

    /// Tells whether a binder is there and has everything, if it `answered` what it
    /// was told so far: what it did not read may be lost with the connection.
    pub(super) fn tell_all(&self, answered: bool) {
        let all = answered && !self.is_behind();
        self.standing
            .send_if_modified(|standing| std::mem::replace(&mut standing.has_all, all) != all);
    }

    /// Whether the binder that is connected keeps nothing.
    pub(super) fn keeps_nothing(&self) -> bool {
        self.never
    }

    /// Whether something is to be deposited again.
    pub(super) fn is_behind(&self) -> bool {
        !self.again.is_empty()
    }

    /// Remembers that the binder does not keep it. Whether that is news.
    fn refuse(&mut self, key: &str) -> bool {
        match self.deposits.get(key).map(is_own) {
            // It was closed meanwhile.
            None => return false,
            Some(true) => {}
            Some(false) => {
                self.deposits.remove(key);
            }
        }
        self.again.retain(|one| one != key);
        self.refused.add(key)
    }

    /// The binder keeps it.
    pub(super) fn kept(&self, key: &str) {
        if self.deposits.contains_key(key) {
            self.refused.remove(key);
        }
    }

    /// What is this process's own and is not kept: there may be room for it now.
    fn own_refused(&self) -> Vec<String> {
        let own = self.deposits.iter().filter(|(_, content)| is_own(content));
        let keys = own.map(|(key, _)| key);
        let refused = keys.filter(|key| self.refused.has(key) && !self.again.contains(key));
        refused.cloned().collect()
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
                new,
                sockets,
                record,
                reply,
            } => {
                self.add(&key, new, sockets, record);
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

    /// Where the new sockets of this key begin; none if there is nothing to add to.
    fn add(
        &mut self,
        key: &str,
        new: New,
        sockets: Vec<(Socket, OwnedFd)>,
        record: Option<Vec<u8>>,
    ) -> Option<usize> {
        if let New::Entry(watched) = new {
            let content = Content {
                watched,
                ..Content::default()
            };
            if self.never && !is_own(&content) {
                self.refused.add(key);
                return None;
            }
            self.deposits.insert(key.to_owned(), content);
        }
        let deposit = self.deposits.get_mut(key)?;
        let known = deposit.sockets.len();
        deposit.sockets.extend(sockets);
        if let Some(record) = record {
            deposit.record = record;
        }
        Some(known)
    }

    fn discard(&mut self, key: &str, listener_id: Option<u32>) {
        match listener_id {
            None => {
                self.deposits.remove(key);
                self.again.retain(|one| one != key);
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
                new,
                sockets,
                record,
                reply,
            } => {
                let from = self.kept.add(&key, new, sockets, record);
                let kept = &self.kept;
                let waits = kept.never || kept.refused.has(&key) || kept.again.contains(&key);
                match from.filter(|_| !waits) {
                    Some(from) => self.deposit(key, from, Some(reply), channel).await,
                    // Nothing is kept, or all of it goes there in a moment.
                    None => {
                        let _ = reply.send(Ok(()));
                        Ok(())
                    }
                }
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
                send(channel, id, ask::What::Discard(discard)).await?;
                self.try_own_again();
                Ok(())
            }
        }
    }

    /// Something is closed at the binder: what matters to all may have its place.
    fn try_own_again(&mut self) {
        let mut own = self.kept.own_refused();
        let asked = |key: &String| {
            let pending = self.pending.values();
            pending.filter_map(Pending::kept).any(|one| one == key)
        };
        own.retain(|key| !asked(key));
        self.kept.again.extend(own);
    }

    /// Deposits the next of what another binder kept.
    pub(super) async fn catch_up(&mut self, channel: &Channel) -> Result<(), Loss> {
        if let Some(key) = self.kept.again.pop_front() {
            self.deposit(key, 0, None, channel).await?;
        }
        Ok(())
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
        failure: Failure,
        reply: oneshot::Sender<Result<(), Failure>>,
        channel: &Channel,
    ) -> Result<(), Loss> {
        if self.kept.refuse(&key) {
            tracing::warn!(key, %failure, "not kept for a restart");
            metrics::not_kept();
        }
        let _ = reply.send(Err(failure));
        let (id, listener_id) = (self.next_id(), None);
        send(
            channel,
            id,
            ask::What::Discard(Discard { key, listener_id }),
        )
        .await
    }
}
