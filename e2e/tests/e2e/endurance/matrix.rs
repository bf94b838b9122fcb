//! Everybody is killed in every phase of a forward's life.

use super::lane::{Lane, Tally};
use super::table;
use crate::support::binder::Form;
use crate::support::client::{call, request};
use crate::support::leftovers::Inventory;
use crate::support::node::Node;
use crate::support::shim::Shim;
use crate::support::stage::Stage;
use crate::support::{SOON, same, until};
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sternline_api::v1alpha1 as pb;
use tokio::time::sleep;

/// A token waits for 2 s, a lost client is noticed within one; sandboxes are
/// looked at ten times a second.
const FLAGS: &str = "--restart-grace 0s --token-ttl 2s --ping-interval 400ms --poll-interval 100ms";

/// The same, where a successor is expected.
const REPLACED: &str =
    "--restart-grace 5s --token-ttl 2s --ping-interval 400ms --poll-interval 100ms";

/// How long listeners outlive a lost client in the phase that is about it.
const HOLD: &str = "--hold 2s";

/// How often the run says that it goes on.
const SAY: Duration = Duration::from_secs(60);

/// Who is killed. Runtime and binder come back, and nothing may have happened.
/// A serve that is replaced cuts what is open, and everything else goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Cli,
    Serve,
    Pod,
    Runtime,
    Binder,
    Replaced,
}

impl Victim {
    /// Whether a forward does not notice.
    fn is_aside(self) -> bool {
        matches!(self, Self::Runtime | Self::Binder)
    }

    fn flags(self) -> &'static str {
        if self == Self::Replaced {
            REPLACED
        } else {
            FLAGS
        }
    }
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// The listeners are bound, nobody came to the URL.
    BeforeRedeem,
    /// The forward is up, nothing moves.
    Idle,
    /// Exchanges are under way in both directions.
    InTransfer,
    /// The client is lost, its listeners are held.
    InHold,
}

const PHASES: [Phase; 4] = [
    Phase::BeforeRedeem,
    Phase::Idle,
    Phase::InTransfer,
    Phase::InHold,
];

/// What became of the rounds of one victim in one phase.
#[derive(Default)]
struct Cell {
    rounds: u32,
    failed: u32,
    tally: Tally,
}

type Cells = BTreeMap<(Victim, Phase), Cell>;

/// Goes through the matrix so many times, with one victim alone if it is named;
/// whether nothing was left over, lost or wrong.
///
/// # Errors
/// The run cannot begin, or nobody has that name here.
pub(super) async fn run(node: &Arc<Node>, rounds: u32, only: Option<&str>) -> Result<bool> {
    let mut victims = vec![Victim::Cli, Victim::Serve, Victim::Pod];
    if node.runtime_can_be_paused() {
        victims.push(Victim::Runtime);
    }
    if Form::chosen()? == Form::Apart {
        victims.extend([Victim::Binder, Victim::Replaced]);
    }
    if let Some(only) = only {
        victims.retain(|victim| format!("{victim:?}").eq_ignore_ascii_case(only));
        ensure!(
            !victims.is_empty(),
            "VICTIM={only}: nobody of that name here"
        );
    }
    table::say(&format!(
        "kill matrix, {rounds} rounds on {}",
        node.version()
    ))?;
    let mut cells = Cells::new();
    let mut said = Instant::now();
    for round in 0..rounds {
        if said.elapsed() > SAY {
            said = Instant::now();
            table::say(&format!("{round} of {rounds} rounds"))?;
        }
        for &victim in &victims {
            for phase in PHASES {
                let cell = cells.entry((victim, phase)).or_default();
                cell.rounds += 1;
                let stage = Stage::new(node.clone())?;
                let one = one(&stage, victim, phase, &mut cell.tally).await;
                if let Err(error) = one {
                    cell.failed += 1;
                    let logs = stage.logs();
                    table::say(&format!(
                        "round {round}, {victim:?} {phase:?}: {error:?}\n{logs}"
                    ))?;
                    node.resume_runtime().await?;
                    node.sweep().await?;
                }
                let _ = std::fs::remove_dir_all(stage.directory());
            }
        }
    }
    report(&cells)
}

