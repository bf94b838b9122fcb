//! What came through the tunnel and waits for a socket to take it.
//!
//! Frames are taken from HTTP/2 as soon as they arrive, so that a stream nobody
//! reads never holds up the connection; the stream's window bounds how much can
//! be here. Small frames are copied together: kept apart, a thousand single
//! bytes would pin a thousand read buffers.

use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::IoSlice;

/// Payloads below this are copied into a shared block; above, copying would
/// cost more than the block it pins.
const COPY_BELOW: usize = 4 * 1024;

/// Blocks of copied bytes grow by this.
const BLOCK: usize = 16 * 1024;

/// Pieces handed to one vectored write.
pub(crate) const MAX_SLICES: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Queue {
    whole: VecDeque<Bytes>,
    /// Copied bytes, behind everything in `whole`.
    tail: BytesMut,
    len: usize,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push(&mut self, data: Bytes) {
        self.len += data.len();
        // With nothing waiting it is written at once and pins nothing.
        if self.len == data.len() || data.len() >= COPY_BELOW {
            self.seal();
            self.whole.push_back(data);
            return;
        }
        if let Some(only) = self.whole.back_mut()
            && self.tail.is_empty()
            && only.len() < COPY_BELOW
        {
            // The first one was kept whole in the hope of a quick write.
            self.tail.reserve(BLOCK);
            self.tail.extend_from_slice(only);
            self.whole.pop_back();
        }
        if self.tail.len() + data.len() > BLOCK {
            self.seal();
        }
        if self.tail.capacity() - self.tail.len() < data.len() {
            self.tail.reserve(BLOCK);
        }
        self.tail.extend_from_slice(&data);
    }

    /// Fills `slices` with what is to be written next; returns how many.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let mut n = 0;
        for piece in self.whole.iter().map(|b| &b[..]).chain([&self.tail[..]]) {
            if n == MAX_SLICES {
                break;
            }
            if !piece.is_empty() {
                slices[n] = IoSlice::new(piece);
                n += 1;
            }
        }
        n
    }

    /// Drops what was written.
    pub(crate) fn advance(&mut self, mut written: usize) {
        self.len -= written;
        while written > 0 {
            let Some(front) = self.whole.front_mut() else {
                self.tail.advance(written);
                break;
            };
            if front.len() > written {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.whole.pop_front();
        }
        if self.len == 0 {
            // An idle stream keeps nothing.
            *self = Self::default();
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.whole.push_back(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_frames_are_kept_together() {
        let mut queue = Queue::default();
        for _ in 0..10_000 {
            queue.push(Bytes::from_static(b"x"));
        }
        assert_eq!(queue.len(), 10_000);
        assert!(queue.whole.len() <= 1 + 10_000 / (BLOCK / 2));
    }

    #[test]
    fn an_empty_queue_holds_no_memory() {
        let mut queue = Queue::default();
        queue.push(Bytes::from(vec![0; 100]));
        queue.push(Bytes::from(vec![0; 100]));
        queue.advance(200);
        assert!(queue.is_empty());
        assert_eq!((queue.whole.capacity(), queue.tail.capacity()), (0, 0));
    }

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(
            steps in prop::collection::vec((0_usize..9000, 1_usize..20_000), 1..40),
        ) {
            let mut queue = Queue::default();
            let (mut sent, mut got) = (Vec::new(), Vec::new());
            for (push, take) in steps {
                let data: Vec<u8> = (0..push).map(|i| (sent.len() + i) as u8).collect();
                sent.extend_from_slice(&data);
                if !data.is_empty() {
                    queue.push(Bytes::from(data));
                }
                let taken = {
                    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                    let n = queue.slices(&mut slices);
                    let flat: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
                    let taken = take.min(flat.len());
                    got.extend_from_slice(&flat[..taken]);
                    taken
                };
                queue.advance(taken);
                prop_assert_eq!(queue.len(), sent.len() - got.len());
            }
            prop_assert_eq!(&sent[..got.len()], &got[..]);
        }
    }
}
