//! From one serve to the next: what a process leaves with the binder, and how its
//! successor goes on with it.
//!
//! ```text
//! while it serves:  sockets and a record of each session -> binder
//! when it is gone:  binder keeps them, for its --restart-grace
//! its successor:    binder -> the call's and the streaming socket, sessions, held
//! ```

mod own;

pub use own::{OwnSockets, endpoint};

use crate::binder::client::listening;
use crate::binder::deposits::{Content, Deposit, Left};
use crate::binder::{Binder, Bound, Sandbox};
use crate::endpoint::UnixEndpoint;
use crate::metrics;
use crate::session::{self, Parts, Passes, Record, Shared};
use socket2::SockRef;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use sternline_api::{Failure, Reason};
use tokio::net::UnixListener;
use tokio::time::{Instant, sleep, timeout};

/// Key of the call's socket.
pub const CALL: &str = "call";

/// Key of the streaming endpoint's socket.
pub const STREAMING: &str = "streaming";

/// How long a client may take to come back when the binder does not say how long
/// it keeps things.
const GRACE: Duration = Duration::from_secs(10);

/// How long the binder may be away when serve starts: it may be starting itself.
const AWAY: Duration = Duration::from_secs(4);

/// Pause before it is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a binder that is away when serve goes may take to come back, and to be
/// given everything.
const BACK: Duration = Duration::from_secs(3);

/// How long the binder may take to watch a sandbox.
const WATCH: Duration = Duration::from_secs(5);

/// A ticket that was replaced so many PING intervals ago is void: its client has
/// the newer one.
const UNSURE_INTERVALS: u32 = 3;

/// What the serve before has left. What is not taken stays with the binder when
/// this is dropped.
#[derive(Debug, Default)]
pub struct Takeover(Vec<Left>);

impl Takeover {
    /// Asks the binder, if it keeps anything. One that is away is waited for.
    ///
    /// # Errors
    /// The serve before is there still, or there is no room for what it left.
    pub async fn begin(binder: &dyn Binder) -> Result<Self, Failure> {
        let Some(deposits) = binder.deposits() else {
            return Ok(Self::default());
        };
        let deadline = Instant::now() + AWAY;
        loop {
            match deposits.take().await {
                Ok(left) => return Ok(Self(left)),
                Err(failure) if failure.reason != Reason::RuntimeUnavailable => {
                    return Err(failure);
                }
                Err(_) if Instant::now() < deadline => sleep(PAUSE).await,
                // Without a binder nothing was kept.
                Err(failure) => {
                    tracing::warn!(%failure, "nothing is taken over");
                    return Ok(Self::default());
                }
            }
        }
    }

    fn one(&mut self, key: &str) -> Option<Left> {
        let at = self.0.iter().position(|left| left.deposit.key() == key)?;
        Some(self.0.swap_remove(at))
    }

    /// The Unix socket at `path` that was left under this key.
    pub async fn unix(
        &mut self,
        key: &str,
        path: &Path,
    ) -> Option<(UnixListener, UnixEndpoint, Deposit)> {
        let Left { deposit, content } = self.one(key)?;
        let adopted = own_socket(content, &path_text(path))
            .and_then(|(mark, socket)| UnixEndpoint::adopt(path, &mark, socket).ok());
        match adopted {
            Some((listener, endpoint)) => Some((listener, endpoint, deposit)),
            None => {
                deposit.close().await;
                None
            }
        }
    }

    /// The TCP socket that was left under this key, if it was asked for as `asked`.
    pub async fn tcp(&mut self, key: &str, asked: &str) -> Option<(TcpListener, Deposit)> {
        let Left { deposit, content } = self.one(key)?;
        let adopted = own_socket(content, asked)
            .and_then(|(_, socket)| listening_as_asked(socket, asked.parse().ok()?));
        if adopted.is_none() {
            deposit.close().await;
        }
        adopted.map(|listener| (listener, deposit))
    }

    /// Goes on with the sessions, each held for its client; closes what cannot
    /// be gone on with.
    pub async fn sessions(mut self, binder: &Arc<dyn Binder>, shared: &Arc<Shared>) {
        for left in std::mem::take(&mut self.0) {
            let key = left.deposit.key().to_owned();
            match restore(left, binder, shared).await {
                Ok(()) => metrics::taken_over(),
                Err(failure) => {
                    tracing::warn!(session = key, %failure, "a session of the server before is not gone on with");
                    metrics::session_ended(failure.reason);
                }
            }
        }
    }
}

impl Drop for Takeover {
    fn drop(&mut self) {
        for left in &self.0 {
            left.deposit.leave();
        }
    }
}

