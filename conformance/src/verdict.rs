//! How a spec ends: what was expected, what was seen, and the ways to say so.

use std::{fmt::Display, time::Duration};

/// Why a spec did not pass.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// The implementation does not do what the requirement says.
    Failed {
        /// What the requirement asks for here.
        expected: String,
        /// What happened instead.
        seen: String,
    },
    /// The spec does not apply to this implementation or set-up.
    Skipped(String),
    /// The suite could not do its part.
    Broken(String),
    /// What the suite was given to work with failed: nothing is known of the
    /// implementation.
    Environment(String),
}

/// What every step of a spec answers.
pub(crate) type Step<T = ()> = Result<T, Verdict>;

/// A failure.
pub(crate) fn failed<T>(expected: impl Into<String>, seen: impl Into<String>) -> Step<T> {
    Err(Verdict::Failed {
        expected: expected.into(),
        seen: seen.into(),
    })
}

/// A reason not to run.
pub(crate) fn skip<T>(why: impl Into<String>) -> Step<T> {
    Err(Verdict::Skipped(why.into()))
}

/// Turns an error of the suite's own surroundings into [`Verdict::Broken`].
pub(crate) fn broken(what: &str) -> impl Fn(std::io::Error) -> Verdict + '_ {
    move |error| Verdict::Broken(format!("{what}: {error}"))
}

/// Fails unless `fact` holds.
pub(crate) fn check(fact: bool, expected: &str, seen: impl Display) -> Step {
    match fact {
        true => Ok(()),
        false => failed(expected, seen.to_string()),
    }
}

/// Waits for `future`, at most for `patience`.
pub(crate) async fn within<T>(
    patience: Duration,
    expected: &str,
    future: impl Future<Output = T>,
) -> Step<T> {
    match tokio::time::timeout(patience, future).await {
        Ok(done) => Ok(done),
        Err(_) => failed(expected, format!("nothing within {patience:?}")),
    }
}
