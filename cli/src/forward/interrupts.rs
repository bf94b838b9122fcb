//! What ends a forward from this side: a signal, the wrapped command, a closed
//! standard output.

use crate::child::Wrapped;
use crate::descriptors::Descriptors;
use crate::fault::{Fault, exit};
use crate::output::Output;
use crate::signals::{Held, Signals};
use std::ffi::OsString;
use std::io;

/// Why the forward shall end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// A signal asked for it.
    Stop,
    /// The wrapped command ended with this exit code.
    Command(u8),
    /// Nobody reads standard output.
    OutputClosed,
}

/// Waits for interrupts and passes signals on.
#[derive(Debug)]
pub(super) struct Interrupts {
    signals: Signals,
    held: Held,
    output: Output,
    /// Whether a closed standard output was told: once is enough.
    closed: bool,
    /// The wrapped command, once it runs. While it does, signals are its
    /// business, and so is what becomes of standard output.
    pub(super) command: Option<Wrapped>,
}

impl Interrupts {
    pub(super) fn open(held: &Held, output: Output) -> io::Result<Self> {
        let signals = Signals::open(held)?;
        Ok(Self {
            signals,
            held: *held,
            output,
            closed: false,
            command: None,
        })
    }

    /// Starts the command to wrap.
    pub(super) fn start(
        &mut self,
        command: &[OsString],
        environment: &[(&str, String)],
        limits: Descriptors,
    ) -> Result<(), Fault> {
        self.command = Some(Wrapped::start(command, environment, limits, &self.held)?);
        Ok(())
    }
}

/// What ends a forward from this side.
pub(super) trait Interrupting {
    /// The next interrupt. Cancel safe.
    async fn next(&mut self) -> Interrupt;
}

impl Interrupting for Interrupts {
    async fn next(&mut self) -> Interrupt {
        loop {
            let received = match &mut self.command {
                None => tokio::select! {
                    received = self.signals.next() => {
                        tracing::info!(signal = %received.signal, "asked to stop");
                        return Interrupt::Stop;
                    }
                    () = self.output.closed(), if !self.closed => {
                        self.closed = true;
                        return Interrupt::OutputClosed;
                    }
                },
                Some(command) => tokio::select! {
                    received = self.signals.next() => received,
                    code = command.wait() => {
                        tracing::info!(code, "the command ended");
                        self.command = None;
                        return Interrupt::Command(code);
                    }
                },
            };
            if let Some(command) = &self.command {
                command.pass(received);
            }
        }
    }
}

/// A forward whose lines nobody reads ends, as other tools do, and says so.
pub(super) fn output_closed() -> Fault {
    Fault::new(
        exit::OTHER,
        "standard output is closed: the forward ends; --quiet prints no lines to it",
    )
}
