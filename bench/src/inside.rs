//! Runs a program in a network namespace: this process moves there and becomes
//! it, so that its process id is the program's.

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sched::{CloneFlags, setns};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `sternline-bench inside`.
#[derive(Debug, Args)]
pub(crate) struct Inside {
    /// The namespace's file.
    #[arg(long)]
    netns: PathBuf,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Inside {
    /// Never returns unless it fails.
    ///
    /// # Errors
    /// There is no such namespace, or no such program.
    pub(crate) fn run(&self) -> Result<()> {
        enter(&self.netns)?;
        let error = Command::new(&self.command[0])
            .args(&self.command[1..])
            .exec();
        Err(error).with_context(|| format!("cannot run {:?}", self.command[0]))
    }
}

/// Moves the calling thread into a network namespace.
///
/// # Errors
/// There is none, or the kernel refuses.
pub(crate) fn enter(netns: &Path) -> Result<()> {
    let what = || format!("cannot enter the namespace {}", netns.display());
    let file = File::open(netns).with_context(what)?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(what)
}
