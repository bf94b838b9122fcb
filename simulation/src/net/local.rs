//! Connections inside one host: those of the pod, and those to targets. They
//! behave as TCP on loopback does: a bounded buffer each way, half-closes, resets.

use crate::rng::Rng;
use bytes::{BufMut as _, BytesMut, buf::Limit};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use sternline_tunnel::Socket;
use tokio::sync::Notify;

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    data: VecDeque<u8>,
    /// Its writer said that nothing follows.
    fin: bool,
    /// Its reader closed: what is written now is answered with a reset.
    unread: bool,
}

#[derive(Debug)]
struct State {
    /// Towards each side.
    towards: [Flow; 2],
    capacity: usize,
    reset: bool,
    rng: Rng,
}

#[derive(Debug)]
struct Connection {
    state: Mutex<State>,
    changed: Notify,
    open: Arc<AtomicUsize>,
}

/// One end of a connection. Dropping it closes it.
#[derive(Debug)]
pub struct End {
    side: usize,
    connection: Arc<Connection>,
    abort: AtomicBool,
}

/// A connection: both its ends. `open` counts ends that are not closed.
#[must_use]
pub fn pair(rng: &mut Rng, open: &Arc<AtomicUsize>) -> (End, End) {
    let capacity = rng.pick(&[64, 1_000, 20_000, 200_000]);
    let connection = Arc::new(Connection {
        state: Mutex::new(State {
            towards: [Flow::default(), Flow::default()],
            capacity,
            reset: false,
            rng: rng.fork(),
        }),
        changed: Notify::new(),
        open: Arc::clone(open),
    });
    open.fetch_add(2, Relaxed);
    let end = |side| End {
        side,
        connection: Arc::clone(&connection),
        abort: AtomicBool::new(false),
    };
    (end(0), end(1))
}

impl End {
    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.connection.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something holds.
    async fn until(&self, mut holds: impl FnMut(&State) -> bool) {
        loop {
            let changed = self.connection.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if holds(&self.state()) {
                return;
            }
            changed.await;
        }
    }

    fn can_read(&self, state: &State) -> bool {
        let mine = &state.towards[self.side];
        state.reset || mine.fin || !mine.data.is_empty()
    }

    fn can_write(&self, state: &State) -> bool {
        let theirs = &state.towards[1 - self.side];
        state.reset || theirs.unread || theirs.data.len() < state.capacity
    }

    /// Reads up to `most` bytes; none is the end.
    ///
    /// # Errors
    /// The connection was reset.
    pub async fn read(&self, most: usize) -> io::Result<Vec<u8>> {
        loop {
            self.until(|state| self.can_read(state)).await;
            let mut buffer = BytesMut::new();
            match self.try_read(&mut (&mut buffer).limit(most)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(buffer.to_vec()),
            }
        }
    }

    /// Writes some of `data`; how much.
    ///
    /// # Errors
    /// The connection was reset, or its other end closed.
    pub async fn write(&self, data: &[u8]) -> io::Result<usize> {
        loop {
            self.until(|state| self.can_write(state)).await;
            match self.try_write(&[IoSlice::new(data)]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }
}

impl Socket for End {
    async fn readable(&self) -> io::Result<()> {
        self.until(|state| self.can_read(state)).await;
        Ok(())
    }

    async fn writable(&self) -> io::Result<()> {
        self.until(|state| self.can_write(state)).await;
        Ok(())
    }

    async fn failed(&self) -> io::Error {
        self.until(|state| state.reset).await;
        io::ErrorKind::ConnectionReset.into()
    }

    fn try_read(&self, buffer: &mut Limit<&mut BytesMut>) -> io::Result<usize> {
        let mut state = self.state();
        if state.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let there = state.towards[self.side].data.len();
        if there == 0 {
            return match state.towards[self.side].fin {
                true => Ok(0),
                false => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        let most = there.min(buffer.remaining_mut());
        // Often less than there is, as from a kernel.
        let read = match state.rng.percent(70) {
            true => most,
            false => state.rng.between(1, most as u64) as usize,
        };
        let (front, back) = state.towards[self.side].data.as_slices();
        let split = read.min(front.len());
        buffer.put_slice(&front[..split]);
        buffer.put_slice(&back[..read - split]);
        state.towards[self.side].data.drain(..read);
        drop(state);
        self.connection.changed.notify_waiters();
        Ok(read)
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.state();
        let theirs = 1 - self.side;
        if state.towards[theirs].unread {
            state.reset = true;
        }
        if state.reset {
            drop(state);
            self.connection.changed.notify_waiters();
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let room = state
            .capacity
            .saturating_sub(state.towards[theirs].data.len());
        let most = offered.min(room);
        if most == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let written = match state.rng.percent(70) {
            true => most,
            false => state.rng.between(1, most as u64) as usize,
        };
        let mut left = written;
        for slice in slices {
            let taken = left.min(slice.len());
            state.towards[theirs].data.extend(&slice[..taken]);
            left -= taken;
        }
        drop(state);
        self.connection.changed.notify_waiters();
        Ok(written)
    }

    fn shutdown_write(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.reset {
            return Err(io::ErrorKind::NotConnected.into());
        }
        state.towards[1 - self.side].fin = true;
        drop(state);
        self.connection.changed.notify_waiters();
        Ok(())
    }

    fn abort_on_close(&self) {
        self.abort.store(true, Relaxed);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut state = self.state();
        let unread = !state.towards[self.side].data.is_empty();
        if self.abort.load(Relaxed) || unread {
            state.reset = true;
        }
        state.towards[1 - self.side].fin = true;
        state.towards[self.side].unread = true;
        drop(state);
        self.connection.open.fetch_sub(1, Relaxed);
        self.connection.changed.notify_waiters();
    }
}
