//! The call, as gRPC.

mod check;

use crate::binder::{BindRequest, Binder, Bound, Sandbox};
use crate::cache::Pass;
use crate::cluster::Gate;
use crate::metrics;
use crate::sentence::plain;
use crate::session::{self, Parts, Passes, Record, Shared, capped, since_epoch};
use crate::takeover;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use sternline_api::protocol::{API_VERSIONS, SESSIONS_PATH, STREAM_PROTOCOLS};
use sternline_api::v1alpha1::{
    self as pb, reverse_port_forward_service_server::ReversePortForwardService,
};
use sternline_api::{Failure, Reason};
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

/// Answers the call.
#[derive(Clone)]
pub struct Service {
    /// Finds out what gateways have granted, where it is they who call.
    gate: Option<Arc<Gate>>,
    binder: Arc<dyn Binder>,
    shared: Arc<Shared>,
    /// What stands before the path in a streaming URL.
    streaming: String,
    /// What this process gave up, where another one binds.
    confined: Option<String>,
}

impl Service {
    /// A service that binds with `binder` and answers URLs that start with
    /// `streaming`.
    #[must_use]
    pub fn new(binder: Arc<dyn Binder>, shared: Arc<Shared>, streaming: String) -> Self {
        Self {
            gate: None,
            binder,
            shared,
            streaming,
            confined: None,
        }
    }

    /// The same for gateways alone: what they grant is done, and nothing else.
    #[must_use]
    pub fn granted(mut self, gate: Arc<Gate>, streaming: String) -> Self {
        self.gate = Some(gate);
        self.streaming = streaming;
        self
    }

    /// Says in its status what this process gave up.
    #[must_use]
    pub fn confined(mut self, confined: Option<String>) -> Self {
        self.confined = confined;
        self
    }

    async fn open(
        &self,
        request: pb::ReversePortForwardRequest,
        caller: pb::Requester,
    ) -> Result<pb::ReversePortForwardResponse, Failure> {
        let began = Instant::now();
        let checked = self.check(request, caller)?;
        let listeners: Vec<String> = checked.listeners.iter().map(ToString::to_string).collect();
        tracing::debug!(asked = %checked.target, listeners = %listeners.join(", "), "request is valid, binding");
        self.shared.audit.admit()?;
        let mut slot = self.shared.registry.slot()?;
        let request = BindRequest {
            target: checked.target,
            listeners: checked.listeners,
            backlog: self.shared.limits.connections_per_session,
            grant: checked.grant.clone(),
        };
        // The only wait: a caller that goes away meanwhile drops what was bound.
        let bound = session::bind(&*self.binder, request, &self.shared.registry).await?;
        slot.enter(&bound.sandbox)?;
        tracing::debug!(sandbox = %bound.sandbox.id, sockets = bound.sockets.len(), "bound and listening");
        let answer = bound_addresses(&bound);
        let (id, token) = (session_id(&bound.sandbox)?, generate()?);
        let url = format!("{}{SESSIONS_PATH}{}", self.streaming, token.secret());
        let ttl = self.shared.limits.token_ttl;
        let record = Record {
            id,
            pod: bound.sandbox.pod.clone(),
            requester: checked.requester,
            grant: checked.grant,
            labels: checked.labels,
            hold: checked.hold,
            created_at: SystemTime::now(),
            attached: false,
            pass: (&token).into(),
            previous: None,
            held_until: None,
        };
        let deposit = takeover::deposit(&*self.binder, &bound, &record).await;
        let session = session::start(
            Parts {
                id: record.id,
                bound,
                requester: record.requester,
                grant: record.grant,
                labels: record.labels,
                hold: record.hold,
                slot,
                binder: Arc::clone(&self.binder),
                created_at: record.created_at,
                passes: Passes::Token(token),
                deposit,
            },
            &self.shared,
        )?;
        metrics::set_up(began.elapsed());
        Ok(pb::ReversePortForwardResponse {
            session_id: session.id.clone(),
            url,
            bound: answer,
            expires_at_ms: since_epoch(SystemTime::now() + ttl),
            limits: Some(self.shared.limits.to_proto()),
        })
    }

    async fn conditions(&self) -> (String, Vec<pb::Condition>) {
        let status = session::status(&*self.binder).await;
        let trouble = status.trouble.unwrap_or_default();
        let reason = if trouble.is_empty() {
            String::new()
        } else {
            Reason::RuntimeUnavailable.label().to_owned()
        };
        let refusal = self.shared.registry.refusal();
        let refusal = refusal.or_else(|| self.shared.audit.admit().err());
        let (why, sentence) = refusal.as_ref().map_or(("", ""), |refusal| {
            (refusal.reason.label(), refusal.message.as_str())
        });
        let mut conditions = vec![
            pb::Condition {
                r#type: "Ready".to_owned(),
                status: refusal.is_none(),
                reason: why.to_owned(),
                message: sentence.to_owned(),
            },
            pb::Condition {
                r#type: "RuntimeReachable".to_owned(),
                status: trouble.is_empty(),
                reason,
                message: trouble,
            },
        ];
        if let Some(tls) = &self.shared.tls {
            let trouble = tls.trouble(SystemTime::now());
            conditions.push(pb::Condition {
                r#type: "StreamingCertificate".to_owned(),
                status: trouble.is_none(),
                reason: trouble.as_ref().map_or("", |t| t.word).to_owned(),
                message: trouble.map_or_else(String::new, |t| t.sentence),
            });
        }
        if let Some(identity) = &self.shared.cluster {
            let trouble = identity.trouble(SystemTime::now());
            conditions.push(pb::Condition {
                r#type: "ClusterCertificate".to_owned(),
                status: trouble.is_none(),
                reason: trouble
                    .as_ref()
                    .map_or("", |_| "certificate_missing")
                    .to_owned(),
                message: trouble.unwrap_or_default(),
            });
        }
        if let Some(confined) = &self.confined {
            conditions.push(pb::Condition {
                r#type: "Confined".to_owned(),
                status: true,
                reason: String::new(),
                message: confined.clone(),
            });
        }
        (status.runtime, conditions)
    }
}

