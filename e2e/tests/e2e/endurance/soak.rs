//! Random work on a few pods, and random kills in the midst of it.

use super::counts::Counts;
use super::dice::Dice;
use super::lane::{Lane, Tally};
use super::table::{self, row};
use crate::support::SOON;
use crate::support::binder::Form;
use crate::support::node::Node;
use crate::support::process::tail;
use crate::support::shim::Shim;
use crate::support::stage::Stage;
use crate::support::until;
use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sternline_api::v1alpha1 as pb;
use tokio::time::sleep;

/// Logs that are shown of a run that broke off.
const LOGS: usize = 8;

/// Pods with work at once.
const LANES: usize = 2;

/// How often the run says that it goes on.
const SAY: Duration = Duration::from_secs(60);

/// Short, so that what is drained does not make up most of the run.
const FLAGS: &str = "--restart-grace 3s --drain-timeout 1s --poll-interval 100ms";

/// What may happen amid the exchanges of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Nothing,
    /// Connections that are reset as soon as they stand.
    Storm,
    CliKilled,
    CliInterrupted,
    SessionStopped,
    ServeKilled,
    ServeTerminated,
    /// Killed, and another goes on beside the same binder.
    ServeReplaced,
    /// The same, told to go.
    ServeUpgraded,
    PodRemoved,
    RuntimeRestarted,
    BinderKilled,
}

/// Each event with its weight.
const EVENTS: [(u64, Event); 8] = [
    (6, Event::Nothing),
    (4, Event::Storm),
    (4, Event::CliKilled),
    (2, Event::CliInterrupted),
    (2, Event::SessionStopped),
    (2, Event::ServeKilled),
    (1, Event::ServeTerminated),
    (2, Event::PodRemoved),
];

struct Soak {
    stage: Stage,
    shim: Shim,
    lanes: Vec<Lane>,
    dice: Dice,
    tally: Tally,
    events: BTreeMap<Event, u64>,
    pods: u64,
}

/// Soaks the node for `length`; whether everything was as it must be.
///
/// # Errors
/// The run cannot begin, or not end.
pub(super) async fn run(node: &Arc<Node>, length: Duration, seed: u64) -> Result<bool> {
    let place = node.version();
    table::say(&format!(
        "soak for {length:?} on {place}; SOAK_SEED={seed} throws the same dice again"
    ))?;
    let stage = Stage::new(node.clone())?;
    let shim = stage.shim(FLAGS).await?;
    let mut soak = Soak {
        stage,
        shim,
        lanes: Vec::new(),
        dice: Dice::new(seed),
        tally: Tally::default(),
        events: BTreeMap::new(),
        pods: 0,
    };
    // The first rounds make what stays: threads, connections to the runtime.
    soak.open().await?;
    for event in [Event::Nothing, Event::Storm, Event::CliKilled] {
        soak.round(event).await?;
    }
    soak.close().await?;
    let before = Counts::at_rest(&soak.shim).await?;

    soak.open().await?;
    let went_on = soak.rounds(length, node.runtime_can_be_paused()).await;
    if let Err(error) = &went_on {
        let logs = latest_logs(soak.stage.directory());
        table::say(&format!("the soak broke off: {error:?}\n{logs}"))?;
        return Ok(false);
    }
    soak.close().await?;
    let settled = before.compare(&soak.shim).await?;
    soak.report()?;
    Ok(settled && soak.tally.wrong.is_empty())
}

impl Soak {
    async fn rounds(&mut self, length: Duration, with_runtime: bool) -> Result<()> {
        let mut events = EVENTS.to_vec();
        if with_runtime {
            events.push((1, Event::RuntimeRestarted));
        }
        if Form::chosen()? == Form::Apart {
            let apart = [
                Event::BinderKilled,
                Event::ServeReplaced,
                Event::ServeUpgraded,
            ];
            events.extend(apart.map(|event| (2, event)));
        }
        let (start, mut said) = (Instant::now(), Instant::now());
        while start.elapsed() < length && self.tally.wrong.is_empty() {
            let event = self.dice.choose(&events).unwrap_or(Event::Nothing);
            let told = self.round(event).await;
            told.with_context(|| format!("amid {event:?}"))?;
            if said.elapsed() > SAY {
                said = Instant::now();
                let (whole, cut) = (self.tally.whole, self.tally.cut);
                let now = start.elapsed().as_secs();
                table::say(&format!("{now} s: {whole} whole, {cut} cut"))?;
            }
        }
        Ok(())
    }

