//! What a run found: judged rows, medians of everything, and all raw figures.

mod machine;
mod print;

pub(crate) use machine::Machine;

use crate::contender::Kind;
use crate::load::Figures;
use crate::rows::{Phase, Row, Subject};
use crate::run::{Profile, Run};
use crate::stats::{self, Estimate, Need, Verdict};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// One measurement of one contender.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// Who and what.
    #[serde(serialize_with = "as_text")]
    pub(crate) subject: Subject,
    /// What came of it.
    pub(crate) figures: Figures,
}

fn as_text<S: Serializer>(subject: &Subject, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(subject)
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.job)
    }
}

/// Measurements that were made next to each other, in their order.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    /// Under which conditions.
    pub(crate) phase: Phase,
    /// In which round, from 0.
    pub(crate) round: u32,
    /// One, or two that make a ratio.
    pub(crate) samples: Vec<Sample>,
}

impl Measured {
    fn figure(&self, subject: Subject, figure: &str) -> Option<f64> {
        let sample = self.samples.iter().find(|s| s.subject == subject)?;
        sample.figures.get(figure).copied()
    }
}

/// A row with its verdict.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Judged {
    /// `F1` and so on.
    pub(crate) id: &'static str,
    /// What it says.
    pub(crate) what: String,
    /// Under which conditions.
    pub(crate) phase: Phase,
    /// Whether the values are ratios of pairs.
    pub(crate) paired: bool,
    /// What is asked.
    pub(crate) need: Option<Need>,
    /// The median, and its interval; none where nothing was measured.
    pub(crate) estimate: Option<Estimate>,
    /// (largest - smallest) / median of the values.
    pub(crate) spread: f64,
    /// The ratios of the pairs, or the figures where no pair is asked for, round
    /// by round.
    pub(crate) values: Vec<f64>,
    /// Whether the target is met; none where none is asked.
    pub(crate) verdict: Option<Verdict>,
}

/// Everything that a run found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Where.
    pub(crate) machine: Machine,
    /// How thorough.
    pub(crate) profile: Profile,
    /// Seed of order and loss.
    pub(crate) seed: u64,
    /// How long the run took, in seconds.
    pub(crate) seconds: f64,
    /// What each contender's bytes look like between node and workstation.
    pub(crate) forms: BTreeMap<String, String>,
    /// The rows.
    pub(crate) rows: Vec<Judged>,
    /// Rows that could not be measured: id, what, why.
    pub(crate) absent: Vec<(String, String, String)>,
    /// Every figure.
    pub(crate) measured: Vec<Measured>,
    /// Measurements that failed, and why: there must be none.
    pub(crate) failed: Vec<String>,
    /// Processes that outlived their phase: there must be none.
    pub(crate) leftovers: Vec<String>,
}

impl Report {
    /// A report of nothing yet.
    pub(crate) fn new(machine: Machine, run: &Run) -> Self {
        Self {
            machine,
            profile: run.profile,
            seed: run.seed,
            seconds: 0.0,
            forms: BTreeMap::new(),
            rows: Vec::new(),
            absent: Vec::new(),
            measured: Vec::new(),
            failed: Vec::new(),
            leftovers: Vec::new(),
        }
    }

    /// Whether everything went as it should, whatever the figures are.
    pub(crate) fn is_sound(&self) -> bool {
        self.failed.is_empty() && self.leftovers.is_empty()
    }

    /// Judges rows by what was measured.
    pub(crate) fn judge(&mut self, rows: &[Row], seed: u64) {
        self.rows = rows.iter().map(|row| self.judged(row, seed)).collect();
    }

    fn judged(&self, row: &Row, seed: u64) -> Judged {
        let of_phase = self.measured.iter().filter(|m| m.phase == row.phase);
        let values: Vec<f64> = match row.against {
            Some(other) => of_phase
                .filter_map(|pair| {
                    let ours = pair.figure(row.subject, row.figure)?;
                    let theirs = pair.figure(other.subject, other.figure)?;
                    (theirs > 0.0).then_some(ours / theirs)
                })
                .collect(),
            None => of_phase
                .filter_map(|m| m.figure(row.subject, row.figure))
                .collect(),
        };
        let estimate = (!values.is_empty()).then(|| stats::estimate(&values, seed));
        Judged {
            id: row.id,
            what: row.what.clone(),
            phase: row.phase,
            paired: row.against.is_some(),
            need: row.need,
            estimate,
            spread: stats::spread(&values),
            verdict: row.need.map(|need| match &estimate {
                Some(estimate) if self.profile != Profile::Smoke => stats::judge(estimate, need),
                _ => Verdict::NotResolved,
            }),
            values,
        }
    }

