//! Accepts what processes in the pod connect, and forwards it.

use super::listens::Listens;
use super::rejections::Rejections;
use super::tunnels::Picker;
use super::{Session, Shared};
use crate::audit::{Connection, Listener};
use crate::metrics;
use crate::netns::out_of_descriptors;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, atomic::Ordering::Relaxed};
use std::time::{Duration, Instant};
use sternline_api::Reason;
use sternline_api::reason::Reset;
use sternline_tunnel::budget::{Budget, Traffic};
use sternline_tunnel::{ConnectRequest, End, RelayOptions, Socket, relay};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long to leave a listener alone that cannot accept and cannot turn away
/// either: the kernel keeps the connections meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Everything that forwarding one connection needs.
#[derive(Clone)]
pub(super) struct Forwarder {
    pub(super) session: Arc<Session>,
    pub(super) shared: Arc<Shared>,
    pub(super) picker: Picker,
    pub(super) budget: Budget,
    /// One permit for each stream that the session may have open.
    pub(super) permits: Arc<Semaphore>,
    /// Counts what was turned away since the client was told.
    pub(super) rejections: Arc<Rejections>,
    pub(super) tasks: TaskTracker,
    /// Connections that are open; closed once no more are taken.
    pub(super) streams: TaskTracker,
    /// No more are taken: the kernel keeps them until the listener closes.
    pub(super) draining: CancellationToken,
    pub(super) ended: CancellationToken,
}

/// Held while a stream is open.
struct Permits {
    _session: OwnedSemaphorePermit,
    _node: OwnedSemaphorePermit,
}

impl Forwarder {
    /// Accepts until `stop`, which removes this listener alone.
    pub(super) async fn accept<L: Listens>(
        self,
        listener: L,
        listener_id: u32,
        bound: SocketAddr,
        stop: CancellationToken,
    ) {
        let _active = metrics::Active::listener();
        let session = self.session.id.clone();
        let run = async {
            let mut failing = false;
            loop {
                // Without a tunnel the kernel keeps the connections.
                self.picker.up().await;
                let accepted = tokio::select! {
                    biased;
                    () = self.draining.cancelled() => std::future::pending().await,
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((socket, peer)) => {
                        failing = false;
                        self.forward::<L>(socket, listener_id, bound, peer);
                    }
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        // Said once, not ten times a second.
                        if !failing {
                            tracing::warn!(%session, %bound, %error, "cannot accept, trying again");
                        }
                        failing = true;
                        if out_of_descriptors(&error) && listener.turn_away(&self.shared.spare) {
                            self.count_rejection(Reason::DescriptorLimit, listener_id);
                            // One after the other, so that a storm leaves time
                            // for the connections that are open.
                            tokio::task::yield_now().await;
                        } else {
                            sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = run => {}
        }
    }

    /// Forwards one connection in a task of its own, or turns it away.
    fn forward<L: Listens>(
        &self,
        socket: L::Socket,
        listener_id: u32,
        bound: SocketAddr,
        peer: SocketAddr,
    ) {
        let permits = match self.permits() {
            Ok(permits) => permits,
            Err(reason) => {
                // An ordered close would leave a TIME_WAIT behind that blocks the
                // app's own bind, and would look like an answer.
                socket.abort_on_close();
                self.count_rejection(reason, listener_id);
                return;
            }
        };
        let connect = ConnectRequest {
            listener_id,
            bound,
            peer,
        };
        let this = self.clone();
        let open = self.streams.token();
        self.tasks.spawn(async move {
            let _open = open;
            let ended = this.ended.clone();
            // Dropping the relay resets both sides.
            let _ = ended
                .run_until_cancelled_owned(this.carry::<L>(socket, connect, permits))
                .await;
        });
    }

    /// Counts a connection that was turned away, for the operator and for the
    /// client.
    fn count_rejection(&self, reason: Reason, listener_id: u32) {
        metrics::connection_rejected(reason);
        self.session.counts.rejected_total.fetch_add(1, Relaxed);
        self.session.audit.rejected(reason);
        self.rejections.add(reason, listener_id);
    }

    fn permits(&self) -> Result<Permits, Reason> {
        let session = Arc::clone(&self.permits)
            .try_acquire_owned()
            .map_err(|_| Reason::ConnectionLimit)?;
        let node = Arc::clone(self.shared.registry.connections())
            .try_acquire_owned()
            .map_err(|_| Reason::NodeConnectionLimit)?;
        Ok(Permits {
            _session: session,
            _node: node,
        })
    }

    async fn carry<L: Listens>(
        self,
        socket: L::Socket,
        connect: ConnectRequest,
        _permits: Permits,
    ) {
        let open = Open::new(&self.session, &connect);
        L::make_ready(&socket);
        let socket = ResetUnlessTaken(Some(socket));
        let dialer = self.picker.pick().await;
        let stream = match dialer.connect(connect).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(session = %self.session.id, %error, "no stream for a connection");
                open.ended(Reason::TunnelLost.label());
                return;
            }
        };
        let options = RelayOptions {
            budget: self.budget.clone(),
            traffic: Arc::clone(&open.traffic),
            idle_timeout: Some(self.shared.limits.idle_timeout).filter(|t| !t.is_zero()),
        };
        let Some(socket) = socket.take() else { return };
        let relayed = relay(socket, stream, &options).await;
        tracing::trace!(
            session = %self.session.id,
            listener = connect.listener_id,
            peer = %connect.peer,
            from_pod = relayed.from_socket,
            to_pod = relayed.to_socket,
            end = ?relayed.end,
            "connection ended"
        );
        open.ended(status(relayed.end, options.idle_timeout));
    }
}

/// The metrics' word for how a stream ended.
fn status(end: End, idle_timeout: Option<Duration>) -> &'static str {
    let reason = match end {
        End::Clean => return "ok",
        End::SocketReset => Reason::PodReset,
        End::PeerReset(code) => match code {
            code if code == Reset::Connect.code() => Reason::TargetReset,
            code if code == Reset::Refused.code() => Reason::BufferLimit,
            // Its clock for silence ran out before ours, or it is leaving.
            code if code == Reset::Cancel.code() && idle_timeout.is_some() => Reason::IdleTimeout,
            code if code == Reset::Cancel.code() => Reason::Stopped,
            _ => Reason::TargetFailed,
        },
        End::Refused(reason) => reason,
        End::TunnelLost => Reason::TunnelLost,
        End::IdleTimeout => Reason::IdleTimeout,
        End::BufferLimit => Reason::BufferLimit,
    };
    if matches!(reason, Reason::BufferLimit | Reason::IdleTimeout) {
        metrics::rejected(reason);
    }
    reason.label()
}

