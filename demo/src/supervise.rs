//! The outer process: makes the scratch directory and the namespaces, starts
//! the story in them, and cleans up however the story ends.

use crate::{namespaces, sandbox, story};
use anyhow::{Context as _, Result};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, Stdio};
use std::time::Duration;
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

/// Each step of the story has a bound of its own; this one holds even if the
/// story hangs.
const LIMIT: Duration = Duration::from_secs(120);
/// How long the kernel may take to end a PID namespace.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Runs the story. The exit code is 0 if every step went well, 128+n after
/// signal n, else 1.
///
/// # Errors
/// The story could not be started.
pub(crate) fn run() -> Result<ExitCode> {
    // A runtime of one thread: a process with several cannot enter a user
    // namespace.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(supervise())
}

async fn supervise() -> Result<ExitCode> {
    // Signals first: from here on none of them ends this process uncleaned.
    let mut signals = Signals::listen()?;
    let dir = tempfile::Builder::new()
        .prefix("sternline-demo-")
        .tempdir()
        .context("making a scratch directory")?;
    let how = namespaces::leave()?;
    writeln!(std::io::stdout(), "Sternline demo, {how}.")?;

    // The first process of a PID namespace: when it ends, so does everything
    // that it started. Its standard input tells it that this process is alive.
    let mut inside = Command::new(std::env::current_exe()?)
        .arg("inside")
        .arg(dir.path())
        .stdin(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("starting the story")?;
    // Taken out, for `wait` would close it.
    let alive = inside.stdin.take();
    let code = tokio::select! {
        status = inside.wait() => {
            let status = status.context("waiting for the story")?;
            match (status.code(), status.signal()) {
                (Some(0), _) => 0,
                (_, Some(n)) => 128 + u8::try_from(n).unwrap_or(0),
                _ => 1,
            }
        }
        (name, number) = signals.next() => {
            writeln!(std::io::stderr(), "demo: stopped by {name}")?;
            128 + number
        }
        () = tokio::time::sleep(LIMIT) => {
            writeln!(std::io::stderr(), "demo: failed: the story took longer than {LIMIT:?}")?;
            1
        }
    };
    // Fails only when it has ended already.
    let _ = inside.start_kill();
    timeout(KILL_LIMIT, inside.wait())
        .await
        .context("the processes of the demo did not end")??;
    drop(alive);
    sandbox::remove(&story::netns_path(dir.path()));
    match dir.close() {
        // The story removes it, too, at its end.
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context("removing the scratch directory");
        }
        _ => {}
    }
    Ok(ExitCode::from(code))
}

/// The signals that ask a program to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let on = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> (&'static str, u8) {
        tokio::select! {
            _ = self.interrupt.recv() => ("SIGINT", 2),
            _ = self.terminate.recv() => ("SIGTERM", 15),
            _ = self.hangup.recv() => ("SIGHUP", 1),
        }
    }
}
