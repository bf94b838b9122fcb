//! A binder in another process, reached over its Unix socket.
//!
//! One task owns the connection (`link`). When it is lost the sessions stay:
//! their sockets are this process's own. The task connects again, with growing
//! pauses, and has the same sandboxes watched again; until then every request
//! fails with a sentence that says so.

mod kept;
mod link;
mod pending;

use super::deposits::{Content, Deposits, Refused};
use super::wire::Socket;
use super::{BindRequest, Binder, BinderStatus, Bound, Gone, Sandbox, SandboxTarget};
use crate::cache::Pass;
use crate::sandbox::Watched;
use kept::Kept;
use link::Link;
pub(crate) use pending::listening;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use sternline_api::{Failure, Reason};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

/// Requests that may wait for the connection's task.
const ORDERS: usize = 64;

/// How long the binder may take to say how it is.
const STATUS: Duration = Duration::from_secs(6);

/// What the connection's task is asked to do. Whoever asked may have gone when
/// it is done: then the answer is dropped, and with it what was bound.
pub(super) enum Order {
    Bind(BindRequest, oneshot::Sender<Result<Bound, Failure>>),
    Find(SandboxTarget, oneshot::Sender<Result<Sandbox, Failure>>),
    Watch(Watched, oneshot::Sender<Result<Gone, Failure>>),
    Status(oneshot::Sender<Result<BinderStatus, Failure>>),
    Take(oneshot::Sender<Result<Vec<(String, Content)>, Failure>>),
    Deposit(Change),
}

/// What is to change of what is deposited, see [`Deposits`].
pub(super) enum Change {
    /// Keep this too.
    Keep {
        key: String,
        sockets: Vec<(Socket, OwnedFd)>,
        record: Option<Vec<u8>>,
        watched: Option<Watched>,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    Discard {
        key: String,
        listener_id: Option<u32>,
        reply: oneshot::Sender<()>,
    },
}

/// What this process is to the binder.
#[derive(Debug)]
struct Own {
    /// Shared with the serve before and the one after; empty if nothing is kept.
    name: String,
    /// Of this process alone.
    instance: String,
}

/// Asks the binder process. Its task ends when this is dropped.
#[derive(Debug)]
pub struct ProcessBinder {
    orders: mpsc::Sender<Order>,
    path: PathBuf,
    /// Sandboxes that the binder is asked to watch.
    watched: watch::Receiver<usize>,
    /// Nothing is kept for one without a name.
    deposits: Option<Deposits>,
}

impl ProcessBinder {
    /// Talks to the binder at `path`, which need not be there yet. To be called
    /// inside a tokio runtime.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self::named(path, "")
    }

    /// As [`ProcessBinder::new`], and what is left with the binder is for the next
    /// process of this name. Two at once must not have the same.
    #[must_use]
    pub fn named(path: &Path, name: &str) -> Self {
        let (orders, inbox) = mpsc::channel(ORDERS);
        let (count, watched) = watch::channel(0);
        let (keeps, grace) = watch::channel(None);
        let instance = Pass::generate().map(|pass| pass.secret().to_owned());
        // One that is like no other cannot be told from its predecessor: it has
        // nothing kept.
        let name = if instance.is_ok() { name } else { "" };
        let own = Own {
            name: name.to_owned(),
            instance: instance.unwrap_or_default(),
        };
        let refused = Refused::default();
        let kept = Kept::new(keeps, refused.clone());
        let deposits = (!name.is_empty()).then(|| Deposits {
            orders: orders.clone(),
            grace,
            refused,
        });
        tokio::spawn(Link::new(path.to_owned(), own, inbox, count, kept).run());
        Self {
            orders,
            path: path.to_owned(),
            watched,
            deposits,
        }
    }

    /// How many sandboxes are being watched for somebody.
    #[must_use]
    pub fn watched(&self) -> usize {
        *self.watched.borrow()
    }

    async fn ask<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, Failure>>) -> Order,
    ) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        let ended = || unavailable(&self.path, "it broke the protocol, and was cut off");
        self.orders.send(order(reply)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

#[tonic::async_trait]
impl Binder for ProcessBinder {
    async fn bind(&self, request: BindRequest) -> Result<Bound, Failure> {
        self.ask(|reply| Order::Bind(request, reply)).await
    }

    async fn find(&self, target: &SandboxTarget) -> Result<Sandbox, Failure> {
        self.ask(|reply| Order::Find(target.clone(), reply)).await
    }

    async fn watch(&self, sandbox: Watched) -> Result<Gone, Failure> {
        self.ask(|reply| Order::Watch(sandbox, reply)).await
    }

    fn deposits(&self) -> Option<Deposits> {
        self.deposits.clone()
    }

    async fn status(&self) -> BinderStatus {
        let silent = || unavailable(&self.path, &format!("no answer within {STATUS:?}"));
        let asked = timeout(STATUS, self.ask(Order::Status)).await;
        let answer = asked.unwrap_or_else(|_| Err(silent()));
        answer.unwrap_or_else(|failure| BinderStatus {
            runtime: String::new(),
            trouble: Some(failure.message),
        })
    }
}

/// The failure of a request that the binder cannot be asked.
fn unavailable(path: &Path, why: &str) -> Failure {
    Failure::new(
        Reason::RuntimeUnavailable,
        format!(
            "the binder at {} cannot be asked: {why}; see whether `sternline-shim binder` runs there, then try again",
            path.display()
        ),
    )
}
