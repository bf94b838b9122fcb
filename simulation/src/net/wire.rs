//! Connections between hosts, which carry tunnels: bytes take their time, come in
//! other pieces than they were sent in, and a link may be cut without a word or
//! reset, at one end or at both.

use crate::rng::Rng;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes on their way from one end to the other.
#[derive(Debug, Default)]
struct Way {
    segments: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// When the sender's end is seen.
    fin: Option<Instant>,
    /// Its reader is gone.
    unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug)]
struct State {
    towards: [Way; 2],
    /// What each side sees of a reset.
    reset: [bool; 2],
    cut: bool,
    capacity: usize,
    /// Microseconds, least and most.
    delay: (u64, u64),
    rng: Rng,
}

/// A connection, in the hands of whoever disturbs it.
#[derive(Clone, Debug)]
pub struct Wire(Arc<Mutex<State>>);

/// One end of it, in the hands of a tunnel.
#[derive(Debug)]
pub struct WireEnd {
    side: usize,
    wire: Wire,
    timer: Option<Pin<Box<Sleep>>>,
    open: Arc<AtomicUsize>,
}

impl Wire {
    /// A connection whose bytes take `delay` microseconds; `open` counts ends that
    /// are not closed.
    #[must_use]
    pub fn new(
        rng: &mut Rng,
        delay: (u64, u64),
        open: &Arc<AtomicUsize>,
    ) -> (Self, WireEnd, WireEnd) {
        let wire = Self(Arc::new(Mutex::new(State {
            towards: [Way::default(), Way::default()],
            reset: [false, false],
            cut: false,
            capacity: rng.pick(&[500, 4_000, 65_536, 262_144]),
            delay,
            rng: rng.fork(),
        })));
        open.fetch_add(2, Relaxed);
        let end = |side| WireEnd {
            side,
            wire: wire.clone(),
            timer: None,
            open: Arc::clone(open),
        };
        (wire.clone(), end(0), end(1))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether bytes may take seconds longer than their delay.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        let state = self.state();
        // Bytes in a second, at the least.
        let rate = state.capacity as u64 * 1_000_000 / state.delay.1.max(1);
        rate < 1_000_000
    }

    /// From now on, or no longer, nothing arrives at either end.
    pub fn cut(&self, cut: bool) {
        let mut state = self.state();
        state.cut = cut;
        state.wake();
    }

    /// Resets the connection, as these ends see it.
    pub fn reset(&self, seen: [bool; 2]) {
        let mut state = self.state();
        for (end, seen) in state.reset.iter_mut().zip(seen) {
            *end |= seen;
        }
        state.wake();
    }
}

impl State {
    fn wake(&mut self) {
        for way in &mut self.towards {
            for waker in [way.reader.take(), way.writer.take()].into_iter().flatten() {
                waker.wake();
            }
        }
    }

    /// When what is sent now arrives: never before what was sent before.
    fn arrival(&mut self, towards: usize) -> Instant {
        let (least, most) = self.delay;
        let delay = Duration::from_micros(self.rng.between(least, most));
        let last = self.towards[towards].segments.back().map(|(at, _)| *at);
        let at = Instant::now() + delay;
        last.map_or(at, |last| at.max(last))
    }
}

impl AsyncRead for WireEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let side = self.side;
        let wire = self.wire.clone();
        let mut state = wire.state();
        if state.reset[side] {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        state.towards[side].reader = Some(cx.waker().clone());
        if state.cut {
            return Poll::Pending;
        }
        let due = match (
            state.towards[side].segments.front(),
            state.towards[side].fin,
        ) {
            (Some((at, _)), _) => *at,
            (None, Some(fin)) => fin,
            (None, None) => return Poll::Pending,
        };
        if due > Instant::now() {
            let mut timer = Box::pin(sleep_until(due));
            let waiting = timer.as_mut().poll(cx).is_pending();
            drop(state);
            self.timer = Some(timer);
            if waiting {
                return Poll::Pending;
            }
            state = wire.state();
        }
        let pieces = state.rng.percent(20);
        let way = &mut state.towards[side];
        let Some((_, segment)) = way.segments.front_mut() else {
            return Poll::Ready(Ok(()));
        };
        let most = segment.len().min(buf.remaining());
        let read = if pieces { most.min(1 + most / 3) } else { most };
        buf.put_slice(&segment[..read]);
        segment.drain(..read);
        if segment.is_empty() {
            way.segments.pop_front();
        }
        way.bytes -= read;
        if let Some(writer) = way.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WireEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let theirs = 1 - self.side;
        let mut state = self.wire.state();
        if state.towards[theirs].unread && !state.cut {
            state.reset[self.side] = true;
        }
        if state.reset[self.side] {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let room = state.capacity.saturating_sub(state.towards[theirs].bytes);
        let most = room.min(buf.len());
        if most == 0 && !buf.is_empty() {
            state.towards[theirs].writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let written = match state.rng.percent(80) {
            true => most,
            false => state.rng.between(1, most.max(1) as u64) as usize,
        }
        .min(buf.len());
        let at = state.arrival(theirs);
        let way = &mut state.towards[theirs];
        way.segments.push_back((at, buf[..written].to_vec()));
        way.bytes += written;
        if let Some(reader) = way.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let theirs = 1 - self.side;
        let mut state = self.wire.state();
        let at = state.arrival(theirs);
        state.towards[theirs].fin.get_or_insert(at);
        state.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for WireEnd {
    fn drop(&mut self) {
        let (mine, theirs) = (self.side, 1 - self.side);
        let mut state = self.wire.state();
        let at = state.arrival(theirs);
        state.towards[theirs].fin.get_or_insert(at);
        state.towards[mine].unread = true;
        state.wake();
        drop(state);
        self.open.fetch_sub(1, Relaxed);
    }
}
