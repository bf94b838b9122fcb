//! Where it was measured.

use serde::Serialize;
use std::fs;

/// The machine, as far as figures depend on it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Cores that this process may use.
    cores: usize,
    /// Model of the processor.
    processor: String,
    /// Memory, in MiB.
    memory_mib: u64,
    /// The kernel's release.
    kernel: String,
    /// Processes that ran, or wanted to, in the minute before: much above 0 the
    /// figures mean little.
    load_before: f64,
}

/// Load above which a report warns.
const BUSY: f64 = 0.7;

impl Machine {
    /// Whether others used it in the minute before.
    pub(crate) fn was_busy(&self) -> bool {
        self.load_before > BUSY
    }

    /// Looks at this machine.
    pub(crate) fn look() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kib = memory.split(' ').next().and_then(|n| n.parse::<u64>().ok());
        let load = read("/proc/loadavg");
        let load = load.split(' ').next().and_then(|n| n.parse().ok());
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            memory_mib: kib.unwrap_or_default() / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: load.unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} cores, {}, {} MiB, Linux {}, load before {:.2}",
            self.cores, self.processor, self.memory_mib, self.kernel, self.load_before
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_seen_and_its_load_told() {
        let mut machine = Machine::look();
        assert!(machine.cores > 0 && machine.memory_mib > 0, "{machine}");
        machine.load_before = 0.2;
        assert!(!machine.was_busy());
        machine.load_before = 3.0;
        assert!(machine.was_busy() && machine.to_string().contains("3.00"));
    }
}
