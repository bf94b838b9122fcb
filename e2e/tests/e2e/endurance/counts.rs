//! What is there while nothing happens, counted and compared.

use super::table;
use crate::support::leftovers::Inventory;
use crate::support::shim::Shim;
use anyhow::Result;
use std::fs;
use std::time::{Duration, Instant};

/// Longest that anything may take to go away.
const SETTLE: Duration = Duration::from_secs(30);

/// What does not change for so long is at rest.
const REST: Duration = Duration::from_secs(2);

/// Memory that an allocator may keep: as much again as half of what there was,
/// and this, in KiB. Buffers of the busiest moment are not given back to the
/// kernel at once.
const MEMORY_SLACK: u64 = 16 * 1024;

/// Counts of a node at rest: no pod, no forward, no session.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    inventory: Inventory,
    numbers: Vec<(&'static str, u64)>,
}

impl Counts {
    /// Counts once nothing changes any more.
    ///
    /// # Errors
    /// As [`Counts::take`].
    pub(super) async fn at_rest(shim: &Shim) -> Result<Self> {
        let start = Instant::now();
        let mut before = Self::take(shim)?;
        loop {
            tokio::time::sleep(REST).await;
            let now = Self::take(shim)?;
            // Memory is never quite the same twice.
            let same = before.inventory == now.inventory && before.numbers[..2] == now.numbers[..2];
            if same || start.elapsed() > SETTLE {
                return Ok(now);
            }
            before = now;
        }
    }

    /// Counts now.
    ///
    /// # Errors
    /// The shim has ended, or `/proc` cannot be read.
    fn take(shim: &Shim) -> Result<Self> {
        let usage = shim.usage()?;
        let inventory = Inventory::take()?;
        let numbers = vec![
            ("descriptors of the shim", usage.descriptors as u64),
            ("threads of the shim", usage.threads as u64),
            ("memory of the shim, KiB", usage.memory / 1024),
            (
                "descriptors of the targets",
                fs::read_dir("/proc/self/fd")?.count() as u64,
            ),
            ("processes", inventory.count("process ")),
            ("named namespaces", inventory.count("namespace ")),
            ("interfaces", inventory.count("interface ")),
            ("mounts", inventory.count("mount ")),
        ];
        Ok(Self { inventory, numbers })
    }

    /// Waits until what is there is what was there, and prints both; whether it
    /// came to that.
    ///
    /// # Errors
    /// As [`Counts::take`].
    pub(super) async fn compare(&self, shim: &Shim) -> Result<bool> {
        let start = Instant::now();
        let now = loop {
            let now = Self::take(shim)?;
            let all = self.numbers.iter().zip(&now.numbers);
            let settled = all.clone().all(|(then, now)| now.1 <= most(*then));
            if settled || start.elapsed() > SETTLE {
                break now;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let mut rows = vec![table::row(&[&"at rest", &"start", &"end", &"at most", &""])];
        let mut sound = true;
        for (&(what, then), &(_, now)) in self.numbers.iter().zip(&now.numbers) {
            let most = most((what, then));
            let fits = now <= most;
            sound &= fits;
            let word = if fits { "ok" } else { "LEFT OVER" };
            rows.push(table::row(&[&what, &then, &now, &most, &word]));
        }
        table::print(&rows)?;
        if !sound && let Err(error) = self.inventory.restored(Duration::ZERO).await {
            table::say(&format!("{error:?}"))?;
        }
        Ok(sound)
    }
}

/// The most that may be there at the end.
fn most((what, then): (&str, u64)) -> u64 {
    if what.starts_with("memory") {
        then + then / 2 + MEMORY_SLACK
    } else {
        then
    }
}