    async fn round(&mut self, event: Event) -> Result<()> {
        *self.events.entry(event).or_default() += 1;
        let mut running = Vec::new();
        for lane in &self.lanes {
            let connections = u32::try_from(self.dice.between(1, 9))?;
            let sizes = [(4, 1 << 10), (3, 1 << 18), (1, 1 << 21)];
            let most = self.dice.choose(&sizes).unwrap_or(1);
            let bytes = self.dice.between(1, most + 1);
            let seed = self.dice.roll() >> 16;
            running.push(lane.exchange(connections, bytes, seed).await?);
        }
        sleep(Duration::from_millis(self.dice.between(0, 150))).await;
        let victim = usize::try_from(self.dice.between(0, LANES as u64))?;
        self.strike(event, victim).await?;
        for (at, running) in running.iter().enumerate() {
            let mine = at == victim;
            let disturbed = match event {
                Event::Nothing | Event::Storm | Event::RuntimeRestarted | Event::BinderKilled => {
                    false
                }
                Event::ServeKilled
                | Event::ServeTerminated
                | Event::ServeReplaced
                | Event::ServeUpgraded => true,
                _ => mine,
            };
            // The probe went with its pod, and says nothing any more.
            if mine && event == Event::PodRemoved {
                self.lanes[at].abandon().await?;
                continue;
            }
            if event == Event::RuntimeRestarted {
                let judged = self.lanes[at].judge_from_outside(running, &mut self.tally);
                judged.await?;
                continue;
            }
            let judged = self.lanes[at].judge(running, disturbed, &mut self.tally);
            judged.await?;
        }
        self.mend(event, victim).await
    }

    /// What happens amid the exchanges.
    async fn strike(&mut self, event: Event, victim: usize) -> Result<()> {
        let lane = &mut self.lanes[victim];
        let forward = lane.forward.as_mut().context("no forward")?;
        match event {
            Event::Nothing => {}
            Event::Storm => {
                lane.pod
                    .run("storm --to 127.0.0.1:8080 --connections 50")
                    .await?;
            }
            Event::CliKilled => forward.kill().await?,
            Event::CliInterrupted => forward.signal(Signal::SIGINT)?,
            Event::SessionStopped => {
                for session in self.shim.sessions().await? {
                    if session.sandbox_id == lane.pod.id() {
                        let session_id = session.session_id;
                        let stop = pb::StopSessionRequest { session_id };
                        self.shim.client().stop_session(stop).await?;
                    }
                }
            }
            Event::ServeKilled => self.shim.kill().await?,
            Event::ServeTerminated => self.shim.signal(Signal::SIGTERM)?,
            Event::ServeReplaced => {
                self.shim.kill().await?;
                self.shim.serve_again(&self.stage).await?;
            }
            Event::ServeUpgraded => {
                self.shim.signal(Signal::SIGTERM)?;
                self.shim.exit(SOON).await?;
                self.shim.serve_again(&self.stage).await?;
            }
            Event::PodRemoved => lane.pod.remove().await?,
            Event::BinderKilled => {
                let binder = self.shim.binder()?;
                binder.kill().await?;
                sleep(Duration::from_millis(200)).await;
                binder.again(&self.stage).await?;
            }
            Event::RuntimeRestarted => {
                let node = self.stage.node().clone();
                node.pause_runtime().await?;
                sleep(Duration::from_millis(500)).await;
                node.resume_runtime().await?;
            }
        }
        Ok(())
    }

