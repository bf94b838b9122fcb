//! A program that a story started: its output in files, so that nothing blocks
//! on a full pipe and what it said can be read at any time; killed when
//! dropped.

use super::check::until;
use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// A running, or ended, program.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    pid: i32,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The code, or 128 and the signal's number.
    pub(crate) code: i32,
    /// Time that was waited for it.
    pub(crate) after: Duration,
}

/// What a process uses, as the kernel counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Resident memory, in bytes.
    pub(crate) memory: u64,
    /// The most that it ever was.
    pub(crate) memory_peak: u64,
    /// Threads.
    pub(crate) threads: usize,
    /// Open file descriptors.
    pub(crate) descriptors: usize,
}

impl Process {
    /// Starts `command`, with its output in `dir` under `name`.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(name: &str, mut command: Command, dir: &Path) -> Result<Self> {
        let stdout = dir.join(format!("{name}.out"));
        let stderr = dir.join(format!("{name}.err"));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.as_std().get_program()))?;
        let pid = child.id().context("has no pid")?.try_into()?;
        let name = name.to_owned();
        Ok(Self {
            name,
            child,
            pid,
            stdout,
            stderr,
        })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// What it wrote so far.
    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    /// The file with what it wrote.
    pub(crate) fn stdout_path(&self) -> &Path {
        &self.stdout
    }

    /// What it complained about so far.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid), signal)
            .with_context(|| format!("cannot signal {}, process {}", self.name, self.pid))
    }

    /// Its exit code if it has ended.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let status = self.child.try_wait().ok().flatten()?;
        status.code().or_else(|| status.signal().map(|s| 128 + s))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It runs longer than `within`.
    pub(crate) async fn exit(&mut self, within: Duration) -> Result<Exit> {
        let start = Instant::now();
        let status = tokio::time::timeout(within, self.child.wait())
            .await
            .with_context(|| format!("{} still runs after {within:?}", self.name))??;
        let code = status.code().or_else(|| status.signal().map(|s| 128 + s));
        Ok(Exit {
            code: code.unwrap_or(-1),
            after: start.elapsed(),
        })
    }

    /// Kills it at once and waits until it is gone.
    ///
    /// # Errors
    /// The kernel keeps it.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child.kill().await?;
        Ok(())
    }

    /// Waits until a whole line of its standard output satisfies `wanted`.
    ///
    /// # Errors
    /// It does not come within `within`; the error shows what came.
    pub(crate) async fn line<T>(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let whole = |text: String| {
            let end = text.rfind('\n').map_or(0, |at| at + 1);
            text[..end].lines().find_map(&wanted)
        };
        until(what, within, || async { Ok(whole(self.stdout())) })
            .await
            .with_context(|| self.story())
    }

    /// What it uses now.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let proc = PathBuf::from(format!("/proc/{}", self.pid));
        let status = fs::read_to_string(proc.join("status"))
            .with_context(|| format!("{} has ended", self.name))?;
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        Ok(Usage {
            memory: field("VmRSS:").context("no VmRSS")? * 1024,
            memory_peak: field("VmHWM:").context("no VmHWM")? * 1024,
            threads: field("Threads:").context("no Threads")?.try_into()?,
            descriptors: fs::read_dir(proc.join("fd"))?.count(),
        })
    }

    /// The end of what it said, for the report of a failure.
    pub(crate) fn story(&self) -> String {
        let (out, err) = (tail(&self.stdout()), tail(&self.stderr()));
        format!("{} said:\n{out}{err}", self.name)
    }
}

/// The last lines of a text that may be long.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(25);
    lines[from..]
        .iter()
        .map(|line| format!("  {line}\n"))
        .collect()
}
