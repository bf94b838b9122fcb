//! The stories, in the order of an installation's life.

mod changes;
mod crowd;
pub(crate) mod forwards;
mod ground;
mod installed;
mod keys;
mod leaving;

use crate::support::runner::Story;

/// Every story.
pub(crate) fn all() -> Vec<Story> {
    [
        ground::stories(),
        installed::stories(),
        forwards::stories(),
        changes::stories(),
        crowd::stories(),
        keys::stories(),
        leaving::stories(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
