//! The audit log of a shim, read back.

use super::{SOON, until};
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::path::Path;

/// Every whole line of a log, each as JSON.
///
/// # Errors
/// There is no log, or a line is no JSON.
pub(crate) fn records(log: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(log).with_context(|| log.display().to_string())?;
    let end = text.rfind('\n').map_or(0, |at| at + 1);
    let parse = |line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}"));
    text[..end].lines().map(parse).collect()
}

/// The records of an event, once there are as many.
///
/// # Errors
/// There are fewer after a while.
pub(crate) async fn told(log: &Path, event: &str, count: usize) -> Result<Vec<Value>> {
    let what = format!("{count} x {event} in the audit log");
    until(&what, SOON, || async {
        let mut all = records(log)?;
        all.retain(|record| record["event"] == event);
        Ok((all.len() >= count).then_some(all))
    })
    .await
}
