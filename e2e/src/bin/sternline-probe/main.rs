//! The process that tests run inside a sandbox: static, so that it is a whole
//! image by itself. Prints what it saw as JSON lines on standard output; a
//! failure is one sentence on standard error and exit code 1.

mod args;
mod client;
mod crowd;
mod exchange;
mod hold;
mod local;
mod serve;
mod stream;
mod trespass;

use args::Args;
use serde::Serialize;
use std::{error::Error, io::Write as _, process::ExitCode};

/// What every command answers.
type Outcome = Result<(), Box<dyn Error>>;

const USAGE: &str = "usage: sternline-probe COMMAND [--OPTION VALUE]...
in a sandbox, towards --to ADDRESS:
  echo --bytes --seed          send, expect the same back; here ADDRESS may be a name
  transfer --send --receive --seed   both ways at once
  finish-first --send --seed   send, finish, then read what the peer answers
  finish-last --send --seed    read until the peer finishes, then send
  reset --after                exchange bytes, then reset
  expect-end --send            wait for the end and tell which it was
  expect-refused               nobody may listen
  many --connections --bytes --rounds   echo on all at once; with --ports to as many ports, in turn
  exchange --connections --bytes --seed   send, finish, expect it all back, on each
  storm --connections          connect and reset, as fast as it goes
  tiny --count                 writes of one byte each
  stall --connections --flood  never read; with --flood true write all that fits
  hold --connections           keep open until the end
on itself:
  listen --address             bind and listen without SO_REUSEADDR; with --dual true for IPv4 too
  besiege --first --count      try to take ports, and connect to them, without a pause
  listeners                    who listens here
  trespass --handed-by         try to enter network namespaces, one that a socket hands over among them
  serve-transfer --address --send --receive --seed   the other side of transfer
  serve-echo --address         send back whatever comes, on any number of connections
  pause                        wait for SIGTERM";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "sternline-probe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome {
    let args = Args::parse(std::env::args().skip(1))?;
    let command: fn(&Args) -> Outcome = match args.command() {
        "echo" => client::echo,
        "transfer" => client::transfer,
        "finish-first" => client::finish_first,
        "finish-last" => client::finish_last,
        "reset" => client::reset,
        "expect-end" => client::expect_end,
        "expect-refused" => client::expect_refused,
        "many" => crowd::many,
        "exchange" => exchange::exchange,
        "storm" => crowd::storm,
        "tiny" => hold::tiny,
        "stall" => hold::stall,
        "hold" => hold::hold,
        "listen" => local::listen,
        "besiege" => local::besiege,
        "listeners" => local::listeners,
        "serve-transfer" => client::serve_transfer,
        "serve-echo" => serve::echo,
        "trespass" => trespass::trespass,
        "pause" => local::pause,
        other => return Err(format!("no command {other:?}\n{USAGE}").into()),
    };
    command(&args)
}

/// Prints one line of the answer.
fn report(line: &impl Serialize) -> Outcome {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}
