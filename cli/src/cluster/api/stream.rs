//! The stream of a session, in the WebSocket form: the one that API servers
//! promise to let through.

use super::{Api, Ask, GROUP, VERSION, status};
use crate::clean::clean;
use crate::connect::ByteStream;
use crate::fault::Fault;
use bytes::Bytes;
use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::IgnoredAny;
use std::fmt;
use std::time::Duration;
use sternline_api::Reason;
use sternline_api::listen::Listen;
use sternline_api::protocol::{
    STREAM_PROTOCOL, STREAM_PROTOCOLS, TICKET_HEADER, UPGRADE_WEBSOCKET,
};
use sternline_tunnel::websocket::WebSocketIo;
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

/// What stands for itself in a query (RFC 3986, section 2.3).
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What a listener of the query begins with.
const LISTEN: &str = "listen=";

/// Where the session of a pod is streamed. Shown without its ticket.
#[derive(Clone, PartialEq, Eq)]
pub struct PodWay {
    path: String,
    ticket: Option<String>,
}

impl PodWay {
    /// A new session in this pod, of this uid if it is known.
    #[must_use]
    pub fn new(
        (namespace, pod, uid): (&str, &str, Option<&str>),
        listeners: impl IntoIterator<Item = Listen>,
        hold: Duration,
    ) -> Self {
        let mut query: Vec<_> = listeners.into_iter().map(listening).collect();
        query.push(format!("hold={}ms", hold.as_millis()));
        query.extend(uid.map(|uid| format!("uid={}", encoded(uid))));
        let path = format!(
            "/apis/{GROUP}/{VERSION}/namespaces/{}/pods/{}/portforward?{}",
            encoded(namespace),
            encoded(pod),
            query.join("&")
        );
        Self { path, ticket: None }
    }

    /// A new session in the same place, with these listeners.
    #[must_use]
    pub fn anew(&self, listeners: impl IntoIterator<Item = Listen>) -> Self {
        let (path, query) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let rest = query.split('&').filter(|one| !one.starts_with(LISTEN));
        let query: Vec<_> = listeners.into_iter().map(listening).collect();
        let query: Vec<_> = query.iter().map(String::as_str).chain(rest).collect();
        Self {
            path: format!("{path}?{}", query.join("&")),
            ticket: None,
        }
    }

    /// The same place, for who has a ticket; `None` if it cannot be one.
    #[must_use]
    pub fn with_ticket(&self, ticket: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_graphic();
        let is_one = !ticket.is_empty() && ticket.len() <= 1024 && ticket.bytes().all(plain);
        is_one.then(|| Self {
            path: self.path.clone(),
            ticket: Some(ticket.to_owned()),
        })
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// How a listener is asked for in the query.
fn listening(listen: Listen) -> String {
    format!("{LISTEN}{}", encoded(&listen.to_string()))
}

impl fmt::Debug for PodWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PodWay({}, ticket not shown)", self.path)
    }
}

impl Api {
    /// Opens the stream of a session, within `limit`.
    ///
    /// # Errors
    /// What the API server or the gateway refused, or that none is reached (exit
    /// code 6).
    pub async fn open(&self, way: &PodWay, limit: Duration) -> Result<ByteStream, Fault> {
        let key = generate_key();
        let ask = Ask {
            method: Method::GET,
            path: &way.path,
            headers: fields(&key, way.ticket.as_deref())?,
            body: Bytes::new(),
        };
        let (response, _connection, deadline) = self.send(&ask, limit).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let code = response.status();
            let body = self.body(response, deadline).await?;
            if code.is_redirection() || code.is_success() {
                return Err(Fault::protocol(format!(
                    "the server {} answered {code} in place of a stream",
                    self.access.server
                )));
            }
            let refused = status::refused(&way.path, code, &body);
            if code == StatusCode::FORBIDDEN && refused.reason.is_none() && !self.is_served().await
            {
                return Err(status::not_installed());
            }
            return Err(refused);
        }
        check_switch(response.headers(), &key)?;
        tracing::info!("the connection is upgraded");
        let upgraded = hyper::upgrade::on(response).await;
        let upgraded = upgraded.map_err(|error| self.unreachable(&super::broken(&error)))?;
        let stream = WebSocketIo::client(TokioIo::new(upgraded)).await;
        Ok(ByteStream::Right(Box::new(stream)))
    }

    /// Whether the group is there, which everybody may ask. The API server refuses
    /// whoever has no right to it before it looks.
    async fn is_served(&self) -> bool {
        let found: Result<IgnoredAny, Fault> = self.get(&format!("/apis/{GROUP}/{VERSION}")).await;
        found.err() != Some(status::not_installed())
    }
}

