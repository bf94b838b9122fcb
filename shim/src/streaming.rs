//! The streaming endpoint: HTTP/1.1 until the Upgrade, then a tunnel.

mod tls;
mod upgrade;
mod waiting;
mod way;

pub(crate) use crate::metrics;
use crate::session::{Arrival, Shared};
use crate::tls::Tls;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use sternline_api::protocol::{PROTOCOL_HEADER, SESSIONS_PATH, STREAM_PROTOCOLS};
use sternline_api::{Failure, Reason};
pub(crate) use tls::handshake_outcome;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use upgrade::Form;
pub(crate) use waiting::{Place, Waiting};
pub use way::Way;

/// How long a client may take to send its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the whole way to the tunnel may take.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest request head, in bytes: a signed grant has 16 KiB, and a third more as
/// text.
const MAX_HEAD: usize = 32 * 1024;

/// Connections that may be on their way to a tunnel at once, see [`waiting`].
/// Each takes a descriptor out of those kept back from forwarded connections.
const MAX_PENDING: usize = 256;

/// How long to wait when the process cannot accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the endpoint listens.
pub enum StreamingListener {
    /// Plain HTTP on loopback.
    Tcp(TcpListener),
    /// HTTP in TLS.
    Tls(TcpListener, Arc<Tls>),
    /// A Unix socket.
    Unix(UnixListener),
}

/// Serves until `stop`.
pub async fn serve(listener: StreamingListener, shared: Arc<Shared>, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    let mut waiting = Waiting::new(MAX_PENDING);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener) => accepted,
        };
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = waiting.place() => place,
        };
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        match accepted {
            Ok(Accepted::Tcp(io)) => {
                let _ = io.set_nodelay(true);
                tasks.spawn(connection(io, Way::Node, shared, place, stop));
            }
            Ok(Accepted::Tls(io, tls)) => {
                let _ = io.set_nodelay(true);
                tasks.spawn(tls::encrypted(io, tls, shared, place, stop));
            }
            Ok(Accepted::Unix(io)) => {
                tasks.spawn(connection(io, Way::Node, shared, place, stop));
            }
            Err(error) => {
                tracing::warn!(%error, "streaming endpoint cannot accept, trying again");
                metrics::rejected(Reason::DescriptorLimit);
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

enum Accepted {
    Tcp(tokio::net::TcpStream),
    Tls(tokio::net::TcpStream, Arc<Tls>),
    Unix(tokio::net::UnixStream),
}

async fn accept(listener: &StreamingListener) -> std::io::Result<Accepted> {
    match listener {
        StreamingListener::Tcp(tcp) => tcp.accept().await.map(|(io, _)| Accepted::Tcp(io)),
        StreamingListener::Tls(tcp, tls) => {
            let (io, _) = tcp.accept().await?;
            Ok(Accepted::Tls(io, Arc::clone(tls)))
        }
        StreamingListener::Unix(unix) => unix.accept().await.map(|(io, _)| Accepted::Unix(io)),
    }
}

/// Serves one connection that came another way than through a listener: what the
/// simulation and the fuzzing of the endpoint hand in.
pub async fn serve_one<IO>(io: IO, shared: Arc<Shared>, stop: CancellationToken)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let place = Waiting::new(1).place().await;
    connection(io, Way::Node, shared, place, stop).await;
}

/// Serves one connection up to its Upgrade.
pub(crate) async fn connection<IO>(
    io: IO,
    way: Way,
    shared: Arc<Shared>,
    place: Arc<Place>,
    stop: CancellationToken,
) where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let upgrades = TaskTracker::new();
    let service = service_fn(|request| {
        let response = respond::<IO>(request, &way, &shared, &place, &upgrades);
        async { Ok::<_, Infallible>(response) }
    });
    let http = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        // Without this, hyper reads on while a response is made, and what a
        // client sent too early could not be told from what came in time.
        .half_close(true)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let served = async {
        if let Err(error) = http.await {
            tracing::debug!(%error, "streaming request failed");
            metrics::failed(Reason::ProtocolError);
        }
        upgrades.close();
        upgrades.wait().await;
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = place.evicted() => {
            tracing::debug!("a connection that showed no token made room for another");
            metrics::failed(Reason::ProtocolError);
        }
        served = timeout(UPGRADE_TIMEOUT, served) => if served.is_err() {
            tracing::debug!("a client was too slow to upgrade");
            metrics::failed(Reason::ProtocolError);
        }
    }
}

