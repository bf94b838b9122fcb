//! Tunnels: setting them up, and what happens when one ends.

use super::end::supersede;
use super::{Actor, Driven, Turn};
use crate::limits::millis;
use crate::metrics;
use crate::session::control;
use crate::session::{Arrival, TunnelIo, TunnelKind};
use std::time::Duration;
use sternline_api::v1alpha1::{self as pb, control_message::Event};
use sternline_api::{Failure, Reason};
use sternline_tunnel::{ControlStream, Dialer, Driver, TunnelError};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// How long a client may take from its Upgrade to its control stream. A longer
/// time to dial does not lengthen it: nothing is dialled here.
const SETUP_TIMEOUT: Duration = Duration::from_secs(15);

/// A tunnel that may carry streams.
pub(super) struct Ready {
    id: u64,
    dialer: Dialer,
    /// Its control stream, unless it joined others.
    control: Option<ControlStream>,
    driver: AbortOnDrop,
}

/// How the set-up of a tunnel went, and for whom. While the arrival lasts the
/// session does not give up.
pub(super) type SetUp = (Arrival, Result<Ready, TunnelError>);

impl Actor {
    /// Starts a tunnel over `io`; the rest happens in [`Actor::tunnel_ready`].
    pub(super) fn attach(&mut self, io: Box<dyn TunnelIo>, arrival: Arrival) {
        let id = self.next_tunnel;
        self.next_tunnel += 1;
        let kind = arrival.kind();
        tracing::debug!(tunnel = id, ?kind, "client upgraded, starting HTTP/2");
        let settings = self.shared.limits.tunnel();
        let (dialer_out, dialer_in) = oneshot::channel();
        let driver = self.drivers.spawn(async move {
            let driven = async {
                let (dialer, driver): (_, Driver<_>) = Dialer::handshake(io, &settings).await?;
                let _ = dialer_out.send(dialer);
                driver.await
            };
            (id, driven.await)
        });
        let driver = AbortOnDrop(Some(driver));
        self.setups.spawn(async move {
            let set_up = async {
                let dialer: Dialer = dialer_in.await.map_err(|_| TunnelError::Closed)?;
                let control = match kind {
                    TunnelKind::Join => None,
                    TunnelKind::First | TunnelKind::Resume => Some(dialer.control().await?),
                };
                Ok(Ready {
                    id,
                    dialer,
                    control,
                    driver,
                })
            };
            let set_up = timeout(SETUP_TIMEOUT, set_up).await;
            let slow = TunnelError::Slow {
                what: "start HTTP/2",
                within: SETUP_TIMEOUT,
            };
            (arrival, set_up.unwrap_or(Err(slow)))
        });
    }

    /// A tunnel is up, or could not be set up.
    pub(super) async fn tunnel_ready(&mut self, set_up: Option<SetUp>) -> Turn {
        // `None`: cut off, which happens only at the end.
        let Some((arrival, ready)) = set_up else {
            return Turn::Go;
        };
        // Its end may have been heard of before this.
        let ready = ready.and_then(|ready| match ready.driver.is_finished() {
            true => Err(TunnelError::Closed),
            false => Ok(ready),
        });
        match ready {
            Ok(ready) => self.tunnel_up(ready, &arrival).await,
            Err(error) => self.not_set_up(&arrival, &error),
        }
    }

    fn not_set_up(&self, arrival: &Arrival, error: &TunnelError) -> Turn {
        tracing::info!(kind = ?arrival.kind(), %error, "a client did not set up its tunnel");
        if arrival.kind() != TunnelKind::First {
            // Its ticket is not used up: it may try again.
            return Turn::Go;
        }
        // Nobody has a ticket, so nobody can come any more.
        let reason = if error.is_protocol() {
            Reason::ProtocolError
        } else {
            Reason::TunnelLost
        };
        let sandbox = &self.session.sandbox.id;
        Turn::End(Failure::new(
            reason,
            format!(
                "sandbox {sandbox}: the client did not set up its tunnel ({error}): ask for a new session"
            ),
        ))
    }

    async fn tunnel_up(&mut self, ready: Ready, arrival: &Arrival) -> Turn {
        let kind = arrival.kind();
        if !self.tickets.admit(arrival) {
            tracing::debug!(?kind, "another tunnel came of this ticket first");
            return Turn::Go;
        }
        let most = self.shared.limits.tunnels_per_session as usize;
        if kind == TunnelKind::Join {
            if self.control.is_none() {
                // The session was lost meanwhile; only a resume brings it back.
                return Turn::Go;
            }
            if self.tunnels.len() >= most {
                metrics::failed(Reason::TunnelLimit);
                return Turn::Go;
            }
        } else {
            // A valid ticket supersedes what the node still believes alive.
            let (control, drivers) = (self.control.take(), self.tunnels.take());
            if control.is_some() || !drivers.is_empty() {
                self.control_tasks.spawn(supersede(control, drivers));
            }
        }
        self.tunnels
            .add(ready.id, ready.dialer, ready.driver.keep());
        let tickets = self.tickets.renew(kind, self.tunnels.len() < most);
        // Before the client has them: a serve that is killed in between must not
        // leave it with a ticket that its successor does not know.
        self.keep(None).await;
        if let Some(stream) = ready.control {
            self.control = Some(control::run(ready.id, stream, &self.control_tasks));
            self.attached = true;
            self.deadline = None;
            let event = self.ready_event(tickets);
            self.tell(event);
        } else {
            self.tell(Event::Tickets(tickets));
        }
        tracing::debug!(tunnel = ready.id, tunnels = self.tunnels.len(), "tunnel up");
        self.show();
        Turn::Go
    }

    /// A tunnel's driver ended.
    pub(super) fn tunnel_ended(&mut self, driven: Option<Driven>) -> Turn {
        // `None`: aborted by us, and forgotten already.
        let Some((id, result)) = driven else {
            return Turn::Go;
        };
        if let Err(error) = &result {
            tracing::debug!(tunnel = id, %error, "tunnel lost");
        }
        if !self.tunnels.remove(id) {
            return Turn::Go;
        }
        // If it carried the control stream, that ends now too, after the last
        // words on it: a goodbye must not be taken for a loss.
        if self.control.as_ref().is_some_and(|c| c.tunnel != id)
            && let Some(tickets) = self.tickets.offer_join()
        {
            self.tell(Event::Tickets(tickets));
        }
        self.show();
        Turn::Go
    }

    /// The first message of every control stream.
    fn ready_event(&self, tickets: pb::Tickets) -> Event {
        Event::Ready(pb::Ready {
            session_id: self.session.id.clone(),
            bound: self.listeners.bound(),
            limits: Some(self.shared.limits.to_proto()),
            hold_ms: millis(self.session.hold),
            tickets: Some(tickets),
            restart_hold_ms: self.grace().map_or(0, millis),
        })
    }
}

/// Ends a driver whose tunnel was not set up.
struct AbortOnDrop(Option<AbortHandle>);

impl AbortOnDrop {
    fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(AbortHandle::is_finished)
    }

    fn keep(mut self) -> Option<AbortHandle> {
        self.0.take()
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(driver) = &self.0 {
            driver.abort();
        }
    }
}
