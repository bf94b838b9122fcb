//! The whole way, on a cluster: an API server, two nodes with a kubelet each, and
//! Sternline installed from its manifests.
//!
//! `STERNLINE_RUNTIME` chooses the container runtime (`containerd-2`, which is the
//! default, or `cri-o`). The cluster is made once, in namespaces of the run's own;
//! the stories follow one after the other.

#[path = "../shared/mod.rs"]
mod shared;
mod stories;
mod support;

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let ended = match support::machine::this() {
        Some(name) => support::machine::hold(&name).map(|()| ExitCode::SUCCESS),
        None => support::runner::main(),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: tests on a cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}
