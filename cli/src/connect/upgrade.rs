//! Turns a streaming URL into a byte stream: an HTTP/1.1 Upgrade in its raw
//! form. Nothing is sent before the 101, which proxies would lose.

use super::tls::{self, Trust};
use super::url::{Endpoint, StreamUrl};
use crate::clean::clean;
use crate::fault::{Fault, exit};
use crate::{local, span};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use sternline_api::Reason;
use sternline_api::protocol::{PROTOCOL_HEADER, STREAM_PROTOCOL, STREAM_PROTOCOLS, UPGRADE_RAW};
use sternline_tunnel::websocket::WebSocketIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::either::Either;

/// Longest response head, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;

/// Longest error body that is read, in bytes; what exceeds it is not shown.
const LONGEST_BODY: usize = 16 * 1024;

/// How long a connection that broke may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the tunnel runs over: the raw form, or the WebSocket form.
pub type ByteStream = Either<TokioIo<Upgraded>, Box<WebSocketIo<TokioIo<Upgraded>>>>;

/// Opens the byte stream at `url`, within `limit`, to a node that `trust` trusts.
///
/// # Errors
/// Nobody listens or the node cannot prove who it is (exit code 6), or the answer is not the 101 that was asked
/// for, in which case its own explanation is given.
pub async fn open(url: &StreamUrl, trust: &Trust, limit: Duration) -> Result<ByteStream, Fault> {
    timeout(limit, open_unbounded(url, trust)).await.unwrap_or_else(|_| {
        Err(Fault::no_server(format!(
            "the streaming endpoint {} did not answer within {}: --request-timeout waits longer",
            url.endpoint(),
            span::short(limit)
        )))
    })
}

async fn open_unbounded(url: &StreamUrl, trust: &Trust) -> Result<ByteStream, Fault> {
    tracing::info!(endpoint = %url.endpoint(), "connecting to the streaming endpoint");
    let unreachable = |error: io::Error| {
        Fault::no_server(format!(
            "cannot reach the streaming endpoint {}: {}: {}",
            url.endpoint(),
            crate::cause(&error),
            match url.endpoint() {
                Endpoint::Tls(..) => "is the node reachable from here?",
                _ => "is the shim still running on this machine?",
            }
        ))
    };
    match url.endpoint() {
        Endpoint::Loopback(address) => {
            let stream = TcpStream::connect(address).await.map_err(unreachable)?;
            stream.set_nodelay(true).map_err(unreachable)?;
            upgrade(stream, url).await
        }
        Endpoint::Tls(host, port) => {
            let to = (host.to_dial(), *port);
            let stream = TcpStream::connect(to).await.map_err(unreachable)?;
            stream.set_nodelay(true).map_err(unreachable)?;
            tracing::info!("checking who is there");
            let stream = trust.encrypt(stream, host, *port).await?;
            upgrade(stream, url).await
        }
        Endpoint::Unix(path) => {
            let stream = local::connect(path).await.map_err(unreachable)?;
            upgrade(stream, url).await
        }
    }
}

/// Upgrades a connection to the endpoint of `url`.
pub(crate) async fn upgrade<IO>(io: IO, url: &StreamUrl) -> Result<ByteStream, Fault>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let endpoint = url.endpoint();
    let broke_off = || {
        // What hyper says would quote the request's path, which is secret.
        Fault::new(
            exit::LOST,
            format!(
                "the streaming endpoint {endpoint} broke off before it answered: try again{}",
                match endpoint {
                    // Its reason may be lost when it closes at once.
                    Endpoint::Tls(..) => ", with --client-cert if it wants one",
                    _ => "",
                }
            ),
        )
    };
    let (mut requests, connection) = http1::Builder::new()
        .max_buf_size(LONGEST_HEAD)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|_| broke_off())?;
    // Ends by itself: with the exchange, or when the upgrade takes its place.
    let mut driver = tokio::spawn(connection.with_upgrades());
    let exchange = async {
        let request = Request::get(url.path())
            .header(header::HOST, url.host())
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, UPGRADE_RAW)
            .header(PROTOCOL_HEADER, STREAM_PROTOCOLS.join(", "))
            .body(Empty::<Bytes>::new())
            .map_err(|_| broke_off())?;
        let response = match requests.send_request(request).await {
            Ok(response) => response,
            Err(error) if error.is_parse() => {
                return Err(Fault::protocol(format!(
                    "the streaming endpoint {endpoint} does not answer in HTTP/1.1"
                )));
            }
            Err(error) => {
                let refused = match tls::refused(endpoint, &error) {
                    None => refused_early(endpoint, &mut driver).await,
                    refused => refused,
                };
                return Err(refused.unwrap_or_else(broke_off));
            }
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(endpoint, response).await);
        }
        check_switch(endpoint, response.headers())?;
        tracing::info!("the connection is upgraded");
        hyper::upgrade::on(response).await.map_err(|_| broke_off())
    };
    let upgraded = exchange.await;
    if upgraded.is_err() {
        driver.abort();
    }
    upgraded.map(|io| ByteStream::Left(TokioIo::new(io)))
}

/// What a node said about our certificate before the request was on its way: then
/// the connection has the error, and the request was merely not sent.
async fn refused_early(
    endpoint: &Endpoint,
    driver: &mut JoinHandle<hyper::Result<()>>,
) -> Option<Fault> {
    match timeout(LAST_WORDS, driver).await {
        Ok(Ok(Err(error))) => tls::refused(endpoint, &error),
        _ => None,
    }
}

