//! What a node has, counted before and after a story.

use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// Everything that a story could leave behind. The run has namespaces of its
/// own, so all of it belongs to the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inventory {
    entries: BTreeMap<String, usize>,
}

impl Inventory {
    /// Counts now.
    ///
    /// # Errors
    /// `/proc` is not readable.
    pub(crate) fn take() -> Result<Self> {
        let mut entries = BTreeMap::new();
        let mut count = |entry: String| *entries.entry(entry).or_default() += 1;
        for pid in processes() {
            let proc = format!("/proc/{pid}");
            // A zombie waits for process 1 and is as good as gone; so is one
            // that went while we looked.
            let Ok(stat) = fs::read_to_string(format!("{proc}/stat")) else {
                continue;
            };
            if stat
                .rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim_start().starts_with('Z'))
            {
                continue;
            }
            let command = fs::read_to_string(format!("{proc}/cmdline")).unwrap_or_default();
            let command = command.replace('\0', " ");
            // By what it runs: a runtime that was restarted is the same.
            count(format!("process {}", command.trim_end()));
        }
        for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
            let point = line.split(' ').nth(4).unwrap_or_default();
            count(format!("mount on {point}"));
        }
        for line in fs::read_to_string("/proc/self/net/dev")?.lines().skip(2) {
            let name = line.split(':').next().unwrap_or_default();
            count(format!("interface {}", name.trim()));
        }
        for entry in fs::read_dir("/run/netns")?.flatten() {
            count(format!("namespace {}", entry.path().display()));
        }
        Ok(Self { entries })
    }

    /// How many there are of a kind: what its entries begin with.
    pub(crate) fn count(&self, kind: &str) -> u64 {
        let of_kind = self
            .entries
            .iter()
            .filter(|(entry, _)| entry.starts_with(kind));
        of_kind.map(|(_, count)| *count as u64).sum()
    }

    /// Waits until nothing is there that was not there before.
    ///
    /// # Errors
    /// Something still is after `within`; the error lists it.
    pub(crate) async fn restored(&self, within: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let now = Self::take()?;
            let more = |(entry, count): &(&String, &usize)| {
                **count > self.entries.get(*entry).copied().unwrap_or_default()
            };
            let left: Vec<_> = now.entries.iter().filter(more).collect();
            if left.is_empty() {
                return Ok(());
            }
            if start.elapsed() > within {
                let list = left
                    .iter()
                    .map(|(entry, count)| format!("\n  {count} x {entry}"));
                let list: String = list.collect();
                bail!("left over after {within:?}:{list}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Every process of the run.
pub(crate) fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect()
}
