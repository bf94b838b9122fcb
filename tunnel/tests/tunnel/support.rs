//! What the stories share: a tunnel with both ends, sockets, patterns, waiting.

mod link;
mod raw;

pub(crate) use link::{link, long_link};
pub(crate) use raw::{Raw, kind};

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use sternline_tunnel::budget::{Budget, ProcessBudget, Traffic};
use sternline_tunnel::{
    Acceptor, ConnectRequest, ControlStream, Dialer, Incoming, IncomingStream, RelayOptions,
    Relayed, Settings, Socket, TunnelError, TunnelStream, relay,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A stream's window under [`settings`], in bytes: over a short link.
pub(crate) const WINDOW: u64 = 48 * 1024;

/// Small windows, so that limits are reached soon: see [`WINDOW`].
pub(crate) fn settings() -> Settings {
    Settings {
        max_streams: 127,
        buffer_bytes: 128 * 64 * 1024,
        first_window: WINDOW as u32,
        ..Settings::default()
    }
}

/// Both ends of a tunnel, each moved by a task.
pub(crate) struct Tunnel {
    pub(crate) dialer: Dialer,
    pub(crate) driver: JoinHandle<Result<(), TunnelError>>,
    pub(crate) acceptor: JoinHandle<Result<(), TunnelError>>,
    pub(crate) streams: mpsc::UnboundedReceiver<IncomingStream>,
    pub(crate) controls: mpsc::UnboundedReceiver<ControlStream>,
    pub(crate) node: Side,
    pub(crate) client: Side,
}

/// What one side's streams share.
pub(crate) struct Side {
    pub(crate) process: Arc<ProcessBudget>,
    pub(crate) options: RelayOptions,
}

impl Side {
    pub(crate) fn new(limit: u64) -> Self {
        let process = ProcessBudget::new(limit);
        let options = options(process.session());
        Self { process, options }
    }

    pub(crate) fn relay<S: Socket>(&self, socket: S, stream: TunnelStream) -> JoinHandle<Relayed> {
        let options = self.options.clone();
        tokio::spawn(async move { relay(socket, stream, &options).await })
    }
}

pub(crate) fn options(budget: Budget) -> RelayOptions {
    RelayOptions {
        budget,
        traffic: Arc::new(Traffic::default()),
        idle_timeout: None,
    }
}

/// A budget that no story reaches by accident.
pub(crate) const PLENTY: u64 = 256 * 1024 * 1024;

/// A tunnel through a pipe of 64 KiB.
pub(crate) async fn tunnel(settings: &Settings) -> Tunnel {
    let (node, client) = tokio::io::duplex(64 * 1024);
    tunnel_over(node, client, settings).await
}

/// A tunnel whose ends hold `node` and `client`.
pub(crate) async fn tunnel_over<N, C>(node: N, client: C, settings: &Settings) -> Tunnel
where
    N: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (dialer, driver) = Dialer::handshake(node, settings).await.expect("handshake");
    let driver = tokio::spawn(driver);
    let acceptor = Acceptor::handshake(client, settings)
        .await
        .expect("handshake");
    let (streams_tx, streams) = mpsc::unbounded_channel();
    let (controls_tx, controls) = mpsc::unbounded_channel();
    let acceptor = tokio::spawn(serve(acceptor, streams_tx, controls_tx));
    Tunnel {
        dialer,
        driver,
        acceptor,
        streams,
        controls,
        node: Side::new(PLENTY),
        client: Side::new(PLENTY),
    }
}

async fn serve<IO: AsyncRead + AsyncWrite + Unpin>(
    mut acceptor: Acceptor<IO>,
    streams: mpsc::UnboundedSender<IncomingStream>,
    controls: mpsc::UnboundedSender<ControlStream>,
) -> Result<(), TunnelError> {
    while let Some(incoming) = acceptor.next().await? {
        match incoming {
            Incoming::Stream(stream) => drop(streams.send(*stream)),
            Incoming::Control(control) => drop(controls.send(control)),
        }
    }
    Ok(())
}

/// An acceptor alone, served by a task, for a peer of another kind.
pub(crate) async fn acceptor(
    io: DuplexStream,
    settings: &Settings,
) -> (
    JoinHandle<Result<(), TunnelError>>,
    mpsc::UnboundedReceiver<IncomingStream>,
) {
    let acceptor = Acceptor::handshake(io, settings).await.expect("handshake");
    let (tx, streams) = mpsc::unbounded_channel();
    let (controls, _) = mpsc::unbounded_channel();
    (tokio::spawn(serve(acceptor, tx, controls)), streams)
}

