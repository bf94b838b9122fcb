//! The table of stories and runtimes.

use crate::record::Record;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What is known of one runtime.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Column {
    /// As the variable spells it.
    pub runtime: String,
    /// What its programs cost, in a few words: built or found, and how long.
    pub programs: String,
    /// Its records; none if the run did not begin.
    pub records: Vec<Record>,
}

/// What a story came to on one runtime.
#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Passed(f64),
    Failed(f64),
    NotApplicable(String),
    /// The run ended before it, or never began.
    Missing,
}

impl Cell {
    fn short(&self) -> String {
        match self {
            Self::Passed(seconds) => format!("ok {seconds:.1}"),
            Self::Failed(seconds) => format!("FAILED {seconds:.1}"),
            Self::NotApplicable(_) => "n/a".to_owned(),
            Self::Missing => "MISSING".to_owned(),
        }
    }
}

impl Column {
    fn version(&self) -> Option<&str> {
        self.records.iter().find_map(|record| match record {
            Record::Begun { version, .. } => Some(version.as_str()),
            _ => None,
        })
    }

    fn seconds(&self) -> Option<f64> {
        self.records.iter().find_map(|record| match record {
            Record::Over { seconds } => Some(*seconds),
            _ => None,
        })
    }

    fn cells(&self) -> BTreeMap<&str, Cell> {
        let told = self.records.iter().filter_map(|record| match record {
            Record::Told {
                story,
                passed,
                seconds,
            } => Some((
                story.as_str(),
                match passed {
                    true => Cell::Passed(*seconds),
                    false => Cell::Failed(*seconds),
                },
            )),
            Record::NotApplicable { story, reason } => {
                Some((story.as_str(), Cell::NotApplicable(reason.clone())))
            }
            _ => None,
        });
        told.collect()
    }
}

/// Writes the table, and whether everything that had to pass did, on every
/// runtime, to the end of its run.
#[must_use]
pub fn table(columns: &[Column]) -> (String, bool) {
    let cells: Vec<_> = columns.iter().map(Column::cells).collect();
    let stories: BTreeSet<&str> = cells.iter().flat_map(|c| c.keys().copied()).collect();
    let width = stories.iter().map(|story| story.len()).max().unwrap_or(5);
    let widths: Vec<usize> = columns.iter().map(|c| c.runtime.len().max(12)).collect();
    let mut text = String::new();
    let mut line = |first: &str, rest: &[String]| {
        let mut line = format!("{first:width$}");
        for (cell, width) in rest.iter().zip(&widths) {
            let _ = write!(line, "  {cell:width$}");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    };

    let names: Vec<String> = columns.iter().map(|c| c.runtime.clone()).collect();
    line("story, and seconds", &names);
    let mut counts = vec![[0_usize; 4]; columns.len()];
    for story in &stories {
        let mut row = Vec::new();
        for (cells, counts) in cells.iter().zip(&mut counts) {
            let cell = cells.get(story).unwrap_or(&Cell::Missing);
            counts[match cell {
                Cell::Passed(_) => 0,
                Cell::Failed(_) => 1,
                Cell::NotApplicable(_) => 2,
                Cell::Missing => 3,
            }] += 1;
            row.push(cell.short());
        }
        line(story, &row);
    }
    for (at, what) in ["passed", "failed", "not applicable", "missing"]
        .iter()
        .enumerate()
    {
        let row: Vec<String> = counts.iter().map(|counts| counts[at].to_string()).collect();
        line(what, &row);
    }

    text.push('\n');
    let mut all_well = !stories.is_empty();
    for (column, counts) in columns.iter().zip(&counts) {
        let took = match column.seconds() {
            Some(seconds) => format!("stories in {seconds:.0} s"),
            None => "NOT RUN TO ITS END".to_owned(),
        };
        all_well &= column.seconds().is_some() && counts[0] > 0 && counts[1] + counts[3] == 0;
        let version = column.version().unwrap_or("not there");
        let _ = writeln!(
            text,
            "{}: {version}; {}; {took}",
            column.runtime, column.programs
        );
    }
    let mut reasons: BTreeMap<&str, BTreeSet<(&str, &str)>> = BTreeMap::new();
    for (column, cells) in columns.iter().zip(&cells) {
        for (story, cell) in cells {
            if let Cell::NotApplicable(reason) = cell {
                let entry = (*story, column.runtime.as_str());
                reasons.entry(reason).or_default().insert(entry);
            }
        }
    }
    for (reason, entries) in reasons {
        let _ = writeln!(text, "\nnot applicable: {reason}");
        for (story, runtime) in entries {
            let _ = writeln!(text, "  {story} on {runtime}");
        }
    }
    (text, all_well)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(runtime: &str, stories: &[(&str, Option<bool>)], over: bool) -> Column {
        let begun = Record::Begun {
            runtime: runtime.to_owned(),
            version: format!("{runtime} 1.0"),
        };
        let told = stories.iter().map(|(story, passed)| match passed {
            Some(passed) => Record::Told {
                story: (*story).to_owned(),
                passed: *passed,
                seconds: 1.0,
            },
            None => Record::NotApplicable {
                story: (*story).to_owned(),
                reason: "because".to_owned(),
            },
        });
        let over = over.then_some(Record::Over { seconds: 9.0 });
        Column {
            runtime: runtime.to_owned(),
            programs: "found".to_owned(),
            records: std::iter::once(begun).chain(told).chain(over).collect(),
        }
    }

    #[test]
    fn all_well_is_all_told_and_passed_or_said_why_not() {
        let one = column("one", &[("a", Some(true)), ("b", Some(true))], true);
        let two = column("two", &[("a", Some(true)), ("b", None)], true);
        let (text, all_well) = table(&[one, two]);
        assert!(all_well, "{text}");
        assert!(
            text.contains("one: one 1.0; found; stories in 9 s"),
            "{text}"
        );
        assert!(
            text.contains("not applicable: because\n  b on two"),
            "{text}"
        );
    }

    #[test]
    fn whatever_failed_is_missing_or_was_cut_off_is_not_well() {
        let good = column("good", &[("a", Some(true)), ("b", Some(true))], true);
        let failed = column("bad", &[("a", Some(true)), ("b", Some(false))], true);
        let missing = column("bad", &[("a", Some(true))], true);
        let cut_off = column("bad", &[("a", Some(true)), ("b", Some(true))], false);
        let nothing = column("bad", &[("a", None), ("b", None)], true);
        let never = Column {
            runtime: "bad".to_owned(),
            ..Column::default()
        };
        for bad in [failed, missing, cut_off, nothing, never.clone()] {
            let (text, all_well) = table(&[good.clone(), bad]);
            assert!(!all_well, "{text}");
        }
        assert!(!table(&[never]).1);
        assert!(!table(&[]).1);
    }
}
