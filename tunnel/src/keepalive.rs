//! PING both ways: notices a peer that vanished without a word.

use crate::TunnelError;
use bytes::BytesMut;
use h2::{Ping, PingPong};
use std::future::Future as _;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Intervals that a peer may be silent for before the next one counts it dead.
const MISSED: u32 = 2;

/// What is read while nothing can be written, in bytes: more than HTTP/2 keeps of
/// its own, so that the other end's answer gets through.
const AHEAD: usize = 64 * 1024;

/// As much at a time.
const READ: usize = 4 * 1024;

/// What happened to the byte stream since the last tick.
#[derive(Debug, Default)]
pub(crate) struct Life {
    /// The peer was heard of. The answer to a PING is that, but on a slow link it
    /// waits behind all the data on its way, and its absence alone proves nothing.
    heard: AtomicBool,
    /// It took no more bytes at some time.
    full: AtomicBool,
    /// Bytes that came, since the beginning.
    bytes: AtomicU64,
}

pub(crate) struct Keepalive {
    pings: Option<PingPong>,
    life: Arc<Life>,
    interval: Duration,
    timer: Pin<Box<Sleep>>,
    silent: u32,
    /// When the PING was sent that is on its way.
    asked: Option<Instant>,
    round_trips: RoundTrips,
}

/// The last round trips. The shortest is the link's own; in the others PINGs
/// waited behind data.
#[derive(Debug, Default)]
struct RoundTrips {
    seen: [Option<Duration>; 8],
    next: usize,
}

impl RoundTrips {
    fn add(&mut self, span: Duration) {
        self.seen[self.next] = Some(span);
        self.next = (self.next + 1) % self.seen.len();
    }

    fn shortest(&self) -> Option<Duration> {
        self.seen.iter().flatten().min().copied()
    }
}

impl Keepalive {
    pub(crate) fn new(pings: Option<PingPong>, life: Arc<Life>, interval: Duration) -> Self {
        let mut this = Self {
            pings,
            life,
            interval,
            timer: Box::pin(sleep(interval)),
            silent: 0,
            asked: None,
            round_trips: RoundTrips::default(),
        };
        // How long the link is should be known before it is busy.
        this.ask();
        this
    }

    /// Bytes that came so far.
    pub(crate) fn heard(&self) -> u64 {
        self.life.bytes.load(Relaxed)
    }

    /// How long a PING and its answer take on a link that is not busy, if one was
    /// answered yet.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.round_trips.shortest()
    }

    fn ask(&mut self) {
        // Refused only while one is on its way, which will do.
        let sent = self
            .pings
            .as_mut()
            .map(|pings| pings.send_ping(Ping::opaque()));
        if matches!(sent, Some(Ok(()))) {
            self.asked = Some(Instant::now());
        }
    }

    /// Pending while the peer is heard of.
    pub(crate) fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<TunnelError> {
        let Some(pings) = &mut self.pings else {
            return Poll::Pending;
        };
        // Taken, so that the next PING may go. An error is the connection's,
        // which reports it itself.
        if let Poll::Ready(Ok(_)) = pings.poll_pong(cx)
            && let Some(asked) = self.asked.take()
        {
            self.round_trips.add(asked.elapsed());
        }
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
            // Who is heard of needs none while there is no room for it.
            if !(heard && full) {
                self.ask();
            }
        }
        Poll::Pending
    }
}

/// A byte stream that notes when it was heard of: bytes came, or it took bytes
/// again after it was full, which needs a peer that reads.
///
/// While it takes no more, it is read from: before HTTP/2 can write an answer to
/// SETTINGS or to a PING it reads nothing, and with both directions full and an
/// answer due at each end neither would read again.
#[derive(Debug)]
pub(crate) struct Heard<IO> {
    io: IO,
    life: Arc<Life>,
    full: bool,
    /// What was read meanwhile.
    ahead: BytesMut,
    /// What reading meanwhile came to.
    failed: Option<io::Error>,
}

