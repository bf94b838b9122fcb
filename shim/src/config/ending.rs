//! Settings of how the node stops: for good, and for a while.

use super::duration;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// How the node goes away.
#[derive(Clone, Debug, Args)]
pub struct EndingArgs {
    /// How long open streams may take to finish after SIGTERM or SIGINT; 0s ends them at once. A
    /// second signal does too.
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = duration(0, 3_600_000))]
    pub drain_timeout: Duration,

    /// The feature is off while this file says `off`, and on while it says `on` or is not there;
    /// anything else is off. It is looked at twice a second.
    #[arg(long, value_name = "PATH")]
    pub switch_file: Option<PathBuf>,
}
