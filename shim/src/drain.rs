//! How the node goes away: what its sessions are told, and how long they have.
//!
//! ```text
//! told once:  nothing new -> `draining` to every session -> streams finish -> `ending`
//! told twice, or too late:                                                -> `ending`
//! ```
//!
//! Where the binder keeps the listeners and the order is to leave, the sessions are
//! not ended: their streams finish, in the same time, and then the tunnels close
//! without a word, so that the clients come back to the next serve.

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

/// An order to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Leave what a next process can go on with.
    Leave,
    /// End everything, for good.
    End,
}

/// Orders to go: the first drains, the next ends everything at once.
#[derive(Debug)]
pub struct Orders(mpsc::Receiver<Order>);

impl Orders {
    /// Who gives orders, and who takes them. Orders that nobody takes yet may be
    /// dropped: two are all there is to say.
    #[must_use]
    pub fn channel() -> (mpsc::Sender<Order>, Self) {
        let (give, take) = mpsc::channel(2);
        (give, Self(take))
    }

    /// Waits for the next order; for ever if nobody gives one any more.
    pub async fn next(&mut self) -> Order {
        match self.0.recv().await {
            Some(order) => order,
            None => std::future::pending().await,
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
        _ = orders.next() => tracing::info!("told a second time: ending the sessions at once"),
        () = sleep(within) => tracing::info!("the time to drain is over: ending the sessions that are left"),
    }
    over.cancel();
    if timeout(LAST, leaving.wait()).await.is_err() {
        tracing::warn!("some sessions did not end in time");
    }
}

/// Lets streams finish, for `within` or until the next order, in sessions that
/// are to be left to the next serve; ends those that it could not go on with.
/// Returns whether that is still what is wanted.
pub async fn settle(shared: &Shared, within: Duration, orders: &mut Orders) -> bool {
    let sessions = shared.registry.list();
    tracing::info!(
        sessions = sessions.len(),
        ?within,
        "settling, to leave the sessions to the next server"
    );
    let settling = TaskTracker::new();
    for session in sessions {
        settling.spawn(async move {
            // An error means that it is ending otherwise.
            let _ = session.command(Command::Drain { within, stay: true }).await;
            session.settled().await;
        });
    }
    settling.close();
    tokio::select! {
        biased;
        () = settling.wait() => true,
        _ = orders.next() => {
            tracing::info!("told a second time: ending the sessions for good");
            false
        }
        () = sleep(within) => {
            tracing::info!("the time to settle is over: connections that are left are reset");
            true
        }
    }
}

/// Leaves every session to the next serve.
pub async fn leave_all(shared: &Shared) {
    let leaving = TaskTracker::new();
    for session in shared.registry.list() {
        leaving.spawn(async move {
            let _ = session.command(Command::Leave).await;
            session.finished().await;
        });
    }
    leaving.close();
    if timeout(LAST, leaving.wait()).await.is_err() {
        tracing::warn!("some sessions were not left in time");
    }
}

/// One session on its way out: it ends by itself once its streams did.
async fn leave(session: Arc<Session>, within: Duration, over: CancellationToken) {
    // An error means that it is ending otherwise.
    let _ = session
        .command(Command::Drain {
            within,
            stay: false,
        })
        .await;
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

/// What a client with open streams is told whose session the next serve goes on
/// with.
#[must_use]
pub fn notice_of_leaving(session: &Session, within: Duration) -> pb::Draining {
    let sandbox = &session.sandbox.id;
    pb::Draining {
        deadline_ms: crate::limits::millis(within),
        message: format!(
            "sandbox {sandbox}: the node's shim is restarting: finish what is open; the session goes on then, if its listeners can be kept"
        ),
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
