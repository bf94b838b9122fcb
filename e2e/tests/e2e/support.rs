//! What the stories stand on: a node with real sandboxes, the programs under
//! test, and targets on the workstation.

pub(crate) mod audit;
pub(crate) mod authority;
pub(crate) mod binder;
pub(crate) mod client;
pub(crate) mod disk;
pub(crate) mod forward;
pub(crate) mod http;
pub(crate) mod leftovers;
pub(crate) mod link;
pub(crate) mod node;
pub(crate) mod recorder;
pub(crate) mod runner;
pub(crate) mod shim;
pub(crate) mod stage;
pub(crate) mod standing;
pub(crate) mod workstation;

use std::time::Duration;

pub(crate) use crate::shared::check::{is_at_least, same, says, until};
pub(crate) use crate::shared::{enclosure, process, programs, target};

/// Bound on what comes at once on an idle machine: far more than a busy one
/// takes, and less than two missed PINGs at their default interval.
pub(crate) const SOON: Duration = Duration::from_secs(25);
