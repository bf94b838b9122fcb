//! New connections: each is opened, sends one byte, gets one back and is closed
//! by the target.

use super::{Figures, Load, STEP, figure, open};
use crate::stats;
use crate::target::verb;
use anyhow::{Context as _, Result, bail};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long [`check`] tries.
const READY: Duration = Duration::from_secs(20);

/// Pause after a connection that failed, so that a contender which is down is
/// not asked a million times.
const PAUSE: Duration = Duration::from_millis(10);

/// One connection; the time from its start to its first byte.
async fn one(address: SocketAddr) -> Result<Duration> {
    let begun = Instant::now();
    let mut stream = open(address, verb::ANSWER).await?;
    let answer = timeout(STEP, async {
        let byte = stream.read_u8().await?;
        let first = begun.elapsed();
        let mut rest = [0; 1];
        // The target closes; waiting for it leaves no half-dead connections.
        let more = stream.read(&mut rest).await?;
        std::io::Result::Ok((byte, first, more))
    });
    match answer.await.context("no answer in time")?? {
        (verb::ANSWER, first, 0) => Ok(first),
        other => bail!("the answer is {other:?}"),
    }
}

/// Until a connection is answered.
pub(super) async fn check(address: SocketAddr) -> Result<Figures> {
    let begun = Instant::now();
    loop {
        match one(address).await {
            Ok(_) => return Ok(Figures::new()),
            Err(error) if begun.elapsed() > READY => {
                return Err(error.context(format!("nothing answers through {address}")));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// The work itself.
pub(super) async fn run(load: &Load, at_once: u32) -> Result<Figures> {
    let begun = Instant::now();
    let (from, until) = (load.warm_up(), load.warm_up() + load.window());
    let failed = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..at_once {
        let (address, failed) = (load.connect, Arc::clone(&failed));
        tasks.spawn(async move {
            let mut times = Vec::new();
            while begun.elapsed() < until {
                match one(address).await {
                    Ok(time) if (from..until).contains(&begun.elapsed()) => times.push(time),
                    Ok(_early_or_late) => {}
                    Err(_) => {
                        failed.fetch_add(1, Relaxed);
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
            times
        });
    }
    let times = tasks.join_all().await.concat();
    let failed = failed.load(Relaxed);
    if times.is_empty() || failed > times.len() as u64 / 10 {
        bail!("{failed} connections failed, {} were answered", times.len());
    }
    let micros: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
    let micros = stats::sorted(&micros);
    Ok(Figures::from([
        (
            figure::CONNECTIONS.to_owned(),
            times.len() as f64 / load.seconds,
        ),
        (
            figure::FIRST_BYTE_P50.to_owned(),
            stats::quantile(&micros, 0.5),
        ),
        (
            figure::FIRST_BYTE_P99.to_owned(),
            stats::quantile(&micros, 0.99),
        ),
        (figure::ERRORS.to_owned(), failed as f64),
    ]))
}
