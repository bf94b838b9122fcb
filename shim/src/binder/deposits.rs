//! What serve leaves with the binder while it lives, so that a successor goes on
//! where it stopped: copies of its listening sockets, and a record beside them.
//!
//! The binder's copy keeps an address taken: whoever frees one closes its deposit
//! first and waits for that.

mod content;

pub use content::{Content, copies};

use super::client::{Change, New, Order};
use super::wire::{Socket, keep::MAX_RECORD};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use sternline_api::{Failure, Reason};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

/// How long the binder may take over a deposit. What it did not say by then is
/// not waited for: it may be frozen.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long it may take to hand over what was left; the serve before may need
/// most of it to go.
const TAKE: Duration = Duration::from_secs(15);

/// Orders that may be carried out late, each by a task of its own: further ones
/// are waited for. No binder makes anybody wait for long: one that does not answer
/// is given up, see `SILENCE` of the connection.
const LATE: usize = 1024;

/// Leaves things with a binder that keeps them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Deposits {
    pub(super) orders: mpsc::Sender<Order>,
    standing: watch::Receiver<Standing>,
    refused: Refused,
    late: Arc<Semaphore>,
}

/// How it is between this process and the binder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// How long it keeps things, as the last one said that was connected.
    pub(super) grace: Option<Duration>,
    /// It is connected, and was given everything that it is to keep.
    pub(super) has_all: bool,
}

/// Keys under which the binder does not keep what it was given.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused(Arc<Mutex<BTreeSet<String>>>);

impl Refused {
    /// Whether it is the first to be told so.
    pub(super) fn add(&self, key: &str) -> bool {
        self.lock().insert(key.to_owned())
    }

    pub(super) fn remove(&self, key: &str) {
        self.lock().remove(key);
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.lock().contains(key)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that the binder keeps. Dropped, it is closed there, at some time.
#[derive(Debug)]
pub struct Deposit {
    deposits: Deposits,
    key: String,
    /// Nothing is left to be closed.
    over: AtomicBool,
}

/// What the serve before has left.
#[derive(Debug)]
pub struct Left {
    /// It stays with the binder, under the same key.
    pub deposit: Deposit,
    /// What was kept.
    pub content: Content,
}

impl Deposits {
    pub(super) fn new(
        orders: mpsc::Sender<Order>,
        standing: watch::Receiver<Standing>,
        refused: Refused,
    ) -> Self {
        Self {
            orders,
            standing,
            refused,
            late: Arc::new(Semaphore::new(LATE)),
        }
    }

    /// How long the binder keeps what this process leaves, as it last said; none
    /// if it keeps nothing, or was never connected.
    #[must_use]
    pub fn grace(&self) -> Option<Duration> {
        let grace = self.standing.borrow().grace;
        grace.filter(|grace| !grace.is_zero())
    }

    /// Waits until the binder is connected and has what was deposited, at most for
    /// so long; whether it has.
    pub async fn has_all(&self, within: Duration) -> bool {
        let mut standing = self.standing.clone();
        let all = standing.wait_for(|standing| standing.has_all);
        timeout(within, all).await.is_ok_and(|all| all.is_ok())
    }

    /// Has something kept, and returns when it is.
    ///
    /// # Errors
    /// The binder refuses: nothing of it is kept.
    pub async fn put(&self, key: &str, content: Content) -> Result<Deposit, Failure> {
        let deposit = self.deposit(key);
        deposit.put(content).await?;
        Ok(deposit)
    }

    /// The same for what is in no sandbox, this process's own, which matters to all
    /// that is kept: where the binder refuses, it is tried again when something is
    /// closed there, and with every other binder.
    pub async fn put_own(&self, key: &str, content: Content) -> Deposit {
        let deposit = self.deposit(key);
        // Told, and counted, where it is noticed.
        let _ = deposit.put(content).await;
        deposit
    }

    /// Takes over what the serve before has left, which may be nothing. It is
    /// waited for, if it is about to go.
    ///
    /// # Errors
    /// It does not go, the binder does not answer, or there is no room for what
    /// was left.
    pub async fn take(&self) -> Result<Vec<Left>, Failure> {
        let (reply, answer) = oneshot::channel();
        let silent = || {
            Failure::new(
                Reason::RuntimeUnavailable,
                "the binder does not hand over what the server before has left: see its log",
            )
        };
        let asked = async {
            let sent = self.orders.send(Order::Take(reply)).await;
            sent.map_err(|_| silent())?;
            answer.await.map_err(|_| silent())?
        };
        let left = timeout(TAKE, asked).await.map_err(|_| silent())??;
        let left = left.into_iter().map(|(key, content)| Left {
            deposit: self.deposit(&key),
            content,
        });
        Ok(left.collect())
    }

    fn deposit(&self, key: &str) -> Deposit {
        Deposit {
            deposits: self.clone(),
            key: key.to_owned(),
            over: AtomicBool::new(false),
        }
    }
}

impl Deposit {
    /// How long the binder keeps it when this process is gone, as it last said;
    /// none if it does not.
    #[must_use]
    pub fn grace(&self) -> Option<Duration> {
        match self.deposits.refused.has(&self.key) {
            true => None,
            false => self.deposits.grace(),
        }
    }

    /// Under what it is kept.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Replaces the record, and returns when that is done.
    pub async fn renew(&self, record: Vec<u8>) {
        // Told, and counted, where it is noticed.
        let _ = self.keep(New::Part, Vec::new(), Some(record)).await;
    }

    /// Has more sockets kept, and returns when they are.
    pub async fn add(&self, sockets: Vec<(Socket, OwnedFd)>) {
        let _ = self.keep(New::Part, sockets, None).await;
    }

    /// Has the sockets of a listener closed, and returns when they are.
    pub async fn remove(&self, listener_id: u32) {
        self.discard(Some(listener_id)).await;
    }

    /// Has everything closed, and returns when it is.
    pub async fn close(&self) {
        self.over.store(true, Relaxed);
        self.discard(None).await;
    }

    /// Leaves it to whoever serves next.
    pub fn leave(&self) {
        self.over.store(true, Relaxed);
    }

    async fn put(&self, content: Content) -> Result<(), Failure> {
        let bytes = content.record.len();
        if bytes > MAX_RECORD {
            let message = format!("what is to be kept has {bytes} bytes");
            return Err(Failure::new(Reason::InvalidRequest, message));
        }
        self.keep(
            New::Entry(content.watched),
            content.sockets,
            Some(content.record),
        )
        .await
    }

    async fn keep(
        &self,
        new: New,
        sockets: Vec<(Socket, OwnedFd)>,
        record: Option<Vec<u8>>,
    ) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        let order = Order::Deposit(Change::Keep {
            key: self.key.clone(),
            new,
            sockets,
            record,
            reply,
        });
        let orders = self.deposits.orders.clone();
        let kept = async move {
            // Without its task, and so without a binder, nothing is left to fail.
            let _ = orders.send(order).await;
            answer.await.unwrap_or(Ok(()))
        };
        let late = &self.deposits.late;
        patiently(kept, late).await.unwrap_or_else(|| {
            tracing::warn!(
                key = self.key,
                "the binder does not say whether it keeps this"
            );
            Ok(())
        })
    }

    async fn discard(&self, listener_id: Option<u32>) {
        let (reply, answer) = oneshot::channel();
        let order = Order::Deposit(Change::Discard {
            key: self.key.clone(),
            listener_id,
            reply,
        });
        let orders = self.deposits.orders.clone();
        let discarded = async move {
            let _ = orders.send(order).await;
            let _ = answer.await;
        };
        if patiently(discarded, &self.deposits.late).await.is_none() {
            tracing::warn!(
                key = self.key,
                "the binder does not say that it closed this"
            );
        }
    }
}

/// What `order` comes to within [`PATIENCE`]. Later it is nobody's answer, but it
/// is carried out all the same, in its turn: what is not closed keeps an address
/// taken, and an old record lets old tickets in.
async fn patiently<T: Send + 'static>(
    order: impl Future<Output = T> + Send + 'static,
    late: &Arc<Semaphore>,
) -> Option<T> {
    let mut order = Box::pin(order);
    if let Ok(answer) = timeout(PATIENCE, &mut order).await {
        return Some(answer);
    }
    match Arc::clone(late).try_acquire_owned() {
        Ok(place) => {
            tokio::spawn(async move {
                order.await;
                drop(place);
            });
            None
        }
        Err(_) => Some(order.await),
    }
}

