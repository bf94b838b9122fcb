//! A session: one client, one sandbox, its listeners and tunnels.
//!
//! [`Session`] is what others see of it. The task that owns its parts is in
//! `actor`; it alone decides, and is told by [`Command`]s.

mod accept;
mod actor;
mod control;
mod tunnels;

pub use actor::{Parts, start};

use crate::binder::Sandbox;
use crate::cache::RequestCache;
use crate::limits::{Limits, millis};
use crate::registry::Registry;
use std::collections::BTreeMap;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sternline_api::{Failure, Reason, v1alpha1 as pb};
use sternline_tunnel::budget::{ProcessBudget, Traffic};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

/// An upgraded connection, whatever carries it.
pub trait TunnelIo: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> TunnelIo for T {}

/// What all sessions of the node share.
#[derive(Debug)]
pub struct Shared {
    /// The limits in force.
    pub limits: Limits,
    /// The sessions and their slots.
    pub registry: Arc<Registry>,
    /// Tokens and tickets.
    pub passes: RequestCache<Admission>,
    /// Bytes that went through.
    pub traffic: Arc<Traffic>,
    /// Bytes that wait in buffers.
    pub budget: Arc<ProcessBudget>,
}

/// What a token or ticket lets its bearer do.
#[derive(Clone, Debug)]
pub struct Admission {
    /// In which session.
    pub session: Arc<Session>,
    /// With what kind of tunnel.
    pub kind: TunnelKind,
}

/// What a new tunnel is to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelKind {
    /// The first, opened with the token.
    First,
    /// One more beside those that are up.
    Join,
    /// In place of all others.
    Resume,
}

/// Tells a session's task what to do.
pub enum Command {
    /// A client was upgraded.
    Attach {
        /// Its connection.
        io: Box<dyn TunnelIo>,
        /// What it is to be.
        kind: TunnelKind,
    },
    /// End, for this reason; answered when everything is freed.
    Stop {
        /// Why.
        reason: Failure,
        /// Told when it is done.
        done: oneshot::Sender<()>,
    },
}

/// A session as others see it.
#[derive(Debug)]
pub struct Session {
    /// Its id: no secret, and opens nothing.
    pub id: String,
    /// Where it listens.
    pub sandbox: Sandbox,
    /// Who asked.
    pub requester: pb::Requester,
    /// Words of the client for lists.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: SystemTime,
    /// How long its listeners outlive its tunnels.
    pub hold: Duration,
    /// Bytes that went through.
    pub traffic: Arc<Traffic>,
    /// Numbers for lists.
    pub counts: Counts,
    visible: Mutex<Visible>,
    commands: mpsc::Sender<Command>,
}

/// Numbers of a session.
#[derive(Debug, Default)]
pub struct Counts {
    tunnels: AtomicU32,
    connections: AtomicU32,
    connections_total: AtomicU64,
    rejected_total: AtomicU64,
}

#[derive(Clone, Debug)]
struct Visible {
    state: pb::SessionState,
    bound: Vec<pb::Bound>,
}

impl Session {
    /// Asks the session's task; waits while it is busy.
    ///
    /// # Errors
    /// The session ended.
    pub async fn command(&self, command: Command) -> Result<(), Failure> {
        self.commands.send(command).await.map_err(|_| self.ended())
    }

    /// Ends the session and waits until it gave everything back.
    pub async fn stop(&self, reason: Failure) {
        let (done, freed) = oneshot::channel();
        if self.command(Command::Stop { reason, done }).await.is_ok() {
            // An error means that it ended otherwise, which is as well.
            let _ = freed.await;
        }
    }

    /// For lists.
    #[must_use]
    pub fn to_proto(&self) -> pb::Session {
        let visible = self.visible().clone();
        pb::Session {
            session_id: self.id.clone(),
            sandbox_id: self.sandbox.id.clone(),
            pod: self.sandbox.pod.as_ref().map(|pod| pb::Pod {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            }),
            state: visible.state.into(),
            bound: visible.bound,
            created_at_ms: since_epoch(self.created_at),
            requester: Some(self.requester.clone()),
            labels: self.labels.clone().into_iter().collect(),
            tunnels: self.counts.tunnels.load(Relaxed),
            connections: self.counts.connections.load(Relaxed),
            connections_total: self.counts.connections_total.load(Relaxed),
            rejected_total: self.counts.rejected_total.load(Relaxed),
            bytes_from_pod: self.traffic.from_socket(),
            bytes_to_pod: self.traffic.to_socket(),
        }
    }

    fn ended(&self) -> Failure {
        Failure::new(
            Reason::TokenUnknown,
            format!("session {} ended: ask for a new one", self.id),
        )
    }

    fn visible(&self) -> std::sync::MutexGuard<'_, Visible> {
        self.visible.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn since_epoch(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, millis)
}
