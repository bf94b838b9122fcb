//! The sockets at both ends of a stream.

use bytes::{BytesMut, buf::Limit};
use std::future::Future;
use std::io::{self, IoSlice};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A connected socket, as [`crate::relay()`] needs it: readiness and non-blocking
/// calls, so that waiting holds no buffer.
pub trait Socket: Send + Sync + Unpin + 'static {
    /// Resolves when a read may give something.
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send;
    /// Resolves when a write may take something.
    fn writable(&self) -> impl Future<Output = io::Result<()>> + Send;
    /// Resolves with the error of a connection that was reset, even where
    /// nobody reads or writes.
    fn failed(&self) -> impl Future<Output = io::Error> + Send;
    /// Reads into `buffer`, up to its limit; 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock`, or the connection's.
    fn try_read(&self, buffer: &mut Limit<&mut BytesMut>) -> io::Result<usize>;
    /// Writes the slices in order.
    ///
    /// # Errors
    /// `WouldBlock`, or the connection's.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Ends our direction; the peer reads to the end.
    ///
    /// # Errors
    /// The connection is gone already.
    fn shutdown_write(&self) -> io::Result<()>;
    /// Makes the coming close a reset, where the kind of socket has one.
    fn abort_on_close(&self);
    /// Whether the kernel is to reset the connection when this process is killed
    /// with it open: an ordered close would tell the peer that all was sent. For
    /// sockets that are no kernel's there is nothing to do.
    fn abort_if_killed(&self, _abort: bool) {}
}

macro_rules! socket {
    ($type:ty, $linger:expr) => {
        impl Socket for $type {
            async fn readable(&self) -> io::Result<()> {
                <$type>::readable(self).await
            }

            async fn writable(&self) -> io::Result<()> {
                <$type>::writable(self).await
            }

            async fn failed(&self) -> io::Error {
                loop {
                    if let Err(error) = self.ready(Interest::ERROR).await {
                        return error;
                    }
                    let taken = self.try_io(Interest::ERROR, || {
                        match socket2::SockRef::from(self).take_error()? {
                            Some(error) => Ok(error),
                            None => Err(io::ErrorKind::WouldBlock.into()),
                        }
                    });
                    if let Ok(error) = taken {
                        return error;
                    }
                }
            }

            fn try_read(&self, buffer: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
                self.try_read_buf(buffer)
            }

            fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
                self.try_write_vectored(slices)
            }

            fn shutdown_write(&self) -> io::Result<()> {
                socket2::SockRef::from(self).shutdown(std::net::Shutdown::Write)
            }

            fn abort_on_close(&self) {
                self.abort_if_killed(true);
            }

            fn abort_if_killed(&self, abort: bool) {
                let linger: fn(&$type, Option<Duration>) = $linger;
                // One setting for both: the kernel closes as we would.
                linger(self, abort.then_some(Duration::ZERO));
            }
        }
    };
}

socket!(TcpStream, |socket, linger| {
    // Fails only on a socket that is gone, which needs no reset.
    let _ = socket2::SockRef::from(socket).set_linger(linger);
});

// A Unix socket has no reset: its peer sees the end, or ECONNRESET where bytes
// were left unread.
#[cfg(unix)]
socket!(tokio::net::UnixStream, |_, _| {});
