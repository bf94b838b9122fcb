//! Namespaces of their own for a whole run.
//!
//! The runner is process 1 of a PID namespace made for it, in a mount and a
//! network namespace of its own with an empty `/run`. However the run ends,
//! Ctrl-C and SIGKILL included, the kernel ends every process in it and removes
//! every namespace, device and mount. Outside, one process waits.

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Tells a process that it is the inner one.
const STAGE: &str = "STERNLINE_BENCH_STAGE";

/// Where the run keeps its files, on a file system that goes with it.
pub(crate) const STATE: &str = "/run/sternline-bench";

/// Which process this is.
pub(crate) enum Part {
    /// The run is over: end with this code.
    Over(ExitCode),
    /// Measure.
    Inside,
}

/// Goes one step inwards. Must be called before any thread exists.
///
/// # Errors
/// Not root, or the kernel refuses a namespace or a mount.
pub(crate) fn enter() -> Result<Part> {
    if std::env::var_os(STAGE).is_some() {
        prepare()?;
        return Ok(Part::Inside);
    }
    if !Uid::effective().is_root() {
        bail!("the benchmark makes network namespaces: run it as root");
    }
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .context("the kernel gives no PID, mount and network namespaces")?;
    let mut inner = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(STAGE, "inside")
        .spawn()
        .context("cannot start process 1 of the run's PID namespace")?;
    let status = inner.wait()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(Part::Over(code.map_or(ExitCode::FAILURE, ExitCode::from)))
}

fn prepare() -> Result<()> {
    // With process 1 the kernel ends the whole namespace.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let nothing = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(nothing, "/", nothing, private, nothing).context("cannot detach the mounts")?;
    for (kind, place) in [("proc", "/proc"), ("tmpfs", "/run")] {
        mount(Some(kind), place, Some(kind), MsFlags::empty(), nothing)
            .with_context(|| format!("cannot mount {kind} on {place}"))?;
    }
    for dir in [STATE, "/run/netns", "/run/sshd"] {
        fs::create_dir_all(Path::new(dir))?;
    }
    // Thousands of connections in a process.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(())
}
