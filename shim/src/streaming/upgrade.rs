//! The two forms of the Upgrade, and the way from HTTP/1.1 to bytes.

use crate::session::TunnelIo;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use sternline_api::protocol::{
    PROTOCOL_HEADER, STREAM_PROTOCOLS, UPGRADE_RAW, UPGRADE_WEBSOCKET, choose_protocol,
};
use sternline_api::{Failure, Reason};
use sternline_tunnel::websocket::WebSocketIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// How long a client may take to be handed over after the 101.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(10);

/// The form of an Upgrade that was agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The bytes themselves.
    Raw {
        /// The protocol chosen.
        protocol: &'static str,
    },
    /// The same bytes in binary WebSocket messages (RFC 6455).
    WebSocket {
        /// The protocol chosen.
        protocol: &'static str,
        /// Value of `Sec-WebSocket-Accept`.
        accept: String,
    },
}

impl Form {
    /// Reads what a client asks for.
    ///
    /// # Errors
    /// No Upgrade, another one, or no protocol in common.
    pub(super) fn negotiate<B>(request: &Request<B>) -> Result<Self, Failure> {
        let headers = request.headers();
        let raw = has_token(headers, &header::UPGRADE, UPGRADE_RAW);
        let websocket = has_token(headers, &header::UPGRADE, UPGRADE_WEBSOCKET);
        // RFC 9110, section 7.8: an Upgrade in an HTTP/1.0 request is ignored.
        if request.version() != Version::HTTP_11
            || !has_token(headers, &header::CONNECTION, "upgrade")
            || !(raw || websocket)
        {
            return Err(Failure::new(
                Reason::UpgradeRequired,
                "this endpoint answers an Upgrade to sternline or websocket only",
            ));
        }
        if raw {
            let name = HeaderName::from_static(PROTOCOL_HEADER);
            let protocol = choose(headers, &name)?;
            return Ok(Self::Raw { protocol });
        }
        let protocol = choose(headers, &header::SEC_WEBSOCKET_PROTOCOL)?;
        let version = headers.get(header::SEC_WEBSOCKET_VERSION);
        let key = headers.get(header::SEC_WEBSOCKET_KEY);
        match (key, version.map(HeaderValue::as_bytes)) {
            // RFC 6455, section 4.2.1: 16 bytes in base64.
            (Some(key), Some(b"13")) if key.len() == 24 => Ok(Self::WebSocket {
                protocol,
                accept: derive_accept_key(key.as_bytes()),
            }),
            _ => Err(Failure::new(
                Reason::InvalidRequest,
                "a WebSocket Upgrade needs Sec-WebSocket-Key and Sec-WebSocket-Version: 13",
            )),
        }
    }

    /// The 101.
    pub(super) fn switching_protocols(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        match self {
            Self::Raw { protocol } => {
                headers.insert(header::UPGRADE, HeaderValue::from_static(UPGRADE_RAW));
                headers.insert(PROTOCOL_HEADER, HeaderValue::from_static(protocol));
            }
            Self::WebSocket { protocol, accept } => {
                headers.insert(header::UPGRADE, HeaderValue::from_static(UPGRADE_WEBSOCKET));
                headers.insert(
                    header::SEC_WEBSOCKET_PROTOCOL,
                    HeaderValue::from_static(protocol),
                );
                // Base64 always makes a value.
                if let Ok(accept) = HeaderValue::from_str(accept) {
                    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
                }
            }
        }
        response
    }

