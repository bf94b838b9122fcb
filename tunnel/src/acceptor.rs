//! The workstation side of a tunnel: serves the requests.

use crate::TunnelError;
use crate::chunk::Chunk;
use crate::control::ControlStream;
use crate::dialer::bounded;
use crate::keepalive::{Heard, Keepalive};
use crate::queue::Queue;
use crate::settings::{
    MAX_CHUNK, MAX_HEADER_BYTES, MAX_STRAY_FRAMES, RESET_REMEMBERED, SMALL_FRAME_BUDGET, Settings,
};
use crate::stream::{
    Drained, Inbound, PROXY_STATUS, TunnelStream, drain, forwarded_for, proxy_status,
};
use crate::windows::{Open, Windows};
use h2::RecvStream;
use h2::ext::Protocol;
use h2::server::{self, Connection, SendResponse};
use http::{Method, Request, Response, StatusCode, header, request};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use sternline_api::Reason;
use sternline_api::protocol::{CONTROL_PROTOCOL, LISTENER_HEADER};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// How long [`Acceptor::close`] waits for the last bytes to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves a tunnel.
pub struct Acceptor<IO> {
    connection: Connection<Heard<IO>, Chunk>,
    keepalive: Keepalive,
    windows: Windows,
    settings: Arc<Settings>,
}

/// What came through a tunnel.
#[derive(Debug)]
pub enum Incoming {
    /// The control stream of the session, answered already.
    Control(ControlStream),
    /// A connection that a process in the pod opened.
    Stream(Box<IncomingStream>),
}

impl<IO> Acceptor<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// Serves a tunnel over `io`, which has just been upgraded.
    ///
    /// # Errors
    /// The byte stream broke, or the peer does not speak HTTP/2.
    pub async fn handshake(io: IO, settings: &Settings) -> Result<Self, TunnelError> {
        let streams = settings.max_streams.saturating_add(1);
        let (io, heard) = Heard::new(io);
        let settings = Arc::new(settings.clone());
        let windows = Windows::new(Arc::clone(&settings));
        let handshake = server::Builder::new()
            .enable_connect_protocol()
            .max_concurrent_streams(streams)
            .initial_window_size(windows.offered())
            .initial_connection_window_size(settings.connection_window())
            .max_frame_size(MAX_CHUNK as u32)
            .max_header_list_size(MAX_HEADER_BYTES)
            .max_send_buffer_size(settings.send_buffer())
            // The default of 20 would let a port scanner in the pod end the
            // tunnel. The node has no more than `streams` open at a time.
            .max_pending_accept_reset_streams(streams as usize * 2)
            .data_frame_budget(SMALL_FRAME_BUDGET)
            .max_concurrent_reset_streams(settings.remembered_resets())
            .reset_stream_duration(RESET_REMEMBERED)
            .max_local_error_reset_streams(Some(MAX_STRAY_FRAMES))
            .handshake(io);
        let mut connection = bounded(&settings, "start HTTP/2", handshake).await??;
        let keepalive = Keepalive::new(connection.ping_pong(), heard, settings.ping_interval);
        Ok(Self {
            connection,
            keepalive,
            windows,
            settings,
        })
    }

    /// The next request; `None` when the peer closed the tunnel. The tunnel
    /// moves only while this is being awaited. Cancel safe.
    ///
    /// # Errors
    /// The tunnel broke, or the peer answers no PING.
    pub async fn next(&mut self) -> Result<Option<Incoming>, TunnelError> {
        loop {
            let accepted = poll_fn(|cx| {
                if let Poll::Ready(dead) = self.keepalive.poll_dead(cx) {
                    return Poll::Ready(Err(dead));
                }
                let connection = &mut self.connection;
                self.windows.follow(&self.keepalive, |window| {
                    connection.set_initial_window_size(window).is_ok()
                });
                self.connection
                    .poll_accept(cx)
                    .map(|accepted| accepted.transpose().map_err(TunnelError::from))
            })
            .await?;
            let Some((request, respond)) = accepted else {
                return Ok(None);
            };
            if let Some(incoming) = self.classify(request, respond) {
                return Ok(Some(incoming));
            }
        }
    }

    /// Ends the tunnel after what was sent so far, within a second.
    pub async fn close(mut self) {
        self.connection.graceful_shutdown();
        let _ = timeout(CLOSE_TIMEOUT, poll_fn(|cx| self.connection.poll_closed(cx))).await;
    }

    fn classify(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Chunk>,
    ) -> Option<Incoming> {
        let (head, body) = request.into_parts();
        if head.method != Method::CONNECT {
            answer(&mut respond, StatusCode::METHOD_NOT_ALLOWED, None);
            return None;
        }
        match head.extensions.get::<Protocol>() {
            None => Some(Incoming::Stream(Box::new(IncomingStream {
                head,
                body,
                respond,
                queue: Queue::default(),
                open: Open::new(self.windows.load()),
                settings: Arc::clone(&self.settings),
            }))),
            Some(protocol) if protocol.as_str() == CONTROL_PROTOCOL => {
                // Fails on a stream that was reset already, which is no fault of
                // the tunnel.
                let send = respond.send_response(Response::new(()), false).ok()?;
                let control = ControlStream::new(send, Inbound::Open(body));
                Some(Incoming::Control(control))
            }
            // RFC 9220, section 3: an unknown :protocol is not implemented.
            Some(_) => {
                answer(&mut respond, StatusCode::NOT_IMPLEMENTED, None);
                None
            }
        }
    }
}

