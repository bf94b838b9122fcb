//! A peer that says what it was told to say, and a socket that takes all.

use crate::input::Input;
use bytes::{BufMut as _, BytesMut, buf::Limit};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use sternline_tunnel::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a peer does after its last byte.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Last {
    /// Closes.
    Close,
    /// Stays, and says nothing more.
    Silence,
    /// Resets.
    Reset,
}

/// A peer that says what it was told to say, whatever it hears.
#[derive(Debug)]
pub(crate) struct Peer {
    says: VecDeque<Vec<u8>>,
    last: Last,
    /// What it was sent.
    heard: Arc<Mutex<Vec<u8>>>,
    /// Bytes that it reads before it stops to.
    reads: usize,
}

impl Peer {
    /// Says `bytes` in pieces; how large those are, how it ends and how much it
    /// reads is taken from `input`.
    pub(crate) fn new(input: &mut Input<'_>, bytes: &[u8]) -> (Self, Arc<Mutex<Vec<u8>>>) {
        let style = input.byte();
        let piece = match style & 0x07 {
            0 => 1,
            1 => 2,
            2 => 9,
            3 => 64,
            _ => 1 << 20,
        };
        let last = match style >> 3 & 0x03 {
            0 => Last::Silence,
            1 => Last::Reset,
            _ => Last::Close,
        };
        let reads = if style & 0x80 == 0 {
            usize::MAX
        } else {
            usize::from(input.short())
        };
        let heard = Arc::default();
        let peer = Self {
            says: bytes.chunks(piece).map(<[u8]>::to_vec).collect(),
            last,
            heard: Arc::clone(&heard),
            reads,
        };
        (peer, heard)
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut piece) = self.says.pop_front() else {
            return match self.last {
                Last::Close => Poll::Ready(Ok(())),
                // Woken by nothing: whoever waits has a timer of its own.
                Last::Silence => Poll::Pending,
                Last::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            };
        };
        let rest = piece.split_off(piece.len().min(buf.remaining()));
        buf.put_slice(&piece);
        if !rest.is_empty() {
            self.says.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.reads == 0 {
            return Poll::Pending;
        }
        let taken = buf.len().min(self.reads);
        if self.reads != usize::MAX {
            self.reads -= taken;
        }
        let mut heard = self.heard.lock().expect("nobody panics with it");
        heard.extend_from_slice(&buf[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A process's socket that has some bytes to read, and takes what it is sent
/// until it is full.
#[derive(Debug)]
pub(crate) struct Sponge {
    gives: AtomicUsize,
    takes: AtomicUsize,
}

impl Sponge {
    pub(crate) fn new(gives: usize, takes: usize) -> Self {
        Self {
            gives: AtomicUsize::new(gives),
            takes: AtomicUsize::new(takes),
        }
    }
}

impl Socket for Sponge {
    async fn readable(&self) -> io::Result<()> {
        Ok(())
    }

    async fn writable(&self) -> io::Result<()> {
        if self.takes.load(Relaxed) == 0 {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn failed(&self) -> io::Error {
        std::future::pending().await
    }

    fn try_read(&self, buffer: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
        let read = self.gives.load(Relaxed).min(buffer.remaining_mut());
        self.gives.fetch_sub(read, Relaxed);
        buffer.put_bytes(b'x', read);
        Ok(read)
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        match offered.min(self.takes.load(Relaxed)) {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            taken => {
                self.takes.fetch_sub(taken, Relaxed);
                Ok(taken)
            }
        }
    }

    fn shutdown_write(&self) -> io::Result<()> {
        Ok(())
    }

    fn abort_on_close(&self) {}
}
