//! Coming back to a session whose tunnel was lost.
//!
//! The node holds the listeners for as long as was agreed. Meanwhile the
//! streaming endpoint is dialled again with the latest ticket in place of the
//! token. A ticket works once; the announcement on the new tunnel brings the
//! next. Connections that were open when the tunnel was lost are gone.
//!
//! In a cluster the shim of a node is replaced as a whole, with all that it holds.
//! Whoever wants the listeners held gets them back in a session of their own then, on
//! the ports that they had; meanwhile nobody listens.

use super::live::{Live, establish};
use super::mapping::Mapping;
use super::outside::Outside;
use crate::connect::Way;
use crate::fault::Fault;
use crate::spec::Spec;
use std::sync::Arc;
use std::time::Duration;
use sternline_api::Reason;
use sternline_api::v1alpha1::{Ready, Tickets};
use sternline_tunnel::Settings;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

/// Pause before the second attempt; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Longest restart of a server that is waited for, whatever it says of itself.
const LONGEST_RESTART: Duration = Duration::from_secs(300);

/// What it takes to come back.
#[derive(Debug)]
pub(super) struct Resume {
    way: Way,
    settings: Settings,
    session_id: String,
    /// How long the user wants the listeners to be held: a server may promise
    /// less, and what it promises beyond is not believed.
    wanted: Duration,
    hold: Duration,
    /// How long the listeners outlive a restart of the server, however short the
    /// hold.
    restart: Duration,
    /// Where the latest ticket leads; it is used up by the first answer.
    ticket: Option<Way>,
    /// Whether that is no ticket, but asks for a new session.
    anew: bool,
    hurry: Arc<Notify>,
}

/// A session that is taken up again.
#[derive(Debug)]
pub(super) struct Back {
    pub(super) live: Live,
    /// Whether it is another one than before.
    pub(super) anew: bool,
}

impl Resume {
    pub(super) fn new(way: Way, settings: Settings, ready: &Ready, wanted: Duration) -> Self {
        let mut resume = Self {
            way,
            settings,
            session_id: ready.session_id.clone(),
            wanted,
            hold: Duration::ZERO,
            restart: Duration::ZERO,
            ticket: None,
            anew: false,
            hurry: Arc::default(),
        };
        resume.renew(ready);
        resume
    }

    fn renew(&mut self, ready: &Ready) {
        self.hold = Duration::from_millis(ready.hold_ms).min(self.wanted);
        self.restart = Duration::from_millis(ready.restart_hold_ms).min(LONGEST_RESTART);
        self.keep(&ready.tickets.clone().unwrap_or_default());
    }

    /// Keeps the latest tickets; they replace all before.
    pub(super) fn keep(&mut self, tickets: &Tickets) {
        self.ticket = self.way.with_ticket(&tickets.resume);
    }

    pub(super) fn session_id(&self) -> &str {
        &self.session_id
    }

    /// How long the node holds the listeners when the connection is lost: never
    /// longer than the user asked for.
    pub(super) fn hold(&self) -> Duration {
        self.hold
    }

    /// How long we try to come back: for the hold, or for as long as the listeners
    /// outlive a restart of the server, which looks the same from here.
    pub(super) fn patience(&self) -> Duration {
        self.hold.max(self.restart)
    }

    /// What makes [`Resume::come_back`] try at once, where no call can end the session
    /// and somebody wants to: only who is back can say goodbye.
    pub(super) fn hurry(&self) -> Option<Arc<Notify>> {
        matches!(self.way, Way::Pod(_)).then(|| Arc::clone(&self.hurry))
    }

    /// Whether an end that the server gave is none for us: its node's shim goes away, and
    /// another takes its place.
    pub(super) fn outlives(&self, fault: &Fault) -> bool {
        fault.reason == Some(Reason::Draining) && self.has_successor() && self.is_possible()
    }

    /// Whether a session that its node lost is replaced by a new one.
    fn has_successor(&self) -> bool {
        matches!(self.way, Way::Pod(_)) && !self.hold.is_zero()
    }

    /// From here on the same listeners are asked for anew, unless they are already, or
    /// are not to be held.
    fn start_over(&mut self, specs: &[Spec], mapping: &Mapping) -> bool {
        let Way::Pod(way) = &self.way else {
            return false;
        };
        if self.anew || !self.has_successor() {
            return false;
        }
        self.ticket = Some(Way::Pod(way.anew(mapping.listens(specs))));
        self.anew = true;
        true
    }

    /// Whether there is a way back.
    pub(super) fn is_possible(&self) -> bool {
        self.ticket.is_some() && !self.patience().is_zero()
    }

    /// Tries until the tunnel is back or there is no more sense in it. What is announced
    /// must be what was announced at first.
    pub(super) async fn come_back(
        &mut self,
        outside: &dyn Outside,
        specs: &[Spec],
        mapping: &Mapping,
        limit: Duration,
    ) -> Result<Back, Fault> {
        let deadline = Instant::now() + self.patience();
        let mut pause = FIRST_PAUSE;
        let mut last = String::from("it was not reached");
        loop {
            let Some(way) = self.ticket.clone() else {
                return Err(given_up(&last));
            };
            match timeout_at(deadline, establish(outside, &way, &self.settings, limit)).await {
                Ok(Ok((live, ready))) => {
                    let same = (self.anew || ready.session_id == self.session_id)
                        && Mapping::check(specs, &ready.bound)? == *mapping;
                    if !same {
                        return Err(Fault::protocol(
                            "the server came back with other listeners than before: the forward is given up",
                        ));
                    }
                    self.session_id.clone_from(&ready.session_id);
                    self.renew(&ready);
                    let anew = std::mem::take(&mut self.anew);
                    return Ok(Back { live, anew });
                }
                Ok(Err(fault))
                    if fault.reason == Some(Reason::TokenUnknown)
                        && self.start_over(specs, mapping) =>
                {
                    tracing::info!(
                        "the node does not know the session any more: asking for another"
                    );
                    continue;
                }
                // What the shim before had is free once it is gone for good.
                Ok(Err(fault)) if self.anew && fault.reason == Some(Reason::PortInUse) => {
                    last = fault.message;
                }
                Ok(Err(fault)) if is_final(&fault) => return Err(fault),
                Ok(Err(fault)) => {
                    tracing::info!(%fault, "not back yet");
                    last = fault.message;
                }
                Err(_) => return Err(given_up(&last)),
            }
            if Instant::now() + pause >= deadline {
                return Err(given_up(&last));
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.hurry.notified() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Whether trying again cannot help.
fn is_final(fault: &Fault) -> bool {
    !matches!(
        fault.reason,
        None | Some(
            Reason::TunnelLost
                | Reason::Internal
                | Reason::Draining
                | Reason::NodeUnavailable
                | Reason::ClusterUnavailable
                | Reason::SessionLimit
                | Reason::TokenLimit
                | Reason::TunnelLimit
        )
    )
}

fn given_up(last: &str) -> Fault {
    Fault::because(
        Reason::TunnelLost,
        format!("the connection did not come back while the listeners were held: {last}"),
    )
}
