//! The sockets on which serve listens for its own clients, as the binder keeps them.

use crate::binder::Binder;
use crate::binder::deposits::{Content, Deposit};
use crate::binder::wire::Socket;
use crate::endpoint::UnixEndpoint;
use crate::metrics;
use std::os::fd::AsFd;

/// This process's own sockets. Dropped before their [end](Self::end), what the
/// binder keeps of them is left to the next process: also by a start that fails.
#[derive(Debug, Default)]
pub struct OwnSockets(Vec<Own>);

#[derive(Debug)]
struct Own {
    deposit: Option<Deposit>,
    /// Its file, if it has one.
    endpoint: Option<UnixEndpoint>,
}

impl OwnSockets {
    /// One more; without a deposit it is not kept.
    pub fn add(&mut self, deposit: Option<Deposit>, endpoint: Option<UnixEndpoint>) {
        self.0.push(Own { deposit, endpoint });
    }

    /// Whether a next process could go on with all of them.
    #[must_use]
    pub fn are_kept(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(Own::is_kept)
    }

    /// Tells the binder that this process serves: what it took over is its own from
    /// now on, with the whole grace.
    pub async fn renew(&self) {
        for deposit in self.0.iter().filter_map(|own| own.deposit.as_ref()) {
            deposit.add(Vec::new()).await;
        }
    }

    /// Has them closed, and their files removed: there is no next process.
    pub async fn end(mut self) {
        for own in std::mem::take(&mut self.0) {
            if let Some(deposit) = &own.deposit {
                deposit.close().await;
            }
        }
    }
}

impl Own {
    fn is_kept(&self) -> bool {
        let deposit = self.deposit.as_ref();
        deposit.is_some_and(|deposit| deposit.grace().is_some())
    }
}

impl Drop for OwnSockets {
    fn drop(&mut self) {
        for own in std::mem::take(&mut self.0) {
            let kept = own.is_kept();
            if let Some(deposit) = own.deposit {
                deposit.leave();
            }
            if let Some(endpoint) = own.endpoint.filter(|_| kept) {
                endpoint.leave();
            }
        }
    }
}

/// Leaves an endpoint's socket with the binder: what was asked for, and what its
/// successor is to know. Where the binder refuses it is tried again, when there is
/// room and with the next binder.
pub async fn endpoint(
    binder: &dyn Binder,
    key: &str,
    socket: impl AsFd,
    asked: String,
    record: String,
) -> Option<Deposit> {
    let deposits = binder.deposits()?;
    let descriptor = socket.as_fd().try_clone_to_owned();
    let descriptor = descriptor.inspect_err(|error| {
        tracing::warn!(key, %error, "no descriptor is left to be kept for a restart");
        metrics::not_kept();
    });
    let named = Socket {
        listener_id: 0,
        address: asked,
    };
    let content = Content {
        sockets: vec![(named, descriptor.ok()?)],
        record: record.into_bytes(),
        watched: None,
    };
    Some(deposits.put_own(key, content).await)
}
