//! As many bytes as go through, counted where they are read.

use super::{Direction, Figures, Load, figure, open, run_number};
use crate::stats;
use crate::target::{BLOCK, Control, Count, verb};
use anyhow::{Context as _, Result, bail};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How often the counters are read.
const SAMPLE: Duration = Duration::from_millis(20);

/// Rates of the start are means over so long: shorter shows single bursts.
const RAMP_MEAN: f64 = 0.1;

/// Streams that carry as much as they can, until dropped.
#[derive(Debug)]
pub(super) struct Bulk {
    run: u32,
    streams: u32,
    direction: Direction,
    tasks: JoinSet<Result<()>>,
    /// What this process reads, by stream.
    read: Vec<Arc<AtomicU64>>,
    begun: Instant,
}

impl Bulk {
    /// Opens all streams, then lets them go at once.
    ///
    /// # Errors
    /// One of them does not reach the target.
    pub(super) async fn start(
        address: SocketAddr,
        streams: u32,
        direction: Direction,
    ) -> Result<Self> {
        let run = run_number();
        let mut opened = Vec::new();
        for _ in 0..streams {
            let verb = match direction {
                Direction::PodOut => verb::SINK,
                Direction::OutPod => verb::SOURCE,
            };
            opened.push(open(address, verb).await?);
        }
        let begun = Instant::now();
        let mut bulk = Self {
            run,
            streams,
            direction,
            tasks: JoinSet::new(),
            read: Vec::new(),
            begun,
        };
        for (number, stream) in (0..streams).zip(opened) {
            match direction {
                Direction::PodOut => {
                    let id = u64::from(run) << 32 | u64::from(number);
                    bulk.tasks.spawn(write(stream, id));
                }
                Direction::OutPod => {
                    let counter = Arc::new(AtomicU64::new(0));
                    bulk.read.push(Arc::clone(&counter));
                    bulk.tasks.spawn(read(stream, counter));
                }
            }
        }
        Ok(bulk)
    }

    /// What the streams brought so far.
    ///
    /// # Errors
    /// The target is gone, or a stream broke.
    pub(super) fn count(&mut self, control: &mut Control) -> Result<Count> {
        if let Some(ended) = self.tasks.try_join_next() {
            ended?.context("a stream of the bulk broke")?;
            bail!("a stream of the bulk ended");
        }
        Ok(match self.direction {
            Direction::PodOut => control.count(self.run)?,
            Direction::OutPod => Count {
                at: self.begun.elapsed().as_secs_f64(),
                bytes: self
                    .read
                    .iter()
                    .enumerate()
                    .map(|(id, n)| (id as u64, n.load(Relaxed)))
                    .collect::<HashMap<u64, u64>>(),
            },
        })
    }

    /// Bytes a second of each stream between two moments.
    pub(super) fn rates(&self, from: &Count, to: &Count) -> Vec<f64> {
        let seconds = to.at - from.at;
        let first = match self.direction {
            Direction::PodOut => u64::from(self.run) << 32,
            Direction::OutPod => 0,
        };
        (first..first + u64::from(self.streams))
            .map(|id| {
                let bytes = |count: &Count| count.bytes.get(&id).copied().unwrap_or_default();
                (bytes(to) - bytes(from)) as f64 / seconds
            })
            .collect()
    }
}

async fn write(mut stream: TcpStream, id: u64) -> Result<()> {
    stream.write_u64(id).await?;
    let block = vec![0x5a; BLOCK];
    loop {
        stream.write_all(&block).await?;
    }
}

async fn read(mut stream: TcpStream, counter: Arc<AtomicU64>) -> Result<()> {
    let mut block = vec![0; BLOCK];
    loop {
        match stream.read(&mut block).await? {
            0 => return Ok(()),
            n => counter.fetch_add(n as u64, Relaxed),
        };
    }
}

fn total(count: &Count) -> f64 {
    count.bytes.values().sum::<u64>() as f64
}

