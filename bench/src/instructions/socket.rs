//! A socket without a kernel: what it reads it makes up, what is written to it is
//! counted. Always ready, so that a run never depends on timing.

use bytes::{BufMut as _, BytesMut, buf::Limit};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use sternline_tunnel::Socket;

/// What reads give.
static PATTERN: [u8; 64 * 1024] = [0x5a; 64 * 1024];

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Made {
    /// Bytes that are still to be read.
    left: AtomicU64,
    /// Most that one read gives.
    step: usize,
    /// Bytes that were written.
    written: Arc<AtomicU64>,
}

impl Made {
    /// A socket that gives `bytes` in reads of at most `step`, and then its end;
    /// and the count of what is written to it.
    pub(super) fn new(bytes: u64, step: usize) -> (Self, Arc<AtomicU64>) {
        let written = Arc::new(AtomicU64::new(0));
        let made = Self {
            left: AtomicU64::new(bytes),
            step,
            written: Arc::clone(&written),
        };
        (made, written)
    }
}

impl Socket for Made {
    async fn readable(&self) -> io::Result<()> {
        Ok(())
    }

    async fn writable(&self) -> io::Result<()> {
        Ok(())
    }

    async fn failed(&self) -> io::Error {
        std::future::pending().await
    }

    fn try_read(&self, buffer: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
        let left = self.left.load(Relaxed);
        let most = buffer.remaining_mut().min(self.step).min(PATTERN.len());
        let take = usize::try_from(left).unwrap_or(most).min(most);
        buffer.put_slice(&PATTERN[..take]);
        self.left.store(left - take as u64, Relaxed);
        Ok(take)
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        self.written.fetch_add(bytes as u64, Relaxed);
        Ok(bytes)
    }

    fn shutdown_write(&self) -> io::Result<()> {
        Ok(())
    }

    fn abort_on_close(&self) {}
}
