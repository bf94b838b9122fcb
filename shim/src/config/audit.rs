//! Flags of the audit log.

use clap::Args;
use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

/// The audit log, each setting a flag with its default.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Audit")]
pub struct AuditArgs {
    /// Write one JSON line per session and connection to this file or named pipe; - is standard
    /// output. Off unless given.
    #[arg(long, value_name = "PATH")]
    pub audit_log: Option<AuditTarget>,

    /// Records that may wait to be written; those beyond are lost, and counted.
    #[arg(long, value_name = "N", default_value_t = 8192, requires = "audit_log", value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    pub audit_queue: u32,

    /// Refuse new sessions while the audit log cannot be written.
    #[arg(long, requires = "audit_log")]
    pub audit_required: bool,
}

/// Where the audit log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditTarget {
    /// Standard output.
    Stdout,
    /// A file, or a named pipe.
    Path(PathBuf),
}

impl FromStr for AuditTarget {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "-" => Self::Stdout,
            path => Self::Path(path.into()),
        })
    }
}

impl std::fmt::Display for AuditTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}
