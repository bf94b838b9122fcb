//! Gives nodes their certificates.
//!
//! A shim shows the token of its service account, which is bound to its pod. The
//! Kubernetes API says which pod that is, and the pod on which node it is: the
//! token's word is taken for nothing else.

use crate::authority::{AuthorityError, Lifetimes, Material, Profile};
use crate::kube::{self, Api, Ask, Pod, Verb};
use crate::status::Status;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Bytes};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use sternline_api::{Failure, Reason};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// Where they ask.
pub const PATH: &str = "/v1alpha1/node-certificate";

/// Most that are answered at once: each asks the Kubernetes API twice, and may be
/// anybody.
pub const AT_ONCE: usize = 8;

/// The audience of their tokens: those for others are none here.
const AUDIENCE: &str = "sternline-gateway";

/// Where the Kubernetes API is asked whose a token is.
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// Longest request, in bytes.
const LONGEST: usize = 8 * 1024;

/// How long a node waits for its turn.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a node may take to send it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Gives them.
pub struct Nodes {
    /// The Kubernetes API.
    pub api: Arc<dyn Api>,
    /// Namespace of the shims.
    pub namespace: String,
    /// Name of their DaemonSet, and of its service account.
    pub shims: String,
    /// What there is of the authority.
    pub material: watch::Receiver<Option<Arc<Material>>>,
    /// How long certificates are good.
    pub lifetimes: Lifetimes,
    /// Room for [`AT_ONCE`].
    pub room: Semaphore,
}

/// A certificate for a node.
#[derive(Debug)]
pub struct Certificate {
    pem: String,
    until: SystemTime,
}

impl Certificate {
    /// As it is answered.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let until = crate::audit::rfc3339(self.until);
        let answer = json!({ "certificate": self.pem, "notAfter": until });
        answer.to_string().into_bytes()
    }
}

#[derive(Deserialize)]
struct Review {
    #[serde(default)]
    status: Verdict,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Verdict {
    authenticated: bool,
    audiences: Vec<String>,
    user: Holder,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Holder {
    username: String,
    extra: BTreeMap<String, Vec<String>>,
}

impl Holder {
    /// What the API server says of the token besides its user.
    fn bound(&self, what: &str) -> Option<&str> {
        let values = self
            .extra
            .get(&format!("authentication.kubernetes.io/{what}"))?;
        values.first().map(String::as_str)
    }
}

impl Nodes {
    /// Signs what a node sent, if it is one.
    ///
    /// # Errors
    /// Why not, as a Status.
    pub async fn certify<B>(
        &self,
        request: Request<B>,
        now: SystemTime,
    ) -> Result<Certificate, Status>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if request.method() != Method::POST {
            return Err(Status::no_such_method(request.method(), "POST"));
        }
        let bearer = request.headers().get(header::AUTHORIZATION);
        let bearer = bearer.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let token = bearer.map(str::to_owned).ok_or_else(|| {
            Status::unauthenticated(
                "certificates are for shims, which show the token of their service account",
            )
        })?;
        let body = Limited::new(request.into_body(), LONGEST).collect();
        let body = timeout(BODY_TIMEOUT, body).await;
        let body = body.map(|body| body.map(|body| body.to_bytes()));
        let Ok(Ok(body)) = body else {
            let what = format!(
                "a certificate request has {LONGEST} bytes at most, and is sent within {BODY_TIMEOUT:?}"
            );
            return Err(status(Reason::InvalidRequest, &what));
        };
        let request = String::from_utf8_lossy(&body);
        // Not before: who sends nothing has no place among those who wait for the API.
        let Ok(Ok(_room)) = timeout(ROOM_TIMEOUT, self.room.acquire()).await else {
            return Err(status(
                Reason::SessionLimit,
                "too many nodes ask at once: try again in a moment",
            ));
        };
        let node = self.node(token).await?;
        let material = self.material.borrow().clone();
        let material = material.ok_or_else(|| {
            status(
                Reason::ClusterUnavailable,
                "the authority is not there yet: try again",
            )
        })?;
        let profile = Profile::Node(node.clone());
        let issued = material
            .ring
            .answer(&request, &profile, now, &self.lifetimes);
        let issued = issued.map_err(|error| match error {
            AuthorityError::Request { .. } => status(Reason::InvalidRequest, &error.to_string()),
            other => status(Reason::Internal, &other.to_string()),
        })?;
        tracing::info!(node, "a node has a certificate");
        Ok(Certificate {
            pem: issued.certificate,
            until: issued.until,
        })
    }

    /// The node of the shim whose token this is.
    async fn node(&self, token: String) -> Result<String, Status> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": [AUDIENCE] },
        });
        let review = kube::read(&*self.api, Ask::with(Verb::Create, REVIEWS, review)).await;
        let Review { status: verdict } = review.map_err(|error| told(&error.into()))?;
        let is_ours = verdict.audiences.iter().any(|one| one == AUDIENCE);
        if !verdict.authenticated || !is_ours {
            return Err(Status::unauthenticated(&format!(
                "the token is not valid for the audience {AUDIENCE:?}: is it expired, or projected for another?"
            )));
        }
        let Holder { username, .. } = &verdict.user;
        let account = format!("system:serviceaccount:{}:{}", self.namespace, self.shims);
        if *username != account {
            return Err(refused(&format!("{username:?} is not {account:?}")));
        }
        let bound = (
            verdict.user.bound("pod-name"),
            verdict.user.bound("pod-uid"),
        );
        let (Some(name), Some(uid)) = bound else {
            return Err(refused("its token is bound to no pod"));
        };
        let path = format!("/api/v1/namespaces/{}/pods/{name}", self.namespace);
        let pod: Result<Option<Pod>, _> = kube::find(&*self.api, Ask::get(path)).await;
        let pod = pod.map_err(|error| told(&error.into()))?;
        let pod = pod.filter(|pod| pod.metadata.uid == uid);
        let pod = pod.ok_or_else(|| refused("the pod of its token is gone"))?;
        if !pod.metadata.is_of_daemon_set(&self.shims) {
            return Err(refused(&format!(
                "pod {name:?} is not of the DaemonSet {:?}",
                self.shims
            )));
        }
        if pod.spec.node_name.is_empty() {
            return Err(refused("its pod is on no node"));
        }
        Ok(pod.spec.node_name)
    }
}

fn refused(what: &str) -> Status {
    let message = format!("certificates are for the shims of this cluster: {what}");
    status(Reason::Forbidden, &message)
}

fn status(reason: Reason, message: &str) -> Status {
    told(&Failure::new(reason, message))
}

fn told(failure: &Failure) -> Status {
    Status::of(failure, "")
}

#[cfg(test)]
mod tests;
