//! What is answered to each request.

use crate::discovery;
use crate::door::Door;
use crate::forward::Forwards;
use crate::metrics;
use crate::nodes::{self, Nodes};
use crate::observe::{self, Ready};
use crate::request::ForwardRequest;
use crate::server::{Handler, Peer};
use crate::status::Status;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::SystemTime;

/// The body of every answer.
pub(crate) type Body = Full<Bytes>;

/// Answers everything.
pub struct Service {
    /// Who asks.
    pub door: Arc<Door>,
    /// What is made for whom may ask.
    pub forwards: Forwards,
    /// What gives nodes their certificates.
    pub nodes: Nodes,
    /// Whether this gateway goes away.
    pub leaving: AtomicBool,
}

impl Ready for Service {
    fn ready(&self) -> Result<(), String> {
        if self.leaving.load(SeqCst) {
            return Err("this gateway is shutting down".to_owned());
        }
        if self.forwards.material.borrow().is_none() {
            return Err("the authority is not there yet: see the log".to_owned());
        }
        if !self.door.is_ready() {
            return Err("the front proxy is not known yet: see the log".to_owned());
        }
        Ok(())
    }
}

impl Handler for Service {
    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let path = request.uri().path();
        if let Some(health) = observe::health(path, self) {
            return health;
        }
        if ForwardRequest::place(path).is_some() {
            return self.forward(request, peer).await;
        }
        if path == nodes::PATH {
            return self.certify(request, peer).await;
        }
        match discovery::answer(path) {
            Some(found) if request.method() == Method::GET => {
                json(StatusCode::OK, found.to_string().into_bytes())
            }
            _ => told(&Status::no_such_path(path)),
        }
    }
}

impl Service {
    async fn certify(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        match self.nodes.certify(request, SystemTime::now()).await {
            Ok(issued) => {
                metrics::node_certificate("signed");
                json(StatusCode::OK, issued.to_json())
            }
            Err(refusal) => {
                let code = refusal.code;
                let label = if code >= 500 { "failed" } else { "refused" };
                metrics::node_certificate(label);
                let why = &refusal.message;
                match code {
                    // Anybody can be refused so, and could fill the log.
                    400 | 401 | 405 | 429 => {
                        tracing::debug!(from = %peer.from, code, "no certificate for a node: {why}");
                    }
                    _ => {
                        tracing::warn!(from = %peer.from, code, "no certificate for a node: {why}");
                    }
                }
                told(&refusal)
            }
        }
    }

    async fn forward(&self, mut request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let now = SystemTime::now();
        let user = self.door.user(&peer.chain, request.headers(), now).await;
        let user = match user {
            Ok(user) => user,
            Err(stranger) => {
                metrics::unauthenticated();
                // Counted above: whoever can connect could fill the log.
                tracing::debug!(from = %peer.from, "{stranger}");
                return told(&Status::unauthenticated(&stranger.to_string()));
            }
        };
        peer.know();
        if ![Method::GET, Method::POST].contains(request.method()) {
            return told(&Status::no_such_method(request.method(), "GET or POST"));
        }
        match self.forwards.open(&mut request, &user, &peer).await {
            Ok(fields) => {
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response.headers_mut().extend(fields);
                response
            }
            Err(failure) => {
                tracing::info!(user = user.name, reason = %failure.reason, "{failure}");
                let pod = ForwardRequest::place(request.uri().path());
                told(&Status::of(&failure, pod.unwrap_or_default().1))
            }
        }
    }
}

/// A Status as an answer.
pub(crate) fn told(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json(code, status.to_json())
}

/// JSON as an answer.
pub(crate) fn json(code: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = code;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
