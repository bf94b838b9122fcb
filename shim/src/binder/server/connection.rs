//! One serve, as the binder sees it.

use super::Shared;
use super::keeper::{Guest, Left};
use crate::binder::channel::{Channel, Packet};
use crate::binder::wire::{self, WireError, answer, ask};
use crate::binder::{BindRequest, Gone, SandboxTarget};
use crate::limits::millis;
use crate::sandbox::Watched;
use crate::sentence::plain;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use sternline_api::{Failure, Reason};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// How long the first packet may take.
const HELLO: Duration = Duration::from_secs(5);

/// How long an answer may wait for a serve that does not read.
const SEND: Duration = Duration::from_secs(5);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("it closed the connection")]
    Closed,
    #[error("it said nothing within {HELLO:?}")]
    Silent,
    #[error("it reads nothing")]
    Deaf,
    #[error("it speaks version {0} of the protocol, this binder version {version}: run both from one release", version = wire::VERSION)]
    Version(u32),
    #[error("it broke the protocol: {0}")]
    Protocol(#[from] WireError),
    #[error("the connection broke: {}", plain(.0))]
    Broken(#[from] io::Error),
}

/// A connection that was let in.
pub(super) struct Connection {
    link: Arc<Link>,
    room: Arc<Semaphore>,
    /// Everything under way, by the id of its request: what serve releases is
    /// aborted, what is left ends with the connection.
    running: HashMap<u64, AbortHandle>,
    tasks: JoinSet<Result<(), End>>,
    uid: u32,
    /// Has things kept, if the other end wants that and the binder does it.
    guest: Option<Arc<Guest>>,
}

struct Link {
    channel: Channel,
    shared: Arc<Shared>,
}

impl Connection {
    pub(super) fn new(channel: Channel, uid: u32, shared: Arc<Shared>) -> Self {
        Self {
            room: Arc::new(Semaphore::new(shared.limits.requests as usize)),
            link: Arc::new(Link { channel, shared }),
            running: HashMap::new(),
            tasks: JoinSet::new(),
            uid,
            guest: None,
        }
    }

    /// Serves until the connection ends, for the reason returned.
    pub(super) async fn run(mut self) -> End {
        if let Err(end) = self.greet().await {
            return end;
        }
        loop {
            let ended = tokio::select! {
                packet = self.link.channel.receive() => match packet {
                    Ok(Some(packet)) => self.obey(packet).await,
                    Ok(None) => Err(End::Closed),
                    Err(error) => Err(error.into()),
                },
                Some(done) = self.tasks.join_next() => {
                    self.running.retain(|_, task| !task.is_finished());
                    // Aborted ones have nothing to say.
                    done.unwrap_or(Ok(()))
                }
            };
            if let Err(end) = ended {
                return end;
            }
        }
    }

    async fn greet(&mut self) -> Result<(), End> {
        let first = timeout(HELLO, self.link.channel.receive()).await;
        let packet = first.map_err(|_| End::Silent)??.ok_or(End::Closed)?;
        let (id, what) = read(&packet)?;
        let ask::What::Hello(hello) = what else {
            return Err(WireError::Invalid("no greeting".to_owned()).into());
        };
        if hello.version != wire::VERSION {
            let end = End::Version(hello.version);
            let failure = Failure::new(Reason::RuntimeUnavailable, format!("serve: {end}"));
            self.link
                .answer(id, answer::What::Failed(failure.into()))
                .await?;
            return Err(end);
        }
        hello.checked()?;
        let keeper = &self.link.shared.keeper;
        self.guest = keeper.enter(self.uid, &hello).map(Arc::new);
        let welcome = wire::Hello {
            version: wire::VERSION,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            restart_grace_ms: millis(keeper.grace()),
            ..wire::Hello::default()
        };
        self.link.answer(id, answer::What::Welcome(welcome)).await
    }

    async fn obey(&mut self, packet: Packet) -> Result<(), End> {
        let (id, what) = read(&packet)?;
        let what = match what {
            ask::What::Keep(keep) => return self.keep(id, keep, packet).await,
            ask::What::Discard(discard) => {
                discard.checked()?;
                if let Some(guest) = &self.guest {
                    guest.discard(&discard);
                }
                return self
                    .link
                    .answer(id, answer::What::Kept(wire::Nothing {}))
                    .await;
            }
            ask::What::Release(_) => {
                // Unknown if its last word is on the way.
                if let Some(task) = self.running.remove(&id) {
                    task.abort();
                }
                return Ok(());
            }
            ask::What::Hello(_) => {
                return Err(WireError::Invalid("a second greeting".to_owned()).into());
            }
            what if self.running.contains_key(&id) => {
                drop(what);
                return Err(WireError::Invalid(format!("request {id} is there twice")).into());
            }
            what => what,
        };
        let limits = self.link.shared.limits;
        let refusals = &self.link.shared.refusals;
        if self.running.len() >= (limits.watches + limits.requests) as usize {
            let so_far = refusals.watches.fetch_add(1, Relaxed) + 1;
            tracing::warn!(
                most = limits.watches,
                so_far,
                "a request was refused (--max-watches)"
            );
            return self.refuse(
                id,
                "has as many sandboxes watched as it may (--max-watches): end other sessions",
            );
        }
        let link = Arc::clone(&self.link);
        // It takes no time, and a serve that lost its binder asks for all at once.
        if let ask::What::Watch(watch) = what {
            let watched = Watched::try_from(watch)?;
            let task = self.tasks.spawn(link.watch(id, watched));
            self.running.insert(id, task);
            return Ok(());
        }
        let Ok(place) = Arc::clone(&self.room).try_acquire_owned() else {
            let so_far = refusals.requests.fetch_add(1, Relaxed) + 1;
            tracing::warn!(
                most = limits.requests,
                so_far,
                "a request was refused (--max-requests)"
            );
            return self.refuse(
                id,
                "has as many requests under way as it may (--max-requests): try again in a moment",
            );
        };
        let task = match what {
            ask::What::Bind(bind) => {
                let request = BindRequest::try_from(bind)?;
                self.tasks.spawn(link.bind(id, request, place))
            }
            ask::What::Find(target) => self.tasks.spawn(link.find(id, target.into(), place)),
            ask::What::Status(_) => self.tasks.spawn(link.status(id, place)),
            ask::What::Take(_) => {
                let guest = self.guest.as_ref().map(Arc::clone);
                self.tasks.spawn(link.take(id, guest, place))
            }
            ask::What::Hello(_)
            | ask::What::Release(_)
            | ask::What::Watch(_)
            | ask::What::Keep(_)
            | ask::What::Discard(_) => return Ok(()),
        };
        self.running.insert(id, task);
        Ok(())
    }

    /// Done before the next packet is read: what serve asks for next may be about
    /// the same sockets.
    async fn keep(&self, id: u64, keep: wire::Keep, packet: Packet) -> Result<(), End> {
        let kept = if packet.lost {
            let message = "the binder has no file descriptor left to keep anything with";
            Err(Failure::new(Reason::DescriptorLimit, message))
        } else {
            let watched = keep.checked(packet.descriptors.len())?;
            let more = keep.more;
            let none = || Failure::new(Reason::InvalidRequest, "this binder keeps nothing");
            let guest = self.guest.as_ref().ok_or_else(none);
            let refusals = &self.link.shared.refusals;
            let kept =
                guest.and_then(|guest| guest.keep(keep, watched, packet.descriptors, refusals));
            if kept.is_ok() && more {
                return Ok(());
            }
            kept
        };
        let what = match kept {
            Ok(()) => answer::What::Kept(wire::Nothing {}),
            Err(failure) => answer::What::Failed(failure.into()),
        };
        self.link.answer(id, what).await
    }

    /// Answers at once: a serve that floods must not make us wait for it.
    fn refuse(&self, id: u64, sentence: &str) -> Result<(), End> {
        let failure = Failure::new(Reason::SessionLimit, format!("the binder {sentence}"));
        let packet = wire::encode_answer(id, answer::What::Failed(failure.into()));
        match self.link.channel.try_send(&packet) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(End::Deaf),
            sent => Ok(sent?),
        }
    }
}

