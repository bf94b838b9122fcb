//! A binder in another process, reached over its Unix socket.
//!
//! One task owns the connection (`link`). When it is lost the sessions stay:
//! their sockets are this process's own. The task connects again, with growing
//! pauses, and has the same sandboxes watched again; until then every request
//! fails with a sentence that says so.

mod kept;
mod link;
mod pending;

use super::deposits::{Content, Deposits, Refused, Standing};
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
        new: New,
        sockets: Vec<(Socket, OwnedFd)>,
        record: Option<Vec<u8>>,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    Discard {
        key: String,
        listener_id: Option<u32>,
        reply: oneshot::Sender<()>,
    },
}

/// What a change adds to.
pub(super) enum New {
    /// Nothing: this is the first of its key, which is in this sandbox or in none.
    Entry(Option<Watched>),
    /// What is kept under its key; if that is nothing, neither is this.
    Part,
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
        let (keeps, standing) = watch::channel(Standing::default());
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
        let deposits = (!name.is_empty()).then(|| Deposits::new(orders.clone(), standing, refused));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binder::channel::Channel;
    use crate::binder::server::Endpoint;
    use crate::binder::wire::{self, answer, ask};
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::net::UnixListener;

    /// A binder of before anything was kept: it knows neither the words for that
    /// nor the fields of the greeting.
    async fn older(listener: UnixListener) {
        let (stream, _) = listener.accept().await.expect("a connection");
        let channel = Channel::from(stream);
        while let Some(packet) = channel.receive().await.expect("readable") {
            let (id, what) = wire::decode_ask(&packet.bytes).expect("ours");
            let what = match what {
                ask::What::Hello(_) => answer::What::Welcome(wire::Hello {
                    version: wire::VERSION,
                    ..wire::Hello::default()
                }),
                ask::What::Status(_) => answer::What::Status(wire::Status::default()),
                // It closes the connection.
                other => panic!("{other:?}"),
            };
            let packet = wire::encode_answer(id, what);
            channel.send(&packet, &[]).await.expect("sent");
        }
    }

