//! `/metrics`, `/healthz` and `/readyz` in clear text, for whoever looks after the
//! cluster.

use crate::metrics::Exporter;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Connections at once; scrapers are few.
const MAX_CONNECTIONS: usize = 32;

/// How long one connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether the gateway does its work; why not, if so.
pub trait Ready: Send + Sync + 'static {
    /// Says so.
    ///
    /// # Errors
    /// What is missing, in one sentence.
    fn ready(&self) -> Result<(), String>;
}

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    exporter: Exporter,
    ready: Arc<impl Ready>,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let run = async {
        // The semaphore is never closed.
        while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
            let Ok((io, _)) = listener.accept().await else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (exporter, ready, stop) = (exporter.clone(), Arc::clone(&ready), stop.clone());
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| {
                    let answer = answer(request.method(), request.uri().path(), &exporter, &*ready);
                    async { Ok::<_, Infallible>(answer) }
                });
                let http = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(5))
                    .serve_connection(TokioIo::new(io), service);
                tokio::select! {
                    () = stop.cancelled() => {}
                    _ = timeout(CONNECTION_TIMEOUT, http) => {}
                }
                drop(permit);
            });
        }
    };
    stop.run_until_cancelled(run).await;
}

fn answer(
    method: &Method,
    path: &str,
    exporter: &Exporter,
    ready: &impl Ready,
) -> Response<Full<Bytes>> {
    if method != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n".to_owned());
    }
    if path == "/metrics" {
        return text(StatusCode::OK, exporter.render());
    }
    health(path, ready).unwrap_or_else(|| {
        let known = "see /metrics, /healthz and /readyz\n";
        text(StatusCode::NOT_FOUND, known.to_owned())
    })
}

/// The answer at this path, if it is one of health.
pub fn health(path: &str, ready: &impl Ready) -> Option<Response<Full<Bytes>>> {
    match path {
        "/healthz" | "/livez" => Some(text(StatusCode::OK, "ok\n".to_owned())),
        "/readyz" => Some(match ready.ready() {
            Ok(()) => text(StatusCode::OK, "ok\n".to_owned()),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        }),
        _ => None,
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
