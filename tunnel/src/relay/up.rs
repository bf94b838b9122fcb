//! From the socket into the stream.

use super::{End, Progress, RelayOptions};
use crate::chunk::{Chunk, InFlight};
use crate::settings::MAX_CHUNK;
use crate::socket::Socket;
use bytes::{BufMut as _, BytesMut};
use h2::SendStream;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::{Arc, atomic::Ordering::Relaxed};
use std::task::Poll;

/// The first read. Most connections start with a short request; a read that
/// comes back full makes the next one larger.
const FIRST_READ: usize = 2 * 1024;

/// Copies until the end, passes the end on, and then waits for a reset, which
/// after END_STREAM shows nowhere else. Returns only when something failed.
pub(super) async fn pump<S: Socket>(
    socket: &S,
    send: &mut SendStream<Chunk>,
    send_buffer: usize,
    in_flight: &Arc<InFlight>,
    progress: &Progress,
    options: &RelayOptions,
) -> End {
    match copy(socket, send, send_buffer, in_flight, progress, options).await {
        Ok(()) => {
            progress.up_done.store(true, Relaxed);
            or_reset(send, std::future::pending())
                .await
                .unwrap_or_else(|end| end)
        }
        Err(end) => end,
    }
}

async fn copy<S: Socket>(
    socket: &S,
    send: &mut SendStream<Chunk>,
    send_buffer: usize,
    in_flight: &Arc<InFlight>,
    progress: &Progress,
    options: &RelayOptions,
) -> Result<(), End> {
    let mut size = FIRST_READ;
    loop {
        // Nothing is allocated, reserved or charged before there is something
        // to read: an idle stream costs no buffer, and window reserved for
        // nothing would starve the others.
        or_reset(send, socket.readable())
            .await?
            .map_err(|_| End::SocketReset)?;
        let room = or_reset(send, poll_fn(|cx| in_flight.poll_room(send_buffer, cx))).await?;
        let want = capacity(send, size.min(room)).await?.min(size).min(room);
        let (mut charge, want) = match options.budget.try_charge(want) {
            Some(charge) => (charge, want),
            None => {
                // With little left a small read goes on where a large one would
                // wait for as long as others hoard.
                let least = want.min(FIRST_READ);
                (or_reset(send, options.budget.charge(least)).await?, least)
            }
        };
        let mut buffer = BytesMut::with_capacity(want);
        match socket.try_read(&mut (&mut buffer).limit(want)) {
            Ok(0) => {
                send.reserve_capacity(0);
                return pass_on(send, Chunk::end(), true).await;
            }
            Ok(read) => {
                charge.shrink(read);
                progress.from_socket.fetch_add(read as u64, Relaxed);
                options.traffic.add_from_socket(read);
                let chunk = Chunk::new(buffer.freeze(), in_flight, Some(charge));
                pass_on(send, chunk, false).await?;
                if read < want {
                    send.reserve_capacity(0);
                }
                size = next_size(size, read);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => send.reserve_capacity(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(End::SocketReset),
        }
        tokio::task::consume_budget().await;
    }
}

/// Queues a chunk. What the stream itself says of a failure is only that it is
/// closed: why, a reset knows.
async fn pass_on(send: &mut SendStream<Chunk>, chunk: Chunk, last: bool) -> Result<(), End> {
    match send.send_data(chunk, last) {
        Ok(()) => Ok(()),
        Err(_) => Err(reset_of(send).await),
    }
}

/// Four times as much after a full read, half as much after a small one.
fn next_size(size: usize, read: usize) -> usize {
    if read == size {
        (size * 4).min(MAX_CHUNK)
    } else if read < size / 4 {
        (size / 2).max(FIRST_READ)
    } else {
        size
    }
}

/// Waits for window for up to `want` bytes.
async fn capacity(send: &mut SendStream<Chunk>, want: usize) -> Result<usize, End> {
    send.reserve_capacity(want);
    match send.capacity() {
        0 => match poll_fn(|cx| send.poll_capacity(cx)).await {
            Some(Ok(granted)) => Ok(granted),
            Some(Err(error)) => Err(End::from_h2(&error)),
            // The stream is closed for sending, and we did not close it.
            None => Err(reset_of(send).await),
        },
        granted => Ok(granted),
    }
}

/// Runs `wait`, unless the stream is reset first.
async fn or_reset<F: Future>(send: &mut SendStream<Chunk>, wait: F) -> Result<F::Output, End> {
    let mut wait = pin!(wait);
    poll_fn(|cx| {
        if let Poll::Ready(output) = wait.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        match send.poll_reset(cx) {
            Poll::Ready(Ok(code)) => Poll::Ready(Err(End::PeerReset(code.into()))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(End::from_h2(&error))),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn reset_of(send: &mut SendStream<Chunk>) -> End {
    poll_fn(|cx| match send.poll_reset(cx) {
        Poll::Ready(Ok(code)) => Poll::Ready(End::PeerReset(code.into())),
        Poll::Ready(Err(error)) => Poll::Ready(End::from_h2(&error)),
        Poll::Pending => Poll::Ready(End::TunnelLost),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_grow_with_the_flow_and_shrink_with_it() {
        let mut size = FIRST_READ;
        for _ in 0..5 {
            size = next_size(size, size);
        }
        assert_eq!(size, MAX_CHUNK);
        for _ in 0..10 {
            size = next_size(size, 1);
        }
        assert_eq!(size, FIRST_READ);
    }
}
