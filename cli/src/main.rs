//! `sternline`: forwards ports of a pod to this machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    sternline_cli::run(std::env::args_os())
}
