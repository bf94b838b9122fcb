//! PING both ways: notices a peer that vanished without a word.

use crate::TunnelError;
use h2::{Ping, PingPong};
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// PINGs that a peer may miss before it counts as dead.
const MISSED: u32 = 2;

pub(crate) struct Keepalive {
    pings: Option<PingPong>,
    interval: Duration,
    timer: Pin<Box<Sleep>>,
    unanswered: u32,
}

impl Keepalive {
    pub(crate) fn new(pings: Option<PingPong>, interval: Duration) -> Self {
        Self {
            pings,
            interval,
            timer: Box::pin(sleep(interval)),
            unanswered: 0,
        }
    }

    /// Pending while the peer answers.
    pub(crate) fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<TunnelError> {
        let Some(pings) = &mut self.pings else {
            return Poll::Pending;
        };
        // An error is the connection's, which reports it itself.
        if let Poll::Ready(Ok(_)) = pings.poll_pong(cx) {
            self.unanswered = 0;
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            self.timer.as_mut().reset(Instant::now() + self.interval);
            if self.unanswered >= MISSED {
                return Poll::Ready(TunnelError::PeerSilent(self.interval * MISSED));
            }
            if self.unanswered == 0 {
                // Refused only while one is on its way, which then counts.
                let _ = pings.send_ping(Ping::opaque());
            }
            self.unanswered += 1;
        }
        // A PING sent just now must be able to wake us with its answer.
        if let Poll::Ready(Ok(_)) = pings.poll_pong(cx) {
            self.unanswered = 0;
        }
        Poll::Pending
    }
}
