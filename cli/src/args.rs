//! The command line.

use crate::fault::Fault;
use crate::spec::{self, Spec};
use crate::target::Place;
use crate::{clean, span};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod completion;
mod help;
mod kubectl;
mod socket;
mod status;
mod tls;

pub use completion::{Completion, Shell};
pub use kubectl::{Called, ClusterArgs, Doctor, Kubectl, Other, Plugin};
pub use status::Status;
pub use tls::TlsArgs;

/// Forwards ports of a Kubernetes pod to this machine: the direction of ssh -R.
#[derive(Debug, Parser)]
#[command(name = "sternline", version, after_help = help::MAIN)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Unix socket of the shim on this node: a path, or unix:///PATH
    /// [env: STERNLINE_SOCKET] [default: /run/sternline/sternline.sock].
    #[arg(long, global = true, value_name = "PATH", value_hint = clap::ValueHint::FilePath, value_parser = sternline_api::socket::path)]
    socket: Option<PathBuf>,
    /// Longest wait for each answer of the server, for example 10s or 500ms.
    #[arg(long, global = true, value_name = "SPAN", default_value = "10s", value_parser = span::parse_positive)]
    pub request_timeout: Duration,
    /// Say more on standard error: -v walks the set-up, -vv each connection, -vvv everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl Common {
    /// The shim's socket: of the flag, the environment, or the usual one.
    ///
    /// # Errors
    /// A usage error: the environment names none.
    pub fn socket(&self) -> Result<PathBuf, Fault> {
        socket::choose(self.socket.clone()).map_err(Fault::usage)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Listen in a sandbox and lead its connections to this machine.
    #[command(visible_alias = "fwd", long_about = help::FORWARD_ABOUT, after_help = help::FORWARD)]
    Forward(Forward),
    /// The same through a cluster: what `kubectl reverse-port-forward` does.
    #[command(long_about = help::KUBECTL_ABOUT, after_help = help::KUBECTL)]
    Kubectl(Box<Kubectl>),
    /// List the sessions of this node.
    #[command(visible_alias = "ls", after_help = help::SESSIONS)]
    Sessions(Sessions),
    /// End sessions and free their listeners.
    #[command(after_help = help::STOP)]
    Stop(Stop),
    /// Print what the server can do, its limits, and what is not in order.
    #[command(after_help = help::STATUS)]
    Status(Status),
    /// Print the versions of this program and of the server.
    #[command(after_help = help::VERSION)]
    Version(Version),
    /// Print a script by which a shell completes this command line.
    #[command(long_about = help::COMPLETION_ABOUT, after_help = help::COMPLETION)]
    Completion(Completion),
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Lines for people.
    #[default]
    Text,
    /// JSON for programs.
    Json,
}

/// `sternline forward`.
#[derive(Debug, Args)]
pub struct Forward {
    /// Where to listen: sandbox/ID, or the start of an ID that fits only one.
    #[arg(value_name = "sandbox/ID")]
    pub place: String,
    /// What to forward, remote first: `[BIND:]PORT[:TARGET]`, see below.
    #[arg(value_name = "SPEC", required = true, allow_negative_numbers = true)]
    pub specs: Vec<String>,
    /// Print lines for people, or one JSON event per line.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// Write the bound addresses here as JSON once everything listens; removed at the end.
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    /// Print no Forwarding and Handling lines, only errors; JSON events stay.
    #[arg(short, long)]
    pub quiet: bool,
    /// Keep the listeners for so long when the connection is lost, and come back to them.
    #[arg(long, value_name = "SPAN", default_value = "0", value_parser = span::parse)]
    pub hold: Duration,
    /// Command to run while the forward is up; its exit code is ours.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
    /// Nothing came after `--`, which clap does not tell.
    #[arg(skip)]
    pub command_missing: bool,
    /// TLS to the streaming endpoint. At the end: what follows would stand under
    /// its heading.
    #[command(flatten)]
    pub tls: TlsArgs,
}

impl Forward {
    /// Checks what clap cannot.
    ///
    /// # Errors
    /// A usage error with one sentence.
    pub fn check(&self) -> Result<(Place, Vec<Spec>), Fault> {
        check_command(self.command_missing, &self.command)?;
        let place = Place::parse(&self.place).map_err(Fault::usage)?;
        let specs =
            spec::parse_all(&self.specs).map_err(|error| Fault::usage(error.to_string()))?;
        check_ready_file(self.ready_file.as_deref())?;
        Ok((place, specs))
    }
}

/// Refuses an empty command to wrap, as of an unquoted variable and a quoted one
/// that are empty.
fn check_command(missing: bool, command: &[OsString]) -> Result<(), Fault> {
    if missing || command.first().is_some_and(|word| word.is_empty()) {
        return Err(Fault::usage(
            "the command after -- is missing: name one, or leave -- out",
        ));
    }
    Ok(())
}

