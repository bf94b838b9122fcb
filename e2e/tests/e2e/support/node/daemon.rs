//! A container runtime of the run's own: its process, whatever its kind.

use crate::shared::enclosure::STATE;
use crate::shared::recipe::Recipe;
use crate::shared::runtime::Release;
use crate::shared::system;
use crate::support::process::Process;
use crate::support::until;
use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// Bound on its start and its end.
const PATIENCE: Duration = Duration::from_secs(60);

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
        system::program("runc")?;
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
        let command = self.recipe.command(&[])?;
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
    Recipe::write(release, directory)
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
