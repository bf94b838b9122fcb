//! The end of a run that nothing else would end.

use super::process;
use std::io::Write as _;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Ends the run if a story blocks a thread, which no timer can end.
pub(crate) struct Watchdog {
    _alive: std::sync::mpsc::Sender<()>,
}

impl Watchdog {
    /// Starts to wait for `name` to be dropped.
    pub(crate) fn start(name: &str, limit: Duration) -> Self {
        let (alive, gone) = channel::<()>();
        let name = name.to_owned();
        std::thread::spawn(move || {
            if gone.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                let text = process::tail(&format!("error: {name} hangs: the run ends here"));
                let _ = std::io::stderr().write_all(text.as_bytes());
                std::process::exit(101);
            }
        });
        Self { _alive: alive }
    }
}
