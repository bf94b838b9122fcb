//! The stories, by theme.

mod apart;
mod audit;
mod call;
mod cli;
mod faults;
mod floods;
mod holders;
mod leaving;
mod lifecycle;
mod limits;
mod listening;
mod observed;
mod pressure;
mod runtimes;
mod sandboxes;
mod streaming;
mod switching;
mod tls;
mod transfer;
mod tunnels;
mod upgrading;

use crate::support::runner::Story;

/// Every story, the plainest first.
pub(crate) fn all() -> Vec<Story> {
    [
        transfer::stories(),
        listening::stories(),
        holders::stories(),
        sandboxes::stories(),
        call::stories(),
        cli::stories(),
        streaming::stories(),
        tls::stories(),
        tunnels::stories(),
        observed::stories(),
        audit::stories(),
        limits::stories(),
        lifecycle::stories(),
        leaving::stories(),
        switching::stories(),
        faults::stories(),
        runtimes::stories(),
        apart::stories(),
        upgrading::stories(),
        pressure::stories(),
        floods::stories(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
