//! Signals to a command, and what a signal made of it.

use crate::fault::exit;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use tokio::process::Child;

/// Sends a signal.
pub(super) fn signal(child: &Child, signal: Signal) {
    // The id is gone once the command was waited for, so it is never that of
    // another process.
    let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) else {
        return;
    };
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) => tracing::info!(%signal, pid, "signal passed on to the command"),
        Err(error) => tracing::warn!(%signal, pid, %error, "signal not passed on"),
    }
}

/// Asks a command to end.
pub(super) fn ask_to_end(child: &mut Child) {
    signal(child, Signal::SIGTERM);
}

/// The exit code of env(1) for a status of wait(2).
pub(super) fn code(status: ExitStatus) -> u8 {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => i32::from(exit::OTHER),
    };
    u8::try_from(code).unwrap_or(exit::OTHER)
}
