//! Where lines go: a file, a named pipe, or standard output.

use crate::config::AuditTarget;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{File, Metadata, OpenOptions, Permissions, symlink_metadata};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{
    FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

/// Most bytes that go into a pipe at once: so many never mix with another
/// writer's, and never block once the pipe has room.
const PIPE_BUF: usize = 4096;

/// How long one attempt waits for room in a pipe, in milliseconds; short, so that
/// a shutdown is noticed.
const ROOM: u16 = 100;

/// Takes the bytes of lines.
pub(super) trait Sink: Send {
    /// Takes some of `bytes`, at least one, and says how many.
    ///
    /// # Errors
    /// `WouldBlock` where there is no room now; anything else is a fault.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Opens the destination again if another is in its place, or if `forced`;
    /// whether it did.
    ///
    /// # Errors
    /// What is in its place cannot be used.
    fn follow(&mut self, forced: bool) -> io::Result<bool>;
}

/// Opens where lines are to go.
///
/// # Errors
/// It cannot be opened, or is nothing that may hold an audit log.
pub(super) fn open(target: &AuditTarget) -> io::Result<Box<dyn Sink>> {
    Ok(match target {
        AuditTarget::Stdout => {
            let stdout = io::stdout().as_fd().try_clone_to_owned()?;
            Box::new(Stdout(stdout.into()))
        }
        AuditTarget::Path(path) => Box::new(Log::open(path)?),
    })
}

/// Standard output, whatever that is.
struct Stdout(File);

impl Sink for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_pipe(&mut self.0, bytes)
    }

    fn follow(&mut self, _forced: bool) -> io::Result<bool> {
        Ok(false)
    }
}

/// A file or a named pipe.
struct Log {
    path: PathBuf,
    file: File,
    is_pipe: bool,
    /// Device and inode.
    identity: (u64, u64),
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        // Looked at first: opening some devices does something.
        match symlink_metadata(path) {
            Ok(found) => usable(&found)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Readable for the look at its end; a pipe that we could read ourselves
        // keeps what is in it while its reader is away.
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)?;
        let found = file.metadata()?;
        usable(&found)?;
        let is_pipe = found.file_type().is_fifo();
        if !is_pipe {
            if found.mode() & 0o777 != 0o600 {
                file.set_permissions(Permissions::from_mode(0o600))?;
            }
            end_line(&file, found.len())?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            is_pipe,
            identity: (found.dev(), found.ino()),
        })
    }

    fn is_in_place(&self) -> io::Result<bool> {
        match symlink_metadata(&self.path) {
            Ok(found) => Ok((found.dev(), found.ino()) == self.identity),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Sink for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_pipe {
            write_pipe(&mut self.file, bytes)
        } else {
            some(self.file.write(bytes)?)
        }
    }

    fn follow(&mut self, forced: bool) -> io::Result<bool> {
        if !forced && self.is_in_place()? {
            return Ok(false);
        }
        let new = Self::open(&self.path)?;
        let moved = new.identity != self.identity;
        *self = new;
        Ok(moved)
    }
}

fn usable(found: &Metadata) -> io::Result<()> {
    let kind = found.file_type();
    let what = if kind.is_file() || kind.is_fifo() {
        return Ok(());
    } else if kind.is_symlink() {
        "a symbolic link, which is never followed"
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    let sentence = format!("it is {what}: give a file, a named pipe, or - for standard output");
    Err(io::Error::new(ErrorKind::InvalidInput, sentence))
}

/// Ends a line that a crash left half written.
fn end_line(mut file: &File, length: u64) -> io::Result<()> {
    let Some(last) = length.checked_sub(1) else {
        return Ok(());
    };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    if byte[0] != b'\n' {
        file.write_all(b"\n")?;
    }
    Ok(())
}

/// Writes to what may block for as long as its reader likes.
fn write_pipe(file: &mut File, bytes: &[u8]) -> io::Result<usize> {
    let mut wanted = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut wanted, PollTimeout::from(ROOM))? == 0 {
        return Err(ErrorKind::WouldBlock.into());
    }
    some(file.write(&bytes[..bytes.len().min(PIPE_BUF)])?)
}

fn some(written: usize) -> io::Result<usize> {
    match written {
        0 => Err(ErrorKind::WriteZero.into()),
        written => Ok(written),
    }
}

#[cfg(test)]
#[path = "sink/tests.rs"]
mod tests;