/// A connection that counts as open; dropped without a word it was cut off by
/// the end of its session.
struct Open<'a> {
    session: &'a Session,
    listener: Listener,
    peer: SocketAddr,
    /// Its own bytes, which count for the session too.
    traffic: Arc<Traffic>,
    since: Instant,
    told: bool,
    _active: metrics::Active,
}

impl<'a> Open<'a> {
    fn new(session: &'a Session, connect: &ConnectRequest) -> Self {
        session.counts.connections.fetch_add(1, Relaxed);
        session.counts.connections_total.fetch_add(1, Relaxed);
        Self {
            session,
            listener: Listener {
                id: connect.listener_id,
                addr: connect.bound,
            },
            peer: connect.peer,
            traffic: Traffic::below(&session.traffic),
            since: Instant::now(),
            told: false,
            _active: metrics::Active::connection(),
        }
    }

    fn ended(mut self, status: &'static str) {
        self.told = true;
        self.tell(status);
    }

    fn tell(&self, status: &'static str) {
        let duration = self.since.elapsed();
        metrics::connection_ended(status, duration);
        self.session.audit.connection(Connection {
            listener: self.listener,
            peer: self.peer,
            bytes_from_pod: self.traffic.from_socket(),
            bytes_to_pod: self.traffic.to_socket(),
            duration,
            end: status,
        });
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.session.counts.connections.fetch_sub(1, Relaxed);
        if !self.told {
            self.tell("session_ended");
        }
    }
}

/// A socket that is reset if nobody takes it over.
struct ResetUnlessTaken<S: Socket>(Option<S>);

impl<S: Socket> ResetUnlessTaken<S> {
    fn take(mut self) -> Option<S> {
        self.0.take()
    }
}

impl<S: Socket> Drop for ResetUnlessTaken<S> {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            socket.abort_on_close();
        }
    }
}
