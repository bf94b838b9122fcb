//! The binder as a process: lets serve in, and nobody else.

mod connection;
mod endpoint;
mod keeper;

pub use endpoint::Endpoint;
pub use keeper::KeepLimits;

use super::{Binder, channel::Channel, wire};
use connection::Connection;
use keeper::Keeper;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use sternline_api::{Failure, Reason};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long to wait when the kernel gives no connection although one waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the binder allows. Each is a flag of `sternline-shim binder`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections at once. One serve has one; during an upgrade there are two.
    pub connections: u32,
    /// Requests of one connection that are under way.
    pub requests: u32,
    /// Sandboxes that one connection may have watched, one for each session.
    pub watches: u32,
    /// What is kept for the next serve.
    pub keep: KeepLimits,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 4,
            requests: 64,
            watches: 4096,
            keep: KeepLimits::default(),
        }
    }
}

/// How often each limit was hit, and strangers were turned away.
#[derive(Debug, Default)]
pub struct Refusals {
    strangers: AtomicU64,
    connections: AtomicU64,
    requests: AtomicU64,
    watches: AtomicU64,
    kept: AtomicU64,
}

impl Refusals {
    /// All of it, to be told.
    fn so_far(&self) -> wire::TurnedAway {
        wire::TurnedAway {
            strangers: self.strangers.load(Relaxed),
            connections: self.connections.load(Relaxed),
            requests: self.requests.load(Relaxed),
            watches: self.watches.load(Relaxed),
            kept: self.kept.load(Relaxed),
        }
    }
}

/// Who may come in.
#[derive(Clone, Copy, Debug)]
pub struct Guests {
    /// The binder's own user.
    pub own: u32,
    /// The user that serve runs as.
    pub serve: Option<u32>,
}

impl Guests {
    fn admit(self, uid: u32) -> bool {
        uid == self.own || Some(uid) == self.serve
    }
}

/// Serves `binder` on a socket.
pub struct Server {
    listener: UnixListener,
    shared: Arc<Shared>,
    guests: Guests,
}

/// What all connections share.
struct Shared {
    binder: Arc<dyn Binder>,
    limits: ServerLimits,
    refusals: Refusals,
    keeper: Arc<Keeper>,
}

impl Server {
    /// Over a socket that listens. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// The runtime does not take the socket.
    pub fn new(
        listener: OwnedFd,
        binder: Arc<dyn Binder>,
        guests: Guests,
        limits: ServerLimits,
    ) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        Ok(Self {
            listener: UnixListener::from_std(listener.into())?,
            shared: Arc::new(Shared {
                keeper: Keeper::new(limits.keep, Arc::clone(&binder)),
                binder,
                limits,
                refusals: Refusals::default(),
            }),
            guests,
        })
    }

    /// Serves until `stop`; then everything that was asked for is dropped.
    pub async fn run(self, stop: CancellationToken) {
        let room = Arc::new(Semaphore::new(self.shared.limits.connections as usize));
        let tasks = TaskTracker::new();
        while let Some(accepted) = stop.run_until_cancelled(self.accept()).await {
            let channel = match accepted {
                Ok(channel) => channel,
                Err(error) => {
                    tracing::warn!(%error, "no connection could be accepted, trying again");
                    stop.run_until_cancelled(sleep(ACCEPT_PAUSE)).await;
                    continue;
                }
            };
            let Some(peer) = self.identify(&channel) else {
                continue;
            };
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                self.turn_away(&channel);
                continue;
            };
            let connection = Connection::new(channel, peer.1, Arc::clone(&self.shared));
            let stop = stop.clone();
            tasks.spawn(async move {
                tracing::info!(pid = peer.0, uid = peer.1, "serve is connected");
                let end = stop.run_until_cancelled(connection.run()).await;
                let end = end.map_or_else(|| "shutting down".to_owned(), |end| end.to_string());
                tracing::info!(pid = peer.0, uid = peer.1, end, "serve is gone");
                drop(place);
            });
        }
        tasks.close();
        tasks.wait().await;
        self.shared.keeper.clear();
    }

    async fn accept(&self) -> io::Result<Channel> {
        let (stream, _) = self.listener.accept().await?;
        Ok(Channel::from(stream))
    }

    /// Process and user at the other end, as the kernel knows them since it
    /// connected; nothing for strangers, who are turned away without a word. The
    /// process is 0 where it has no number here: in another container of the pod.
    fn identify(&self, channel: &Channel) -> Option<(i32, u32)> {
        match getsockopt(channel, PeerCredentials) {
            Ok(peer) if self.guests.admit(peer.uid()) => Some((peer.pid(), peer.uid())),
            Ok(peer) => {
                let so_far = self.shared.refusals.strangers.fetch_add(1, Relaxed) + 1;
                tracing::warn!(
                    pid = peer.pid(),
                    uid = peer.uid(),
                    so_far,
                    "a process of another user was turned away (--serve-uid)"
                );
                None
            }
            Err(error) => {
                tracing::warn!(%error, "a process that the kernel does not name was turned away");
                None
            }
        }
    }

    fn turn_away(&self, channel: &Channel) {
        let most = self.shared.limits.connections;
        let so_far = self.shared.refusals.connections.fetch_add(1, Relaxed) + 1;
        tracing::warn!(
            most,
            so_far,
            "a connection was turned away (--max-connections)"
        );
        let full = Failure::new(
            Reason::RuntimeUnavailable,
            format!("the binder has {most} connections, which is its limit (--max-connections)"),
        );
        let what = wire::answer::What::Failed(full.into());
        // It is gone, or reads nothing: either is its own affair.
        let _ = channel.try_send(&wire::encode_answer(0, what));
    }
}

#[cfg(test)]
mod tests;
