//! The workstation side of Sternline: asks for listeners in a pod and leads
//! their connections to targets of this machine.
//!
//! `main` parses, composes and waits; [`run`] is all of it.

pub mod args;
pub mod child;
pub mod clean;
pub mod cluster;
pub mod commands;
pub mod connect;
pub mod descriptors;
pub mod fault;
pub mod forward;
#[doc(hidden)]
pub mod fuzzing;
pub mod local;
pub mod output;
pub mod report;
pub mod signals;
pub mod spec;
pub mod target;

pub use sternline_api::span;

use args::{Called, Cli, Command, Kubectl, Other, Plugin};
use clap::{CommandFactory as _, FromArgMatches as _, Parser as _};
use cluster::{Api, kubeconfig};
use connect::{Server, Trust};
use descriptors::Descriptors;
use fault::{Fault, exit};
use forward::{Entry, Plan, Through};
use output::Output;
use signals::Held;
use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use target::Place;
use tracing_subscriber::EnvFilter;

/// Runs the command line `args` and returns the exit code.
///
/// To be called once, before any thread is started: it changes the signal mask
/// and the limit of descriptors of the process.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let code = match Called::by(args.first().map(OsString::as_os_str)) {
        Called::Sternline => sternline(args),
        Called::Plugin(name) => plugin(args, name),
        Called::Complete => complete(&args[1..]),
    };
    code.into()
}

/// What kubectl asks its plug-ins for: words that may follow `words`.
fn complete(words: &[OsString]) -> u8 {
    simple(0, |output| async move {
        commands::kubectl::complete(words, &output).await;
        Ok(())
    })
}

/// As kubectl calls it, by this name.
fn plugin(args: Vec<OsString>, name: &'static str) -> u8 {
    let nothing_after_hyphens = ends_with_hyphens(&args);
    let command = Plugin::command().bin_name(name);
    let plugin = command
        .try_get_matches_from(args)
        .and_then(|matches| Plugin::from_arg_matches(&matches));
    match plugin {
        Ok(mut plugin) => {
            let kubectl = &mut plugin.kubectl;
            kubectl.command_missing = nothing_after_hyphens && kubectl.command.is_empty();
            run_kubectl(kubectl, plugin.request_timeout, plugin.verbose)
        }
        Err(error) => explain(&error),
    }
}

fn sternline(args: Vec<OsString>) -> u8 {
    let nothing_after_hyphens = ends_with_hyphens(&args);
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    let verbose = cli.common.verbose;
    let timeout = cli.common.request_timeout;
    // It has no use for a shim's socket, which may be named wrongly.
    let command = match cli.command {
        Command::Kubectl(mut args) => {
            args.command_missing = nothing_after_hyphens && args.command.is_empty();
            return run_kubectl(&args, timeout, verbose);
        }
        other => other,
    };
    let socket = match cli.common.socket() {
        Ok(socket) => socket,
        Err(fault) => return simple(verbose, |_| async { Err(fault) }),
    };
    let server = Server { socket, timeout };
    match command {
        Command::Kubectl(_) => exit::OTHER,
        Command::Forward(mut args) => {
            args.command_missing = nothing_after_hyphens && args.command.is_empty();
            run_forward(&args, verbose, server)
        }
        Command::Sessions(args) => simple(verbose, |output| async move {
            commands::sessions(&server, &args, &output).await
        }),
        Command::Stop(args) => simple(verbose, |output| async move {
            commands::stop(&server, &args, &output).await
        }),
        Command::Status(args) => simple(verbose, |output| async move {
            commands::status(&server, &args, &output).await
        }),
        Command::Version(args) => simple(verbose, |output| async move {
            commands::version(&server, &args, &output).await
        }),
        Command::Completion(args) => simple(verbose, |output| async move {
            commands::completion(&args, &output)
        }),
    }
}

fn ends_with_hyphens(args: &[OsString]) -> bool {
    args.last().is_some_and(|word| word == "--")
}

/// Prints what clap says. Help goes to standard output and is no error, unless it
/// is lost.
fn explain(error: &clap::Error) -> u8 {
    match error.print() {
        Ok(()) => u8::try_from(error.exit_code()).unwrap_or(exit::USAGE),
        Err(_) => exit::OTHER,
    }
}

