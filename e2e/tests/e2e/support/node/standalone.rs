//! Sandboxes without a container runtime: named network namespaces.

use super::pod::Output;
use super::{PodWish, inside, link_up};
use crate::support::enclosure::STATE;
use crate::support::process::Process;
use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::process::Command;

/// Where the namespaces are named, as `ip netns` does it.
const DIRECTORY: &str = "/run/netns";

/// Makes named network namespaces.
pub(crate) struct Standalone {
    probe: PathBuf,
}

impl Standalone {
    pub(crate) fn new(probe: &Path) -> Self {
        let probe = probe.to_owned();
        Self { probe }
    }

    pub(crate) fn run_pod(&self, wish: &PodWish) -> Result<Pod> {
        let path = Path::new(DIRECTORY).join(&wish.name);
        File::create_new(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let pod = Pod {
            name: wish.name.clone(),
            path: path.clone(),
            probe: self.probe.clone(),
            probes: AtomicU32::new(0),
        };
        let host_network = wish.host_network;
        let thread = std::thread::spawn(move || -> Result<()> {
            if !host_network {
                unshare(CloneFlags::CLONE_NEWNET)?;
                link_up("lo")?;
            }
            let own = Some("/proc/thread-self/ns/net");
            mount(own, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        });
        match thread.join() {
            Ok(done) => done.map(|()| pod),
            Err(_) => bail!("making a network namespace panicked"),
        }
    }

    pub(crate) fn sweep(&self) -> Result<()> {
        for entry in fs::read_dir(DIRECTORY)? {
            remove(&entry?.path())?;
        }
        Ok(())
    }
}

/// A named network namespace.
pub(crate) struct Pod {
    name: String,
    path: PathBuf,
    probe: PathBuf,
    probes: AtomicU32,
}

impl Pod {
    pub(crate) fn id(&self) -> &str {
        &self.name
    }

    pub(crate) async fn run(&self, words: &[&str]) -> Result<Output> {
        let mut process = self.spawn(words)?;
        let exit = process.exit(Duration::from_secs(120)).await?;
        Ok(Output {
            code: exit.code,
            stdout: process.stdout(),
            stderr: process.stderr(),
        })
    }

    pub(crate) fn spawn(&self, words: &[&str]) -> Result<Process> {
        let number = self.probes.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-probe-{number}", self.name);
        let mut command = Command::new(&self.probe);
        command.args(words);
        // A child is in the network namespace of the thread that starts it.
        let runtime = tokio::runtime::Handle::current();
        inside(&self.path, move || {
            let _entered = runtime.enter();
            Process::start(&name, command, Path::new(STATE))
        })
    }

    pub(crate) fn remove(&self) -> Result<()> {
        remove(&self.path)
    }
}

/// What a runtime does when it removes a sandbox: its processes die, its name
/// goes.
fn remove(path: &Path) -> Result<()> {
    let Ok(inode) = fs::metadata(path).map(|meta| meta.ino()) else {
        return Ok(());
    };
    let own = fs::metadata("/proc/self/ns/net")?.ino();
    for pid in super::super::leftovers::processes() {
        let namespace = fs::metadata(format!("/proc/{pid}/ns/net")).map(|meta| meta.ino());
        if inode != own && namespace.is_ok_and(|theirs| theirs == inode) {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    // A name that is not a mount any more is removed all the same.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}
