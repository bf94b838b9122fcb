//! The port that gateways come to: the call and streaming, behind one handshake.

use super::{Gate, Identity};
use crate::metrics;
use crate::session::Shared;
use crate::streaming::{self, Place, Waiting, Way};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::Connected;

/// Connections that are on their way at once.
const MAX_PENDING: usize = 256;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait when the process cannot accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that may wait for the call's server.
pub(super) const QUEUE: usize = 16;

/// A gateway's connection that makes calls.
pub(crate) struct Calling(TlsStream<TcpStream>);

/// Accepts until `stop`; those that want to make calls go to `calls`.
pub(super) async fn accept(
    listener: TcpListener,
    identity: Arc<Identity>,
    gate: Arc<Gate>,
    shared: Arc<Shared>,
    calls: mpsc::Sender<io::Result<Calling>>,
    stop: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let mut waiting = Waiting::new(MAX_PENDING);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = waiting.place() => place,
        };
        let io = match accepted {
            Ok((io, _)) => io,
            Err(error) => {
                tracing::warn!(%error, "the cluster's port cannot accept, trying again");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let _ = io.set_nodelay(true);
        let way = Way::Gateway(Arc::clone(&gate));
        let (identity, shared) = (Arc::clone(&identity), Arc::clone(&shared));
        let (calls, stop) = (calls.clone(), stop.clone());
        tasks.spawn(async move {
            let Some(io) = shake(io, &identity, &place, &stop).await else {
                return;
            };
            if io.get_ref().1.alpn_protocol() == Some(b"h2") {
                place.admit();
                // A server that is busy is waited for, but not for ever.
                let _ = timeout(HANDSHAKE_TIMEOUT, calls.send(Ok(Calling(io)))).await;
            } else {
                streaming::connection(io, way, shared, place, stop).await;
            }
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn shake(
    io: TcpStream,
    identity: &Identity,
    place: &Place,
    stop: &CancellationToken,
) -> Option<TlsStream<TcpStream>> {
    let config = match identity.handshake() {
        Ok(config) => config,
        Err(sentence) => {
            tracing::debug!(sentence, "a gateway was turned away");
            metrics::handshake("failed");
            return None;
        }
    };
    let shaking = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(io));
    let (outcome, shaken) = tokio::select! {
        () = stop.cancelled() => return None,
        () = place.evicted() => ("evicted", None),
        shaken = shaking => match shaken {
            Err(_) => ("slow", None),
            Ok(Ok(io)) => ("ok", Some(io)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "no TLS with a gateway");
                (streaming::handshake_outcome(&error), None)
            }
        },
    };
    metrics::handshake(outcome);
    shaken
}

impl Connected for Calling {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Calling {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Calling {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
