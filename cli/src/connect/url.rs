//! The streaming URL of a session.
//!
//! It comes from a server, and the client goes where it says. So a URL is read
//! strictly: plain HTTP to loopback or to a Unix socket, TLS to anywhere, and the
//! path of sessions. Its last segment is a token: it is never printed or logged.

use crate::fault::Fault;
use rustls::pki_types::ServerName;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use sternline_api::protocol::{SESSIONS_PATH, UNIX_SCHEME};

/// Longest URL and longest token that are read, in bytes.
const LONGEST: usize = 2048;

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A TCP port on loopback.
    Loopback(SocketAddr),
    /// TLS to any host.
    Tls(Host, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A host that a certificate can be for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(ServerName<'static>);

impl Host {
    /// As certificates are checked for it.
    pub(super) fn name(&self) -> &ServerName<'static> {
        &self.0
    }

    /// As a resolver takes it.
    pub(super) fn to_dial(&self) -> String {
        self.0.to_str().into_owned()
    }
}

/// As it stands in a URL.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ServerName::IpAddress(ip) => match IpAddr::from(*ip) {
                IpAddr::V6(ip) => write!(f, "[{ip}]"),
                IpAddr::V4(ip) => write!(f, "{ip}"),
            },
            name => f.write_str(&name.to_str()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(address) => address.fmt(f),
            Self::Tls(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where a session is streamed. Shown without its token.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamUrl {
    endpoint: Endpoint,
    token: String,
}

impl StreamUrl {
    /// Reads the URL that a server answered.
    ///
    /// # Errors
    /// A URL of another scheme, of a host that is not loopback, or of another
    /// path.
    pub fn parse(url: &str) -> Result<Self, Fault> {
        let refuse = |what: &str| {
            Err(Fault::protocol(format!(
                "the server answered with a streaming URL that {what}: it is refused"
            )))
        };
        if url.len() > LONGEST {
            return refuse("is too long");
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            return refuse("is none");
        };
        let Some((authority, _)) = rest.split_once('/') else {
            return refuse("has no path");
        };
        let endpoint = match scheme {
            "http" => match loopback(authority) {
                Some(address) => Endpoint::Loopback(address),
                None => return refuse("leads to a host other than loopback"),
            },
            "https" => match anywhere(authority) {
                Some((host, port)) => Endpoint::Tls(host, port),
                None => return refuse("names no host and port"),
            },
            UNIX_SCHEME => match socket(authority) {
                Some(path) => Endpoint::Unix(path),
                None => return refuse("names no Unix socket by an absolute path"),
            },
            _ => return refuse("is neither http, https nor http+unix"),
        };
        match rest[authority.len()..].strip_prefix(SESSIONS_PATH) {
            Some(token) if is_token(token) => Ok(Self {
                endpoint,
                token: token.to_owned(),
            }),
            _ => refuse("has another path than that of a session"),
        }
    }

    /// The same place, with a ticket instead of the token; `None` if the
    /// ticket cannot be one.
    #[must_use]
    pub fn with_ticket(&self, ticket: &str) -> Option<Self> {
        is_token(ticket).then(|| Self {
            endpoint: self.endpoint.clone(),
            token: ticket.to_owned(),
        })
    }

    /// Where to connect.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The path to request. It is secret.
    pub(super) fn path(&self) -> String {
        format!("{SESSIONS_PATH}{}", self.token)
    }

    /// The `Host` field.
    pub(super) fn host(&self) -> String {
        match &self.endpoint {
            Endpoint::Loopback(_) | Endpoint::Tls(..) => self.endpoint.to_string(),
            Endpoint::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl fmt::Debug for StreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamUrl({}, token not shown)", self.endpoint)
    }
}

/// A token or ticket is one segment of unreserved characters (RFC 3986,
/// section 2.3), and not one that a path would swallow.
fn is_token(text: &str) -> bool {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    !text.is_empty()
        && text.len() <= LONGEST
        && text.bytes().all(unreserved)
        && !matches!(text, "." | "..")
}

fn loopback(authority: &str) -> Option<SocketAddr> {
    let address = match authority.strip_prefix("localhost:") {
        Some(port) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.parse().ok()?),
        None => authority.parse().ok()?,
    };
    let plain = match address {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(v6) => v6.scope_id() == 0,
    };
    let ip: IpAddr = address.ip();
    (plain && ip.is_loopback() && address.port() != 0).then_some(address)
}

/// A DNS name or an address, and a port.
fn anywhere(authority: &str) -> Option<(Host, u16)> {
    let (host, port) = authority.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|ip| ip.contains(':'))?,
        // More colons are an IPv6 address without its brackets.
        None if host.contains(':') => return None,
        None => host,
    };
    let name = ServerName::try_from(bare.to_owned()).ok()?;
    Some((Host(name), port))
}

