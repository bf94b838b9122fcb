//! The other end: what a client and a process in the pod do.

use super::within;
use std::io::ErrorKind;
use std::net::SocketAddr;
use sternline_api::protocol::{PROTOCOL_HEADER, STREAM_PROTOCOL};
use sternline_api::v1alpha1::{self as pb, control_message::Event};
use sternline_tunnel::budget::{ProcessBudget, Traffic};
use sternline_tunnel::{
    Acceptor, ControlSender, Incoming, IncomingStream, RelayOptions, Settings, relay,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A byte stream to the node.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}
pub(crate) type Stream = Box<dyn Io>;

impl std::fmt::Debug for dyn Io {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Io")
    }
}

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Status line and fields, in lower case.
    pub(crate) text: String,
    pub(crate) body: serde_json::Value,
}

/// The request that redeems a pass in the raw form.
pub(crate) fn upgrade(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: shim\r\nConnection: Upgrade\r\nUpgrade: sternline\r\n{PROTOCOL_HEADER}: {STREAM_PROTOCOL}\r\n\r\n"
    )
}

pub(crate) async fn send(io: &mut Stream, text: &str) {
    io.write_all(text.as_bytes()).await.expect("sent");
}

/// Reads a response, and its body unless it is a 101.
pub(crate) async fn head_of(io: &mut Stream) -> Head {
    let mut text = Vec::new();
    within("the answer", async {
        while !text.ends_with(b"\r\n\r\n") {
            text.push(io.read_u8().await.expect("more of the answer"));
        }
    })
    .await;
    let text = String::from_utf8(text).expect("text").to_lowercase();
    let status = text[9..12].parse().expect("a status");
    let mut body = Vec::new();
    if status != 101 {
        within("the end of the answer", io.read_to_end(&mut body))
            .await
            .expect("an orderly end");
    }
    Head {
        status,
        text,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    }
}

#[derive(Debug)]
enum Wish {
    Say(Box<Event>),
    /// Stops reading from the node.
    Freeze,
    /// Says goodbye and leaves at once.
    Goodbye,
}

/// A tunnel that is served. Each stream is greeted with the tunnel's name and the
/// listener's id, and then echoed. Dropped, the connection is lost.
pub(crate) struct Client {
    events: mpsc::UnboundedReceiver<Event>,
    wishes: mpsc::UnboundedSender<Wish>,
    serving: JoinHandle<()>,
}

impl Client {
    pub(crate) async fn serve(io: Stream, name: &str) -> Self {
        let (seen, events) = mpsc::unbounded_channel();
        let (wishes, wished) = mpsc::unbounded_channel();
        let settings = Settings::default();
        let acceptor = Acceptor::handshake(io, &settings);
        let acceptor = within("HTTP/2", acceptor).await.expect("HTTP/2");
        let serving = tokio::spawn(serve(acceptor, name.to_owned(), seen, wished));
        Self {
            events,
            wishes,
            serving,
        }
    }