/// A 101 to something else than what was asked for would be misread.
fn check_switch(endpoint: &Endpoint, headers: &HeaderMap) -> Result<(), Fault> {
    let field = |name| {
        headers
            .get(name)
            .and_then(|v: &http::HeaderValue| v.to_str().ok())
    };
    let switched = field("upgrade").is_some_and(|v| v.eq_ignore_ascii_case(UPGRADE_RAW));
    match field(PROTOCOL_HEADER) {
        _ if !switched => Err(Fault::protocol(format!(
            "the streaming endpoint {endpoint} switched to another protocol than {UPGRADE_RAW}"
        ))),
        Some(chosen) if chosen.trim() == STREAM_PROTOCOL => Ok(()),
        chosen => Err(Fault::because(
            Reason::VersionUnsupported,
            format!(
                "the streaming endpoint {endpoint} chose protocol {:?}, and sternline {} speaks {STREAM_PROTOCOL}: use releases that go together",
                clean(chosen.unwrap_or_default()),
                env!("CARGO_PKG_VERSION")
            ),
        )),
    }
}

/// What a server says with an answer other than 101.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Refusal {
    reason: String,
    message: String,
    supported: Vec<String>,
}

async fn refusal(endpoint: &Endpoint, response: Response<Incoming>) -> Fault {
    let status = response.status();
    let header = response
        .headers()
        .get(sternline_api::protocol::REASON_METADATA)
        .and_then(|value| value.to_str().ok())
        .map(ToOwned::to_owned);
    let body = match Limited::new(response.into_body(), LONGEST_BODY)
        .collect()
        .await
    {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(_) => String::new(),
    };
    explain(endpoint, status, header.as_deref(), &body)
}

fn explain(endpoint: &Endpoint, status: StatusCode, header: Option<&str>, body: &str) -> Fault {
    if status.is_redirection() {
        return Fault::protocol(format!(
            "the streaming endpoint {endpoint} redirects elsewhere ({}): that is never followed",
            status.as_u16()
        ));
    }
    let said: Refusal = serde_json::from_str(body).unwrap_or_default();
    let reason = header
        .and_then(Reason::from_label)
        .or_else(|| Reason::from_label(&said.reason))
        .unwrap_or(match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Reason::TokenUnknown,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Reason::Forbidden,
            StatusCode::BAD_REQUEST if !said.supported.is_empty() => Reason::VersionUnsupported,
            StatusCode::UPGRADE_REQUIRED => Reason::UpgradeRequired,
            StatusCode::TOO_MANY_REQUESTS => Reason::TokenLimit,
            _ => Reason::Internal,
        });
    let mut sentence = format!(
        "the streaming endpoint {endpoint} refused with {}",
        status.as_u16()
    );
    let message = if said.message.is_empty() && !body.trim_start().starts_with(['{', '<']) {
        body
    } else {
        &said.message
    };
    if !message.trim().is_empty() {
        sentence = format!("{sentence}: {}", message.trim());
    }
    if reason == Reason::VersionUnsupported {
        let supported = match said.supported.join(", ") {
            none if none.is_empty() => "other protocols".to_owned(),
            some => some,
        };
        sentence = format!(
            "{sentence}: it speaks {supported}, and sternline {} speaks {STREAM_PROTOCOL}: use releases that go together",
            env!("CARGO_PKG_VERSION")
        );
    }
    Fault::because(reason, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, header: Option<&str>, body: &str) -> Fault {
        let endpoint = Endpoint::Unix("/s".into());
        explain(
            &endpoint,
            StatusCode::from_u16(status).expect("status"),
            header,
            body,
        )
    }

    #[test]
    fn a_refusal_is_explained_in_the_servers_words() {
        let fault = said(
            404,
            None,
            r#"{"reason":"token_unknown","message":"the token is used"}"#,
        );
        assert_eq!(fault.exit, 7);
        assert!(
            fault
                .message
                .ends_with("refused with 404: the token is used"),
            "{fault}"
        );
        assert_eq!(said(404, None, "").reason, Some(Reason::TokenUnknown));
        assert_eq!(said(503, Some("feature_off"), "off").exit, 6);
        assert!(
            said(500, None, "plain words\x1b[2J")
                .message
                .ends_with("500: plain words[2J")
        );
        assert!(
            said(502, None, "<html>proxy</html>")
                .message
                .ends_with("502")
        );
    }

    #[test]
    fn no_common_version_names_both_sides() {
        let fault = said(400, None, r#"{"supported":["v9.reverse.sternline.dev"]}"#);
        assert_eq!(fault.exit, 6);
        assert!(fault.message.contains("v9.reverse"), "{fault}");
        assert!(fault.message.contains(STREAM_PROTOCOL), "{fault}");
    }

    #[test]
    fn a_redirect_is_never_followed() {
        assert!(said(302, None, "").message.contains("never followed"));
    }

    #[test]
    fn a_switch_to_something_else_is_refused() {
        let endpoint = Endpoint::Unix("/s".into());
        let mut headers = HeaderMap::new();
        assert!(check_switch(&endpoint, &headers).is_err());
        headers.insert("upgrade", "Sternline".parse().expect("value"));
        assert_eq!(
            check_switch(&endpoint, &headers)
                .expect_err("no protocol")
                .exit,
            6
        );
        headers.insert(PROTOCOL_HEADER, STREAM_PROTOCOL.parse().expect("value"));
        assert_eq!(check_switch(&endpoint, &headers), Ok(()));
    }
}
