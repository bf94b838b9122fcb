//! The shim of a node: the call, and the stream that comes of it.

mod stream;

pub use stream::Stream;

use crate::authority::Material;
use crate::authority::node_name;
use crate::route::Route;
use crate::server;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::fmt::Display;
use std::io;
use std::sync::Mutex;
use std::time::Duration;
use sternline_api::protocol::{API_VERSIONS, REASON_METADATA, SESSIONS_PATH};
use sternline_api::v1alpha1 as pb;
use sternline_api::v1alpha1::reverse_port_forward_service_client::ReversePortForwardServiceClient;
use sternline_api::{Failure, Reason};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use tower::service_fn;

/// How long a shim may take to take a connection and prove who it is. Clients wait
/// for 10 s unless they are told otherwise, and are to hear that it is the node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take for the call: it has 20 s for the bind alone.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest answer to the call, in bytes.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// Longest token or ticket, in bytes.
const LONGEST_SECRET: usize = 512;

/// The shim of a pod's node.
pub struct Node<'a> {
    /// Where it is.
    pub route: &'a Route,
    /// What is shown to it, and by what it is known.
    pub material: &'a Material,
}

/// What opens the stream of a session: the token of a call, or a ticket.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Reads one; it will stand in a path.
    ///
    /// # Errors
    /// It has characters that none has.
    pub fn read(text: &str) -> Result<Self, Failure> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        let dots = text.bytes().all(|byte| byte == b'.');
        if text.len() <= LONGEST_SECRET && !dots && text.bytes().all(plain) {
            return Ok(Self(text.to_owned()));
        }
        Err(Failure::new(
            Reason::TokenUnknown,
            "this ticket is none: ask for a new session",
        ))
    }

    /// That of the URL of a call.
    fn of_url(url: &str) -> Option<Self> {
        let (_, rest) = url.split_once("://")?;
        let (_, path) = rest.split_once('/')?;
        let secret = path.strip_prefix(SESSIONS_PATH.trim_start_matches('/'))?;
        Self::read(secret).ok()
    }
}

