//! What is answered to each request.

use crate::authority::Material;
use crate::discovery;
use crate::door::Door;
use crate::identity::User;
use crate::metrics;
use crate::observe::{self, Ready};
use crate::request::ForwardRequest;
use crate::server::{Handler, Peer};
use crate::sessions::Sessions;
use crate::status::Status;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::SystemTime;
use sternline_api::{Failure, Reason};
use tokio::sync::watch;

/// The body of every answer.
pub(crate) type Body = Full<Bytes>;

/// Answers everything.
pub struct Service {
    /// Who asks.
    pub door: Arc<Door>,
    /// What there is of the authority.
    pub material: watch::Receiver<Option<Arc<Material>>>,
    /// The forwards.
    pub sessions: Arc<Sessions>,
    /// Whether this gateway goes away.
    pub leaving: AtomicBool,
}

impl Ready for Service {
    fn ready(&self) -> Result<(), String> {
        if self.leaving.load(SeqCst) {
            return Err("this gateway is shutting down".to_owned());
        }
        if self.material.borrow().is_none() {
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
        match discovery::answer(path) {
            Some(found) if request.method() == Method::GET => {
                json(StatusCode::OK, found.to_string().into_bytes())
            }
            _ => told(&Status::no_such_path(path)),
        }
    }
}

impl Service {
    async fn forward(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let user = self
            .door
            .user(&peer.chain, request.headers(), SystemTime::now());
        let user = match user.await {
            Ok(user) => user,
            Err(stranger) => {
                metrics::unauthenticated();
                tracing::info!(from = %peer.from, "{stranger}");
                return told(&Status::unauthenticated(&stranger.to_string()));
            }
        };
        peer.know();
        let (_, pod) = ForwardRequest::place(request.uri().path()).unwrap_or_default();
        let pod = pod.to_owned();
        let failure = match self.admit(&request, &user) {
            Ok(()) => Failure::new(
                Reason::FeatureOff,
                "this release of the gateway carries no forwards",
            ),
            Err(failure) => failure,
        };
        metrics::refused(failure.reason);
        told(&Status::of(&failure, &pod))
    }

    fn admit(&self, request: &Request<Incoming>, user: &User) -> Result<(), Failure> {
        let uri = request.uri();
        let (namespace, pod) = ForwardRequest::place(uri.path()).unwrap_or_default();
        ForwardRequest::parse(namespace, pod, uri.query().unwrap_or_default())?;
        self.sessions.enter(&user.name).map(drop)
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
