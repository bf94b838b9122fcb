//! The commands that make a call and print its answer.

mod completion;
pub mod kubectl;
mod sessions;
mod status;
mod table;
mod version;

pub use completion::{completion, script};
pub use sessions::{sessions, stop};
pub use status::status;
pub use version::version;

use crate::fault::{Fault, exit};
use crate::output::Output;
use serde::Serialize;

/// Prints a whole answer as JSON, in lines.
fn json(output: &Output, value: &impl Serialize) -> Result<(), Fault> {
    let text = serde_json::to_string_pretty(value).map_err(|error| {
        Fault::new(exit::OTHER, format!("the answer has no JSON form: {error}"))
    })?;
    output.line(text);
    Ok(())
}
