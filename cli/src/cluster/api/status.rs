//! What an API server, or a gateway behind it, refused.

use super::{GROUP, VERSION};
use crate::fault::{Fault, exit};
use http::StatusCode;
use serde::Deserialize;
use sternline_api::Reason;

/// Longest explanation that is no `Status` and is quoted still, in characters.
const LONGEST_QUOTE: usize = 200;

/// `meta/v1`, `Status`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    kind: String,
    message: String,
    reason: String,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    causes: Option<Vec<Cause>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
}

/// What an answer other than success to a request for `path` means, in kubectl's
/// form.
pub(super) fn refused(path: &str, code: StatusCode, body: &[u8]) -> Fault {
    let is_ours = path.starts_with(&format!("/apis/{GROUP}/"));
    let said: Option<Status> = serde_json::from_slice(body)
        .ok()
        .filter(|status: &Status| status.kind == "Status");
    let causes = said.iter().flat_map(|status| &status.details);
    let mut causes = causes.flat_map(|details| details.causes.iter().flatten());
    // Our own word: it came from a gateway.
    if let Some(reason) = causes.find_map(|cause| Reason::from_label(&cause.reason)) {
        return Fault::because(reason, sentence(code, said.as_ref(), body));
    }
    let sentence = sentence(code, said.as_ref(), body);
    match code.as_u16() {
        401 => Fault::new(
            exit::FORBIDDEN,
            "You must be logged in to the server (Unauthorized): the credentials of this context are missing or no longer valid",
        ),
        // An API server that has just started says both of everybody, so they are no
        // reason to give a lost stream up.
        403 if is_ours => Fault::new(exit::FORBIDDEN, sentence),
        403 => Fault::because(Reason::Forbidden, sentence),
        404 if is_ours => not_installed(),
        404 => Fault::because(Reason::SandboxNotFound, sentence),
        502..=504 if is_ours => Fault::no_server(format!(
            "{sentence}: the gateway of Sternline does not answer: `kubectl -n sternline get pods` shows its state"
        )),
        400 | 405 | 406 | 415 | 422 => Fault::because(Reason::InvalidRequest, sentence),
        502..=504 => Fault::no_server(sentence),
        _ => Fault::new(exit::OTHER, sentence),
    }
}

/// Nobody serves the group.
pub(super) fn not_installed() -> Fault {
    Fault::no_server(format!(
        "the server does not have {GROUP}/{VERSION}: Sternline is not installed in this cluster, or in a release that does not go with sternline {}; an administrator installs it with `kubectl apply -k`, see docs/kubectl.md",
        env!("CARGO_PKG_VERSION")
    ))
}

/// As kubectl prints it.
fn sentence(code: StatusCode, said: Option<&Status>, body: &[u8]) -> String {
    match said {
        Some(status) if status.reason.is_empty() => {
            format!("Error from server: {}", status.message)
        }
        Some(status) => format!("Error from server ({}): {}", status.reason, status.message),
        None => {
            let text = String::from_utf8_lossy(body);
            let text: String = text.trim().chars().take(LONGEST_QUOTE).collect();
            let word = code
                .canonical_reason()
                .unwrap_or("Unknown")
                .replace(' ', "");
            match text.starts_with('<') || text.is_empty() {
                true => format!("Error from server ({word}): it answered {}", code.as_u16()),
                false => format!("Error from server ({word}): {text}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OURS: &str =
        "/apis/reverse.sternline.dev/v1alpha1/namespaces/a/pods/b/portforward?listen=1";

    fn said(path: &str, code: u16, body: &str) -> Fault {
        refused(
            path,
            StatusCode::from_u16(code).expect("a code"),
            body.as_bytes(),
        )
    }

    fn status(reason: &str, message: &str, cause: &str) -> String {
        json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
            "message": message, "details": {"causes": [{"reason": cause, "message": message}]},
        })
        .to_string()
    }

    #[test]
    fn a_gateways_own_word_gives_the_exit_code() {
        let body = status("Conflict", "pod b: port 80 is taken\x1b[2J", "port_in_use");
        let fault = said(OURS, 409, &body);
        assert_eq!((fault.exit, fault.reason), (5, Some(Reason::PortInUse)));
        assert_eq!(
            fault.message,
            "Error from server (Conflict): pod b: port 80 is taken[2J"
        );
        let body = status("Forbidden", "no", "forbidden");
        assert_eq!(said(OURS, 403, &body).reason, Some(Reason::Forbidden));
    }

    #[test]
    fn the_api_server_alone_is_kubectls_sentence() {
        let body = status("Forbidden", "pods \"b\" is forbidden", "");
        let fault = said("/api/v1/namespaces/a/pods/b", 403, &body);
        assert_eq!((fault.exit, fault.label()), (4, "forbidden"));
        assert_eq!(
            fault.message,
            "Error from server (Forbidden): pods \"b\" is forbidden"
        );
        let body = status("NotFound", "pods \"b\" not found", "");
        let fault = said("/api/v1/namespaces/a/pods/b", 404, &body);
        assert_eq!(fault.exit, 3);
        assert_eq!(said("/api", 401, "").exit, 4);
        assert_eq!(
            said("/api", 500, "oops").message,
            "Error from server (InternalServerError): oops"
        );
        assert!(
            said("/api", 502, "<html>")
                .message
                .ends_with("(BadGateway): it answered 502")
        );
    }

    #[test]
    fn what_may_pass_is_no_reason_to_give_up() {
        for (code, exit) in [(401, 4), (403, 4), (404, 6), (503, 6)] {
            let fault = said(OURS, code, "");
            assert_eq!((fault.exit, fault.reason), (exit, None), "{code}");
        }
    }

    #[test]
    fn not_installed_and_not_running_say_what_to_do() {
        let fault = said(OURS, 404, "404 page not found\n");
        assert!(
            fault.message.contains("not installed in this cluster"),
            "{fault}"
        );
        let fault = said(OURS, 503, "service unavailable");
        assert!(
            fault
                .message
                .contains("gateway of Sternline does not answer"),
            "{fault}"
        );
    }
}
