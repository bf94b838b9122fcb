//! HTTP/1.1 up to the 101, byte by byte (§3).

use super::{
    tls::{ALPN, Trust},
    tunnel::Duplex,
    websocket,
};
use crate::verdict::{Step, check, failed, skip, within};
use std::{io, time::Duration};
use sternline_api::protocol::{STREAM_PROTOCOL, UNIX_SCHEME};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

pub(crate) use websocket::{Socket, WEBSOCKET_ACCEPT, WEBSOCKET_KEY};

/// What HTTP is spoken over.
#[derive(Clone, Debug)]
enum Over {
    Tcp,
    Unix,
    Tls(Trust),
}

/// Where a URL leads.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// `ADDRESS:PORT`, or the path of a Unix socket.
    pub(crate) host: String,
    over: Over,
    /// With the token at its end.
    pub(crate) path: String,
}

impl Place {
    /// Takes a URL of the call apart.
    pub(crate) fn parse(url: &str, trust: &Trust) -> Step<Self> {
        let expected =
            "http:// or https://ADDRESS:PORT/v1alpha1/sessions/TOKEN, or http+unix://PATH/...";
        let parts = url.split_once("://").and_then(|(scheme, rest)| {
            let slash = rest.find('/')?;
            Some((scheme, &rest[..slash], &rest[slash..]))
        });
        let Some((scheme, host, path)) = parts else {
            return failed(expected, url);
        };
        let over = match scheme {
            "http" => Over::Tcp,
            "https" => {
                trust.suffices(url)?;
                Over::Tls(trust.clone())
            }
            UNIX_SCHEME => Over::Unix,
            _ => return failed(expected, url),
        };
        Ok(Self {
            host: match over {
                Over::Unix => percent(host),
                _ => host.into(),
            },
            over,
            path: path.into(),
        })
    }

    /// What follows the last slash.
    pub(crate) fn token(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or("")
    }

    /// The same endpoint with another token or ticket.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        let stem = self.path.rfind('/').map_or("", |at| &self.path[..=at]);
        Self {
            path: format!("{stem}{token}"),
            ..self.clone()
        }
    }

    /// Connects to the streaming endpoint.
    pub(crate) async fn connect(&self) -> io::Result<Box<dyn Duplex>> {
        if matches!(self.over, Over::Unix) {
            return Ok(Box::new(UnixStream::connect(&self.host).await?));
        }
        let stream = TcpStream::connect(&self.host).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.over {
            Over::Tls(trust) => Box::new(trust.open(&self.host, stream).await?),
            Over::Tcp | Over::Unix => Box::new(stream),
        })
    }

    /// The same endpoint in clear text. Skips the spec where it is none of TLS.
    pub(crate) fn in_clear(&self) -> Step<Self> {
        self.is_tls()?;
        Ok(Self {
            over: Over::Tcp,
            ..self.clone()
        })
    }

    /// Whether the node agreed to HTTP/1.1 above TLS. Skips the spec where the
    /// endpoint is none of TLS.
    pub(crate) async fn agrees(&self) -> Step<bool> {
        let trust = self.is_tls()?;
        let opened = async {
            let stream = TcpStream::connect(&self.host).await?;
            let opened = trust.open(&self.host, stream).await?;
            Ok::<_, io::Error>(opened.get_ref().1.alpn_protocol() == Some(ALPN))
        };
        match opened.await {
            Ok(agreed) => Ok(agreed),
            Err(error) => failed("TLS 1.3, and a certificate for its host", error.to_string()),
        }
    }

    fn is_tls(&self) -> Step<&Trust> {
        match &self.over {
            Over::Tls(trust) => Ok(trust),
            Over::Tcp | Over::Unix => skip("the URL is not https"),
        }
    }

    /// Headers of a request in the raw form.
    pub(crate) fn raw(&self) -> String {
        self.request(&[
            ("Connection", "Upgrade"),
            ("Upgrade", "sternline"),
            ("Sternline-Protocol", STREAM_PROTOCOL),
        ])
    }

    /// Headers of a request in the WebSocket form.
    pub(crate) fn websocket(&self) -> String {
        self.request(&[
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", WEBSOCKET_KEY),
            ("Sec-WebSocket-Protocol", STREAM_PROTOCOL),
        ])
    }

    /// A GET with these fields.
    pub(crate) fn request(&self, fields: &[(&str, &str)]) -> String {
        let host = match self.over {
            Over::Unix => "localhost",
            Over::Tcp | Over::Tls(_) => &self.host,
        };
        let mut head = format!("GET {} HTTP/1.1\r\nHost: {host}\r\n", self.path);
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head + "\r\n"
    }

    /// Sends a request and reads the answer.
    pub(crate) async fn ask(&self, request: &[u8], patience: Duration) -> Step<Answer> {
        self.ask_in_pieces(&[request], patience).await
    }

    /// The same, with the request in several writes.
    pub(crate) async fn ask_in_pieces(&self, pieces: &[&[u8]], patience: Duration) -> Step<Answer> {
        let mut io = match self.connect().await {
            Ok(io) => io,
            Err(error) => return failed("the URL accepts connections", error.to_string()),
        };
        let read = async {
            for piece in pieces {
                io.write_all(piece).await?;
                if pieces.len() > 1 {
                    tokio::time::sleep(Duration::from_millis(40)).await;
                }
            }
            read_answer(&mut io).await
        };
        match within(patience, "an HTTP/1.1 response", read).await? {
            Ok((status, fields, rest)) => Ok(Answer {
                status,
                fields,
                rest,
                io,
            }),
            Err(error) => failed("an HTTP/1.1 response", error.to_string()),
        }
    }
}

