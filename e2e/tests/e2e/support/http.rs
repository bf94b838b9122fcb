//! HTTP/1 as plain text over a socket, so that a story can also send what no
//! client library would.

use anyhow::{Context as _, Result};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Bound on an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer, as text.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Everything before the empty line.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Fetches a page.
///
/// # Errors
/// The server does not answer.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    send(address, request.as_bytes()).await
}

/// Sends raw bytes and reads the answer until the server closes.
///
/// # Errors
/// The server does not answer, or keeps the connection open for too long.
pub(crate) async fn send(address: SocketAddr, request: &[u8]) -> Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    // A server may answer and close before it has read everything.
    let _ = stream.write_all(request).await;
    read_answer(&mut stream).await
}

/// Reads one answer and everything after it.
///
/// # Errors
/// It is none, or does not end in time.
pub(crate) async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> Result<Answer> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes));
    let ended = read.await.context("the answer does not end")?;
    if bytes.is_empty() {
        ended.context("no answer")?;
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").context("no whole answer")?;
    Ok(Answer {
        status: status_of(head)?,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

/// Reads the head of an answer and nothing that follows it.
///
/// # Errors
/// It does not come in time.
pub(crate) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Result<Answer> {
    let read = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        std::io::Result::Ok(head)
    };
    let head = tokio::time::timeout(PATIENCE, read)
        .await
        .context("no answer")??;
    let head = String::from_utf8_lossy(&head).trim_end().to_owned();
    Ok(Answer {
        status: status_of(&head)?,
        head,
        body: String::new(),
    })
}

fn status_of(head: &str) -> Result<u16> {
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    status.with_context(|| format!("no status in {head:?}"))
}
