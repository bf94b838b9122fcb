//! How a container runtime is started, whatever its kind.

use super::runtime::{Engine, Release};
use super::{containerd, crio};
use anyhow::{Context as _, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use tokio::process::Command;

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

impl Recipe {
    /// Writes what `release` reads, below `directory`, where its CNI configuration
    /// stands in `cni`.
    ///
    /// # Errors
    /// It is not installed.
    pub(crate) fn write(release: Release, directory: &Path) -> Result<Self> {
        match release.engine {
            Engine::Containerd { config } => containerd::recipe(release, config, directory),
            Engine::CriO => crio::recipe(release, directory),
        }
    }

    /// The command that starts it, through the command `before` unless that is
    /// empty.
    ///
    /// # Errors
    /// `PATH` cannot be read.
    pub(crate) fn command(&self, before: &[OsString]) -> Result<Command> {
        let mut words = before.iter().cloned().chain([self.program.clone().into()]);
        let mut command = Command::new(words.next().context("no program")?);
        command.args(words).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(programs) = &self.programs {
            command.env("PATH", first_in_path(programs)?);
        }
        Ok(command)
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

fn first_in_path(directory: &Path) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let rest = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    Ok(std::env::join_paths(
        std::iter::once(directory.to_owned()).chain(rest),
    )?)
}
