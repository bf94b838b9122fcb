//! A forward that somebody on the workstation has up: `kubectl rpf`.

use super::cluster::Cluster;
use super::kubectl::Kubectl;
use crate::shared::enclosure::STATE;
use crate::shared::image::PROBE;
use crate::shared::process::{Exit, Process};
use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Bound on what comes at once on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Where people's pods are.
pub(crate) const PEOPLE: &str = "people";

/// A forward.
pub(crate) struct Forward(Process);

impl Forward {
    /// Starts `kubectl rpf` with `words`, split at spaces, for a pod of people's.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(user: &Kubectl, words: &str) -> Result<Self> {
        Self::start_in(PEOPLE, user, words)
    }

    /// The same, for a pod of another namespace.
    ///
    /// # Errors
    /// As [`Forward::start`].
    pub(crate) fn start_in(namespace: &str, user: &Kubectl, words: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("forward-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut command = user.command()?;
        command.args(["rpf", "--namespace", namespace]);
        command.args(words.split_whitespace());
        Ok(Self(Process::start(&name, command, Path::new(STATE))?))
    }

    /// The same, and waits until it says that it listens.
    ///
    /// # Errors
    /// It does not.
    pub(crate) async fn up(user: &Kubectl, words: &str) -> Result<Self> {
        Self::start(user, words)?.listens().await
    }

    /// Waits until it says that it listens.
    ///
    /// # Errors
    /// It does not.
    pub(crate) async fn listens(self) -> Result<Self> {
        self.pod().await?;
        Ok(self)
    }

    /// Waits until it says that it listens, and answers in which pod.
    ///
    /// # Errors
    /// It does not.
    pub(crate) async fn pod(&self) -> Result<String> {
        let listens = |line: &str| {
            let (_, rest) = line
                .strip_prefix("Forwarding from ")?
                .split_once(" in pod/")?;
            Some(rest.split_once(' ')?.0.to_owned())
        };
        self.0.line("a forward to listen", SOON, listens).await
    }

    /// Waits for its end with this code and one sentence, and answers that.
    ///
    /// # Errors
    /// It ends otherwise, or says more.
    pub(crate) async fn refused(mut self, code: i32) -> Result<String> {
        let ended = self.0.exit(4 * SOON).await?.code;
        anyhow::ensure!(
            ended == code && self.0.stderr().lines().count() == 1,
            "it ended with {ended}, expected were {code} and a sentence: {}",
            self.0.story()
        );
        Ok(self.0.stderr().trim_end().to_owned())
    }

    /// The process, to be asked and told.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.0
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) async fn exit(&mut self) -> Result<Exit> {
        self.0.exit(SOON).await
    }

    /// Interrupts it, as Ctrl-C does; it must end well.
    ///
    /// # Errors
    /// It does not.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.0.signal(Signal::SIGINT)?;
        let code = self.exit().await?.code;
        anyhow::ensure!(code == 0, "it ended with {code}: {}", self.0.story());
        Ok(())
    }
}

/// Runs the probe in a pod of people's, by the name of the pod or of what makes it,
/// and reads its report.
///
/// # Errors
/// It fails, or says something else.
pub(crate) async fn probe<T: DeserializeOwned>(
    cluster: &Cluster,
    pod: &str,
    words: &str,
) -> Result<T> {
    probe_in(PEOPLE, cluster, pod, words).await
}

/// The same, in a pod of another namespace.
///
/// # Errors
/// As [`probe`].
pub(crate) async fn probe_in<T: DeserializeOwned>(
    namespace: &str,
    cluster: &Cluster,
    pod: &str,
    words: &str,
) -> Result<T> {
    let words = format!("exec --namespace {namespace} {pod} -- {PROBE} {words}");
    let said = cluster.admin().run(&words).await?;
    let line = said.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("the probe said {said:?}"))
}
