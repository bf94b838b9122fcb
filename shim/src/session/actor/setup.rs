//! Tunnels: setting them up, and what happens when one ends.

use super::{Actor, Driven, Turn};
use crate::cache::Pass;
use crate::limits::millis;
use crate::session::control;
use crate::session::{Admission, TunnelIo, TunnelKind};
use std::sync::Arc;
use sternline_api::Reason;
use sternline_api::v1alpha1::{self as pb, control_message::Event};
use sternline_tunnel::{ControlStream, Dialer, Driver, TunnelError};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// A tunnel that may carry streams.
pub(super) struct Ready {
    id: u64,
    kind: TunnelKind,
    dialer: Dialer,
    /// Its control stream, unless it joined others.
    control: Option<ControlStream>,
}

impl Actor {
    /// Starts a tunnel over `io`; the rest happens in [`Actor::tunnel_ready`].
    pub(super) fn attach(&mut self, io: Box<dyn TunnelIo>, kind: TunnelKind) {
        let id = self.next_tunnel;
        self.next_tunnel += 1;
        tracing::debug!(tunnel = id, ?kind, "client upgraded, starting HTTP/2");
        if kind != TunnelKind::Join {
            // The token is spent; setting up has a bound of its own.
            self.attached = true;
            self.deadline = None;
        }
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
        // Aborted if the set-up fails, so that no half-made tunnel lingers.
        let guard = AbortOnDrop(Some(driver.clone()));
        self.handles.insert(id, driver);
        self.setups.spawn(async move {
            let dialer: Dialer = dialer_in.await.map_err(|_| TunnelError::Closed)?;
            let control = match kind {
                TunnelKind::Join => None,
                TunnelKind::First | TunnelKind::Resume => Some(dialer.control().await?),
            };
            guard.keep();
            Ok(Ready {
                id,
                kind,
                dialer,
                control,
            })
        });
    }

    /// A tunnel is up, or could not be set up.
    pub(super) fn tunnel_ready(&mut self, ready: Option<Result<Ready, TunnelError>>) -> Turn {
        let ready = match ready {
            Some(Ok(ready)) => ready,
            Some(Err(error)) => {
                tracing::info!(%error, "a client did not set up its tunnel");
                return if self.control.is_some() {
                    Turn::Go
                } else {
                    self.lost()
                };
            }
            None => return Turn::Go,
        };
        if ready.kind == TunnelKind::Join && self.control.is_none() {
            // Its session was lost meanwhile; only a resume brings it back.
            return Turn::Go;
        }
        if ready.kind == TunnelKind::Resume {
            // A valid ticket supersedes what the node still believes alive.
            if let Some(old) = self.control.take() {
                let _ = old.outbox.try_send(Event::Ending(pb::Ending {
                    code: Reason::Superseded.label().to_owned(),
                    message: "the client came back over another connection".to_owned(),
                }));
            }
            self.tunnels.close();
        }
        let Some(driver) = self.handles.get(&ready.id).cloned() else {
            return Turn::Go;
        };
        self.tunnels.add(ready.id, ready.dialer, driver);
        if let Some(stream) = ready.control {
            self.control = Some(control::run(stream, &self.control_tasks));
            self.deadline = None;
            let tickets = self.renew_tickets();
            let event = self.ready_event(tickets);
            self.tell(event);
        } else {
            let tickets = self.renew_tickets();
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
        self.handles.remove(&id);
        if let Err(error) = &result {
            tracing::debug!(tunnel = id, %error, "tunnel lost");
        }
        if !self.tunnels.remove(id) {
            return Turn::Go;
        }
        // If it carried the control stream, that ends now too, after the last
        // words on it: a goodbye must not be taken for a loss.
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
        })
    }

    /// Takes back what was handed out and hands out anew.
    fn renew_tickets(&mut self) -> pb::Tickets {
        self.take_tickets_back();
        let room = self.tunnels.len() < self.shared.limits.tunnels_per_session as usize;
        let mut ticket = |kind| {
            let Ok(pass) = Pass::generate() else {
                // No ticket is better than a weak one.
                return String::new();
            };
            let admission = Admission {
                session: Arc::clone(&self.session),
                kind,
            };
            self.shared.passes.insert_ticket(&pass, admission);
            self.tickets.push(pass.clone());
            pass.secret().to_owned()
        };
        pb::Tickets {
            join: if room {
                ticket(TunnelKind::Join)
            } else {
                String::new()
            },
            resume: ticket(TunnelKind::Resume),
        }
    }

    pub(super) fn take_tickets_back(&mut self) {
        for pass in self.tickets.drain(..) {
            self.shared.passes.remove(&pass);
        }
    }
}

/// Ends a driver whose tunnel was not set up.
struct AbortOnDrop(Option<AbortHandle>);

impl AbortOnDrop {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(driver) = &self.0 {
            driver.abort();
        }
    }
}
