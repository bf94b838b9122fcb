//! The cluster side of a tunnel: sends the requests.

use crate::TunnelError;
use crate::chunk::Chunk;
use crate::control::ControlStream;
use crate::keepalive::{Heard, Keepalive};
use crate::queue::Queue;
use crate::settings::{
    MAX_CHUNK, MAX_HEADER_BYTES, MAX_STRAY_FRAMES, RESET_REMEMBERED, SMALL_FRAME_BUDGET, Settings,
};
use crate::stream::{Inbound, TunnelStream, forwarded};
use crate::windows::{Load, Open, Windows};
use h2::client::{self, Connection, SendRequest};
use h2::ext::Protocol;
use http::{Method, Request, header};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};
use std::task::{Context, Poll};
use sternline_api::protocol::{CONTROL_PROTOCOL, LISTENER_HEADER};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

/// Opens streams in a tunnel. Clones share it; it closes when the last clone
/// and the last stream are gone.
#[derive(Clone)]
pub struct Dialer {
    requests: SendRequest<Chunk>,
    settings: Arc<Settings>,
    load: Arc<Load>,
    /// Set while somebody waits for SETTINGS, and told when the driver ran and
    /// so may have read them.
    waiting: Arc<AtomicBool>,
    moved: watch::Receiver<()>,
}

/// Moves a tunnel's bytes and PINGs. Spawn it; it ends with the tunnel.
#[must_use = "a tunnel stands still unless its driver runs"]
pub struct Driver<IO> {
    // Holds no handle for requests, which would keep the tunnel open for ever.
    connection: Connection<Heard<IO>, Chunk>,
    keepalive: Keepalive,
    windows: Windows,
    waiting: Arc<AtomicBool>,
    moved: watch::Sender<()>,
}

/// One accepted connection, as the workstation is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// The listener that accepted it.
    pub listener_id: u32,
    /// What that listener is bound to.
    pub bound: SocketAddr,
    /// The connecting process's address.
    pub peer: SocketAddr,
}

impl Dialer {
    /// Starts a tunnel over `io`, which has just been upgraded.
    ///
    /// # Errors
    /// The byte stream broke.
    pub async fn handshake<IO>(
        io: IO,
        settings: &Settings,
    ) -> Result<(Self, Driver<IO>), TunnelError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let (io, heard) = Heard::new(io);
        let windows = Windows::new(Arc::new(settings.clone()));
        let load = Arc::clone(windows.load());
        let handshake = client::Builder::new()
            .enable_push(false)
            .initial_window_size(windows.offered())
            .initial_connection_window_size(settings.connection_window())
            .max_frame_size(MAX_CHUNK as u32)
            .max_header_list_size(MAX_HEADER_BYTES)
            .max_send_buffer_size(settings.send_buffer())
            .data_frame_budget(SMALL_FRAME_BUDGET)
            .max_concurrent_reset_streams(settings.remembered_resets())
            .reset_stream_duration(RESET_REMEMBERED)
            .max_local_error_reset_streams(Some(MAX_STRAY_FRAMES))
            .handshake(io);
        let (requests, mut connection) = bounded(settings, "start HTTP/2", handshake).await??;
        let keepalive = Keepalive::new(connection.ping_pong(), heard, settings.ping_interval);
        let (tx, moved) = watch::channel(());
        let waiting = Arc::new(AtomicBool::new(false));
        let driver = Driver {
            connection,
            keepalive,
            windows,
            waiting: Arc::clone(&waiting),
            moved: tx,
        };
        let dialer = Self {
            requests,
            settings: Arc::new(settings.clone()),
            load,
            waiting,
            moved,
        };
        Ok((dialer, driver))
    }

    /// Opens the control stream. Messages may be sent at once; the answer is
    /// awaited by the receiver.
    ///
    /// # Errors
    /// The workstation does not offer extended CONNECT (RFC 8441) in time, or
    /// the tunnel is gone.
    pub async fn control(&self) -> Result<ControlStream, TunnelError> {
        let mut moved = self.moved.clone();
        self.waiting.store(true, SeqCst);
        bounded(&self.settings, "offer extended CONNECT", async {
            while !self.requests.is_extended_connect_protocol_enabled() {
                moved.changed().await.map_err(|_| TunnelError::Closed)?;
            }
            Ok::<_, TunnelError>(())
        })
        .await??;
        self.waiting.store(false, SeqCst);
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = http::Uri::from_static("http://session/control");
        request
            .extensions_mut()
            .insert(Protocol::from_static(CONTROL_PROTOCOL));
        let mut requests = self.ready().await?;
        let (response, send) = requests.send_request(request, false)?;
        Ok(ControlStream::new(send, Inbound::Awaiting(response)))
    }

    /// Opens the stream of one accepted connection. Bytes may be sent before
    /// the workstation answered; [`crate::relay()`] does.
    ///
    /// # Errors
    /// The tunnel is gone.
    pub async fn connect(&self, connect: ConnectRequest) -> Result<TunnelStream, TunnelError> {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(connect.bound.to_string())
            .header(LISTENER_HEADER, connect.listener_id)
            .header(header::FORWARDED, forwarded(connect.peer))
            .body(())
            // An IP address and a number always make a request.
            .map_err(|error| TunnelError::Control(error.to_string()))?;
        let mut requests = self.ready().await?;
        // Counted first, so that the peer is told before it can answer.
        let open = Open::new(&self.load);
        let (response, send) = requests.send_request(request, false)?;
        Ok(TunnelStream::new(
            send,
            Inbound::Awaiting(response),
            Queue::default(),
            open,
            &self.settings,
        ))
    }

    async fn ready(&self) -> Result<SendRequest<Chunk>, TunnelError> {
        let ready = self.requests.clone().ready();
        Ok(bounded(&self.settings, "take another stream", ready).await??)
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").finish_non_exhaustive()
    }
}

impl<IO> Future for Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Result<(), TunnelError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Poll::Ready(dead) = this.keepalive.poll_dead(cx) {
            return Poll::Ready(Err(dead));
        }
        let connection = &mut this.connection;
        this.windows.follow(&this.keepalive, |window| {
            connection.set_initial_window_size(window).is_ok()
        });
        let polled = Pin::new(&mut this.connection).poll(cx);
        // Told only to those who wait: this runs for every few frames.
        if this.waiting.load(SeqCst) {
            this.moved.send_replace(());
        }
        polled.map_err(TunnelError::from)
    }
}

/// Bounds one step of setting up.
pub(crate) async fn bounded<F: Future>(
    settings: &Settings,
    what: &'static str,
    step: F,
) -> Result<F::Output, TunnelError> {
    let within = settings.dial_timeout;
    timeout(within, step)
        .await
        .map_err(|_| TunnelError::Slow { what, within })
}
