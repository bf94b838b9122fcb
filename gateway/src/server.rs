//! HTTPS: connections, from their handshake to their requests.
//!
//! A client certificate may be shown and need not be: probes and nodes have none.
//! The handshake proves that whoever shows one has its key; whose it is, each
//! request finds out, by the authorities of that moment.

mod connection;
mod places;
mod tls;

pub use connection::{Handler, Peer};
pub use tls::{Faces, config};

use crate::metrics::{self, Active};
use places::Places;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait when the process cannot accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long an idle peer is believed in before it is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Binds; on IPv4 where an unspecified IPv6 address cannot be had.
///
/// # Errors
/// The address is taken, or not this machine's.
pub fn bind(address: SocketAddr, fallback: Option<SocketAddr>) -> io::Result<TcpListener> {
    let bound = listen(address);
    match (bound, fallback) {
        (Err(error), Some(v4)) if error.kind() != io::ErrorKind::AddrInUse => listen(v4),
        (bound, _) => bound,
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// Bytes go at once, and a peer whose machine is gone is noticed some day: tunnels
/// are idle for as long as they like.
pub(crate) fn prepare(io: &TcpStream) {
    let _ = io.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / 4);
    let _ = socket2::SockRef::from(io).set_tcp_keepalive(&keepalive);
}

/// Serves until `stop`; then requests under way are answered, and no more. Returns
/// when every connection is over that carries no tunnel.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    handler: Arc<H>,
    most: u32,
    stop: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let mut places = Places::new(most as usize);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (io, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept, trying again");
                metrics::handshake("failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = places.place() => place,
        };
        prepare(&io);
        let (acceptor, handler, stop) = (acceptor.clone(), Arc::clone(&handler), stop.clone());
        tasks.spawn(async move {
            let active = Active::connection();
            let shaken = tokio::select! {
                () = stop.cancelled() => return,
                () = place.evicted() => Err("evicted"),
                shaken = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(io)) => match shaken {
                    Err(_) => Err("slow"),
                    Ok(Err(error)) => {
                        tracing::debug!(%from, %error, "a handshake failed");
                        Err("failed")
                    }
                    Ok(Ok(io)) => Ok(io),
                },
            };
            metrics::handshake(shaken.as_ref().err().copied().unwrap_or("ok"));
            if let Ok(io) = shaken {
                connection::serve(io, from, handler, place, active, stop).await;
            }
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}