    #[tokio::test]
    async fn what_it_turned_away_is_counted_once() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let metrics = recorder.handle();
        let _recorder = ::metrics::set_default_local_recorder(&recorder);
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("s");
        let (listener, _endpoint) = Endpoint::bind(&path, None).expect("bound");
        let listener = UnixListener::from_std(listener.into()).expect("ours");
        let binder = ProcessBinder::new(&path);
        let channel = greeted(&listener).await;
        for (strangers, counted) in [(2, 2), (2, 2), (5, 5), (1, 6)] {
            let answering = async {
                let packet = channel.receive().await.expect("readable");
                let packet = packet.expect("a question");
                let (id, _) = wire::decode_ask(&packet.bytes).expect("ours");
                let turned_away = wire::TurnedAway {
                    strangers,
                    ..wire::TurnedAway::default()
                };
                let status = wire::Status {
                    turned_away: Some(turned_away),
                    ..wire::Status::default()
                };
                let packet = wire::encode_answer(id, answer::What::Status(status));
                channel.send(&packet, &[]).await.expect("sent");
            };
            let (status, ()) = tokio::join!(binder.status(), answering);
            assert_eq!(status.trouble, None);
            let line =
                format!("sternline_binder_turned_away_total{{what=\"strangers\"}} {counted}\n");
            let page = metrics.render();
            assert!(page.contains(&line), "{page}");
        }
    }

    #[tokio::test]
    async fn what_is_said_of_one_that_is_away_is_a_sentence() {
        let binder = ProcessBinder::new(Path::new("/nonexistent/binder.sock"));
        let nobody = SandboxTarget::Id("web".to_owned());
        let failure = binder.find(&nobody).await.expect_err("it is away");
        let said =
            "the binder at /nonexistent/binder.sock cannot be asked: No such file or directory; ";
        assert!(failure.message.starts_with(said), "{failure}");
    }

    /// Greets as a binder that keeps things for a minute.
    async fn greeted(listener: &UnixListener) -> Channel {
        let (stream, _) = listener.accept().await.expect("a connection");
        let channel = Channel::from(stream);
        let hello = channel
            .receive()
            .await
            .expect("readable")
            .expect("a packet");
        let (id, _) = wire::decode_ask(&hello.bytes).expect("ours");
        let welcome = answer::What::Welcome(wire::Hello {
            version: wire::VERSION,
            restart_grace_ms: 60_000,
            ..wire::Hello::default()
        });
        let packet = wire::encode_answer(id, welcome);
        channel.send(&packet, &[]).await.expect("sent");
        channel
    }

    /// The key of what is to be kept next; none when the connection is over.
    async fn asked(channel: &Channel) -> Option<String> {
        let packet = channel.receive().await.expect("readable")?;
        match wire::decode_ask(&packet.bytes).expect("ours").1 {
            ask::What::Keep(keep) => Some(keep.key),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_freezes_is_given_up_and_the_next_given_everything() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("s");
        let (listener, _endpoint) = Endpoint::bind(&path, None).expect("bound");
        let listener = UnixListener::from_std(listener.into()).expect("ours");
        let binder = ProcessBinder::named(&path, "one");
        let deposits = binder.deposits().expect("a name");
        let serving = async {
            let frozen = greeted(&listener).await;
            assert_eq!(asked(&frozen).await.as_deref(), Some("s1"));
            // Without a word.
            assert_eq!(asked(&frozen).await, None);
            let next = greeted(&listener).await;
            assert_eq!(asked(&next).await.as_deref(), Some("s1"));
        };
        let both = async { tokio::join!(deposits.put("s1", Content::default()), serving) };
        let (deposit, ()) = timeout(Duration::from_secs(600), both)
            .await
            .expect("in time");
        deposit.expect("nothing failed").leave();
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_freezes_with_all_it_can_be_asked_is_given_up_too() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("s");
        let (listener, _endpoint) = Endpoint::bind(&path, None).expect("bound");
        let listener = UnixListener::from_std(listener.into()).expect("ours");
        let binder = ProcessBinder::named(&path, "one");
        let deposits = binder.deposits().expect("a name");
        let serving = async {
            let frozen = greeted(&listener).await;
            while frozen.receive().await.expect("readable").is_some() {}
            let next = greeted(&listener).await;
            assert_eq!(asked(&next).await.as_deref(), Some("s1"));
        };
        let asking = async {
            let all = (0..link::MAX_PENDING).map(|_| binder.status());
            let answers = futures_util::future::join_all(all).await;
            assert!(answers.iter().all(|one| one.trouble.is_some()));
            // Nobody waits for those any more.
            assert!(!deposits.has_all(Duration::ZERO).await);
            deposits.put("s1", Content::default()).await
        };
        let both = async { tokio::join!(asking, serving) };
        let (deposit, ()) = timeout(Duration::from_secs(600), both)
            .await
            .expect("in time");
        deposit.expect("nothing failed").leave();
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_that_this_process_serves() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("s");
        let (listener, _endpoint) = Endpoint::bind(&path, None).expect("bound");
        let listener = UnixListener::from_std(listener.into()).expect("ours");
        let binder = ProcessBinder::named(&path, "one");
        let deposits = binder.deposits().expect("a name");
        let serving = async {
            let channel = greeted(&listener).await;
            for _ in 0..2 {
                assert_eq!(asked(&channel).await.as_deref(), Some("call"));
            }
        };
        let asking = async {
            let mut own = crate::takeover::OwnSockets::default();
            own.add(
                Some(deposits.put_own("call", Content::default()).await),
                None,
            );
            own.renew().await;
            own
        };
        let (_own, ()) = tokio::join!(asking, serving);
    }

    #[tokio::test]
    async fn one_that_keeps_nothing_is_not_asked_for_what_was_left() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("s");
        let (listener, _endpoint) = Endpoint::bind(&path, None).expect("bound");
        let listener = UnixListener::from_std(listener.into()).expect("ours");
        let older = tokio::spawn(older(listener));
        let binder = ProcessBinder::named(&path, "one");
        let deposits = binder.deposits().expect("a name");
        assert!(deposits.take().await.expect("answered").is_empty());
        let deposit = deposits.put("s1", Content::default()).await;
        deposit.expect("nothing failed").close().await;
        assert_eq!(binder.status().await.trouble, None);
        assert!(!older.is_finished(), "it understood everything");
    }
}
