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
mod endpoint;
mod fixture;
mod image;
mod operator;
mod preflight;
mod probe;
mod registry;
mod report;
mod run;
mod runner;
mod spec;
mod specs;
mod verdict;
mod wire;

pub use fixture::{PodSettings, Sandboxes};
pub use operator::Commands;
pub use report::{Judged, Report};
pub use runner::{Options, judge};
pub use spec::{Level, Summary, all};
pub use wire::tls::TlsSettings;

use clap::CommandFactory as _;
use std::{io::Write as _, path::Path, process::ExitCode};

/// The command line, for its manual page.
#[must_use]
pub fn command() -> clap::Command {
    cli::Cli::command()
}

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
    let (word, socket) = (words.next()?, words.next());
    let served = match (word.to_str()?, socket) {
        (probe::WORD, Some(socket)) => probe::run(Path::new(&socket)),
        (probe::POD_WORD, Some(socket)) => probe::run_in_pod(Path::new(&socket)),
        (probe::PAUSE_WORD, None) => probe::pause(),
        _ => return None,
    };
    Some(match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Ends up in the container's log, for the suite to tell.
            let _ = writeln!(std::io::stderr(), "probe: {error}");
            ExitCode::FAILURE
        }
    })
}
