//! The stories, by theme.

mod cli;
mod faults;
mod lifecycle;
mod limits;
mod listening;
mod pressure;
mod sandboxes;
mod streaming;
mod transfer;

use crate::support::runner::Story;

/// Every story, the plainest first.
pub(crate) fn all() -> Vec<Story> {
    [
        transfer::stories(),
        listening::stories(),
        sandboxes::stories(),
        cli::stories(),
        streaming::stories(),
        limits::stories(),
        lifecycle::stories(),
        faults::stories(),
        pressure::stories(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
