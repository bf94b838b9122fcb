//! Judges whether something speaks `ReversePortForward`. `docs/conformance.md`
//! is the manual; `docs/protocol.md` is the law.
//!
//! * [`judge`] runs the specs and answers a [`Report`];
//! * [`main`] is the program: command line, progress, files, exit code.
//!
//! Inside: `specs` hold the prose and the steps, `context` is what a step works
//! with, `fixture` and `probe` are sandboxes, `wire` is the protocol spoken by
//! hand.

mod benchmark;
mod cli;
mod context;
mod fixture;
mod probe;
mod report;
mod runner;
mod spec;
mod specs;
mod verdict;
mod wire;

pub use report::{Judged, Report};
pub use runner::{Options, judge};
pub use spec::{Level, Summary, all};

use std::process::ExitCode;

/// The program. Started with a hidden word it is the probe inside a sandbox.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(code) = probe_if_asked() {
        return code;
    }
    cli::main()
}

/// Runs the probe when the command line says so; `None` when it does not. A
/// program that calls [`judge`] calls this first: the suite starts the running
/// program again as its probe.
#[must_use]
pub fn probe_if_asked() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    if words.next()? != probe::WORD {
        return None;
    }
    let socket = words.next()?;
    Some(match probe::run(std::path::Path::new(&socket)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}
