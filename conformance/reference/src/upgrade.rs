//! The streaming endpoint: HTTP/1.1 up to the 101.

use crate::{node::Node, tunnel, websocket};
use serde_json::json;
use std::{collections::HashMap, io, sync::Arc, time::Duration};
use sternline_api::{
    Reason,
    protocol::{SESSIONS_PATH, STREAM_PROTOCOL},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// What a tunnel runs over.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
pub(crate) type Io = Box<dyn Duplex>;

/// Serves until the program ends.
pub(crate) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, node: Arc<Node>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, node) = (tls.clone(), Arc::clone(&node));
        tokio::spawn(async move {
            // A client that goes away is not worth a word.
            let _ = open(stream, tls, &node).await;
        });
    }
}

async fn open(stream: TcpStream, tls: Option<TlsAcceptor>, node: &Arc<Node>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match tls {
        Some(tls) => one(Box::new(tls.accept(stream).await?), node).await,
        None => one(Box::new(stream), node).await,
    }
}

async fn one(mut stream: Io, node: &Arc<Node>) -> io::Result<()> {
    let most = if node.faults.has("short-head") {
        8 * 1024
    } else {
        64 * 1024
    };
    let mut bytes = Vec::with_capacity(64 * 1024);
    let end = loop {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_buf(&mut bytes));
        if read.await?? == 0 {
            return Ok(());
        }
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if bytes.len() > most || node.faults.has("one-read-head") {
            return refuse(stream, 431, Reason::InvalidRequest, "", "").await;
        }
    };
    if end > most {
        return refuse(stream, 431, Reason::InvalidRequest, "", "").await;
    }
    let early = bytes.len() > end;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or("").split(' ');
    let (method, path) = (
        words.next().unwrap_or(""),
        words.next().unwrap_or("").to_owned(),
    );
    let fields: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let field = |name: &str| fields.get(name).map_or("", String::as_str);

    let faults = &node.faults;
    let Some(token) = path.strip_prefix(SESSIONS_PATH) else {
        return refuse(
            stream,
            404,
            Reason::TokenUnknown,
            "no such path",
            if faults.has("path-plain-404") {
                "plain"
            } else {
                ""
            },
        )
        .await;
    };
    if method != "GET" {
        let status = if faults.has("put-is-404") { 404 } else { 405 };
        return refuse(stream, status, Reason::InvalidRequest, "only GET", "").await;
    }
    let connection = field("connection").to_ascii_lowercase();
    let listed = match faults.has("connection-exact") {
        true => connection == "upgrade",
        false => connection.split(',').any(|word| word.trim() == "upgrade"),
    };
    let to = match faults.has("case-sensitive") {
        true => field("upgrade").to_owned(),
        false => field("upgrade").to_ascii_lowercase(),
    };
    if !listed || !["sternline", "websocket"].contains(&to.as_str()) {
        if faults.has("plain-consumes") {
            node.consume(token);
        }
        if to == "h2c" && faults.has("other-upgrade-400") {
            return refuse(stream, 400, Reason::InvalidRequest, "not an Upgrade", "").await;
        }
        let extra = if faults.has("426-without-list") {
            ""
        } else {
            "Upgrade: sternline, websocket\r\n"
        };
        return refuse(
            stream,
            426,
            Reason::UpgradeRequired,
            "not an Upgrade",
            extra,
        )
        .await;
    }
    let websocket = to == "websocket";
    let offered = field(if websocket {
        "sec-websocket-protocol"
    } else {
        "sternline-protocol"
    });
    if !offered
        .split(',')
        .any(|name| name.trim() == STREAM_PROTOCOL)
    {
        if faults.has("version-consumes") {
            node.consume(token);
        }
        let extra = if faults.has("no-supported-list") {
            "unlisted"
        } else {
            ""
        };
        return refuse(
            stream,
            400,
            Reason::VersionUnsupported,
            "no common protocol",
            extra,
        )
        .await;
    }
    let Some(pass) = node.consume(token) else {
        let status = if node.was_issued(token) || !faults.has("token-unknown-410") {
            404
        } else {
            410
        };
        return refuse(
            stream,
            status,
            Reason::TokenUnknown,
            "the token is unknown",
            "",
        )
        .await;
    };
    let whole = field("sec-websocket-version") == "13" && fields.contains_key("sec-websocket-key");
    if websocket && !whole && !faults.has("ws-key-unchecked") {
        return refuse(
            stream,
            400,
            Reason::InvalidRequest,
            "not a WebSocket handshake",
            "",
        )
        .await;
    }
    if early && !faults.has("early-bytes-taken") {
        pass.session.end(Reason::ProtocolError).await;
        return Ok(());
    }
    let chosen = match faults.has("version-of-client") {
        true => offered.split(',').next().unwrap_or(STREAM_PROTOCOL).trim(),
        false => STREAM_PROTOCOL,
    };
    let mut answer = String::from("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n");
    if websocket || !faults.has("101-without-upgrade") {
        answer += &format!("Upgrade: {to}\r\n");
    }
    if websocket {
        answer += &format!(
            "Sec-WebSocket-Accept: {}\r\n",
            derive_accept_key(field("sec-websocket-key").as_bytes())
        );
        if !faults.has("ws-no-protocol") {
            answer += &format!("Sec-WebSocket-Protocol: {chosen}\r\n");
        }
    } else {
        answer += &format!("Sternline-Protocol: {chosen}\r\n");
    }
    stream.write_all((answer + "\r\n").as_bytes()).await?;
    let io: Io = match websocket {
        true => Box::new(websocket::wrap(stream, Arc::clone(faults))),
        false => stream,
    };
    tunnel::run(io, Arc::clone(node), pass).await;
    Ok(())
}

async fn refuse(
    mut stream: Io,
    status: u16,
    reason: Reason,
    message: &str,
    extra: &str,
) -> io::Result<()> {
    let mut body = json!({"reason": reason.label(), "message": message});
    if reason == Reason::VersionUnsupported && extra != "unlisted" {
        body["supported"] = json!([STREAM_PROTOCOL]);
    }
    let fields = if extra.ends_with('\n') { extra } else { "" };
    let kind = if extra == "plain" {
        "text/plain"
    } else {
        "application/json"
    };
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} Refused\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{fields}\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await
}