fn run_kubectl(args: &Kubectl, timeout: Duration, verbose: u8) -> u8 {
    let access = args
        .cluster
        .overrides()
        .and_then(|overrides| kubeconfig::load(&overrides));
    if let Some(Other::Doctor(doctor)) = &args.other {
        return simple(verbose, |output| async move {
            let api = Api::new(access?, timeout, None)?;
            commands::kubectl::doctor(&api, doctor, &output).await
        });
    }
    let checked = args.check().and_then(|object| Ok((object, access?)));
    let (object, access) = match checked {
        Ok(checked) => checked,
        Err(fault) => return simple(verbose, |_| async { Err(fault) }),
    };
    let plan = Plan {
        place: Place::Object(object.clone()),
        specs: Vec::new(),
        hold: args.hold,
        command: args.command.clone(),
        ready_file: args.ready_file.clone(),
        format: args.output,
        quiet: args.quiet,
        descriptors: Descriptors::as_they_are(),
    };
    let (specs, patience) = (args.specs.clone(), args.cluster.pod_running_timeout);
    forward(plan, timeout, verbose, |held| {
        Ok(Entry::Cluster(Box::new(Through {
            api: Arc::new(Api::new(access, timeout, Some(held))?),
            object,
            specs,
            patience,
        })))
    })
}

fn run_forward(args: &args::Forward, verbose: u8, server: Server) -> u8 {
    let checked = args.check().and_then(|(place, specs)| {
        let trust = Trust::load(&args.tls)?;
        Ok((place, specs, trust))
    });
    let (place, specs, trust) = match checked {
        Ok(checked) => checked,
        Err(fault) => return simple(verbose, |_| async { Err(fault) }),
    };
    let plan = Plan {
        place,
        specs,
        hold: args.hold,
        command: args.command.clone(),
        ready_file: args.ready_file.clone(),
        format: args.output,
        quiet: args.quiet,
        descriptors: Descriptors::as_they_are(),
    };
    let timeout = server.timeout;
    forward(plan, timeout, verbose, |_| Ok(Entry::Node(server, trust)))
}

/// Forwards by the entry that `enter` makes.
fn forward(
    mut plan: Plan,
    timeout: Duration,
    verbose: u8,
    enter: impl FnOnce(Held) -> Result<Entry, Fault>,
) -> u8 {
    // Before the output's thread, which inherits it.
    let held = signals::hold();
    let output = Output::standard();
    log_to(&output, verbose);
    plan.descriptors = Descriptors::raise();
    in_runtime(&output, |output| async move {
        let held = held.map_err(|error| {
            let why = cause(&error);
            Fault::new(exit::OTHER, format!("cannot listen for signals: {why}"))
        })?;
        let entry = enter(held)?;
        Ok(Box::pin(forward::run(plan, entry, timeout, output, held)).await)
    })
}

/// Runs a command that makes calls and prints.
fn simple<F>(verbose: u8, command: impl FnOnce(Output) -> F) -> u8
where
    F: Future<Output = Result<(), Fault>>,
{
    let output = Output::standard();
    log_to(&output, verbose);
    in_runtime(&output, |output| {
        let done = command(output.clone());
        async move {
            done.await?;
            output.flush().await;
            if output.is_lost() {
                return Err(Fault::new(
                    exit::OTHER,
                    "standard output could not be written: what was asked for is lost",
                ));
            }
            Ok(exit::STOPPED)
        }
    })
}

fn in_runtime<F>(output: &Output, work: impl FnOnce(Output) -> F) -> u8
where
    F: Future<Output = Result<u8, Fault>>,
{
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = io::Write::write_all(
                &mut io::stderr(),
                format!("error: cannot start: {}\n", cause(&error)).as_bytes(),
            );
            return exit::OTHER;
        }
    };
    let code = runtime.block_on(async {
        let result = work(output.clone()).await;
        let code = result.unwrap_or_else(|fault| {
            output.error(&fault);
            fault.exit
        });
        output.flush().await;
        code
    });
    // A resolver that hangs must not keep us.
    runtime.shutdown_background();
    code
}

/// Logs go to standard error, and only ours: those of the libraries quote
/// requests, whose paths are secret.
fn log_to(output: &Output, verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let output = output.clone();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!(
            "off,sternline_cli={level},sternline_tunnel={level}"
        )))
        .with_ansi(false)
        .with_target(false)
        .with_writer(move || output.clone())
        .init();
}

/// What went wrong in the words of the system, as every tool writes them:
/// `connection refused`.
pub(crate) fn cause(error: &io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(code) => described(error, code),
        None => error.to_string(),
    };
    // "No such file" becomes "no such file", an abbreviation stays.
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text,
    }
}

#[cfg(unix)]
fn described(_: &io::Error, code: i32) -> String {
    nix::errno::Errno::from_raw(code).desc().to_owned()
}

/// What the standard library says, without the number.
#[cfg(not(unix))]
fn described(error: &io::Error, code: i32) -> String {
    let text = error.to_string();
    let text = text.trim_end_matches(&format!(" (os error {code})"));
    text.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_read_as_in_every_tool() {
        let os = |code| cause(&io::Error::from_raw_os_error(code));
        assert_eq!(os(nix::libc::ECONNREFUSED), "connection refused");
        assert_eq!(os(nix::libc::ENOENT), "no such file or directory");
        assert_eq!(os(nix::libc::EIO), "I/O error");
        assert_eq!(cause(&io::Error::other("DNS failed")), "DNS failed");
    }
}
