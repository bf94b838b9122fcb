//! Events of the console in place of signals.
//!
//! They go to every process of the console, so that a wrapped command has them
//! already. There is none that one process sends to another alone.

use super::Received;
use std::fmt;
use std::io;
use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, ctrl_break, ctrl_c, ctrl_close};

/// What a console tells its processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-Break.
    Break,
    /// The window is closed.
    Close,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "Ctrl-C",
            Self::Break => "Ctrl-Break",
            Self::Close => "close",
        })
    }
}

/// Nothing to hold here: the runtime's handlers do.
#[derive(Clone, Copy, Debug)]
pub struct Held;

impl Held {
    /// No events, for tests, which share a process.
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

/// A queue of arriving events.
#[derive(Debug)]
pub struct Signals {
    interrupt: CtrlC,
    broken: CtrlBreak,
    close: CtrlClose,
}

impl Signals {
    /// Installs the handlers, inside a runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn open(_: &Held) -> io::Result<Self> {
        Ok(Self {
            interrupt: ctrl_c()?,
            broken: ctrl_break()?,
            close: ctrl_close()?,
        })
    }

    /// Waits for the next event. Cancel safe.
    pub async fn next(&mut self) -> Received {
        let signal = tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.broken.recv() => Signal::Break,
            _ = self.close.recv() => Signal::Close,
        };
        Received {
            signal,
            from_terminal: true,
        }
    }
}
