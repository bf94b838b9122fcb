//! PING both ways: notices a peer that vanished without a word.

use crate::TunnelError;
use h2::{Ping, PingPong};
use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Intervals that a peer may be silent for before the next one counts it dead.
const MISSED: u32 = 2;

/// What happened to the byte stream since the last tick.
#[derive(Debug, Default)]
pub(crate) struct Life {
    /// The peer was heard of. The answer to a PING is that, but on a slow link it
    /// waits behind all the data on its way, and its absence alone proves nothing.
    heard: AtomicBool,
    /// It took no more bytes at some time.
    full: AtomicBool,
}

pub(crate) struct Keepalive {
    pings: Option<PingPong>,
    life: Arc<Life>,
    interval: Duration,
    timer: Pin<Box<Sleep>>,
    silent: u32,
}

impl Keepalive {
    pub(crate) fn new(pings: Option<PingPong>, life: Arc<Life>, interval: Duration) -> Self {
        Self {
            pings,
            life,
            interval,
            timer: Box::pin(sleep(interval)),
            silent: 0,
        }
    }

    /// Pending while the peer is heard of.
    pub(crate) fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<TunnelError> {
        let Some(pings) = &mut self.pings else {
            return Poll::Pending;
        };
        // Taken, so that the next PING may go. An error is the connection's,
        // which reports it itself.
        let _ = pings.poll_pong(cx);
        while self.timer.as_mut().poll(cx).is_ready() {
            self.timer.as_mut().reset(Instant::now() + self.interval);
            let heard = self.life.heard.swap(false, Relaxed);
            let full = self.life.full.swap(false, Relaxed);
            if heard {
                self.silent = 0;
            }
            if self.silent >= MISSED {
                return Poll::Ready(TunnelError::PeerSilent(self.interval * MISSED));
            }
            self.silent += 1;
            // Before it can write a PING or the answer to one, HTTP/2 reads nothing.
            // With both directions full and a PING each way neither end would read
            // again; and who is heard of needs none.
            if !(heard && full) {
                // Refused only while one is on its way, which will do.
                let _ = pings.send_ping(Ping::opaque());
            }
        }
        Poll::Pending
    }
}

/// A byte stream that notes when it was heard of: bytes came, or it took bytes
/// again after it was full, which needs a peer that reads. While a large frame
/// crawls over a slow link HTTP/2 reads nothing, and so hears nothing either.
#[derive(Debug)]
pub(crate) struct Heard<IO> {
    io: IO,
    life: Arc<Life>,
    full: bool,
}

impl<IO> Heard<IO> {
    pub(crate) fn new(io: IO) -> (Self, Arc<Life>) {
        let life = Arc::new(Life::default());
        let noted = Arc::clone(&life);
        let full = false;
        (Self { io, life, full }, noted)
    }

    fn note(&mut self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &wrote {
            Poll::Pending => {
                self.full = true;
                self.life.full.store(true, Relaxed);
            }
            Poll::Ready(Ok(1..)) if self.full => {
                self.full = false;
                self.life.heard.store(true, Relaxed);
            }
            Poll::Ready(_) => {}
        }
        wrote
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Heard<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        if buf.filled().len() > before {
            self.life.heard.store(true, Relaxed);
        }
        Poll::Ready(read)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Heard<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note(wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.note(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;
    use tokio::io::{AsyncReadExt as _, duplex};

    #[tokio::test]
    async fn a_peer_that_takes_bytes_again_is_heard_of() {
        let (near, mut far) = duplex(4);
        let (mut io, life) = Heard::new(near);
        let mut write = || {
            let mut cx = Context::from_waker(Waker::noop());
            let wrote = Pin::new(&mut io).poll_write(&mut cx, b"four");
            (wrote.is_ready(), life.heard.swap(false, Relaxed))
        };
        assert_eq!(write(), (true, false), "the buffer is our own");
        assert_eq!(write(), (false, false), "and full");
        assert_eq!(write(), (false, false), "and stays so");
        far.read_exact(&mut [0; 4]).await.expect("bytes");
        assert_eq!(write(), (true, true), "somebody read");
        assert_eq!(write(), (false, false), "once");
    }
}
