//! A whole shim but for its binder, on sockets of its own.

use super::{Client, FakeBinder, Head, Stream, client, within};
use clap::Parser as _;
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use sternline_api::v1alpha1::{
    self as pb, reverse_port_forward_service_client::ReversePortForwardServiceClient,
};
use sternline_shim::app::App;
use sternline_shim::config::{Cli, Command};
use sternline_shim::drain::{Order, Orders};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

pub(crate) type Call = ReversePortForwardServiceClient<Channel>;

/// A running shim. Its metrics are those of this thread, which is why its tests
/// run on one thread each.
pub(crate) struct Node {
    pub(crate) binder: Arc<FakeBinder>,
    pub(crate) call: Call,
    channel: Channel,
    /// Where it streams, as its addresses say.
    pub(crate) streaming: String,
    /// Where gateways come in.
    pub(crate) cluster: Option<SocketAddr>,
    socket: PathBuf,
    stop: mpsc::Sender<Order>,
    running: JoinHandle<anyhow::Result<()>>,
    metrics: PrometheusHandle,
    _recorder: metrics::LocalRecorderGuard<'static>,
    _dir: tempfile::TempDir,
}

impl Node {
    /// Starts one with these flags.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        let metrics = recorder.handle();
        let guard = metrics::set_default_local_recorder(recorder);
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("s.sock");
        let streaming = format!("unix:{}", dir.path().join("streaming.sock").display());
        let mut args = vec!["sternline-shim", "serve", "--standalone", "--socket"];
        args.push(socket.to_str().expect("text"));
        for flag in flags {
            args.push(if *flag == "UNIX" { &streaming } else { flag });
        }
        let Command::Serve(config) = Cli::parse_from(args).command else {
            unreachable!("serve was asked for");
        };
        let binder = FakeBinder::new();
        let app = App::bind_with(*config, binder.clone()).await;
        let app = app.expect("everything can be bound");
        let streaming = app.addresses.streaming.clone();
        let cluster = app.addresses.cluster;
        let (stop, orders) = Orders::channel();
        let running = tokio::spawn(app.run(orders));
        let channel = Self::connect(socket.clone()).await;
        Self {
            binder,
            call: Call::new(channel.clone()),
            channel,
            streaming,
            cluster,
            socket,
            stop,
            running,
            metrics,
            _recorder: guard,
            _dir: dir,
        }
    }

    async fn connect(socket: PathBuf) -> Channel {
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let shim = Endpoint::from_static("http://shim");
        let channel = shim.connect_with_connector(connector);
        let channel = within("the connection to the call", channel).await;
        channel.expect("served")
    }

    /// The connection to the call.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A connection to the call of its own.
    pub(crate) async fn another_call(&self) -> Call {
        Call::new(Self::connect(self.socket.clone()).await)
    }

    /// Asks for a session.
    pub(crate) async fn open(
        &self,
        request: pb::ReversePortForwardRequest,
    ) -> pb::ReversePortForwardResponse {
        let answer = within("the call", self.call.clone().reverse_port_forward(request)).await;
        answer.expect("a session").into_inner()
    }

    /// Asks for a session that must be refused; gives the code, the word and the
    /// sentence.
    pub(crate) async fn refused(
        &self,
        request: pb::ReversePortForwardRequest,
    ) -> (tonic::Code, String, String) {
        let answer = within("the call", self.call.clone().reverse_port_forward(request)).await;
        refusal(&answer.expect_err("refused"))
    }

    /// Asks for a session and comes to it.
    pub(crate) async fn session(&self, request: pb::ReversePortForwardRequest) -> Client {
        let answer = self.open(request).await;
        Client::serve(self.upgrade(&answer.url).await, "first").await
    }

    /// The sessions as the list has them.
    pub(crate) async fn sessions(&self) -> Vec<pb::Session> {
        let mut call = self.call.clone();
        let list = call.list_sessions(pb::ListSessionsRequest::default());
        let list = within("the list", list).await;
        list.expect("a list").into_inner().sessions
    }

    /// Stops a session.
    pub(crate) async fn stop_session(&self, id: &str) -> Result<(), tonic::Status> {
        let request = pb::StopSessionRequest {
            session_id: id.into(),
        };
        let mut call = self.call.clone();
        let stopped = call.stop_session(request);
        within("StopSession", stopped).await.map(drop)
    }

    /// A connection to the streaming endpoint.
    pub(crate) async fn stream(&self) -> Stream {
        if let Some(address) = self.streaming.strip_prefix("http://") {
            let io = TcpStream::connect(address).await.expect("streaming");
            io.set_nodelay(true).expect("an option");
            return Box::new(io);
        }
        let path = self.streaming.strip_prefix("http+unix://").expect("a URL");
        let path = path.replace("%2F", "/");
        Box::new(UnixStream::connect(path).await.expect("streaming"))
    }

    /// The path of a streaming URL.
    pub(crate) fn path(&self, url: &str) -> String {
        url.strip_prefix(&self.streaming)
            .expect("a URL of this node")
            .to_owned()
    }

    /// Redeems what is at the end of a URL, or a ticket, in the raw form.
    pub(crate) async fn try_upgrade(&self, url: &str) -> Result<Stream, Head> {
        let path = if url.contains('/') {
            self.path(url)
        } else {
            format!("/v1alpha1/sessions/{url}")
        };
        let mut io = self.stream().await;
        client::send(&mut io, &client::upgrade(&path)).await;
        let head = client::head_of(&mut io).await;
        if head.status == 101 {
            Ok(io)
        } else {
            Err(head)
        }
    }

    pub(crate) async fn upgrade(&self, url: &str) -> Stream {
        self.try_upgrade(url).await.expect("101")
    }

    /// The value of a metric, with its labels as they are rendered; 0 if it is
    /// not there.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.render();
        let line = text
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|v| v.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or_default()
    }

    /// Everything that is counted up and down again is back at nothing.
    pub(crate) fn at_rest(&self) -> bool {
        ["connections", "listeners", "sessions", "tunnels"]
            .iter()
            .all(|what| self.metric(&format!("sternline_{what}_active")) == 0.0)
    }

    /// Tells it to stop; see [`Node::stopped`]. A second time: at once.
    pub(crate) fn terminate(&self) {
        self.stop.try_send(Order::Leave).expect("running");
    }

    /// Waits until it stopped.
    pub(crate) async fn stopped(&mut self) {
        let ended = within("the shutdown", &mut self.running).await;
        ended.expect("no panic").expect("no error");
    }
}

/// Code, word and sentence of a failed call.
pub(crate) fn refusal(status: &tonic::Status) -> (tonic::Code, String, String) {
    let word = status.metadata().get("sternline-reason");
    let word = word.and_then(|word| word.to_str().ok()).unwrap_or_default();
    (status.code(), word.to_owned(), status.message().to_owned())
}
