//! Puts the parts together. Everything that listens is bound before anything is
//! announced.

use crate::audit::Audit;
use crate::authority::{Keeper, Shelf};
use crate::config::Config;
use crate::door::Door;
use crate::forward::Forwards;
use crate::kube::{Api, Client, Place};
use crate::metrics::{self, Exporter};
use crate::nodes::{self, Nodes};
use crate::observe::{self, Ready as _};
use crate::ready::{Addresses, ReadyFile};
use crate::route::Router;
use crate::server::{self, Faces};
use crate::service::Service;
use crate::sessions::Sessions;
use anyhow::Context as _;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long forwards are still taken after the order to go: until the Service
/// leads nowhere but to other gateways.
const HEADS_UP: Duration = Duration::from_secs(5);

/// How long tunnels may take to end that were told to.
const LAST: Duration = Duration::from_secs(5);

/// How often it is looked whether everything is there that is needed to serve.
const UNTIL_READY: Duration = Duration::from_millis(50);

/// Orders to go: the first drains, the next ends everything at once.
pub type Orders = mpsc::Receiver<()>;

/// A gateway whose sockets are all bound.
pub struct App {
    /// Where it listens.
    pub addresses: Addresses,
    config: Config,
    listener: TcpListener,
    observed: Option<(TcpListener, Exporter)>,
    keeper: Keeper,
    service: Arc<Service>,
}

impl App {
    /// Binds everything, beside the Kubernetes API that the settings name.
    ///
    /// # Errors
    /// A setting that cannot work, or an address that cannot be bound.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let place = match &config.kubeconfig {
            Some(path) => Place::from_kubeconfig(path)?,
            None => Place::in_cluster()?,
        };
        Self::bind_with(config, Arc::new(Client::new(place)), std::io::stdout()).await
    }

    /// Binds everything, beside this Kubernetes API; audit records go to `audit`.
    ///
    /// # Errors
    /// As [`App::bind`].
    pub async fn bind_with(
        config: Config,
        api: Arc<dyn Api>,
        audit: impl Write + Send + 'static,
    ) -> anyhow::Result<Self> {
        let lifetimes = config.lifetimes.authority()?;
        let observed = match config.metrics_address {
            None => None,
            Some(address) => {
                // Before anything counts.
                let exporter = Exporter::install()?;
                let listener = TcpListener::bind(address).await;
                let listener = listener.with_context(|| format!("--metrics-address {address}"))?;
                Some((listener, exporter))
            }
        };
        let limits = &config.limits;
        metrics::limit("sessions", limits.max_sessions);
        metrics::limit("sessions_per_user", limits.max_sessions_per_user);
        metrics::limit("connections", limits.max_connections);
        let listener = server::bind(config.address, config.fallback());
        let listener = listener.with_context(|| format!("--address {}", config.address))?;
        let addresses = Addresses {
            address: listener.local_addr()?,
            metrics: observed.as_ref().and_then(|(l, _)| l.local_addr().ok()),
        };
        let shelf = Shelf {
            namespace: config.namespace.clone(),
            name: config.authority.clone(),
            names: vec![config.server_name()],
        };
        let keeper = Keeper::new(Arc::clone(&api), shelf, lifetimes);
        let sessions = Sessions::new(limits.max_sessions, limits.max_sessions_per_user);
        let router = Router {
            api: Arc::clone(&api),
            namespace: config.namespace.clone(),
            shims: config.shims.clone(),
            port: config.shim_port,
        };
        let forwards = Forwards {
            router,
            material: keeper.material(),
            sessions: Arc::new(sessions),
            audit: Arc::new(Audit::open(audit)?),
            grant_lifetime: config.lifetimes.grant_lifetime,
            max_hold: limits.max_hold,
        };
        let nodes = Nodes {
            api: Arc::clone(&api),
            namespace: config.namespace.clone(),
            shims: config.shims.clone(),
            material: keeper.material(),
            lifetimes,
            room: Semaphore::new(nodes::AT_ONCE),
        };
        let service = Arc::new(Service {
            door: Arc::new(Door::new(api)),
            forwards,
            nodes,
            leaving: AtomicBool::new(false),
        });
        Ok(Self {
            addresses,
            config,
            listener,
            observed,
            keeper,
            service,
        })
    }

    /// Serves until the first order to go, then lets tunnels finish.
    ///
    /// # Errors
    /// The ready file cannot be written.
    pub async fn run(self, mut orders: Orders) -> anyhow::Result<()> {
        let stop = CancellationToken::new();
        // Nothing goes on serving after an early return.
        let _stop = stop.clone().drop_guard();
        let tasks = TaskTracker::new();
        let service = self.service;
        if let Some((listener, exporter)) = self.observed {
            tasks.spawn(exporter.clone().keep_up(stop.clone()));
            let ready = Arc::clone(&service);
            tasks.spawn(observe::serve(listener, exporter, ready, stop.clone()));
        }
        let keep = self.keeper.run(SystemTime::now);
        tasks.spawn(stop.clone().run_until_cancelled_owned(keep));
        let door = Arc::clone(&service.door);
        let look = async move { door.run().await };
        tasks.spawn(stop.clone().run_until_cancelled_owned(look));
        let tls = server::config(Faces(service.forwards.material.clone()))?;
        tasks.spawn(server::serve(
            self.listener,
            TlsAcceptor::from(tls),
            Arc::clone(&service),
            self.config.limits.max_connections,
            stop.clone(),
        ));
        let order = tokio::select! {
            order = orders.recv() => Some(order),
            () = ready(&service) => None,
        };
        let mut file = None;
        if order.is_none() {
            let path = self.config.ready_file.as_deref();
            let written = path.map(|path| ReadyFile::write(path, &self.addresses));
            file = written.transpose()?;
            let Addresses { address, metrics } = self.addresses;
            let metrics = metrics.map(|address| address.to_string());
            tracing::info!(%address, metrics, "serving");
            orders.recv().await;
        }
        service.leaving.store(true, SeqCst);
        let sessions = &service.forwards.sessions;
        drain(sessions, self.config.drain_timeout, &mut orders).await;
        stop.cancel();
        tasks.close();
        // Answers under way, and what they lead to.
        let _ = timeout(LAST, tasks.wait()).await;
        service.forwards.audit.close().await;
        drop(file);
        Ok(())
    }
}

