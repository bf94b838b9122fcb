//! The stories, in the order of an installation's life.

mod bare;
mod changes;
mod credentials;
mod crowd;
mod doctor;
pub(crate) mod forwards;
mod ground;
mod installed;
mod intruders;
mod keys;
mod leaving;
mod pods;
mod policies;
mod records;
mod targets;

use crate::support::runner::Story;

/// Every story.
pub(crate) fn all() -> Vec<Story> {
    [
        ground::stories(),
        bare::stories(),
        installed::stories(),
        forwards::stories(),
        doctor::stories(),
        targets::stories(),
        pods::stories(),
        policies::stories(),
        credentials::stories(),
        records::stories(),
        changes::stories(),
        crowd::stories(),
        keys::stories(),
        intruders::stories(),
        leaving::stories(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
