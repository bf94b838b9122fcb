//! Those who come uninvited: straight to a gateway or a node, with what they stole of
//! another, or from inside a container that is theirs now.

mod binder;
mod doors;
mod nodes;
mod serve;

use crate::support::runner::Story;

/// Every story of theirs.
pub(crate) fn stories() -> Vec<Story> {
    [
        doors::stories(),
        nodes::stories(),
        serve::stories(),
        binder::stories(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
