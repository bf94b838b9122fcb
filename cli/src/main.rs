//! `sternline`: forwards ports of a pod to this machine.

use std::process::ExitCode;

/// musl's own gives every buffer of the relay back to the kernel and fetches it
/// anew: twice the processor time for a byte.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sternline_cli::run(std::env::args_os())
}
