//! One user with many sessions: tunnels that a single process serves, behind
//! `kubectl proxy`, which has the user's credentials.

use super::forward::SOON;
use super::kubectl::Kubectl;
use super::late::LATE;
use crate::shared::enclosure::STATE;
use crate::shared::process::Process;
use anyhow::{Context as _, Result, bail};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use sternline_api::protocol::{PROTOCOL_HEADER, STREAM_PROTOCOL, UPGRADE_RAW};
use sternline_api::v1alpha1::control_message::Event;
use sternline_tunnel::budget::{ProcessBudget, Traffic};
use sternline_tunnel::{Acceptor, Incoming, RelayOptions, Settings, relay};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Sessions that are being set up at once: enough to keep a small machine busy.
const AT_ONCE: usize = 8;

/// Pause before somebody tries again who was told to.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest head of an answer that is read, in bytes.
const HEAD: usize = 16 * 1024;

/// The tunnels. Dropped, they are cut.
pub(crate) struct Crowd {
    proxy: SocketAddr,
    target: SocketAddr,
    served: JoinSet<()>,
    _kubectl: Process,
}

impl Crowd {
    /// Nobody yet; connections will be led to `target`.
    ///
    /// # Errors
    /// `kubectl proxy` does not listen.
    pub(crate) async fn new(user: &Kubectl, target: SocketAddr) -> Result<Self> {
        let mut command = user.command()?;
        command.args(["proxy", "--port", "0"]);
        let kubectl = Process::start("proxy", command, Path::new(STATE))?;
        let listens = |line: &str| line.strip_prefix("Starting to serve on ")?.parse().ok();
        let proxy = kubectl.line("a proxy to listen", SOON, listens).await?;
        Ok(Self {
            proxy,
            target,
            served: JoinSet::new(),
            _kubectl: kubectl,
        })
    }

    /// Opens a session for each port of a pod; all of them must be announced. Who is
    /// told to try again later, as a node says that is busy, does.
    ///
    /// # Errors
    /// One is refused otherwise, or for too long; the error has the answer.
    pub(crate) async fn open(&mut self, pod: &str, ports: std::ops::Range<u16>) -> Result<()> {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let mut opening = JoinSet::new();
        for port in ports {
            let (announced, ready) = oneshot::channel();
            let path = format!(
                "/apis/reverse.sternline.dev/v1alpha1/namespaces/{LATE}/pods/{pod}/portforward?listen=localhost%3A{port}&hold=0ms"
            );
            let (room, proxy) = (Arc::clone(&room), self.proxy);
            let (begun, upgraded) = oneshot::channel();
            opening.spawn(async move {
                let _room = room.acquire_owned().await?;
                let stream = loop {
                    match upgrade(proxy, &path).await.context(port)? {
                        Ok(stream) => break stream,
                        Err(said) if said.contains("retryAfterSeconds") => sleep(PAUSE).await,
                        Err(said) => bail!("{port}: {said}"),
                    }
                };
                let _ = begun.send(stream);
                let said = ready.await.context("it ended before it was announced");
                match said.context(port)? {
                    Event::Ready(_) => Ok(()),
                    other => bail!("{port}: {other:?}"),
                }
            });
            let target = self.target;
            self.served.spawn(async move {
                if let Ok(stream) = upgraded.await {
                    serve(stream, target, announced).await;
                }
            });
        }
        let all = async {
            while let Some(opened) = opening.join_next().await {
                opened??;
            }
            Ok(())
        };
        tokio::time::timeout(4 * SOON, all).await?
    }

    /// How many tunnels are up.
    pub(crate) fn up(&mut self) -> usize {
        while self.served.try_join_next().is_some() {}
        self.served.len()
    }
}

/// Opens a stream in the raw form, or tells how that was refused.
async fn upgrade(proxy: SocketAddr, path: &str) -> Result<Result<TcpStream, String>> {
    let mut stream = TcpStream::connect(proxy).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {proxy}\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE_RAW}\r\n{PROTOCOL_HEADER}: {STREAM_PROTOCOL}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // Byte by byte: what follows is the tunnel's.
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    if head.starts_with(b"HTTP/1.1 101 ") {
        return Ok(Ok(stream));
    }
    let mut said = String::from_utf8_lossy(&head).into_owned();
    let mut fields = said.lines().filter_map(|line| line.split_once(": "));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: u64 = length.map_or(Ok(0), |(_, length)| length.parse())?;
    stream.take(length).read_to_string(&mut said).await?;
    Ok(Err(said))
}

/// Serves a tunnel until it ends, and tells the first message of its control stream.
async fn serve(stream: TcpStream, target: SocketAddr, announced: oneshot::Sender<Event>) {
    let Ok(mut acceptor) = Acceptor::handshake(stream, &Settings::default()).await else {
        return;
    };
    let options = RelayOptions {
        budget: ProcessBudget::new(16 * 1024 * 1024).session(),
        traffic: Arc::new(Traffic::default()),
        idle_timeout: None,
    };
    let mut announced = Some(announced);
    // Dropped with the tunnel.
    let mut streams = JoinSet::new();
    while let Ok(Some(incoming)) = acceptor.next().await {
        match incoming {
            Incoming::Control(control) => {
                let (half, mut receiver) = control.split();
                let announced = announced.take();
                streams.spawn(async move {
                    let first = receiver.recv().await;
                    if let (Ok(Some(event)), Some(announced)) = (first, announced) {
                        let _ = announced.send(event);
                    }
                    while let Ok(Some(_)) = receiver.recv().await {}
                    drop(half);
                });
            }
            Incoming::Stream(stream) => {
                let options = options.clone();
                streams.spawn(async move {
                    let socket = TcpStream::connect(target).await;
                    if let (Ok(socket), Ok(stream)) = (socket, stream.accept()) {
                        relay(socket, stream, &options).await;
                    }
                });
            }
        }
    }
}