#[tonic::async_trait]
impl ReversePortForwardService for Service {
    async fn reverse_port_forward(
        &self,
        request: Request<pb::ReversePortForwardRequest>,
    ) -> Result<Response<pb::ReversePortForwardResponse>, Status> {
        let caller = caller(&request);
        let answer = self.open(request.into_inner(), caller).await;
        answered("ReversePortForward", answer)
    }

    async fn version(
        &self,
        _request: Request<pb::VersionRequest>,
    ) -> Result<Response<pb::VersionResponse>, Status> {
        let strings = |all: &[&str]| all.iter().map(ToString::to_string).collect();
        answered(
            "Version",
            Ok(pb::VersionResponse {
                name: "sternline-shim".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                api_versions: strings(API_VERSIONS),
                protocols: strings(STREAM_PROTOCOLS),
            }),
        )
    }

    async fn status(
        &self,
        _request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let (runtime, conditions) = self.conditions().await;
        let registry = &self.shared.registry;
        let off = registry.switched_off();
        answered(
            "Status",
            Ok(pb::StatusResponse {
                limits: Some(self.shared.limits.to_proto()),
                conditions,
                runtime,
                sessions: u32::try_from(registry.list().len()).unwrap_or(u32::MAX),
                connections: registry.connections_open(),
                wide_bind_allowed: self.shared.allow_wide_bind,
                protocols: vec![pb::Protocol::Tcp.into()],
                feature: Some(pb::Feature {
                    enabled: off.is_none(),
                    message: off.unwrap_or_default(),
                }),
            }),
        )
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        if self.gate.is_some() {
            let own = "sessions are listed on the node itself: run sternline there";
            return answered("ListSessions", Err(Failure::new(Reason::Forbidden, own)));
        }
        let prefix = request.into_inner().sandbox_id;
        let sessions = self.shared.registry.list();
        let sessions = sessions
            .iter()
            .filter(|session| session.sandbox.id.starts_with(&prefix))
            .map(|session| session.to_proto())
            .collect();
        answered("ListSessions", Ok(pb::ListSessionsResponse { sessions }))
    }

    async fn stop_session(
        &self,
        request: Request<pb::StopSessionRequest>,
    ) -> Result<Response<pb::StopSessionResponse>, Status> {
        let id = request.into_inner().session_id;
        let found = self.shared.registry.find(&id);
        let found = found.and_then(|session| self.may_stop(session));
        let stopped = match found {
            Ok(session) => {
                let sentence = format!("session {} was stopped on the node", session.id);
                session.stop(Failure::new(Reason::Stopped, sentence)).await;
                Ok(pb::StopSessionResponse {})
            }
            Err(failure) => Err(failure),
        };
        answered("StopSession", stopped)
    }
}

/// Counts and logs an answer.
fn answered<T>(call: &'static str, answer: Result<T, Failure>) -> Result<Response<T>, Status> {
    match answer {
        Ok(answer) => {
            metrics::called(call, tonic::Code::Ok);
            Ok(Response::new(answer))
        }
        Err(mut failure) => {
            failure.message = capped(plain(&failure.message));
            tracing::info!(call, reason = %failure.reason, message = %failure, "refused");
            metrics::called(call, failure.reason.grpc());
            metrics::failed(failure.reason);
            Err(failure.into())
        }
    }
}

/// Who is at the other end of the Unix socket, as the kernel says.
fn caller<T>(request: &Request<T>) -> pb::Requester {
    let credentials = request
        .extensions()
        .get::<UdsConnectInfo>()
        .and_then(|info| info.peer_cred);
    credentials.map_or_else(pb::Requester::default, |credentials| pb::Requester {
        user: format!("uid:{}", credentials.uid()),
        uid: credentials.uid().to_string(),
        groups: vec![format!("gid:{}", credentials.gid())],
    })
}

fn bound_addresses(bound: &Bound) -> Vec<pb::Bound> {
    let sockets = bound.sockets.iter();
    sockets
        .map(|socket| pb::Bound::from_addr(socket.listener_id, socket.addr))
        .collect()
}

/// A name for lists and logs. It is random so that it is unique, and nothing
/// accepts it as proof.
fn session_id(sandbox: &Sandbox) -> Result<String, Failure> {
    let random = generate()?;
    tracing::debug!(sandbox = %sandbox.id, id = &random.secret()[..12], "session named");
    Ok(random.secret()[..12].to_owned())
}

fn generate() -> Result<Pass, Failure> {
    Pass::generate().map_err(|error| {
        Failure::new(
            Reason::Internal,
            format!("the system gave no random bytes: {error}"),
        )
    })
}
