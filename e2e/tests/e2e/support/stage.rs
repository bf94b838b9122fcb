//! What one story has at hand.

use super::binder::Form;
use super::forward::Forward;
use super::node::{Node, Pod, PodWish};
use super::process::{Process, tail};
use super::shim::Shim;
use super::{enclosure, programs, same, says};
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::process::Command;

/// Bound on a refusal: longer than any wait inside.
const START: Duration = Duration::from_secs(60);

/// How a forward that did not come up ended.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Its exit code.
    pub(crate) code: i32,
    /// What it complained about.
    pub(crate) stderr: String,
}

impl Refusal {
    /// Whether it ended with `code` and one sentence that names all of `words`.
    ///
    /// # Errors
    /// It did not.
    pub(crate) fn is(&self, code: i32, words: &[&str]) -> Result<()> {
        same("exit code", (self.code, &self.stderr), (code, &self.stderr))?;
        says("the refusal", &self.stderr, "error: ")?;
        same("lines of the refusal", self.stderr.lines().count(), 1)?;
        words
            .iter()
            .try_for_each(|word| says("the refusal", &self.stderr, word))
    }
}

static STAGES: AtomicU32 = AtomicU32::new(0);

/// A node, and a directory for what the story's programs write.
pub(crate) struct Stage {
    node: Arc<Node>,
    directory: PathBuf,
    number: u32,
    programs: AtomicU32,
}

impl Stage {
    /// An empty stage.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(crate) fn new(node: Arc<Node>) -> Result<Self> {
        let number = STAGES.fetch_add(1, Ordering::Relaxed);
        let directory = Path::new(enclosure::STATE).join(format!("story-{number}"));
        fs::create_dir_all(&directory)?;
        Ok(Self {
            node,
            directory,
            number,
            programs: AtomicU32::new(0),
        })
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A pod.
    ///
    /// # Errors
    /// The runtime refuses.
    pub(crate) async fn pod(&self, name: &str) -> Result<Pod> {
        self.pod_as(name, false).await
    }

    /// A pod that uses the node's own network.
    ///
    /// # Errors
    /// The runtime refuses.
    pub(crate) async fn host_network_pod(&self, name: &str) -> Result<Pod> {
        self.pod_as(name, true).await
    }

    async fn pod_as(&self, name: &str, host_network: bool) -> Result<Pod> {
        let name = format!("{name}-{}", self.number);
        let wish = PodWish { name, host_network };
        self.node.run_pod(&wish).await
    }

    /// A shim that serves this node, with `flags` beyond those that every one
    /// needs.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) async fn shim(&self, flags: &str) -> Result<Shim> {
        let socket = self.file("shim.sock");
        self.shim_on(&socket, flags).await
    }

    /// A shim on a given socket.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) async fn shim_on(&self, socket: &Path, flags: &str) -> Result<Shim> {
        let command = Command::new(programs::shim()?);
        Shim::start(self, command, socket, flags, Form::chosen()?).await
    }

    /// A shim in two processes, whatever form this run is about.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) async fn shim_apart(&self, flags: &str) -> Result<Shim> {
        let command = Command::new(programs::shim()?);
        let socket = self.file("shim.sock");
        Shim::start(self, command, &socket, flags, Form::Apart).await
    }

    /// A shim that can open no more than `most` descriptors.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) async fn shim_with_descriptors(&self, most: u32, flags: &str) -> Result<Shim> {
        let command = limited(most, &programs::shim()?)?;
        let form = Form::chosen()?;
        Shim::start(self, command, &self.file("shim.sock"), flags, form).await
    }

    /// A forward that can open no more than `most` descriptors.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) async fn forward_with_descriptors(
        &self,
        most: u32,
        shim: &Shim,
        pod: &Pod,
        words: &str,
    ) -> Result<Forward> {
        let command = limited(most, &programs::cli()?)?;
        let place = format!("sandbox/{}", pod.id());
        Forward::start(self, command, shim, &place, words).await
    }

    /// A forward that is up. `words` are its SPECs and flags.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) async fn forward(&self, shim: &Shim, pod: &Pod, words: &str) -> Result<Forward> {
        let place = format!("sandbox/{}", pod.id());
        self.forward_at(shim, &place, words).await
    }

    /// A forward that is up, in a sandbox by any name.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) async fn forward_at(
        &self,
        shim: &Shim,
        place: &str,
        words: &str,
    ) -> Result<Forward> {
        let command = Command::new(programs::cli()?);
        Forward::start(self, command, shim, place, words).await
    }

    /// A forward that must not come up: how it ended, and what it said.
    ///
    /// # Errors
    /// It comes up, or does not end in time.
    pub(crate) async fn refused(&self, shim: &Shim, place: &str, words: &str) -> Result<Refusal> {
        let words = format!("forward {place} {words}");
        let command = Command::new(programs::cli()?);
        self.refused_by(command, shim, &words).await
    }

    /// The same, with the CLI started in another way.
    ///
    /// # Errors
    /// As [`Stage::refused`].
    pub(crate) async fn refused_by(
        &self,
        mut command: Command,
        shim: &Shim,
        words: &str,
    ) -> Result<Refusal> {
        command.env("STERNLINE_SOCKET", shim.socket());
        command.args(words.split_whitespace());
        let mut process = self.start("sternline", command)?;
        let exit = process.exit(START).await?;
        if process.stdout().contains("Forwarding") {
            bail!("the forward came up: {}", process.story());
        }
        let stderr = process.stderr();
        Ok(Refusal {
            code: exit.code,
            stderr,
        })
    }

    /// The CLI with any words.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn cli(&self, shim: &Shim, words: &str) -> Result<Process> {
        let mut command = Command::new(programs::cli()?);
        command.env("STERNLINE_SOCKET", shim.socket());
        command.args(words.split_whitespace());
        self.start("sternline", command)
    }

    /// Starts a program whose output ends up in [`Stage::logs`].
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(&self, name: &str, command: Command) -> Result<Process> {
        let number = self.number_of_next();
        Process::start(&format!("{number}-{name}"), command, &self.directory)
    }

    /// A path of its own for a file of this story.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory
            .join(format!("{}-{name}", self.number_of_next()))
    }

    /// Tells the programs of a story apart.
    fn number_of_next(&self) -> u32 {
        self.programs.fetch_add(1, Ordering::Relaxed)
    }

    /// The end of what each program of the story said.
    pub(crate) fn logs(&self) -> String {
        let mut paths: Vec<PathBuf> = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "out" || e == "err"))
            .collect();
        paths.sort();
        paths
            .iter()
            .filter_map(|path| {
                let text = fs::read_to_string(path)
                    .ok()
                    .filter(|text| !text.is_empty())?;
                let name = path.file_name()?.to_string_lossy().into_owned();
                Some(format!("{name}:\n{}", tail(&text)))
            })
            .collect()
    }
}

/// A command for a program whose limit of descriptors is low, for good.
fn limited(most: u32, program: &Path) -> Result<Command> {
    let mut command = Command::new(super::node::program("prlimit")?);
    command.arg(format!("--nofile={most}:{most}")).arg(program);
    Ok(command)
}
