//! Puts the parts together. Everything that listens is bound before anything is
//! announced.

mod hangup;
mod outset;
mod ready;
mod sockets;

pub(crate) use hangup::Hangups;
pub(crate) use outset::warn_of_trouble;
pub(crate) use ready::{Kind, clear_ready_file, write_ready_file};

use crate::audit::Audit;
use crate::binder::{Binder, ProcessBinder};
use crate::cluster::Cluster;
use crate::config::Config;
use crate::drain::{self, Order, Orders};
use crate::limits::{Limits, raise_descriptor_limit};
use crate::metrics::{self, Exporter};
use crate::observe;
use crate::service::Service;
use crate::session::Shared;
use crate::streaming::{self, StreamingListener};
use crate::switch::{self, Switch};
use crate::takeover::{self, OwnSockets, Takeover};
use anyhow::Context as _;
use serde::Serialize;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use sternline_api::Failure;
use sternline_api::v1alpha1::{
    FILE_DESCRIPTOR_SET, reverse_port_forward_service_server::ReversePortForwardServiceServer,
};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// How long what serves may take to end at shutdown.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// How long answers under way may take at shutdown.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// How long the audit log may take at shutdown to write what waits.
const LAST_RECORDS: Duration = Duration::from_secs(2);

/// Largest message of the call, in bytes.
const MAX_CALL: usize = 256 * 1024;

/// Longest any call may take; a runtime that hangs must not hold a caller.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the shim listens, as told in the ready file.
#[derive(Clone, Debug, Serialize)]
pub struct Addresses {
    /// Unix socket of the call.
    pub socket: PathBuf,
    /// What streaming URLs start with.
    pub streaming: String,
    /// Address of the metrics, if they are served.
    pub metrics: Option<SocketAddr>,
    /// Where gateways come in, if they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<SocketAddr>,
}

/// A shim whose sockets are all bound.
pub struct App {
    /// Where it listens.
    pub addresses: Addresses,
    config: Config,
    binder: Arc<dyn Binder>,
    shared: Arc<Shared>,
    call: UnixListener,
    streaming: StreamingListener,
    cluster: Option<Cluster>,
    metrics: Option<(TcpListener, Exporter)>,
    /// The sockets of this process that the binder keeps.
    own: OwnSockets,
}

