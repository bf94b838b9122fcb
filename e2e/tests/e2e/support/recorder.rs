//! Keeps the records of the run, where somebody wants them.

use anyhow::{Context as _, Result};
use std::fs::File;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::Instant;
use sternline_e2e::record::Record;

/// Names the file that the records are written to; it is made anew.
const VARIABLE: &str = "STERNLINE_E2E_RECORDS";

/// The records of a run.
pub(crate) struct Recorder {
    file: Option<Mutex<File>>,
    begun: Instant,
}

impl Recorder {
    /// Opens the file that the environment names, if any.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn from_environment() -> Result<Self> {
        let path = std::env::var_os(VARIABLE);
        let file = path.map(|path| {
            let file = File::create(&path);
            file.with_context(|| format!("cannot write {}", path.display()))
        });
        Ok(Self {
            file: file.transpose()?.map(Mutex::new),
            begun: Instant::now(),
        })
    }

    /// Writes one record, at once.
    ///
    /// # Errors
    /// The disk is full, say.
    pub(crate) fn record(&self, record: &Record) -> Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let line = serde_json::to_string(record)? + "\n";
        let mut file = file
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        file.write_all(line.as_bytes())
            .context("cannot record what came of a story")
    }

    /// Writes the last record.
    ///
    /// # Errors
    /// As [`Recorder::record`].
    pub(crate) fn over(&self) -> Result<()> {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.record(&Record::Over { seconds })
    }
}
