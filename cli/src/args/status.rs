//! `sternline status`.

use super::Format;
use clap::Args;

/// `sternline status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Print lines for people, or JSON.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}
