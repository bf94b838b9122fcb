//! A machine of the cluster: a network and a mount namespace that a process of its
//! own holds, with an empty `/run` and what else programs of a node write to.
//!
//! Machines share the run's PID namespace, so that whatever way the run ends, the
//! kernel ends all of them.

use super::network;
use crate::shared::check::until;
use crate::shared::enclosure::{STATE, WRITTEN};
use crate::shared::process::Process;
use crate::shared::system::{link_up, output, program};
use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// Tells a process that it is to hold the machine of this name.
const VARIABLE: &str = "STERNLINE_CLUSTER_MACHINE";

/// What a machine says when it is there.
const STANDS: &str = "stands";

/// Bound on that.
const SOON: Duration = Duration::from_secs(30);

/// What a kubelet wants of the kernel, which is not asked for each machine: here it
/// finds what it wants, and the kernel keeps what it has.
const WANTED: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// The machine that this process is to hold, if it is one of those.
pub(crate) fn this() -> Option<String> {
    std::env::var(VARIABLE).ok()
}

/// Moves into the namespaces of a machine and stays there until the run is over.
/// Must be called before any thread exists.
///
/// # Errors
/// The kernel refuses a namespace or a mount.
pub(crate) fn hold(name: &str) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .context("the kernel gives no mount and network namespace")?;
    let nothing = None::<&str>;
    let all = MsFlags::MS_REC;
    mount(nothing, "/", nothing, all | MsFlags::MS_PRIVATE, nothing)?;
    own_run(name)?;
    for dir in WRITTEN.into_iter().filter(|dir| *dir != "/run") {
        // That of the run: a kubelet takes one of two on the same place for the other.
        umount2(dir, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {dir}"))?;
        tmpfs(Path::new(dir))?;
    }
    tmpfs(Path::new("/var/log"))?;
    let wanted = Path::new("/run/kernel-as-wanted");
    for (setting, value) in WANTED {
        let setting = Path::new("/proc/sys").join(setting);
        let file = wanted.join(setting.strip_prefix("/proc/sys")?);
        fs::create_dir_all(file.parent().context("a file has a directory")?)?;
        fs::write(&file, value)?;
        bind(&file, &setting)?;
    }
    // What is mounted from now on reaches the containers that ask for it.
    mount(nothing, "/", nothing, all | MsFlags::MS_SHARED, nothing)?;
    link_up("lo")?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    writeln!(std::io::stdout(), "{STANDS}")?;
    loop {
        std::thread::park();
    }
}

/// What the kernel has of what kubelets want of it.
///
/// # Errors
/// A setting is not readable.
pub(crate) fn kernel_settings() -> Result<Vec<String>> {
    let settings = WANTED.iter().map(|(setting, _)| {
        let value = fs::read_to_string(Path::new("/proc/sys").join(setting))?;
        Ok(format!("{setting}={}", value.trim()))
    });
    settings.collect()
}

/// A `/run` of its own, with the state of the whole run in it.
fn own_run(name: &str) -> Result<()> {
    let own = Path::new(STATE).join("machines").join(name);
    fs::create_dir_all(&own)?;
    tmpfs(&own)?;
    let state = own.join(Path::new(STATE).strip_prefix("/run")?);
    fs::create_dir_all(&state)?;
    fs::create_dir_all(own.join("netns"))?;
    let one = MsFlags::MS_BIND;
    mount(Some(STATE), &state, None::<&str>, one, None::<&str>)?;
    bind(&own, Path::new("/run"))
}

fn tmpfs(dir: &Path) -> Result<()> {
    let options = Some("mode=755");
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), options)
        .with_context(|| format!("cannot mount a tmpfs on {}", dir.display()))
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from), to, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("cannot mount {} on {}", from.display(), to.display()))
}

/// A machine that stands.
pub(crate) struct Machine {
    name: &'static str,
    address: Ipv4Addr,
    directory: PathBuf,
    holder: Process,
}

impl Machine {
    /// Makes one and plugs it into the network.
    ///
    /// # Errors
    /// A namespace, a mount or a link is refused.
    pub(crate) async fn start(name: &'static str, address: Ipv4Addr) -> Result<Self> {
        let directory = Path::new(STATE).join(name);
        fs::create_dir_all(&directory)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.env(VARIABLE, name);
        let mut holder = Process::start("machine", command, &directory)?;
        let standing = until("a machine to stand", SOON, || {
            let (said, ended) = (holder.stdout(), holder.ended());
            async move {
                if let Some(code) = ended {
                    bail!("it ended with {code}");
                }
                Ok(said.contains(STANDS).then_some(()))
            }
        });
        let standing = standing.await;
        standing.with_context(|| format!("{name}: {}", holder.story()))?;
        let this = Self {
            name,
            address,
            directory,
            holder,
        };
        network::plug(&this)?;
        Ok(this)
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// What it keeps of itself, which every machine sees.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The process that holds its namespaces.
    pub(crate) fn pid(&self) -> i32 {
        self.holder.pid()
    }

    /// The words that go before a command to have it run there.
    ///
    /// # Errors
    /// `nsenter` is not installed.
    pub(crate) fn enter(&self) -> Result<Vec<OsString>> {
        let target = self.pid().to_string();
        let words = ["--mount", "--net", "--target", target.as_str(), "--"];
        let mut enter = vec![program("nsenter")?.into()];
        enter.extend(words.map(OsString::from));
        Ok(enter)
    }

    /// Runs a short command there, split at spaces, and answers what it printed.
    ///
    /// # Errors
    /// It fails; the error has what it said.
    pub(crate) fn run(&self, words: &str) -> Result<String> {
        let enter = self.enter()?;
        let mut command = std::process::Command::new(&enter[0]);
        command.args(&enter[1..]).args(words.split_whitespace());
        output(&mut command).with_context(|| format!("on {}", self.name))
    }

    /// What stands there at an absolute path.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid()))
    }

    /// Starts a program there and leaves it running.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn spawn(&self, program: &Path, arguments: &[String]) -> Result<Process> {
        let enter = self.enter()?;
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).arg(program).args(arguments);
        let name = program.file_name().context("a program has a name")?;
        Process::start(&name.to_string_lossy(), command, &self.directory)
    }
}
