//! How the node goes away: what its sessions are told, and how long they have.
//!
//! ```text
//! told once:  nothing new -> `draining` to every session -> streams finish -> `ending`
//! told twice, or too late:                                                -> `ending`
//! ```

use crate::session::{Command, Session, Shared};
use std::sync::Arc;
use std::time::Duration;
use sternline_api::{Failure, Reason, v1alpha1 as pb};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long all sessions together may take to end, once no stream is waited for.
pub const LAST: Duration = Duration::from_secs(5);

/// Orders to go: the first drains, the next ends everything at once.
#[derive(Debug)]
pub struct Orders(mpsc::Receiver<()>);

impl Orders {
    /// Who gives orders, and who takes them. Orders that nobody takes yet may be
    /// dropped: two are all there is to say.
    #[must_use]
    pub fn channel() -> (mpsc::Sender<()>, Self) {
        let (give, take) = mpsc::channel(2);
        (give, Self(take))
    }

    /// Waits for the next order; for ever if nobody gives one any more.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Tells every session that the node goes away, lets streams finish for `within`
/// or until the next order, and ends the sessions. Nothing new must come any
/// more, see [`Registry::close`](crate::registry::Registry::close).
pub async fn drain(shared: &Shared, within: Duration, orders: &mut Orders) {
    let sessions = shared.registry.list();
    tracing::info!(sessions = sessions.len(), ?within, "draining");
    let over = CancellationToken::new();
    let leaving = TaskTracker::new();
    for session in sessions {
        leaving.spawn(leave(session, within, over.clone()));
    }
    leaving.close();
    tokio::select! {
        biased;
        () = leaving.wait() => {}
        () = orders.next() => tracing::info!("told a second time: ending the sessions at once"),
        () = sleep(within) => tracing::info!("the time to drain is over: ending the sessions that are left"),
    }
    over.cancel();
    if timeout(LAST, leaving.wait()).await.is_err() {
        tracing::warn!("some sessions did not end in time");
    }
}

/// One session on its way out: it ends by itself once its streams did.
async fn leave(session: Arc<Session>, within: Duration, over: CancellationToken) {
    // An error means that it is ending otherwise.
    let _ = session.command(Command::Drain { within }).await;
    if over.run_until_cancelled(session.finished()).await.is_none() {
        session.stop(end_of(&session)).await;
    }
}

/// What a client is told whose session has `streams` open. Without any there is
/// nothing to wait for.
#[must_use]
pub fn notice(session: &Session, streams: usize, within: Duration) -> pb::Draining {
    let sandbox = &session.sandbox.id;
    let (within, what) = match streams {
        0 => (Duration::ZERO, "ends this session"),
        _ => (within, "takes no more connections: finish what is open"),
    };
    pb::Draining {
        deadline_ms: crate::limits::millis(within),
        message: format!("sandbox {sandbox}: the node's shim is shutting down and {what}"),
    }
}

/// Why a session ends that was drained.
#[must_use]
pub fn end_of(session: &Session) -> Failure {
    let sandbox = &session.sandbox.id;
    Failure::new(
        Reason::Draining,
        format!("sandbox {sandbox}: the node's shim is shutting down"),
    )
}
