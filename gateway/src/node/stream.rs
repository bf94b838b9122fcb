//! Opens the stream of a session at its node.

use super::{CALL_TIMEOUT, Node, Secret};
use crate::authority::node_name;
use crate::form::Form;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::time::Duration;
use sternline_api::grant::to_header;
use sternline_api::protocol::{GRANT_HEADER, SESSIONS_PATH};
use sternline_api::{Failure, Reason};
use tokio::time::timeout;

/// Longest head of an answer, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;

/// Longest body of a refusal, in bytes; what exceeds it is not read.
const LONGEST_BODY: usize = 16 * 1024;

/// How long the hand-over after the 101 may take.
const HAND_OVER: Duration = Duration::from_secs(10);

/// A stream that a node opened.
pub struct Stream {
    /// Fields for the answer to the client.
    pub answer: HeaderMap,
    /// The bytes of the tunnel.
    pub io: TokioIo<Upgraded>,
}

/// What a shim says with another answer than 101.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    reason: String,
    message: String,
}

impl Node<'_> {
    /// Opens the stream of a session, in the form that the client chose.
    ///
    /// # Errors
    /// The node cannot be reached, or refuses.
    pub async fn stream(
        &self,
        secret: &Secret,
        form: &Form,
        grant: &[u8],
    ) -> Result<Stream, Failure> {
        let opened = timeout(CALL_TIMEOUT, self.open(secret, form, grant)).await;
        opened.unwrap_or_else(|_| Err(self.odd("did not open the stream in time")))
    }

    async fn open(&self, secret: &Secret, form: &Form, grant: &[u8]) -> Result<Stream, Failure> {
        let io = self.connect(b"http/1.1").await?;
        let (mut requests, connection) = http1::Builder::new()
            .max_buf_size(LONGEST_HEAD)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|_| self.odd("broke off before the stream"))?;
        // Ends with the exchange, or when the Upgrade takes its place.
        tokio::spawn(connection.with_upgrades());
        let host = format!("{}:{}", node_name(&self.route.node), self.route.shim.port());
        let mut request = Request::get(format!("{SESSIONS_PATH}{}", secret.0))
            .header(header::HOST, host)
            .header(GRANT_HEADER, to_header(grant))
            .body(Empty::<Bytes>::new())
            .map_err(|_| self.odd("cannot be asked for this session"))?;
        request.headers_mut().extend(form.request());
        let response = requests.send_request(request).await;
        // What hyper says would quote the path, which is secret.
        let response = response.map_err(|_| self.odd("broke off before it opened the stream"))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(response).await);
        }
        let answer = form.answer(response.headers())?;
        let upgraded = timeout(HAND_OVER, hyper::upgrade::on(response)).await;
        match upgraded {
            Ok(Ok(upgraded)) => Ok(Stream {
                answer,
                io: TokioIo::new(upgraded),
            }),
            _ => Err(self.odd("broke off as it opened the stream")),
        }
    }

    async fn refusal(&self, response: Response<Incoming>) -> Failure {
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST_BODY);
        let body = body.collect().await.map(|body| body.to_bytes());
        let said: Refusal = body
            .ok()
            .and_then(|body| serde_json::from_slice(&body).ok())
            .unwrap_or_default();
        match Reason::from_label(&said.reason) {
            Some(reason) => Failure::new(reason, said.message),
            None => self.odd(&format!("refused the stream with {}", status.as_u16())),
        }
    }
}
