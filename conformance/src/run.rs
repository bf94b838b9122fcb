//! One run of the suite on a node: its id, its directory, and how a later run
//! tells that it is over.
//!
//! The id is part of the name of everything that a run makes. While the run
//! lives it holds a lock; what carries the id of a run without one was left by
//! a run that was killed.

use nix::fcntl::{Flock, FlockArg};
use std::{
    collections::hash_map::RandomState,
    fs::{self, File},
    hash::BuildHasher as _,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Ends the name of a lock's file.
const LOCK: &str = "lock";

/// A run that is going on. Dropping it says that it is over.
#[derive(Debug)]
pub(crate) struct Run {
    /// Eight hexadecimal digits.
    pub(crate) id: String,
    /// Its own directory, which goes with it.
    pub(crate) dir: PathBuf,
    base: PathBuf,
    _lock: Flock<File>,
}

impl Run {
    /// Begins a run below `base`, and forgets the directories of runs that were
    /// killed.
    ///
    /// # Errors
    /// `base` cannot be written.
    pub(crate) fn begin(base: &Path) -> io::Result<Self> {
        fs::create_dir_all(base)?;
        for entry in fs::read_dir(base)?.flatten() {
            let path = entry.path();
            let id = path.file_stem().and_then(|id| id.to_str()).unwrap_or("");
            if path.extension().is_some_and(|end| end == LOCK) && Self::is_over(base, id) {
                // Another run may be doing the same.
                let _ = fs::remove_dir_all(base.join(id));
                let _ = fs::remove_file(&path);
            }
        }
        loop {
            let random = RandomState::new().hash_one(std::process::id());
            let id = format!("{:08x}", random & 0xffff_ffff);
            let path = lock_file(base, &id);
            let Some(lock) = take(&path, File::create_new(&path)) else {
                if fs::symlink_metadata(base)?.is_dir() {
                    continue;
                }
                return Err(io::ErrorKind::NotADirectory.into());
            };
            let dir = base.join(&id);
            fs::create_dir(&dir)?;
            return Ok(Self {
                id,
                dir,
                base: base.to_owned(),
                _lock: lock,
            });
        }
    }

    /// Whether the run of this id, below the same directory as this one, does
    /// not live any more.
    pub(crate) fn outlived(&self, id: &str) -> bool {
        Self::is_over(&self.base, id)
    }

    fn is_over(base: &Path, id: &str) -> bool {
        let path = lock_file(base, id);
        match File::open(&path) {
            Ok(file) => Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
        let _ = fs::remove_file(lock_file(&self.base, &self.id));
    }
}

fn lock_file(base: &Path, id: &str) -> PathBuf {
    base.join(id).with_extension(LOCK)
}

/// Locks a new file; `None` where another run was quicker, to lock it or to
/// take it for a dead run's.
fn take(path: &Path, file: io::Result<File>) -> Option<Flock<File>> {
    let lock = Flock::lock(file.ok()?, FlockArg::LockExclusiveNonblock).ok()?;
    let same = fs::metadata(path).ok()?.ino() == lock.metadata().ok()?.ino();
    same.then_some(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("sternline-run-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_run_lives_until_it_is_dropped() {
        let base = Scratch::new("lives");
        let one = Run::begin(&base.0).expect("a run");
        let other = Run::begin(&base.0).expect("another");
        assert_ne!(one.id, other.id);
        assert!(!one.outlived(&other.id) && other.dir.is_dir());
        let (id, dir) = (other.id.clone(), other.dir.clone());
        drop(other);
        assert!(one.outlived(&id) && !dir.exists());
    }

    #[test]
    fn what_a_killed_run_left_is_forgotten() {
        let base = Scratch::new("killed");
        fs::create_dir_all(base.0.join("0badcafe/1")).expect("a directory");
        File::create(base.0.join("0badcafe.lock")).expect("its lock");
        let living = Run::begin(&base.0).expect("a run");
        assert!(!base.0.join("0badcafe").exists());
        assert!(!base.0.join("0badcafe.lock").exists());
        let _later = Run::begin(&base.0).expect("a later run");
        assert!(living.dir.is_dir());
    }
}