    /// Starts what ended, and checks how it did.
    async fn mend(&mut self, event: Event, victim: usize) -> Result<()> {
        match event {
            Event::Nothing | Event::Storm => {}
            // Whatever comes next may ask them.
            Event::RuntimeRestarted | Event::BinderKilled => self.shim.is_ready().await?,
            Event::CliKilled => self.again(victim, &[137]).await?,
            Event::CliInterrupted => self.again(victim, &[0]).await?,
            Event::SessionStopped => self.again(victim, &[9]).await?,
            Event::ServeKilled | Event::ServeTerminated => {
                if event == Event::ServeTerminated {
                    self.shim.exit(SOON).await?;
                }
                for lane in &mut self.lanes {
                    lane.forward_ends(&[7, 9]).await?;
                    lane.port_is_free(SOON).await?;
                }
                self.shim = self.stage.shim(FLAGS).await?;
                for lane in &mut self.lanes {
                    lane.forward(&self.stage, &self.shim, "").await?;
                }
            }
            Event::ServeReplaced | Event::ServeUpgraded => {
                for lane in &mut self.lanes {
                    lane.forward_is_back().await?;
                }
            }
            Event::PodRemoved => {
                self.lanes[victim].forward_ends(&[9]).await?;
                self.lanes[victim] = self.lane().await?;
            }
        }
        Ok(())
    }

    /// The victim's forward ended with one of these; its port is free, and it is
    /// forwarded again.
    async fn again(&mut self, victim: usize, codes: &[i32]) -> Result<()> {
        let lane = &mut self.lanes[victim];
        lane.forward_ends(codes).await?;
        lane.port_is_free(SOON).await?;
        lane.forward(&self.stage, &self.shim, "").await
    }

    async fn lane(&mut self) -> Result<Lane> {
        self.pods += 1;
        let mut lane = Lane::new(&self.stage, &format!("soak-{}", self.pods)).await?;
        lane.forward(&self.stage, &self.shim, "").await?;
        Ok(lane)
    }

    async fn open(&mut self) -> Result<()> {
        while self.lanes.len() < LANES {
            let lane = self.lane().await?;
            self.lanes.push(lane);
        }
        Ok(())
    }

    /// Ends everything but the shim.
    async fn close(&mut self) -> Result<()> {
        for mut lane in self.lanes.drain(..) {
            if let Some(forward) = &lane.forward {
                forward.signal(Signal::SIGTERM)?;
            }
            lane.forward_ends(&[0]).await?;
            lane.port_is_free(SOON).await?;
            lane.pod.remove().await?;
        }
        let shim = &self.shim;
        until("the shim to be idle", SOON, || async {
            Ok(shim.sessions().await?.is_empty().then_some(()))
        })
        .await
    }

    fn report(&self) -> Result<()> {
        let mut rows = vec![row(&[&"event", &"times"])];
        for (event, times) in &self.events {
            rows.push(row(&[&format!("{event:?}"), times]));
        }
        let Tally {
            whole,
            cut,
            refused,
            wrong,
        } = &self.tally;
        rows.push(row(&[&"exchanges", &"connections"]));
        rows.push(row(&[&"whole, every byte compared", whole]));
        rows.push(row(&[&"cut, and told so", cut]));
        rows.push(row(&[&"refused", refused]));
        rows.push(row(&[&"WRONG", &wrong.len()]));
        table::print(&rows)?;
        wrong.iter().try_for_each(|what| table::say(what))
    }
}

/// The end of what the programs said that said something last.
fn latest_logs(directory: &Path) -> String {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<_> = files
        .filter_map(|file| Some((file.metadata().ok()?.modified().ok()?, file.path())))
        .collect();
    files.sort();
    let latest = files.iter().rev().take(LOGS).rev();
    latest
        .map(|(_, path)| {
            let text = fs::read_to_string(path).unwrap_or_default();
            format!("{}:\n{}", path.display(), tail(&text))
        })
        .collect()
}
