//! The node in a cluster: what it lets gateways do, and how it knows them.
//!
//! ```text
//! bundle (whom to trust) -> gate (a grant is good) -> the call, streaming
//!    |                   \-> granted (the binder's own check of the same grant)
//!    \-> enrol -> identity (the node's certificate) -> port (gateways come in)
//! ```

mod bundle;
mod enrol;
mod gate;
mod granted;
mod identity;
mod port;
#[cfg(test)]
pub(crate) mod testing;

pub use bundle::Bundle;
pub use enrol::Enrolment;
pub use gate::Gate;
pub use granted::GrantedBinder;
pub use identity::Identity;

use crate::config::ClusterArgs;
use crate::service::Service;
use crate::session::Shared;
use anyhow::Context as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use sternline_api::v1alpha1::reverse_port_forward_service_server::ReversePortForwardServiceServer;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest message of the call, in bytes.
const MAX_CALL: usize = 256 * 1024;

/// Longest any call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What lets gateways in, bound and not yet serving.
#[derive(Debug)]
pub struct Cluster {
    listener: TcpListener,
    /// What finds out whether a grant is good.
    pub gate: Arc<Gate>,
    /// What the node shows them.
    pub identity: Arc<Identity>,
    enrolment: Enrolment,
}

impl Cluster {
    /// Binds the port, if there is to be one.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(args: &ClusterArgs) -> anyhow::Result<Option<Self>> {
        let (Some(address), Some(gateway), Some(token), Some(node)) = (
            args.cluster_address,
            &args.gateway,
            &args.gateway_token,
            &args.trust.node_name,
        ) else {
            return Ok(None);
        };
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("--cluster-address {address}"))?;
        let bundle = Arc::new(Bundle::new(args.trust.authority_bundle.clone()));
        let identity = Arc::new(Identity::new(node, Arc::clone(&bundle)));
        Ok(Some(Self {
            listener,
            gate: Arc::new(Gate::new(node.clone(), Arc::clone(&bundle))),
            enrolment: Enrolment {
                gateway: gateway.clone(),
                token: token.clone(),
                bundle,
                identity: Arc::clone(&identity),
            },
            identity,
        }))
    }

    /// Where gateways come in.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`, with tasks of `tasks`.
    ///
    /// # Errors
    /// The kernel does not say where it listens.
    pub fn serve(
        self,
        service: Service,
        shared: &Arc<Shared>,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> std::io::Result<()> {
        let base = format!(
            "https://{}:{}",
            self.identity.host(),
            self.address()?.port()
        );
        let service = service.granted(Arc::clone(&self.gate), base);
        let service =
            ReversePortForwardServiceServer::new(service).max_decoding_message_size(MAX_CALL);
        let (calls, incoming) = mpsc::channel(port::QUEUE);
        let serving = tonic::transport::Server::builder()
            .timeout(CALL_TIMEOUT)
            .concurrency_limit_per_connection(64)
            .max_concurrent_streams(Some(64))
            // A gateway that is gone without a word is no connection for ever.
            .http2_keepalive_interval(Some(CALL_TIMEOUT))
            .add_service(service)
            .serve_with_incoming_shutdown(
                ReceiverStream::new(incoming),
                stop.clone().cancelled_owned(),
            );
        tasks.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "calls of gateways are served no more");
            }
        });
        tasks.spawn(
            stop.clone()
                .run_until_cancelled_owned(self.enrolment.keep_up()),
        );
        tasks.spawn(port::accept(
            self.listener,
            self.identity,
            self.gate,
            Arc::clone(shared),
            calls,
            stop.clone(),
        ));
        Ok(())
    }
}
