//! The programs under test, and the probe.

use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Overrides where the programs under test are looked for.
const BINARIES: &str = "STERNLINE_BIN_DIR";

/// Overrides where the programs of the image are looked for.
const IMAGE: &str = "STERNLINE_IMAGE_DIR";

/// Checks that everything is built, and builds the probe. For the time before
/// the run is in namespaces of its own.
///
/// # Errors
/// A program is missing; the error says how to build it.
pub(crate) fn prepare() -> Result<()> {
    shim()?;
    cli()?;
    build_probe()
}

/// The node side.
///
/// # Errors
/// It is not built.
pub(crate) fn shim() -> Result<PathBuf> {
    built("sternline-shim")
}

/// The workstation side.
///
/// # Errors
/// It is not built.
pub(crate) fn cli() -> Result<PathBuf> {
    built("sternline")
}

/// The static probe.
///
/// # Errors
/// It is not built.
pub(crate) fn probe() -> Result<PathBuf> {
    let path = probe_directory()?
        .join(target())
        .join("release/sternline-probe");
    if !path.is_file() {
        bail!("{} is missing after its build", path.display());
    }
    Ok(path)
}

/// Where the static programs of the image are, by `STERNLINE_IMAGE_DIR`.
///
/// # Errors
/// They are not built.
pub(crate) fn image() -> Result<PathBuf> {
    let directory = match std::env::var_os(IMAGE) {
        Some(directory) => PathBuf::from(directory),
        None => {
            let build = build_directory()?;
            build.parent().unwrap_or(Path::new(".")).join("image")
        }
    };
    for program in ["sternline-gateway", "sternline-shim"] {
        let path = directory.join(program);
        if !path.is_file() {
            let directory = directory.display();
            bail!(
                "{} is not built: run hack/build-image {directory}",
                path.display()
            );
        }
    }
    Ok(directory)
}

fn built(name: &str) -> Result<PathBuf> {
    let directory = match std::env::var_os(BINARIES) {
        Some(directory) => PathBuf::from(directory),
        None => build_directory()?,
    };
    let path = directory.join(name);
    if !path.is_file() {
        bail!(
            "{} is not built: run `cargo build -p sternline-shim -p sternline-cli`",
            path.display()
        );
    }
    Ok(path)
}

/// A C library inside, so that it runs in an empty image; optimised, so that
/// it is not what a test measures; in a directory of its own, so that these
/// flags do not rebuild everything else.
pub(crate) fn build_probe() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--locked"])
        .args(["--package", "sternline-e2e", "--bin", "sternline-probe"])
        .args(["--target", &target(), "--target-dir"])
        .arg(probe_directory()?)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .status()
        .context("cannot run cargo to build the probe")?;
    if !status.success() {
        bail!("the static probe does not build for {}", target());
    }
    Ok(())
}

fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

fn probe_directory() -> Result<PathBuf> {
    let build = build_directory()?;
    let target = build.parent().unwrap_or(Path::new("."));
    Ok(target.join("probe"))
}

/// Where cargo put this test: `target/PROFILE/deps/`, with the programs one
/// level up.
fn build_directory() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let directory = this.parent().and_then(Path::parent);
    directory
        .map(Path::to_owned)
        .context("the test stands in no build directory")
}
