//! One forwarded connection: dialled, answered, copied, told.

use super::control::ControlQueue;
use super::dial::Reached;
use super::mapping::{Mapping, Route};
use super::outside::Outside;
use super::silence;
use crate::report::{Closed, Connection, Event, Rejected, Reporter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use sternline_api::reason::Reset;
use sternline_api::v1alpha1::{TargetState, control_message};
use sternline_api::{Failure, Reason};
use sternline_tunnel::budget::{ProcessBudget, Traffic};
use sternline_tunnel::{End, IncomingStream, RelayOptions, Settings, relay};

/// What all connections of a command share, tunnel after tunnel.
#[derive(Debug)]
pub(super) struct Connections {
    reporter: Arc<dyn Reporter>,
    totals: Arc<Totals>,
    outside: Arc<dyn Outside>,
}

/// Counts of a whole command.
#[derive(Debug, Default)]
pub(super) struct Totals {
    connections: AtomicU64,
    traffic: Arc<Traffic>,
}

impl Totals {
    /// Connections, bytes that the pod sent, bytes that it received.
    pub(super) fn get(&self) -> (u64, u64, u64) {
        (
            self.connections.load(Relaxed),
            self.traffic.to_socket(),
            self.traffic.from_socket(),
        )
    }
}

impl Connections {
    pub(super) fn new(
        reporter: Arc<dyn Reporter>,
        totals: Arc<Totals>,
        outside: Arc<dyn Outside>,
    ) -> Self {
        Self {
            reporter,
            totals,
            outside,
        }
    }

    pub(super) fn reporter(&self) -> &dyn Reporter {
        &*self.reporter
    }

    /// What the connections of one tunnel share.
    pub(super) fn of_tunnel(
        self: &Arc<Self>,
        mapping: &Mapping,
        settings: &Settings,
        control: ControlQueue,
    ) -> Arc<Shared> {
        // A process budget lets the first comer have one half of it: twice the
        // session's bytes make that half the session's.
        let budget = ProcessBudget::new(settings.buffer_bytes.saturating_mul(2)).session();
        Arc::new(Shared {
            connections: Arc::clone(self),
            mapping: mapping.clone(),
            dial_timeout: settings.dial_timeout,
            options: RelayOptions {
                budget,
                traffic: Arc::clone(&self.totals.traffic),
                idle_timeout: settings.idle_timeout,
            },
            control,
            down: (0..mapping.len()).map(|_| AtomicBool::new(false)).collect(),
        })
    }
}

/// What the connections of one tunnel share.
#[derive(Debug)]
pub(super) struct Shared {
    connections: Arc<Connections>,
    mapping: Mapping,
    dial_timeout: Duration,
    options: RelayOptions,
    control: ControlQueue,
    /// For each listener, whether its target was found down.
    down: Vec<AtomicBool>,
}

impl Shared {
    /// Leads one connection to its target and stays with it until its end.
    pub(super) async fn handle(self: Arc<Self>, incoming: IncomingStream) {
        let number = self.connections.totals.connections.fetch_add(1, Relaxed) + 1;
        match self.mapping.route(incoming.listener_id()) {
            Some(route) => self.lead(number, route, incoming).await,
            None => self.refuse(number, incoming),
        }
    }

    /// A listener that nobody asked for leads nowhere.
    fn refuse(&self, number: u64, incoming: IncomingStream) {
        let listener_id = incoming.listener_id();
        let named =
            listener_id.map_or_else(|| "no listener".to_owned(), |id| format!("listener {id}"));
        incoming.reject(Reason::UnknownListener, "not a listener of this client");
        self.report(&Event::Rejected(Rejected {
            connection: Some(number),
            listener_id,
            port: None,
            reason: Reason::UnknownListener.label().to_owned(),
            count: 1,
            message: format!(
                "the server opened a connection for {named}, which you did not ask for: it was refused"
            ),
        }));
    }

    async fn lead(&self, number: u64, route: &Route, mut incoming: IncomingStream) {
        let arrived = Instant::now();
        self.report(&Event::Connection(Connection {
            connection: number,
            listener_id: route.listener_id,
            port: route.port,
            peer: incoming.peer(),
            target: route.target.to_string(),
        }));
        let outside = &self.connections.outside;
        let dialled = incoming
            .buffer_while(outside.dial(&route.target, self.dial_timeout))
            .await;
        let closed = |bytes_from_pod, bytes_to_pod, end| {
            self.report(&Event::Closed(Closed {
                connection: number,
                listener_id: route.listener_id,
                port: route.port,
                bytes_from_pod,
                bytes_to_pod,
                duration_ms: super::millis(arrived.elapsed()),
                end,
            }));
        };
        let reached = match dialled {
            None => return closed(0, 0, Reason::PodReset.label()),
            Some(Err(failure)) => {
                self.target_is(route, false);
                return self.reject(number, route, incoming, &failure);
            }
            Some(Ok(reached)) => reached,
        };
        self.target_is(route, true);
        tracing::debug!(connection = number, target = %route.target, "target reached");
        let Ok(stream) = incoming.accept() else {
            return closed(0, 0, Reason::PodReset.label());
        };
        let traffic = Traffic::below(&self.options.traffic);
        let options = RelayOptions {
            traffic: Arc::clone(&traffic),
            ..self.options.clone()
        };
        let relayed = async {
            match reached {
                Reached::Tcp(socket) => relay(socket, stream, &options).await,
                Reached::Unix(socket) => relay(socket, stream, &options).await,
                Reached::Other(socket) => socket.relay(stream, options.clone()).await,
            }
        };
        let moved = || traffic.from_socket() + traffic.to_socket();
        let (relayed, silent) = silence::watch(relayed, moved, options.idle_timeout).await;
        tracing::debug!(connection = number, end = ?relayed.end, "connection ended");
        closed(
            relayed.to_socket,
            relayed.from_socket,
            end_label(relayed.end, silent),
        );
    }

    fn reject(&self, number: u64, route: &Route, incoming: IncomingStream, failure: &Failure) {
        // The detail stays on this machine: a server learns the kind of
        // failure and no address or path of the workstation.
        incoming.reject(failure.reason, "");
        self.report(&Event::Rejected(Rejected {
            connection: Some(number),
            listener_id: Some(route.listener_id),
            port: Some(route.port),
            reason: failure.reason.label().to_owned(),
            count: 1,
            message: format!("connection for {}: {}", route.port, failure.message),
        }));
    }

    /// Tells the node when a target went down or came up.
    fn target_is(&self, route: &Route, up: bool) {
        let Some(down) = self.down.get(route.listener_id as usize) else {
            return;
        };
        if down.swap(!up, Relaxed) == up {
            let listener_id = route.listener_id;
            self.control
                .send(control_message::Event::Target(TargetState {
                    listener_id,
                    up,
                }));
        }
    }

    fn report(&self, event: &Event) {
        self.connections.reporter.report(event);
    }
}

/// The word for how a connection ended that was `silent` before, or not.
fn end_label(end: End, silent: bool) -> &'static str {
    match end {
        End::Clean => "clean",
        End::SocketReset => Reason::TargetReset.label(),
        End::PeerReset(code) => reset_label(code, silent),
        End::Refused(reason) => reason.label(),
        End::TunnelLost => Reason::TunnelLost.label(),
        End::IdleTimeout => Reason::IdleTimeout.label(),
        End::BufferLimit => Reason::BufferLimit.label(),
    }
}

/// The word for a reset by the node, from its HTTP/2 code.
fn reset_label(code: u32, silent: bool) -> &'static str {
    if code == Reset::Cancel.code() {
        // The node gave up: its clock for silence ran out before ours, or the
        // session is over.
        if silent {
            Reason::IdleTimeout.label()
        } else {
            Reason::Stopped.label()
        }
    } else if code == Reset::Refused.code() {
        Reason::BufferLimit.label()
    } else {
        Reason::PodReset.label()
    }
}
