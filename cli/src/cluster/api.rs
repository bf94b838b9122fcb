//! Requests to an API server: one connection, kept for the next request, until a
//! stream takes it over.

mod status;
mod stream;

pub use stream::PodWay;

use super::credentials::{Credentials, Pass};
use super::kubeconfig::{Access, Impersonation};
use super::proxy::{self, Proxy};
use super::tls::{self, Tls};
use crate::fault::{Fault, exit};
use crate::signals::Held;
use crate::span;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

/// The group that a gateway serves.
pub const GROUP: &str = "reverse.sternline.dev";

/// Its version.
pub const VERSION: &str = "v1alpha1";

/// Longest response head, in bytes.
const LONGEST_HEAD: usize = 64 * 1024;

/// Longest answer that is read, in bytes: a list of some thousand pods.
const LONGEST_ANSWER: usize = 64 * 1024 * 1024;

/// An API server.
#[derive(Debug)]
pub struct Api {
    access: Access,
    proxy: Option<Proxy>,
    credentials: Credentials,
    /// Longest wait for each answer.
    timeout: Duration,
    idle: Mutex<Option<Connection>>,
}

/// A connection on which nothing is under way.
#[derive(Debug)]
struct Connection {
    requests: SendRequest<Full<Bytes>>,
    /// Which answer of a credential program it was made with: its certificate
    /// may be of that.
    answer: u64,
}

/// What a request asks for.
struct Ask<'a> {
    method: Method,
    /// Below the server's prefix, with its query.
    path: &'a str,
    /// Beside those of every request.
    headers: HeaderMap,
    body: Bytes,
}

impl Api {
    /// One that waits for each answer so long, and starts credential programs with
    /// the signal mask that was `held` from us.
    ///
    /// # Errors
    /// A usage error: the proxy is none.
    pub fn new(access: Access, timeout: Duration, held: Option<Held>) -> Result<Self, Fault> {
        let variable = |name: &str| std::env::var(name).ok();
        let proxy = proxy::choose(access.proxy.as_deref(), &access.server, variable)?;
        Ok(Self {
            credentials: Credentials::new(&access, held, SystemTime::now),
            access,
            proxy,
            timeout,
            idle: Mutex::default(),
        })
    }

    /// How it is reached.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Reads an object.
    ///
    /// # Errors
    /// What the API server refused, or that it is not reached (exit code 6).
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Fault> {
        self.exchange(Method::GET, path, Bytes::new()).await
    }

