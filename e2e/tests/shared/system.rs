//! The system's own programs, and its network namespaces.

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Runs `work` on a thread of its own inside a network namespace; what it
/// starts there stays there, the thread ends.
///
/// # Errors
/// The namespace cannot be entered, or `work` fails.
pub(crate) fn inside<T: Send + 'static>(
    namespace: &Path,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let path = namespace.to_owned();
    let thread = std::thread::spawn(move || {
        let file = File::open(&path)?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter {}", path.display()))?;
        work()
    });
    match thread.join() {
        Ok(result) => result,
        Err(_) => bail!("panicked inside {}", namespace.display()),
    }
}

/// Brings an interface of the caller's network namespace up.
///
/// # Errors
/// `ip` is missing or refuses.
pub(crate) fn link_up(name: &str) -> Result<()> {
    run(std::process::Command::new(program("ip")?).args(["link", "set", name, "up"]))
}

/// Runs a short command of the system and answers what it printed.
///
/// # Errors
/// It fails; the error has what it said.
pub(crate) fn output(command: &mut std::process::Command) -> Result<String> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("{command:?} failed: {}", said.trim())
}

/// Runs a short command of the system.
///
/// # Errors
/// It fails; the error has what it said.
pub(crate) fn run(command: &mut std::process::Command) -> Result<()> {
    output(command).map(drop)
}

/// Finds a program of the system, also where a user's PATH does not look.
///
/// # Errors
/// It is not installed; the error says how to install it.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"])
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not installed: run hack/install-test-deps"))
}