fn report(cells: &Cells) -> Result<bool> {
    let head = [
        "killed",
        "phase",
        "rounds",
        "failed",
        "whole",
        "cut, told so",
        "refused",
        "wrong",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut sound = true;
    for ((victim, phase), cell) in cells {
        let tally = &cell.tally;
        sound &= cell.failed == 0 && tally.wrong.is_empty();
        rows.push(vec![
            format!("{victim:?}"),
            format!("{phase:?}"),
            cell.rounds.to_string(),
            cell.failed.to_string(),
            tally.whole.to_string(),
            tally.cut.to_string(),
            tally.refused.to_string(),
            tally.wrong.len().to_string(),
        ]);
    }
    let wrong = cells.values().flat_map(|cell| cell.tally.wrong.iter());
    table::print(&rows)?;
    for what in wrong {
        table::say(what)?;
    }
    Ok(sound)
}

/// One kill, and everything that must be true after it.
async fn one(stage: &Stage, victim: Victim, phase: Phase, tally: &mut Tally) -> Result<()> {
    let before = Inventory::take()?;
    let mut shim = stage.shim(victim.flags()).await?;
    let mut lane = Lane::new(stage, "kill").await?;
    // The first call makes what stays.
    let first = call(&shim, request(&lane.pod, &[8079])).await?;
    let stop = pb::StopSessionRequest {
        session_id: first.session_id,
    };
    shim.client().stop_session(stop).await?;
    let usage = shim.usage()?;

    let mut running = None;
    match phase {
        Phase::BeforeRedeem if victim == Victim::Cli => {
            let words = format!(
                "forward -v sandbox/{} 8080:{}",
                lane.pod.id(),
                lane.target.port()
            );
            let mut cli = stage.cli(&shim, &words)?;
            until("the listeners to be bound", SOON, || async {
                Ok((!shim.sessions().await?.is_empty()).then_some(()))
            })
            .await?;
            cli.kill().await?;
        }
        Phase::BeforeRedeem => {
            call(&shim, request(&lane.pod, &[8080])).await?;
        }
        Phase::Idle => lane.forward(stage, &shim, "").await?,
        Phase::InTransfer => {
            lane.forward(stage, &shim, "").await?;
            // More than can be through before the kill, and no more where the
            // whole is waited for.
            let bytes = if victim.is_aside() { 4 << 20 } else { 1 << 30 };
            running = Some(lane.exchange(2, bytes, 7).await?);
            until("bytes to move", SOON, || async {
                let moved = shim.metric("sternline_bytes_total", &[]).await?;
                Ok((moved > 300_000.0).then_some(()))
            })
            .await?;
        }
        Phase::InHold => {
            lane.forward(stage, &shim, HOLD).await?;
            let forward = lane.forward.as_mut().context("no forward")?;
            if victim == Victim::Cli {
                forward.signal(Signal::SIGSTOP)?;
            } else {
                forward.kill().await?;
            }
            until("the session to be held", SOON, || async {
                let sessions = shim.sessions().await?;
                let held = sessions.iter().any(|s| s.state() == pb::SessionState::Held);
                Ok(held.then_some(()))
            })
            .await?;
        }
    }
    kill(stage, victim, &mut shim, &mut lane).await?;
    if let Some(running) = &running {
        if victim == Victim::Pod {
            // The probe went with its pod, and says nothing any more.
            lane.abandon().await?;
        } else if victim == Victim::Binder {
            lane.judge(running, false, tally).await?;
        } else if victim == Victim::Runtime {
            lane.judge_from_outside(running, tally).await?;
        } else {
            let cut = tally.cut;
            lane.judge(running, true, tally).await?;
            ensure!(tally.cut > cut, "nothing was cut: the kill came late");
        }
    }
    aftermath(victim, phase, stage, &mut shim, lane).await?;
    if victim != Victim::Serve {
        shim.idle(SOON).await?;
        let what = format!("the shim to be back at {} descriptors", usage.descriptors);
        until(&what, SOON, || async {
            let now = shim.usage()?;
            Ok((now.descriptors <= usage.descriptors).then_some(()))
        })
        .await?;
        shim.signal(Signal::SIGTERM)?;
        same("exit code of the shim", shim.exit(SOON).await?.code, 0)?;
    }
    // And its binder, where it has one.
    drop(shim);
    before.restored(SOON).await
}

async fn kill(stage: &Stage, victim: Victim, shim: &mut Shim, lane: &mut Lane) -> Result<()> {
    let node = stage.node();
    match victim {
        Victim::Cli => match &mut lane.forward {
            Some(forward) => forward.kill().await,
            None => Ok(()),
        },
        Victim::Serve => shim.kill().await,
        Victim::Pod => lane.pod.remove().await,
        Victim::Runtime => {
            node.pause_runtime().await?;
            sleep(Duration::from_millis(300)).await;
            node.resume_runtime().await
        }
        Victim::Binder => {
            let binder = shim.binder()?;
            binder.kill().await?;
            sleep(Duration::from_millis(300)).await;
            binder.again(stage).await
        }
        Victim::Replaced => {
            shim.kill().await?;
            shim.serve_again(stage).await
        }
    }
}

/// Who was not killed notices, and everything is given back.
async fn aftermath(
    victim: Victim,
    phase: Phase,
    stage: &Stage,
    shim: &mut Shim,
    mut lane: Lane,
) -> Result<()> {
    let was_lost = matches!(phase, Phase::InHold);
    match victim {
        Victim::Cli => lane.forward_ends(&[137]).await?,
        Victim::Serve if !was_lost => lane.forward_ends(&[7]).await?,
        Victim::Pod if !was_lost => lane.forward_ends(&[9]).await?,
        Victim::Serve | Victim::Pod => lane.forward_ends(&[137]).await?,
        Victim::Runtime | Victim::Binder | Victim::Replaced => {
            shim.is_ready().await?;
            if matches!(phase, Phase::Idle | Phase::InTransfer) {
                if victim == Victim::Replaced {
                    lane.forward_is_back().await?;
                }
                // As if nothing had happened.
                let mut tally = Tally::default();
                let running = lane.exchange(2, 10_000, 3).await?;
                lane.judge(&running, false, &mut tally).await?;
                ensure!(tally.wrong.is_empty(), "{:?}", tally.wrong);
                lane.forward.as_mut().context("no forward")?.kill().await?;
            }
            lane.forward_ends(&[137]).await?;
        }
    }
    if victim == Victim::Pod {
        return Ok(());
    }
    lane.port_is_free(SOON).await?;
    if victim != Victim::Serve {
        // And the next one gets it.
        shim.idle(SOON).await?;
        lane.forward(stage, shim, "").await?;
        let mut tally = Tally::default();
        let running = lane.exchange(1, 1000, 5).await?;
        lane.judge(&running, false, &mut tally).await?;
        ensure!(tally.wrong.is_empty(), "{:?}", tally.wrong);
        let forward = lane.forward.as_mut().context("no forward")?;
        forward.signal(Signal::SIGTERM)?;
        lane.forward_ends(&[0]).await?;
    }
    lane.pod.remove().await
}
