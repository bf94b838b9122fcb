//! Sockets on which the shim listens for its own clients.

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use socket2::{SockRef, Type};
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
        Self::bind_for(path, None)
    }

    /// The same; a group may open the socket too, mode 0660, and pass through its
    /// directory if that is made here, mode 0750.
    ///
    /// # Errors
    /// As [`UnixEndpoint::bind`], and where this user may not give files to the
    /// group: only root and its members may.
    pub fn bind_for(path: &Path, group: Option<u32>) -> io::Result<(UnixListener, Self)> {
        if let Some(dir) = path.parent() {
            let missing = !dir.as_os_str().is_empty() && !dir.exists();
            if let Some(above) = dir.parent().filter(|_| missing && group.is_some()) {
                // What lies above is nobody's secret, and has to be passed too.
                let mut builder = fs::DirBuilder::new();
                builder.recursive(true).mode(0o755).create(above)?;
            }
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)?;
            if missing && group.is_some() {
                open_to(dir, group, 0o750)?;
            }
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
            Ok(_) if is_served(path, SocketType::STREAM)? => {
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
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        let moved = open_to(&hidden, group, mode).and_then(|()| fs::rename(&hidden, path));
        if let Err(error) = moved {
            let _ = fs::remove_file(&hidden);
            return Err(error);
        }
        let file = identity(path)?;
        let path = path.to_owned();
        let left = false;
        Ok((listener, Self { path, file, left }))
    }

    /// Lets this group open the socket, or nobody but the owner.
    ///
    /// # Errors
    /// This user may not give files to the group.
    pub fn allow(&self, group: Option<u32>) -> io::Result<()> {
        open_to(&self.path, group, mode_for(group))
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
        if !listens_behind(path, &socket)? {
            return Err(io::Error::other("what was left is another socket"));
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

/// Whether somebody listens at `path`, with a socket of this kind or another.
/// Never waits: whoever listens may be frozen.
///
/// # Errors
/// It cannot be found out, and the socket may be a live one's.
pub(crate) fn is_served(path: &Path, kind: SocketType) -> io::Result<bool> {
    use rustix::io::Errno;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        // Its queue is full, so somebody made one.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        // Another kind of socket.
        Err(Errno::PROTOTYPE) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether it is a listening socket that was bound to be moved to `path`, whose
/// mode nobody else chose.
fn listens_behind(path: &Path, socket: &OwnedFd) -> io::Result<bool> {
    let socket = SockRef::from(socket);
    let bound = socket.local_addr()?;
    let hidden = bound.as_pathname().filter(|bound| {
        let name = bound.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix('.'));
        let is_ours = number.is_some_and(|number| number.parse::<u32>().is_ok());
        is_ours && bound.parent() == path.parent()
    });
    Ok(hidden.is_some() && socket.r#type()? == Type::STREAM && socket.is_listener()?)
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

/// Mode of a socket that is also for this group.
fn mode_for(group: Option<u32>) -> u32 {
    if group.is_some() { 0o660 } else { 0o600 }
}

/// Gives a file that this process made to a group, and its mode.
fn open_to(path: &Path, group: Option<u32>, mode: u32) -> io::Result<()> {
    if let Some(group) = group {
        let given = std::os::unix::fs::chown(path, None, Some(group));
        given.map_err(|error| {
            let sentence = format!(
                "group {group} cannot have {}, which takes CAP_CHOWN or a member of the group: {error}",
                path.display()
            );
            io::Error::new(error.kind(), sentence)
        })?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
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
    async fn only_the_socket_behind_the_path_is_taken_over() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("s.sock");
        let (listener, endpoint) = UnixEndpoint::bind(&path).expect("bound");
        let mark = endpoint.mark();
        endpoint.leave();
        let open = std::os::unix::net::UnixListener::bind(dir.path().join("open"));
        let elsewhere = open.expect("bound").into();
        UnixEndpoint::adopt(&path, &mark, elsewhere).expect_err("another name");
        let (unnamed, _) = std::os::unix::net::UnixStream::pair().expect("a pair");
        UnixEndpoint::adopt(&path, &mark, unnamed.into()).expect_err("none that listens");
        let own = listener.into_std().expect("a listener").into();
        UnixEndpoint::adopt(&path, &mark, own).expect("its own");
    }

    #[tokio::test]
    async fn a_group_may_open_the_socket_and_pass_to_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("above/run/s.sock");
        // Its own is one that every user may give files to.
        let own = nix::unistd::getgid().as_raw();
        let (_listener, endpoint) = UnixEndpoint::bind_for(&path, Some(own)).expect("bound");
        let found = |path: &Path| {
            let meta = fs::metadata(path).expect("there");
            (meta.permissions().mode() & 0o777, meta.gid())
        };
        assert_eq!(found(&path), (0o660, own));
        assert_eq!(found(path.parent().expect("dir")), (0o750, own));
        let above = dir.path().join("above");
        assert_eq!(found(&above).0 & 0o011, 0o011, "others pass");
        endpoint.allow(None).expect("the owner's alone again");
        assert_eq!(found(&path).0, 0o600);
    }

    #[tokio::test]
    async fn a_process_that_is_frozen_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("s.sock");
        let (listener, _endpoint) = UnixEndpoint::bind(&path).expect("bound");
        // Nobody accepts, and here is room for one.
        rustix::net::listen(&listener, 0).expect("a shorter queue");
        let waiting = std::os::unix::net::UnixStream::connect(&path).expect("queued");
        let (done, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let bound = UnixEndpoint::bind_for(&path, None).map(|_| ());
            done.send(bound.map_err(|error| error.kind()))
        });
        let told = told.recv_timeout(std::time::Duration::from_secs(20));
        assert_eq!(
            told.expect("in time"),
            Err(io::ErrorKind::AddrInUse),
            "it is there"
        );
        drop(waiting);
    }

    #[test]
    fn nobody_is_taken_for_dead_who_cannot_be_asked() {
        let dir = tempfile::tempdir().expect("temp dir");
        let within = |path: &str| is_served(&dir.path().join(path), SocketType::STREAM);
        assert!(!within("nothing").expect("asked"));
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).expect("linked");
        within("loop/s.sock").expect_err("no way to it");
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