fn socket(authority: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(authority.len());
    let mut rest = authority.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = rest else {
            return None;
        };
        let digit = |b: u8| char::from(b).to_digit(16);
        bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
        rest = tail;
    }
    let path = String::from_utf8(bytes).ok()?;
    let absolute = Path::new(&path).is_absolute() && !path.contains('\0');
    absolute.then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn loopback_unix_sockets_and_tls_are_followed() {
        for (url, endpoint) in [
            (
                "http://127.0.0.1:41234/v1alpha1/sessions/abc-_9",
                "127.0.0.1:41234",
            ),
            ("http://localhost:80/v1alpha1/sessions/abc", "127.0.0.1:80"),
            ("http://[::1]:80/v1alpha1/sessions/abc", "[::1]:80"),
            (
                "https://node-1.example:443/v1alpha1/sessions/abc",
                "node-1.example:443",
            ),
            ("https://10.0.0.1:1/v1alpha1/sessions/abc", "10.0.0.1:1"),
            (
                "https://[2001:db8::1]:443/v1alpha1/sessions/abc",
                "[2001:db8::1]:443",
            ),
            (
                "http+unix://%2Frun%2Fstern%20line%2fs.sock/v1alpha1/sessions/abc",
                "unix:/run/stern line/s.sock",
            ),
        ] {
            let url = StreamUrl::parse(url).expect(url);
            assert_eq!(url.endpoint().to_string(), endpoint);
            assert!(url.path().starts_with("/v1alpha1/sessions/abc"));
        }
    }

    #[test]
    fn everywhere_else_is_refused() {
        for url in [
            "",
            "127.0.0.1:80/v1alpha1/sessions/a",
            "http://10.0.0.1:80/v1alpha1/sessions/a",
            "http://example.com:80/v1alpha1/sessions/a",
            "http://127.0.0.1.example.com:80/v1alpha1/sessions/a",
            "http://127.0.0.1:80@example.com:80/v1alpha1/sessions/a",
            "http://localhost:80@example.com/v1alpha1/sessions/a",
            "http://[::ffff:10.0.0.1]:80/v1alpha1/sessions/a",
            "http://127.0.0.1/v1alpha1/sessions/a",
            "http://127.0.0.1:0/v1alpha1/sessions/a",
            "https://node-1/v1alpha1/sessions/a",
            "https://node-1:0/v1alpha1/sessions/a",
            "https://:443/v1alpha1/sessions/a",
            "https://2001:db8::1:443/v1alpha1/sessions/a",
            "https://[node-1]:443/v1alpha1/sessions/a",
            "https://a@node-1:443/v1alpha1/sessions/a",
            "https://a%62:443/v1alpha1/sessions/a",
            "https://node-1:443?x/v1alpha1/sessions/a",
            "https://node-1:443/other/a",
            "file:///etc/passwd",
            "http://127.0.0.1:80",
            "http://127.0.0.1:80/",
            "http://127.0.0.1:80/v1alpha1/sessions/",
            "http://127.0.0.1:80/v1alpha1/sessions/..",
            "http://127.0.0.1:80/v1alpha1/sessions/a/b",
            "http://127.0.0.1:80/v1alpha1/sessions/a?b",
            "http://127.0.0.1:80/v1alpha1/sessions/a HTTP/1.1\r\nX: y",
            "http://127.0.0.1:80/other/a",
            "http+unix://run%2Fs.sock/v1alpha1/sessions/a",
            "http+unix://%2Frun%2/v1alpha1/sessions/a",
            "http+unix://%2Frun%00/v1alpha1/sessions/a",
        ] {
            assert!(StreamUrl::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn the_token_is_shown_nowhere() {
        let url = StreamUrl::parse("http://127.0.0.1:80/v1alpha1/sessions/SECRET").expect("reads");
        assert!(!format!("{url:?} {}", url.endpoint()).contains("SECRET"));
        let fault = StreamUrl::parse("http://h/v1alpha1/sessions/SECRET").expect_err("refused");
        assert!(!fault.message.contains("SECRET"));
    }

    #[test]
    fn a_ticket_takes_the_place_of_the_token_and_nothing_else() {
        let url = StreamUrl::parse("http://127.0.0.1:80/v1alpha1/sessions/a").expect("reads");
        let again = url.with_ticket("t-1").expect("a ticket");
        assert_eq!(again.path(), "/v1alpha1/sessions/t-1");
        assert_eq!(again.endpoint(), url.endpoint());
        for bad in ["", "..", "a/b", "a b", "a\r\nX: y", "a?b", "ü"] {
            assert_eq!(url.with_ticket(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_followed_in_clear_text_is_loopback_or_a_socket(
            url in "(http|http\\+unix|https)://[a-z0-9.:\\[\\]%@]{0,30}/(v1alpha1/sessions/)?[a-z0-9/?.]{0,10}|.{0,60}",
        ) {
            if let Ok(read) = StreamUrl::parse(&url) {
                match read.endpoint() {
                    Endpoint::Tls(..) => prop_assert!(url.starts_with("https://")),
                    Endpoint::Loopback(address) => prop_assert!(address.ip().is_loopback()),
                    Endpoint::Unix(path) => prop_assert!(path.is_absolute()),
                }
            }
        }
    }
}
