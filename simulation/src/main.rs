//! `sternline-simulate`: many seeds, or one again.
//!
//! SIM_SEEDS (10000) says how many, SIM_FROM (0) the first; SIM_SEED runs one and
//! prints its trace, with the product's own log if RUST_LOG is set.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::Instant;
use sternline_simulation::{Outcome, run};

fn main() -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    if let Some(seed) = number("SIM_SEED") {
        if std::env::var_os("RUST_LOG").is_some() {
            let filter = tracing_subscriber::EnvFilter::from_default_env();
            let log = tracing_subscriber::fmt().with_env_filter(filter);
            log.with_writer(io::stderr).without_time().init();
        }
        let outcome = run(seed);
        for line in &outcome.trace {
            writeln!(out, "{line}")?;
        }
        return verdict(&mut out, &outcome);
    }
    let (first, count) = (
        number("SIM_FROM").unwrap_or(0),
        number("SIM_SEEDS").unwrap_or(10_000),
    );
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let (send, outcomes) = mpsc::channel();
    let mut failed = 0;
    let mut sum = [0_u64; 8];
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= first + count || send.send(run(seed)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for (done, outcome) in (1_u64..).zip(outcomes) {
            let stats = outcome.stats;
            let more = [
                stats.sessions,
                stats.connections,
                stats.whole,
                stats.cut,
                stats.reconnected,
                stats.rejected,
                stats.faults,
                stats.bytes,
            ];
            for (sum, more) in sum.iter_mut().zip(more) {
                *sum += more;
            }
            if !outcome.failures.is_empty() {
                failed += 1;
                if failed <= 5 {
                    verdict(&mut out, &outcome)?;
                }
            }
            if done.is_multiple_of(1_000) {
                writeln!(
                    out,
                    "{done} seeds, {failed} failed, {:.0} s",
                    began.elapsed().as_secs_f64()
                )?;
            }
        }
        Ok::<_, io::Error>(())
    })?;
    let [
        sessions,
        connections,
        whole,
        cut,
        reconnected,
        rejected,
        faults,
        bytes,
    ] = sum;
    writeln!(
        out,
        "{count} seeds from {first} in {:.0} s: {sessions} sessions, {connections} connections ({whole} whole, {cut} cut), {reconnected} times back, {rejected} rejected, {faults} faults, {} MB; {failed} failed",
        began.elapsed().as_secs_f64(),
        bytes / 1_000_000
    )?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn verdict(out: &mut impl io::Write, outcome: &Outcome) -> io::Result<ExitCode> {
    if outcome.failures.is_empty() {
        writeln!(out, "seed {}: all is well", outcome.seed)?;
        return Ok(ExitCode::SUCCESS);
    }
    for failure in outcome.failures.iter().take(10) {
        writeln!(out, "seed {}: {failure}", outcome.seed)?;
    }
    writeln!(
        out,
        "again, with its trace: SIM_SEED={} make simulate",
        outcome.seed
    )?;
    Ok(ExitCode::FAILURE)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