    /// Creates an object, and reads what became of it.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn create<T: DeserializeOwned>(
        &self,
        path: &str,
        object: &impl Serialize,
    ) -> Result<T, Fault> {
        let body = serde_json::to_vec(object).unwrap_or_default();
        self.exchange(Method::POST, path, body.into()).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, Fault> {
        let mut headers = HeaderMap::new();
        let json = HeaderValue::from_static("application/json");
        if !body.is_empty() {
            headers.insert(header::CONTENT_TYPE, json.clone());
        }
        headers.insert(header::ACCEPT, json);
        let ask = Ask {
            method,
            path,
            headers,
            body,
        };
        let (response, connection, deadline) = self.send(&ask, self.timeout).await?;
        let status = response.status();
        let body = self.body(response, deadline).await?;
        *self.idle.lock().await = Some(connection);
        if !status.is_success() {
            return Err(status::refused(path, status, &body));
        }
        serde_json::from_slice(&body).map_err(|_| {
            Fault::protocol(format!(
                "the server {} answered something else than the object that was asked for",
                self.access.server
            ))
        })
    }

    async fn body(&self, response: Response<Incoming>, by: Instant) -> Result<Bytes, Fault> {
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect();
        match timeout_at(by, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(_)) => Err(self.unreachable("it broke off in the middle of its answer")),
            Err(_) => Err(self.silent(self.timeout)),
        }
    }

    /// Sends a request, and again with a new answer of the credential program where
    /// the last was not accepted. Answers with the connection, and until when the
    /// body may take.
    async fn send(
        &self,
        ask: &Ask<'_>,
        limit: Duration,
    ) -> Result<(Response<Incoming>, Connection, Instant), Fault> {
        let mut refused = None;
        loop {
            let pass = self.credentials.get(refused).await?;
            // Who signs in may take their time; the server may not.
            let deadline = Instant::now() + limit;
            let sent = timeout_at(deadline, self.send_as(ask, &pass)).await;
            let (response, connection) = sent.map_err(|_| self.silent(limit))??;
            let again = response.status() == StatusCode::UNAUTHORIZED
                && pass.answer > 0
                && !pass.is_fresh
                && refused.is_none();
            if !again {
                return Ok((response, connection, deadline));
            }
            tracing::info!("the credentials are no longer accepted: asking for new ones");
            refused = Some(pass.answer);
        }
    }

    async fn send_as(
        &self,
        ask: &Ask<'_>,
        pass: &Pass,
    ) -> Result<(Response<Incoming>, Connection), Fault> {
        let kept = self.idle.lock().await.take();
        if let Some(mut connection) = kept.filter(|kept| kept.answer == pass.answer) {
            // It may have been closed meanwhile, which shows at once or in the
            // middle of the request; another is made then.
            if connection.requests.ready().await.is_ok()
                && let Ok(response) = connection
                    .requests
                    .send_request(self.request(ask, pass)?)
                    .await
            {
                return Ok((response, connection));
            }
        }
        let mut connection = self.connect(pass).await?;
        let request = self.request(ask, pass)?;
        match connection.requests.send_request(request).await {
            Ok(response) => Ok((response, connection)),
            Err(error) if error.is_parse() => Err(Fault::protocol(format!(
                "the server {} does not answer in HTTP/1.1",
                self.access.server
            ))),
            Err(error) => Err(self.unreachable(&broken(&error))),
        }
    }

    async fn connect(&self, pass: &Pass) -> Result<Connection, Fault> {
        let server = &self.access.server;
        match &self.proxy {
            None => tracing::info!(%server, "connecting to the API server"),
            Some(proxy) => tracing::info!(%server, %proxy, "connecting to the API server"),
        }
        let io = proxy::connect(server, self.proxy.as_ref()).await;
        let io = io.map_err(|error| self.unreachable(&crate::cause(&error)))?;
        let io: Box<dyn proxy::Stream> = if server.is_tls {
            let identity = pass.identity.as_deref();
            let tls = Tls::new(server, &self.access.trust, identity).await?;
            let encrypted = tls.encrypt(io).await;
            Box::new(encrypted.map_err(|error| self.unreachable(&tls::explain(&error)))?)
        } else {
            io
        };
        let (requests, connection) = http1::Builder::new()
            .max_buf_size(LONGEST_HEAD)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| self.unreachable(&broken(&error)))?;
        // Ends with the connection, or when a stream takes its place.
        tokio::spawn(connection.with_upgrades());
        Ok(Connection {
            requests,
            answer: pass.answer,
        })
    }

    fn request(&self, ask: &Ask<'_>, pass: &Pass) -> Result<Request<Full<Bytes>>, Fault> {
        let server = &self.access.server;
        let wrong = || Fault::usage(format!("nothing of the server {server} can be asked so"));
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(format!("{}{}", server.prefix, ask.path))
            .header(header::HOST, server.authority())
            .header(
                header::USER_AGENT,
                concat!("sternline/", env!("CARGO_PKG_VERSION")),
            )
            .body(Full::new(ask.body.clone()))
            .map_err(|_| wrong())?;
        let headers = request.headers_mut();
        headers.extend(ask.headers.clone());
        for (name, value) in as_whom(&self.access.impersonation) {
            let name = HeaderName::try_from(name).map_err(|_| wrong())?;
            headers.append(name, HeaderValue::try_from(value).map_err(|_| wrong())?);
        }
        if let Some(authorization) = &pass.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }

    fn unreachable(&self, what: &str) -> Fault {
        let server = &self.access.server;
        Fault::no_server(format!("unable to connect to the server {server}: {what}"))
    }

    fn silent(&self, limit: Duration) -> Fault {
        Fault::new(
            exit::NO_SERVER,
            format!(
                "the server {} did not answer within {}: --request-timeout waits longer",
                self.access.server,
                span::short(limit)
            ),
        )
    }
}

/// The fields that say whom to act as.
fn as_whom(impersonation: &Impersonation) -> Vec<(String, String)> {
    let Impersonation {
        user,
        uid,
        groups,
        extra,
    } = impersonation;
    let field = |name: &str, value: &String| (name.to_owned(), value.clone());
    let mut fields = Vec::new();
    fields.extend(user.iter().map(|user| field("impersonate-user", user)));
    fields.extend(uid.iter().map(|uid| field("impersonate-uid", uid)));
    fields.extend(groups.iter().map(|group| field("impersonate-group", group)));
    fields.extend(extra.iter().map(|(key, value)| {
        let key = utf8_percent_encode(key, NON_ALPHANUMERIC).to_string();
        field(
            &format!("impersonate-extra-{}", key.to_ascii_lowercase()),
            value,
        )
    }));
    fields
}

/// What broke, in the words of the system or of TLS where it was one of them.
fn broken(error: &hyper::Error) -> String {
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        if let Some(io) = source.downcast_ref() {
            return tls::explain(io);
        }
        next = source.source();
    }
    "it broke off before it answered".to_owned()
}
