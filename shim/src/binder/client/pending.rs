//! Requests that wait for the binder's answer, and what is believed of it.

use super::{Change, Order};
use crate::binder::deposits::Content;
use crate::binder::wire::{self, WireError, answer, ask};
use crate::binder::{BinderStatus, Bound, BoundSocket, Gone, Sandbox};
use crate::netns::NamespaceId;
use crate::sandbox::Watched;
use crate::sentence::plain;
use socket2::{Protocol, SockRef, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use sternline_api::listen::Listen;
use sternline_api::{Failure, Reason};
use tokio::sync::{oneshot, watch};

type News = watch::Sender<Option<String>>;

/// One request, by what it asks.
pub(super) enum Pending {
    Bind(Box<Binding>),
    Find(oneshot::Sender<Result<Sandbox, Failure>>),
    Watch(Watched, oneshot::Sender<Result<Gone, Failure>>),
    Status(oneshot::Sender<Result<BinderStatus, Failure>>),
    /// A bind that this process has no room for. What comes of it is closed, and
    /// it is refused when the binder has closed it too.
    NoRoom(oneshot::Sender<Result<Bound, Failure>>),
    /// Something is being deposited under this key.
    Keep(String, oneshot::Sender<Result<(), Failure>>),
    Discard(oneshot::Sender<()>),
    Take(Taking),
}

/// What the serve before has left, as it arrives.
pub(super) struct Taking {
    reply: oneshot::Sender<Result<Vec<(String, Content)>, Failure>>,
    left: Vec<(String, Content)>,
    /// Descriptors were lost on the way.
    no_room: bool,
}

/// A bind whose sockets are arriving.
pub(super) struct Binding {
    asked: Vec<Listen>,
    reply: oneshot::Sender<Result<Bound, Failure>>,
    sockets: Vec<BoundSocket>,
}

/// What an answer led to.
pub(super) enum Outcome {
    /// More of it is to come.
    More(Pending),
    Done,
    /// The binder tells how often it turned something away.
    TurnedAway(wire::TurnedAway),
    /// The binder watches this, for the receivers of the sender.
    Watch(Watched, News),
    /// The binder has something for it that nobody wants.
    Release,
    /// The binder keeps what was deposited under this key.
    Kept(String),
    /// The binder does not keep what was deposited under this key; whoever asked
    /// is told when that is known here.
    NotKept(String, Failure, oneshot::Sender<Result<(), Failure>>),
    /// All that was left, for whoever asked.
    Taken(
        Vec<(String, Content)>,
        oneshot::Sender<Result<Vec<(String, Content)>, Failure>>,
    ),
}

impl Pending {
    /// What waits for an order's answer, and what the binder is asked.
    ///
    /// # Errors
    /// A change of what is deposited: there is more to that than asking.
    pub(super) fn new(order: Order) -> Result<(Self, ask::What), Change> {
        Ok(match order {
            Order::Bind(request, reply) => {
                let what = ask::What::Bind((&request).into());
                let binding = Binding {
                    asked: request.listeners,
                    reply,
                    sockets: Vec::new(),
                };
                (Self::Bind(Box::new(binding)), what)
            }
            Order::Find(target, reply) => (Self::Find(reply), ask::What::Find((&target).into())),
            Order::Watch(sandbox, reply) => {
                let what = ask::What::Watch((&sandbox).into());
                (Self::Watch(sandbox, reply), what)
            }
            Order::Status(reply) => (Self::Status(reply), ask::What::Status(wire::Nothing {})),
            Order::Take(reply) => {
                let taking = Taking {
                    reply,
                    left: Vec::new(),
                    no_room: false,
                };
                (Self::Take(taking), ask::What::Take(wire::Nothing {}))
            }
            Order::Deposit(change) => return Err(change),
        })
    }

    /// Whether whoever asked is gone.
    pub(super) fn is_unwanted(&self) -> bool {
        match self {
            Self::Bind(binding) => binding.reply.is_closed(),
            Self::Find(reply) => reply.is_closed(),
            Self::Watch(_, reply) => reply.is_closed(),
            Self::Status(reply) => reply.is_closed(),
            Self::NoRoom(reply) => reply.is_closed(),
            Self::Keep(_, reply) => reply.is_closed(),
            Self::Discard(reply) => reply.is_closed(),
            Self::Take(taking) => taking.reply.is_closed(),
        }
    }

    /// Whether the binder answers it without doing anything else before.
    pub(super) fn is_quick(&self) -> bool {
        matches!(self, Self::Keep(..) | Self::Discard(_))
    }

    /// The key under which this is being deposited, if it is.
    pub(super) fn kept(&self) -> Option<&str> {
        match self {
            Self::Keep(key, _) => Some(key),
            _ => None,
        }
    }

    /// Answers with a failure; whoever asked may be gone.
    pub(super) fn fail(self, failure: Failure) {
        match self {
            Self::Bind(binding) => drop(binding.reply.send(Err(failure))),
            Self::Find(reply) => drop(reply.send(Err(failure))),
            Self::Watch(_, reply) => drop(reply.send(Err(failure))),
            Self::Status(reply) => drop(reply.send(Err(failure))),
            Self::NoRoom(reply) => drop(reply.send(Err(failure))),
            // It is deposited again with the next connection.
            Self::Keep(_, reply) => drop(reply.send(Ok(()))),
            // What a binder that is gone had is closed.
            Self::Discard(reply) => {
                let _ = reply.send(());
            }
            Self::Take(taking) => drop(taking.reply.send(Err(failure))),
        }
    }

    /// Takes an answer in.
    ///
    /// # Errors
    /// It is none to this request, or not true: the binder is not to be trusted
    /// any further.
    pub(super) fn heed(
        self,
        what: answer::What,
        descriptors: Vec<OwnedFd>,
        lost: bool,
    ) -> Result<Outcome, WireError> {
        let may_carry = matches!(what, answer::What::Bound(_) | answer::What::Taken(_));
        if !may_carry && (lost || !descriptors.is_empty()) {
            return Err(invalid("descriptors that nobody asked for"));
        }
        match (self, what) {
            (Self::Keep(key, reply), answer::What::Failed(failed)) => {
                Ok(Outcome::NotKept(key, failed.into(), reply))
            }
            (Self::Keep(key, reply), answer::What::Kept(_)) => {
                drop(reply.send(Ok(())));
                Ok(Outcome::Kept(key))
            }
            (Self::Discard(reply), answer::What::Kept(_)) => {
                let _ = reply.send(());
                Ok(Outcome::Done)
            }
            (Self::Take(taking), answer::What::Taken(part)) => taking.heed(part, descriptors, lost),
            (pending, answer::What::Failed(failed)) => {
                pending.fail(failed.into());
                Ok(Outcome::Done)
            }
            (Self::Bind(binding), answer::What::Bound(bound)) if lost => {
                let none = Self::NoRoom(binding.reply);
                none.heed(answer::What::Bound(bound), descriptors, lost)
            }
            (Self::NoRoom(reply), answer::What::Bound(bound)) if bound.more => {
                Ok(Outcome::More(Self::NoRoom(reply)))
            }
            (pending @ Self::NoRoom(_), answer::What::Bound(_)) => {
                pending.fail(no_room());
                Ok(Outcome::Release)
            }
            (Self::Bind(binding), answer::What::Bound(bound)) => binding.heed(bound, descriptors),
            (Self::Find(reply), answer::What::Found(sandbox)) => {
                drop(reply.send(Ok(sandbox.into())));
                Ok(Outcome::Done)
            }
            (Self::Status(reply), answer::What::Status(status)) => {
                let told = status.turned_away.map(Outcome::TurnedAway);
                drop(reply.send(Ok(status.into())));
                Ok(told.unwrap_or(Outcome::Done))
            }
            (Self::Watch(sandbox, reply), answer::What::Watching(_)) => {
                let (news, gone) = Gone::channel();
                drop(reply.send(Ok(gone)));
                Ok(Outcome::Watch(sandbox, news))
            }
            (_, _) => Err(invalid("an answer to another question")),
        }
    }
}

impl Binding {
    fn heed(
        mut self: Box<Self>,
        bound: wire::Bound,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Outcome, WireError> {
        if descriptors.len() != bound.sockets.len() {
            return Err(invalid("another number of descriptors than of sockets"));
        }
        for (told, descriptor) in bound.sockets.iter().zip(descriptors) {
            let (listener_id, addr) = told.belongs(&self.asked)?;
            if self
                .sockets
                .iter()
                .any(|other| other.listener_id == listener_id && other.addr == addr)
            {
                return Err(invalid("a socket that is there twice"));
            }
            let socket = listening(descriptor, addr)?;
            self.sockets.push(BoundSocket {
                listener_id,
                addr,
                socket,
            });
        }
        if bound.more && bound.sockets.is_empty() {
            return Err(invalid("a part of nothing"));
        }
        if bound.more {
            return Ok(Outcome::More(Pending::Bind(self)));
        }
        let has = |listen: &Listen| self.sockets.iter().any(|one| one.listener_id == listen.id);
        if !self.asked.iter().all(has) {
            return Err(invalid("a bind of less than was asked for"));
        }
        let (Some(sandbox), Some(namespace)) = (bound.sandbox, bound.namespace) else {
            return Err(invalid("a bind nowhere"));
        };
        let namespace = NamespaceId::from(namespace);
        let watched = Watched {
            id: sandbox.id.clone(),
            namespace,
        };
        let (news, gone) = Gone::channel();
        // If nobody takes it any more, its sockets are closed here, and the watch
        // ends because nobody waits for it.
        drop(self.reply.send(Ok(Bound {
            sandbox: sandbox.into(),
            namespace,
            sockets: self.sockets,
            gone,
        })));
        Ok(Outcome::Watch(watched, news))
    }
}

impl Taking {
    fn heed(
        mut self,
        part: wire::Taken,
        descriptors: Vec<OwnedFd>,
        lost: bool,
    ) -> Result<Outcome, WireError> {
        self.no_room |= lost;
        if self.no_room {
            if part.more {
                return Ok(Outcome::More(Pending::Take(self)));
            }
            drop(self.reply.send(Err(no_room())));
            return Ok(Outcome::Done);
        }
        let watched = part.checked(descriptors.len())?;
        if !part.more {
            return Ok(Outcome::Taken(self.left, self.reply));
        }
        if self.left.last().is_none_or(|(key, _)| *key != part.key) {
            self.left.push((part.key, Content::default()));
        }
        if let Some((_, content)) = self.left.last_mut() {
            content
                .sockets
                .extend(part.sockets.into_iter().zip(descriptors));
            content.record = part.record.unwrap_or_default();
            content.watched = watched;
        }
        Ok(Outcome::More(Pending::Take(self)))
    }
}

pub(super) fn no_room() -> Failure {
    Failure::new(
        Reason::DescriptorLimit,
        "no file descriptor is left for what the binder bound: end other sessions, or raise the server's limit",
    )
}

/// Believes a descriptor to be what was told: a TCP socket that listens there.
///
/// # Errors
/// It is something else.
pub(crate) fn listening(descriptor: OwnedFd, told: SocketAddr) -> Result<TcpListener, WireError> {
    let socket = SockRef::from(&descriptor);
    let is_so = || -> io::Result<bool> {
        Ok(socket.r#type()? == Type::STREAM
            && socket.protocol()? == Some(Protocol::TCP)
            && socket.is_listener()?
            && socket.local_addr()?.as_socket() == Some(told))
    };
    if !is_so().unwrap_or(false) {
        return Err(invalid(format!(
            "a descriptor that is no socket listening on {told}"
        )));
    }
    let listener = TcpListener::from(descriptor);
    listener.set_nonblocking(true).map_err(|error| {
        let why = plain(&error);
        invalid(format!("a socket on {told} that cannot be used: {why}"))
    })?;
    Ok(listener)
}

fn invalid(message: impl Into<String>) -> WireError {
    WireError::Invalid(message.into())
}
