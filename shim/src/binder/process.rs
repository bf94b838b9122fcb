//! `sternline-shim binder`: puts the binder process together.

use super::server::{Endpoint, Guests, Server, ServerLimits};
use crate::app::{Hangups, Kind, clear_ready_file, warn_of_trouble, write_ready_file};
use crate::audit::Audit;
use crate::cluster::{Bundle, Gate, GrantedBinder};
use crate::config::BinderConfig;
use crate::limits::raise_descriptor_limit;
use crate::netns::HostNetwork;
use anyhow::Context as _;
use serde::Serialize;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Where the binder listens, as told in the ready file.
#[derive(Clone, Debug, Serialize)]
struct Addresses {
    socket: PathBuf,
}

/// Descriptors left free beside those that are kept: for binds under way, the
/// runtime's socket and looks at namespaces.
const DESCRIPTOR_RESERVE: u64 = 768;

/// A binder whose socket is bound.
#[derive(Debug)]
pub struct BinderApp {
    config: BinderConfig,
    listener: OwnedFd,
    endpoint: Endpoint,
    /// How many it may have open.
    descriptors: u64,
}

impl BinderApp {
    /// Binds the socket and looks at what only a privileged process may see.
    ///
    /// # Errors
    /// An address that cannot be bound, or a `/proc` that cannot be read.
    pub fn bind(config: BinderConfig) -> anyhow::Result<Self> {
        let descriptors = raise_descriptor_limit();
        HostNetwork::detect()?;
        if let Some(path) = &config.ready_file {
            clear_ready_file(path, Kind::Binder)?;
        }
        let (listener, endpoint) = Endpoint::bind(&config.socket, config.serve_uid)
            .with_context(|| format!("--socket {}", config.socket.display()))?;
        Ok(Self {
            config,
            listener,
            endpoint,
            descriptors,
        })
    }

    /// Serves until `shutdown` resolves. What was handed over lives on: it is
    /// serve's own.
    ///
    /// # Errors
    /// A setting that cannot work, or the ready file cannot be written.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self {
            config,
            listener,
            endpoint,
            descriptors,
        } = self;
        let guests = Guests {
            own: nix::unistd::Uid::effective().as_raw(),
            serve: config.serve_uid,
        };
        let hangups = Hangups::begin()?;
        let mut binder = config.source.local_binder()?;
        if let (true, Some(node)) = (config.require_grants, &config.trust.node_name) {
            let bundle = Arc::new(Bundle::new(config.trust.authority_bundle.clone()));
            let gate = Arc::new(Gate::new(node.clone(), bundle));
            binder = Arc::new(GrantedBinder::new(binder, gate));
        }
        let mut limits = ServerLimits::from(config.limits);
        let room = descriptors.saturating_sub(DESCRIPTOR_RESERVE).max(1);
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        if limits.keep.descriptors > room {
            tracing::info!(
                room,
                descriptors,
                "--max-kept-descriptors is lowered to what the descriptor limit leaves"
            );
            limits.keep.descriptors = room;
        }
        let server = Server::new(listener, Arc::clone(&binder), guests, limits)?;
        let ready = config.ready_file.as_deref().map(|path| {
            let socket = config.socket.clone();
            write_ready_file(path, &Addresses { socket })
        });
        let ready = ready.transpose()?;
        tracing::info!(socket = %config.socket.display(), serve_uid = config.serve_uid, "binding for serve");
        let stop = CancellationToken::new();
        let beside = async move {
            let place = config.source.place();
            tokio::join!(
                warn_of_trouble(&*binder, &place),
                hangups.answer(Audit::default(), false)
            );
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(beside));
        let serving = tokio::spawn(server.run(stop.clone()));
        shutdown.await;
        tracing::info!("shutting down");
        stop.cancel();
        serving.await.context("the binder's server failed")?;
        drop(endpoint);
        drop(ready);
        Ok(())
    }
}
