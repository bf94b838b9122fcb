//! From one serve to the next: what a process leaves with the binder, and how its
//! successor goes on with it.
//!
//! ```text
//! while it serves:  sockets and a record of each session -> binder
//! when it is gone:  binder keeps them, for its --restart-grace
//! its successor:    binder -> the call's and the streaming socket, sessions, held
//! ```

mod own;
mod restore;

pub use own::{OwnSockets, endpoint};

use crate::binder::client::listening;
use crate::binder::deposits::{Content, Deposit, Left};
use crate::binder::{Binder, Bound};
use crate::endpoint::UnixEndpoint;
use crate::metrics;
use crate::session::{Record, Shared};
use socket2::SockRef;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use sternline_api::{Failure, Reason};
use tokio::net::UnixListener;
use tokio::time::{Instant, sleep};

/// Key of the call's socket.
pub const CALL: &str = "call";

/// Key of the streaming endpoint's socket.
pub const STREAMING: &str = "streaming";

/// What the address of a Unix socket begins with.
const UNIX: &str = "unix:";

/// How long the binder may be away when serve starts: it may be starting itself.
const AWAY: Duration = Duration::from_secs(4);

/// Pause before it is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a binder that is away when serve goes may take to come back, and to be
/// given everything.
const BACK: Duration = Duration::from_secs(3);

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

    /// A copy of the socket that was left under this key, if it was asked for in the
    /// same words, and what its record says.
    fn socket(&self, key: &str, asked: &str) -> Option<(&str, OwnedFd)> {
        let left = self.0.iter().find(|left| left.deposit.key() == key)?;
        let record = str::from_utf8(&left.content.record).ok()?;
        let (socket, descriptor) = left.content.sockets.first()?;
        let asked = (socket.address == asked).then_some(record)?;
        Some((asked, descriptor.try_clone().ok()?))
    }

    /// The Unix socket at `path` that was left under this key. Another one stays.
    pub fn unix(
        &mut self,
        key: &str,
        path: &Path,
    ) -> Option<(UnixListener, UnixEndpoint, Deposit)> {
        let (mark, socket) = self.socket(key, &path_text(path))?;
        let (listener, endpoint) = UnixEndpoint::adopt(path, mark, socket).ok()?;
        let Left { deposit, .. } = self.one(key)?;
        Some((listener, endpoint, deposit))
    }

    /// The TCP socket that was left under this key, if it was asked for as `asked`.
    /// Another one stays.
    pub fn tcp(&mut self, key: &str, asked: &str) -> Option<(TcpListener, Deposit)> {
        let (_, socket) = self.socket(key, asked)?;
        let listener = listening_as_asked(socket, asked.parse().ok()?)?;
        Some((listener, self.one(key)?.deposit))
    }

    /// Binds `asked` in place of what was left under this key, which is closed when
    /// that is done; before only if it is in the way.
    ///
    /// # Errors
    /// Those of `bind`.
    pub async fn instead<T>(
        &mut self,
        key: &str,
        asked: &str,
        bind: impl AsyncFn() -> io::Result<T>,
    ) -> io::Result<T> {
        let mut bound = bind().await;
        let in_use = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
        if bound.as_ref().is_err_and(in_use) && self.is_in_the_way(key, asked) {
            self.close(key).await;
            bound = bind().await;
        }
        if bound.is_ok() {
            self.close(key).await;
        }
        bound
    }

    /// Whether what was left under this key may be what has the address.
    fn is_in_the_way(&self, key: &str, asked: &str) -> bool {
        let left = self.0.iter().find(|left| left.deposit.key() == key);
        let Some((socket, descriptor)) = left.and_then(|left| left.content.sockets.first()) else {
            return false;
        };
        let bound = SockRef::from(descriptor).local_addr();
        let bound = bound.ok().and_then(|bound| bound.as_socket());
        let asked_port = asked.parse().map(|asked: SocketAddr| asked.port());
        socket.address == asked || bound.is_some_and(|bound| asked_port == Ok(bound.port()))
    }

    /// Closes what was left under this key, and removes its file if it has one.
    async fn close(&mut self, key: &str) {
        let Some(Left { deposit, content }) = self.one(key) else {
            return;
        };
        deposit.close().await;
        let mark = str::from_utf8(&content.record).unwrap_or_default();
        if let Some((socket, descriptor)) = content.sockets.into_iter().next()
            && let Some(path) = socket.address.strip_prefix(UNIX)
        {
            // Only if it is what is there still.
            drop(UnixEndpoint::adopt(Path::new(path), mark, descriptor));
        }
    }

    /// Goes on with the sessions, each held for its client; closes what cannot
    /// be gone on with.
    pub async fn sessions(mut self, binder: &Arc<dyn Binder>, shared: &Arc<Shared>) {
        let mut away = restore::Away::default();
        for left in std::mem::take(&mut self.0) {
            let key = left.deposit.key().to_owned();
            match restore::session(left, binder, shared, &mut away).await {
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
    format!("{UNIX}{}", path.display())
}

/// Whether everything of this process is left when it goes: its own sockets are
/// kept, and the binder is there and has all, now or in a moment.
pub async fn is_ready(binder: &dyn Binder, own: &OwnSockets) -> bool {
    // One that keeps nothing was told of when it was connected.
    let Some(deposits) = binder.deposits().filter(|one| one.grace().is_some()) else {
        return false;
    };
    let why = if !own.are_kept() {
        "the binder does not keep every socket of this server"
    } else if !deposits.has_all(BACK).await {
        "the binder is away"
    } else {
        return true;
    };
    tracing::warn!("{why}: the sessions are ended, not left to the next server");
    false
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
