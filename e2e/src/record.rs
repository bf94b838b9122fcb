//! What came of the stories on one runtime: a file of lines, one JSON object
//! each, written as it happens, so that what a run got through is known however
//! it ends.

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// The first: what made the sandboxes.
    Begun {
        /// As the variable spells it.
        runtime: String,
        /// Name and version in its own words.
        version: String,
    },
    /// A story was told.
    Told {
        /// Theme and sentence.
        story: String,
        /// Whether it went as it must.
        passed: bool,
        /// How long it took.
        seconds: f64,
    },
    /// A story that says nothing about this runtime.
    NotApplicable {
        /// Theme and sentence.
        story: String,
        /// Why.
        reason: String,
    },
    /// The last: all stories were told and all was put away.
    Over {
        /// How long all of it took.
        seconds: f64,
    },
}
