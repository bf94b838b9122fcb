//! The node: a shim without its sockets.

use crate::binder::{SimAdopt, SimBinder};
use crate::net::wire::WireEnd;
use crate::world::World;
use std::sync::Arc;
use sternline_api::v1alpha1::{
    self as pb, reverse_port_forward_service_server::ReversePortForwardService as _,
};
use sternline_shim::limits::Limits;
use sternline_shim::service::Service;
use sternline_shim::session::Shared;
use sternline_shim::streaming::serve_one;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Status};

/// A node.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) shared: Arc<Shared>,
    pub(crate) binder: Arc<SimBinder>,
    service: Service,
    /// Connections on their way to a tunnel.
    pub(crate) upgrades: TaskTracker,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Node")
    }
}

impl Node {
    pub(crate) fn new(world: &Arc<World>, limits: Limits) -> Self {
        let shared = Arc::new(Shared {
            adopt: Box::new(SimAdopt(Arc::downgrade(world))),
            ..Shared::new(limits)
        });
        let binder = SimBinder::new(world);
        let base = "http://127.0.0.1:1".to_owned();
        let service = Service::new(binder.clone(), Arc::clone(&shared), base);
        Self {
            shared,
            binder,
            service,
            upgrades: TaskTracker::new(),
        }
    }

    /// The call.
    pub(crate) async fn call(
        &self,
        request: pb::ReversePortForwardRequest,
    ) -> Result<pb::ReversePortForwardResponse, Status> {
        let answer = self.service.reverse_port_forward(Request::new(request));
        answer.await.map(tonic::Response::into_inner)
    }

    /// Ends a session.
    pub(crate) async fn stop(&self, session_id: &str) -> Result<(), Status> {
        let request = pb::StopSessionRequest {
            session_id: session_id.to_owned(),
        };
        let stopped = self.service.stop_session(Request::new(request));
        stopped.await.map(drop)
    }

    /// Takes a connection to the streaming endpoint.
    pub(crate) fn accept(&self, io: WireEnd) {
        let serving = serve_one(io, Arc::clone(&self.shared), CancellationToken::new());
        self.upgrades.spawn(serving);
    }
}