/// The next stream that came through.
pub(crate) async fn incoming(
    streams: &mut mpsc::UnboundedReceiver<IncomingStream>,
) -> IncomingStream {
    soon(streams.recv()).await.expect("the tunnel is open")
}

pub(crate) fn request(listener_id: u32) -> ConnectRequest {
    ConnectRequest {
        listener_id,
        bound: SocketAddr::from(([127, 0, 0, 1], 8080)),
        peer: SocketAddr::from(([127, 0, 0, 1], 40_000)),
    }
}

impl Tunnel {
    /// Joins a socket of each side by a stream.
    pub(crate) async fn join<P: Socket, T: Socket>(
        &mut self,
        pod: P,
        target: T,
    ) -> (JoinHandle<Relayed>, JoinHandle<Relayed>) {
        let stream = self.dialer.connect(request(7)).await.expect("open");
        let node = self.node.relay(pod, stream);
        let accepted = incoming(&mut self.streams).await.accept().expect("open");
        (node, self.client.relay(target, accepted))
    }

    /// Joins two Unix sockets; returns their far ends.
    pub(crate) async fn unix(&mut self) -> Forward<UnixStream> {
        let ((pod_near, pod), (target_near, target)) = (unix_pair(), unix_pair());
        let (node, client) = self.join(pod_near, target_near).await;
        Forward {
            pod,
            target,
            node,
            client,
        }
    }

    /// Joins two TCP connections; returns their far ends.
    pub(crate) async fn tcp(&mut self) -> Forward<TcpStream> {
        let (pod_near, pod) = tcp_pair().await;
        let (target_near, target) = tcp_pair().await;
        let (node, client) = self.join(pod_near, target_near).await;
        Forward {
            pod,
            target,
            node,
            client,
        }
    }

    /// Fails unless a fresh stream carries bytes both ways.
    pub(crate) async fn assert_alive(&mut self) {
        let mut fresh = soon(self.unix()).await;
        soon(async {
            fresh.pod.write_all(b"there").await.expect("write");
            fresh.target.write_all(b"back").await.expect("write");
            let (mut there, mut back) = ([0; 5], [0; 4]);
            fresh.target.read_exact(&mut there).await.expect("read");
            fresh.pod.read_exact(&mut back).await.expect("read");
            assert_eq!((&there, &back), (b"there", b"back"));
        })
        .await;
    }

    /// Fails unless both sides got all their budget back.
    pub(crate) async fn assert_nothing_held(&self) {
        until(|| self.node.process.used() == 0 && self.client.process.used() == 0).await;
    }
}

/// One forwarded connection: the processes' ends, and the two relays.
pub(crate) struct Forward<S> {
    pub(crate) pod: S,
    pub(crate) target: S,
    pub(crate) node: JoinHandle<Relayed>,
    pub(crate) client: JoinHandle<Relayed>,
}

impl<S> Forward<S> {
    /// What became of it, on the node and on the client.
    pub(crate) async fn ends(self) -> (Relayed, Relayed) {
        (ended(self.node).await, ended(self.client).await)
    }
}

pub(crate) async fn ended<T>(task: JoinHandle<T>) -> T {
    soon(task).await.expect("no panic")
}

/// (the tunnel's end, the process's end)
pub(crate) fn unix_pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("sockets")
}

/// (the tunnel's end, the process's end)
pub(crate) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("bound");
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (accepted.expect("accept").0, dialled.expect("connect"))
}

/// Closes with a reset.
pub(crate) fn reset(socket: TcpStream) {
    socket2::SockRef::from(&socket)
        .set_linger(Some(Duration::ZERO))
        .expect("open");
    drop(socket);
}

/// Reads on until the connection's end, and fails unless that is a reset.
pub(crate) async fn assert_reset(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    let end = soon(socket.read_to_end(&mut rest)).await;
    let kind = end.expect_err("a reset, not an end").kind();
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
}

/// Bytes that differ at every place and for every seed.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(len)
    .collect()
}

/// What must happen without any waiting; the bound is there for failures only.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    timeout(BOUND, what).await.expect("happens in time")
}

/// Lets every task run until `done`. Bounded by the real time: a paused one
/// stands still while any task can run.
pub(crate) async fn until(mut done: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < BOUND, "happens in time");
        tokio::task::yield_now().await;
    }
}

const BOUND: Duration = Duration::from_secs(10);

/// Lets every task run until nothing of what can happen at once is left.
pub(crate) async fn settle() {
    for _ in 0..500 {
        tokio::task::yield_now().await;
    }
}