/// The socket of an endpoint, if it was asked for in the same words, and what its
/// record says.
fn own_socket(content: Content, asked: &str) -> Option<(String, OwnedFd)> {
    let record = String::from_utf8(content.record).ok()?;
    let (socket, descriptor) = content.sockets.into_iter().next()?;
    (socket.address == asked).then_some((record, descriptor))
}

/// The socket, if it listens where one would listen that is bound to `asked`: what
/// a serve left that somebody had taken over is not believed.
fn listening_as_asked(socket: OwnedFd, asked: SocketAddr) -> Option<TcpListener> {
    let bound = SockRef::from(&socket).local_addr().ok()?.as_socket()?;
    let port = asked.port() == 0 || asked.port() == bound.port();
    if bound.ip() != asked.ip() || !port {
        return None;
    }
    listening(socket, bound).ok()
}

/// A path as the address of a socket.
#[must_use]
pub fn path_text(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// Whether the binder is there and has everything that is to be left, now or in a
/// moment.
pub async fn is_ready(binder: &dyn Binder) -> bool {
    match binder.deposits() {
        None => false,
        Some(deposits) => {
            let ready = deposits.has_all(BACK).await;
            if !ready {
                tracing::warn!(
                    "the binder is away: the sessions are ended, not left to the next server"
                );
            }
            ready
        }
    }
}

/// Leaves a new session with the binder, where that is possible.
pub async fn deposit(binder: &dyn Binder, bound: &Bound, record: &Record) -> Option<Deposit> {
    let deposits = binder.deposits()?;
    match Content::of(bound, record.encode()) {
        // Told, and counted, where the binder refuses.
        Ok(content) => deposits.put(&record.id, content).await.ok(),
        Err(error) => {
            tracing::warn!(session = record.id, %error, "no descriptor is left to be kept for a restart");
            metrics::not_kept();
            None
        }
    }
}

async fn restore(
    left: Left,
    binder: &Arc<dyn Binder>,
    shared: &Arc<Shared>,
) -> Result<(), Failure> {
    let Left { deposit, content } = left;
    let record = Record::decode(&content.record);
    let restored = async {
        let mut record = record?;
        record.hold = record.hold.min(shared.limits.max_hold);
        let bad = |why: &str| Failure::new(Reason::Internal, format!("what was left {why}"));
        let watched = content.watched.clone();
        let watched = watched.ok_or_else(|| bad("is in no sandbox"))?;
        shared.audit.admit()?;
        let mut slot = shared.registry.slot()?;
        let sandbox = Sandbox {
            id: watched.id.clone(),
            pod: record.pod.clone(),
        };
        slot.enter(&sandbox)?;
        let namespace = watched.namespace;
        let gone = timeout(WATCH, binder.watch(watched)).await;
        let gone = gone.map_err(|_| bad("is in a sandbox that cannot be watched"))??;
        let sockets = content
            .into_bound()
            .map_err(|error| bad(&error.to_string()))?;
        if !shared.allow_wide_bind {
            refuse_wide(sockets.iter().map(|one| one.addr))?;
        }
        Ok((
            record,
            slot,
            Bound {
                sandbox,
                namespace,
                sockets,
                gone,
            },
        ))
    };
    let (record, slot, bound) = match restored.await {
        Ok(restored) => restored,
        Err(failure) => {
            deposit.close().await;
            return Err(failure);
        }
    };
    let grace = deposit.grace().unwrap_or(GRACE);
    let session = session::start(
        Parts {
            id: record.id.clone(),
            bound,
            requester: record.requester.clone(),
            labels: record.labels.clone(),
            hold: record.hold,
            slot,
            binder: Arc::clone(binder),
            created_at: record.created_at,
            passes: passes(&record, grace, shared, SystemTime::now()),
            deposit: Some(deposit),
        },
        shared,
    )?;
    tracing::info!(
        session = session.id,
        sandbox = session.sandbox.id,
        "taken over from the server before"
    );
    Ok(())
}

/// The serve before may have been allowed what this one is not.
fn refuse_wide(mut addresses: impl Iterator<Item = SocketAddr>) -> Result<(), Failure> {
    match addresses.find(|addr| !addr.ip().is_loopback()) {
        None => Ok(()),
        Some(wide) => Err(Failure::new(
            Reason::WideBindDenied,
            format!(
                "{wide} lets others than the pod connect, which this server does not allow (--allow-wide-bind)"
            ),
        )),
    }
}

/// What the session's client may come with, and how long it may take.
fn passes(record: &Record, grace: Duration, shared: &Shared, now: SystemTime) -> Passes {
    let since = |then: SystemTime| now.duration_since(then).unwrap_or_default();
    if !record.attached {
        let left = shared
            .limits
            .token_ttl
            .saturating_sub(since(record.created_at));
        // It may be that nobody was ever told of it.
        let left = left.min(grace);
        return Passes::LeftToken(record.pass, left);
    }
    let unsure = shared.limits.ping_interval * UNSURE_INTERVALS + grace;
    let previous = record.previous.filter(|(_, at)| since(*at) <= unsure);
    let tickets = [Some(record.pass), previous.map(|(pass, _)| pass)];
    let tickets = tickets.into_iter().flatten().collect();
    Passes::Left(tickets, record.hold.max(grace))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Pass, Verifier};
    use crate::limits::Limits;
    use sternline_api::v1alpha1 as pb;

    const SECOND: Duration = Duration::from_secs(1);

    fn verifier() -> Verifier {
        (&Pass::generate().expect("random")).into()
    }

    fn record(now: SystemTime) -> Record {
        Record {
            id: "0123456789ab".to_owned(),
            pod: None,
            requester: pb::Requester::default(),
            labels: std::collections::BTreeMap::new(),
            hold: Duration::ZERO,
            created_at: now,
            attached: true,
            pass: verifier(),
            previous: Some((verifier(), now)),
        }
    }

    #[test]
    fn a_client_has_the_longer_of_hold_and_grace() {
        let (shared, now) = (Shared::new(Limits::default()), SystemTime::now());
        for (hold, wait) in [(0, 10), (3, 10), (60, 60)] {
            let record = Record {
                hold: SECOND * hold,
                ..record(now)
            };
            match passes(&record, SECOND * 10, &shared, now) {
                Passes::Left(tickets, waits) => {
                    assert_eq!(tickets, [record.pass, record.previous.expect("one").0]);
                    assert_eq!(waits, SECOND * wait, "hold {hold} s");
                }
                _ => panic!("a client was there"),
            }
        }
    }

    #[test]
    fn a_socket_that_listens_elsewhere_is_not_taken_over() {
        let bound = |addr: &str| TcpListener::bind(addr).expect("a port");
        let taken = |socket: TcpListener, asked: &str| {
            listening_as_asked(socket.into(), asked.parse().expect("address")).is_some()
        };
        assert!(taken(bound("127.0.0.1:0"), "127.0.0.1:0"));
        assert!(!taken(bound("0.0.0.0:0"), "127.0.0.1:0"), "beyond loopback");
        assert!(!taken(bound("127.0.0.1:0"), "127.0.0.1:1"), "another port");
        let listener = bound("127.0.0.1:0");
        let open = std::net::TcpStream::connect(listener.local_addr().expect("bound"));
        let open = OwnedFd::from(open.expect("it listens"));
        assert!(listening_as_asked(open, "127.0.0.1:0".parse().expect("address")).is_none());
    }

    #[test]
    fn what_is_no_longer_allowed_is_not_gone_on_with() {
        let check = |addresses: &[&str]| {
            let parsed = addresses.iter().map(|one| one.parse().expect("address"));
            refuse_wide(parsed)
        };
        check(&["127.0.0.1:80", "[::1]:80", "127.8.0.1:1"]).expect("the pod's alone");
        for wide in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80"] {
            let refused = check(&["127.0.0.1:80", wide]).expect_err("wide");
            assert_eq!(refused.reason, Reason::WideBindDenied);
            assert!(refused.message.contains(wide), "{refused}");
        }
    }

    #[test]
    fn a_ticket_that_was_replaced_long_ago_is_void() {
        let (shared, now) = (Shared::new(Limits::default()), SystemTime::now());
        let record = record(now);
        match passes(&record, SECOND, &shared, now + SECOND * 60) {
            Passes::Left(tickets, _) => assert_eq!(tickets, [record.pass]),
            _ => panic!("a client was there"),
        }
    }

    #[test]
    fn a_token_lives_no_longer_for_a_restart() {
        let (shared, now) = (Shared::new(Limits::default()), SystemTime::now());
        let record = Record {
            attached: false,
            ..record(now)
        };
        for (after, left) in [(0, 50), (20, 40), (70, 0)] {
            match passes(&record, SECOND * 50, &shared, now + SECOND * after) {
                Passes::LeftToken(token, wait) => {
                    assert_eq!((token, wait), (record.pass, SECOND * left));
                }
                _ => panic!("nobody was there"),
            }
        }
    }
}