impl App {
    /// Binds everything; listens in the sandboxes that the settings name.
    ///
    /// # Errors
    /// A setting that cannot work, or an address that cannot be bound.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        // From here on it ends nothing.
        let _ = Hangups::begin()?;
        let binder = binder(&config)?;
        Self::bind_with(config, binder).await
    }

    /// Binds everything; listens in sandboxes with this binder.
    ///
    /// # Errors
    /// As [`App::bind`].
    pub async fn bind_with(config: Config, binder: Arc<dyn Binder>) -> anyhow::Result<Self> {
        let descriptors = raise_descriptor_limit();
        let limits = Limits::from(&config.limits)
            .validated(descriptors, config.separation.binder.is_some())
            .map_err(anyhow::Error::msg)?;
        let shared = Shared {
            allow_wide_bind: config.source.allow_wide_bind,
            ..Shared::new(limits)
        };
        // Before anything counts.
        let metrics = match config.metrics_address {
            None => None,
            Some(addr) => {
                let exporter =
                    Exporter::install(Arc::clone(&shared.traffic), Arc::clone(&shared.budget))?;
                let listener = TcpListener::bind(addr).await;
                let listener = listener.with_context(|| format!("--metrics-address {addr}"))?;
                Some((listener, exporter))
            }
        };
        if let Some(path) = &config.ready_file {
            clear_ready_file(path, Kind::Serve)?;
        }
        // Whatever may fail comes before anything is taken over.
        let tls = sockets::tls(&config)?;
        let cluster = Cluster::bind(&config.cluster).await?;
        let shared = Arc::new(Shared {
            audit: Audit::open(&config.audit)?,
            tls,
            cluster: cluster
                .as_ref()
                .map(|cluster| Arc::clone(&cluster.identity)),
            gate: cluster.as_ref().map(|cluster| Arc::clone(&cluster.gate)),
            ..shared
        });
        let mut takeover = Takeover::begin(&*binder).await?;
        let mut own = OwnSockets::default();
        let path = &config.socket;
        let group = config.access.gid();
        let call = sockets::unix(
            takeover::CALL,
            path,
            group,
            &*binder,
            &mut takeover,
            &mut own,
        );
        let call = call
            .await
            .with_context(|| format!("--socket {}", config.socket.display()))?;
        // The last that may fail: it may close what was left for another address.
        let tls = shared.tls.as_ref();
        let (streaming, base) =
            sockets::streaming(&config, tls, &*binder, &mut takeover, &mut own).await?;
        let metrics = metrics.map(|(listener, exporter)| {
            metrics::limits(&shared.limits, descriptors);
            let sampled = Arc::clone(&shared);
            let sample = move || metrics::tokens_waiting(sampled.passes.tokens());
            (listener, exporter.sampling(sample))
        });
        takeover.sessions(&binder, &shared).await;
        let addresses = Addresses {
            socket: config.socket.clone(),
            streaming: base,
            metrics: metrics.as_ref().and_then(|(l, _)| l.local_addr().ok()),
            cluster: cluster.as_ref().and_then(|cluster| cluster.address().ok()),
        };
        Ok(Self {
            addresses,
            config,
            binder,
            shared,
            call,
            streaming,
            cluster,
            metrics,
            own,
        })
    }

    /// Serves until the first order to go, then drains every session.
    ///
    /// # Errors
    /// The ready file cannot be written, or the call cannot be served.
    pub async fn run(self, orders: Orders) -> anyhow::Result<()> {
        let shared = Arc::clone(&self.shared);
        let served = self.serve(orders).await;
        if served.is_err() {
            // The next start goes on with what the binder keeps.
            shared.registry.close();
            drain::leave_all(&shared).await;
            shared.audit.close(LAST_RECORDS).await;
        }
        served
    }

    async fn serve(self, mut orders: Orders) -> anyhow::Result<()> {
        let stop = CancellationToken::new();
        // Nothing goes on serving after an early return.
        let _stop = stop.clone().drop_guard();
        let tasks = TaskTracker::new();
        if let Some((listener, exporter)) = self.metrics {
            let binder = Arc::clone(&self.binder);
            let shared = Arc::clone(&self.shared);
            tasks.spawn(exporter.clone().keep_up(stop.clone()));
            tasks.spawn(observe::serve(
                listener,
                exporter,
                binder,
                shared,
                stop.clone(),
            ));
        }
        if let Some(tls) = &self.shared.tls {
            let every = self.config.tls.streaming_tls_reload_interval;
            let hangups = signal(SignalKind::hangup())?;
            tasks.spawn(Arc::clone(tls).watch(every, hangups, stop.clone()));
        }
        match &self.config.ending.switch_file {
            None => metrics::enabled(true),
            Some(path) => {
                let mut switch = Switch::new(path.clone());
                // Nobody is let in before it was looked at.
                switch::begin(&mut switch, &self.shared).await;
                let follow = switch::follow(switch, Arc::clone(&self.shared));
                tasks.spawn(stop.clone().run_until_cancelled_owned(follow));
            }
        }
        let hangups = Hangups::begin()?;
        let answer = hangups.answer(self.shared.audit.clone(), self.shared.tls.is_some());
        tasks.spawn(stop.clone().run_until_cancelled_owned(answer));
        tasks.spawn(streaming::serve(
            self.streaming,
            Arc::clone(&self.shared),
            stop.clone(),
        ));
        let service = Service::new(
            Arc::clone(&self.binder),
            Arc::clone(&self.shared),
            self.addresses.streaming.clone(),
        )
        .confined(self.config.separation.in_force.clone());
        if let Some(cluster) = self.cluster {
            cluster.serve(service.clone(), &self.shared, &stop, &tasks)?;
        }
        let (health, call) = serve_call(self.call, service, stop.clone()).await?;
        let mut call = tokio::spawn(call);
        let ready = self.config.ready_file.as_deref();
        let ready = ready.map(|path| write_ready_file(path, &self.addresses));
        let ready = ready.transpose()?;
        self.own.renew().await;
        tracing::info!(
            socket = %self.addresses.socket.display(),
            streaming = %self.addresses.streaming,
            metrics = self.addresses.metrics.map(|addr| addr.to_string()),
            cluster = self.addresses.cluster.map(|addr| addr.to_string()),
            "serving"
        );
        if self.config.separation.binder.is_none() {
            let place = self.config.source.place();
            let binder = Arc::clone(&self.binder);
            tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
                warn_of_trouble(&*binder, &place).await;
            }));
        }
        let order = tokio::select! {
            order = orders.next() => order,
            ended = &mut call => {
                ended.context("the call's server ended")?.context("the call's server failed")?;
                Order::End
            }
        };
        self.shared.registry.close();
        health
            .set_not_serving::<ReversePortForwardServiceServer<Service>>()
            .await;
        // The server as a whole, which some ask about.
        health
            .set_service_status("", ServingStatus::NotServing)
            .await;
        let within = self.config.ending.drain_timeout;
        let kept = order == Order::Leave;
        let kept = kept && takeover::is_ready(&*self.binder, &self.own).await;
        let leaves = kept && drain::settle(&self.shared, within, &mut orders).await;
        let leaves = leaves && takeover::is_ready(&*self.binder, &self.own).await;
        if leaves {
            // From here on clients wait for the next process.
            stop.cancel();
            drain::leave_all(&self.shared).await;
        } else {
            // Told twice, nothing is waited for.
            let within = if kept { Duration::ZERO } else { within };
            drain::drain(&self.shared, within, &mut orders).await;
            stop.cancel();
        }
        tasks.close();
        let _ = timeout(SHUTDOWN, tasks.wait()).await;
        // Its clients may keep their connections for as long as they like.
        if timeout(LAST_ANSWERS, &mut call).await.is_err() {
            call.abort();
        }
        // The last sessions are told of.
        self.shared.audit.close(LAST_RECORDS).await;
        if leaves {
            drop(self.own);
        } else {
            self.own.end().await;
        }
        drop(ready);
        Ok(())
    }
}

fn binder(config: &Config) -> Result<Arc<dyn Binder>, Failure> {
    match &config.separation.binder {
        Some(address) => {
            let name = config.socket.display().to_string();
            Ok(Arc::new(ProcessBinder::named(address.path(), &name)))
        }
        None => config.source.local_binder(),
    }
}

async fn serve_call(
    listener: UnixListener,
    service: Service,
    stop: CancellationToken,
) -> anyhow::Result<(
    HealthReporter,
    impl Future<Output = Result<(), tonic::transport::Error>> + Send,
)> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_serving::<ReversePortForwardServiceServer<Service>>()
        .await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let service = ReversePortForwardServiceServer::new(service).max_decoding_message_size(MAX_CALL);
    let serving = tonic::transport::Server::builder()
        .timeout(CALL_TIMEOUT)
        .concurrency_limit_per_connection(64)
        .max_concurrent_streams(Some(64))
        .add_service(service)
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned());
    Ok((health, serving))
}
