//! `kubectl rpf doctor`, and what it found.

use super::forward::Forward;
use super::kubectl::Kubectl;
use crate::shared::check::same;
use anyhow::{Context as _, Result};

/// What the doctor found.
pub(crate) struct Findings {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Findings {
    /// Has it look at an object of a namespace, as somebody.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) async fn of(user: &Kubectl, namespace: &str, object: &str) -> Result<Self> {
        let mut doctor = Forward::start_in(namespace, user, &format!("doctor {object}"))?;
        let code = doctor.exit().await?.code;
        let process = doctor.process();
        let (stdout, stderr) = (process.stdout(), process.stderr());
        Ok(Self {
            code,
            stdout,
            stderr,
        })
    }

    /// Whether a check came out so, and said so.
    ///
    /// # Errors
    /// It did not.
    pub(crate) fn has(&self, word: &str, step: &str, what: &str) -> Result<()> {
        let start = format!("{word:<5} {step}: ");
        let mut lines = self.stdout.lines();
        let found = lines.any(|line| line.starts_with(&start) && line.contains(what));
        anyhow::ensure!(found, "no line {start}...{what}:\n{}", self.stdout);
        Ok(())
    }

    /// Whether so many checks failed, by its lines, its last word and its exit code.
    ///
    /// # Errors
    /// More did, or fewer.
    pub(crate) fn failed(&self, count: usize) -> Result<()> {
        let lines = self.stdout.lines();
        let failed = lines.filter(|line| line.starts_with("FAIL ")).count();
        let whole = || format!("{}{}", self.stdout, self.stderr);
        same("checks that failed", failed, count).with_context(whole)?;
        same("the exit code", self.code, i32::from(count > 0)).with_context(whole)?;
        let last = match count {
            0 => String::new(),
            1 => "error: 1 check failed: its line says what to do\n".to_owned(),
            n => format!("error: {n} checks failed: begin with the first\n"),
        };
        same("the last word", &self.stderr, &last)
    }
}