fn percent(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = std::str::from_utf8(after.get(..2).unwrap_or(&[])).unwrap_or("");
        match (first, u8::from_str_radix(hex, 16)) {
            (b'%', Ok(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The answer to an Upgrade.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    /// What followed the blank line so far.
    pub(crate) rest: Vec<u8>,
    pub(crate) io: Box<dyn Duplex>,
}

impl Answer {
    /// A field by its name, in lower case.
    pub(crate) fn field(&self, name: &str) -> &str {
        let found = self.fields.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }

    /// Fails unless it is a 101.
    pub(crate) fn switched(self) -> Step<Self> {
        let seen = format!("{} {}", self.status, String::from_utf8_lossy(&self.rest));
        check(self.status == 101, "101 Switching Protocols", seen)?;
        Ok(self)
    }

    /// The JSON body of a refusal, after which the connection is closed.
    pub(crate) async fn refusal(mut self, patience: Duration) -> Step<serde_json::Value> {
        let kind = self.field("content-type").to_owned();
        let expected = "a refusal: Content-Type application/json, then the connection is closed";
        check(kind.starts_with("application/json"), expected, kind)?;
        let mut body = std::mem::take(&mut self.rest);
        let rest = within(patience, expected, self.io.read_to_end(&mut body)).await?;
        if let Err(error) = rest {
            return failed(expected, format!("the connection broke: {error}"));
        }
        match serde_json::from_slice(&body) {
            Ok(json) => Ok(json),
            Err(error) => failed("a JSON body", format!("{error}: {body:?}")),
        }
    }
}

type Head = (u16, Vec<(String, String)>, Vec<u8>);

async fn read_answer(io: &mut Box<dyn Duplex>) -> io::Result<Head> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if io.read_buf(&mut bytes).await? == 0 || bytes.len() > 65_536 {
            return Err(io::Error::other("the connection ended before a response"));
        }
    };
    let rest = bytes.split_off(end + 4);
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = head.lines();
    let status = lines.next().unwrap_or("").split(' ').nth(1);
    let status = status.and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("no status line"))?;
    let fields = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok((status, fields, rest))
}

#[cfg(test)]
mod tests {
    use super::{super::tls::TlsSettings, *};
    use crate::verdict::Verdict;

    #[test]
    fn urls_of_both_kinds_are_taken_apart() {
        let trust = Trust::load(&TlsSettings::default()).expect("nothing to read");
        let parse = |url: &str| Place::parse(url, &trust);
        let tcp = parse("http://127.0.0.1:8000/v1alpha1/sessions/abc").expect("tcp");
        assert_eq!((tcp.host.as_str(), tcp.token()), ("127.0.0.1:8000", "abc"));
        assert_eq!(tcp.with_token("x").path, "/v1alpha1/sessions/x");
        let unix = parse("http+unix://%2Frun%2Fs.sock/v1alpha1/sessions/abc");
        assert_eq!(unix.expect("unix").host, "/run/s.sock");
        assert!(matches!(parse("https://a/b"), Err(Verdict::Environment(_))));
        assert!(parse("nonsense").is_err());
    }
}
