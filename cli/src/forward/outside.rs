//! What a forward reaches outside its process. It stands behind a trait, so
//! that a simulation can put another world in its place.

use super::dial;
pub use super::dial::{Reached, Relays};
use super::setup;
use crate::connect::{ByteStream, Server, Trust, Way, open};
use crate::fault::Fault;
use crate::spec::Target;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use sternline_api::Failure;

/// What each way out answers with, later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The node and the targets of a forward.
pub trait Outside: fmt::Debug + Send + Sync + 'static {
    /// Opens the byte stream of a session, within `limit`.
    fn open<'a>(&'a self, way: &'a Way, limit: Duration) -> Later<'a, Result<ByteStream, Fault>>;

    /// Dials a target, within `limit`.
    fn dial<'a>(
        &'a self,
        target: &'a Target,
        limit: Duration,
    ) -> Later<'a, Result<Reached, Failure>>;

    /// Asks the node to end a session that nobody will come back to; whether it
    /// did is only logged.
    fn release<'a>(&'a self, session_id: &'a str) -> Later<'a, ()>;
}

/// This machine and the shim on it.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) server: Server,
    pub(super) trust: Trust,
}

impl Outside for Machine {
    fn open<'a>(&'a self, way: &'a Way, limit: Duration) -> Later<'a, Result<ByteStream, Fault>> {
        Box::pin(async move {
            match way {
                Way::Url(url) => open(url, &self.trust, limit).await,
                Way::Pod(_) => Err(Fault::protocol(
                    "a pod is reached through its cluster alone",
                )),
            }
        })
    }

    fn dial<'a>(
        &'a self,
        target: &'a Target,
        limit: Duration,
    ) -> Later<'a, Result<Reached, Failure>> {
        Box::pin(dial::dial(target, limit))
    }

    fn release<'a>(&'a self, session_id: &'a str) -> Later<'a, ()> {
        Box::pin(setup::release(&self.server, session_id))
    }
}
