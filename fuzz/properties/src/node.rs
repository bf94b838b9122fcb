//! A node without sockets: sessions that listen on nothing.

use std::sync::Arc;
use sternline_api::{Failure, Reason};
use sternline_shim::binder::{
    BindRequest, Binder, BinderStatus, Bound, Gone, Sandbox, SandboxTarget,
};
use sternline_shim::limits::Limits;
use sternline_shim::netns::NamespaceId;
use sternline_shim::sandbox::Watched;
use sternline_shim::service::Service;
use sternline_shim::session::Shared;

/// Where the node's URLs lead.
pub(crate) const STREAMING: &str = "http://127.0.0.1:1";

/// Listeners that a session may have.
pub(crate) const MOST_LISTENERS: u32 = 8;

/// What the sessions of a node share, and its call.
pub(crate) fn node() -> (Arc<Shared>, Service) {
    let limits = Limits {
        connections_per_session: 16,
        listeners_per_session: MOST_LISTENERS,
        buffer_bytes_per_session: 1 << 20,
        buffer_bytes_per_node: 2 << 20,
        ..Limits::default()
    };
    let shared = Arc::new(Shared::new(limits));
    let binder = Arc::new(Nowhere);
    let service = Service::new(binder, Arc::clone(&shared), STREAMING.to_owned());
    (shared, service)
}

/// Binds nothing, and insists on what the call must have checked before.
#[derive(Debug)]
struct Nowhere;

#[tonic::async_trait]
impl Binder for Nowhere {
    async fn bind(&self, request: BindRequest) -> Result<Bound, Failure> {
        let listeners = &request.listeners;
        assert!(!listeners.is_empty() && listeners.len() <= MOST_LISTENERS as usize);
        for (i, listen) in listeners.iter().enumerate() {
            assert!(!listen.bind.is_wide(), "{listen} is wide");
            assert!(!listeners[..i].iter().any(|other| other.collides(*listen)));
        }
        let sandbox = self.find(&request.target).await?;
        let (_, gone) = Gone::channel();
        Ok(Bound {
            sandbox,
            namespace: NamespaceId::from_parts(0, 0),
            sockets: Vec::new(),
            gone,
        })
    }

    async fn find(&self, target: &SandboxTarget) -> Result<Sandbox, Failure> {
        match target {
            SandboxTarget::Id(id) if !id.is_empty() => Ok(Sandbox {
                id: id.clone(),
                pod: None,
            }),
            // Pods are a gateway's to name, and an empty id would fit any.
            other => Err(Failure::new(
                Reason::Internal,
                format!("{other} came through the call's checks"),
            )),
        }
    }

    async fn watch(&self, _sandbox: Watched) -> Result<Gone, Failure> {
        Ok(Gone::channel().1)
    }

    async fn status(&self) -> BinderStatus {
        BinderStatus {
            runtime: "none".to_owned(),
            trouble: None,
        }
    }
}
