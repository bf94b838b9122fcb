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

pub(crate) struct Keepalive {
    pings: Option<PingPong>,
    /// Bytes came since the last tick. The answer to a PING is such, but on a
    /// slow link it waits behind all the data on its way, and its absence alone
    /// proves nothing.
    heard: Arc<AtomicBool>,
    interval: Duration,
    timer: Pin<Box<Sleep>>,
    silent: u32,
}

impl Keepalive {
    pub(crate) fn new(pings: Option<PingPong>, heard: Arc<AtomicBool>, interval: Duration) -> Self {
        Self {
            pings,
            heard,
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
            if self.heard.swap(false, Relaxed) {
                self.silent = 0;
            }
            if self.silent >= MISSED {
                return Poll::Ready(TunnelError::PeerSilent(self.interval * MISSED));
            }
            // Refused only while one is on its way, which will do.
            let _ = pings.send_ping(Ping::opaque());
            self.silent += 1;
        }
        Poll::Pending
    }
}

/// A byte stream that notes when it was heard of.
#[derive(Debug)]
pub(crate) struct Heard<IO> {
    io: IO,
    heard: Arc<AtomicBool>,
}

impl<IO> Heard<IO> {
    pub(crate) fn new(io: IO) -> (Self, Arc<AtomicBool>) {
        let heard = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&heard);
        (Self { io, heard }, noted)
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
            self.heard.store(true, Relaxed);
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
        Pin::new(&mut self.io).poll_write(cx, buf)
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
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
