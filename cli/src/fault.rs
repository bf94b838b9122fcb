//! How a command fails: one sentence and an exit code.

use crate::clean::clean;
use sternline_api::{Failure, Reason};

/// Exit codes, as `--help` lists them. A session that ends for a reason of the
/// error table takes that reason's code, see [`Reason::exit`].
pub mod exit {
    /// Asked to stop.
    pub const STOPPED: u8 = 0;
    /// Anything that has no code of its own.
    pub const OTHER: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// Not allowed.
    pub const FORBIDDEN: u8 = 4;
    /// No server, or it does not offer what was asked for.
    pub const NO_SERVER: u8 = 6;
    /// The connection was lost for good.
    pub const LOST: u8 = 7;
    /// The server ended the session.
    pub const ENDED: u8 = 9;
    /// With a command to wrap: the forward never came up, the command was not
    /// started.
    pub const NEVER_UP: u8 = 125;
    /// The command could not be executed, as in env(1).
    pub const NOT_EXECUTABLE: u8 = 126;
    /// The command was not found, as in env(1).
    pub const NOT_FOUND: u8 = 127;
}

/// A failure of the CLI. Its sentence is clean: it may quote a server and can
/// still be printed to a terminal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The exit code.
    pub exit: u8,
    /// The word for programs, where the error table has one.
    pub reason: Option<Reason>,
    /// One sentence: which object, what happened, what to do next.
    pub message: String,
}

impl Fault {
    /// A failure with an exit code of its own choice.
    pub fn new(exit: u8, message: impl AsRef<str>) -> Self {
        Self {
            exit,
            reason: None,
            message: clean(message.as_ref()),
        }
    }

    /// A wrong command line.
    pub fn usage(message: impl AsRef<str>) -> Self {
        Self::new(exit::USAGE, message)
    }

    /// No server, or none that offers what was asked for.
    pub fn no_server(message: impl AsRef<str>) -> Self {
        Self::new(exit::NO_SERVER, message)
    }

    /// A failure for a reason of the error table, which fixes the exit code.
    pub fn because(reason: Reason, message: impl AsRef<str>) -> Self {
        Self {
            reason: Some(reason),
            ..Self::new(reason.exit(), message)
        }
    }

    /// A server that breaks the protocol or asks for what it must not.
    pub fn protocol(message: impl AsRef<str>) -> Self {
        Self::because(Reason::ProtocolError, message)
    }

    /// The same, said of `object`.
    #[must_use]
    pub fn about(self, object: &impl std::fmt::Display) -> Self {
        let message = format!("{object}: {}", self.message);
        Self { message, ..self }
    }

    /// The word for programs, one for every failure.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match (self.reason, self.exit) {
            (Some(reason), _) => reason.label(),
            (None, exit::USAGE) => Reason::InvalidRequest.label(),
            (None, exit::NO_SERVER) => "no_server",
            (None, exit::FORBIDDEN) => Reason::Forbidden.label(),
            (None, exit::NEVER_UP) => "interrupted",
            (None, exit::LOST) => Reason::TunnelLost.label(),
            (None, exit::NOT_EXECUTABLE | exit::NOT_FOUND) => "command_failed",
            (None, _) => Reason::Internal.label(),
        }
    }
}

impl From<Failure> for Fault {
    /// What a server refused, with `what` it was about in its own sentence.
    fn from(failure: Failure) -> Self {
        Self::because(failure.reason, failure.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_cannot_smuggle_escapes_through_an_error() {
        let fault = Fault::from(Failure::new(Reason::PortInUse, "taken\x1b]0;owned\x07\n"));
        assert_eq!(fault.message, "taken]0;owned");
        assert_eq!(fault.exit, 5);
    }

    #[test]
    fn every_fault_has_a_word() {
        assert_eq!(Fault::no_server("x").label(), "no_server");
        assert_eq!(Fault::usage("x").label(), "invalid_request");
        assert_eq!(Fault::new(exit::LOST, "x").label(), "tunnel_lost");
        assert_eq!(Fault::because(Reason::Stopped, "x").label(), "stopped");
        assert_eq!(Fault::new(exit::OTHER, "x").label(), "internal");
    }
}
