//! Failures as the Kubernetes API tells them: `Status` objects, which kubectl
//! prints as `Error from server (Forbidden): ...`.

use crate::request::SLOT;
use crate::{GROUP, SUBRESOURCE};
use http::{Method, StatusCode};
use serde::Serialize;
use sternline_api::{Failure, Reason};

/// How long a client may wait that is refused for a limit, in seconds.
const RETRY_AFTER: u32 = 5;

/// A failed answer (`meta/v1`, `Status`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    kind: &'static str,
    api_version: &'static str,
    metadata: Metadata,
    status: &'static str,
    /// The sentence for people.
    pub message: String,
    /// The API's word for programs.
    pub reason: &'static str,
    details: Details,
    /// The HTTP status.
    pub code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Metadata {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    group: &'static str,
    kind: &'static str,
    causes: Vec<Cause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Cause {
    reason: &'static str,
    message: String,
}

impl Status {
    /// Tells a failure about the pod of this name, if it is about one. The cause
    /// carries our own word, which no other says.
    #[must_use]
    pub fn of(failure: &Failure, pod: &str) -> Self {
        let code = http(failure.reason);
        let retry = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        Self {
            kind: "Status",
            api_version: "v1",
            metadata: Metadata {},
            status: "Failure",
            message: failure.message.clone(),
            reason: word(code),
            details: Details {
                name: pod.to_owned(),
                group: GROUP,
                kind: SLOT,
                causes: vec![Cause {
                    reason: failure.reason.label(),
                    message: failure.message.clone(),
                }],
                retry_after_seconds: retry.contains(&code).then_some(RETRY_AFTER),
            },
            code: code.as_u16(),
        }
    }

    /// Nothing is served under this path.
    #[must_use]
    pub fn no_such_path(path: &str) -> Self {
        let message = format!(
            "nothing is served at {path:?}: forwards are opened at pods/NAME/{SUBRESOURCE} of {GROUP}"
        );
        let failure = Failure::new(Reason::InvalidRequest, message);
        Self {
            code: StatusCode::NOT_FOUND.as_u16(),
            reason: word(StatusCode::NOT_FOUND),
            ..Self::of(&failure, "")
        }
    }

    /// What is at the path is asked for with other methods.
    #[must_use]
    pub fn no_such_method(method: &Method, known: &str) -> Self {
        let message = format!("this path is asked with {known}, not with {method}");
        let failure = Failure::new(Reason::InvalidRequest, message);
        Self {
            code: StatusCode::METHOD_NOT_ALLOWED.as_u16(),
            reason: word(StatusCode::METHOD_NOT_ALLOWED),
            ..Self::of(&failure, "")
        }
    }

    /// Nobody says who asks. Of a forward this is the API server's trouble, not the
    /// user's, and may pass: whoever comes back tries again.
    #[must_use]
    pub fn unauthenticated(message: &str) -> Self {
        let failure = Failure::new(Reason::ClusterUnavailable, message);
        Self {
            code: StatusCode::UNAUTHORIZED.as_u16(),
            reason: word(StatusCode::UNAUTHORIZED),
            ..Self::of(&failure, "")
        }
    }

    /// The object in JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and numbers alone: there is nothing that could fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The HTTP status of a failure in front of the API server: a limit of ours is the
/// client's to wait for, never the API server's fault.
fn http(reason: Reason) -> StatusCode {
    match reason {
        Reason::ConnectionLimit
        | Reason::NodeConnectionLimit
        | Reason::BufferLimit
        | Reason::DescriptorLimit => StatusCode::TOO_MANY_REQUESTS,
        other => other.http(),
    }
}

/// The API's words (`meta/v1`, `StatusReason`).
fn word(code: StatusCode) -> &'static str {
    match code.as_u16() {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        409 => "Conflict",
        410 => "Gone",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        500 => "InternalError",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn told(reason: Reason) -> Value {
        let status = Status::of(&Failure::new(reason, "pod web: said so"), "web");
        serde_json::from_slice(&status.to_json()).expect("JSON")
    }

    #[test]
    fn it_is_what_kubectl_prints() {
        assert_eq!(
            told(Reason::PortInUse),
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "pod web: said so", "reason": "Conflict", "code": 409,
                "details": {
                    "name": "web", "group": "reverse.sternline.dev", "kind": "pods",
                    "causes": [{"reason": "port_in_use", "message": "pod web: said so"}],
                },
            })
        );
        assert_eq!(told(Reason::Forbidden)["reason"], "Forbidden");
    }

    #[test]
    fn who_meets_a_limit_is_told_to_wait() {
        for reason in [
            Reason::SessionLimit,
            Reason::ConnectionLimit,
            Reason::Draining,
        ] {
            let told = told(reason);
            assert_eq!(told["details"]["retryAfterSeconds"], 5, "{reason}");
        }
        assert!(
            told(Reason::Forbidden)["details"]
                .get("retryAfterSeconds")
                .is_none()
        );
    }

    #[test]
    fn every_failure_has_a_word_of_the_api() {
        for reason in Reason::ALL
            .iter()
            .filter(|reason| reason.http() != StatusCode::OK)
        {
            let status = Status::of(&Failure::new(*reason, ""), "");
            assert!(status.code >= 400, "{reason}");
            // These are answers of the streaming endpoint and of streams.
            let ours = [426, 502].contains(&status.code);
            assert!(
                ours || status.reason != "Unknown",
                "{reason}: {}",
                status.code
            );
        }
    }

    #[test]
    fn a_path_that_is_none_and_a_stranger_have_their_own_codes() {
        let none = Status::no_such_path("/x\n");
        assert_eq!((none.code, none.reason), (404, "NotFound"));
        assert!(none.message.contains(r#""/x\n""#), "{}", none.message);
        let method = Status::no_such_method(&Method::DELETE, "GET");
        assert_eq!((method.code, method.reason), (405, "MethodNotAllowed"));
        let stranger = Status::unauthenticated("who?");
        assert_eq!((stranger.code, stranger.reason), (401, "Unauthorized"));
        let json = String::from_utf8(stranger.to_json()).expect("text");
        assert!(json.contains("cluster_unavailable"), "{json}");
    }
}
