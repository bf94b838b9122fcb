//! The stories, in the order of an installation's life.

mod forwards;
mod ground;
mod installed;
mod leaving;

use crate::support::runner::Story;

/// Every story.
pub(crate) fn all() -> Vec<Story> {
    [
        ground::stories(),
        installed::stories(),
        forwards::stories(),
        leaving::stories(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
