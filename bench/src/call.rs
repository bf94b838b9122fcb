//! Set-up, again and again: from the call to the first byte that a process in
//! the pod reads. A client of its own, in one process, so that what is timed is
//! the node and not the start of a program.

use crate::inside;
use crate::load::{Figures, figure};
use crate::relay::client_config;
use crate::stats;
use crate::target::verb;
use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use hyper_util::rt::TokioIo;
use pb::reverse_port_forward_service_client::ReversePortForwardServiceClient;
use rustls::pki_types::ServerName;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use sternline_api::protocol::{PROTOCOL_HEADER, STREAM_PROTOCOL, UPGRADE_RAW};
use sternline_api::v1alpha1 as pb;
use sternline_api::v1alpha1::control_message::Event;
use sternline_tunnel::budget::{ProcessBudget, Traffic};
use sternline_tunnel::{Acceptor, Incoming, RelayOptions, Settings, relay};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// Bound on one set-up.
const STEP: Duration = Duration::from_secs(10);

/// Set-ups before those that count.
const WARM: usize = 10;

/// `sternline-bench call`.
#[derive(Debug, Args)]
pub(crate) struct Call {
    /// Where the call is made.
    #[arg(long)]
    socket: PathBuf,
    /// The sandbox: the name of a network namespace.
    #[arg(long)]
    sandbox: String,
    /// Its file.
    #[arg(long)]
    netns: PathBuf,
    /// Where connections are led to.
    #[arg(long)]
    target: SocketAddr,
    /// The authority of the streaming endpoint, where it speaks TLS.
    #[arg(long)]
    certificate: PathBuf,
    /// Set-ups that count.
    #[arg(long, default_value_t = 100)]
    count: usize,
}

/// A process in the pod, as far as connecting goes: asked with a port, answers
/// when the first byte came.
type Pod = mpsc::Sender<(u16, oneshot::Sender<Result<Instant>>)>;

impl Call {
    /// Sets sessions up, one after the other.
    ///
    /// # Errors
    /// One of them fails.
    pub(crate) async fn run(&self) -> Result<Figures> {
        let client = self.client();
        let pod = pod(&self.netns);
        let mut times = Vec::new();
        for number in 0..WARM + self.count {
            let one = timeout(STEP, self.one(client.clone(), &pod)).await;
            let time = one
                .with_context(|| format!("set-up {number} is not done within {STEP:?}"))?
                .with_context(|| format!("set-up {number} failed"))?;
            if number >= WARM {
                times.push(time.as_secs_f64() * 1e3);
            }
        }
        let times = stats::sorted(&times);
        Ok(Figures::from([
            (figure::MILLIS.to_owned(), stats::quantile(&times, 0.99)),
            ("p50_ms".to_owned(), stats::quantile(&times, 0.5)),
        ]))
    }

    fn client(&self) -> ReversePortForwardServiceClient<Channel> {
        let socket = self.socket.clone();
        let channel = Endpoint::from_static("http://shim.invalid").connect_with_connector_lazy(
            tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }),
        );
        ReversePortForwardServiceClient::new(channel)
    }

    async fn one(
        &self,
        mut client: ReversePortForwardServiceClient<Channel>,
        pod: &Pod,
    ) -> Result<Duration> {
        let begun = Instant::now();
        let by = pb::target::By::SandboxId(self.sandbox.clone());
        let request = pb::ReversePortForwardRequest {
            target: Some(pb::Target { by: Some(by) }),
            listeners: vec![pb::Listener::default()],
            ..Default::default()
        };
        let answer = client.reverse_port_forward(request).await?.into_inner();
        let bound = answer.bound.first().context("nothing is bound")?;
        let port = u16::try_from(bound.port)?;
        let (tls, address, path) = split(&answer.url)?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let came = if tls {
            let name = ServerName::IpAddress(address.ip().into());
            let connector = TlsConnector::from(Arc::new(client_config(&self.certificate)?));
            let stream = connector.connect(name, stream).await?;
            self.serve(stream, &path, port, pod).await?
        } else {
            self.serve(stream, &path, port, pod).await?
        };
        let time = came.duration_since(begun);
        let stop = pb::StopSessionRequest {
            session_id: answer.session_id,
        };
        // Gone with its tunnel already, most of the time.
        let _ = client.stop_session(stop).await;
        Ok(time)
    }

    /// Upgrades, serves the tunnel, and asks the pod to connect once it is ready.
    async fn serve<IO>(&self, io: IO, path: &str, port: u16, pod: &Pod) -> Result<Instant>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = upgrade(io, path).await?;
        let mut acceptor = Acceptor::handshake(io, &Settings::default()).await?;
        let options = RelayOptions {
            budget: ProcessBudget::new(64 << 20).session(),
            traffic: Arc::new(Traffic::default()),
            idle_timeout: None,
        };
        let (tell, mut first_byte) = oneshot::channel();
        let mut tell = Some(tell);
        let mut control = None;
        loop {
            let incoming = tokio::select! {
                came = &mut first_byte => return came.map_err(|_| anyhow!("the pod is gone"))?,
                event = event(&mut control) => {
                    if let (Event::Ready(_), Some(tell)) = (event?, tell.take()) {
                        pod.send((port, tell)).context("the pod is gone")?;
                    }
                    continue;
                }
                incoming = acceptor.next() => incoming?.context("the tunnel ended")?,
            };
            match incoming {
                Incoming::Control(stream) => control = Some(stream.split()),
                Incoming::Stream(stream) => {
                    let (target, options) = (self.target, options.clone());
                    tokio::spawn(async move {
                        let socket = TcpStream::connect(target).await?;
                        relay(socket, stream.accept()?, &options).await;
                        anyhow::Ok(())
                    });
                }
            }
        }
    }
}

