//! What connections cost that are open and carry nothing, or that nobody reads.

use super::{Direction, Figures, Load, STEP, figure, open, round_trip};
use crate::target::{BLOCK, verb};
use anyhow::{Context as _, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Connections that are being opened at a time.
const OPENING: usize = 64;

/// How long buffers of the opening may take to shrink before memory is read.
const SETTLE: Duration = Duration::from_secs(1);

/// How often memory is read while it may grow.
const SAMPLE: Duration = Duration::from_millis(100);

/// Length of the look at a neighbour of streams that nobody reads.
const NEIGHBOUR: Duration = Duration::from_millis(500);

/// Opens connections, some at a time, and waits for an answer on each unless
/// `verb` gives none.
async fn open_all(load: &Load, count: u32, verb: u8) -> Result<Vec<TcpStream>> {
    let slots = Arc::new(Semaphore::new(OPENING));
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let address = load.connect;
        tasks.spawn(async move {
            let _slot = slot;
            let mut stream = open(address, verb).await?;
            if matches!(verb, verb::HOLD | verb::HALF) {
                let answer = timeout(STEP, stream.read_u8()).await;
                answer.context("no answer in time")??;
            }
            anyhow::Ok(stream)
        });
    }
    let opened = tasks.join_all().await;
    let what = || format!("not all of {count} connections were opened");
    opened.into_iter().collect::<Result<_>>().with_context(what)
}

/// Memory by which the contender grew since `before`, in bytes.
fn grown(load: &Load, before: (u64, u64)) -> (f64, f64) {
    let now = load.memory();
    (
        now.0.saturating_sub(before.0) as f64,
        now.1.saturating_sub(before.1) as f64,
    )
}

/// Idle connections, or such that finished their own direction.
pub(super) async fn idle(load: &Load, count: u32, half_closed: bool) -> Result<Figures> {
    let before = load.memory();
    let verb = if half_closed { verb::HALF } else { verb::HOLD };
    let mut streams = open_all(load, count, verb).await?;
    if half_closed {
        for stream in &mut streams {
            stream.shutdown().await?;
        }
    }
    tokio::time::sleep(SETTLE).await;
    let (node, client) = grown(load, before);
    let each = |bytes: f64| bytes / 1024.0 / f64::from(count);
    Ok(Figures::from([
        (figure::NODE_KIB.to_owned(), each(node)),
        (figure::CLIENT_KIB.to_owned(), each(client)),
        (figure::NODE_MIB.to_owned(), node / f64::from(1 << 20)),
        (figure::CLIENT_MIB.to_owned(), client / f64::from(1 << 20)),
    ]))
}

/// Streams that nobody reads, and a neighbour that must not suffer.
pub(super) async fn unread(load: &Load, count: u32, direction: Direction) -> Result<Figures> {
    let before = load.memory();
    let verb = match direction {
        Direction::PodOut => verb::UNREAD,
        Direction::OutPod => verb::SOURCE,
    };
    let streams = open_all(load, count, verb).await?;
    let mut feeders = JoinSet::new();
    let mut kept = Vec::new();
    for mut stream in streams {
        match direction {
            Direction::PodOut => {
                feeders.spawn(async move {
                    let block = vec![0x5a; BLOCK];
                    // A stream that a limit ends is fed no more.
                    while stream.write_all(&block).await.is_ok() {}
                });
            }
            Direction::OutPod => kept.push(stream),
        }
    }
    let (mut node, mut client) = (0.0_f64, 0.0_f64);
    let begun = Instant::now();
    while begun.elapsed() < load.window() {
        tokio::time::sleep(SAMPLE).await;
        let now = grown(load, before);
        (node, client) = (node.max(now.0), client.max(now.1));
    }
    let address = load.connect;
    let times = tokio::task::spawn_blocking(move || round_trip::trips(address, NEIGHBOUR)).await?;
    let mut figures = round_trip::figures(&times.context("a neighbour of the flood is stuck")?);
    figures.insert(figure::NODE_MIB.to_owned(), node / f64::from(1 << 20));
    figures.insert(figure::CLIENT_MIB.to_owned(), client / f64::from(1 << 20));
    Ok(figures)
}
