//! A session whose client is away: how long it is waited for.

use super::{Actor, Turn};
use sternline_api::{Failure, Reason};
use tokio::time::Instant;

/// A tunnel that is lost so many PING intervals after its tickets were sent may
/// have taken them with it: later, its end would have been noticed before.
const UNSURE_INTERVALS: u32 = 3;

impl Actor {
    /// Whether a client is on the way that would bring the session to life.
    pub(super) fn is_awaited(&self) -> bool {
        self.arrivals.borrow().leading > 0
    }

    pub(super) fn out_of_time(&mut self) -> Turn {
        // In this order: who was let in before is seen here, and nobody is after.
        self.tickets.take_back();
        if self.is_awaited() {
            return Turn::Go;
        }
        Turn::End(self.gave_up())
    }

    /// The control stream is the session's life line: without it the tunnels
    /// are given up.
    pub(super) async fn control_lost(&mut self) -> Turn {
        self.control = None;
        self.tunnels.close();
        // So long the client tries, if this process goes meanwhile.
        let tries = self.session.hold.max(self.grace().unwrap_or_default());
        let hold = match self.leaving {
            true => tries,
            false => self.session.hold,
        };
        if hold.is_zero() && !self.is_awaited() {
            return Turn::End(self.gave_up());
        }
        tracing::info!(?hold, "tunnel lost, listeners are held");
        self.tickets
            .lost(self.shared.limits.ping_interval * UNSURE_INTERVALS);
        self.deadline = Some(Instant::now() + hold);
        self.show();
        self.keep(Some(tries)).await;
        Turn::Go
    }

    fn gave_up(&self) -> Failure {
        let sandbox = &self.session.sandbox.id;
        if self.attached {
            Failure::new(
                Reason::TunnelLost,
                format!("sandbox {sandbox}: the client's connection was lost"),
            )
        } else {
            Failure::new(
                Reason::TokenExpired,
                format!("sandbox {sandbox}: nobody came to the streaming URL in time"),
            )
        }
    }
}