type Control = (
    sternline_tunnel::ControlSender,
    sternline_tunnel::ControlReceiver,
);

/// The next event, once there is a control stream.
async fn event(control: &mut Option<Control>) -> Result<Event> {
    match control {
        Some((_sender, receiver)) => receiver.recv().await?.context("no control stream is left"),
        None => std::future::pending().await,
    }
}

/// Splits a streaming URL into scheme, address and path.
fn split(url: &str) -> Result<(bool, SocketAddr, String)> {
    let (scheme, rest) = url.split_once("://").context("the URL is none")?;
    let slash = rest.find('/').context("the URL has no path")?;
    let tls = match scheme {
        "http" => false,
        "https" => true,
        other => bail!("sessions are streamed over {other}, and not over TCP"),
    };
    Ok((tls, rest[..slash].parse()?, rest[slash..].to_owned()))
}

/// Redeems a token in the raw form.
async fn upgrade<IO>(io: IO, path: &str) -> Result<BufReader<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut io = BufReader::new(io);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: shim\r\nConnection: Upgrade\r\n\
         Upgrade: {UPGRADE_RAW}\r\n{PROTOCOL_HEADER}: {STREAM_PROTOCOL}\r\n\r\n"
    );
    io.write_all(request.as_bytes()).await?;
    io.flush().await?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if io.read_line(&mut head).await? == 0 {
            bail!("the streaming endpoint closed: {head}");
        }
    }
    if !head.starts_with("HTTP/1.1 101") {
        bail!("the streaming endpoint answered: {head}");
    }
    Ok(io)
}

/// A thread in the pod's namespace that connects when it is asked to.
fn pod(netns: &Path) -> Pod {
    let (pod, asked) = mpsc::channel::<(u16, oneshot::Sender<Result<Instant>>)>();
    let netns = netns.to_owned();
    std::thread::spawn(move || {
        let entered = inside::enter(&netns);
        for (port, answer) in asked {
            let came = match &entered {
                Ok(()) => first_byte(port),
                Err(error) => Err(anyhow!("{error:#}")),
            };
            let _ = answer.send(came);
        }
    });
    pod
}

fn first_byte(port: u16) -> Result<Instant> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = std::net::TcpStream::connect_timeout(&address, STEP)?;
    stream.set_read_timeout(Some(STEP))?;
    stream.write_all(&[verb::ANSWER])?;
    stream.read_exact(&mut [0])?;
    Ok(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_on_tcp_are_split_and_others_are_named() {
        let (tls, address, path) = split("https://10.77.0.1:7300/v1/x").expect("splits");
        assert!(tls);
        assert_eq!(address.to_string(), "10.77.0.1:7300");
        assert_eq!(path, "/v1/x");
        assert!(!split("http://127.0.0.1:1/").expect("splits").0);
        for bad in ["", "http://127.0.0.1:1", "http+unix://%2Fx/y", "http://x/y"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
