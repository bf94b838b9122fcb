//! kubectl, as somebody runs it on the workstation.

use super::control;
use crate::shared::check::until;
use crate::shared::programs;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::process::Command;

/// Bound on any command that does not say another.
const BOUND: Duration = Duration::from_secs(150);

/// What a command came to.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// kubectl with somebody's kubeconfig.
#[derive(Debug)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    files: AtomicU32,
}

impl Kubectl {
    /// For who has this kubeconfig.
    ///
    /// # Errors
    /// kubectl was not built.
    pub(crate) fn new(kubeconfig: PathBuf) -> Result<Self> {
        Ok(Self {
            program: control::programs()?.join("kubectl"),
            kubeconfig,
            files: AtomicU32::new(0),
        })
    }

    /// Runs it with `words`, split at spaces, whatever comes of it.
    ///
    /// # Errors
    /// It cannot be run, or does not end.
    pub(crate) async fn attempt(&self, words: &str) -> Result<Answer> {
        self.with(&words.split_whitespace().collect::<Vec<_>>())
            .await
    }

    /// The command, for whoever starts it: kubectl with its plug-in, and somebody's
    /// environment.
    ///
    /// # Errors
    /// The plug-in is not built.
    pub(crate) fn command(&self) -> Result<Command> {
        let plugins = self.kubeconfig.with_extension("plugins");
        let plugin = plugins.join("kubectl-rpf");
        if !plugin.exists() {
            fs::create_dir_all(&plugins)?;
            symlink(programs::cli()?, &plugin)?;
        }
        let mut command = Command::new(&self.program);
        command
            .env("PATH", plugins)
            .env("KUBECONFIG", &self.kubeconfig)
            // Discovery is cached in the home of whoever runs it.
            .env("HOME", self.kubeconfig.with_extension("home"));
        Ok(command)
    }

    /// Runs it with words that may have spaces, whatever comes of it.
    ///
    /// # Errors
    /// As [`Kubectl::attempt`].
    pub(crate) async fn with(&self, words: &[&str]) -> Result<Answer> {
        let mut command = self.command()?;
        command.args(words).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(BOUND, command.output())
            .await
            .with_context(|| format!("kubectl {words:?} still runs after {BOUND:?}"))??;
        Ok(Answer {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it and expects that it works; answers what it printed.
    ///
    /// # Errors
    /// It fails.
    pub(crate) async fn run(&self, words: &str) -> Result<String> {
        let answer = self.attempt(words).await?;
        if answer.code == 0 {
            return Ok(answer.stdout);
        }
        let Answer {
            code,
            stdout,
            stderr,
        } = answer;
        bail!("kubectl {words} ended with {code}: {stdout}{stderr}")
    }

    /// Applies a manifest.
    ///
    /// # Errors
    /// The API server refuses it.
    pub(crate) async fn apply(&self, manifest: &str) -> Result<()> {
        let file = self.write(manifest)?;
        self.run(&format!("apply -f {file}")).await.map(drop)
    }

    /// Has the API server say whether it would take a manifest, strictly; answers what
    /// it warned of.
    ///
    /// # Errors
    /// It would not.
    pub(crate) async fn try_out(&self, manifest: &str) -> Result<String> {
        let file = self.write(manifest)?;
        let words = format!("apply --dry-run=server --validate=strict -f {file}");
        let answer = self.attempt(&words).await?;
        match answer.code {
            0 => Ok(answer.stderr),
            _ => bail!("the API server refuses {file}: {}", answer.stderr),
        }
    }

    /// Creates an object and answers a part of what came of it.
    ///
    /// # Errors
    /// The API server refuses it.
    pub(crate) async fn create(&self, manifest: &str, part: &str) -> Result<String> {
        let file = self.write(manifest)?;
        // Whoever may do little may not ask which kinds there are.
        self.run(&format!(
            "create --validate=false -f {file} -o jsonpath={part}"
        ))
        .await
    }

    fn write(&self, manifest: &str) -> Result<String> {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let file = self.kubeconfig.with_extension(format!("{number}.yaml"));
        fs::write(&file, manifest)?;
        Ok(file.display().to_string())
    }

    /// Runs it again and again until it works.
    ///
    /// # Errors
    /// It does not within `within`; the error has what it said last.
    pub(crate) async fn run_until(&self, words: &str, within: Duration) -> Result<String> {
        let last = std::sync::Mutex::new(String::new());
        let wait = until(words, within, || async {
            let answer = self.attempt(words).await?;
            if answer.code == 0 {
                return Ok(Some(answer.stdout));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            if let Ok(mut last) = last.lock() {
                *last = answer.stderr;
            }
            Ok(None)
        });
        let answer = wait.await;
        answer.with_context(|| last.lock().map(|text| text.clone()).unwrap_or_default())
    }
}