fn fields(key: &str, ticket: Option<&str>) -> Result<HeaderMap, Fault> {
    let wrong = |_| Fault::protocol("the server sent a ticket that no header can carry");
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(UPGRADE_WEBSOCKET));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(
        SEC_WEBSOCKET_KEY,
        HeaderValue::try_from(key).map_err(wrong)?,
    );
    let offered = HeaderValue::try_from(STREAM_PROTOCOLS.join(", ")).map_err(wrong)?;
    headers.insert(SEC_WEBSOCKET_PROTOCOL, offered);
    if let Some(ticket) = ticket {
        let mut value = HeaderValue::try_from(ticket).map_err(wrong)?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_static(TICKET_HEADER), value);
    }
    Ok(headers)
}

/// A 101 to something else than what was asked for would be misread.
fn check_switch(headers: &HeaderMap, key: &str) -> Result<(), Fault> {
    let field = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let switched = field(UPGRADE).is_some_and(|v| v.eq_ignore_ascii_case(UPGRADE_WEBSOCKET));
    let accepted = field(SEC_WEBSOCKET_ACCEPT).map(str::trim);
    if !switched || accepted != Some(derive_accept_key(key.as_bytes()).as_str()) {
        return Err(Fault::protocol(
            "the server switched to another protocol than the WebSocket that was asked for",
        ));
    }
    match field(SEC_WEBSOCKET_PROTOCOL).map(str::trim) {
        Some(STREAM_PROTOCOL) => Ok(()),
        chosen => Err(Fault::because(
            Reason::VersionUnsupported,
            format!(
                "the cluster chose protocol {:?}, and sternline {} speaks {STREAM_PROTOCOL}: use releases that go together",
                clean(chosen.unwrap_or_default()),
                env!("CARGO_PKG_VERSION")
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse_all;

    fn way(specs: &[&str], uid: Option<&str>) -> PodWay {
        let specs = parse_all(specs).expect("specs");
        let listeners = specs.iter().map(|spec| spec.listen);
        PodWay::new(
            ("shop", "web-0", uid),
            listeners,
            Duration::from_millis(1500),
        )
    }

    #[test]
    fn a_session_is_asked_for_in_the_url() {
        assert_eq!(
            way(&["9003", "[::1]:0:80"], Some("u-1")).path,
            "/apis/reverse.sternline.dev/v1alpha1/namespaces/shop/pods/web-0/portforward?listen=localhost%3A9003&listen=%5B%3A%3A1%5D%3A0&hold=1500ms&uid=u-1"
        );
        let hostile = PodWay::new(("a/../b", "c?d", None), [], Duration::ZERO);
        assert!(
            hostile
                .path
                .contains("/namespaces/a%2F..%2Fb/pods/c%3Fd/portforward?hold=0ms")
        );
    }

    #[test]
    fn a_new_session_asks_for_the_ports_that_there_were() {
        let first = way(&["9003", "0:80"], Some("u-1"));
        let was = parse_all(&["9003", "40001:80"]).expect("specs");
        let again = first.with_ticket("SECRET").expect("a ticket");
        let again = again.anew(was.iter().map(|spec| spec.listen));
        assert_eq!(again, way(&["9003", "40001:80"], Some("u-1")));
    }

    #[test]
    fn a_ticket_goes_into_a_header_and_is_shown_nowhere() {
        let first = way(&["9003"], None);
        let again = first.with_ticket("SECRET").expect("a ticket");
        assert_eq!(again.path, first.path);
        assert!(!format!("{again:?}").contains("SECRET"));
        let headers = fields("k", again.ticket.as_deref()).expect("fields");
        assert!(headers[TICKET_HEADER].is_sensitive());
        for bad in ["", "a b", "a\r\nX: y", "ü"] {
            assert_eq!(first.with_ticket(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_switch_to_something_else_is_refused() {
        let mut headers = HeaderMap::new();
        assert!(check_switch(&headers, "k").is_err());
        headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static("x"));
        headers.insert(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(STREAM_PROTOCOL),
        );
        assert!(check_switch(&headers, "k").is_err(), "another's answer");
        let accept = HeaderValue::try_from(derive_accept_key(b"k")).expect("a value");
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        assert_eq!(check_switch(&headers, "k"), Ok(()));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("v9"));
        let fault = check_switch(&headers, "k").expect_err("another version");
        assert_eq!(fault.exit, 6);
    }
}