    /// Every value of a figure of a contender.
    pub(crate) fn values(&self, phase: Phase, job: &str, kind: Kind, figure: &str) -> Vec<f64> {
        self.measured
            .iter()
            .filter(|m| m.phase == phase)
            .flat_map(|m| &m.samples)
            .filter(|s| s.subject.kind == kind && s.subject.job.to_string() == job)
            .filter_map(|s| s.figures.get(figure).copied())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::figure;
    use crate::rows::{Job, Reference};
    use clap::Parser as _;

    const JOB: Job = Job::Connections(64);

    fn sample(kind: Kind, value: f64) -> Sample {
        Sample {
            subject: Subject { kind, job: JOB },
            figures: Figures::from([(figure::CONNECTIONS.to_owned(), value)]),
        }
    }

    fn row(need: Need) -> Row {
        let subject = |kind| Subject { kind, job: JOB };
        Row {
            id: "F4",
            what: "connections".to_owned(),
            phase: Phase::Near,
            subject: subject(Kind::Sternline),
            figure: figure::CONNECTIONS,
            against: Some(Reference {
                subject: subject(Kind::Ssh),
                figure: figure::CONNECTIONS,
            }),
            need: Some(need),
        }
    }

    fn report(rounds: &[(f64, f64)]) -> Report {
        let cli = crate::args::Cli::parse_from(["sternline-bench", "run"]);
        let crate::args::Command::Run(run) = cli.command else {
            panic!("another command");
        };
        let mut report = Report::new(Machine::look(), &run);
        report.measured = (0..)
            .zip(rounds)
            .map(|(round, (ours, theirs))| Measured {
                phase: Phase::Near,
                round,
                samples: vec![sample(Kind::Ssh, *theirs), sample(Kind::Sternline, *ours)],
            })
            .collect();
        report
    }

    #[test]
    fn ratios_are_made_within_pairs_and_never_across() {
        // A machine that gets ten times faster: the ratio stays.
        let mut report = report(&[(200.0, 100.0), (2000.0, 1000.0), (210.0, 100.0)]);
        report.judge(&[row(Need::AtLeast(1.7))], 1);
        let judged = &report.rows[0];
        assert_eq!(judged.values, [2.0, 2.0, 2.1]);
        assert_eq!(judged.verdict, Some(Verdict::Met));
        report.judge(&[row(Need::AtLeast(2.05))], 1);
        assert_eq!(report.rows[0].verdict, Some(Verdict::NotResolved));
        report.judge(&[row(Need::AtLeast(3.0))], 1);
        assert_eq!(report.rows[0].verdict, Some(Verdict::NotMet));
        report.profile = Profile::Smoke;
        report.judge(&[row(Need::AtLeast(1.7))], 1);
        assert_eq!(report.rows[0].verdict, Some(Verdict::NotResolved));
    }

    #[test]
    fn a_figure_that_is_missing_meets_nothing() {
        let mut report = report(&[(200.0, 0.0)]);
        report.judge(&[row(Need::AtLeast(0.0))], 1);
        assert_eq!(report.rows[0].estimate, None);
        assert_eq!(report.rows[0].verdict, Some(Verdict::NotResolved));
        let values = report.values(
            Phase::Near,
            "connections/64",
            Kind::Sternline,
            figure::CONNECTIONS,
        );
        assert_eq!(values, [200.0]);
        assert!(
            report
                .values(
                    Phase::Far,
                    "connections/64",
                    Kind::Sternline,
                    figure::CONNECTIONS
                )
                .is_empty()
        );
    }

    #[test]
    fn the_table_says_what_was_measured_and_how() {
        let mut report = report(&[(200.0, 100.0), (200.0, 100.0), (200.0, 100.0)]);
        report
            .forms
            .insert("sternline".to_owned(), "plain: NO TLS".to_owned());
        report
            .absent
            .push(("F11".to_owned(), "a cluster".to_owned(), "none".to_owned()));
        report.judge(&[row(Need::AtLeast(1.7))], 1);
        let mut text = Vec::new();
        report.print(&mut text).expect("writes");
        let text = String::from_utf8(text).expect("text");
        for part in [
            "F4",
            "2.00",
            "3 pairs",
            ">= 1.7",
            " met",
            "NO TLS",
            "not measured: none",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["rows"][0]["verdict"], "met");
        assert_eq!(
            json["measured"][0]["samples"][0]["subject"],
            "ssh -R: connections/64"
        );
    }
}
