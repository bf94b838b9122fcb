//! The binder's socket in the file system.
//!
//! The binder is root and its directory may be another's: nothing here follows
//! a path that somebody else could change in between.

use crate::endpoint::is_served;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;

/// A bound socket, removed when dropped.
#[derive(Debug)]
pub struct Endpoint {
    path: PathBuf,
    /// Which file it is: a successor may have put its own there since.
    file: (u64, u64),
}

impl Endpoint {
    /// Listens at `path`, mode 0600, owned by `owner`. A socket that nobody serves
    /// any more is replaced; its directory is made if there is none, and then
    /// others may pass through it to reach the socket.
    ///
    /// # Errors
    /// Another process serves it, something else is there, or the file system
    /// says no.
    pub fn bind(path: &Path, owner: Option<u32>) -> io::Result<(OwnedFd, Self)> {
        let bad = || io::Error::new(io::ErrorKind::InvalidInput, "no absolute path of a file");
        let dir = path
            .parent()
            .filter(|dir| dir.is_absolute())
            .ok_or_else(bad)?;
        let name = path.file_name().ok_or_else(bad)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(dir, flags, Mode::empty())?;
        match fs::symlink_metadata(at(&dir, name.as_ref())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(meta) if !meta.file_type().is_socket() => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "something that is no socket is there",
                ));
            }
            Ok(_) if is_served(path, SocketType::SEQPACKET)? => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another process serves it",
                ));
            }
            Ok(_) => {}
        }
        // Made in a directory that only this user can enter, so that mode and
        // owner are right, and are this socket's, before anybody sees it.
        let private = format!(".{}", std::process::id());
        let _ = fs::remove_dir_all(at(&dir, private.as_ref()));
        mkdirat(&dir, private.as_str(), Mode::S_IRWXU)?;
        let made = make(&dir, &private, name.as_ref(), owner);
        let _ = unlinkat(&dir, private.as_str(), UnlinkatFlags::RemoveDir);
        let listener = made?;
        let file = identity(path)?;
        let path = path.to_owned();
        Ok((listener, Self { path, file }))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn make(dir: &OwnedFd, private: &str, name: &Path, owner: Option<u32>) -> io::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let private = nix::fcntl::openat(dir, private, flags, Mode::empty())?;
    let meta = fs::metadata(format!("/proc/self/fd/{}", private.as_raw_fd()))?;
    if meta.uid() != Uid::effective().as_raw() || meta.mode() & 0o077 != 0 {
        return Err(io::Error::other("somebody else changes this directory"));
    }
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(at(&private, "s".as_ref()))?)?;
    let moved = (|| {
        fchmodat(
            &private,
            "s",
            Mode::S_IRUSR | Mode::S_IWUSR,
            FchmodatFlags::FollowSymlink,
        )?;
        if let Some(owner) = owner {
            let owner = Some(Uid::from_raw(owner));
            fchownat(
                &private,
                "s",
                owner,
                None::<Gid>,
                AtFlags::AT_SYMLINK_NOFOLLOW,
            )?;
        }
        rustix::net::listen(&socket, BACKLOG)?;
        nix::fcntl::renameat(&private, "s", dir, name)?;
        Ok(())
    })();
    if moved.is_err() {
        let _ = unlinkat(&private, "s", UnlinkatFlags::NoRemoveDir);
    }
    moved.map(|()| socket)
}

/// A path inside an open directory.
fn at(dir: &OwnedFd, name: &Path) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(name)
}

/// Device and inode.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_socket_is_private_and_goes_away() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("run/binder.sock");
        let (listener, endpoint) = Endpoint::bind(&path, None).expect("bound");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mode = fs::metadata(dir.path().join("run"))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o022, 0, "others may pass, and change nothing");
        let error = Endpoint::bind(&path, None).expect_err("served");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(
            fs::read_dir(dir.path().join("run")).expect("dir").count(),
            1
        );
        drop(listener);
        let (_listener, successor) = Endpoint::bind(&path, None).expect("replaced");
        drop(endpoint);
        assert!(path.exists(), "the successor's socket is left alone");
        drop(successor);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("binder.sock");
        fs::write(&path, "a file").expect("written");
        Endpoint::bind(&path, None).expect_err("refused");
        Endpoint::bind(Path::new("relative.sock"), None).expect_err("refused");
        assert_eq!(fs::read_to_string(&path).expect("there"), "a file");
    }
}
