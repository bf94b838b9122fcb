//! The task that owns the connection to the binder.

use super::kept::Kept;
use super::pending::{Outcome, Pending};
use super::{Order, Own, unavailable};
use crate::binder::channel::{Channel, Packet};
use crate::binder::wire::{self, WireError, answer, ask};
use crate::metrics;
use crate::sandbox::Watched;
use crate::sentence::plain;
use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use sternline_api::Failure;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// First and longest pause before connecting again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Longest pause while no binder was there yet: it starts in a moment.
const EARLY: Duration = Duration::from_millis(800);

/// Requests that wait for an answer; further ones wait before they are asked.
/// Below the least that `--max-requests` of the binder takes.
pub(super) const MAX_PENDING: usize = 32;

/// How long greeting the binder may take, and how long a packet may wait for it
/// to read.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may say nothing when it is to keep something, which needs no time, or
/// when no more may wait for an answer: it is frozen, and what is to be kept is noted for the next connection.
const SILENCE: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Loss {
    #[error("{}", plain(.0))]
    Io(#[from] io::Error),
    #[error("it closed the connection")]
    Closed,
    #[error("it does not answer within {PATIENCE:?}")]
    Silent,
    #[error("it has said nothing for {SILENCE:?}")]
    Frozen,
    #[error("it broke the protocol: {0}")]
    Protocol(#[from] WireError),
    #[error("{0}")]
    Refused(String),
    #[error("it speaks version {0} of the protocol, this server version {version}: run both from one release", version = wire::VERSION)]
    Version(u32),
}

/// A sandbox that somebody waits for.
struct Watch {
    sandbox: Watched,
    news: Arc<watch::Sender<Option<String>>>,
}

/// Everything that outlives a connection.
pub(super) struct Link {
    path: PathBuf,
    orders: mpsc::Receiver<Order>,
    /// By the id of the request that began it, on every connection the same.
    watches: HashMap<u64, Watch>,
    /// Ends with the id of a watch that nobody waits for any more.
    unwanted: JoinSet<u64>,
    pub(super) pending: HashMap<u64, Pending>,
    next_id: u64,
    count: watch::Sender<usize>,
    own: Own,
    pub(super) kept: Kept,
    /// As the binder told last.
    turned_away: wire::TurnedAway,
}

impl Link {
    pub(super) fn new(
        path: PathBuf,
        own: Own,
        orders: mpsc::Receiver<Order>,
        count: watch::Sender<usize>,
        kept: Kept,
    ) -> Self {
        Self {
            own,
            kept,
            path,
            orders,
            watches: HashMap::new(),
            unwanted: JoinSet::new(),
            pending: HashMap::new(),
            next_id: 1,
            count,
            turned_away: wire::TurnedAway::default(),
        }
    }

    /// Keeps the connection until nobody can ask any more.
    pub(super) async fn run(mut self) {
        let mut pause = PAUSES.0;
        let mut longest = EARLY;
        let mut told = false;
        loop {
            let loss = match self.connect().await {
                Ok(channel) => {
                    tracing::info!(path = %self.path.display(), watched = self.watches.len(), "the binder is connected");
                    told = false;
                    longest = PAUSES.1;
                    let since = Instant::now();
                    let Err(loss) = self.talk(&channel).await else {
                        return;
                    };
                    // One that is lost again and again is not hurried.
                    if since.elapsed() > pause {
                        pause = PAUSES.0;
                    }
                    loss
                }
                Err(loss) => loss,
            };
            self.kept.lost();
            let failure = unavailable(&self.path, &loss.to_string());
            for (_, pending) in self.pending.drain() {
                pending.fail(failure.clone());
            }
            // Said once, not at every attempt.
            if !told {
                tracing::warn!(
                    watched = self.watches.len(),
                    "{failure}; sessions are kept, connecting again"
                );
            }
            told = true;
            if !self.wait(Instant::now() + pause, &failure).await {
                return;
            }
            pause = longest.min(pause * 2);
        }
    }

    /// Turns everyone away until then; false if nobody can ask any more.
    async fn wait(&mut self, until: Instant, failure: &Failure) -> bool {
        loop {
            tokio::select! {
                () = sleep_until(until) => return true,
                Some(id) = self.unwanted.join_next() => self.forget(id.ok()),
                order = self.orders.recv() => match order {
                    Some(order) => match Pending::new(order) {
                        Ok((pending, _)) => pending.fail(failure.clone()),
                        Err(change) => self.kept.note(change),
                    },
                    None => return false,
                },
            }
        }
    }

    /// Connects, greets, and has everything watched again.
    async fn connect(&mut self) -> Result<Channel, Loss> {
        let channel = Channel::connect(&self.path)?;
        let hello = wire::Hello {
            version: wire::VERSION,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            name: self.own.name.clone(),
            instance: self.own.instance.clone(),
            restart_grace_ms: 0,
        };
        send(&channel, 0, ask::What::Hello(hello)).await?;
        let first = timeout(PATIENCE, channel.receive()).await;
        let packet = first.map_err(|_| Loss::Silent)??.ok_or(Loss::Closed)?;
        match wire::decode_answer(&packet.bytes)? {
            (0, answer::What::Welcome(hello)) if hello.version == wire::VERSION => {
                let grace = Duration::from_millis(hello.restart_grace_ms);
                if grace.is_zero() && !self.own.name.is_empty() {
                    tracing::info!(
                        release = %hello.release.escape_debug(),
                        "the binder keeps nothing for a restart: its --restart-grace is 0s, or it is of a release that cannot"
                    );
                }
                self.kept.connected(grace);
            }
            (0, answer::What::Welcome(hello)) => return Err(Loss::Version(hello.version)),
            (0, answer::What::Failed(failed)) => {
                return Err(Loss::Refused(Failure::from(failed).message));
            }
            _ => return Err(WireError::Invalid("no welcome".to_owned()).into()),
        }
        for (id, watch) in &self.watches {
            send(&channel, *id, ask::What::Watch((&watch.sandbox).into())).await?;
        }
        Ok(channel)
    }

    /// Carries requests and answers until the connection is lost; ends without an
    /// error when nobody can ask any more.
    async fn talk(&mut self, channel: &Channel) -> Result<(), Loss> {
        // Since when it owes an answer that is waited for, and says nothing.
        let mut silent = None;
        loop {
            // Where nothing more can be asked, what is to be kept waits too.
            let is_full = self.pending.len() >= MAX_PENDING;
            let owes = is_full || self.pending.values().any(Pending::is_quick);
            self.kept.tell_all(!owes && self.orders.is_empty());
            silent = silent.filter(|_| owes).or(owes.then(Instant::now));
            let frozen = silent.map_or_else(Instant::now, |since| since + SILENCE);
            tokio::select! {
                packet = channel.receive() => {
                    silent = None;
                    let packet = packet?.ok_or(Loss::Closed)?;
                    self.heed(packet, channel).await?;
                }
                () = sleep_until(frozen), if silent.is_some() => return Err(Loss::Frozen),
                order = self.orders.recv(), if !is_full => match order {
                    Some(order) => self.carry_out(order, channel).await?,
                    None => return Ok(()),
                },
                () = std::future::ready(()), if self.kept.is_behind() && !is_full => {
                    self.catch_up(channel).await?;
                }
                Some(id) = self.unwanted.join_next() => {
                    if let Ok(id) = id {
                        send(channel, id, ask::What::Release(wire::Nothing {})).await?;
                    }
                    self.forget(id.ok());
                }
            }
        }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    async fn carry_out(&mut self, order: Order, channel: &Channel) -> Result<(), Loss> {
        let order = match order {
            // One that is older does not know the word.
            Order::Take(reply) if self.kept.keeps_nothing() => {
                let _ = reply.send(Ok(Vec::new()));
                return Ok(());
            }
            order => order,
        };
        let (pending, what) = match Pending::new(order) {
            Ok(asked) => asked,
            Err(change) => return self.change(change, channel).await,
        };
        // Who gave up while it waited wants nothing bound.
        if pending.is_unwanted() {
            return Ok(());
        }
        let id = self.next_id();
        let packet = wire::encode_ask(id, what);
        if packet.len() > wire::MAX_PACKET {
            pending.fail(unavailable(&self.path, "the request is too large for it"));
            return Ok(());
        }
        self.pending.insert(id, pending);
        send_packet(channel, &packet, &[]).await
    }

    async fn heed(&mut self, packet: Packet, channel: &Channel) -> Result<(), Loss> {
        let (id, what) = wire::decode_answer(&packet.bytes)?;
        if let answer::What::Gone(gone) = what {
            // Unknown if it was released a moment ago.
            if let Some(watch) = self.watches.remove(&id) {
                let sentence = wire::convert::sentence(gone.message);
                tracing::info!(sandbox = watch.sandbox.id, "{sentence}");
                self.count.send_replace(self.watches.len());
                watch.news.send_replace(Some(sentence));
            }
            return Ok(());
        }
        let Some(pending) = self.pending.remove(&id) else {
            return self.heed_again(id, what);
        };
        let outcome = pending.heed(what, packet.descriptors, packet.lost)?;
        match outcome {
            Outcome::More(pending) => {
                self.pending.insert(id, pending);
            }
            Outcome::Done => {}
            Outcome::TurnedAway(now) => {
                for (what, times) in now.since(&self.turned_away) {
                    metrics::binder_turned_away(what, times);
                }
                self.turned_away = now;
            }
            Outcome::Kept(key) => self.kept.kept(&key),
            Outcome::Watch(sandbox, news) => self.watch(id, sandbox, news),
            // What the binder still has for it is not wanted.
            Outcome::Release => send(channel, id, ask::What::Release(wire::Nothing {})).await?,
            Outcome::NotKept(key, failure, reply) => {
                self.not_kept(key, failure, reply, channel).await?;
            }
            Outcome::Taken(left, reply) => {
                let kept = left
                    .iter()
                    .try_for_each(|(key, one)| self.kept.took(key, one));
                let left = kept.map(|()| left).map_err(|_| super::pending::no_room());
                // Whoever asked is gone: so is this process, soon.
                let _ = reply.send(left);
            }
        }
        Ok(())
    }

    /// An answer to what this task asked by itself: to watch again.
    fn heed_again(&self, id: u64, what: answer::What) -> Result<(), Loss> {
        match (self.watches.get(&id), what) {
            (_, answer::What::Watching(_)) => Ok(()),
            // What this task closed, or deposited again, by itself.
            (None, answer::What::Kept(_)) => Ok(()),
            (Some(watch), answer::What::Failed(failed)) => Err(Loss::Refused(format!(
                "sandbox {} cannot be watched: {}",
                watch.sandbox.id,
                Failure::from(failed)
            ))),
            // Released a moment ago.
            (None, answer::What::Failed(_)) => Ok(()),
            (_, other) => {
                let message = format!("an answer to no request: {other:?}");
                let message = wire::convert::sentence(message);
                Err(WireError::Invalid(message).into())
            }
        }
    }

    fn watch(&mut self, id: u64, sandbox: Watched, news: watch::Sender<Option<String>>) {
        let news = Arc::new(news);
        let waiting = Arc::clone(&news);
        self.unwanted.spawn(async move {
            waiting.closed().await;
            id
        });
        self.watches.insert(id, Watch { sandbox, news });
        self.count.send_replace(self.watches.len());
    }

    fn forget(&mut self, id: Option<u64>) {
        if let Some(id) = id {
            self.watches.remove(&id);
            self.count.send_replace(self.watches.len());
        }
    }
}

pub(super) async fn send(channel: &Channel, id: u64, what: ask::What) -> Result<(), Loss> {
    send_packet(channel, &wire::encode_ask(id, what), &[]).await
}

pub(super) async fn send_packet(
    channel: &Channel,
    packet: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Loss> {
    let sent = timeout(PATIENCE, channel.send(packet, descriptors)).await;
    Ok(sent.map_err(|_| Loss::Silent)??)
}
