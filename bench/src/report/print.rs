//! The report as a table for people.

use super::{Judged, Report};
use crate::contender::Kind;
use crate::load::figure;
use crate::rows::Phase;
use crate::run::Profile;
use crate::stats;
use anyhow::Result;
use std::collections::BTreeSet;
use std::io::Write;

/// Lines of the second table: figure, its heading, and what it is divided by.
const FIGURES: [(&str, &str, f64); 11] = [
    (figure::RATE, "GB/s", 1e9),
    (figure::CPU, "CPU s/GB", 1.0),
    (figure::CONNECTIONS, "connections/s", 1.0),
    (figure::FIRST_BYTE_P50, "first byte p50, ms", 1e3),
    (figure::TRIP_P50, "round trip p50, us", 1.0),
    (figure::TRIP_P99, "round trip p99, us", 1.0),
    (figure::RAMP, "start to 90 %, ms", 1.0),
    (figure::NODE_KIB, "KiB/connection, node", 1.0),
    (figure::CLIENT_KIB, "KiB/connection, client", 1.0),
    (figure::NODE_MIB, "MiB, node", 1.0),
    (figure::CLIENT_MIB, "MiB, client", 1.0),
];

impl Report {
    /// Writes both tables: the rows, and the medians behind them.
    ///
    /// # Errors
    /// Nobody reads.
    pub(crate) fn print(&self, out: &mut impl Write) -> Result<()> {
        writeln!(out, "machine: {}", self.machine)?;
        writeln!(
            out,
            "run: {:?}, seed {}, {:.0} s",
            self.profile, self.seed, self.seconds
        )?;
        for (name, form) in &self.forms {
            writeln!(out, "form: {name}: {form}")?;
        }
        if self.profile == Profile::Smoke {
            writeln!(
                out,
                "A SMOKE RUN: it shows that everything works; its figures mean nothing."
            )?;
        }
        if self.machine.was_busy() {
            writeln!(
                out,
                "THE MACHINE WAS BUSY before the run: its figures mean little."
            )?;
        }
        self.rows_table(out)?;
        self.medians_table(out)?;
        for failed in &self.failed {
            writeln!(out, "\nFAILED: {failed}")?;
        }
        if self.leftovers.is_empty() {
            writeln!(out, "\nnothing was left behind")?;
        } else {
            writeln!(out, "\nLEFT BEHIND: {}", self.leftovers.join(", "))?;
        }
        Ok(())
    }

    fn rows_table(&self, out: &mut impl Write) -> Result<()> {
        for phase in Phase::ALL {
            let rows: Vec<&Judged> = self.rows.iter().filter(|row| row.phase == phase).collect();
            if rows.is_empty() {
                continue;
            }
            writeln!(out, "\n{}", phase.name())?;
            for row in rows {
                line(out, row)?;
            }
        }
        if !self.absent.is_empty() {
            writeln!(out)?;
        }
        for (id, what, why) in &self.absent {
            writeln!(out, "{id:<4} {what:<66} not measured: {why}")?;
        }
        Ok(())
    }

    fn medians_table(&self, out: &mut impl Write) -> Result<()> {
        for phase in Phase::ALL {
            let of_phase = self.measured.iter().filter(|m| m.phase == phase);
            let jobs: BTreeSet<String> = of_phase
                .flat_map(|m| &m.samples)
                .map(|sample| sample.subject.job.to_string())
                .collect();
            if jobs.is_empty() || phase == Phase::Setup {
                continue;
            }
            writeln!(out, "\n{}: medians (spread)", phase.name())?;
            for job in jobs {
                for (name, heading, scale) in FIGURES {
                    let cells: Vec<String> = Kind::ALL
                        .into_iter()
                        .filter_map(|kind| self.cell(phase, &job, kind, name, scale))
                        .collect();
                    if !cells.is_empty() {
                        writeln!(out, "  {job}, {heading}: {}", cells.join("; "))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn cell(&self, phase: Phase, job: &str, kind: Kind, name: &str, scale: f64) -> Option<String> {
        let values = self.values(phase, job, kind, name);
        if values.is_empty() {
            return None;
        }
        let median = number(stats::median(&values) / scale);
        let spread = stats::spread(&values) * 100.0;
        Some(format!("{} {median} ({spread:.0} %)", kind.name()))
    }
}

fn line(out: &mut impl Write, row: &Judged) -> Result<()> {
    let need = row.need.map(|need| need.to_string()).unwrap_or_default();
    let verdict = row.verdict.map(|v| v.to_string()).unwrap_or_default();
    let found = row.estimate.map_or_else(
        || "nothing was measured".to_owned(),
        |estimate| {
            format!(
                "{:>7} [{}, {}] of {} {}, spread {:.0} %",
                number(estimate.median),
                number(estimate.low),
                number(estimate.high),
                estimate.count,
                if row.paired { "pairs" } else { "rounds" },
                row.spread * 100.0
            )
        },
    );
    writeln!(
        out,
        "{:<4} {:<66} {need:<8} {verdict:<13} {found}",
        row.id, row.what
    )?;
    Ok(())
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        n if n >= 100.0 => format!("{value:.0}"),
        n if n >= 10.0 => format!("{value:.1}"),
        n if n >= 0.1 || n == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let all = [21_268.4, 12.345, 1.2345, 0.0701, 0.0];
        let text = all.map(number);
        assert_eq!(text, ["21268", "12.3", "1.23", "0.0701", "0.00"]);
    }
}
