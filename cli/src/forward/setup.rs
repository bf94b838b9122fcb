//! From the call to the announcement.

use super::live::{self, Live};
use super::mapping::Mapping;
use super::outside::Outside;
use super::resume::Resume;
use super::{Plan, millis};
use crate::clean::clean;
use crate::connect::call::Client;
use crate::connect::{Server, StreamUrl, Way};
use crate::fault::Fault;
use crate::report::Ready;
use crate::target::Place;
use std::time::Duration;
use sternline_api::v1alpha1 as pb;
use sternline_tunnel::Settings;
use tokio::time::timeout;

/// How long an attempt to free listeners that nobody serves may take.
const ABANDON: Duration = Duration::from_secs(1);

/// What the call answered.
pub(super) struct Opened {
    pub(super) client: Client,
    pub(super) answer: Answered,
}

/// The part of it that leads to the stream.
pub(super) struct Answered {
    pub(super) session_id: String,
    url: String,
    limits: pb::Limits,
}

impl From<pb::ReversePortForwardResponse> for Answered {
    fn from(answer: pb::ReversePortForwardResponse) -> Self {
        Self {
            session_id: answer.session_id,
            url: answer.url,
            limits: answer.limits.unwrap_or_default(),
        }
    }
}

/// A session whose announcement was heard and checked.
pub(super) struct Up {
    pub(super) live: Live,
    pub(super) mapping: Mapping,
    pub(super) resume: Resume,
}

/// Makes the call.
pub(super) async fn call(server: &Server, plan: &Plan) -> Result<Opened, Fault> {
    let mut client = server.connect().await?;
    let Place::Sandbox(id) = &plan.place else {
        return Err(Fault::usage(format!(
            "{} is no sandbox of this node: write sandbox/ID",
            plan.place
        )));
    };
    let request = pb::ReversePortForwardRequest {
        target: Some(pb::Target {
            by: Some(pb::target::By::SandboxId(id.clone())),
        }),
        listeners: plan
            .specs
            .iter()
            .map(|spec| spec.listen.to_proto())
            .collect(),
        options: Some(pb::SessionOptions {
            hold_ms: millis(plan.hold),
            ..pb::SessionOptions::default()
        }),
        ..pb::ReversePortForwardRequest::default()
    };
    tracing::info!(place = %plan.place, listeners = plan.specs.len(), "asking for the listeners");
    let answer = server.answer(client.reverse_port_forward(request)).await?;
    let session_id = clean(&answer.session_id);
    tracing::info!(session = %session_id, bound = answer.bound.len(), "the listeners are bound");
    Ok(Opened {
        client,
        answer: answer.into(),
    })
}

/// Opens the session's stream and checks what the node announces.
pub(super) async fn stream(
    outside: &dyn Outside,
    limit: Duration,
    plan: &Plan,
    opened: Answered,
) -> Result<Up, Fault> {
    let way = Way::Url(StreamUrl::parse(&opened.url)?);
    let settings = Settings::from_limits(&opened.limits);
    let (live, ready) = live::establish(outside, &way, &settings, limit).await?;
    if ready.session_id != opened.session_id {
        return Err(Fault::protocol(
            "the server announced another session than it answered with: the forward is given up",
        ));
    }
    let mapping = Mapping::check(&plan.specs, &ready.bound)?;
    tracing::info!(hold_ms = ready.hold_ms, "the session is announced");
    let resume = Resume::new(way, settings, &ready, plan.hold);
    Ok(Up {
        live,
        mapping,
        resume,
    })
}

/// Frees the listeners of a session that did not come up. Where that fails,
/// the server frees them when the token expires.
pub(super) async fn abandon(client: &mut Client, session_id: String) {
    let stop = client.stop_session(pb::StopSessionRequest { session_id });
    match timeout(ABANDON, stop).await {
        Ok(Ok(_)) => tracing::info!("the session is given up and its listeners are free"),
        Ok(Err(_)) | Err(_) => tracing::info!("the listeners are free once the token expires"),
    }
}

/// Frees the listeners of a session whose tunnel is lost and that nobody will
/// come back to. Where that fails, the server frees them when the hold is over.
/// The call's own connection is long gone: this makes another.
pub(super) async fn release(server: &Server, session_id: &str) {
    let session_id = session_id.to_owned();
    let stop = async {
        let mut client = server.connect().await?;
        let stop = client.stop_session(pb::StopSessionRequest { session_id });
        server.answer(stop).await
    };
    match timeout(ABANDON, stop).await {
        Ok(Ok(_)) => tracing::info!("the session is given up and its listeners are free"),
        Ok(Err(fault)) => tracing::info!(%fault, "the listeners are free once the hold is over"),
        Err(_) => tracing::info!("the listeners are free once the hold is over"),
    }
}

impl Up {
    /// What the user is told.
    pub(super) fn announcement(&self, plan: &Plan) -> Ready {
        Ready {
            session_id: clean(self.resume.session_id()),
            place: plan.place.to_string(),
            namespace: plan.place.namespace().map(ToOwned::to_owned),
            hold_ms: millis(self.resume.hold()),
            bound: self.mapping.forwarding(),
        }
    }
}
