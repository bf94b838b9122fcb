//! The call.

mod request;

use crate::{
    bind,
    node::{Kind, LIMITS, Node, lock},
    session::Session,
};
use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, atomic::Ordering},
};
use sternline_api::{
    Failure, Reason,
    protocol::{API_VERSION, STREAM_PROTOCOL},
    v1alpha1::{
        self as pb,
        reverse_port_forward_service_server::{
            ReversePortForwardService, ReversePortForwardServiceServer,
        },
    },
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// Serves until the program ends.
pub(crate) async fn serve(socket: UnixListener, node: Arc<Node>) -> io::Result<()> {
    let (_reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(io::Error::other)?;
    let health = (!node.faults.has("no-health")).then_some(health);
    let reflection = (!node.faults.has("no-reflection")).then_some(reflection);
    tonic::transport::Server::builder()
        .add_service(ReversePortForwardServiceServer::new(Service(node)))
        .add_optional_service(health)
        .add_optional_service(reflection)
        .serve_with_incoming(UnixListenerStream::new(socket))
        .await
        .map_err(io::Error::other)
}

struct Service(Arc<Node>);

fn fail<T>(reason: Reason, message: &str) -> Result<T, Failure> {
    Err(Failure::new(reason, message))
}

impl Service {
    fn status(&self, failure: Failure) -> Status {
        match self.0.faults.has("no-reason-word") {
            true => Status::new(failure.reason.grpc(), failure.message),
            false => failure.into(),
        }
    }

    fn has(&self, fault: &str) -> bool {
        self.0.faults.has(fault)
    }

    async fn forward(
        &self,
        request: pb::ReversePortForwardRequest,
    ) -> Result<pb::ReversePortForwardResponse, Failure> {
        let (sandbox, asked) = self.check(&request)?;
        let node = &self.0;
        let off = node.off.load(Ordering::Relaxed) && !self.has("off-takes-calls");
        if off || self.has("stays-off") && lock(&node.known).contains(&sandbox) {
            return fail(Reason::FeatureOff, "the feature is switched off");
        }
        let found = match &node.runtime {
            Some(runtime) => runtime.find(&node.dir, &sandbox, &node.faults),
            None => bind::find(&node.dir, &sandbox, &node.faults),
        };
        if found.is_err() && self.has("remembers-removed") && lock(&node.known).contains(&sandbox) {
            return fail(Reason::SandboxNotReady, "the sandbox is not ready");
        }
        let (sandbox, path) = found?;
        if self.has("remembers-removed") {
            lock(&node.known).insert(sandbox.clone());
        }
        let here = node
            .live()
            .iter()
            .filter(|session| session.sandbox == sandbox)
            .count();
        let lost = lock(&node.lost_slots)
            .iter()
            .filter(|name| **name == sandbox)
            .count();
        if here + lost >= LIMITS.sessions_per_sandbox as usize && !self.has("ignores-session-limit")
        {
            return fail(Reason::SessionLimit, "too many sessions in the sandbox");
        }
        let rests = lock(&node.rests)
            .iter()
            .any(|(name, port)| *name == sandbox && asked.iter().any(|one| one.port == *port));
        if rests && self.has("port-rests") {
            return fail(Reason::PortInUse, "the port rests");
        }
        let inside = || {
            let (asked, faults) = (asked.clone(), Arc::clone(&node.faults));
            bind::inside(&path, move || bind::all(&asked, &faults)).map_err(|error| {
                Failure::new(Reason::NamespaceUnreachable, format!("{sandbox}: {error}"))
            })
        };
        let mut bound = inside()?;
        if bound
            .as_ref()
            .is_err_and(|failure| failure.reason == Reason::PortInUse)
            && self.has("takes-over")
        {
            for session in node
                .live()
                .into_iter()
                .filter(|session| session.sandbox == sandbox)
            {
                session.end(Reason::Superseded).await;
            }
            bound = inside()?;
        }
        let bound = bound?;
        if self.has("also-on-node") {
            for port in asked.iter().map(|one| one.port).filter(|port| *port != 0) {
                if let Ok(socket) = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                    std::mem::forget(socket);
                }
            }
        }
        let mut options = request.options.unwrap_or_default();
        options.hold_ms = options.hold_ms.min(LIMITS.max_hold_ms);
        if self.has("labels-forgotten") {
            options.labels.clear();
        }
        let session = Session::start(node, sandbox, bound, options)
            .map_err(|error| Failure::new(Reason::Internal, error.to_string()))?;
        let token = match node.issue(&session, Kind::First) {
            Ok(token) => token,
            Err(failure) => {
                session.end(Reason::TokenLimit).await;
                return Err(failure);
            }
        };
        lock(&node.sessions).push(Arc::clone(&session));
        let expires = crate::node::now_ms() + LIMITS.token_ttl_ms;
        Ok(pb::ReversePortForwardResponse {
            session_id: session.id.clone(),
            url: format!("{}/v1alpha1/sessions/{token}", node.streaming),
            bound: session.bound.clone(),
            expires_at_ms: if self.has("expiry-in-seconds") {
                expires / 1000
            } else {
                expires
            },
            limits: (!self.has("limits-missing")).then(|| self.0.limits()),
        })
    }

    fn described(&self, session: &Session) -> pb::Session {
        let tunnels = u32::try_from(lock(&session.tunnels).len()).unwrap_or(u32::MAX);
        let state = match (session.was_redeemed(), tunnels) {
            (false, _) if !self.has("list-not-waiting") => pb::SessionState::Waiting,
            (true, 0) => pb::SessionState::Held,
            _ => pb::SessionState::Active,
        };
        pb::Session {
            session_id: session.id.clone(),
            sandbox_id: session.sandbox.clone(),
            state: state.into(),
            bound: session.bound.clone(),
            created_at_ms: session.created_ms,
            labels: session.labels.clone(),
            tunnels,
            connections: match self.has("no-counts") {
                true => 0,
                false => session.connections.load(Ordering::Relaxed),
            },
            connections_total: session.total.load(Ordering::Relaxed),
            ..Default::default()
        }
    }
}

#[tonic::async_trait]
impl ReversePortForwardService for Service {
    async fn reverse_port_forward(
        &self,
        request: Request<pb::ReversePortForwardRequest>,
    ) -> Result<Response<pb::ReversePortForwardResponse>, Status> {
        let answer = self.forward(request.into_inner()).await;
        answer
            .map(Response::new)
            .map_err(|failure| self.status(failure))
    }

    async fn version(
        &self,
        _: Request<pb::VersionRequest>,
    ) -> Result<Response<pb::VersionResponse>, Status> {
        let mut answer = pb::VersionResponse {
            name: "sternline-reference".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            api_versions: vec![API_VERSION.into()],
            protocols: vec![STREAM_PROTOCOL.into()],
        };
        if self.has("version-empty") {
            answer.protocols.clear();
        }
        Ok(Response::new(answer))
    }

    async fn status(
        &self,
        _: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let condition = |name: &str| pb::Condition {
            r#type: name.into(),
            status: true,
            ..Default::default()
        };
        let conditions = vec![condition("Ready"), condition("RuntimeReachable")];
        Ok(Response::new(pb::StatusResponse {
            limits: Some(self.0.limits()),
            conditions: if self.has("no-conditions") {
                Vec::new()
            } else {
                conditions
            },
            runtime: "standalone".into(),
            wide_bind_allowed: self.0.extras,
            protocols: match self.has("status-without-tcp") {
                true => Vec::new(),
                false => vec![pb::Protocol::Tcp.into()],
            },
            sessions: match self.has("status-counts-nothing") {
                true => 0,
                false => u32::try_from(self.0.live().len()).unwrap_or(u32::MAX),
            },
            connections: self.0.open.load(Ordering::Relaxed),
            ..Default::default()
        }))
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let only = request.into_inner().sandbox_id;
        let live = self.0.live();
        let sessions = live
            .iter()
            .filter(|session| session.sandbox.starts_with(&only) || self.has("list-all"))
            .map(|session| self.described(session))
            .collect();
        Ok(Response::new(pb::ListSessionsResponse { sessions }))
    }

    async fn stop_session(
        &self,
        request: Request<pb::StopSessionRequest>,
    ) -> Result<Response<pb::StopSessionResponse>, Status> {
        let id = request.into_inner().session_id;
        let live = self.0.live();
        let prefix = id.len() >= 4 && !self.has("stop-whole-id");
        let mut found = live
            .iter()
            .filter(|session| session.id == id || prefix && session.id.starts_with(&id));
        match (found.next(), found.next()) {
            (Some(session), None) => {
                let sandbox = session.sandbox.clone();
                session.end(Reason::Stopped).await;
                if self.has("stop-stops-sandbox") {
                    for other in live.iter().filter(|other| other.sandbox == sandbox) {
                        other.end(Reason::Stopped).await;
                    }
                }
            }
            _ if self.has("stop-unknown-fine") => {}
            _ => return Err(Status::not_found(format!("no session {id}"))),
        }
        Ok(Response::new(pb::StopSessionResponse {}))
    }
}