impl Drop for Deposit {
    fn drop(&mut self) {
        if self.over.load(Relaxed) {
            return;
        }
        let order = Order::Deposit(Change::Discard {
            key: self.key.clone(),
            listener_id: None,
            reply: oneshot::channel().0,
        });
        let sent = self.deposits.orders.try_send(order);
        if let Err(mpsc::error::TrySendError::Full(order)) = sent
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let orders = self.deposits.orders.clone();
            runtime.spawn(async move { orders.send(order).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deposits(orders: mpsc::Sender<Order>) -> Deposits {
        let standing = watch::channel(Standing::default()).1;
        Deposits::new(orders, standing, Refused::default())
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_orders_are_late() {
        let (orders, mut carried_out) = mpsc::channel(1);
        let deposit = deposits(orders).deposit("a");
        let tasks = tokio::runtime::Handle::current().metrics();
        let before = tasks.num_alive_tasks();
        for _ in 0..LATE {
            deposit.renew(Vec::new()).await;
        }
        assert_eq!(tasks.num_alive_tasks(), before + LATE);
        let mut one_more = Box::pin(deposit.renew(Vec::new()));
        let waited = timeout(PATIENCE * 100, &mut one_more).await;
        assert!(waited.is_err() && tasks.num_alive_tasks() == before + LATE);
        // The binder is back.
        let carry_out = async { while carried_out.recv().await.is_some() {} };
        tokio::select! {
            () = one_more => {}
            () = carry_out => unreachable!("somebody may ask still"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_late_is_done_all_the_same() {
        let (orders, mut carried_out) = mpsc::channel(1);
        let deposits = deposits(orders);
        let deposit = deposits.deposit("a");
        deposit.renew(b"new".to_vec()).await;
        // There is no room for this one.
        deposit.close().await;

        let mut next = async || carried_out.recv().await.expect("an order");
        assert!(matches!(next().await, Order::Deposit(Change::Keep { .. })));
        assert!(matches!(
            next().await,
            Order::Deposit(Change::Discard { .. })
        ));
    }
}
