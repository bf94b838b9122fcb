//! The stories, in the order of an installation's life.

mod ground;

use crate::support::runner::Story;

/// Every story.
pub(crate) fn all() -> Vec<Story> {
    [ground::stories()].into_iter().flatten().collect()
}
