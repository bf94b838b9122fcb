//! The benchmark: Sternline and its peers side by side.
//!
//! `run` measures and prints the table; the other commands are the programs that
//! it starts, each a process of its own. How it is measured: docs/benchmarks.md.

mod args;
mod call;
mod contender;
mod enclosure;
mod inside;
mod instructions;
mod load;
mod plot;
mod process;
mod relay;
mod report;
mod rows;
mod run;
mod stage;
mod stats;
mod target;
mod usage;
mod wire;

use anyhow::Result;
use args::{Cli, Command};
use clap::Parser as _;
use std::future::Future;
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    match begin() {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn begin() -> Result<ExitCode> {
    let cli = Cli::parse();
    match cli.command {
        Command::Run(run) => return run::main(&run),
        Command::Instructions(instructions) => return instructions.run(),
        Command::Work(work) => work.work.run(work.size)?,
        Command::Inside(inside) => inside.run()?,
        Command::Target(target) => wait(target::serve(target.listen, &target.control))?,
        Command::Relay(relay) => wait(relay.serve())?,
        Command::Load(load) => say(&wait(load.run())?)?,
        Command::Call(call) => say(&wait(call.run())?)?,
        // One thread: it shall leave the other cores to what is measured.
        Command::Wire(wire) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(wire.serve())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Runtime::new()?.block_on(work)
}

/// One line of JSON on standard output.
fn say(figures: &load::Figures) -> Result<()> {
    writeln!(std::io::stdout(), "{}", serde_json::to_string(figures)?)?;
    Ok(())
}
