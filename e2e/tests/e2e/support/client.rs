//! A client of a story's own: makes the call, redeems the token and serves the
//! tunnel, one step at a time, so that a step can be left out or done wrongly.

use super::http;
use super::node::Pod;
use super::shim::Shim;
use anyhow::{Context as _, Result, bail};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use sternline_api::protocol::{PROTOCOL_HEADER, STREAM_PROTOCOL, UPGRADE_RAW};
use sternline_api::v1alpha1 as pb;
use sternline_api::v1alpha1::control_message::Event;
use sternline_tunnel::budget::{ProcessBudget, Traffic};
use sternline_tunnel::websocket::WebSocketIo;
use sternline_tunnel::{Acceptor, ControlSender, Incoming, RelayOptions, Settings, relay};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Status;

/// Bound on each step.
const STEP: Duration = Duration::from_secs(30);

/// What the call asks for: one listener per port, on loopback, no hold.
pub(crate) fn request(pod: &Pod, ports: &[u32]) -> pb::ReversePortForwardRequest {
    let by = pb::target::By::SandboxId(pod.id().to_owned());
    let listener = |port: &u32| pb::Listener {
        port: *port,
        ..Default::default()
    };
    pb::ReversePortForwardRequest {
        target: Some(pb::Target { by: Some(by) }),
        listeners: ports.iter().map(listener).collect(),
        ..Default::default()
    }
}

/// Makes the call.
///
/// # Errors
/// The shim's refusal.
pub(crate) async fn call(
    shim: &Shim,
    request: pb::ReversePortForwardRequest,
) -> Result<pb::ReversePortForwardResponse, Status> {
    let answer = shim.client().reverse_port_forward(request).await?;
    Ok(answer.into_inner())
}

/// The word for programs in a refusal.
pub(crate) fn reason(status: &Status) -> String {
    let word = status.metadata().get("sternline-reason");
    let word = word.and_then(|word| word.to_str().ok());
    word.unwrap_or_default().to_owned()
}

/// Splits a streaming URL on TCP into address and path.
///
/// # Errors
/// It is none.
pub(crate) fn split(url: &str) -> Result<(SocketAddr, String)> {
    let rest = url.strip_prefix("http://").context("no http:// URL")?;
    let slash = rest.find('/').context("no path")?;
    Ok((rest[..slash].parse()?, rest[slash..].to_owned()))
}

/// The request that redeems a token in the raw form.
pub(crate) fn upgrade(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: shim\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE_RAW}\r\n{PROTOCOL_HEADER}: {STREAM_PROTOCOL}\r\n\r\n"
    )
}

/// Redeems a token, or a ticket, in the raw form.
///
/// # Errors
/// The shim answers anything but 101.
pub(crate) async fn redeem(address: SocketAddr, path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(upgrade(path).as_bytes()).await?;
    let answer = http::read_head(&mut stream).await?;
    if answer.status != 101 {
        bail!("the shim answered: {}", answer.head);
    }
    Ok(stream)
}

/// Takes a connection over in the WebSocket form, after the 101.
pub(crate) async fn websocket(stream: TcpStream) -> WebSocketIo<TcpStream> {
    WebSocketIo::client(stream).await
}

/// A tunnel that is served: every connection is led to one address.
pub(crate) struct Tunnel {
    events: mpsc::UnboundedReceiver<Event>,
    task: JoinHandle<()>,
    control: mpsc::UnboundedSender<Event>,
    streams: Arc<AtomicUsize>,
}

impl Tunnel {
    /// Serves `io`, which has just been upgraded.
    ///
    /// # Errors
    /// The other side does not speak HTTP/2.
    pub(crate) async fn serve(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        target: SocketAddr,
    ) -> Result<Self> {
        let settings = Settings::default();
        let handshake = Acceptor::handshake(io, &settings);
        let acceptor = tokio::time::timeout(STEP, handshake).await??;
        let (seen, events) = mpsc::unbounded_channel();
        let (control, said) = mpsc::unbounded_channel();
        let streams = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(serve(acceptor, target, seen, said, streams.clone()));
        Ok(Self {
            events,
            task,
            control,
            streams,
        })
    }

    /// The next event of the control stream; none once the tunnel is over.
    ///
    /// # Errors
    /// Nothing comes in time.
    pub(crate) async fn event(&mut self) -> Result<Option<Event>> {
        let event = tokio::time::timeout(STEP, self.events.recv()).await;
        event.context("no control message comes")
    }

    /// The first event, which must be `ready`.
    ///
    /// # Errors
    /// It is another, or none comes.
    pub(crate) async fn ready(&mut self) -> Result<pb::Ready> {
        match self.event().await? {
            Some(Event::Ready(ready)) => Ok(ready),
            other => bail!("the first event is {other:?}, not ready"),
        }
    }

    /// Connections that came through it so far.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Sends an event on the control stream.
    pub(crate) fn say(&self, event: Event) {
        let _ = self.control.send(event);
    }

    /// Closes the connection under the tunnel without a word, as dropping it
    /// does, and waits until it is closed.
    pub(crate) async fn cut(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<IO: AsyncRead + AsyncWrite + Unpin>(
    mut acceptor: Acceptor<IO>,
    target: SocketAddr,
    seen: mpsc::UnboundedSender<Event>,
    mut said: mpsc::UnboundedReceiver<Event>,
    count: Arc<AtomicUsize>,
) {
    let options = RelayOptions {
        budget: ProcessBudget::new(64 * 1024 * 1024).session(),
        traffic: Arc::new(Traffic::default()),
        idle_timeout: None,
    };
    let mut sender: Option<ControlSender> = None;
    // Dropped with the tunnel.
    let mut streams = tokio::task::JoinSet::new();
    loop {
        let incoming = tokio::select! {
            incoming = acceptor.next() => incoming,
            Some(event) = said.recv(), if sender.is_some() => {
                if let Some(sender) = &mut sender {
                    let _ = sender.send(event).await;
                }
                continue;
            }
        };
        match incoming {
            Ok(Some(Incoming::Control(control))) => {
                let (half, mut receiver) = control.split();
                sender = Some(half);
                let seen = seen.clone();
                streams.spawn(async move {
                    while let Ok(Some(event)) = receiver.recv().await {
                        let _ = seen.send(event);
                    }
                });
            }
            Ok(Some(Incoming::Stream(stream))) => {
                count.fetch_add(1, Ordering::Relaxed);
                let options = options.clone();
                streams.spawn(async move {
                    let Ok(socket) = TcpStream::connect(target).await else {
                        return;
                    };
                    if let Ok(stream) = stream.accept() {
                        relay(socket, stream, &options).await;
                    }
                });
            }
            Ok(None) | Err(_) => return,
        }
    }
}
