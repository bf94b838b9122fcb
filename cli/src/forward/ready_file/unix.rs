//! A lock that a forward holds on its ready file. The kernel gives it back however
//! the forward ends.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::path::Path;

/// Held until it is dropped. Not at all where the file system knows no locks.
#[derive(Debug)]
pub(super) struct Lock {
    _held: Option<Flock<File>>,
}

impl Lock {
    /// Locks a file that nobody else has seen.
    pub(super) fn take(file: File) -> Self {
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok();
        Self { _held: held }
    }
}

/// Whether somebody holds the lock of this file.
pub(super) fn is_held(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| {
        matches!(
            Flock::lock(file, FlockArg::LockExclusiveNonblock),
            Err((_, Errno::EWOULDBLOCK))
        )
    })
}
