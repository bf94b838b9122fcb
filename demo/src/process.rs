//! Child processes whose every wait is bounded and whose end is certain.

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How often a bounded wait looks again.
const LOOK: Duration = Duration::from_millis(2);

/// One program of the demo, running. Killed when dropped.
pub(crate) struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts a program that lies beside this one. Its output goes to
    /// `DIR/NAME.log`.
    ///
    /// # Errors
    /// The program was not built or does not start.
    pub(crate) fn start(name: &str, args: &[&str], dir: &Path) -> Result<Self> {
        let me = std::env::current_exe().context("finding the demo's own program")?;
        let path = me.with_file_name(name);
        if !path.is_file() {
            bail!(
                "{} was not built: run the demo with `make demo`",
                path.display()
            );
        }
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let child = Command::new(&path)
            .args(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {}", path.display()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `found` returns something.
    ///
    /// # Errors
    /// The program ended first, or `limit` passed; with what it wrote.
    pub(crate) fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut found: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(value) = found(self) {
                return Ok(value);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended ({status}) before {what}; it wrote:\n{}",
                    self.name,
                    self.output()
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "{} did not get to {what} within {limit:?}; it wrote:\n{}",
                    self.name,
                    self.output()
                );
            }
            thread::sleep(LOOK);
        }
    }

    /// Asks it to end and waits; a clean end is exit code 0.
    ///
    /// # Errors
    /// It ended otherwise, or not within `limit`.
    pub(crate) fn stop(mut self, signal: Signal, limit: Duration) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid()).context("a process id")?);
        kill(pid, signal).with_context(|| format!("sending {signal} to {}", self.name))?;
        let status = self.wait(&format!("its end after {signal}"), limit)?;
        if !status.success() {
            bail!(
                "{} ended with {status} after {signal}; it wrote:\n{}",
                self.name,
                self.output()
            );
        }
        Ok(())
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// It did not end within `limit`.
    pub(crate) fn wait(&mut self, what: &str, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "{} did not get to {what} within {limit:?}; it wrote:\n{}",
                    self.name,
                    self.output()
                );
            }
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
