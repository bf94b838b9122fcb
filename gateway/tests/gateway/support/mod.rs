//! What the stories stand on.

// The shim's own tests stand on it.
#[allow(dead_code, reason = "those use more of it")]
#[path = "../../../../shim/tests/serve_stories/support/binder.rs"]
pub(crate) mod binder;
pub(crate) mod client;
pub(crate) mod cluster;
#[path = "../../../src/kube/fake.rs"]
mod fake;
pub(crate) mod pki;
pub(crate) mod shim;
pub(crate) mod tunnel;

pub(crate) use fake::Fake;
// What the fake is written against.
use sternline_gateway::kube::{Answer, Api, ApiError, Ask, Verb};

use std::time::Duration;

/// How long anything may take on a slow, busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Waits for `what` until it says something.
pub(crate) async fn until<T>(mut what: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = what().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(LONG, found).await;
    found.expect("in time")
}
