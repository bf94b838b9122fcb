//! What processes use, as the kernel counts it in `/proc`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

/// The kernel's unit of CPU time in `/proc`: USER_HZ, 100 a second on every
/// Linux.
const TICK: Duration = Duration::from_millis(10);

/// Part of a line of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    zombie: bool,
    /// User and system time of all its threads, ended ones too, in ticks.
    ticks: u64,
}

/// Reads a line of `/proc/PID/stat`; the name in it may hold anything.
fn parse_stat(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // proc(5): state is field 3, ppid 4, utime 14, stime 15.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: number(4)?.try_into().ok()?,
        zombie: *fields.first()? == "Z",
        ticks: number(14)? + number(15)?,
    })
}

/// Reads a field such as `VmRSS:` of `/proc/PID/status`, in bytes.
fn parse_status(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

fn stats() -> BTreeMap<u32, Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((pid, parse_stat(&line)?))
        })
        .collect()
}

/// The roots and everything that descends from them.
fn tree(stats: &BTreeMap<u32, Stat>, roots: &[u32]) -> BTreeSet<u32> {
    let mut tree: BTreeSet<u32> = roots
        .iter()
        .copied()
        .filter(|pid| stats.contains_key(pid))
        .collect();
    loop {
        let more: Vec<u32> = stats
            .iter()
            .filter(|(pid, stat)| !tree.contains(pid) && tree.contains(&stat.parent))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return tree;
        }
        tree.extend(more);
    }
}

/// CPU time, user and system, that these processes and their descendants took
/// so far.
pub(crate) fn cpu(roots: &[u32]) -> Duration {
    let stats = stats();
    let ticks: u64 = tree(&stats, roots).iter().map(|pid| stats[pid].ticks).sum();
    TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
}

/// Resident memory of these processes and their descendants, in bytes.
pub(crate) fn memory(roots: &[u32]) -> u64 {
    let status = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/status")).ok();
    tree(&stats(), roots)
        .iter()
        .filter_map(|pid| parse_status(&status(pid)?, "VmRSS:"))
        .sum()
}

/// Every process that is not this one and not among `known`, by name; dead ones
/// that nobody buried are left out.
pub(crate) fn strangers(known: &[u32]) -> Vec<(u32, String)> {
    let own = std::process::id();
    let stats = stats();
    let known = tree(&stats, known);
    stats
        .iter()
        .filter(|(pid, stat)| **pid != own && !stat.zombie && !known.contains(pid))
        .map(|(pid, _)| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            (*pid, name.trim_end().to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_process_is_called() {
        let line = "42 (a) R 7) S 7 42 42 0 -1 4194560 1 2 3 4 150 25 9 9 20 0 3 0 99 1 1\n";
        let expected = Stat {
            parent: 7,
            zombie: false,
            ticks: 175,
        };
        assert_eq!(parse_stat(line), Some(expected));
        assert_eq!(parse_stat("42 (cut) S 7"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "Name:\tx\nVmHWM:\t  999 kB\nVmRSS:\t  12 kB\n";
        assert_eq!(parse_status(text, "VmRSS:"), Some(12 * 1024));
        assert_eq!(parse_status(text, "VmSwap:"), None);
    }

    #[test]
    fn descendants_count_and_others_do_not() {
        let stat = |parent| Stat {
            parent,
            zombie: false,
            ticks: 1,
        };
        let stats = BTreeMap::from([
            (1, stat(0)),
            (5, stat(1)),
            (3, stat(5)),
            (9, stat(3)),
            (7, stat(1)),
        ]);
        let found: Vec<u32> = tree(&stats, &[5]).into_iter().collect();
        assert_eq!(found, [3, 5, 9]);
        assert!(tree(&stats, &[77]).is_empty());
    }

    #[test]
    fn this_process_uses_something() {
        let own = [std::process::id()];
        assert!(memory(&own) > 100 * 1024);
        let before = cpu(&own);
        let begun = std::time::Instant::now();
        let mut sum = 0_u64;
        // By the clock of the CPU: a busy machine gives it slowly.
        while cpu(&own) < before + TICK * 2 && begun.elapsed() < Duration::from_secs(20) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu(&own) > before);
    }
}
