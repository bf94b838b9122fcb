//! Namespaces of their own for a whole test run.
//!
//! The run happens in a PID, a mount and a network namespace made for it, with
//! an empty `/run`: container runtimes, sandboxes, mounts and interfaces of the
//! run cannot touch those of the machine, default paths can be used as on a
//! real node, and whatever way the run ends, the kernel ends every process in
//! it and every mount and interface goes with them.
//!
//! Three processes: *outside* waits, *init* is process 1 of the new PID
//! namespace and buries orphans, *inside* runs the stories.

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, Uid};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Tells a process of the run which of the three it is.
const STAGE: &str = "STERNLINE_E2E_STAGE";

/// Names the cgroup below which the sandboxes of this run live.
const CGROUP: &str = "STERNLINE_E2E_CGROUP";

/// Everything that the run keeps in the file system, on a tmpfs of its own.
pub(crate) const STATE: &str = "/run/sternline-e2e";

/// Where container runtimes, CNI plugins and kubelets keep their state, whatever they
/// are told: empty in the run.
pub(crate) const WRITTEN: [&str; 4] = [
    "/run",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
];

/// What `main` is to do.
pub(crate) enum Part {
    /// End with this code: the run is over.
    Over(ExitCode),
    /// Run the stories.
    Inside,
}

/// Goes one step further inwards. Must be called before any thread exists. The
/// cgroups of a run of `suite` are called so, and by the number of the process.
///
/// # Errors
/// Not root, or the kernel refuses a namespace or a mount.
pub(crate) fn enter(suite: &str, prepare: impl FnOnce() -> Result<()>) -> Result<Part> {
    match std::env::var(STAGE).as_deref() {
        Err(_) => {
            if !Uid::effective().is_root() {
                bail!("end-to-end tests make namespaces and containers: run them as root");
            }
            prepare()?;
            outside(suite).map(Part::Over)
        }
        Ok("init") => init().map(Part::Over),
        Ok(_) => Ok(Part::Inside),
    }
}

/// The cgroup of this run's sandboxes, absolute as CRI wants it.
pub(crate) fn cgroup_parent() -> String {
    format!("/{}", std::env::var(CGROUP).unwrap_or_default())
}

fn outside(suite: &str) -> Result<ExitCode> {
    let cgroup = format!("{suite}-{}", std::process::id());
    remove_cgroups(suite);
    let absent = WRITTEN.map(Path::new).into_iter();
    let absent: Vec<_> = absent.filter(|dir| !dir.exists()).collect();
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .context("the kernel gives no PID, mount and network namespaces")?;
    let mut init = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(STAGE, "init")
        .env(CGROUP, &cgroup)
        .spawn()
        .context("cannot start process 1 of the run's PID namespace")?;
    let status = init.wait()?;
    remove_cgroups(suite);
    for tree in cgroup_trees() {
        let left = tree.join(&cgroup);
        if left.exists() {
            bail!("{} is left: something of the run goes on", left.display());
        }
    }
    for dir in absent {
        // What the run made to mount something there; never what is in use.
        let _ = fs::remove_dir(dir);
    }
    Ok(code(status.code().unwrap_or(1)))
}

fn init() -> Result<ExitCode> {
    // With process 1 the kernel ends the whole namespace.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let nothing = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(nothing, "/", nothing, private, nothing).context("cannot detach the mounts")?;
    mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::empty(),
        nothing,
    )
    .context("cannot mount /proc")?;
    for dir in WRITTEN {
        fs::create_dir_all(dir)?;
        mount(
            Some("tmpfs"),
            dir,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=755"),
        )
        .with_context(|| format!("cannot mount a tmpfs on {dir}"))?;
    }
    fs::create_dir_all(STATE)?;
    fs::create_dir_all("/run/netns")?;
    // Runtimes expect a tree whose mounts can be handed to containers.
    let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
    mount(nothing, "/", nothing, shared, nothing).context("cannot share the mounts")?;
    super::system::link_up("lo")?;
    // Targets of a thousand connections need more than the usual soft limit.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;

    let inside = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(STAGE, "inside")
        // An error of a story is told by its sentences.
        .env("RUST_LIB_BACKTRACE", "0")
        .spawn()
        .context("cannot start the stories")?;
    let inside = Pid::from_raw(inside.id().try_into()?);
    loop {
        match waitpid(None, None)? {
            WaitStatus::Exited(pid, status) if pid == inside => return Ok(code(status)),
            WaitStatus::Signaled(pid, signal, _) if pid == inside => {
                return Ok(code(128 + signal as i32));
            }
            _orphan => {}
        }
    }
}

fn code(status: i32) -> ExitCode {
    u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Removes what this run of a suite, or one that was killed, left in the cgroup
/// tree, which namespaces do not cover. The kernel refuses to remove those in use.
fn remove_cgroups(suite: &str) {
    let prefix = format!("{suite}-");
    for dir in cgroup_trees().iter().flat_map(|tree| dirs(tree)) {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let Some(run) = name.strip_prefix(&prefix) else {
            continue;
        };
        // Those of a run that goes on beside this one may be empty now.
        let mine = run.parse() == Ok(std::process::id());
        if mine || !Path::new("/proc").join(run).exists() {
            remove_tree(&dir);
        }
    }
}

/// Where cgroups hang: one tree, or one for each controller.
pub(crate) fn cgroup_trees() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    match root.join("cgroup.controllers").exists() {
        true => vec![root.to_owned()],
        false => dirs(root),
    }
}

fn remove_tree(dir: &Path) {
    for child in dirs(dir) {
        remove_tree(&child);
    }
    let _ = fs::remove_dir(dir);
}

fn dirs(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