/// Resolves when everything is there that is needed to serve.
async fn ready(service: &Service) {
    while service.ready().is_err() {
        sleep(UNTIL_READY).await;
    }
}

/// Lets tunnels finish, for `within` or until the next order.
async fn drain(sessions: &Sessions, within: Duration, orders: &mut Orders) {
    tracing::info!(tunnels = sessions.carried(), ?within, "draining");
    let finish = async {
        sleep(HEADS_UP.min(within)).await;
        sessions.close();
        sessions.ended().await;
    };
    tokio::select! {
        () = finish => {}
        _ = orders.recv() => tracing::info!("told a second time: ending the tunnels at once"),
        () = sleep(within) => tracing::info!(
            tunnels = sessions.carried(),
            "the time to drain is over: ending the tunnels that are left"
        ),
    }
    sessions.close();
    sessions.over().cancel();
    if timeout(LAST, sessions.ended()).await.is_err() {
        tracing::warn!("some tunnels did not end in time");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    fn sessions() -> Arc<Sessions> {
        Arc::new(Sessions::new(10, 10))
    }

    /// A tunnel that lasts, or ends when it has to.
    fn carry(sessions: &Arc<Sessions>, seconds: u64) {
        let over = sessions.over();
        sessions.carry(async move {
            let _ = timeout(Duration::from_secs(seconds), over.cancelled()).await;
        });
    }

    #[tokio::test(start_paused = true)]
    async fn tunnels_may_finish_and_new_ones_come_for_a_moment() {
        let sessions = sessions();
        carry(&sessions, 20);
        let (_orders, mut none) = mpsc::channel(1);
        let begun = Instant::now();
        let draining = Arc::clone(&sessions);
        let draining = tokio::spawn(async move {
            drain(&draining, Duration::from_secs(30), &mut none).await;
        });
        sleep(Duration::from_secs(4)).await;
        drop(
            sessions
                .enter("ada", false)
                .expect("the Service may still lead here"),
        );
        sleep(Duration::from_secs(2)).await;
        sessions.enter("ada", false).expect_err("not any more");
        draining.await.expect("drained");
        assert_eq!(begun.elapsed().as_secs(), 20, "the tunnel ended by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn time_and_a_second_order_end_them() {
        for (told, seconds) in [(false, 30), (true, 0)] {
            let sessions = sessions();
            carry(&sessions, 3600);
            let (order, mut orders) = mpsc::channel(1);
            if told {
                order.send(()).await.expect("room");
            }
            let begun = Instant::now();
            drain(&sessions, Duration::from_secs(30), &mut orders).await;
            assert_eq!(begun.elapsed().as_secs(), seconds);
            assert_eq!(sessions.carried(), 0);
        }
    }
}