impl<IO> std::fmt::Debug for Acceptor<IO> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

/// A connection that waits to be accepted or rejected. Dropping it resets it.
#[derive(Debug)]
pub struct IncomingStream {
    head: request::Parts,
    body: RecvStream,
    respond: SendResponse<Chunk>,
    queue: Queue,
    open: Open,
    settings: Arc<Settings>,
}

impl IncomingStream {
    /// The listener that accepted the connection, if the node named one.
    #[must_use]
    pub fn listener_id(&self) -> Option<u32> {
        let value = self.head.headers.get(LISTENER_HEADER)?;
        value.to_str().ok()?.parse().ok()
    }

    /// What the listener is bound to, as the node says. For people: nothing may
    /// be decided by it.
    #[must_use]
    pub fn authority(&self) -> String {
        self.head
            .uri
            .authority()
            .map(ToString::to_string)
            .unwrap_or_default()
    }

    /// The connecting process's address (RFC 7239), as the node says.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        forwarded_for(self.head.headers.get(header::FORWARDED)?.to_str().ok()?)
    }

    /// Runs `wait` (the dialling of a target) and meanwhile takes in what the
    /// pod sends, within the stream's window: left alone, a flood of small
    /// frames would count against the whole tunnel. `None` when the pod reset
    /// its connection first.
    pub async fn buffer_while<F: Future>(&mut self, wait: F) -> Option<F::Output> {
        let mut wait = pin!(wait);
        let mut ended = false;
        poll_fn(|cx| {
            if let Poll::Ready(output) = wait.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            if !ended {
                match drain(&mut self.body, &mut self.queue, cx) {
                    Ok(Drained::Open) => {}
                    Ok(Drained::Ended) => ended = true,
                    Err(_) => return Poll::Ready(None),
                }
            }
            match self.respond.poll_reset(cx) {
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Answers that the target was reached.
    ///
    /// # Errors
    /// The stream or the tunnel is gone.
    pub fn accept(mut self) -> Result<TunnelStream, TunnelError> {
        let send = self.respond.send_response(Response::new(()), false)?;
        Ok(TunnelStream::new(
            send,
            Inbound::Open(self.body),
            self.queue,
            self.open,
            &self.settings,
        ))
    }

    /// Answers that the target was not reached: the reason's status, and a
    /// `Proxy-Status` (RFC 9209) with `detail` for people. The node then resets
    /// the pod's connection.
    pub fn reject(mut self, reason: Reason, detail: &str) {
        let value = proxy_status(reason, detail);
        answer(&mut self.respond, reason.http(), Some(&value));
    }
}

/// Answers without a body; a stream that is gone needs no answer.
fn answer(respond: &mut SendResponse<Chunk>, status: StatusCode, proxy_status: Option<&str>) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    if let Some(value) = proxy_status.and_then(|value| value.parse().ok()) {
        response.headers_mut().insert(PROXY_STATUS, value);
    }
    let _ = respond.send_response(response, true);
}
