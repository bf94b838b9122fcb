//! How a session gives everything back.

use super::Actor;
use crate::audit::SessionEnd;
use crate::metrics;
use crate::session::control::Control;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use sternline_api::v1alpha1::{self as pb, control_message::Event};
use sternline_api::{Failure, Reason};
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// How long the client has to take the reason in and close.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// How long tasks have that were cancelled; they have nothing left to wait for.
pub(super) const CANCELLED: Duration = Duration::from_secs(5);

impl Actor {
    /// Frees the listeners, resets the connections, tells the client why, and
    /// closes the tunnels: in this order, each step bounded.
    pub(super) async fn end(mut self, reason: Failure) {
        self.close_everything().await;
        if let Some(deposit) = &self.deposit {
            // What the binder has of it keeps the addresses taken.
            deposit.close().await;
        }
        if self.goodbye {
            // Its last word was heard, and it waits for us to close.
            self.control = None;
        } else {
            self.tell_rejections();
            self.tell(ending(&reason));
        }
        self.say_farewell().await;
        self.over(&reason);
    }

    /// Tells everybody but the client.
    pub(super) fn over(&self, reason: &Failure) {
        let (counts, traffic) = (&self.session.counts, &self.session.traffic);
        metrics::session_ended(reason.reason);
        self.session.audit.ended(SessionEnd {
            connections: counts.connections_total.load(Relaxed),
            rejected: counts.rejected_total.load(Relaxed),
            bytes_from_pod: traffic.from_socket(),
            bytes_to_pod: traffic.to_socket(),
            ..SessionEnd::new(reason.reason.label(), &reason.message)
        });
        tracing::info!(
            reason = %reason.reason,
            message = %reason.message,
            connections = counts.connections_total.load(Relaxed),
            rejected = counts.rejected_total.load(Relaxed),
            from_pod = traffic.from_socket(),
            to_pod = traffic.to_socket(),
            "session ended"
        );
    }

    /// Closes the listeners and resets the connections.
    pub(super) async fn close_everything(&mut self) {
        self.tickets.take_back();
        // Waited for: what was bound a moment ago is free when this returns.
        self.setups.shutdown().await;
        // The visit to the namespace cannot be cut short, only what it bound
        // dropped.
        let bound = async { while self.changes.join_next().await.is_some() {} };
        let _ = timeout(CANCELLED, bound).await;
        self.changes.shutdown().await;
        self.forwarder.ended.cancel();
        self.forwarder.tasks.close();
        if timeout(CANCELLED, self.forwarder.tasks.wait())
            .await
            .is_err()
        {
            tracing::error!("connections did not end when they were told to");
        }
    }

    /// Flushes the control stream and lets the tunnels close by themselves.
    async fn say_farewell(&mut self) {
        // Without its sender the control stream flushes and ends; its receiver
        // stays until the client closed, so that nothing is cut short.
        let inbox = self.control.take().map(|control| control.inbox);
        self.tunnels.release();
        let closed = async { while self.drivers.join_next().await.is_some() {} };
        let _ = timeout(FAREWELL, closed).await;
        drop(inbox);
        self.drivers.shutdown().await;
        self.control_tasks.close();
        let _ = timeout(CANCELLED, self.control_tasks.wait()).await;
    }
}

/// The last event of a control stream.
fn ending(reason: &Failure) -> Event {
    Event::Ending(pb::Ending {
        code: reason.reason.label().to_owned(),
        message: reason.message.clone(),
    })
}

/// Tells a client that it was superseded, gives it until [`FAREWELL`] to close,
/// and closes its tunnels. It may well be gone for long.
pub(super) async fn supersede(control: Option<Control>, drivers: Vec<AbortHandle>) {
    if let Some(Control {
        outbox, mut inbox, ..
    }) = control
    {
        let superseded = Failure::new(
            Reason::Superseded,
            "the client came back over another connection",
        );
        let _ = outbox.try_send(ending(&superseded));
        drop(outbox);
        let closed = async { while inbox.recv().await.is_some() {} };
        let _ = timeout(FAREWELL, closed).await;
    }
    for driver in drivers {
        driver.abort();
    }
}
