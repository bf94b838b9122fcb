//! The limit of open file descriptors.
//!
//! Each connection takes one here. The soft limit is 1024 on most systems for
//! the sake of programs that call select(2), which this one does not; so it is
//! raised to the hard limit for ourselves, and a wrapped command gets back what
//! we were given.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The limits as they were, and as they are now.
#[derive(Clone, Copy, Debug)]
pub struct Descriptors {
    given: u64,
    hard: u64,
}

impl Descriptors {
    /// Raises the soft limit to the hard one. Where that fails, the limit
    /// stays and says so when it is met.
    #[must_use]
    pub fn raise() -> Self {
        let (given, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            tracing::debug!(%error, "the limit of open files stays at {given}");
        }
        Self { given, hard }
    }

    /// The limits as they are, left alone.
    #[must_use]
    pub fn as_they_are() -> Self {
        let (given, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        Self { given, hard }
    }

    /// Runs `start`, which starts a process, under the limit that we were
    /// given. Call it while few descriptors are open.
    pub fn as_given<T>(self, start: impl FnOnce() -> T) -> T {
        let lowered = setrlimit(Resource::RLIMIT_NOFILE, self.given, self.hard);
        let started = start();
        if lowered.is_ok()
            && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, self.hard, self.hard)
        {
            tracing::debug!(%error, "the limit of open files stays at {}", self.given);
        }
        started
    }
}
