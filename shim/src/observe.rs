//! `/metrics`, `/healthz` and `/readyz`, for whoever looks after the node.

use crate::binder::Binder;
use crate::metrics::Exporter;
use crate::registry::Registry;
use crate::session::{Shared, status};
use http::{Method, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use sternline_api::Reason;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Connections at once; scrapers are few.
const MAX_CONNECTIONS: usize = 32;

/// How long one connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    exporter: Exporter,
    binder: Arc<dyn Binder>,
    shared: Arc<Shared>,
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
            let (exporter, binder, stop) = (exporter.clone(), Arc::clone(&binder), stop.clone());
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let service = service_fn(|request| answer(request, &exporter, &*binder, &shared));
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

async fn answer(
    request: Request<Incoming>,
    exporter: &Exporter,
    binder: &dyn Binder,
    shared: &Shared,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n".to_owned()));
    }
    Ok(match request.uri().path() {
        "/metrics" => text(StatusCode::OK, exporter.render()),
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match not_ready(binder, shared).await {
            None => text(StatusCode::OK, ready(&shared.registry)),
            Some(trouble) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{trouble}\n")),
        },
        _ => text(
            StatusCode::NOT_FOUND,
            "see /metrics, /healthz and /readyz\n".to_owned(),
        ),
    })
}

/// Why the node is not as its settings want it, if so. Switched off it is: an
/// operator's wish must not look like a fault, nor hold up a rollout.
async fn not_ready(binder: &dyn Binder, shared: &Shared) -> Option<String> {
    let refusal = shared.registry.refusal();
    if let Some(refusal) = refusal.filter(|refusal| refusal.reason == Reason::Draining) {
        return Some(refusal.message);
    }
    let certificate = shared.tls.as_ref();
    let certificate = certificate.and_then(|tls| tls.trouble(SystemTime::now()));
    if let Some(trouble) = certificate.filter(|trouble| trouble.shut) {
        return Some(trouble.sentence);
    }
    let cluster = shared.cluster.as_ref();
    if let Some(trouble) = cluster.and_then(|identity| identity.trouble(SystemTime::now())) {
        return Some(trouble);
    }
    // With --audit-required every session is refused now.
    if let Err(refusal) = shared.audit.admit() {
        return Some(refusal.message);
    }
    status(binder).await.trouble
}

fn ready(registry: &Registry) -> String {
    let off = registry.switched_off();
    off.map_or_else(
        || "ok\n".to_owned(),
        |why| format!("ok, switched off: {why}\n"),
    )
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Audit, Subject};
    use crate::binder::LocalBinder;
    use crate::config::{AuditArgs, AuditTarget};
    use crate::limits::Limits;
    use crate::sandbox::standalone::StandaloneSource;

    fn binder(dir: &tempfile::TempDir) -> LocalBinder<StandaloneSource> {
        let (dir, every) = (dir.path().to_owned(), Duration::from_millis(500));
        LocalBinder::standalone(dir, false, every).expect("a binder")
    }

    /// A shim whose audit log cannot be written once it has something to record.
    fn without_room() -> Shared {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("audit");
        let args = AuditArgs {
            audit_log: Some(AuditTarget::Path(path.clone())),
            audit_queue: 16,
            audit_required: true,
        };
        let audit = Audit::open(&args).expect("opened");
        drop(place);
        assert!(!path.exists());
        let session = audit.session(|| Subject::new("s1", &Default::default(), "web", None));
        session.started(Vec::new(), Duration::ZERO);
        Shared {
            audit,
            ..Shared::new(Limits::default())
        }
    }

    #[tokio::test]
    async fn a_node_that_refuses_for_want_of_its_audit_log_is_not_ready() {
        let dir = tempfile::tempdir().expect("a directory");
        let binder = binder(&dir);
        let shared = without_room();
        let found = timeout(Duration::from_secs(20), async {
            loop {
                match not_ready(&binder, &shared).await {
                    Some(trouble) => break trouble,
                    None => sleep(Duration::from_millis(5)).await,
                }
            }
        });
        let trouble = found.await.expect("not ready in the end");
        assert!(trouble.contains("--audit-required"), "{trouble}");
    }

    #[tokio::test]
    async fn switched_off_it_is_ready_and_draining_it_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let binder = binder(&dir);
        let shared = Shared::new(Limits::default());
        assert_eq!(not_ready(&binder, &shared).await, None);
        shared.registry.switch(Some("a file says so".to_owned()));
        assert_eq!(not_ready(&binder, &shared).await, None);
        shared.registry.close();
        assert!(not_ready(&binder, &shared).await.is_some());
    }
}
