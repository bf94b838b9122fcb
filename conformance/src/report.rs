//! What became of the specs, and the files that say so.

use crate::verdict::{Step, Verdict};
use serde_json::{Value, json};
use std::{fmt::Write as _, time::Duration};

/// How a spec ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As required.
    Passed,
    /// It does not apply; why.
    Skipped(String),
    /// Not as required, or not to be found out.
    Failed {
        /// What the requirement asks for here.
        expected: String,
        /// What happened instead.
        seen: String,
    },
    /// What the suite was given to work with failed; why.
    Environment(String),
}

impl From<Step> for Outcome {
    fn from(step: Step) -> Self {
        match step {
            Ok(()) => Self::Passed,
            Err(Verdict::Skipped(why)) => Self::Skipped(why),
            Err(Verdict::Failed { expected, seen }) => Self::Failed { expected, seen },
            Err(Verdict::Broken(why)) => Self::Failed {
                expected: "the suite can do its part".into(),
                seen: why,
            },
            Err(Verdict::Environment(why)) => Self::Environment(why),
        }
    }
}

/// One spec's result.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The spec's stable name.
    pub id: &'static str,
    /// The part of the name before the dot.
    pub theme: &'static str,
    /// Whether an implementation that fails it does not conform.
    pub required: bool,
    /// Section of `docs/protocol.md`.
    pub section: &'static str,
    /// The requirement.
    pub text: &'static str,
    /// How long it took, all attempts together.
    pub took: Duration,
    /// How often it was tried.
    pub attempts: u32,
    /// What was done, in order.
    pub steps: Vec<String>,
    /// How it ended.
    pub outcome: Outcome,
}

impl Judged {
    /// Whether it failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed { .. })
    }

    /// Whether it passed.
    #[must_use]
    pub fn has_passed(&self) -> bool {
        self.outcome == Outcome::Passed
    }

    fn word(&self) -> &'static str {
        match self.outcome {
            Outcome::Passed => "passed",
            Outcome::Skipped(_) => "skipped",
            Outcome::Failed { .. } => "failed",
            Outcome::Environment(_) => "error",
        }
    }

    /// Why it failed, for people: requirement, expected, seen, steps.
    pub(crate) fn story(&self) -> String {
        let Outcome::Failed { expected, seen } = &self.outcome else {
            return String::new();
        };
        let mut story = format!(
            "requirement: {} (docs/protocol.md, section {})\nexpected:    {expected}\nseen:        {seen}\n",
            self.text, self.section
        );
        for (number, step) in self.steps.iter().enumerate() {
            let _ = writeln!(story, "  step {}: {step}", number + 1);
        }
        story
    }
}

/// One run of the suite.
#[derive(Clone, Debug)]
pub struct Report {
    /// Name and release of what was judged, in its own words.
    pub subject: String,
    /// The runtime behind it, in its own words.
    pub runtime: String,
    /// Seed of the order.
    pub seed: u64,
    /// How long the run took.
    pub took: Duration,
    /// Every spec that was chosen, by name.
    pub judged: Vec<Judged>,
    /// Why the run did not come to its end; specs that had not ended are skipped.
    pub cut_short: Option<&'static str>,
}