fn check_ready_file(path: Option<&Path>) -> Result<(), Fault> {
    match path {
        Some(path) if path.file_name().is_none() => Err(Fault::usage(
            "--ready-file names no file: give a path such as /tmp/ready.json",
        )),
        _ => Ok(()),
    }
}

/// `sternline sessions`.
#[derive(Debug, Args)]
pub struct Sessions {
    /// Only the sessions of this sandbox: sandbox/ID.
    #[arg(value_name = "sandbox/ID")]
    pub place: Option<String>,
    /// Print a table or JSON.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

/// `sternline stop`.
#[derive(Debug, Args)]
pub struct Stop {
    /// Ids of sessions, as `sternline sessions` lists them, or their starts.
    #[arg(value_name = "ID", required = true, value_parser = session_id)]
    pub ids: Vec<String>,
}

/// `sternline version`.
#[derive(Debug, Args)]
pub struct Version {
    /// Do not ask the server.
    #[arg(long)]
    pub client: bool,
    /// Print lines or JSON.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

fn session_id(text: &str) -> Result<String, String> {
    let id = text.strip_prefix("session/").unwrap_or(text);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || id.len() > 128 || !id.chars().all(plain) {
        return Err(format!(
            "{:?} is no session id: `sternline sessions` lists them",
            clean::clean(text)
        ));
    }
    Ok(id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn forward(args: &[&str]) -> Result<Forward, clap::Error> {
        let all = ["sternline", "forward"].iter().chain(args);
        match Cli::try_parse_from(all)?.command {
            Command::Forward(forward) => Ok(forward),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_to_wrap_comes_after_two_hyphens_and_keeps_its_flags() {
        let args =
            forward(&["sandbox/web", "8080", "0:3000", "--", "sh", "-c", "-v"]).expect("reads");
        assert_eq!(args.specs, ["8080", "0:3000"]);
        assert_eq!(args.command, ["sh", "-c", "-v"]);
        assert!(args.check().is_ok());
    }

    #[test]
    fn an_empty_command_to_wrap_is_a_usage_error() {
        let mut args = forward(&["sandbox/web", "8080", "--", ""]).expect("reads");
        let fault = args.check().expect_err("no command");
        assert_eq!(fault.exit, crate::fault::exit::USAGE);
        assert!(fault.message.contains("after -- is missing"), "{fault}");
        args.command.clear();
        args.check().expect("none is asked for");
        args.command_missing = true;
        assert_eq!(args.check().expect_err("no command"), fault);
    }

    #[test]
    fn a_negative_port_gets_the_sentence_of_a_port() {
        let args = forward(&["sandbox/web", "-1"]).expect("is a SPEC to clap");
        let fault = args.check().expect_err("no port");
        assert_eq!(fault.exit, crate::fault::exit::USAGE);
        assert!(fault.message.contains("\"-1\""), "{fault}");
    }

    #[test]
    fn what_is_missing_is_a_usage_error() {
        for args in [
            &[][..],
            &["sandbox/web"],
            &["sandbox/web", "80", "--hold", "x"],
        ] {
            assert_eq!(forward(args).expect_err("refused").exit_code(), 2);
        }
    }

    #[test]
    fn the_help_of_the_socket_names_its_default() {
        let help = Cli::command().render_help().to_string();
        let default = sternline_api::protocol::DEFAULT_SOCKET;
        let words: Vec<_> = help.split_whitespace().collect();
        let words = words.join(" ");
        for part in ["STERNLINE_SOCKET]", &format!("[default: {default}]")] {
            assert!(words.contains(part), "{part} is missing:\n{help}");
        }
    }

    #[test]
    fn session_ids_are_checked_before_contact() {
        assert_eq!(session_id("session/ab-1").as_deref(), Ok("ab-1"));
        assert!(session_id("").is_err());
        assert!(session_id("a/b").is_err());
    }

    #[test]
    fn arguments_stand_under_a_heading_of_their_own() {
        let cli = Cli::command();
        let forward = cli.find_subcommand("forward").expect("exists");
        for argument in forward.get_positionals() {
            assert_eq!(argument.get_help_heading(), None, "{argument}");
        }
    }

    #[test]
    fn the_help_gives_examples_and_the_exit_codes() {
        let help = Cli::command()
            .find_subcommand_mut("forward")
            .expect("exists")
            .render_long_help()
            .to_string();
        for part in [
            "SPEC   :=",
            "Examples:",
            "sandbox/web 9003",
            "Exit codes:",
            "125",
            "-- npm test",
            "STERNLINE_BOUND",
        ] {
            assert!(help.contains(part), "{part} is missing:\n{help}");
        }
    }
}
