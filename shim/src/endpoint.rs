//! Sockets on which the shim listens for its own clients.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

/// A Unix socket in the file system, mode 0600, removed when dropped.
#[derive(Debug)]
pub struct UnixEndpoint {
    path: PathBuf,
    /// Which file it is: another process may have put its own there since.
    file: (u64, u64),
    /// It is the next process's to remove.
    left: bool,
}

impl UnixEndpoint {
    /// Binds `path`. A socket that nobody serves any more is replaced; its
    /// directory is made, mode 0700, if there is none.
    ///
    /// # Errors
    /// Another process serves it, something else is there, or the file system
    /// says no.
    pub fn bind(path: &Path) -> io::Result<(UnixListener, Self)> {
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)?;
        }
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(meta) if !meta.file_type().is_socket() => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "something that is no socket is there",
                ));
            }
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another process serves it",
                ));
            }
            Ok(_) => {}
        }
        // Bound under another name first: nobody connects before the mode is set.
        // Short, because the kernel takes some hundred bytes of path only.
        let hidden = path.with_file_name(format!(".{}", std::process::id()));
        let _ = fs::remove_file(&hidden);
        let listener = UnixListener::bind(&hidden)?;
        let moved = fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&hidden, path));
        if let Err(error) = moved {
            let _ = fs::remove_file(&hidden);
            return Err(error);
        }
        let file = identity(path)?;
        let path = path.to_owned();
        let left = false;
        Ok((listener, Self { path, file, left }))
    }

    /// Takes over a listening socket that another process bound at `path`, if it
    /// is what [`UnixEndpoint::mark`] said there, and still is.
    ///
    /// # Errors
    /// It is something else, or cannot be used.
    pub fn adopt(path: &Path, mark: &str, socket: OwnedFd) -> io::Result<(UnixListener, Self)> {
        let file = identity(path)?;
        if mark != text(file) {
            return Err(io::Error::other("another socket was put in its place"));
        }
        let socket = std::os::unix::net::UnixListener::from(socket);
        socket.set_nonblocking(true)?;
        let endpoint = Self {
            path: path.to_owned(),
            file,
            left: false,
        };
        Ok((UnixListener::from_std(socket)?, endpoint))
    }

    /// Which file it is, for the next process.
    #[must_use]
    pub fn mark(&self) -> String {
        text(self.file)
    }

    /// Leaves the file to the next process.
    pub fn leave(mut self) {
        self.left = true;
    }
}

fn text((device, inode): (u64, u64)) -> String {
    format!("{device}:{inode}")
}

impl Drop for UnixEndpoint {
    fn drop(&mut self) {
        if !self.left && identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Device and inode.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_private_and_goes_away() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("run/s.sock");
        let (listener, endpoint) = UnixEndpoint::bind(&path).expect("bound");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let dir_mode = fs::metadata(path.parent().expect("dir")).expect("there");
        assert_eq!(dir_mode.permissions().mode() & 0o777, 0o700);
        let error = UnixEndpoint::bind(&path).expect_err("served");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop((listener, endpoint));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_is_left_alone() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("s.sock");
        let (listener, endpoint) = UnixEndpoint::bind(&path).expect("bound");
        drop(listener);
        let _successor = UnixEndpoint::bind(&path).expect("replaced");
        drop(endpoint);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_file_is_not() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("s.sock");
        let (listener, endpoint) = UnixEndpoint::bind(&path).expect("bound");
        std::mem::forget(endpoint);
        drop(listener);
        UnixEndpoint::bind(&path).expect("replaced");
        fs::write(&path, "a file").expect("written");
        assert!(UnixEndpoint::bind(&path).is_err());
    }
}
