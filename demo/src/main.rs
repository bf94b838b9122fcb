//! `make demo`: one forward end to end on this machine, each step narrated.
//!
//! The program runs itself three times over:
//!
//! * without arguments it [supervises](supervise): it makes a scratch directory
//!   and namespaces of its own, starts the story in them and cleans up;
//! * `inside DIR` tells the [`story`]: server, shim, forward, fetch;
//! * `fetch NETNS ADDRESS COUNT` is the process in the sandbox that
//!   [fetches](fetch).

mod fetch;
mod namespaces;
mod process;
mod sandbox;
mod server;
mod story;
mod supervise;

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let first = args.next();
    let rest: Vec<String> = args.collect();
    let result = match (first.as_deref(), rest.as_slice()) {
        (None, []) => supervise::run(),
        (Some("inside"), [dir]) => story::run(dir.as_ref()).map(|()| ExitCode::SUCCESS),
        (Some("fetch"), [netns, address, count]) => {
            fetch::run(netns.as_ref(), address, count).map(|()| ExitCode::SUCCESS)
        }
        _ => Err(anyhow::anyhow!(
            "the demo takes no arguments: run it with `make demo`"
        )),
    };
    result.unwrap_or_else(|error| {
        // Nothing is left to do if even standard error is gone.
        let _ = writeln!(std::io::stderr(), "demo: failed: {error:#}");
        ExitCode::FAILURE
    })
}
