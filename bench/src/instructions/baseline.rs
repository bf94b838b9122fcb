//! What is recorded, and what may differ from it.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Part by which a count may exceed what is recorded. Two runs of one program
/// differ by less than a tenth of it: hashes are seeded at random.
const TOLERANCE: f64 = 0.03;

/// The same where another compiler built the program.
const TOLERANCE_OTHER: f64 = 0.15;

/// The file.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Baseline {
    /// Which compiler built what was counted, and for what.
    compiler: String,
    /// Part by which a count may exceed what is recorded.
    tolerance: f64,
    /// The same where another compiler built the program.
    tolerance_other_compiler: f64,
    /// Instructions by work, each of its units.
    instructions: BTreeMap<String, f64>,
}

/// A count beside what is recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Finding {
    /// Within the tolerance; the part by which it differs.
    Same(f64),
    /// Better by more: worth recording.
    Less(f64),
    /// Worse by more.
    More(f64),
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Same(by) => write!(f, "ok ({:+.1} %)", by * 100.0),
            Self::Less(by) => write!(f, "ok ({:+.1} %): record it", by * 100.0),
            Self::More(by) => write!(
                f,
                "MORE ({:+.1} %): make it cheaper, or record it and say why",
                by * 100.0
            ),
        }
    }
}

impl Baseline {
    /// Reads the file; where a new one is recorded it need not be there.
    pub(super) fn read(path: &Path, record: bool) -> Result<Self> {
        if record && !path.exists() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("nothing is recorded in {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no record", path.display()))
    }

    /// Writes the file.
    pub(super) fn write(&mut self, path: &Path, compiler: &str) -> Result<()> {
        compiler.clone_into(&mut self.compiler);
        self.tolerance = TOLERANCE;
        self.tolerance_other_compiler = TOLERANCE_OTHER;
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Records a count, to ten instructions.
    pub(super) fn set(&mut self, work: &str, count: f64) {
        let count = (count / 10.0).round() * 10.0;
        self.instructions.insert(work.to_owned(), count);
    }

    /// Sets a count beside what is recorded.
    ///
    /// # Errors
    /// Nothing is recorded for it.
    pub(super) fn judge(&self, work: &str, count: f64, compiler: &str) -> Result<Finding> {
        let recorded = self.instructions.get(work);
        let recorded = recorded.with_context(|| format!("nothing is recorded for {work}"))?;
        let by = count / recorded - 1.0;
        let tolerance = match self.compiler == compiler {
            true => self.tolerance,
            false => self.tolerance_other_compiler,
        };
        Ok(match by {
            by if by > tolerance => Finding::More(by),
            by if by < -tolerance => Finding::Less(by),
            by => Finding::Same(by),
        })
    }

    /// What to know about the comparison.
    pub(super) fn note(&self, compiler: &str) -> Option<String> {
        (self.compiler != compiler).then(|| {
            format!(
                "recorded with {}, counted with {compiler}: {:.0} % more are allowed instead of {:.0} %",
                self.compiler,
                self.tolerance_other_compiler * 100.0,
                self.tolerance * 100.0
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> Baseline {
        let mut baseline = Baseline {
            compiler: "rustc 1".to_owned(),
            tolerance: TOLERANCE,
            tolerance_other_compiler: TOLERANCE_OTHER,
            ..Baseline::default()
        };
        baseline.set("bulk", 1_000_004.0);
        baseline
    }

    #[test]
    fn four_percent_more_is_too_much_and_four_less_is_worth_recording() {
        let judge = |count| {
            recorded()
                .judge("bulk", count, "rustc 1")
                .expect("recorded")
        };
        assert!(matches!(judge(1_029_000.0), Finding::Same(_)));
        assert!(matches!(judge(1_040_000.0), Finding::More(_)));
        assert!(matches!(judge(960_000.0), Finding::Less(_)));
    }

    #[test]
    fn another_compiler_has_more_room_and_is_told_so() {
        let baseline = recorded();
        let judge = |count| baseline.judge("bulk", count, "rustc 2").expect("recorded");
        assert!(matches!(judge(1_040_000.0), Finding::Same(_)));
        assert!(matches!(judge(1_200_000.0), Finding::More(_)));
        assert!(
            baseline
                .note("rustc 2")
                .is_some_and(|note| note.contains("rustc 1"))
        );
        assert_eq!(baseline.note("rustc 1"), None);
    }

    #[test]
    fn what_is_not_recorded_is_not_judged() {
        assert!(recorded().judge("other", 1.0, "rustc 1").is_err());
    }
}
