//! A session: one client, one sandbox, its listeners and tunnels.
//!
//! [`Session`] is what others see of it. The task that owns its parts is in
//! `actor`; it alone decides, and is told by [`Command`]s.

mod accept;
mod actor;
mod admission;
mod bind;
mod control;
mod holder;
mod listens;
mod record;
mod rejections;
mod spare;
mod tunnels;

pub use actor::{Parts, Passes, start};
pub use admission::{Admission, Arrival, TunnelKind};
pub use bind::{bind, refuse_wide, status};
pub use listens::{Adopt, AdoptSockets, Adopted, Listens};
pub use record::Record;
pub use spare::Spare;

use admission::Arrivals;

use crate::audit::{Audit, SessionAudit};
use crate::binder::Sandbox;
use crate::cache::RequestCache;
use crate::cluster::{Gate, Identity};
use crate::limits::{Limits, millis};
use crate::registry::Registry;
use crate::tls::Tls;
use std::collections::BTreeMap;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sternline_api::v1alpha1::{self as pb, Grant};
use sternline_api::{Failure, Reason};
use sternline_tunnel::budget::{ProcessBudget, Traffic};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Longest that a requester may be, in bytes.
pub(crate) const MAX_REQUESTER: usize = 8 * 1024;

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
    /// Turns connections away when there are no descriptors.
    pub spare: Spare,
    /// Whether others than the pod may be let in.
    pub allow_wide_bind: bool,
    /// Takes over what the binder bound.
    pub adopt: Box<dyn Adopt>,
    /// Takes the records of sessions and connections.
    pub audit: Audit,
    /// What the streaming endpoint is encrypted with, if it is.
    pub tls: Option<Arc<Tls>>,
    /// What gateways are shown, if they are let in.
    pub cluster: Option<Arc<Identity>>,
    /// What finds out whether a grant is good, if gateways are let in.
    pub gate: Option<Arc<Gate>>,
}

impl Shared {
    /// What sessions share under these limits where no flag says otherwise.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            registry: Registry::new(&limits),
            passes: RequestCache::new(limits.tokens),
            traffic: Arc::default(),
            budget: ProcessBudget::new(limits.buffer_bytes_per_node),
            spare: Spare::take(),
            limits,
            allow_wide_bind: false,
            adopt: Box::new(AdoptSockets),
            audit: Audit::default(),
            tls: None,
            cluster: None,
            gate: None,
        }
    }
}

/// Tells a session's task what to do.
pub enum Command {
    /// A client was upgraded.
    Attach {
        /// Its connection.
        io: Box<dyn TunnelIo>,
        /// What it was let in for.
        arrival: Arrival,
    },
    /// Take no more connections, and end once those that are open did.
    Drain {
        /// How long they have; whoever commands this sees to it.
        within: Duration,
        /// Do not end then, if the next serve can go on with the session: wait to
        /// be told to leave.
        stay: bool,
    },
    /// Leave everything to the next serve, or end if that is impossible.
    Leave,
    /// End, for this reason.
    Stop(Failure),
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
    /// Whether a gateway asked: nobody else's clients come to it then.
    pub granted: bool,
    /// The last grant of a gateway.
    grant: Mutex<Vec<u8>>,
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
    /// Takes its records.
    audit: SessionAudit,
    visible: Mutex<Visible>,
    commands: mpsc::Sender<Command>,
    /// Clients between their token or ticket and their tunnel.
    arrivals: watch::Sender<Arrivals>,
    /// Cancelled when nothing is open any more in a session that is to be left.
    settled: CancellationToken,
    /// Cancelled when the session gave everything back.
    finished: CancellationToken,
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

    /// Ends the session, if it is not ending already, and waits until it gave
    /// everything back.
    pub async fn stop(&self, reason: Failure) {
        // An error means that it is ending otherwise, which is as well.
        let _ = self.command(Command::Stop(reason)).await;
        self.finished().await;
    }

    /// Waits until the session gave everything back.
    pub async fn finished(&self) {
        self.finished.cancelled().await;
    }

    /// Waits until the session can be left without cutting anything off, or is
    /// over.
    pub async fn settled(&self) {
        tokio::select! {
            () = self.settled.cancelled() => {}
            () = self.finished() => {}
        }
    }

    /// The signed grant of a gateway that it stands on now; empty without one.
    #[must_use]
    pub fn grant(&self) -> Vec<u8> {
        self.grant
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Checks that a grant permits what the session has now: it may be of a user who
    /// was allowed more before.
    pub(crate) fn is_within(&self, grant: &Grant) -> Result<(), Failure> {
        let bound = self.visible().bound.clone();
        let mut bound = bound.iter().filter_map(pb::Bound::to_addr);
        bound.try_for_each(|addr| grant.permits_bound(addr))?;
        grant.permits_hold(self.hold)
    }

    /// A client came back with another grant, which is in place of the one before.
    pub(crate) fn regrant(&self, grant: Vec<u8>) {
        *self.grant.lock().unwrap_or_else(PoisonError::into_inner) = grant;
    }

    /// For lists.
    #[must_use]
    pub fn to_proto(&self) -> pb::Session {
        let visible = self.visible().clone();
        pb::Session {
            session_id: self.id.clone(),
            sandbox_id: self.sandbox.id.clone(),
            pod: self.sandbox.pod.as_ref().map(Into::into),
            state: visible.state.into(),
            bound: visible.bound,
            created_at_ms: since_epoch(self.created_at),
            requester: Some(self.requester.clone()),
            labels: self.labels.clone().into_iter().collect(),
            tunnels: self.tunnels(),
            connections: self.counts.connections.load(Relaxed),
            connections_total: self.counts.connections_total.load(Relaxed),
            rejected_total: self.counts.rejected_total.load(Relaxed),
            bytes_from_pod: self.traffic.from_socket(),
            bytes_to_pod: self.traffic.to_socket(),
        }
    }

    /// Tunnels up now.
    fn tunnels(&self) -> u32 {
        self.counts.tunnels.load(Relaxed)
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

/// A sentence short enough for a header and a log line: it may hold what a client
/// sent, which is up to a whole message long.
#[must_use]
pub fn capped(sentence: String) -> String {
    cut(sentence, 1024)
}

/// A text of at most so many bytes, with a mark where the rest was.
#[must_use]
pub fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let mut end = most;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(" ...");
    }
    text
}

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn since_epoch(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, millis)
}
