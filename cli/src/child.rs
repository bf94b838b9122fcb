//! The command that is wrapped: `sternline forward ... -- COMMAND`.
//!
//! It stays in our process group, so that it can use the terminal and job
//! control stops and continues both. Signals of a process are passed on to it,
//! signals of a terminal reached it already. Who signals a whole group that we
//! are in reaches it twice, as with env(1) and nohup(1).

use crate::descriptors::Descriptors;
use crate::fault::{Fault, exit};
use crate::signals::{Held, Received};
use std::ffi::OsString;
use std::io;
use std::time::Duration;
use tokio::process::{Child, Command};

#[cfg(unix)]
#[path = "child/unix.rs"]
mod imp;
#[cfg(not(unix))]
#[path = "child/other.rs"]
mod imp;

/// How long a command may take to end after SIGTERM before it gets SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

/// A command that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Wrapped(Child);

impl Wrapped {
    /// Starts a command of one word or more, with the limit of descriptors and
    /// the signal mask that we were given, and `environment` beside ours.
    ///
    /// # Errors
    /// 127 where there is none of that name, 126 where it cannot be executed,
    /// as in env(1).
    pub fn start(
        command: &[OsString],
        environment: &[(&str, String)],
        descriptors: Descriptors,
        held: &Held,
    ) -> Result<Self, Fault> {
        let [program, arguments @ ..] = command else {
            return Err(Fault::new(exit::NOT_FOUND, "no command was given after --"));
        };
        let mut command = Command::new(program);
        command.args(arguments).kill_on_drop(true);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let spawned = descriptors.as_given(|| held.as_given(|| command.spawn()));
        let child = spawned.map_err(|error| {
            let program = program.to_string_lossy();
            match error.kind() {
                io::ErrorKind::NotFound => Fault::new(
                    exit::NOT_FOUND,
                    format!("command {program:?} was not found: check its name and PATH"),
                ),
                _ => Fault::new(
                    exit::NOT_EXECUTABLE,
                    format!("command {program:?} cannot be executed: {error}"),
                ),
            }
        })?;
        tracing::info!(pid = child.id(), "command started");
        Ok(Self(child))
    }

    /// Waits for the command and returns its exit code, 128+n where signal n
    /// ended it. Cancel safe.
    pub async fn wait(&mut self) -> u8 {
        match self.0.wait().await {
            Ok(status) => imp::code(status),
            Err(error) => {
                tracing::warn!(%error, "cannot wait for the command");
                exit::OTHER
            }
        }
    }

    /// Passes a signal on, unless the command has it already.
    pub fn pass(&self, received: Received) {
        if received.from_terminal {
            tracing::debug!(signal = %received.signal, "the terminal signalled the command too");
        } else {
            imp::signal(&self.0, received.signal);
        }
    }

    /// Ends the command: SIGTERM, and SIGKILL 10 s later. Where there is no
    /// SIGTERM it ends at once.
    pub async fn end(mut self) {
        imp::ask_to_end(&mut self.0);
        if tokio::time::timeout(GRACE, self.0.wait()).await.is_err() {
            tracing::info!("the command did not end within {GRACE:?}: it is killed");
            let _ = self.0.kill().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::Signal;

    fn start(words: &[&str]) -> Result<Wrapped, Fault> {
        let command: Vec<OsString> = words.iter().map(OsString::from).collect();
        let held = Held::nothing();
        Wrapped::start(&command, &[], Descriptors::raise(), &held)
    }

    fn sent(signal: Signal, from_terminal: bool) -> Received {
        Received {
            signal,
            from_terminal,
        }
    }

    #[tokio::test]
    async fn its_exit_code_is_kept() {
        let mut command = start(&["sh", "-c", "exit 42"]).expect("starts");
        assert_eq!(command.wait().await, 42);
    }

    #[tokio::test]
    async fn a_signal_is_passed_on_once_and_becomes_128_and_its_number() {
        let mut command = start(&["sleep", "60"]).expect("starts");
        command.pass(sent(Signal::SIGINT, true));
        command.pass(sent(Signal::SIGTERM, false));
        // SIGINT would have come first.
        assert_eq!(command.wait().await, 128 + 15);
    }

    #[tokio::test]
    async fn what_cannot_start_says_why_as_env_does() {
        let missing = start(&["no-such-command-here"]).expect_err("missing");
        assert_eq!(missing.exit, 127);
        let directory = start(&["/"]).expect_err("a directory");
        assert_eq!(directory.exit, 126);
    }

    #[tokio::test(start_paused = true)]
    async fn who_ignores_sigterm_is_killed() {
        let dir = tempfile::tempdir().expect("directory");
        let ready = dir.path().join("ready");
        let script = format!(
            "trap '' TERM; : > {}; while :; do sleep 0.01; done",
            ready.display()
        );
        let command = start(&["sh", "-c", &script]).expect("starts");
        let pid = command.0.id().expect("runs");
        while !ready.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let before = tokio::time::Instant::now();
        command.end().await;
        assert_eq!(before.elapsed(), GRACE);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
