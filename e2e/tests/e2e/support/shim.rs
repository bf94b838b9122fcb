//! A running shim.

use super::binder::{self, Binder, Form, SERVE, give_to_serve};
use super::process::{Exit, Process, Usage};
use super::stage::Stage;
use super::{SOON, until};
use super::{http, node, programs};
use anyhow::{Context as _, Result, bail};
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use pb::reverse_port_forward_service_client::ReversePortForwardServiceClient;
use serde::Deserialize;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use sternline_api::v1alpha1 as pb;
use tokio::net::UnixStream;
use tokio::process::Command;
use tonic::transport::{Channel, Endpoint};

/// The call's client.
pub(crate) type Client = ReversePortForwardServiceClient<Channel>;

/// Bound on its start.
const START: Duration = Duration::from_secs(60);

/// A shim that listens.
pub(crate) struct Shim {
    process: Process,
    binder: Option<Binder>,
    ready: Ready,
    flags: String,
}

/// What the shim writes once everything listens.
#[derive(Debug, Deserialize)]
struct Ready {
    socket: PathBuf,
    streaming: String,
    metrics: Option<String>,
}

impl Shim {
    /// Starts one and waits until it listens.
    ///
    /// # Errors
    /// It ends, or says nothing in time.
    pub(crate) async fn start(
        stage: &Stage,
        command: Command,
        socket: &Path,
        flags: &str,
        form: Form,
    ) -> Result<Self> {
        let binder = match form {
            Form::Whole => None,
            Form::Apart => Some(Binder::start(stage, flags).await?),
        };
        let flags = binder::without_grace(flags);
        let mut shim = Self::serve(stage, command, socket, &flags, binder.as_ref()).await?;
        shim.binder = binder;
        Ok(shim)
    }

    /// Starts another serve in the place of one that is gone, beside the same
    /// binder, and waits until it listens.
    ///
    /// # Errors
    /// It ends, or says nothing in time.
    pub(crate) async fn serve_again(&mut self, stage: &Stage) -> Result<()> {
        let command = Command::new(programs::shim()?);
        let (socket, flags, binder) = (&self.ready.socket, &self.flags, self.binder.as_ref());
        let next = Self::serve(stage, command, socket, flags, binder).await?;
        (self.process, self.ready) = (next.process, next.ready);
        Ok(())
    }

    /// Starts serve, beside a binder if one is given.
    async fn serve(
        stage: &Stage,
        mut command: Command,
        socket: &Path,
        flags: &str,
        binder: Option<&Binder>,
    ) -> Result<Self> {
        let ready_file = stage.file("shim.ready");
        command
            .arg("serve")
            .arg("--socket")
            .arg(socket)
            .arg("--ready-file")
            .arg(&ready_file)
            .args(["--metrics-address", "127.0.0.1:0", "-v"])
            .args(flags.split_whitespace());
        match binder {
            None => command.args(stage.node().shim_flags()),
            Some(binder) => {
                give_to_serve(stage.directory())?;
                command
                    .arg(format!("--binder=unix:{}", binder.socket().display()))
                    .arg(format!("--run-as={SERVE}:{SERVE}"))
            }
        };
        let mut process = stage.start("shim", command)?;
        let ready = until("the shim to listen", START, || {
            let ended = process.ended();
            let ready = read_ready(&ready_file);
            async move {
                match ended {
                    Some(code) => bail!("the shim ended with {code}"),
                    None => Ok(ready),
                }
            }
        });
        let ready = ready.await;
        let ready = ready.with_context(|| process.story())?;
        Ok(Self {
            process,
            binder: None,
            ready,
            flags: flags.to_owned(),
        })
    }

    /// Its binder.
    ///
    /// # Errors
    /// It binds by itself.
    pub(crate) fn binder(&mut self) -> Result<&mut Binder> {
        self.binder.as_mut().context("the shim has no binder")
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.ready.socket
    }

    /// Where it streams, on TCP.
    ///
    /// # Errors
    /// It streams on a Unix socket.
    pub(crate) fn streaming_address(&self) -> Result<SocketAddr> {
        let address = &self.ready.streaming;
        let address = address.split_once("://").map_or("", |(_, address)| address);
        address
            .parse()
            .with_context(|| format!("streams on {address}"))
    }

