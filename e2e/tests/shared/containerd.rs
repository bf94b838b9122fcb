//! A containerd of the run's own, configured as a node would have it.

use super::image;
use super::recipe::{Recipe, cni_plugins};
use super::runtime::Release;
use super::system::program;
use anyhow::Result;
use std::fs;
use std::path::Path;

/// Where it listens.
const SOCKET: &str = "/run/containerd/containerd.sock";

/// Writes the configuration, in a version of its format that `release` reads,
/// and says how it is started.
///
/// # Errors
/// It is not installed.
pub(crate) fn recipe(release: Release, version: u32, directory: &Path) -> Result<Recipe> {
    let programs = release.directory()?;
    let program = match &programs {
        Some(directory) => directory.join("containerd"),
        None => program("containerd")?,
    };
    let registry = image::REGISTRY;
    let hosts = directory.join("certs.d").join(registry);
    fs::create_dir_all(&hosts)?;
    fs::write(
        hosts.join("hosts.toml"),
        format!("server = \"http://{registry}\"\n"),
    )?;
    let config = directory.join("config.toml");
    fs::write(&config, self::config(directory, version)?)?;
    Ok(Recipe {
        program,
        arguments: vec!["--config".into(), config.into()],
        programs,
        environment: Vec::new(),
        socket: SOCKET,
    })
}

/// The configuration, in the version of its format that the series asks for.
fn config(directory: &Path, version: u32) -> Result<String> {
    let plugins = cni_plugins()?;
    let root = directory.display();
    let image = image::NAME;
    // Root may lack CAP_SYS_RESOURCE, which lowering a score needs.
    let cri = match version {
        2 => format!(
            r#"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{root}/certs.d"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{root}/cni"
"#
        ),
        _ => format!(
            r#"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{image}"

[plugins."io.containerd.cri.v1.images".registry]
config_path = "{root}/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{plugins}"]
conf_dir = "{root}/cni"
"#
        ),
    };
    Ok(format!(
        r#"version = {version}
root = "{root}/root"
state = "/run/containerd"
oom_score = 0
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{SOCKET}"
{cri}"#
    ))
}