impl<IO> Heard<IO> {
    pub(crate) fn new(io: IO) -> (Self, Arc<Life>) {
        let life = Arc::new(Life::default());
        let noted = Arc::clone(&life);
        let heard = Self {
            io,
            life,
            full: false,
            ahead: BytesMut::new(),
            failed: None,
        };
        (heard, noted)
    }
}

impl<IO: AsyncRead + Unpin> Heard<IO> {
    fn note(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match &wrote {
            Poll::Pending => {
                self.full = true;
                self.life.full.store(true, Relaxed);
                self.read_ahead(cx);
            }
            Poll::Ready(Ok(1..)) if self.full => {
                self.full = false;
                self.life.heard.store(true, Relaxed);
            }
            Poll::Ready(_) => {}
        }
        wrote
    }

    fn read_ahead(&mut self, cx: &mut Context<'_>) {
        let before = self.ahead.len();
        while self.ahead.len() < AHEAD && self.failed.is_none() {
            let mut block = [MaybeUninit::uninit(); READ];
            let mut buf = ReadBuf::uninit(&mut block);
            let read = Pin::new(&mut self.io).poll_read(cx, &mut buf);
            let filled = buf.filled();
            match read {
                Poll::Ready(Ok(())) if !filled.is_empty() => {
                    self.came(filled.len());
                    self.ahead.extend_from_slice(filled);
                }
                Poll::Ready(Err(error)) => self.failed = Some(error),
                // Its end is met again by whoever reads next.
                Poll::Ready(Ok(())) | Poll::Pending => break,
            }
        }
        if self.ahead.len() > before || self.failed.is_some() {
            // Nobody else wakes for it.
            cx.waker().wake_by_ref();
        }
    }

    fn came(&self, bytes: usize) {
        self.life.heard.store(true, Relaxed);
        self.life.bytes.fetch_add(bytes as u64, Relaxed);
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Heard<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let most = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(most));
            if self.ahead.is_empty() {
                // It is needed seldom.
                self.ahead = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        let came = buf.filled().len() - before;
        if came > 0 {
            self.came(came);
        }
        Poll::Ready(read)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Heard<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note(cx, wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        // TLS takes bytes that its own stream does not take yet.
        if flushed.is_pending() {
            self.life.full.store(true, Relaxed);
            self.read_ahead(cx);
        }
        flushed
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
        self.note(cx, wrote)
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

    /// Takes nothing, or takes it and passes nothing on, as TLS may.
    struct Stuck {
        takes: bool,
        came: &'static [u8],
    }

    impl AsyncRead for Stuck {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.came.is_empty() {
                return Poll::Pending;
            }
            let (now, later) = self.came.split_at(self.came.len().min(buf.remaining()));
            buf.put_slice(now);
            self.came = later;
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Stuck {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.takes {
                Poll::Ready(Ok(buf.len()))
            } else {
                Poll::Pending
            }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[test]
    fn what_takes_no_more_is_read_from_within_bounds() {
        static CAME: [u8; AHEAD + 10_000] = [7; AHEAD + 10_000];
        for takes in [true, false] {
            let mut cx = Context::from_waker(Waker::noop());
            let stuck = Stuck { takes, came: &CAME };
            let (mut io, life) = Heard::new(stuck);
            let wrote = Pin::new(&mut io).poll_write(&mut cx, b"x");
            assert_eq!(wrote.is_ready(), takes);
            if takes {
                assert_eq!(life.bytes.load(Relaxed), 0, "there is room");
                assert!(Pin::new(&mut io).poll_flush(&mut cx).is_pending());
            }
            let ahead = life.bytes.load(Relaxed) as usize;
            assert!((AHEAD..AHEAD + READ).contains(&ahead), "{ahead}");
            assert!(life.heard.load(Relaxed));
            // It is all there, in order, and what comes after it.
            let mut got = vec![0; CAME.len()];
            let mut buf = ReadBuf::new(&mut got);
            while buf.remaining() > 0 {
                let read = Pin::new(&mut io).poll_read(&mut cx, &mut buf);
                assert!(matches!(read, Poll::Ready(Ok(()))));
            }
            assert_eq!(life.bytes.load(Relaxed) as usize, CAME.len());
            assert!(buf.filled() == CAME);
        }
    }
}