impl Node<'_> {
    /// Makes the call: the listeners are there, and wait to be streamed.
    ///
    /// # Errors
    /// The node cannot be reached, or refuses.
    pub async fn call(
        &self,
        request: pb::ReversePortForwardRequest,
    ) -> Result<(String, Secret), Failure> {
        let mut client = self.client().await?;
        let answer = self.answer(client.reverse_port_forward(request)).await?;
        let secret = Secret::of_url(&answer.url)
            .ok_or_else(|| self.odd("answered with a URL that leads nowhere"))?;
        Ok((answer.session_id, secret))
    }

    /// Ends a session that nobody will stream, so that its ports are free at once.
    /// It ends by itself, too, if this fails.
    pub async fn stop(&self, session_id: String) {
        let stop = async {
            let mut client = self.client().await?;
            let request = pb::StopSessionRequest { session_id };
            self.answer(client.stop_session(request)).await
        };
        if let Err(failure) = stop.await {
            tracing::debug!(node = self.route.node, %failure, "a session was not stopped");
        }
    }

    async fn client(&self) -> Result<ReversePortForwardServiceClient<Channel>, Failure> {
        let stream = self.connect(b"h2").await?;
        // One connection for one call: a second would mean that the first broke.
        let stream = Mutex::new(Some(stream));
        let connector = service_fn(move |_| {
            let taken = stream.lock().ok().and_then(|mut stream| stream.take());
            let taken = taken.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted));
            async move { taken.map(TokioIo::new) }
        });
        let host = node_name(&self.route.node);
        let endpoint = Endpoint::from_shared(format!("http://{host}"));
        let endpoint = endpoint.map_err(|_| self.odd("has a name that is none"))?;
        let channel = timeout(CONNECT_TIMEOUT, endpoint.connect_with_connector(connector)).await;
        match channel {
            Ok(Ok(channel)) => Ok(ReversePortForwardServiceClient::new(channel)
                .max_decoding_message_size(LONGEST_ANSWER)),
            Ok(Err(_)) => Err(self.odd("does not speak HTTP/2")),
            Err(_) => Err(self.odd("did not answer")),
        }
    }

    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        let status = match timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => return Err(self.odd("did not answer the call in time")),
        };
        if status.metadata().contains_key(REASON_METADATA) {
            return Err(status.into());
        }
        // What was not sent by a shim at all carries the error that it came from.
        if std::error::Error::source(&status).is_some() {
            return Err(self.odd("broke off during the call"));
        }
        if status.code() == Code::Unimplemented {
            return Err(Failure::new(
                Reason::VersionUnsupported,
                format!(
                    "the shim of node {:?} does not serve the call in version {}, which this gateway speaks: use releases that go together",
                    self.route.node,
                    API_VERSIONS.join(", ")
                ),
            ));
        }
        Err(status.into())
    }

    /// Connects, and proves both ends.
    async fn connect(&self, alpn: &[u8]) -> Result<TlsStream<TcpStream>, Failure> {
        let config = self.material.client(alpn).map_err(|error| {
            tracing::error!("{error}");
            Failure::new(Reason::Internal, "the gateway's certificate cannot be used")
        })?;
        let name = ServerName::try_from(node_name(&self.route.node));
        let name = name.map_err(|_| self.odd("has a name that is none"))?;
        let connect = async {
            let io = TcpStream::connect(self.route.shim).await?;
            server::prepare(&io);
            TlsConnector::from(config).connect(name, io).await
        };
        let connected = timeout(CONNECT_TIMEOUT, connect).await;
        let io = match connected {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => return Err(self.unreachable(&error)),
            Err(_) => return Err(self.unreachable(&"it does not answer")),
        };
        if io.get_ref().1.alpn_protocol() == Some(alpn) {
            Ok(io)
        } else {
            Err(self.odd("does not speak what was asked for"))
        }
    }

    fn unreachable(&self, error: &dyn Display) -> Failure {
        let Route { node, shim, .. } = self.route;
        tracing::warn!(%node, %shim, "a shim cannot be reached: {error}");
        Failure::new(
            Reason::NodeUnavailable,
            format!(
                "the shim of node {node:?} cannot be reached by the gateway: {error}: is its pod ready, and does NetworkPolicy let the gateway connect to it?"
            ),
        )
    }

    fn odd(&self, what: &str) -> Failure {
        let Route { node, shim, .. } = self.route;
        tracing::warn!(%node, %shim, "a shim {what}");
        Failure::new(
            Reason::NodeUnavailable,
            format!(
                "the shim of node {node:?} {what}: see its log; is its release that of the gateway?"
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_of_a_url_is_the_end_of_its_path() {
        let secret = |url: &str| Secret::of_url(url).map(|secret| secret.0);
        let url = "https://n.node.reverse.sternline.dev:10251/v1alpha1/sessions/hJx3-_a";
        assert_eq!(secret(url).as_deref(), Some("hJx3-_a"));
        for other in [
            "",
            "https://host",
            "https://host/v1/sessions/a",
            "https://host/v1alpha1/sessions/a/b",
            "https://host/v1alpha1/sessions/a?b=c",
            "https://host/v1alpha1/sessions/..",
        ] {
            assert_eq!(secret(other), None, "{other}");
        }
    }

    #[test]
    fn a_ticket_leads_nowhere_else() {
        Secret::read("abc-123_X.~").expect("one");
        let long = "a".repeat(LONGEST_SECRET + 1);
        for other in [
            "", "..", ".", "a/b", "a%2fb", "a b", "a\r\nb", "ä", "a?b", "a#b", &long,
        ] {
            let refused = Secret::read(other).err().expect(other);
            assert_eq!(refused.reason, Reason::TokenUnknown);
        }
    }
}
