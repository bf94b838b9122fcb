//! A command on a system without signals.

use crate::fault::exit;
use crate::signals::Signal;
use std::process::ExitStatus;
use tokio::process::Child;

/// Does nothing: what a console says, it says to the command too.
pub(super) fn signal(_: &Child, signal: Signal) {
    tracing::debug!(%signal, "the command has it from the console");
}

/// Ends the command: it cannot be asked.
pub(super) fn ask_to_end(child: &mut Child) {
    if let Err(error) = child.start_kill() {
        tracing::warn!(%error, "the command is not ended");
    }
}

/// Its exit code, as far as ours can say it.
pub(super) fn code(status: ExitStatus) -> u8 {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.unwrap_or(exit::OTHER)
}
