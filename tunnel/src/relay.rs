//! Copies between a socket and a stream, in both directions at once.
//!
//! FIN becomes END_STREAM and END_STREAM becomes FIN; a reset on one side
//! becomes a reset on the other. Nothing is read that cannot be passed on, and
//! window is given back only for what the socket took, so that a slow reader
//! slows its own writer and nobody else.

mod down;
mod up;

use crate::budget::{Budget, Traffic};
use crate::chunk::InFlight;
use crate::socket::Socket;
use crate::stream::TunnelStream;
use h2::Reason as Code;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};
use std::task::Poll;
use std::time::Duration;
use sternline_api::Reason;
use tokio::time::{sleep, timeout};

/// What all streams of a session share.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// Pays for bytes that wait in buffers.
    pub budget: Budget,
    /// Counts bytes as they go through.
    pub traffic: Arc<Traffic>,
    /// Ends a stream that is silent in both directions for so long.
    pub idle_timeout: Option<Duration>,
}

/// What became of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// Bytes read from the socket.
    pub from_socket: u64,
    /// Bytes written to the socket.
    pub to_socket: u64,
    /// How it ended.
    pub end: End,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both directions came to their end.
    Clean,
    /// The process at our socket reset its connection.
    SocketReset,
    /// The other side of the tunnel reset the stream, with this HTTP/2 code.
    PeerReset(u32),
    /// The workstation did not reach its target; the cluster side only.
    Refused(Reason),
    /// The tunnel itself is gone.
    TunnelLost,
    /// Silent for too long.
    IdleTimeout,
    /// Its reader is slow and no buffer is left.
    BufferLimit,
}

impl End {
    fn from_h2(error: &h2::Error) -> Self {
        match error.reason() {
            Some(code) if error.is_reset() => Self::PeerReset(code.into()),
            _ => Self::TunnelLost,
        }
    }

    /// How the stream is to be reset for an end that we found.
    fn reset(self) -> Option<Code> {
        match self {
            // Either side's socket: both rows of the table say the same.
            Self::SocketReset => Some(Reason::PodReset),
            Self::IdleTimeout => Some(Reason::IdleTimeout),
            Self::BufferLimit => Some(Reason::BufferLimit),
            // Answered, or given up: what is left of it is of no use.
            Self::Refused(_) => return Some(Code::CANCEL),
            Self::Clean | Self::PeerReset(_) | Self::TunnelLost => None,
        }
        .map(|reason| reason.reset().code().into())
    }
}

/// What the two directions of one stream tell each other and the caller.
#[derive(Debug, Default)]
struct Progress {
    from_socket: AtomicU64,
    to_socket: AtomicU64,
    /// The workstation answered.
    answered: AtomicBool,
    /// END_STREAM was sent.
    up_done: AtomicBool,
}

impl Progress {
    fn moved(&self) -> u64 {
        self.from_socket.load(Relaxed) + self.to_socket.load(Relaxed)
    }
}

/// Resets the socket unless the stream came to a clean end.
struct ResetOnDrop<S: Socket> {
    socket: S,
    armed: bool,
}

impl<S: Socket> Drop for ResetOnDrop<S> {
    fn drop(&mut self) {
        if self.armed {
            self.socket.abort_on_close();
        }
    }
}

/// Copies until both directions ended or one failed. Dropping the future resets
/// both sides, and so does the kernel if the process is killed.
pub async fn relay<S: Socket>(socket: S, stream: TunnelStream, options: &RelayOptions) -> Relayed {
    socket.abort_if_killed(true);
    let mut guard = ResetOnDrop {
        socket,
        armed: true,
    };
    let progress = Progress::default();
    let TunnelStream {
        mut send,
        inbound,
        queue,
        open,
        send_buffer,
        answer_timeout,
    } = stream;
    let in_flight = Arc::new(InFlight::default());
    let end = {
        let socket = &guard.socket;
        let mut up = pin!(up::pump(
            socket,
            &mut send,
            send_buffer,
            &in_flight,
            &progress,
            options
        ));
        let mut down = pin!(down::pump(
            socket,
            inbound,
            (queue, open),
            answer_timeout,
            &progress,
            options
        ));
        let mut failed = pin!(socket.failed());
        let mut idle = pin!(silent(options.idle_timeout, || progress.moved() + in_flight.left()));
        let mut down_done = false;
        let end = poll_fn(|cx| {
            if !down_done {
                match down.as_mut().poll(cx) {
                    Poll::Ready(Ok(())) => down_done = true,
                    Poll::Ready(Err(end)) => return Poll::Ready(end),
                    Poll::Pending => {}
                }
            }
            // `up` ends only by a failure: after END_STREAM it waits for resets.
            if let Poll::Ready(end) = up.as_mut().poll(cx) {
                return Poll::Ready(end);
            }
            if down_done && progress.up_done.load(Relaxed) {
                return Poll::Ready(End::Clean);
            }
            if failed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::SocketReset);
            }
            idle.as_mut().poll(cx).map(|()| End::IdleTimeout)
        })
        .await;
        let early = matches!(end, End::SocketReset | End::PeerReset(_));
        if early && !progress.answered.load(Relaxed) {
            // A reset before the answer would meet HTTP/2's defence against
            // rapid resets: a port scanner in the pod could end the tunnel. And
            // a refusal may be followed so closely by the peer's reset of the
            // rest that the reset is seen first: it is the refusal that counts.
            let answered = poll_fn(|cx| match down.as_mut().poll(cx) {
                Poll::Ready(Err(refused @ End::Refused(_))) => Poll::Ready(Some(refused)),
                Poll::Pending if !progress.answered.load(Relaxed) => Poll::Pending,
                _ => Poll::Ready(None),
            });
            let refused = timeout(answer_timeout, answered).await.ok().flatten();
            refused.filter(|_| end != End::SocketReset).unwrap_or(end)
        } else {
            end
        }
    };
    if let Some(code) = end.reset() {
        send.send_reset(code);
    }
    guard.armed = end != End::Clean;
    if !guard.armed {
        guard.socket.abort_if_killed(false);
    }
    Relayed {
        from_socket: progress.from_socket.load(Relaxed),
        to_socket: progress.to_socket.load(Relaxed),
        end,
    }
}

/// Resolves when nothing moved for `limit`, give or take a quarter. What crawls
/// into the tunnel moves, long after it was read from its socket.
async fn silent(limit: Option<Duration>, moved: impl Fn() -> u64) {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    let (mut seen, mut quiet) = (moved(), 0);
    while quiet < 4 {
        sleep(limit / 4).await;
        let now = moved();
        quiet = if now == seen { quiet + 1 } else { 0 };
        seen = now;
    }
}
