//! A sandbox and the probes that run in it.

use super::{cri, standalone};
use crate::support::until;
use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::time::Duration;

/// A sandbox.
pub(crate) enum Pod {
    Standalone(standalone::Pod),
    Cri(Box<cri::Pod>),
}

/// What a probe came to.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// The last line of its report.
    ///
    /// # Errors
    /// The probe failed, or said something else.
    pub(crate) fn report<T: DeserializeOwned>(&self) -> Result<T> {
        if self.code != 0 {
            bail!("the probe failed: {}", self.stderr.trim());
        }
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).with_context(|| format!("the probe reported {line:?}"))
    }
}

impl Pod {
    /// The sandbox's id, as the shim knows it.
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Standalone(pod) => pod.id(),
            Self::Cri(pod) => pod.id(),
        }
    }

    /// The pod's own address, where it has one.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Standalone(_) => None,
            Self::Cri(pod) => pod.ip(),
        }
    }

    /// Runs the probe in the pod until it ends; `arguments` are split at
    /// spaces.
    ///
    /// # Errors
    /// It cannot be run, or takes longer than two minutes.
    pub(crate) async fn run(&self, arguments: &str) -> Result<Output> {
        let words: Vec<&str> = arguments.split_whitespace().collect();
        let output = match self {
            Self::Standalone(pod) => pod.run(&words).await,
            Self::Cri(pod) => pod.run(&words).await,
        };
        output.with_context(|| format!("probe {arguments:?} in {}", self.id()))
    }

    /// Runs the probe and reads its report.
    ///
    /// # Errors
    /// As [`Pod::run`], and when the probe fails.
    pub(crate) async fn probe<T: DeserializeOwned>(&self, arguments: &str) -> Result<T> {
        let output = self.run(arguments).await?;
        output
            .report()
            .with_context(|| format!("probe {arguments:?} in {}", self.id()))
    }

    /// Starts the probe in the pod and leaves it running.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) async fn spawn(&self, arguments: &str) -> Result<Spawned> {
        let words: Vec<&str> = arguments.split_whitespace().collect();
        match self {
            Self::Standalone(pod) => Ok(Spawned::Standalone(pod.spawn(&words)?)),
            Self::Cri(pod) => Ok(Spawned::Cri(Box::pin(pod.spawn(&words)).await?)),
        }
    }

    /// Stops the sandbox: its processes end, its namespace goes, and the
    /// runtime, if there is one, still lists it.
    ///
    /// # Errors
    /// The runtime refuses.
    pub(crate) async fn stop(&self) -> Result<()> {
        match self {
            Self::Standalone(pod) => pod.remove(),
            Self::Cri(pod) => pod.stop().await,
        }
    }

    /// Stops and forgets the sandbox.
    ///
    /// # Errors
    /// The runtime refuses.
    pub(crate) async fn remove(&self) -> Result<()> {
        match self {
            Self::Standalone(pod) => pod.remove(),
            Self::Cri(pod) => pod.remove().await,
        }
    }
}

/// A probe that runs in a pod.
pub(crate) enum Spawned {
    Standalone(crate::support::process::Process),
    Cri(cri::Container),
}

impl Spawned {
    /// What it reported so far.
    pub(crate) fn stdout(&self) -> String {
        match self {
            Self::Standalone(process) => process.stdout(),
            Self::Cri(container) => container.log("stdout"),
        }
    }

    /// Waits for a line of its report that reads as a `T`.
    ///
    /// # Errors
    /// None comes within `within`.
    pub(crate) async fn report<T: DeserializeOwned>(&self, within: Duration) -> Result<T> {
        let what = std::any::type_name::<T>();
        until(what, within, || async {
            let text = self.stdout();
            Ok(text
                .lines()
                .find_map(|line| serde_json::from_str(line).ok()))
        })
        .await
        .with_context(|| format!("the probe reported {:?}", self.stdout()))
    }

    /// Kills it at once.
    ///
    /// # Errors
    /// The runtime refuses.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        match self {
            Self::Standalone(process) => process.kill().await,
            Self::Cri(container) => container.kill().await,
        }
    }
}