impl Report {
    /// Required specs that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Judged> {
        self.judged
            .iter()
            .filter(|one| one.required && one.has_failed())
    }

    /// Specs that could not be judged, each with its reason.
    pub fn unjudged(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.judged.iter().filter_map(|one| match &one.outcome {
            Outcome::Environment(why) => Some((one.id, why.as_str())),
            _ => None,
        })
    }

    /// Specs that passed, but not at the first attempt.
    pub(crate) fn flaky(&self) -> usize {
        let again = |one: &&Judged| one.has_passed() && one.attempts > 1;
        self.judged.iter().filter(again).count()
    }

    pub(crate) fn count(&self, word: &str) -> usize {
        self.judged.iter().filter(|one| one.word() == word).count()
    }

    /// Whether every required spec that applies passed, in a run that came to its
    /// end.
    fn conforms(&self) -> bool {
        self.cut_short.is_none()
            && self.failures().next().is_none()
            && self.unjudged().next().is_none()
    }

    pub(crate) fn json(&self) -> Value {
        let specs: Vec<_> = self
            .judged
            .iter()
            .map(|one| {
                let (expected, seen) = match &one.outcome {
                    Outcome::Failed { expected, seen } => (Some(expected), Some(seen)),
                    Outcome::Skipped(why) | Outcome::Environment(why) => (None, Some(why)),
                    Outcome::Passed => (None, None),
                };
                json!({
                    "id": one.id, "required": one.required, "section": one.section,
                    "text": one.text, "outcome": one.word(), "expected": expected, "seen": seen,
                    "seconds": one.took.as_secs_f64(), "attempts": one.attempts, "steps": one.steps,
                })
            })
            .collect();
        json!({
            "subject": self.subject, "runtime": self.runtime, "seed": self.seed,
            "seconds": self.took.as_secs_f64(), "conforms": self.conforms(),
            "cut_short": self.cut_short, "specs": specs,
        })
    }

    /// JUnit XML, one test suite.
    pub(crate) fn junit(&self) -> String {
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let totals = format!(
            "tests=\"{}\" failures=\"{}\" skipped=\"{}\" errors=\"{}\" time=\"{:.3}\"",
            self.judged.len(),
            self.count("failed"),
            self.count("skipped"),
            self.count("error"),
            self.took.as_secs_f64()
        );
        let _ = writeln!(
            xml,
            "<testsuites {totals}><testsuite name=\"sternline-conformance\" {totals}>"
        );
        for one in &self.judged {
            let _ = write!(
                xml,
                "<testcase classname=\"{}\" name=\"{} {}\" time=\"{:.3}\">",
                one.theme,
                one.id,
                escape(one.text),
                one.took.as_secs_f64()
            );
            match &one.outcome {
                Outcome::Passed => {}
                Outcome::Skipped(why) => {
                    let _ = write!(xml, "<skipped message=\"{}\"/>", escape(why));
                }
                Outcome::Environment(why) => {
                    let _ = write!(xml, "<error message=\"{}\"/>", escape(why));
                }
                Outcome::Failed { seen, .. } => {
                    let (message, story) = (escape(seen), escape(&one.story()));
                    let _ = write!(xml, "<failure message=\"{message}\">{story}</failure>");
                }
            }
            xml.push_str("</testcase>\n");
        }
        xml.push_str("</testsuite></testsuites>\n");
        xml
    }
}

/// Text for XML, also in attributes. Characters that XML 1.0 cannot carry go.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            control if control.is_control() || control == '\u{fffe}' || control == '\u{ffff}' => {}
            plain => out.push(plain),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let one = Judged {
            id: "theme.name",
            theme: "theme",
            required: true,
            section: "2.3",
            text: "A requirement.",
            took: Duration::from_millis(1500),
            attempts: 1,
            steps: vec!["did <this>".into()],
            outcome: Outcome::Failed {
                expected: "a".into(),
                seen: "\"b\" & \u{1b}[31m".into(),
            },
        };
        Report {
            subject: "x 1".into(),
            runtime: String::new(),
            seed: 1,
            took: Duration::from_secs(2),
            judged: vec![one],
            cut_short: None,
        }
    }

    #[test]
    fn a_failure_tells_requirement_expected_seen_and_steps() {
        let report = report();
        let story = report.judged[0].story();
        for part in [
            "A requirement.",
            "section 2.3",
            "expected:    a",
            "\"b\"",
            "did <this>",
        ] {
            assert!(story.contains(part), "{story}");
        }
        assert_eq!(report.json()["conforms"], false);
        assert_eq!(report.json()["specs"][0]["steps"][0], "did <this>");
    }

    #[test]
    fn junit_is_escaped() {
        let xml = report().junit();
        assert!(xml.contains("&quot;b&quot; &amp; [31m"), "{xml}");
        assert!(xml.contains("did &lt;this&gt;"), "{xml}");
        let totals = "tests=\"1\" failures=\"1\" skipped=\"0\" errors=\"0\" time=\"2.000\"";
        assert!(xml.contains(&format!("<testsuites {totals}>")), "{xml}");
        assert_eq!(xml.matches(totals).count(), 2, "{xml}");
    }

    #[test]
    fn only_a_whole_run_without_failures_conforms() {
        let mut report = report();
        report.judged[0].outcome = Outcome::Passed;
        assert_eq!(report.json()["conforms"], true);
        report.cut_short = Some("interrupted");
        assert_eq!(report.json()["conforms"], false);
        report.cut_short = None;
        report.judged[0].outcome = Outcome::Environment("no <shell>".into());
        assert_eq!(report.json()["conforms"], false);
        assert_eq!(report.failures().count(), 0);
        let xml = report.junit();
        assert!(
            xml.contains("<error message=\"no &lt;shell&gt;\"/>"),
            "{xml}"
        );
    }
}
