//! A container runtime of the run's own: its process, whatever its kind.

use super::runtime::{Engine, Release};
use super::{containerd, crio};
use crate::support::enclosure::STATE;
use crate::support::process::Process;
use crate::support::until;
use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::process::Command;

/// Bound on its start and its end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where distributions and the upstream archives put the CNI plugins.
const CNI_DIRECTORIES: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// How a runtime is started.
pub(crate) struct Recipe {
    /// The daemon.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Where it looks for programs before it looks in `PATH`.
    pub(crate) programs: Option<PathBuf>,
    /// What it finds in its environment.
    pub(crate) environment: Vec<(&'static str, PathBuf)>,
    /// Where it listens: the default that clients look for.
    pub(crate) socket: &'static str,
}

/// The daemon.
pub(crate) struct Daemon {
    recipe: Recipe,
    home: Release,
    directory: PathBuf,
    process: Option<Process>,
    starts: u32,
}

impl Daemon {
    /// Writes the configuration of `release` and starts it.
    ///
    /// # Errors
    /// It is not installed or does not start.
    pub(crate) async fn start(release: Release) -> Result<Self> {
        // Every one looks for it by name.
        super::program("runc")?;
        let directory = home(release);
        let mut this = Self {
            recipe: recipe(release, &directory)?,
            home: release,
            directory,
            process: None,
            starts: 0,
        };
        this.run().await?;
        Ok(this)
    }

    /// The run's own release, where the run has it, if it is elsewhere now.
    pub(crate) fn away_from(&self) -> Option<Release> {
        (self.directory != home(self.home)).then_some(self.home)
    }

    /// Ends the daemon and starts `release`, which knows nothing of what the
    /// other has done.
    ///
    /// # Errors
    /// As [`Daemon::stop`] and [`Daemon::start`].
    pub(crate) async fn move_to(&mut self, release: Release) -> Result<()> {
        self.stop().await?;
        if self.away_from().is_some() {
            unmount_below(&self.directory)?;
        }
        let directory = match release == self.home {
            true => home(release),
            false => Path::new(STATE).join(format!("{}-{}", release.name, self.starts)),
        };
        self.recipe = recipe(release, &directory)?;
        self.directory = directory;
        self.run().await
    }

    /// Ends the daemon and starts the run's own in its place, with everything
    /// that the other has done.
    ///
    /// # Errors
    /// As [`Daemon::stop`] and [`Daemon::start`].
    pub(crate) async fn upgrade(&mut self) -> Result<()> {
        self.stop().await?;
        self.recipe = recipe(self.home, &self.directory)?;
        self.run().await
    }

    pub(crate) fn socket(&self) -> &Path {
        Path::new(self.recipe.socket)
    }

    /// Starts the daemon, unless it runs, and waits until it takes connections.
    ///
    /// # Errors
    /// It ends, or does not listen in time; the error has what it said.
    pub(crate) async fn run(&mut self) -> Result<()> {
        if let Some(process) = &mut self.process {
            return match process.ended() {
                None => Ok(()),
                Some(code) => bail!("the runtime ended with {code}; {}", process.story()),
            };
        }
        let mut command = Command::new(&self.recipe.program);
        command.args(&self.recipe.arguments);
        command.envs(
            self.recipe
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        );
        if let Some(programs) = &self.recipe.programs {
            command.env("PATH", first_in_path(programs)?);
        }
        self.starts += 1;
        let name = format!("runtime-{}", self.starts);
        let mut process = Process::start(&name, command, &self.directory)?;
        let socket = self.recipe.socket;
        let up = until("the runtime to listen", PATIENCE, || {
            let ended = process.ended();
            async move {
                if let Some(code) = ended {
                    bail!("the runtime ended with {code}");
                }
                Ok(UnixStream::connect(socket).await.ok().map(drop))
            }
        });
        let up = up.await;
        up.with_context(|| process.story())?;
        self.process = Some(process);
        Ok(())
    }

    /// The end of what it said.
    pub(crate) fn story(&self) -> String {
        self.process
            .as_ref()
            .map(Process::story)
            .unwrap_or_default()
    }

    /// Ends the daemon; its pods live on.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::SIGTERM)?;
            process.exit(PATIENCE).await?;
        }
        Ok(())
    }
}

fn first_in_path(directory: &Path) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let rest = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    Ok(std::env::join_paths(
        std::iter::once(directory.to_owned()).chain(rest),
    )?)
}

/// Some runtimes leave their storage mounted.
fn unmount_below(directory: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    // The youngest first.
    for point in points
        .rev()
        .filter(|point| Path::new(point).starts_with(directory))
    {
        umount2(point, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {point}"))?;
    }
    Ok(())
}

fn home(release: Release) -> PathBuf {
    Path::new(STATE).join(release.name)
}

/// Writes what `release` reads, below `directory`.
fn recipe(release: Release, directory: &Path) -> Result<Recipe> {
    fs::create_dir_all(directory.join("cni"))?;
    fs::write(directory.join("cni/10-pods.conflist"), network(directory))?;
    match release.engine {
        Engine::Containerd { config } => containerd::recipe(release, config, directory),
        Engine::CriO => crio::recipe(release, directory),
    }
}

/// Where the CNI plugins are.
///
/// # Errors
/// They are not installed; the error says how to install them.
pub(crate) fn cni_plugins() -> Result<&'static str> {
    let mut directories = CNI_DIRECTORIES.into_iter();
    directories
        .find(|dir| Path::new(dir).join("bridge").is_file())
        .context("the CNI plugins are not installed: run hack/install-test-deps")
}

/// A bridge in the run's own network namespace. No address translation: pods
/// talk to the node and to each other, and to nobody else.
fn network(directory: &Path) -> String {
    let leases = directory.join("leases");
    let leases = leases.display();
    format!(
        r#"{{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [{{
    "type": "bridge",
    "bridge": "pods0",
    "isGateway": true,
    "ipMasq": false,
    "ipam": {{
      "type": "host-local",
      "dataDir": "{leases}",
      "ranges": [[{{ "subnet": "10.88.0.0/16" }}]],
      "routes": [{{ "dst": "0.0.0.0/0" }}]
    }}
  }}]
}}
"#
    )
}
