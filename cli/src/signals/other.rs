//! Signals by handlers, on systems without a signalfd.

use super::{Received, WATCHED};
use nix::sys::signal::Signal;
use std::io::{self, IsTerminal};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// Nothing to hold here: the runtime's handlers do.
#[derive(Clone, Copy, Debug)]
pub struct Held;

impl Held {
    /// No signals, for tests, which share a process.
    #[cfg(test)]
    pub(crate) fn nothing() -> Self {
        Self
    }

    /// Runs `start`: a process that is started gets no handlers.
    pub fn as_given<T>(&self, start: impl FnOnce() -> T) -> T {
        start()
    }
}

/// Does nothing on this system.
///
/// # Errors
/// None.
pub fn hold() -> io::Result<Held> {
    Ok(Held)
}

/// A queue of arriving signals.
#[derive(Debug)]
pub struct Signals([Stream; 3]);

impl Signals {
    /// Installs the handlers, inside a runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn open(_: &Held) -> io::Result<Self> {
        let open = |s: Signal| signal(SignalKind::from_raw(s as i32));
        let [interrupt, terminate, hangup] = WATCHED;
        Ok(Self([open(interrupt)?, open(terminate)?, open(hangup)?]))
    }

    /// Waits for the next signal. Cancel safe. Who sent it is not known here:
    /// an interrupt is taken for a terminal's where there is one.
    pub async fn next(&mut self) -> Received {
        let [interrupt, terminate, hangup] = &mut self.0;
        let signal = tokio::select! {
            _ = interrupt.recv() => Signal::SIGINT,
            _ = terminate.recv() => Signal::SIGTERM,
            _ = hangup.recv() => Signal::SIGHUP,
        };
        let from_terminal = signal == Signal::SIGINT && io::stdin().is_terminal();
        Received {
            signal,
            from_terminal,
        }
    }
}