fn respond<IO>(
    mut request: Request<Incoming>,
    way: &Way,
    shared: &Arc<Shared>,
    place: &Place,
    upgrades: &TaskTracker,
) -> Response<Full<Bytes>>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (form, arrival) = match admit(&request, way, shared) {
        Ok(admitted) => admitted,
        Err(refused) => {
            // hyper hands over what asked for an Upgrade even when it was refused,
            // and never shuts it down: over TLS the answer would look cut off.
            let refusal = hyper::upgrade::on(&mut request);
            upgrades.spawn(async move {
                if let Ok(io) = refusal.await {
                    // The client may be gone already.
                    let _ = TokioIo::new(io).shutdown().await;
                }
            });
            return refused.into_response();
        }
    };
    place.admit();
    let response = form.switching_protocols();
    let upgrade = hyper::upgrade::on(&mut request);
    upgrades.spawn(async move {
        match form.take_over::<IO>(upgrade).await {
            // An error means that the session ended meanwhile: the client sees
            // the connection close.
            Ok(io) => drop(arrival.attach(io).await),
            Err(failure) => {
                tracing::info!(session = %arrival.session().id, %failure, "not upgraded");
                metrics::failed(failure.reason);
                arrival.fail(failure).await;
            }
        }
    });
    response
}

/// Why a request is not upgraded.
struct Refused {
    failure: Failure,
    method: bool,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            method: false,
        }
    }
}

fn admit(
    request: &Request<Incoming>,
    way: &Way,
    shared: &Shared,
) -> Result<(Form, Arrival), Refused> {
    let path = request.uri().path();
    let Some(secret) = path.strip_prefix(SESSIONS_PATH) else {
        return Err(Failure::new(
            Reason::TokenUnknown,
            format!("nothing is served at this path: sessions are streamed below {SESSIONS_PATH}"),
        )
        .into());
    };
    if request.method() != Method::GET {
        return Err(Refused {
            failure: Failure::new(
                Reason::InvalidRequest,
                "sessions are streamed with GET and an Upgrade",
            ),
            method: true,
        });
    }
    // Before the token is spent: a client of another version may try again.
    let form = Form::negotiate(request)?;
    // A token of a session that is about to end says less than why it ends.
    shared.registry.refusal().map_or(Ok(()), Err)?;
    let brought = way.bring(request.headers())?;
    let most = shared.limits.tunnels_per_session;
    let arrival = shared
        .passes
        .redeem(secret, |admission| {
            brought.admit(&admission.session, || admission.arrive(most))
        })
        .ok_or_else(|| {
            Failure::new(
                Reason::TokenUnknown,
                "this token or ticket is unknown, used or expired: ask for a new session",
            )
        })??;
    tracing::debug!(session = %arrival.session().id, kind = ?arrival.kind(), ?form, "client is upgrading");
    Ok((form, arrival))
}

impl Refused {
    /// The failure as a response; a body in JSON, because programs read it.
    fn into_response(self) -> Response<Full<Bytes>> {
        let Self { failure, method } = self;
        metrics::failed(failure.reason);
        tracing::debug!(reason = %failure.reason, "streaming request refused");
        let mut body = serde_json::json!({
            "reason": failure.reason.label(),
            "message": failure.message,
        });
        if failure.reason == Reason::VersionUnsupported {
            body["supported"] = serde_json::json!(STREAM_PROTOCOLS);
        }
        let mut response = Response::new(Full::from(body.to_string()));
        *response.status_mut() = if method {
            StatusCode::METHOD_NOT_ALLOWED
        } else {
            failure.reason.http()
        };
        let headers = response.headers_mut();
        // One request a connection; on the 101 this would mislead proxies.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        if method {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
        }
        if failure.reason == Reason::UpgradeRequired {
            // RFC 9110, section 15.5.22.
            let offered = HeaderValue::from_static("sternline, websocket");
            headers.insert(header::UPGRADE, offered);
            headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
        if failure.reason == Reason::VersionUnsupported
            && let Ok(supported) = HeaderValue::from_str(&STREAM_PROTOCOLS.join(", "))
        {
            headers.insert(PROTOCOL_HEADER, supported);
        }
        response
    }
}
