//! The listeners of a session, and the client's wishes to change them.

use super::{Actor, Turn};
use crate::audit::Listener;
use crate::binder::deposits::copies;
use crate::binder::{BindRequest, BoundSocket};
use crate::drain;
use crate::metrics;
use crate::session::accept::Forwarder;
use crate::session::listens::{Adopt, Adopted};
use crate::session::{bind, capped, refuse_wide};
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;
use sternline_api::listen::Listen;
use sternline_api::v1alpha1::{self as pb, control_message::Event};
use sternline_api::{Failure, Reason};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Listeners that may be on their way at once.
const MAX_PENDING: usize = 8;

/// One socket that listens.
#[derive(Debug)]
struct Open {
    listener_id: u32,
    addr: SocketAddr,
    stop: CancellationToken,
    /// Ends when the socket is closed.
    accepting: JoinHandle<()>,
}

/// Everything that listens for a session.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    open: Vec<Open>,
    /// Ids that are being bound.
    pending: Vec<u32>,
}

/// What became of a client's wish.
pub(super) struct Change {
    request_id: u32,
    listener_id: u32,
    outcome: Outcome,
}

enum Outcome {
    /// The binder answered.
    Added(Result<Vec<Adopted>, Failure>),
    /// Its sockets are closed.
    Removed,
}

/// Makes the binder's sockets ours, all of them or none.
///
/// # Errors
/// The runtime does not take one.
pub(super) fn adopt(sockets: Vec<BoundSocket>, adopt: &dyn Adopt) -> Result<Vec<Adopted>, Failure> {
    let adopted = sockets.into_iter().map(|bound| {
        let addr = bound.addr;
        adopt.adopt(bound).map_err(|error| {
            Failure::new(
                Reason::Internal,
                format!("{addr}: the bound socket cannot be used: {error}"),
            )
        })
    });
    adopted.collect()
}

impl Listeners {
    /// Starts to accept.
    pub(super) fn open(&mut self, sockets: Vec<Adopted>, forwarder: &Forwarder) -> Vec<pb::Bound> {
        let mut made = Vec::with_capacity(sockets.len());
        for adopted in sockets {
            let (listener_id, addr) = (adopted.listener_id, adopted.addr);
            let stop = forwarder.ended.child_token();
            let accept = adopted.accept(forwarder.clone(), stop.clone());
            let accepting = forwarder.tasks.spawn(accept);
            made.push(pb::Bound::from_addr(listener_id, addr));
            self.open.push(Open {
                listener_id,
                addr,
                stop,
                accepting,
            });
        }
        made
    }

    pub(super) fn bound(&self) -> Vec<pb::Bound> {
        let bound = |open: &Open| pb::Bound::from_addr(open.listener_id, open.addr);
        self.open.iter().map(bound).collect()
    }

    /// As the audit log names them.
    pub(super) fn audited(&self) -> Vec<Listener> {
        let audited = |open: &Open| Listener {
            id: open.listener_id,
            addr: open.addr,
        };
        self.open.iter().map(audited).collect()
    }

    fn has(&self, listener_id: u32) -> bool {
        self.pending.contains(&listener_id)
            || self.open.iter().any(|open| open.listener_id == listener_id)
    }

    fn count(&self) -> usize {
        let ids: BTreeSet<_> = self.open.iter().map(|open| open.listener_id).collect();
        ids.len() + self.pending.len()
    }

