//! End-to-end tests: the built programs, on real sandboxes.
//!
//! `STERNLINE_RUNTIME` chooses what makes the sandboxes (`standalone`, or
//! `containerd-1.6`, which is the default); the stories are the same. They run
//! one after the other, so that what one leaves behind is not blamed on
//! another and timings mean something.

mod endurance;
#[path = "../shared/mod.rs"]
mod shared;
mod stories;
mod support;

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    match support::runner::main() {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: end-to-end tests: {error:#}");
            ExitCode::FAILURE
        }
    }
}
