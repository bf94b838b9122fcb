//! A well-behaved node, tunnel by tunnel.

use super::fake::{Fake, Raw, bound};
use super::soon;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use sternline_api::v1alpha1 as pb;
use sternline_api::v1alpha1::control_message::Event;
use sternline_tunnel::budget::ProcessBudget;
use sternline_tunnel::{
    ConnectRequest, ControlReceiver, ControlSender, Dialer, RelayOptions, Relayed, Settings, relay,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

/// The limits that it states.
pub fn limits() -> pb::Limits {
    pb::Limits {
        connections_per_session: 256,
        buffer_bytes_per_session: 64 << 20,
        dial_timeout_ms: 5_000,
        ping_interval_ms: 15_000,
        ..pb::Limits::default()
    }
}

/// A server whose sessions are announced; the test drives their tunnels.
pub struct Node {
    pub fake: Fake,
    tunnels: mpsc::Receiver<Tunnel>,
}

impl Node {
    /// One that announces what was asked for.
    pub async fn start() -> Self {
        Self::announcing(0, |ready| ready).await
    }

    /// One that announces with this hold, and changes the announcement first.
    pub async fn announcing(
        hold_ms: u64,
        change: impl Fn(pb::Ready) -> pb::Ready + Send + Sync + 'static,
    ) -> Self {
        Self::with(limits(), hold_ms, String::new(), change).await
    }

    /// One that states that it ends connections that are silent for so long.
    pub async fn impatient(idle: Duration) -> Self {
        let idle_timeout_ms = idle.as_millis().try_into().unwrap();
        let limits = pb::Limits {
            idle_timeout_ms,
            ..limits()
        };
        Self::with(limits, 0, String::new(), |ready| ready).await
    }

    /// One that answers this URL, behind which something leads to its endpoint.
    pub async fn behind(url: String) -> Self {
        Self::with(limits(), 0, url, |ready| ready).await
    }

    async fn with(
        limits: pb::Limits,
        hold_ms: u64,
        url: String,
        change: impl Fn(pb::Ready) -> pb::Ready + Send + Sync + 'static,
    ) -> Self {
        let (found, tunnels) = mpsc::channel(8);
        let asked: Arc<Mutex<Vec<pb::Bound>>> = Arc::default();
        let (asked_by_call, asked_by_stream) = (Arc::clone(&asked), asked);
        let change = Arc::new(change);
        let fake = Fake::builder()
            .forward(move |request| {
                *asked_by_call.try_lock().unwrap() = bound(&request);
                Ok(pb::ReversePortForwardResponse {
                    session_id: "s1".into(),
                    url: url.clone(),
                    bound: bound(&request),
                    limits: Some(limits),
                    ..pb::ReversePortForwardResponse::default()
                })
            })
            .stream(move |raw| {
                let (found, asked, change) = (
                    found.clone(),
                    Arc::clone(&asked_by_stream),
                    Arc::clone(&change),
                );
                async move {
                    let ready = pb::Ready {
                        session_id: "s1".into(),
                        bound: asked.lock().await.clone(),
                        limits: Some(limits),
                        hold_ms,
                        tickets: Some(pb::Tickets {
                            join: "JOIN-SECRET".into(),
                            resume: "RESUME-SECRET-1".into(),
                        }),
                        ..pb::Ready::default()
                    };
                    let tunnel = Tunnel::open(raw, Some(change(ready))).await;
                    let _ = found.send(tunnel).await;
                }
            })
            .start()
            .await;
        Self { fake, tunnels }
    }

    /// The next tunnel that comes up.
    pub async fn tunnel(&mut self) -> Tunnel {
        soon("a tunnel", self.tunnels.recv()).await.unwrap()
    }
}

/// A tunnel, seen from the node.
pub struct Tunnel {
    pub token: String,
    pub head: String,
    pub dialer: Dialer,
    pub sender: ControlSender,
    pub receiver: ControlReceiver,
    pub driver: JoinHandle<Result<(), sternline_tunnel::TunnelError>>,
    /// What connections that are made from now on are relayed with.
    pub options: RelayOptions,
}

impl Tunnel {
    /// Upgrades, opens the control stream and announces, if there is something
    /// to announce.
    pub async fn open(mut raw: Raw, ready: Option<pb::Ready>) -> Self {
        let (token, head) = (raw.token().to_owned(), raw.head.clone());
        raw.upgrade().await;
        Self::over(raw.io, (token, head), ready).await
    }

    /// The same over a byte stream that is upgraded already.
    pub async fn over<IO>(io: IO, (token, head): (String, String), ready: Option<pb::Ready>) -> Self
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let settings = Settings::from_limits(&limits());
        let (dialer, driver) = Dialer::handshake::<IO>(io, &settings).await.unwrap();
        let driver = tokio::spawn(driver);
        let (mut sender, receiver) = dialer.control().await.unwrap().split();
        if let Some(ready) = ready {
            sender.send(Event::Ready(ready)).await.unwrap();
        }
        let options = RelayOptions {
            budget: ProcessBudget::new(settings.buffer_bytes).session(),
            traffic: Arc::default(),
            idle_timeout: None,
        };
        Self {
            token,
            head,
            dialer,
            sender,
            receiver,
            driver,
            options,
        }
    }

    pub async fn say(&mut self, event: Event) {
        self.sender.send(event).await.unwrap();
    }

    /// What the client says next.
    pub async fn hear(&mut self) -> Option<Event> {
        soon("a control message", self.receiver.recv())
            .await
            .ok()
            .flatten()
    }

    /// A process in the pod connects to a listener: its socket, and what
    /// becomes of the connection.
    pub async fn connect(&self, listener_id: u32) -> (TcpStream, JoinHandle<Relayed>) {
        self.try_connect(listener_id).await.unwrap()
    }

    /// The same; nothing if the tunnel is gone.
    pub async fn try_connect(&self, listener_id: u32) -> Option<(TcpStream, JoinHandle<Relayed>)> {
        let (pod, accepted) = pair().await;
        let request = ConnectRequest {
            listener_id,
            bound: accepted.local_addr().unwrap(),
            peer: accepted.peer_addr().unwrap(),
        };
        let stream = self.dialer.connect(request).await.ok()?;
        let options = self.options.clone();
        let relayed = tokio::spawn(async move { relay(accepted, stream, &options).await });
        Some((pod, relayed))
    }

    /// Cuts the tunnel without a word.
    pub fn cut(self) {
        self.driver.abort();
    }
}

/// Two ends of a TCP connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr: SocketAddr = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}