/// Reads a packet. Descriptors come to be kept and for nothing else: any others
/// end the connection, and are closed with the packet.
fn read(packet: &Packet) -> Result<(u64, ask::What), WireError> {
    let (id, what) = wire::decode_ask(&packet.bytes)?;
    let bare = !packet.lost && packet.descriptors.is_empty();
    if !bare && !matches!(what, ask::What::Keep(_)) {
        return Err(WireError::Invalid(
            "descriptors that nobody asked for".to_owned(),
        ));
    }
    Ok((id, what))
}

impl Link {
    async fn bind(
        self: Arc<Self>,
        id: u64,
        request: BindRequest,
        place: OwnedSemaphorePermit,
    ) -> Result<(), End> {
        let bound = match self.shared.binder.bind(request).await {
            Ok(bound) => bound,
            Err(failure) => return self.answer(id, answer::What::Failed(failure.into())).await,
        };
        let (parts, last) = wire::Bound::split(&bound, wire::MAX_DESCRIPTORS);
        let mut sockets = bound.sockets.iter();
        for part in parts {
            let some = sockets.by_ref().take(part.sockets.len());
            let descriptors: Vec<BorrowedFd<'_>> = some.map(|one| one.socket.as_fd()).collect();
            let packet = wire::encode_answer(id, answer::What::Bound(part));
            self.send(&packet, &descriptors).await?;
        }
        tracing::debug!(
            sandbox = bound.sandbox.id,
            sockets = bound.sockets.len(),
            "handed over"
        );
        let gone = bound.gone;
        // From here on they are serve's alone: what it closes is free.
        drop(bound.sockets);
        self.answer(id, answer::What::Bound(last)).await?;
        drop(place);
        self.tell_gone(id, gone).await
    }

