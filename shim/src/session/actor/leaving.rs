//! A session whose node goes away: it ends, or is left to the next serve.

use super::end::CANCELLED;
use super::{Actor, Turn};
use crate::drain;
use crate::session::Record;
use std::time::{Duration, SystemTime};
use sternline_api::v1alpha1::control_message::Event;
use sternline_api::{Failure, Reason};
use tokio::time::timeout;

impl Actor {
    /// Takes no more connections, says so, and ends once none is open, unless it
    /// stays to be left.
    pub(super) fn drain(&mut self, within: Duration, stay: bool) {
        self.forwarder.draining.cancel();
        let streams = self.forwarder.streams.len();
        self.forwarder.streams.close();
        self.leaving = stay && self.grace().is_some();
        tracing::debug!(streams, leaving = self.leaving, "draining");
        let notice = match (self.leaving, streams) {
            (false, _) => drain::notice(&self.session, streams, within),
            (true, 0) => return,
            (true, _) => drain::notice_of_leaving(&self.session, within),
        };
        self.tell(Event::Draining(notice));
    }

    /// The last connection of a session that drains is over.
    pub(super) fn drained(&self) -> Turn {
        if !self.leaving {
            return Turn::End(drain::end_of(&self.session));
        }
        self.session.settled.cancel();
        Turn::Go
    }

    /// How long the next serve may take to go on with this session; none if it
    /// cannot.
    pub(super) fn grace(&self) -> Option<Duration> {
        self.deposit.as_ref().and_then(|deposit| deposit.grace())
    }

    /// Has the binder keep the session as it is now: its client is there, or may
    /// come back within `hold`.
    pub(super) async fn keep(&self, hold: Option<Duration>) {
        let tickets = self.tickets.verifiers();
        if let (Some(deposit), Some((pass, previous))) = (&self.deposit, tickets) {
            let held_until = hold.map(|hold| SystemTime::now() + hold);
            let record = Record::of(&self.session, pass, previous, held_until);
            deposit.renew(record.encode()).await;
        }
    }

    /// Gives everything up but what the binder keeps, without a word: the client
    /// comes back to the next serve as after any loss.
    pub(super) async fn leave(mut self) {
        // First: whatever cuts this short, the session is left and not ended.
        if let Some(deposit) = &self.deposit {
            deposit.leave();
        }
        self.close_everything().await;
        self.tell_rejections();
        self.control = None;
        self.tunnels.close();
        self.drivers.shutdown().await;
        self.control_tasks.close();
        let _ = timeout(CANCELLED, self.control_tasks.wait()).await;
        self.over(&Failure::new(
            Reason::Draining,
            "left to the server after this one, which goes on with the session",
        ));
    }
}
