//! Connections turned away since the client was last told.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use sternline_api::Reason;

/// Counts by reason and listener; as many entries as a session has listeners,
/// times the few reasons.
#[derive(Debug, Default)]
pub(super) struct Rejections(Mutex<BTreeMap<(Reason, u32), u64>>);

impl Rejections {
    /// One more.
    pub(super) fn add(&self, reason: Reason, listener_id: u32) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((reason, listener_id)).or_default() += 1;
    }

    /// So many that could not be told.
    pub(super) fn put_back(&self, (reason, listener_id): (Reason, u32), count: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((reason, listener_id)).or_default() += count;
    }

    /// What there is to tell, and starts again from nothing.
    pub(super) fn take(&self) -> BTreeMap<(Reason, u32), u64> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