/// The work itself.
pub(super) async fn run(
    load: &Load,
    control: &mut Control,
    streams: u32,
    direction: Direction,
) -> Result<Figures> {
    let mut bulk = Bulk::start(load.connect, streams, direction).await?;
    let begun = Instant::now();
    let mut series = Vec::new();
    let mut warm = None;
    let last = loop {
        tokio::time::sleep(SAMPLE).await;
        let count = bulk.count(control)?;
        series.push((begun.elapsed().as_secs_f64(), total(&count)));
        if warm.is_none() && begun.elapsed() >= load.warm_up() {
            warm = Some((count, load.cpu()));
        } else if begun.elapsed() >= load.warm_up() + load.window() {
            break count;
        }
    };
    let cpu = load.cpu();
    let (first, cpu_before) = warm.context("the warm-up is longer than the measurement")?;
    let rates = bulk.rates(&first, &last);
    let mut figures = figures(&rates)?;
    let bytes = total(&last) - total(&first);
    let cpu = cpu.saturating_sub(cpu_before).as_secs_f64();
    if !load.node_pid.is_empty() {
        figures.insert(figure::CPU.to_owned(), cpu / (bytes / 1e9));
    }
    if let Some(ramp) = ramp(&series, figures[figure::RATE]) {
        figures.insert(figure::RAMP.to_owned(), ramp * 1e3);
    }
    Ok(figures)
}

/// Rate and fairness of the streams' rates.
fn figures(rates: &[f64]) -> Result<Figures> {
    let sum: f64 = rates.iter().sum();
    if sum <= 0.0 {
        bail!("no byte went through");
    }
    let mean = sum / rates.len() as f64;
    let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
    Ok(Figures::from([
        (figure::RATE.to_owned(), sum),
        (figure::JAIN.to_owned(), stats::jain(rates)),
        (figure::SLOWEST.to_owned(), slowest / mean),
    ]))
}

/// When the rate first reached 90 % of `rate`, in seconds from the start; none if
/// it never did. `series` holds moments and the bytes until then.
fn ramp(series: &[(f64, f64)], rate: f64) -> Option<f64> {
    let mut from = 0;
    for (at, bytes) in series {
        while series[from].0 < at - RAMP_MEAN - 1e-9 {
            from += 1;
        }
        let (before, had) = match from.checked_sub(1) {
            Some(earlier) => series[earlier],
            None => (0.0, 0.0),
        };
        if at - before >= RAMP_MEAN && (bytes - had) / (at - before) >= 0.9 * rate {
            return Some(*at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_ends_where_the_rate_reaches_nine_tenths() {
        // Nothing for a second, then 100 bytes a second.
        let series: Vec<(f64, f64)> = (1..=300_u32)
            .map(|n| f64::from(n) * 0.01)
            .map(|at| (at, (at - 1.0).max(0.0) * 100.0))
            .collect();
        let ramp = ramp(&series, 100.0).expect("reaches it");
        assert!((1.05..=1.12).contains(&ramp), "{ramp}");
    }

    #[test]
    fn a_rate_that_is_never_reached_has_no_end_of_its_start() {
        let series = [(0.1, 10.0), (0.2, 20.0), (0.3, 30.0)];
        assert_eq!(ramp(&series, 200.0), None);
        assert_eq!(ramp(&[], 1.0), None);
        assert_eq!(ramp(&series, 100.0), Some(0.1));
    }

    #[test]
    fn figures_tell_rate_and_fairness() {
        let figures = figures(&[1.0, 3.0]).expect("figures");
        assert!((figures[figure::RATE] - 4.0).abs() < 1e-9);
        assert!((figures[figure::JAIN] - 0.8).abs() < 1e-9);
        assert!((figures[figure::SLOWEST] - 0.5).abs() < 1e-9);
        assert!(super::figures(&[0.0]).is_err());
    }
}
