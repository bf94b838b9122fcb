//! One pod with its target and its forward, and the exchanges through them.

use crate::support::forward::Forward;
use crate::support::node::{Pod, Spawned};
use crate::support::shim::Shim;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target};
use crate::support::{SOON, until};
use anyhow::{Result, bail};
use std::time::Duration;
use sternline_e2e::pattern;
use sternline_e2e::report::{End, Exchanged};

/// Longest an exchange may take, in seconds; a stream that hangs is a fault.
const HANGS: u64 = 90;

/// What a run moved, and what went wrong with it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Exchanges that came back whole.
    pub(super) whole: u64,
    /// Exchanges that were cut off, and told so.
    pub(super) cut: u64,
    /// Connections that nobody took.
    pub(super) refused: u64,
    /// Everything that must never be.
    pub(super) wrong: Vec<String>,
}

impl Tally {
    fn add(&mut self, exchanged: &Exchanged, whole: Option<u32>) {
        self.whole += u64::from(exchanged.whole);
        self.cut += u64::from(exchanged.cut);
        self.refused += u64::from(exchanged.refused);
        for (what, count) in &exchanged.wrong {
            self.wrong.push(format!("{count} x in the pod: {what}"));
        }
        if let Some(expected) = whole.filter(|expected| *expected != exchanged.whole) {
            self.wrong.push(format!(
                "{expected} exchanges that nobody disturbed: {exchanged:?}"
            ));
        }
    }
}

/// A pod, its target, its forward.
pub(super) struct Lane {
    pub(super) pod: Pod,
    pub(super) target: Target,
    pub(super) forward: Option<Forward>,
    /// How often it came back.
    returns: usize,
}

/// Exchanges under way.
pub(super) struct Running {
    probe: Spawned,
    connections: u32,
    bytes: u64,
    seed: u64,
    /// Connections that the forward had closed before.
    closed: usize,
}

impl Lane {
    /// A pod and its target, without a forward.
    ///
    /// # Errors
    /// The runtime refuses.
    pub(super) async fn new(stage: &Stage, name: &str) -> Result<Self> {
        Ok(Self {
            pod: stage.pod(name).await?,
            target: Target::start(Manner::Echo).await?,
            forward: None,
            returns: 0,
        })
    }

    /// Forwards port 8080, with `flags` on top.
    ///
    /// # Errors
    /// It does not come up.
    pub(super) async fn forward(&mut self, stage: &Stage, shim: &Shim, flags: &str) -> Result<()> {
        let words = format!("8080:{} {flags}", self.target.port());
        self.forward = Some(stage.forward(shim, &self.pod, &words).await?);
        self.returns = 0;
        Ok(())
    }

    /// Begins exchanges.
    ///
    /// # Errors
    /// The probe cannot be started.
    pub(super) async fn exchange(
        &self,
        connections: u32,
        bytes: u64,
        seed: u64,
    ) -> Result<Running> {
        let words = format!(
            "exchange --to 127.0.0.1:8080 --connections {connections} --bytes {bytes} --seed {seed} --timeout {HANGS}"
        );
        // Before the first of them can be.
        let closed = self.closed().len();
        Ok(Running {
            probe: self.pod.spawn(&words).await?,
            connections,
            bytes,
            seed,
            closed,
        })
    }

    /// Waits for exchanges and judges them at both ends; `disturbed` ones may be
    /// cut.
    ///
    /// # Errors
    /// The probe says nothing.
    pub(super) async fn judge(
        &self,
        running: &Running,
        disturbed: bool,
        tally: &mut Tally,
    ) -> Result<()> {
        let within = Duration::from_secs(HANGS) + SOON;
        let exchanged: Exchanged = running.probe.report(within).await?;
        let expected = (!disturbed).then_some(running.connections);
        tally.add(&exchanged, expected);
        self.judge_target(running, tally).await
    }

    /// As [`Lane::judge`] for what nobody disturbed, by the target and the forward
    /// alone: what a pod prints is lost while its runtime is away.
    ///
    /// # Errors
    /// The forward does not tell of every connection.
    pub(super) async fn judge_from_outside(
        &self,
        running: &Running,
        tally: &mut Tally,
    ) -> Result<()> {
        let whole = |event: &serde_json::Value| {
            let moved = [&event["bytes_from_pod"], &event["bytes_to_pod"]];
            event["end"] == "clean" && moved.iter().all(|n| n.as_u64() == Some(running.bytes))
        };
        let what = format!("{} whole exchanges", running.connections);
        until(&what, SOON, || async {
            let closed = self.closed().split_off(running.closed);
            let whole = closed.iter().filter(|event| whole(event)).count();
            Ok((whole == running.connections as usize).then_some(()))
        })
        .await?;
        tally.whole += u64::from(running.connections);
        self.judge_target(running, tally).await
    }

    fn closed(&self) -> Vec<serde_json::Value> {
        let forward = self.forward.as_ref();
        forward.map_or_else(Vec::new, |forward| forward.events("closed"))
    }

    /// Exchanges whose pod is gone: their ends at the target are all that is
    /// left, and an application that was killed may have ended cleanly.
    ///
    /// # Errors
    /// They do not end.
    pub(super) async fn abandon(&self) -> Result<()> {
        let target = &self.target;
        until("the target's connections to end", SOON, || async {
            Ok((target.all_ended()).then_some(()))
        })
        .await
    }

    /// What the target saw end cleanly must be whole.
    async fn judge_target(&self, running: &Running, tally: &mut Tally) -> Result<()> {
        let target = &self.target;
        let all = until("the target's connections to end", SOON, || async {
            Ok((target.all_ended()).then_some(()))
        });
        all.await?;
        let sums = (0..u64::from(running.connections)).map(|n| running.seed + n);
        let mut sums = sums.map(|seed| pattern::checksum(seed, running.bytes));
        let mut known = Vec::new();
        for seen in self.target.take_ended() {
            if seen.end != End::Eof {
                continue;
            }
            while !known.contains(&seen.sha256) {
                let Some(sum) = sums.next() else { break };
                known.push(sum);
            }
            if !known.contains(&seen.sha256) {
                tally.wrong.push(format!(
                    "at the target: a clean end after {} of {} bytes",
                    seen.received, running.bytes
                ));
            }
        }
        Ok(())
    }

    /// The forward ends, however it likes.
    ///
    /// # Errors
    /// It does not.
    pub(super) async fn forward_ends(&mut self, codes: &[i32]) -> Result<()> {
        let Some(mut forward) = self.forward.take() else {
            return Ok(());
        };
        let exit = forward.exit(SOON).await?;
        if !codes.contains(&exit.code) {
            bail!("the forward ended with {}, not one of {codes:?}", exit.code);
        }
        Ok(())
    }

    /// The forward came back, once more than before.
    ///
    /// # Errors
    /// It did not.
    pub(super) async fn forward_is_back(&mut self) -> Result<()> {
        self.returns += 1;
        until("the forward to be back", SOON, || async {
            let forward = self.forward.as_ref();
            let back = forward.map_or(0, |forward| forward.events("reconnected").len());
            Ok((back >= self.returns).then_some(()))
        })
        .await
    }

    /// An application could listen on the port, on both addresses.
    ///
    /// # Errors
    /// It could not for as long as `within`.
    pub(super) async fn port_is_free(&self, within: Duration) -> Result<()> {
        until("the port to be free", within, || async {
            for address in ["127.0.0.1:8080", "[::1]:8080"] {
                if self
                    .pod
                    .run(&format!("listen --address {address}"))
                    .await?
                    .code
                    != 0
                {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await
    }
}
