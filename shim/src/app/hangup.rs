//! SIGHUP: look again at what can be replaced while the shim runs. It never ends
//! anything.

use crate::audit::Audit;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The SIGHUPs that come from now on.
#[derive(Debug)]
pub(crate) struct Hangups(Signal);

impl Hangups {
    /// Begins to take them: from here on, and for good, they do not end the
    /// process. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub(crate) fn begin() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Opens the audit log again at each, for ever. `others`: somebody else reloads
    /// something as well.
    pub(crate) async fn answer(mut self, audit: Audit, others: bool) {
        while self.0.recv().await.is_some() {
            if audit.is_on() {
                audit.reopen();
            } else if !others {
                tracing::info!("SIGHUP: nothing to reload");
            }
        }
    }
}
