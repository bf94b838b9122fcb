//! A few seeds of the simulation, and that it is what it says it is. Many more:
//! `make simulate`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use sternline_simulation::{Outcome, Stats, run};

/// A run that must be well.
fn well(seed: u64) -> Outcome {
    let outcome = run(seed);
    assert!(
        outcome.failures.is_empty(),
        "seed {seed}: {:#?}\n{}\nagain: SIM_SEED={seed} make simulate",
        outcome.failures,
        outcome.trace.join("\n")
    );
    outcome
}

#[test]
fn whatever_goes_wrong_nothing_is_lost_doubled_crossed_or_left_behind() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(0);
    let runs = || -> Vec<Stats> {
        let seeds = std::iter::repeat_with(|| next.fetch_add(1, Relaxed));
        seeds
            .take_while(|seed| *seed < 200)
            .map(|seed| well(seed).stats)
            .collect()
    };
    let stats: Vec<Stats> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(runs)).collect();
        let done = running
            .into_iter()
            .map(|thread| thread.join().expect("every seed is well"));
        done.flatten().collect()
    });
    let sum = |of: fn(&Stats) -> u64| stats.iter().map(of).sum::<u64>();
    let (whole, cut) = (sum(|s| s.whole), sum(|s| s.cut));
    let (reconnected, rejected) = (sum(|s| s.reconnected), sum(|s| s.rejected));
    // Runs in which nothing happens would show nothing.
    assert!(whole > 300, "{whole} connections to their end");
    assert!(cut > 100, "{cut} cut off");
    assert!(reconnected > 20, "{reconnected} times back");
    assert!(rejected > 20, "{rejected} rejected");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..30 {
        let (first, second) = (well(seed), well(seed));
        let differing = first.trace.iter().zip(&second.trace).find(|(a, b)| a != b);
        assert_eq!(differing, None, "seed {seed}");
        assert_eq!(first.trace.len(), second.trace.len(), "seed {seed}");
        assert_eq!(first.stats, second.stats, "seed {seed}");
    }
}
