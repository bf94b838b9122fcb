//! Credential programs (`client.authentication.k8s.io`, kind `ExecCredential`).

use super::super::kubeconfig::{ClusterInfo, Exec, Identity, Secret};
use crate::fault::{Fault, exit};
use crate::signals::Held;
use crate::{clean, span};
use serde::Deserialize;
use std::io::{self, IsTerminal as _};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;

/// Versions of the interface that are spoken.
const VERSIONS: [&str; 2] = [
    "client.authentication.k8s.io/v1",
    "client.authentication.k8s.io/v1beta1",
];

/// How long a program may take: a person may sign in with a browser meanwhile.
const LONGEST_RUN: Duration = Duration::from_secs(300);

/// Longest answer of a program, in bytes.
const LONGEST_ANSWER: u64 = 1024 * 1024;

/// What a program answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) token: Option<Secret>,
    pub(super) identity: Option<Arc<Identity>>,
    /// When it must be asked again; never before a refusal, if it does not say.
    pub(super) expires: Option<SystemTime>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    token: Option<Secret>,
    client_certificate_data: Option<Secret>,
    client_key_data: Option<Secret>,
    expiration_timestamp: Option<String>,
}

/// Runs the program.
pub(super) async fn run(
    exec: &Exec,
    info: &ClusterInfo,
    held: Option<&Held>,
) -> Result<Answer, Fault> {
    if !VERSIONS.contains(&exec.api_version.as_str()) {
        return Err(Fault::usage(format!(
            "kubeconfig: the credential plug-in {:?} has apiVersion {:?}: known are {}",
            exec.command,
            exec.api_version,
            VERSIONS.join(" and ")
        )));
    }
    let interactive = interactive(exec, io::stdin().is_terminal())?;
    let mut command = Command::new(&exec.command);
    command
        .args(exec.args.iter().flatten())
        .envs(
            exec.env
                .iter()
                .flatten()
                .map(|one| (&one.name, &one.value.0)),
        )
        .env("KUBERNETES_EXEC_INFO", question(exec, info, interactive))
        .stdin(if interactive {
            Stdio::inherit()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    tracing::info!(command = %exec.command, "asking the credential plug-in");
    let spawned = match held {
        Some(held) => held.as_given(|| command.spawn()),
        None => command.spawn(),
    };
    let failed = |what: String| {
        Fault::new(
            exit::OTHER,
            format!("the credential plug-in {:?} {what}", exec.command),
        )
    };
    let mut child = spawned.map_err(|error| {
        let hint = exec.install_hint.as_deref().unwrap_or_default().trim();
        let what = format!("cannot be run: {}", crate::cause(&error));
        match hint {
            "" => failed(what),
            hint => failed(format!("{what}: {}", clean::clean(hint))),
        }
    })?;
    let answered = async {
        let mut bytes = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(LONGEST_ANSWER).read_to_end(&mut bytes).await?;
        }
        Ok::<_, io::Error>((bytes, child.wait().await?))
    };
    let (bytes, status) = match timeout(LONGEST_RUN, answered).await {
        Ok(done) => done.map_err(|error| failed(format!("failed: {}", crate::cause(&error))))?,
        Err(_) => {
            let span = span::short(LONGEST_RUN);
            return Err(failed(format!("did not answer within {span}")));
        }
    };
    if !status.success() {
        return Err(failed(format!("failed with {status}: sign in again?")));
    }
    read(&bytes, &exec.api_version).map_err(failed)
}

/// Whether the program may talk to the user.
fn interactive(exec: &Exec, terminal: bool) -> Result<bool, Fault> {
    match exec.interactive_mode.as_deref() {
        Some("Never") => Ok(false),
        Some("Always") if !terminal => Err(Fault::usage(format!(
            "the credential plug-in {:?} needs a terminal, and standard input is none",
            exec.command
        ))),
        _ => Ok(terminal),
    }
}

/// What the program is told.
fn question(exec: &Exec, info: &ClusterInfo, interactive: bool) -> String {
    let mut spec = serde_json::json!({ "interactive": interactive });
    if exec.provide_cluster_info {
        spec["cluster"] = serde_json::to_value(info).unwrap_or_default();
    }
    serde_json::json!({
        "kind": "ExecCredential",
        "apiVersion": exec.api_version,
        "spec": spec,
    })
    .to_string()
}

/// Reads the answer; what is wrong with it, never quoting it.
fn read(bytes: &[u8], version: &str) -> Result<Answer, String> {
    let document: Document = serde_json::from_slice(bytes)
        .map_err(|_| "answered something else than an ExecCredential in JSON".to_owned())?;
    if document.api_version != version {
        return Err(format!(
            "answered in apiVersion {:?} and was asked in {version:?}",
            clean::clean(&document.api_version)
        ));
    }
    let status = document.status.unwrap_or_default();
    let full = |secret: Option<Secret>| secret.filter(|secret| !secret.0.is_empty());
    let token = full(status.token);
    let pair = (
        full(status.client_certificate_data),
        full(status.client_key_data),
    );
    let identity = match pair {
        (Some(certificate), Some(key)) => Some(Arc::new(Identity {
            certificate: certificate.0.into_bytes(),
            key: key.0.into_bytes(),
        })),
        (None, None) => None,
        _ => return Err("answered a certificate without its key, or a key alone".to_owned()),
    };
    if token.is_none() && identity.is_none() {
        return Err("answered neither a token nor a certificate".to_owned());
    }
    let expires = match status.expiration_timestamp.filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(
            OffsetDateTime::parse(&text, &Rfc3339)
                .map_err(|_| "answered an expirationTimestamp that is no date".to_owned())?
                .into(),
        ),
    };
    Ok(Answer {
        token,
        identity,
        expires,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = VERSIONS[0];

    #[test]
    fn an_answer_is_read() {
        let text = format!(
            r#"{{"apiVersion":"{V1}","kind":"ExecCredential","status":{{"token":"SECRET","expirationTimestamp":"2030-01-01T00:00:00Z"}}}}"#
        );
        let answer = read(text.as_bytes(), V1).expect("an answer");
        assert_eq!(answer.token, Some(Secret("SECRET".into())));
        let expires = answer.expires.expect("a date");
        let since = expires
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("later");
        assert_eq!(since.as_secs(), 1_893_456_000);
    }

    #[test]
    fn what_is_no_answer_is_told_and_not_quoted() {
        for (status, what) in [
            (r#"{}"#, "neither a token nor a certificate"),
            (r#"{"clientKeyData":"SECRET"}"#, "without its key"),
            (
                r#"{"token":"SECRET","expirationTimestamp":"soon"}"#,
                "no date",
            ),
        ] {
            let text = format!(r#"{{"apiVersion":"{V1}","status":{status}}}"#);
            let why = read(text.as_bytes(), V1).expect_err(what);
            assert!(why.contains(what) && !why.contains("SECRET"), "{why}");
        }
        assert!(
            read(b"SECRET", V1)
                .expect_err("no JSON")
                .contains("in JSON")
        );
        let other = format!(
            r#"{{"apiVersion":"{}","status":{{"token":"x"}}}}"#,
            VERSIONS[1]
        );
        assert!(
            read(other.as_bytes(), V1)
                .expect_err("another")
                .contains("was asked in")
        );
    }

    #[test]
    fn only_who_has_a_terminal_is_asked() {
        let mode = |mode: &str| Exec {
            interactive_mode: Some(mode.to_owned()),
            ..Exec::default()
        };
        assert_eq!(interactive(&mode("Never"), true), Ok(false));
        assert_eq!(interactive(&mode("IfAvailable"), true), Ok(true));
        assert_eq!(interactive(&Exec::default(), false), Ok(false));
        assert!(interactive(&mode("Always"), false).is_err());
    }
}
