//! Waiting and comparing, with errors that say what was wanted.

use anyhow::{Result, bail};
use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// Asks `probe` again and again until it has an answer.
///
/// # Errors
/// `within` is over; the error names `what` was waited for.
pub(crate) async fn until<T, F>(
    what: &str,
    within: Duration,
    mut probe: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let start = Instant::now();
    loop {
        if let Some(answer) = probe().await? {
            return Ok(answer);
        }
        if start.elapsed() > within {
            bail!("waited {within:?} in vain for {what}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `assert_eq!` as an error, so that a story ends tidily.
///
/// # Errors
/// They differ.
#[expect(clippy::needless_pass_by_value, reason = "reads as assert_eq! does")]
pub(crate) fn same<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    bail!("{what}: found {found:?}, expected {expected:?}")
}

/// Whether something measured reaches what it must.
///
/// # Errors
/// It does not.
#[expect(clippy::needless_pass_by_value, reason = "reads as assert_eq! does")]
pub(crate) fn is_at_least<T: PartialOrd + Debug>(what: &str, found: T, least: T) -> Result<()> {
    if found >= least {
        return Ok(());
    }
    bail!("{what}: found {found:?}, expected at least {least:?}")
}

/// Whether `text` says `part`.
///
/// # Errors
/// It does not; the error shows the text.
pub(crate) fn says(what: &str, text: &str, part: &str) -> Result<()> {
    if text.contains(part) {
        return Ok(());
    }
    bail!("{what} does not say {part:?}, but:\n{text}")
}
