//! One connection: its requests, until it ends or carries a tunnel.

use super::places::Place;
use crate::metrics::{self, Active};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// How long a client may take to its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// How long it may take from one request to the next. The API server keeps
/// connections for 90 s; were this shorter, it would find some closed.
const NEXT_REQUEST: Duration = Duration::from_secs(120);

/// Longest request head, in bytes: 32 KiB of a query, and a user with a thousand
/// groups.
const MAX_HEAD: usize = 128 * 1024;

/// Most fields of a request: each group of a user is one. hyper's own limit of 100
/// would shut out users with more.
const MAX_FIELDS: usize = 2048;

/// How long answers under way may take once the server stops.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it connects from.
    pub from: SocketAddr,
    /// The certificates that it showed, its own first, whose key it has.
    pub chain: Arc<[CertificateDer<'static>]>,
    place: Arc<Place>,
    active: Arc<Active>,
}

impl Peer {
    /// It is the API server: its connection is nobody else's to take.
    pub fn know(&self) {
        self.place.know();
    }

    /// For as long as this is kept the connection counts as open, though it is
    /// served as none any more.
    #[must_use]
    pub fn keep(&self) -> Arc<Active> {
        Arc::clone(&self.active)
    }
}

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one.
    fn answer(
        &self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

pub(super) async fn serve<H: Handler>(
    io: TlsStream<TcpStream>,
    from: SocketAddr,
    handler: Arc<H>,
    place: Arc<Place>,
    active: Active,
    stop: CancellationToken,
) {
    let chain = io.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = Peer {
        from,
        chain: chain.into(),
        place: Arc::clone(&place),
        active: Arc::new(active),
    };
    let asked = Arc::new(Notify::new());
    let service = service_fn(|request| {
        // Kept, for whoever waits a little later.
        asked.notify_one();
        let answer = handler.answer(request, peer.clone());
        async { Ok::<_, Infallible>(answer.await) }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(NEXT_REQUEST)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_FIELDS)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut http = pin!(http);
    let slow = async {
        if timeout(FIRST_REQUEST, asked.notified()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        served = &mut http => {
            if let Err(error) = served {
                tracing::debug!(%from, %error, "a connection broke off");
            }
        }
        () = slow => tracing::debug!(%from, "a connection asked nothing"),
        () = place.evicted() => {
            tracing::debug!(%from, "a connection made room for another");
            metrics::handshake("evicted");
        }
        () = stop.cancelled() => {
            http.as_mut().graceful_shutdown();
            let _ = timeout(LAST_ANSWERS, http).await;
        }
    }
}
