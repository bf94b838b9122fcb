//! What is on its way from a socket into the byte stream.
//!
//! `h2` queues every frame it is handed and does not say how many wait. A
//! [`Chunk`] counts itself: it is dropped when its bytes were written, and until
//! then it holds its place in the stream's [`InFlight`] and in the budget.

use crate::budget::Charge;
use crate::settings::MAX_FRAMES_IN_FLIGHT;
use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use std::io::IoSlice;
use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed},
};
use std::task::{Context, Poll};

/// Frames and bytes of one stream that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    frames: AtomicUsize,
    bytes: AtomicUsize,
    /// Bytes that waited, and do no more.
    left: AtomicU64,
    freed: AtomicWaker,
}

impl InFlight {
    /// Ready with the room left below `limit` bytes, once there is some.
    pub(crate) fn poll_room(&self, limit: usize, cx: &mut Context<'_>) -> Poll<usize> {
        let room = || {
            let frames = self.frames.load(Acquire);
            let room = limit.saturating_sub(self.bytes.load(Acquire));
            (frames < MAX_FRAMES_IN_FLIGHT && room > 0).then_some(room)
        };
        if let Some(room) = room() {
            return Poll::Ready(room);
        }
        self.freed.register(cx.waker());
        // Freed between the look and the registration?
        room().map_or(Poll::Pending, Poll::Ready)
    }

    /// Bytes that left so far.
    pub(crate) fn left(&self) -> u64 {
        self.left.load(Relaxed)
    }

    /// Ready once nothing waits any more.
    pub(crate) fn poll_empty(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.frames.load(Acquire) == 0 {
            return Poll::Ready(());
        }
        self.freed.register(cx.waker());
        match self.frames.load(Acquire) {
            0 => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

/// One DATA frame's payload.
#[derive(Debug)]
pub(crate) struct Chunk {
    data: Bytes,
    size: usize,
    in_flight: Option<Arc<InFlight>>,
    _charge: Option<Charge>,
}

impl Chunk {
    pub(crate) fn new(data: Bytes, in_flight: &Arc<InFlight>, charge: Option<Charge>) -> Self {
        let size = data.len();
        in_flight.frames.fetch_add(1, AcqRel);
        in_flight.bytes.fetch_add(size, AcqRel);
        Self {
            data,
            size,
            in_flight: Some(Arc::clone(in_flight)),
            _charge: charge,
        }
    }

    /// An END_STREAM without bytes, which nobody counts.
    pub(crate) fn end() -> Self {
        Self {
            data: Bytes::new(),
            size: 0,
            in_flight: None,
            _charge: None,
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(in_flight) = &self.in_flight {
            in_flight.left.fetch_add(self.size as u64, Relaxed);
            in_flight.bytes.fetch_sub(self.size, AcqRel);
            in_flight.frames.fetch_sub(1, AcqRel);
            in_flight.freed.wake();
        }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, cnt: usize) {
        self.data.advance(cnt);
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(dst)
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        self.data.copy_to_bytes(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn bytes_in_flight_leave_less_room() {
        let in_flight = Arc::new(InFlight::default());
        let chunk = Chunk::new(Bytes::from_static(&[0; 60]), &in_flight, None);
        assert_eq!(in_flight.poll_room(100, &mut cx()), Poll::Ready(40));
        let full = Chunk::new(Bytes::from_static(&[0; 40]), &in_flight, None);
        assert_eq!(in_flight.poll_room(100, &mut cx()), Poll::Pending);
        drop(full);
        drop(chunk);
        assert_eq!(in_flight.poll_room(100, &mut cx()), Poll::Ready(100));
        assert_eq!(in_flight.poll_empty(&mut cx()), Poll::Ready(()));
    }

    #[test]
    fn single_bytes_run_out_of_frames_long_before_bytes() {
        let in_flight = Arc::new(InFlight::default());
        let chunks: Vec<_> = (0..MAX_FRAMES_IN_FLIGHT)
            .map(|_| Chunk::new(Bytes::from_static(b"x"), &in_flight, None))
            .collect();
        assert_eq!(in_flight.poll_room(1 << 20, &mut cx()), Poll::Pending);
        drop(chunks);
    }
}
