//! A small disk that can be filled.

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// A file system of its own, gone when dropped.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// A disk of 64 KiB, mounted on `path`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn small(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        let tmpfs = Some("tmpfs");
        mount(tmpfs, path, tmpfs, MsFlags::empty(), Some("size=64k"))
            .with_context(|| format!("cannot mount a tmpfs on {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Leaves no page free; the file that takes them.
    ///
    /// # Errors
    /// There is more room than there should be.
    pub(crate) fn fill(&self) -> Result<PathBuf> {
        let path = self.0.join("filler");
        let mut file = File::create(&path)?;
        for _ in 0..1000 {
            match file.write(&[0; 4096]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(path),
                Err(error) => return Err(error.into()),
            }
        }
        bail!("{} is not to be filled", self.0.display())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still writes there keeps it until the end.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
