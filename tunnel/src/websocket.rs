//! The WebSocket form: the same bytes inside binary frames (RFC 6455).

use bytes::{Buf as _, Bytes};
use futures_util::{Sink as _, Stream as _};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message, protocol::Role, protocol::WebSocketConfig};

/// Longest message that is accepted, in bytes; a peer may choose its own
/// framing below it.
const MAX_MESSAGE: usize = 1024 * 1024;

/// Longest message that is sent, in bytes.
const MAX_SENT: usize = 64 * 1024;

/// Bytes that may wait to be written.
const WRITE_BUFFER: usize = 128 * 1024;

/// A byte stream carried in WebSocket messages. Text messages and anything else
/// that is no part of it are errors.
#[derive(Debug)]
pub struct WebSocketIo<IO> {
    inner: WebSocketStream<IO>,
    read: Bytes,
    /// The peer closed; it may be gone before our answer to that reaches it.
    closed: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> WebSocketIo<IO> {
    /// Takes over after the server's 101.
    pub async fn server(io: IO) -> Self {
        Self::new(io, Role::Server).await
    }

    /// Takes over after the client has seen the 101.
    pub async fn client(io: IO) -> Self {
        Self::new(io, Role::Client).await
    }

    async fn new(io: IO, role: Role) -> Self {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE))
            .write_buffer_size(WRITE_BUFFER / 2)
            .max_write_buffer_size(WRITE_BUFFER + MAX_SENT);
        Self {
            inner: WebSocketStream::from_raw_socket(io, role, Some(config)).await,
            read: Bytes::new(),
            closed: false,
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocketIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.read.is_empty() && !self.closed {
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(Ok(Message::Binary(data))) => self.read = data,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => {
                    self.closed = true;
                    return Poll::Ready(Ok(()));
                }
                Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the WebSocket peer sent a message that is not binary",
                    )));
                }
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
            }
        }
        let n = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read[..n]);
        self.read.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocketIo<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.inner).poll_ready(cx)).map_err(to_io)?;
        let n = buf.len().min(MAX_SENT);
        let message = Message::Binary(Bytes::copy_from_slice(&buf[..n]));
        Pin::new(&mut self.inner)
            .start_send(message)
            .map_err(to_io)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.inner).poll_flush(cx)) {
            Err(error) if !self.closed => Poll::Ready(Err(to_io(error))),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.inner).poll_close(cx)) {
            Ok(()) | Err(tungstenite::Error::ConnectionClosed) => Poll::Ready(Ok(())),
            Err(_) if self.closed => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(to_io(error))),
        }
    }
}

fn to_io(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            io::ErrorKind::BrokenPipe.into()
        }
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}
