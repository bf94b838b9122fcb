//! The audit log: who opened what, and what came of it, one JSON line each.
//!
//! [`Audit`] takes records without ever waiting: they go into a bounded queue,
//! and what finds no room is counted and told in a later line. One thread takes
//! them out and writes them, so that a full disk or a slow reader delays nobody
//! but that thread.

mod clock;
mod record;
mod sink;
mod writer;

pub use clock::{Clock, SystemClock, rfc3339};
pub use record::{Connection, Listener, SessionEnd, Subject};

use crate::config::{AuditArgs, AuditTarget};
use crate::metrics;
use crate::sentence::plain;
use record::{Event, Record};
use sink::Sink;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use sternline_api::{Failure, Reason};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use writer::Writer;

/// Why the audit log cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Its destination.
    #[error(
        "--audit-log {place}: {}: is its directory there, and may this user write it?",
        plain(error)
    )]
    Open {
        /// What was named.
        place: String,
        /// What is wrong with it.
        error: io::Error,
    },
    /// The system gives no thread or no random bytes.
    #[error("the audit log cannot begin: {0}")]
    System(String),
}

/// Takes records; off, it takes them and does nothing.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Sender>>);

struct Sender {
    queue: SyncSender<Item>,
    trail: Arc<Trail>,
    required: bool,
}

/// What stands in the queue.
enum Item {
    Record(Record),
    /// Look at what the trail says.
    Wake,
}

/// What senders and the writer share.
struct Trail {
    /// Where the lines go, for logs.
    place: String,
    clock: Arc<dyn Clock>,
    /// Records in the queue.
    queued: AtomicU64,
    /// Records that found no room and were not told of yet.
    lost: AtomicU64,
    /// The destination cannot be written now.
    failing: AtomicBool,
    reopen: AtomicBool,
    /// Sessions that have something to sum up.
    unsummed: Mutex<Vec<Arc<Session>>>,
    /// Set once the end began: when to give up.
    deadline: OnceLock<Instant>,
    /// Cancelled when the writer is through.
    done: CancellationToken,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = self.0.as_ref().map(|sender| &sender.trail.place);
        f.debug_tuple("Audit").field(&place).finish()
    }
}

impl Audit {
    /// Begins the log that the flags name, or none.
    ///
    /// # Errors
    /// The destination cannot be opened, or is none that may hold an audit log.
    pub fn open(args: &AuditArgs) -> Result<Self, AuditError> {
        let Some(target) = &args.audit_log else {
            return Ok(Self::default());
        };
        Self::open_with(target, args, Arc::new(SystemClock::default()))
    }

    /// As [`Audit::open`], with other clocks.
    ///
    /// # Errors
    /// As [`Audit::open`].
    pub fn open_with(
        target: &AuditTarget,
        args: &AuditArgs,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuditError> {
        let place = target.to_string();
        let sink = sink::open(target).map_err(|error| AuditError::Open {
            place: place.clone(),
            error,
        })?;
        Self::start(place, sink, args, clock)
    }

    fn start(
        place: String,
        sink: Box<dyn Sink>,
        args: &AuditArgs,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuditError> {
        let mut run = [0_u8; 8];
        getrandom::fill(&mut run).map_err(|error| AuditError::System(plain(&error)))?;
        let run = run.iter().map(|byte| format!("{byte:02x}")).collect();
        let (queue, inbox) = sync_channel(args.audit_queue as usize);
        let trail = Arc::new(Trail {
            place,
            clock,
            queued: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            unsummed: Mutex::default(),
            deadline: OnceLock::new(),
            done: CancellationToken::new(),
        });
        let writer = Writer::new(Arc::clone(&trail), inbox, sink, run);
        thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| AuditError::System(plain(&error)))?;
        let audit = Self(Some(Arc::new(Sender {
            queue,
            trail,
            required: args.audit_required,
        })));
        audit.send(None, Event::ShimStart);
        Ok(audit)
    }

    /// Whether records are kept at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a new session may begin.
    ///
    /// # Errors
    /// It may not go without a record, and none can be written now.
    pub fn admit(&self) -> Result<(), Failure> {
        match &self.0 {
            Some(sender) if sender.required && sender.trail.is_behind() => Err(Failure::new(
                Reason::AuditUnavailable,
                "the audit log of this node cannot be written, and no session begins without it (--audit-required): see the shim's log for the cause",
            )),
            _ => Ok(()),
        }
    }

    /// Begins to record a session; its duration counts from here.
    #[must_use]
    pub fn session(&self, subject: impl FnOnce() -> Subject) -> SessionAudit {
        SessionAudit {
            audit: self.clone(),
            session: self.0.as_ref().map(|sender| {
                Arc::new(Session {
                    subject: Arc::new(subject()),
                    began: sender.trail.clock.monotonic(),
                    pending: Mutex::default(),
                })
            }),
            open: AtomicBool::new(false),
        }
    }

    /// Opens the destination again.
    pub fn reopen(&self) {
        if let Some(sender) = &self.0 {
            sender.trail.reopen.store(true, Release);
            sender.wake();
        }
    }

    /// Writes what waits, for at most `within`, and ends.
    pub async fn close(&self, within: Duration) {
        let Some(sender) = &self.0 else { return };
        let _ = sender.trail.deadline.set(Instant::now() + within);
        sender.wake();
        // The writer looks at the bound between attempts, which are short.
        let _ = timeout(
            within + Duration::from_secs(1),
            sender.trail.done.cancelled(),
        )
        .await;
    }

    fn send(&self, subject: Option<Arc<Subject>>, event: Event) {
        let Some(Sender { queue, trail, .. }) = self.0.as_deref() else {
            return;
        };
        let time = trail.clock.wall();
        let record = Record {
            time,
            subject,
            event,
        };
        trail.queued.fetch_add(1, AcqRel);
        metrics::audit_queued(1.0);
        if queue.try_send(Item::Record(record)).is_err() {
            trail.queued.fetch_sub(1, AcqRel);
            metrics::audit_queued(-1.0);
            trail.lost.fetch_add(1, AcqRel);
            metrics::audit_lost(1);
        }
    }
}

impl Sender {
    /// A writer with a full queue is awake.
    fn wake(&self) {
        let _ = self.queue.try_send(Item::Wake);
    }
}

impl Trail {
    /// Records are lost now, or would be.
    fn is_behind(&self) -> bool {
        self.failing.load(Acquire) || self.lost.load(Acquire) > 0
    }

