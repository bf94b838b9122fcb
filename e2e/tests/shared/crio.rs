//! A CRI-O of the run's own, configured as a node would have it.

use super::image;
use super::recipe::{Recipe, cni_plugins};
use super::runtime::Release;
use super::system::program;
use anyhow::{Context as _, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Where it listens.
const SOCKET: &str = "/run/crio/crio.sock";

/// Writes the configuration and says how CRI-O is started.
///
/// # Errors
/// It, or conmon, is not installed.
pub(crate) fn recipe(release: Release, directory: &Path) -> Result<Recipe> {
    let programs = release.directory()?.context("CRI-O is always built")?;
    let wrapper = directory.join("runc");
    fs::write(&wrapper, wrapped(&program("runc")?))?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    // Images come from the run's own registry, and nobody signs them.
    fs::write(
        directory.join("policy.json"),
        r#"{ "default": [{ "type": "insecureAcceptAnything" }] }"#,
    )?;
    // Its libraries look for it in the home of whoever starts them.
    let libraries = directory.join("home/.config/containers");
    fs::create_dir_all(&libraries)?;
    let registry = image::REGISTRY;
    fs::write(
        libraries.join("registries.conf"),
        format!("[[registry]]\nlocation = \"{registry}\"\ninsecure = true\n"),
    )?;
    let storage = directory.join("storage.conf");
    fs::write(&storage, "[storage]\ndriver = \"overlay\"\n")?;
    fs::create_dir_all(directory.join("empty"))?;
    let config = directory.join("crio.conf");
    fs::write(&config, self::config(directory, &programs)?)?;
    Ok(Recipe {
        program: programs.join("crio"),
        arguments: vec![
            "--config".into(),
            config.into(),
            "--config-dir".into(),
            directory.join("empty").into(),
        ],
        programs: Some(programs),
        // Those of the machine are not for this run.
        environment: vec![
            ("HOME", directory.join("home")),
            ("CONTAINERS_STORAGE_CONF", storage),
        ],
        socket: SOCKET,
    })
}

/// runc, for root without CAP_SYS_RESOURCE, which lowering a score needs, and
/// for a kernel whose cgroups do not count huge pages.
fn wrapped(runc: &Path) -> String {
    let runc = runc.display();
    format!(
        r#"#!/bin/sh
before=
for argument in "$@"; do
    case $before in
    --bundle | -b) sed -z -i -E \
        -e 's/("oomScoreAdj": *)-[0-9]+/\10/' \
        -e 's/"hugepageLimits": *\[[^]]*\],//' \
        -e 's/,[[:space:]]*"hugepageLimits": *\[[^]]*\]//' "$argument/config.json" ;;
    esac
    before=$argument
done
exec {runc} "$@"
"#
    )
}

fn config(directory: &Path, programs: &Path) -> Result<String> {
    let plugins = cni_plugins()?;
    let conmon = program("conmon")?;
    let (conmon, programs) = (conmon.display(), programs.display());
    let root = directory.display();
    let image = image::NAME;
    Ok(format!(
        r#"[crio]
root = "{root}/storage"
runroot = "{root}/run"
storage_driver = "overlay"
log_dir = "{root}/logs"
version_file = "{root}/version"
clean_shutdown_file = "{root}/clean.shutdown"

[crio.api]
listen = "{SOCKET}"

[crio.runtime]
default_runtime = "runc"
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
hooks_dir = []
irqbalance_config_restore_file = "disable"
namespaces_dir = "/var/run"
pinns_path = "{programs}/pinns"

[crio.runtime.runtimes.runc]
runtime_path = "{root}/runc"
runtime_root = "/run/runc"
monitor_path = "{conmon}"
monitor_cgroup = "pod"

[crio.image]
pause_image = "{image}"
pause_command = ""
signature_policy = "{root}/policy.json"
signature_policy_dir = "{root}/empty"

[crio.network]
network_dir = "{root}/cni"
plugin_dirs = ["{plugins}"]
"#
    ))
}
