//! Unix sockets, on the systems where this program can open one.

use std::io;
use std::path::Path;

/// A connection to a Unix socket.
#[cfg(unix)]
pub type LocalStream = tokio::net::UnixStream;

/// Stands where a connection to a Unix socket would; none is ever made.
#[cfg(not(unix))]
pub type LocalStream = tokio::net::TcpStream;

/// Connects to a Unix socket.
///
/// # Errors
/// The system's; `Unsupported` where there are none.
#[cfg(unix)]
pub async fn connect(path: &Path) -> io::Result<LocalStream> {
    LocalStream::connect(path).await
}

/// Connects to a Unix socket.
///
/// # Errors
/// `Unsupported`: there are none here.
#[cfg(not(unix))]
pub async fn connect(_: &Path) -> io::Result<LocalStream> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this program has no Unix sockets on this system",
    ))
}
