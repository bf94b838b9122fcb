//! Logs.

use crate::config::{LogArgs, LogFormat};
use tracing_subscriber::EnvFilter;

/// Sends logs to standard error. `RUST_LOG` wins over `-v`.
pub fn init(logs: LogArgs) {
    let level = match logs.verbose {
        0 => "info",
        1 => "info,sternline_gateway=debug",
        _ => "info,sternline_gateway=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match logs.log_format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
