//! The limit of a process, `RLIMIT_NOFILE`.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;

/// Whether an error says that no descriptor is left.
#[must_use]
pub fn are_used_up(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(nix::libc::EMFILE | nix::libc::ENFILE)
    )
}

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
