//! What is logged.

use clap::{ArgAction, Args, ValueEnum};

/// Settings of the logs.
#[derive(Clone, Copy, Debug, Args)]
pub struct LogArgs {
    /// Form of the logs on standard error. Standard output has the audit records alone.
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub log_format: LogFormat,

    /// Say more: -v walks the set-up of every session, -vv every connection.
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

/// Form of the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
