//! A server of one's own making, and the built program to set on it.
//!
//! [`Fake`] serves the call on a Unix socket and hands every connection of its
//! streaming endpoint to a script. [`Node`] is the well-behaved script: it
//! upgrades, announces, and then does what the test says.

mod cluster;
mod fake;
mod node;
mod program;
mod target;
mod tls;

pub use cluster::{Cluster, pod, status};
pub use fake::{Fake, Raw};
pub use node::{Node, Tunnel};
pub use program::{Program, Run};
pub use target::{echo, exchange};
pub use tls::{Authority, Front};

use std::time::Duration;

/// No step of a test takes longer; a test that meets it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `future`, and fails the test with `what` if it takes too long.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}
