//! The listeners of a session, and the client's wishes to change them.

use super::{Actor, Turn};
use crate::binder::{BindRequest, Bound, BoundSocket};
use crate::session::accept::Forwarder;
use std::fmt;
use std::net::SocketAddr;
use sternline_api::listen::Listen;
use sternline_api::v1alpha1::{self as pb, control_message::Event};
use sternline_api::{Failure, Reason};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Listeners that may be on their way at once.
const MAX_PENDING: usize = 8;

/// One socket that listens.
#[derive(Debug)]
struct Open {
    listener_id: u32,
    addr: SocketAddr,
    stop: CancellationToken,
}

/// Everything that listens for a session.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    open: Vec<Open>,
    /// Ids that are being bound.
    pending: Vec<u32>,
}

/// A listener that the binder made, or not, at the client's wish.
pub(super) struct Change {
    request_id: u32,
    listener_id: u32,
    bound: Result<Bound, Failure>,
}

impl Listeners {
    /// Starts to accept on sockets that the binder made.
    pub(super) fn open(
        &mut self,
        sockets: Vec<BoundSocket>,
        forwarder: &Forwarder,
    ) -> Result<Vec<pb::Bound>, Failure> {
        let mut made = Vec::with_capacity(sockets.len());
        for bound in sockets {
            let listener = TcpListener::from_std(bound.socket).map_err(|error| {
                Failure::new(
                    Reason::Internal,
                    format!("{}: the bound socket cannot be used: {error}", bound.addr),
                )
            })?;
            let stop = forwarder.ended.child_token();
            forwarder.tasks.spawn(forwarder.clone().accept(
                listener,
                bound.listener_id,
                bound.addr,
                stop.clone(),
            ));
            made.push(pb::Bound::from_addr(bound.listener_id, bound.addr));
            self.open.push(Open {
                listener_id: bound.listener_id,
                addr: bound.addr,
                stop,
            });
        }
        Ok(made)
    }

    pub(super) fn bound(&self) -> Vec<pb::Bound> {
        let bound = |open: &Open| pb::Bound::from_addr(open.listener_id, open.addr);
        self.open.iter().map(bound).collect()
    }

    fn has(&self, listener_id: u32) -> bool {
        self.pending.contains(&listener_id)
            || self.open.iter().any(|open| open.listener_id == listener_id)
    }

    fn count(&self) -> usize {
        let mut ids: Vec<_> = self.open.iter().map(|open| open.listener_id).collect();
        ids.dedup();
        ids.len() + self.pending.len()
    }

    /// Stops one; whether there was one.
    fn remove(&mut self, listener_id: u32) -> bool {
        let before = self.open.len();
        self.open.retain(|open| {
            let keep = open.listener_id != listener_id;
            if !keep {
                open.stop.cancel();
            }
            keep
        });
        self.open.len() < before
    }
}

impl fmt::Display for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, open) in self.open.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{}", open.addr)?;
        }
        Ok(())
    }
}

impl Actor {
    pub(super) fn add_listener(&mut self, add: &pb::AddListener) {
        match self.may_add(add) {
            Err(failure) => self.tell_changed(add.request_id, add.listener_id, Err(failure)),
            Ok(listen) => {
                self.listeners.pending.push(listen.id);
                let binder = self.binder.clone();
                let request = BindRequest {
                    target: self.target.clone(),
                    listeners: vec![listen],
                    backlog: self.shared.limits.connections_per_session,
                };
                let (request_id, listener_id) = (add.request_id, add.listener_id);
                self.changes.spawn(async move {
                    Change {
                        request_id,
                        listener_id,
                        bound: binder.bind(request).await,
                    }
                });
            }
        }
    }

    fn may_add(&self, add: &pb::AddListener) -> Result<Listen, Failure> {
        let id = add.listener_id;
        if self.listeners.has(id) {
            return Err(Failure::new(
                Reason::InvalidRequest,
                format!("listener {id} exists already: choose a new id"),
            ));
        }
        let most = self.shared.limits.listeners_per_session as usize;
        if self.listeners.count() >= most || self.listeners.pending.len() >= MAX_PENDING {
            return Err(Failure::new(
                Reason::ListenerLimit,
                format!(
                    "the session has {most} listeners or too many on their way: remove one first"
                ),
            ));
        }
        let missing = || {
            Failure::new(
                Reason::InvalidRequest,
                format!("listener {id}: the request does not say what to listen on"),
            )
        };
        Listen::from_proto(id, add.listener.as_ref().ok_or_else(missing)?)
    }

    /// The binder answered.
    pub(super) fn changed(&mut self, change: Option<Change>) -> Turn {
        // `None`: the task was cut off, which happens only at the end.
        if let Some(change) = change {
            self.listeners
                .pending
                .retain(|id| *id != change.listener_id);
            let bound = change
                .bound
                .and_then(|bound| self.listeners.open(bound.sockets, &self.forwarder));
            self.show();
            self.tell_changed(change.request_id, change.listener_id, bound);
        }
        Turn::Go
    }

    pub(super) fn remove_listener(&mut self, remove: &pb::RemoveListener) {
        let id = remove.listener_id;
        let outcome = if self.listeners.remove(id) {
            Ok(Vec::new())
        } else {
            Err(Failure::new(
                Reason::UnknownListener,
                format!("listener {id} is not one of this session"),
            ))
        };
        self.show();
        self.tell_changed(remove.request_id, id, outcome);
    }

    fn tell_changed(
        &mut self,
        request_id: u32,
        listener_id: u32,
        outcome: Result<Vec<pb::Bound>, Failure>,
    ) {
        let (bound, error, message) = match outcome {
            Ok(bound) => (bound, String::new(), String::new()),
            Err(failure) => {
                tracing::debug!(listener_id, %failure, "listener not changed");
                (
                    Vec::new(),
                    failure.reason.label().to_owned(),
                    failure.message,
                )
            }
        };
        self.tell(Event::ListenerChanged(pb::ListenerChanged {
            request_id,
            listener_id,
            bound,
            error,
            message,
        }));
    }
}
