//! The command line.

use crate::call::Call;
use crate::inside::Inside;
use crate::instructions::{self, Instructions};
use crate::load::Load;
use crate::relay::Relay;
use crate::run::Run;
use crate::wire::Wire;
use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Measures Sternline and its peers side by side.
#[derive(Debug, Parser)]
#[command(name = "sternline-bench", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands. Those that are hidden are started by `run`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure, print the table, write JSON and plots. Root: it makes namespaces.
    Run(Run),
    /// Count the instructions of the tunnel and compare them with what is recorded.
    Instructions(Instructions),
    #[command(hide = true)]
    /// Generate load and print figures.
    Load(Load),
    #[command(hide = true)]
    /// Be the server at the workstation.
    Target(Target),
    #[command(hide = true)]
    /// Be one hop of the TLS relay.
    Relay(Relay),
    #[command(hide = true)]
    /// Be a long wire.
    Wire(Wire),
    #[command(hide = true)]
    /// Set sessions up and print how long it takes.
    Call(Call),
    #[command(hide = true)]
    /// Do a work whose instructions are counted.
    Work(Work),
    #[command(hide = true)]
    /// Run a program in a network namespace.
    Inside(Inside),
}

/// `sternline-bench target`.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Where to listen.
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// Where to make the control socket.
    #[arg(long)]
    pub(crate) control: PathBuf,
}

/// `sternline-bench work`.
#[derive(Debug, Args)]
pub(crate) struct Work {
    /// Which.
    pub(crate) work: instructions::Work,
    /// How much of it.
    pub(crate) size: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