    fn is_closing(&self) -> bool {
        self.deadline.get().is_some()
    }

    fn is_out_of_time(&self) -> bool {
        self.deadline.get().is_some_and(|at| Instant::now() >= *at)
    }

    fn take_unsummed(&self) -> Vec<Arc<Session>> {
        std::mem::take(&mut *self.unsummed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A session as its records know it.
struct Session {
    subject: Arc<Subject>,
    /// On the monotonic clock.
    began: Duration,
    pending: Mutex<Pending>,
}

/// What is told once a second at most, however often it happens.
#[derive(Default)]
struct Pending {
    rejected: BTreeMap<&'static str, u64>,
    listeners: Option<Vec<Listener>>,
}

impl Session {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records what happens in one session. Dropped before its end was told, it
/// tells that itself.
pub struct SessionAudit {
    audit: Audit,
    /// `None`: the audit is off.
    session: Option<Arc<Session>>,
    /// Its start was told and its end was not.
    open: AtomicBool,
}

impl std::fmt::Debug for SessionAudit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SessionAudit").field(&self.audit).finish()
    }
}

impl SessionAudit {
    /// It listens.
    pub fn started(&self, listeners: Vec<Listener>, hold: Duration) {
        self.open.store(true, Release);
        self.send(Event::SessionStart { listeners, hold });
    }

    /// It listens on these from now on.
    pub fn listeners_changed(&self, listeners: impl FnOnce() -> Vec<Listener>) {
        self.note(|pending| pending.listeners = Some(listeners()));
    }

    /// A forwarded connection ended.
    pub fn connection(&self, connection: Connection) {
        self.send(Event::Connection(connection));
    }

    /// A connection was turned away.
    pub fn rejected(&self, reason: Reason) {
        self.note(|pending| *pending.rejected.entry(reason.label()).or_default() += 1);
    }

    /// It gave everything back.
    pub fn ended(&self, end: SessionEnd) {
        let (Some(session), Some(sender)) = (&self.session, &self.audit.0) else {
            return;
        };
        if !self.open.swap(false, AcqRel) {
            return;
        }
        for record in session.sum_up(SystemTime::UNIX_EPOCH) {
            self.send(record.event);
        }
        let now = sender.trail.clock.monotonic();
        let duration = now.saturating_sub(session.began);
        self.send(Event::SessionEnd(end, duration));
    }

    fn send(&self, event: Event) {
        if let Some(session) = &self.session {
            self.audit.send(Some(Arc::clone(&session.subject)), event);
        }
    }

    /// Notes something for the next summary.
    fn note(&self, note: impl FnOnce(&mut Pending)) {
        let (Some(session), Some(sender)) = (&self.session, &self.audit.0) else {
            return;
        };
        let mut pending = session.pending();
        let first = pending.rejected.is_empty() && pending.listeners.is_none();
        note(&mut pending);
        drop(pending);
        if first {
            let mut unsummed = sender.trail.unsummed.lock();
            let unsummed = unsummed
                .as_mut()
                .unwrap_or_else(|poisoned| poisoned.get_mut());
            unsummed.push(Arc::clone(session));
        }
    }
}

impl Drop for SessionAudit {
    fn drop(&mut self) {
        let label = Reason::Internal.label();
        self.ended(SessionEnd::new(label, "the session's task ended by itself"));
    }
}

#[cfg(test)]
#[path = "audit/tests.rs"]
mod tests;
