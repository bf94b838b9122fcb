//! Instruction counts of the tunnel: they stay the same on a machine that is
//! busy, where times do not. Each work is run twice under callgrind, once with
//! twice as much to do; the difference is the cost of the work alone, without
//! the start of a program.

mod baseline;
mod socket;
mod work;

pub(crate) use work::Work;

use crate::process::find;
use anyhow::{Context as _, Result, bail};
use baseline::{Baseline, Finding};
use clap::{Args, ValueEnum as _};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// The compiler that built this program, and for what.
const COMPILER: &str = env!("STERNLINE_BENCH_COMPILER");

/// `memcpy` chooses its instructions by the processor: here always the same.
const PLAIN_MEMCPY: &str = "glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-ERMS,-FSRM";

/// `sternline-bench instructions`.
#[derive(Debug, Args)]
pub(crate) struct Instructions {
    /// What is recorded.
    #[arg(long, value_name = "FILE", default_value = "bench/instructions.json")]
    baseline: PathBuf,
    /// Record what is counted now instead of judging it.
    #[arg(long)]
    record: bool,
    /// Only these works.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Work>,
}

impl Instructions {
    /// Counts and judges.
    ///
    /// # Errors
    /// valgrind is missing, or nothing is recorded.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        if find("valgrind").is_none() {
            bail!("valgrind is not on the PATH: install it, or run hack/install-bench-deps");
        }
        let mut baseline = Baseline::read(&self.baseline, self.record)?;
        let mut out = std::io::stdout();
        let mut failed = false;
        for work in Work::value_variants() {
            if !self.only.is_empty() && !self.only.contains(work) {
                continue;
            }
            let size = work.size();
            let (one, two) = (count(*work, size)?, count(*work, 2 * size)?);
            let each = two.saturating_sub(one) as f64 / f64::from(size);
            if self.record {
                baseline.set(work.name(), each);
                writeln!(out, "{:<14} {each:>12.0} a {}", work.name(), work.unit())?;
                continue;
            }
            let finding = baseline.judge(work.name(), each, COMPILER)?;
            failed |= matches!(finding, Finding::More(_));
            writeln!(
                out,
                "{:<14} {each:>12.0} a {:<10} {finding}",
                work.name(),
                work.unit()
            )?;
        }
        if self.record {
            baseline.write(&self.baseline, COMPILER)?;
            writeln!(out, "recorded in {}", self.baseline.display())?;
        } else if let Some(note) = baseline.note(COMPILER) {
            writeln!(out, "{note}")?;
        }
        Ok(match failed {
            false => ExitCode::SUCCESS,
            true => ExitCode::FAILURE,
        })
    }
}

/// Instructions of one process that does so much.
fn count(work: Work, size: u32) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["work", work.name(), &size.to_string()])
        .env("GLIBC_TUNABLES", PLAIN_MEMCPY)
        .stdin(Stdio::null())
        .output()
        .context("cannot run valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{} failed under valgrind: {said}", work.name());
    }
    collected(&said).with_context(|| format!("valgrind counted nothing: {said}"))
}

/// The count in what callgrind says at its end.
fn collected(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.contains("Collected :"))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_what_callgrind_says() {
        let said = "==7== Events    : Ir\n==7== Collected : 123456\n==7== \n";
        assert_eq!(collected(said), Some(123_456));
        assert_eq!(collected("==7== Events    : Ir\n"), None);
    }
}
