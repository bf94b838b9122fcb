//! The form of the shim: one process, or serve beside a binder process. The
//! same stories run on both, chosen by `STERNLINE_BINDER`.

use super::process::Process;
use super::stage::Stage;
use super::until;
use super::{programs, same};
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// The environment variable that chooses.
const VARIABLE: &str = "STERNLINE_BINDER";

/// The user that serve runs as beside a binder, and its group.
pub(crate) const SERVE: u32 = 65_534;

/// The binder's flag for how long it keeps what a serve left. Stories give it where
/// they give serve's; in one process nothing is kept, and it means nothing.
const GRACE: &str = "--restart-grace";

/// Bound on its start.
const START: Duration = Duration::from_secs(10);

/// One process or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// serve binds by itself.
    Whole,
    /// serve runs without privileges and asks a binder.
    Apart,
}

impl Form {
    /// Reads the variable; unset means one process.
    ///
    /// # Errors
    /// A name that is not known.
    pub(crate) fn chosen() -> Result<Self> {
        match std::env::var(VARIABLE).as_deref() {
            Ok("process") => Ok(Self::Apart),
            Ok("local") | Err(_) => Ok(Self::Whole),
            Ok(other) => bail!("{VARIABLE}={other}: choose local or process"),
        }
    }
}

/// A running binder, in a directory that only root can write to.
pub(crate) struct Binder {
    process: Process,
    directory: PathBuf,
    flags: Vec<String>,
}

impl Binder {
    /// Starts one and waits until it listens. Of `flags`, which are serve's, it
    /// takes those that are about binding.
    ///
    /// # Errors
    /// It ends, or says nothing in time.
    pub(crate) async fn start(stage: &Stage, flags: &str) -> Result<Self> {
        let directory = stage.file("binder");
        std::fs::create_dir(&directory)?;
        let mut all = stage.node().shim_flags();
        let mut flags = flags.split_whitespace();
        while let Some(flag) = flags.next() {
            match flag {
                "--allow-wide-bind" => all.push(flag.to_owned()),
                GRACE | "--log-format" => {
                    all.extend([flag, flags.next().unwrap_or("")].map(str::to_owned));
                }
                _ => {}
            }
        }
        let process = spawn(stage, &directory, &all)?;
        let mut binder = Self {
            process,
            directory,
            flags: all,
        };
        binder.listens().await?;
        Ok(binder)
    }

    async fn listens(&mut self) -> Result<()> {
        let ready = self.directory.join("ready");
        let up = until("the binder to listen", START, || {
            let ended = self.process.ended();
            let up = ready.is_file();
            async move {
                match ended {
                    Some(code) => bail!("the binder ended with {code}"),
                    None => Ok(up.then_some(())),
                }
            }
        });
        up.await.with_context(|| self.process.story())
    }

    /// Kills it, as the kernel does when memory runs out.
    ///
    /// # Errors
    /// The kernel keeps it.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.process.kill().await?;
        let _ = std::fs::remove_file(self.directory.join("ready"));
        Ok(())
    }

    /// Starts another in its place.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) async fn again(&mut self, stage: &Stage) -> Result<()> {
        self.process = spawn(stage, &self.directory, &self.flags)?;
        self.listens().await
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("binder.sock")
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Told to go, it goes.
    ///
    /// # Errors
    /// It does not, or leaves its socket behind.
    pub(crate) async fn goes(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        same(
            "exit code of the binder",
            self.process.exit(START).await?.code,
            0,
        )?;
        same("its socket is left", self.socket().exists(), false)
    }
}

fn spawn(stage: &Stage, directory: &Path, flags: &[String]) -> Result<Process> {
    let mut command = Command::new(programs::shim()?);
    command
        .args([
            "binder",
            "-v",
            "--serve-uid",
            &SERVE.to_string(),
            "--socket",
        ])
        .arg(directory.join("binder.sock"))
        .arg("--ready-file")
        .arg(directory.join("ready"))
        .args(flags);
    stage.start("binder", command)
}

/// The flags that are serve's.
pub(crate) fn without_grace(flags: &str) -> String {
    let words: Vec<&str> = flags.split_whitespace().collect();
    let is_grace = |at: usize| words[at] == GRACE || (at > 0 && words[at - 1] == GRACE);
    let others = (0..words.len()).filter(|at| !is_grace(*at));
    let others: Vec<&str> = others.map(|at| words[at]).collect();
    others.join(" ")
}

/// Lets serve, as the user that it becomes, make its sockets in a directory.
///
/// # Errors
/// The file system says no.
pub(crate) fn give_to_serve(directory: &Path) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(SERVE), Gid::from_raw(SERVE));
    chown(directory, Some(uid), Some(gid))?;
    Ok(())
}