    /// The next event; none once the tunnel is over.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        within("the next event", self.events.recv()).await
    }

    pub(crate) async fn ready(&mut self) -> pb::Ready {
        match self.event().await {
            Some(Event::Ready(ready)) => ready,
            other => panic!("{other:?} came before ready"),
        }
    }

    pub(crate) async fn tickets(&mut self) -> pb::Tickets {
        match self.event().await {
            Some(Event::Tickets(tickets)) => tickets,
            other => panic!("{other:?} instead of tickets"),
        }
    }

    pub(crate) async fn changed(&mut self) -> pb::ListenerChanged {
        match self.event().await {
            Some(Event::ListenerChanged(changed)) => changed,
            other => panic!("{other:?} instead of an answer"),
        }
    }

    /// The reason that the node gives for the end, which must follow.
    pub(crate) async fn ending(&mut self) -> pb::Ending {
        let ending = loop {
            match self.event().await {
                Some(Event::Ending(ending)) => break ending,
                Some(Event::Rejected(_)) => {}
                other => panic!("{other:?} instead of the end"),
            }
        };
        assert_eq!(self.event().await, None, "nothing follows the end");
        ending
    }

    pub(crate) fn say(&self, event: Event) {
        self.wishes
            .send(Wish::Say(Box::new(event)))
            .expect("serving");
    }

    pub(crate) fn add(&self, request_id: u32, listener_id: u32, listener: pb::Listener) {
        self.say(Event::AddListener(pb::AddListener {
            request_id,
            listener_id,
            listener: Some(listener),
        }));
    }

    pub(crate) fn remove(&self, request_id: u32, listener_id: u32) {
        self.say(Event::RemoveListener(pb::RemoveListener {
            request_id,
            listener_id,
        }));
    }

    /// Neither reads nor answers any more, and keeps the connection.
    pub(crate) fn freeze(&self) {
        self.wishes.send(Wish::Freeze).expect("serving");
    }

    /// Says goodbye and closes without waiting for the node.
    pub(crate) async fn goodbye(mut self) {
        self.wishes.send(Wish::Goodbye).expect("serving");
        within("the goodbye", &mut self.serving)
            .await
            .expect("no panic");
    }

    /// Whether the node closed the tunnel.
    pub(crate) async fn closed(&mut self) {
        within("the end of the tunnel", &mut self.serving)
            .await
            .expect("no panic");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(
    mut acceptor: Acceptor<Stream>,
    name: String,
    seen: mpsc::UnboundedSender<Event>,
    mut wished: mpsc::UnboundedReceiver<Wish>,
) {
    let budget = ProcessBudget::new(64 << 20).session();
    let mut control: Option<ControlSender> = None;
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            incoming = acceptor.next() => match incoming {
                Ok(Some(Incoming::Control(stream))) => {
                    let (sender, mut receiver) = stream.split();
                    control = Some(sender);
                    let seen = seen.clone();
                    tasks.spawn(async move {
                        while let Ok(Some(event)) = receiver.recv().await {
                            let _ = seen.send(event);
                        }
                    });
                }
                Ok(Some(Incoming::Stream(stream))) => {
                    let options = RelayOptions {
                        budget: budget.clone(),
                        traffic: Traffic::default().into(),
                        idle_timeout: None,
                    };
                    tasks.spawn(echo(name.clone(), *stream, options));
                }
                Ok(None) | Err(_) => break,
            },
            Some(wish) = wished.recv() => match wish {
                Wish::Say(event) => {
                    let sender = control.as_mut().expect("a control stream");
                    sender.send(*event).await.expect("room");
                }
                Wish::Freeze => std::future::pending().await,
                Wish::Goodbye => {
                    let sender = control.as_mut().expect("a control stream");
                    let ending = pb::Ending { code: "done".into(), message: String::new() };
                    sender.send(Event::Ending(ending)).await.expect("room");
                    drop(control);
                    acceptor.close().await;
                    return;
                }
            },
        }
    }
    // What came before the end is heard.
    drop(acceptor);
    while tasks.join_next().await.is_some() {}
}

async fn echo(name: String, stream: IncomingStream, options: RelayOptions) {
    let (near, far) = UnixStream::pair().expect("a pair");
    let greeting = format!("{name}/{}\n", stream.listener_id().expect("an id"));
    let Ok(stream) = stream.accept() else { return };
    let echo = async move {
        let (mut read, mut write) = far.into_split();
        let _ = write.write_all(greeting.as_bytes()).await;
        let _ = tokio::io::copy(&mut read, &mut write).await;
    };
    tokio::join!(echo, relay(near, stream, &options));
}

/// A process in the pod that connects: gives the greeting and the connection.
pub(crate) async fn pod(bound: &pb::Bound) -> (String, TcpStream) {
    let mut io = connect(bound).await;
    let greeting = greeting(&mut io).await.expect("a greeting");
    (greeting, io)
}

pub(crate) async fn connect(bound: &pb::Bound) -> TcpStream {
    let address: SocketAddr = bound.to_addr().expect("an address");
    let io = within("connecting", TcpStream::connect(address)).await;
    io.expect("somebody listens")
}

/// Reads what the client's end says first.
pub(crate) async fn greeting(io: &mut TcpStream) -> std::io::Result<String> {
    let mut said = Vec::new();
    within("the greeting", async {
        loop {
            match io.read_u8().await? {
                b'\n' => break Ok(String::from_utf8_lossy(&said).into_owned()),
                byte => said.push(byte),
            }
        }
    })
    .await
}

/// Waits for the reset of a connection; nothing may come before it.
pub(crate) async fn pod_reset(io: &mut TcpStream) {
    let error = within("the reset", io.read_u8())
        .await
        .expect_err("no data");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

/// Whether nobody listens there: it could be bound.
pub(crate) fn is_free(bound: &pb::Bound) -> bool {
    let address = bound.to_addr().expect("an address");
    std::net::TcpListener::bind(address).is_ok()
}
