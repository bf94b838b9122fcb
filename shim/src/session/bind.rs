//! Asking the binder, for new sessions and for listeners added later.

use super::holder::name_session;
use crate::binder::{BindRequest, Binder, BinderStatus, Bound, SandboxTarget};
use crate::metrics::{self, Operation};
use crate::registry::Registry;
use crate::sentence::plain;
use std::time::Duration;
use sternline_api::listen::Listen;
use sternline_api::{Failure, Reason};
use tokio::time::timeout;

/// How long the binder may take, the runtime's answers included; below the time
/// after which a call is cut off without a sentence.
const BIND_TIMEOUT: Duration = Duration::from_secs(20);

/// Binds within a bounded time. Dropping the future frees what was bound.
///
/// # Errors
/// As [`Binder::bind`], and when it does not answer. An address that a session of
/// `registry` has is refused with that session's id.
pub async fn bind(
    binder: &dyn Binder,
    request: BindRequest,
    registry: &Registry,
) -> Result<Bound, Failure> {
    let (asked, listeners) = (request.target.clone(), request.listeners.clone());
    let bound = bind_in_time(binder, request).await;
    bound.map_err(|failure| name_session(failure, &asked, &listeners, &registry.list()))
}

async fn bind_in_time(binder: &dyn Binder, request: BindRequest) -> Result<Bound, Failure> {
    let target = match &request.target {
        SandboxTarget::Id(id) => format!("sandbox {id}"),
        SandboxTarget::Pod(pod) => format!("pod {}/{}", pod.namespace, pod.name),
    };
    let bound = timeout(BIND_TIMEOUT, binder.bind(request)).await;
    let bound = bound.unwrap_or_else(|_| {
        Err(Failure::new(
            Reason::RuntimeUnavailable,
            format!(
                "{target}: nothing could be bound within {} s: see whether the container runtime answers, then try again",
                BIND_TIMEOUT.as_secs()
            ),
        ))
    });
    if let Err(failure) = &bound
        && failure.reason == Reason::RuntimeUnavailable
    {
        metrics::runtime_failed(Operation::Bind);
    }
    bound
}

/// Asks the binder how the source of sandboxes is, and counts when it is not
/// well.
pub async fn status(binder: &dyn Binder) -> BinderStatus {
    let mut status = binder.status().await;
    status.trouble = status.trouble.map(|trouble| plain(&trouble));
    if status.trouble.is_some() {
        metrics::runtime_failed(Operation::Status);
    }
    status
}

/// Refuses addresses that others than the pod could reach, unless the node
/// allows them. The binder checks again.
///
/// # Errors
/// The first such listener.
pub fn refuse_wide(listeners: &[Listen], allowed: bool) -> Result<(), Failure> {
    match listeners.iter().find(|listen| listen.bind.is_wide()) {
        Some(wide) if !allowed => Err(Failure::new(
            Reason::WideBindDenied,
            format!(
                "listening on {wide} would let others than the pod connect, and this node does not allow that (--allow-wide-bind): use a loopback address"
            ),
        )),
        _ => Ok(()),
    }
}
