//! A running `sternline forward`.

use super::process::{Exit, Process, Usage};
use super::shim::Shim;
use super::stage::Stage;
use super::until;
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::time::Duration;
use tokio::process::Command;

/// Bound on its start.
const START: Duration = Duration::from_secs(60);

/// A forward that is up.
pub(crate) struct Forward {
    process: Process,
}

impl Forward {
    /// Starts one with JSON events and waits until it is up.
    ///
    /// # Errors
    /// It ends, or is not up in time.
    pub(crate) async fn start(
        stage: &Stage,
        mut command: Command,
        shim: &Shim,
        place: &str,
        words: &str,
    ) -> Result<Self> {
        let ready = stage.file("forward.ready");
        command
            .args(["forward", place, "--output", "json", "-v", "--socket"])
            .arg(shim.socket())
            .arg("--ready-file")
            .arg(&ready)
            .args(words.split_whitespace());
        let mut process = stage.start("forward", command)?;
        let up = until("the forward to be up", START, || {
            let ended = process.ended();
            let up = ready.is_file();
            async move {
                match ended {
                    Some(code) => bail!("the forward ended with {code}"),
                    None => Ok(up.then_some(())),
                }
            }
        });
        let up = up.await;
        up.with_context(|| process.story())?;
        Ok(Self { process })
    }

    /// The events of one kind so far.
    pub(crate) fn events(&self, kind: &str) -> Vec<Value> {
        self.process
            .stdout()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|event| event["event"] == kind)
            .collect()
    }

    /// Waits for an event of a kind that satisfies `wanted`.
    ///
    /// # Errors
    /// None comes within `within`.
    pub(crate) async fn event(
        &self,
        kind: &str,
        within: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let what = format!("the event {kind:?} of the forward");
        until(&what, within, || async {
            Ok(self.events(kind).into_iter().find(&wanted))
        })
        .await
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        self.process.usage()
    }

    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.process.ended()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }

    pub(crate) async fn exit(&mut self, within: Duration) -> Result<Exit> {
        self.process.exit(within).await
    }
}
