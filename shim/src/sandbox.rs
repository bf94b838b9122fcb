//! Where sandboxes come from.
//!
//! [`cri`] finds them through a container runtime, [`standalone`] takes named
//! network namespaces for sandboxes. Both look the same from outside.

pub mod cri;
pub mod standalone;

use crate::{
    binder::{BinderStatus, Sandbox, SandboxTarget},
    netns::{NamespaceId, Netns},
};
use sternline_api::{Failure, Reason};

/// A sandbox whose namespace may be entered.
#[derive(Debug)]
pub struct Resolved {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// Its namespace, open and checked: ready, not the node's own.
    pub netns: Netns,
}

/// A sandbox that has listeners.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Watched {
    /// Its full id.
    pub id: String,
    /// The namespace that the listeners are in. They keep its number from being
    /// used again.
    pub namespace: NamespaceId,
}

/// What became of a watched sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It is as it was.
    Alive,
    /// It stopped, was removed or lost its namespace, as the sentence says.
    Gone(String),
    /// It cannot be told at the moment, for the reason given. Never an end.
    Unknown(String),
}

/// A source of sandboxes.
#[tonic::async_trait]
pub trait SandboxSource: Send + Sync + 'static {
    /// Finds a sandbox, whatever its state.
    ///
    /// # Errors
    /// A malformed, unknown or ambiguous target, or a source that does not answer.
    async fn find(&self, target: &SandboxTarget) -> Result<Sandbox, Failure>;

    /// Finds a sandbox that may be entered, and opens its namespace.
    ///
    /// # Errors
    /// As [`SandboxSource::find`]; a sandbox that is not ready, has no namespace
    /// of its own, or is of a kind that cannot be entered.
    async fn resolve(&self, target: &SandboxTarget) -> Result<Resolved, Failure>;

    /// Looks after all of these at once; answers in the same order.
    async fn check(&self, watched: &[Watched]) -> Vec<Liveness>;

    /// How the source is.
    async fn status(&self) -> BinderStatus;
}

/// How many sandboxes an ambiguous prefix names in its refusal.
const CANDIDATES_SHOWN: usize = 4;

fn invalid(message: String) -> Failure {
    Failure::new(Reason::InvalidRequest, message)
}

/// The refusal of a prefix that fits `total` sandboxes, some of them named.
fn ambiguous(prefix: &str, total: usize, mut some: Vec<String>) -> Failure {
    some.sort();
    some.truncate(CANDIDATES_SHOWN);
    let more = if total > some.len() { ", ..." } else { "" };
    let message = format!(
        "sandbox {prefix} is not one but {total}: {}{more}; give more of the id",
        some.join(", ")
    );
    Failure::new(Reason::SandboxAmbiguous, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ambiguous_prefix_names_a_few() {
        let names: Vec<String> = (0..9).rev().map(|n| format!("web-{n}")).collect();
        let failure = ambiguous("web", 9, names);
        assert_eq!(failure.reason, Reason::SandboxAmbiguous);
        assert_eq!(
            failure.message,
            "sandbox web is not one but 9: web-0, web-1, web-2, web-3, ...; give more of the id"
        );
        let failure = ambiguous("web", 2, vec!["web-1".into(), "web-2".into()]);
        assert!(failure.message.contains("web-1, web-2; "), "{failure}");
    }
}
