//! What is asked for is checked here, whole, before anything is done.

use super::Service;
use crate::binder::SandboxTarget;
use crate::session::{MAX_REQUESTER, Session, refuse_wide};
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use sternline_api::listen::Listen;
use sternline_api::{Failure, Reason, span, v1alpha1 as pb};

/// Most labels of a session, and their lengths in bytes.
const MAX_LABELS: usize = 16;
const MAX_LABEL_KEY: usize = 63;
const MAX_LABEL_VALUE: usize = 253;

/// A request whose every part was checked.
pub(super) struct Checked {
    pub(super) requester: pb::Requester,
    pub(super) grant: Vec<u8>,
    pub(super) target: SandboxTarget,
    pub(super) listeners: Vec<Listen>,
    pub(super) hold: Duration,
    pub(super) labels: BTreeMap<String, String>,
}

impl Service {
    pub(super) fn check(
        &self,
        request: pb::ReversePortForwardRequest,
        caller: pb::Requester,
    ) -> Result<Checked, Failure> {
        let Some(gate) = &self.gate else {
            return self.check_local(request, caller);
        };
        let now = SystemTime::now();
        let grant = gate.verify(&request.grant, now)?;
        let requester = request.requester.unwrap_or_default();
        let asked = match request.target.and_then(|target| target.by) {
            Some(pb::target::By::Pod(pod)) => pod,
            _ => {
                return Err(forbidden(
                    "a gateway names the pod, and this call names none",
                ));
            }
        };
        if !grant.is_of_the_same(&asked, &requester) {
            return Err(forbidden(
                "the grant is for another pod or user than the call",
            ));
        }
        if requester.encoded_len() > MAX_REQUESTER {
            return Err(invalid(format!(
                "the requester has more than {MAX_REQUESTER} bytes: leave groups out"
            )));
        }
        let listeners = self.checked_listeners(&request.listeners)?;
        grant.permits(&listeners)?;
        let options = request.options.unwrap_or_default();
        let hold = self.checked_hold(options.hold_ms)?;
        grant.permits_hold(hold)?;
        let labels = checked_labels(options.labels)?;
        // The last: what is refused may be asked for again with the same grant.
        gate.open(&grant, now)?;
        Ok(Checked {
            requester,
            grant: request.grant,
            target: SandboxTarget::Pod(asked.into()),
            listeners,
            hold,
            labels,
        })
    }

    fn check_local(
        &self,
        request: pb::ReversePortForwardRequest,
        caller: pb::Requester,
    ) -> Result<Checked, Failure> {
        if request.requester.is_some() || !request.grant.is_empty() {
            return Err(Failure::new(
                Reason::Forbidden,
                "requester and grant are taken from a gateway alone: leave them out on this socket",
            ));
        }
        let target = match request.target.and_then(|target| target.by) {
            // An empty id would be a prefix of any.
            Some(pb::target::By::SandboxId(id)) if !id.is_empty() => SandboxTarget::Id(id),
            Some(pb::target::By::Pod(_)) => {
                return Err(Failure::new(
                    Reason::Forbidden,
                    "a pod can be named by a gateway alone: give the sandbox id, which `crictl pods` lists",
                ));
            }
            _ => return Err(invalid("the request names no sandbox: give a sandbox id")),
        };
        let listeners = self.checked_listeners(&request.listeners)?;
        let options = request.options.unwrap_or_default();
        Ok(Checked {
            requester: caller,
            grant: Vec::new(),
            target,
            listeners,
            hold: self.checked_hold(options.hold_ms)?,
            labels: checked_labels(options.labels)?,
        })
    }

    fn checked_listeners(&self, asked: &[pb::Listener]) -> Result<Vec<Listen>, Failure> {
        let most = self.shared.limits.listeners_per_session as usize;
        if asked.len() > most {
            return Err(Failure::new(
                Reason::ListenerLimit,
                format!(
                    "{} listeners were asked for, and a session may have {most} (--max-listeners-per-session): ask for fewer",
                    asked.len()
                ),
            ));
        }
        let listeners = Listen::all_from_proto(asked)?;
        refuse_wide(&listeners, self.shared.allow_wide_bind)?;
        Ok(listeners)
    }

    fn checked_hold(&self, asked_ms: u64) -> Result<Duration, Failure> {
        let max_hold = self.shared.limits.max_hold;
        let hold = Duration::from_millis(asked_ms);
        if hold > max_hold {
            return Err(invalid(format!(
                "a hold of {} is longer than the {} that this node allows (--max-hold): ask for less",
                span::exact(hold),
                span::exact(max_hold)
            )));
        }
        Ok(hold)
    }

    /// Gateways end sessions of gateways; those of the node end on the node.
    pub(super) fn may_stop(&self, session: Arc<Session>) -> Result<Arc<Session>, Failure> {
        if self.gate.is_none() || session.granted {
            return Ok(session);
        }
        Err(forbidden(
            "the session was asked for on the node itself: stop it there",
        ))
    }
}

fn checked_labels(
    labels: std::collections::HashMap<String, String>,
) -> Result<BTreeMap<String, String>, Failure> {
    if labels.len() > MAX_LABELS {
        return Err(invalid(format!(
            "{} labels were given, and a session may have {MAX_LABELS}: give fewer",
            labels.len()
        )));
    }
    for (key, value) in &labels {
        if key.is_empty() || key.len() > MAX_LABEL_KEY || value.len() > MAX_LABEL_VALUE {
            return Err(invalid(format!(
                "label {key:?}: a key has 1 to {MAX_LABEL_KEY} bytes and a value up to {MAX_LABEL_VALUE}: shorten it"
            )));
        }
    }
    Ok(labels.into_iter().collect())
}

fn forbidden(sentence: &str) -> Failure {
    Failure::new(Reason::Forbidden, sentence)
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(Reason::InvalidRequest, message)
}
