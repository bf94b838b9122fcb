//! What a session accepts on: sockets of the kernel or, in a simulation, what
//! stands in for them. Each kind is compiled for itself, so that the way of a
//! connection through the shim pays nothing for the choice.

use super::Spare;
use super::accept::Forwarder;
use crate::binder::BoundSocket;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use sternline_tunnel::Socket;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A socket that listens in a sandbox.
pub trait Listens: Send + Sync + 'static {
    /// What it accepts.
    type Socket: Socket;

    /// The next connection and who opened it. Cancel safe.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Socket, SocketAddr)>> + Send;

    /// Sets what a connection needs that is going to be forwarded.
    fn make_ready(socket: &Self::Socket);

    /// Accepts one waiting connection without a descriptor to spare and resets
    /// it; whether there was one that could be.
    fn turn_away(&self, spare: &Spare) -> bool;
}

impl Listens for TcpListener {
    type Socket = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        Self::accept(self).await
    }

    fn make_ready(socket: &TcpStream) {
        // Small writes must not wait for each other (2-4x on echoes).
        let _ = socket.set_nodelay(true);
        socket.abort_if_killed(true);
    }

    fn turn_away(&self, spare: &Spare) -> bool {
        spare.turn_away(self)
    }
}

/// Makes what the binder bound ready to be accepted on.
pub trait Adopt: fmt::Debug + Send + Sync + 'static {
    /// Takes a bound socket over.
    ///
    /// # Errors
    /// The runtime does not take it.
    fn adopt(&self, bound: BoundSocket) -> io::Result<Adopted>;
}

/// Adopts sockets of the kernel, as every shim does.
#[derive(Clone, Copy, Debug)]
pub struct AdoptSockets;

impl Adopt for AdoptSockets {
    fn adopt(&self, bound: BoundSocket) -> io::Result<Adopted> {
        let listener = TcpListener::from_std(bound.socket)?;
        Ok(Adopted::new(bound.listener_id, bound.addr, listener))
    }
}

/// A bound socket that can be accepted on.
pub struct Adopted {
    pub(super) listener_id: u32,
    pub(super) addr: SocketAddr,
    listener: Box<dyn AcceptOn>,
}

impl Adopted {
    /// A listener of a session, what it is bound to, and its socket.
    #[must_use]
    pub fn new(listener_id: u32, addr: SocketAddr, listener: impl Listens) -> Self {
        Self {
            listener_id,
            addr,
            listener: Box::new(listener),
        }
    }

    /// Accepts and forwards until `stop`.
    pub(super) fn accept(self, forwarder: Forwarder, stop: CancellationToken) -> Accepting {
        let Self {
            listener_id,
            addr,
            listener,
        } = self;
        listener.accept_on(forwarder, listener_id, addr, stop)
    }
}

impl fmt::Debug for Adopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Adopted({} at {})", self.listener_id, self.addr)
    }
}

/// Ends when the listener is closed.
pub(super) type Accepting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Hides the kind of a listener, once for its whole life.
trait AcceptOn: Send + Sync {
    fn accept_on(
        self: Box<Self>,
        forwarder: Forwarder,
        listener_id: u32,
        bound: SocketAddr,
        stop: CancellationToken,
    ) -> Accepting;
}

impl<L: Listens> AcceptOn for L {
    fn accept_on(
        self: Box<Self>,
        forwarder: Forwarder,
        listener_id: u32,
        bound: SocketAddr,
        stop: CancellationToken,
    ) -> Accepting {
        Box::pin(forwarder.accept(*self, listener_id, bound, stop))
    }
}