    /// Stops one; what ends when its sockets are closed, none if there are none.
    fn remove(&mut self, listener_id: u32) -> Vec<JoinHandle<()>> {
        let is_it = |open: &mut Open| open.listener_id == listener_id;
        let removed = self.open.extract_if(.., is_it);
        removed
            .map(|open| {
                open.stop.cancel();
                open.accepting
            })
            .collect()
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
                    grant: self.session.grant(),
                };
                let (request_id, listener_id) = (add.request_id, add.listener_id);
                let sandbox = self.session.sandbox.id.clone();
                let shared = Arc::clone(&self.shared);
                let deposit = self.deposit.clone();
                self.changes.spawn(async move {
                    let bound = bind(&*binder, request, &shared.registry).await;
                    let mut kept = false;
                    if let (Ok(bound), Some(deposit)) = (&bound, &deposit)
                        && bound.sandbox.id == sandbox
                    {
                        match copies(&bound.sockets) {
                            Ok(copies) => {
                                deposit.add(copies).await;
                                kept = true;
                            }
                            Err(error) => {
                                tracing::warn!(session = deposit.key(), listener_id, %error, "no descriptor is left to keep a listener for a restart");
                                metrics::not_kept();
                            }
                        }
                    }
                    let bound = bound.and_then(|bound| {
                        // Ids are prefixes too: without its own, another's fits.
                        if bound.sandbox.id == sandbox {
                            return adopt(bound.sockets, &*shared.adopt);
                        }
                        Err(Failure::new(
                            Reason::SandboxGone,
                            format!("sandbox {sandbox} is gone: nothing more can be bound in it"),
                        ))
                    });
                    if let (Err(_), Some(deposit), true) = (&bound, &deposit, kept) {
                        // Kept though nobody has it, it would stay bound.
                        deposit.remove(listener_id).await;
                    }
                    Change {
                        request_id,
                        listener_id,
                        outcome: Outcome::Added(bound),
                    }
                });
            }
        }
    }

    fn may_add(&self, add: &pb::AddListener) -> Result<Listen, Failure> {
        let id = add.listener_id;
        if self.forwarder.draining.is_cancelled() {
            return Err(drain::end_of(&self.session));
        }
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
        let listen = Listen::from_proto(id, add.listener.as_ref().ok_or_else(missing)?)?;
        refuse_wide(&[listen], self.shared.allow_wide_bind)?;
        if self.session.granted {
            // That of a serve before, which let gateways in, is none to this one.
            let gate = self.shared.gate.as_ref().ok_or_else(|| {
                let what = "this node does not let gateways in any more: nothing can be added";
                Failure::new(Reason::Forbidden, what)
            })?;
            let grant = gate.verify(&self.session.grant(), SystemTime::now())?;
            grant.permits(&[listen])?;
        }
        Ok(listen)
    }

    /// A wish was carried out, or could not be.
    pub(super) fn changed(&mut self, change: Option<Change>) -> Turn {
        // `None`: the task was cut off, which happens only at the end.
        let Some(change) = change else {
            return Turn::Go;
        };
        let id = change.listener_id;
        let outcome = match change.outcome {
            Outcome::Added(bound) => {
                self.listeners.pending.retain(|pending| *pending != id);
                bound.map(|sockets| self.listeners.open(sockets, &self.forwarder))
            }
            Outcome::Removed => Ok(Vec::new()),
        };
        if outcome.is_ok() {
            let listeners = &self.listeners;
            self.session.audit.listeners_changed(|| listeners.audited());
        }
        self.show();
        self.tell_changed(change.request_id, id, outcome);
        Turn::Go
    }

    pub(super) fn remove_listener(&mut self, remove: &pb::RemoveListener) {
        let id = remove.listener_id;
        let closing = self.listeners.remove(id);
        if closing.is_empty() {
            let unknown = Failure::new(
                Reason::UnknownListener,
                format!(
                    "listener {id} is not one of this session: name one that `ready` or an answer told"
                ),
            );
            self.tell_changed(remove.request_id, id, Err(unknown));
            return;
        }
        let request_id = remove.request_id;
        let deposit = self.deposit.clone();
        // Answered when the address is free to be bound again.
        self.changes.spawn(async move {
            for accepting in closing {
                let _ = accepting.await;
            }
            if let Some(deposit) = deposit {
                deposit.remove(id).await;
            }
            Change {
                request_id,
                listener_id: id,
                outcome: Outcome::Removed,
            }
        });
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
                let message = capped(failure.message);
                tracing::debug!(listener_id, message, "listener not changed");
                metrics::failed(failure.reason);
                (Vec::new(), failure.reason.label().to_owned(), message)
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