    /// Waits for the 101 to be sent and takes the connection.
    ///
    /// # Errors
    /// The client went away, or sent bytes before it saw the 101.
    pub(super) async fn take_over<IO>(
        &self,
        upgrade: OnUpgrade,
    ) -> Result<Box<dyn TunnelIo>, Failure>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let lost = |why: String| {
            Failure::new(
                Reason::TunnelLost,
                format!("the client went away during the Upgrade: {why}"),
            )
        };
        let upgraded: Upgraded = timeout(HAND_OVER_TIMEOUT, upgrade)
            .await
            .map_err(|_| lost("it took too long".to_owned()))?
            .map_err(|error| lost(error.to_string()))?;
        let parts = upgraded
            .downcast::<TokioIo<IO>>()
            .map_err(|_| lost("its connection is of an unknown kind".to_owned()))?;
        if !parts.read_buf.is_empty() {
            return Err(Failure::new(
                Reason::ProtocolError,
                "the client sent bytes before the 101: it must wait for the answer",
            ));
        }
        let io = parts.io.into_inner();
        match self {
            Self::Raw { .. } => Ok(Box::new(io)),
            Self::WebSocket { .. } => Ok(Box::new(WebSocketIo::server(io).await)),
        }
    }
}

fn choose(headers: &HeaderMap, name: &HeaderName) -> Result<&'static str, Failure> {
    let offered: Vec<&str> = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    choose_protocol(&offered.join(",")).ok_or_else(|| {
        Failure::new(
            Reason::VersionUnsupported,
            format!(
                "no streaming protocol in common: this node speaks {}, so upgrade the older side",
                STREAM_PROTOCOLS.join(", ")
            ),
        )
    })
}

/// Whether one of the comma-separated tokens of a field is `token`, in any case
/// (RFC 9110, section 5.6.1).
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sternline_api::protocol::STREAM_PROTOCOL;

    fn headers(fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::new(());
        let headers = request.headers_mut();
        for (name, value) in fields {
            let name: HeaderName = name.parse().expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        request
    }

    fn refused(fields: &[(&str, &str)]) -> Reason {
        Form::negotiate(&headers(fields))
            .expect_err("refused")
            .reason
    }

    #[test]
    fn both_forms_are_understood_in_any_case() {
        let raw = headers(&[
            ("connection", "keep-alive, UPGRADE"),
            ("upgrade", "Sternline"),
            ("sternline-protocol", STREAM_PROTOCOL),
        ]);
        let protocol = STREAM_PROTOCOL;
        assert_eq!(Form::negotiate(&raw), Ok(Form::Raw { protocol }));
        // The example of RFC 6455, section 1.3.
        let websocket = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v0.example"),
            ("sec-websocket-protocol", STREAM_PROTOCOL),
        ]);
        let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned();
        assert_eq!(
            Form::negotiate(&websocket),
            Ok(Form::WebSocket { protocol, accept })
        );
    }

    #[test]
    fn everything_else_is_told_what_is_wrong() {
        assert_eq!(refused(&[]), Reason::UpgradeRequired);
        assert_eq!(
            refused(&[
                ("upgrade", "sternline"),
                ("sternline-protocol", STREAM_PROTOCOL)
            ]),
            Reason::UpgradeRequired,
            "without Connection: Upgrade a proxy may have passed it on by mistake"
        );
        let connection = ("connection", "upgrade");
        assert_eq!(
            refused(&[connection, ("upgrade", "SPDY/3.1")]),
            Reason::UpgradeRequired
        );
        assert_eq!(
            refused(&[connection, ("upgrade", "sternline")]),
            Reason::VersionUnsupported
        );
        assert_eq!(
            refused(&[
                connection,
                ("upgrade", "websocket"),
                ("sec-websocket-protocol", STREAM_PROTOCOL),
                ("sec-websocket-version", "13"),
            ]),
            Reason::InvalidRequest
        );
        let mut old = headers(&[
            connection,
            ("upgrade", "sternline"),
            ("sternline-protocol", STREAM_PROTOCOL),
        ]);
        *old.version_mut() = Version::HTTP_10;
        let refused = Form::negotiate(&old).expect_err("HTTP/1.0 has no Upgrade");
        assert_eq!(refused.reason, Reason::UpgradeRequired);
    }

    proptest! {
        #[test]
        fn no_field_panics(values in prop::collection::vec("[ -~]{0,60}", 5)) {
            let names = [
                "connection", "upgrade", "sternline-protocol",
                "sec-websocket-key", "sec-websocket-protocol",
            ];
            let fields: Vec<_> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
            let _ = Form::negotiate(&headers(&fields));
        }
    }
}
