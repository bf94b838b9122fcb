//! Asks over HTTP/1.1 in TLS, on connections that are kept for a while.

use super::{Answer, Api, ApiError, Ask, Place, Verb};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

/// How long one answer may take, connecting included.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Longest answer that is read, in bytes: a namespace's policies are the longest.
const LONGEST: usize = 16 * 1024 * 1024;

/// Connections that are kept while nobody asks.
const KEPT: usize = 16;

/// How long one is kept; API servers keep theirs for longer.
const KEPT_FOR: Duration = Duration::from_secs(30);

type Sender = SendRequest<Full<Bytes>>;

/// Asks the Kubernetes API of a place.
#[derive(Debug)]
pub struct Client {
    place: Place,
    idle: Mutex<Vec<(Sender, Instant)>>,
}

impl Client {
    /// Nothing is connected until something is asked.
    #[must_use]
    pub fn new(place: Place) -> Self {
        Self {
            place,
            idle: Mutex::default(),
        }
    }

    async fn ask(&self, ask: &Ask) -> Result<Value, ApiError> {
        // One that was kept may be closed by now, and everything that is asked here
        // can be asked twice.
        if let Some(kept) = self.kept()
            && let Ok(answer) = self.exchange(kept, ask).await
        {
            return read(ask, answer.0, &answer.1);
        }
        let fresh = self.connect().await?;
        let (status, body) = self.exchange(fresh, ask).await?;
        read(ask, status, &body)
    }

    async fn exchange(
        &self,
        mut sender: Sender,
        ask: &Ask,
    ) -> Result<(StatusCode, Bytes), ApiError> {
        let request = self.request(ask)?;
        // A kept one may not have noticed yet that its last answer was read.
        sender.ready().await.map_err(|error| unreachable(&error))?;
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| unreachable(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        let body = body.map_err(|error| ApiError::Unreadable {
            ask: format!("{ask:?}"),
            what: error.to_string(),
        })?;
        self.keep(sender);
        Ok((status, body.to_bytes()))
    }

    fn request(&self, ask: &Ask) -> Result<Request<Full<Bytes>>, ApiError> {
        let (method, content) = match ask.verb {
            Verb::Get => (Method::GET, ""),
            Verb::Create => (Method::POST, "application/json"),
            Verb::Replace => (Method::PUT, "application/json"),
            Verb::Merge => (Method::PATCH, "application/merge-patch+json"),
        };
        let host = match &self.place.host {
            v6 if v6.contains(':') => format!("[{v6}]:{}", self.place.port),
            name => format!("{name}:{}", self.place.port),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(&ask.path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/json")
            .header(
                header::USER_AGENT,
                concat!("sternline-gateway/", env!("CARGO_PKG_VERSION")),
            );
        if !content.is_empty() {
            request = request.header(header::CONTENT_TYPE, content);
        }
        let token = self.place.token();
        let token = token.map_err(|error| ApiError::Unreachable(error.to_string()))?;
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = ask.body.as_ref().map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::from(body));
        request.map_err(|_| ApiError::Unreachable("the request cannot be written".to_owned()))
    }

    async fn connect(&self) -> Result<Sender, ApiError> {
        let failed = |what: String| ApiError::Unreachable(format!("{:?}: {what}", self.place));
        let (config, name) = self
            .place
            .tls()
            .map_err(|error| failed(error.to_string()))?;
        let io = TcpStream::connect((self.place.host.as_str(), self.place.port)).await;
        let io = io.map_err(|error| failed(error.to_string()))?;
        let _ = io.set_nodelay(true);
        let io = TlsConnector::from(config).connect(name, io).await;
        let io = io.map_err(|error| failed(error.to_string()))?;
        let shaken = http1::handshake(TokioIo::new(io)).await;
        let (sender, connection) = shaken.map_err(|error| unreachable(&error))?;
        // Ends when its sender is dropped, or the server closes.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn kept(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < KEPT_FOR);
        idle.pop().map(|(sender, _)| sender)
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT && !sender.is_closed() {
            idle.push((sender, Instant::now()));
        }
    }
}

impl Api for Client {
    fn send(&self, ask: Ask) -> Answer<'_> {
        Box::pin(async move {
            let answer = timeout(TIMEOUT, self.ask(&ask)).await;
            answer.unwrap_or_else(|_| {
                Err(ApiError::Unreachable(format!(
                    "{:?} did not answer within {TIMEOUT:?}",
                    self.place
                )))
            })
        })
    }
}

fn unreachable(error: &hyper::Error) -> ApiError {
    ApiError::Unreachable(error.to_string())
}

fn read(ask: &Ask, status: StatusCode, body: &[u8]) -> Result<Value, ApiError> {
    let value: Result<Value, _> = serde_json::from_slice(body);
    if !status.is_success() {
        let said = value.ok();
        let said = said.as_ref().and_then(|value| value["message"].as_str());
        return Err(ApiError::Refused {
            ask: format!("{ask:?}"),
            code: status.as_u16(),
            message: said.unwrap_or("without a sentence").to_owned(),
        });
    }
    value.map_err(|error| ApiError::Unreadable {
        ask: format!("{ask:?}"),
        what: error.to_string(),
    })
}