    /// A client of the call.
    pub(crate) fn client(&self) -> Client {
        let socket = self.ready.socket.clone();
        let channel = Endpoint::from_static("http://shim.invalid")
            .timeout(Duration::from_secs(20))
            .connect_with_connector_lazy(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }));
        Client::new(channel)
    }

    /// The sessions that it has.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn sessions(&self) -> Result<Vec<pb::Session>> {
        let list = pb::ListSessionsRequest::default();
        Ok(self
            .client()
            .list_sessions(list)
            .await?
            .into_inner()
            .sessions)
    }

    /// Waits until `count` connections are open in all its sessions.
    ///
    /// # Errors
    /// There are more, or fewer, after `within`.
    pub(crate) async fn connections_are(&self, count: u32, within: Duration) -> Result<()> {
        let what = format!("{count} connections to be open");
        until(&what, within, || async {
            let sessions = self.sessions().await?;
            let open: u32 = sessions.iter().map(|session| session.connections).sum();
            Ok((open == count).then_some(()))
        })
        .await
    }

    /// Waits until it has no session left.
    ///
    /// # Errors
    /// It still has one after `within`.
    pub(crate) async fn idle(&self, within: Duration) -> Result<()> {
        until("the last session to be gone", within, || async {
            Ok(self.sessions().await?.is_empty().then_some(()))
        })
        .await
    }

    /// Waits until it says that it is ready: its runtime and its binder answer it.
    ///
    /// # Errors
    /// It does not say so.
    pub(crate) async fn is_ready(&self) -> Result<()> {
        until("the shim to be ready", SOON, || async {
            let answer = http::get(self.metrics_address()?, "/readyz").await?;
            Ok((answer.status == 200).then_some(()))
        })
        .await
    }

    /// Waits until a metric has a value: a connection is counted when it is
    /// over, which its ends may notice a moment earlier.
    ///
    /// # Errors
    /// It has another after `within`; the error says which.
    pub(crate) async fn counts(&self, name: &str, labels: &[&str], value: f64) -> Result<()> {
        let what = format!("{name}{labels:?} to be {value}");
        let reached = until(&what, SOON, || async {
            Ok((self.metric(name, labels).await? == value).then_some(()))
        });
        let reached = reached.await;
        let text = self.metrics().await?;
        let found: Vec<&str> = text.lines().filter(|l| l.starts_with(name)).collect();
        reached.with_context(|| format!("found {found:?}"))
    }

    /// Adds up the samples of a metric that have all of `labels`, each as it
    /// stands in the text, `name="value"`; 0 if there is none.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let text = self.metrics().await?;
        let samples = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, set) = series.split_once('{').unwrap_or((series, ""));
            let all = labels.iter().all(|label| set.contains(label));
            (found == name && all).then(|| value.parse::<f64>().ok())?
        });
        Ok(samples.sum())
    }

    /// Where it serves metrics and health.
    ///
    /// # Errors
    /// Nowhere.
    pub(crate) fn metrics_address(&self) -> Result<SocketAddr> {
        let address = self.ready.metrics.as_deref().context("serves no metrics")?;
        Ok(address.trim_start_matches("http://").parse()?)
    }

    /// Everything that it counts, as Prometheus reads it.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn metrics(&self) -> Result<String> {
        let answer = http::get(self.metrics_address()?, "/metrics").await?;
        if answer.status != 200 {
            bail!("/metrics answered {}", answer.status);
        }
        Ok(answer.body)
    }

    /// The file with its standard output.
    pub(crate) fn stdout_path(&self) -> &Path {
        self.process.stdout_path()
    }

    /// Its log, the binder's included, in the order in which it was written.
    pub(crate) fn stderr(&self) -> String {
        let mut log = self.process.stderr();
        if let Some(binder) = &self.binder {
            log += &binder.process().stderr();
            // Every line begins with its time.
            let mut lines: Vec<&str> = log.split_inclusive('\n').collect();
            lines.sort_unstable();
            log = lines.concat();
        }
        log
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        self.process.usage()
    }

    /// Takes descriptors away from it while it runs.
    ///
    /// # Errors
    /// `prlimit` is missing or refuses.
    pub(crate) fn limit_descriptors(&self, most: usize) -> Result<()> {
        let mut prlimit = std::process::Command::new(node::program("prlimit")?);
        prlimit
            .arg(format!("--pid={}", self.process.pid()))
            .arg(format!("--nofile={most}:{most}"));
        if self.binder.is_some() {
            // Root may lack the capability over processes of other users.
            prlimit.uid(SERVE).gid(SERVE);
        }
        node::run(&mut prlimit)
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }

    pub(crate) async fn exit(&mut self, within: Duration) -> Result<Exit> {
        self.process.exit(within).await
    }
}

/// The file appears whole or not at all; one that is half there is read again.
fn read_ready(path: &Path) -> Option<Ready> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}
