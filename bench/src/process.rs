//! Programs that the runner starts: their output in a file, killed when dropped,
//! every wait bounded.

use anyhow::{Context as _, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Pause between two looks at something that is awaited.
const PAUSE: Duration = Duration::from_micros(200);

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    out: PathBuf,
    log: PathBuf,
}

impl Process {
    /// Starts a program with its output in `dir`.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(name: &str, mut command: Command, dir: &Path) -> Result<Self> {
        let out = dir.join(format!("{name}.out"));
        let log = dir.join(format!("{name}.log"));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        let name = name.to_owned();
        Ok(Self {
            name,
            child,
            out,
            log,
        })
    }

    /// Its number in the run's PID namespace.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` gives something.
    ///
    /// # Errors
    /// The program ends first, or `within` is over.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut ready: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(found) = ready(self) {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended ({status}) before {what}\n{}",
                    self.name,
                    self.said()
                );
            }
            if begun.elapsed() > within {
                bail!(
                    "{}: no sign of {what} within {within:?}\n{}",
                    self.name,
                    self.said()
                );
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// What it wrote to standard output so far.
    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// What it wrote to standard error so far.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for its end and gives what it wrote.
    ///
    /// # Errors
    /// It fails, or runs longer than `within`.
    pub(crate) fn finish(mut self, within: Duration) -> Result<String> {
        let begun = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(self.stdout()),
                Some(status) => bail!("{} ended with {status}\n{}", self.name, self.said()),
                None if begun.elapsed() > within => {
                    bail!("{} still runs after {within:?}\n{}", self.name, self.said());
                }
                None => std::thread::sleep(PAUSE * 10),
            }
        }
    }

    /// The last lines of its output, for an error.
    fn said(&self) -> String {
        let text = format!("{}{}", self.stdout(), self.stderr());
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..]
            .iter()
            .map(|line| format!("  {line}\n"))
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a short command to its end.
///
/// # Errors
/// It fails; the error holds what it said.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where a program is, also where a user's PATH does not look.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn shell(script: &str, dir: &Path) -> Process {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Process::start("shell", command, dir).expect("starts")
    }

    fn scratch(name: &str) -> PathBuf {
        let name = format!("sternline-bench-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).expect("a directory");
        dir
    }

    #[test]
    fn an_end_before_its_time_is_told_with_its_last_words() {
        let dir = scratch("ends");
        let mut process = shell("echo the reason >&2; exit 3", &dir);
        let error = process
            .until("a miracle", SOON, |_| None::<()>)
            .expect_err("ends");
        let text = error.to_string();
        assert!(
            text.contains("a miracle") && text.contains("the reason"),
            "{text}"
        );
        fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn a_wait_is_bounded_and_the_program_does_not_outlive_its_owner() {
        let dir = scratch("waits");
        let process = shell("echo here; exec sleep 600", &dir);
        let pid = process.pid();
        let error = process
            .finish(Duration::from_millis(50))
            .expect_err("sleeps");
        assert!(error.to_string().contains("still runs"), "{error}");
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn output_is_given_and_awaited() {
        let dir = scratch("output");
        let mut process = shell("echo one; echo two", &dir);
        let line = process.until("a line", SOON, |p| {
            p.stdout().lines().nth(1).map(str::to_owned)
        });
        assert_eq!(line.expect("comes"), "two");
        assert_eq!(process.finish(SOON).expect("ends"), "one\ntwo\n");
        fs::remove_dir_all(dir).expect("removed");
    }
}
