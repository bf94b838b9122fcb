//! A machine of its own for the CLI: another network namespace, one cable away
//! from the node.

use super::enclosure::STATE;
use super::forward::Forward;
use super::node::{Pod, inside, program, run};
use super::programs;
use super::shim::Shim;
use super::stage::{Refusal, Stage};
use anyhow::{Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// The node's address on the cable.
pub(crate) const NODE: &str = "10.213.0.1";

const CABLE: &str = "sl-cable";

/// The machine; dropping it takes it away with its cable.
pub(crate) struct Workstation;

impl Workstation {
    /// Sets one up.
    ///
    /// # Errors
    /// `ip` is missing or refuses.
    pub(crate) fn new() -> Result<Self> {
        let path = namespace();
        File::create_new(&path)?;
        let workstation = Self;
        pin(path.clone())?;
        let peer = path.display();
        ip(&format!(
            "link add {CABLE} type veth peer name eth0 netns {peer}"
        ))?;
        ip(&format!("addr add {NODE}/24 dev {CABLE}"))?;
        ip(&format!("link set {CABLE} up"))?;
        inside(&path, || {
            ip("addr add 10.213.0.2/24 dev eth0")?;
            ip("link set eth0 up")?;
            ip("link set lo up")
        })?;
        Ok(workstation)
    }

    /// A forward from here that is up.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) async fn forward(
        &self,
        stage: &Stage,
        shim: &Shim,
        pod: &Pod,
        words: &str,
    ) -> Result<Forward> {
        let place = format!("sandbox/{}", pod.id());
        Forward::start(stage, cli()?, shim, &place, words).await
    }

    /// A forward from here that must not come up.
    ///
    /// # Errors
    /// It comes up, or does not end in time.
    pub(crate) async fn refused(
        &self,
        stage: &Stage,
        shim: &Shim,
        pod: &Pod,
        words: &str,
    ) -> Result<Refusal> {
        let words = format!("forward sandbox/{} {words}", pod.id());
        stage.refused_by(cli()?, shim, &words).await
    }
}

impl Drop for Workstation {
    fn drop(&mut self) {
        // By itself the kernel takes the cable away some time later.
        let _ = ip(&format!("link del {CABLE}"));
        let _ = umount2(&namespace(), MntFlags::MNT_DETACH);
        let _ = fs::remove_file(namespace());
    }
}

/// Where its namespace is named. Not where sandboxes are.
fn namespace() -> PathBuf {
    Path::new(STATE).join("workstation")
}

/// Makes a network namespace that lasts as long as its name.
fn pin(path: PathBuf) -> Result<()> {
    let thread = std::thread::spawn(move || -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let own = Some("/proc/thread-self/ns/net");
        mount(own, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    });
    match thread.join() {
        Ok(done) => done,
        Err(_) => bail!("making a network namespace panicked"),
    }
}

fn ip(words: &str) -> Result<()> {
    run(std::process::Command::new(program("ip")?).args(words.split_whitespace()))
}

/// The CLI, to be run inside.
fn cli() -> Result<Command> {
    let mut command = Command::new(program("nsenter")?);
    command
        .arg(format!("--net={}", namespace().display()))
        .arg(programs::cli()?);
    Ok(command)
}