    async fn watch(self: Arc<Self>, id: u64, watched: Watched) -> Result<(), End> {
        match self.shared.binder.watch(watched).await {
            Ok(gone) => {
                self.answer(id, answer::What::Watching(wire::Nothing {}))
                    .await?;
                self.tell_gone(id, gone).await
            }
            Err(failure) => self.answer(id, answer::What::Failed(failure.into())).await,
        }
    }

    async fn tell_gone(&self, id: u64, mut gone: Gone) -> Result<(), End> {
        let message = wire::convert::sentence(gone.wait().await);
        self.answer(id, answer::What::Gone(wire::Gone { message }))
            .await
    }

    async fn find(
        self: Arc<Self>,
        id: u64,
        target: SandboxTarget,
        _place: OwnedSemaphorePermit,
    ) -> Result<(), End> {
        let what = match self.shared.binder.find(&target).await {
            Ok(sandbox) => answer::What::Found((&sandbox).into()),
            Err(failure) => answer::What::Failed(failure.into()),
        };
        self.answer(id, what).await
    }

    async fn take(
        self: Arc<Self>,
        id: u64,
        guest: Option<Arc<Guest>>,
        _place: OwnedSemaphorePermit,
    ) -> Result<(), End> {
        let taken = match &guest {
            Some(guest) => guest.take().await,
            None => Ok(Vec::new()),
        };
        let left = match taken {
            Ok(left) => left,
            Err(failure) => return self.answer(id, answer::What::Failed(failure.into())).await,
        };
        tracing::info!(
            kept = left.len(),
            "handed over what the serve before has left"
        );
        for one in left {
            self.hand_over(id, one).await?;
        }
        let last = wire::Taken::default();
        self.answer(id, answer::What::Taken(last)).await
    }

    async fn hand_over(&self, id: u64, left: Left) -> Result<(), End> {
        let mut rest = left.sockets.as_slice();
        loop {
            let (some, others) = rest.split_at(rest.len().min(wire::MAX_DESCRIPTORS));
            let last = others.is_empty();
            let part = wire::Taken {
                key: left.key.clone(),
                sockets: some.iter().map(|(socket, _)| socket.clone()).collect(),
                record: last.then(|| left.record.clone()),
                sandbox: left.watched.as_ref().map(Into::into),
                more: true,
            };
            let descriptors: Vec<BorrowedFd<'_>> = some.iter().map(|(_, fd)| fd.as_fd()).collect();
            let packet = wire::encode_answer(id, answer::What::Taken(part));
            self.send(&packet, &descriptors).await?;
            if last {
                return Ok(());
            }
            rest = others;
        }
    }

    async fn status(self: Arc<Self>, id: u64, _place: OwnedSemaphorePermit) -> Result<(), End> {
        let status = self.shared.binder.status().await;
        let status = wire::Status {
            turned_away: Some(self.shared.refusals.so_far()),
            ..status.into()
        };
        self.answer(id, answer::What::Status(status)).await
    }

    async fn answer(&self, id: u64, what: answer::What) -> Result<(), End> {
        self.send(&wire::encode_answer(id, what), &[]).await
    }

    async fn send(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), End> {
        let sent = timeout(SEND, self.channel.send(packet, descriptors)).await;
        Ok(sent.map_err(|_| End::Deaf)??)
    }
}
