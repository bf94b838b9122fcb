//! Signals that ask to stop, or are for the wrapped command.
//!
//! On Linux they are read from a signalfd, because it tells who sent them: what
//! a terminal sends (Ctrl-C) goes to the whole foreground group, so a wrapped
//! command has it already and must not get it twice.
//!
//! Windows has events of the console instead, see there.
//!
//! A signal that was ignored when we were started (nohup) stays ignored. Shells
//! start background jobs with SIGINT ignored, so that the terminal's Ctrl-C
//! does not reach them; `kill -INT` is meant for us all the same and is obeyed.

#[cfg(target_os = "linux")]
#[path = "signals/linux.rs"]
mod imp;
#[cfg(all(unix, not(target_os = "linux")))]
#[path = "signals/other.rs"]
mod imp;

#[cfg(windows)]
#[path = "signals/windows.rs"]
mod imp;

pub use imp::{Held, Signals, hold};

#[cfg(windows)]
pub use imp::Signal;
#[cfg(unix)]
pub use nix::sys::signal::Signal;

/// What is listened for.
#[cfg(unix)]
const WATCHED: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Which.
    pub signal: Signal,
    /// Whether a terminal sent it, to every process of its foreground group.
    pub from_terminal: bool,
}
