//! `sternline sessions` and `sternline stop`.

use super::{json, table::table};
use crate::args::{Format, Sessions, Stop};
use crate::clean::clean;
use crate::connect::Server;
use crate::fault::Fault;
use crate::output::Output;
use crate::span;
use crate::target::Place;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sternline_api::v1alpha1 as pb;

/// Ids of sandboxes that are longer than this and hexadecimal are cut to the
/// length that crictl shows; the start is enough wherever an id is asked for.
const SHOWN_ID: usize = 13;

/// Length of the ids that runtimes make.
const RUNTIME_ID: usize = 64;

/// Prints the sessions of the node.
///
/// # Errors
/// A usage error, or what the server refused.
pub async fn sessions(server: &Server, args: &Sessions, output: &Output) -> Result<(), Fault> {
    let sandbox_id = match args.place.as_deref().map(Place::parse) {
        None => String::new(),
        Some(Ok(Place::Sandbox(id))) => id,
        Some(Ok(other)) => return Err(Fault::usage(format!("{other} is no sandbox of this node"))),
        Some(Err(sentence)) => return Err(Fault::usage(sentence)),
    };
    let mut client = server.connect().await?;
    let request = pb::ListSessionsRequest { sandbox_id };
    let answer = server.answer(client.list_sessions(request)).await?;
    let mut sessions: Vec<Session> = answer.sessions.iter().map(Session::from).collect();
    sessions
        .sort_by(|a, b| (a.created_at_ms, &a.session_id).cmp(&(b.created_at_ms, &b.session_id)));
    match args.output {
        Format::Json => json(output, &List { sessions }),
        Format::Text if sessions.is_empty() => {
            output.note("No sessions found.");
            Ok(())
        }
        Format::Text => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let rows: Vec<_> = sessions.iter().map(|s| s.row(now)).collect();
            let head = [
                "SESSION",
                "SANDBOX",
                "POD",
                "STATE",
                "LISTENING",
                "CONNECTIONS",
                "REJECTED",
                "AGE",
            ];
            for line in table(head, &rows) {
                output.line(line);
            }
            Ok(())
        }
    }
}

/// Ends sessions, one after the other; every one is tried.
///
/// # Errors
/// The last one that could not be ended; those before are printed.
pub async fn stop(server: &Server, args: &Stop, output: &Output) -> Result<(), Fault> {
    let mut client = server.connect().await?;
    let mut failed: Option<Fault> = None;
    for session_id in &args.ids {
        let request = pb::StopSessionRequest {
            session_id: session_id.clone(),
        };
        match server.answer(client.stop_session(request)).await {
            Ok(pb::StopSessionResponse {}) => output.line(format!("session/{session_id} stopped")),
            Err(fault) => {
                if let Some(earlier) = failed.replace(fault) {
                    output.error(earlier);
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

#[derive(Debug, Serialize)]
struct List {
    sessions: Vec<Session>,
}

/// A session as programs see it; every string is clean.
#[derive(Debug, Serialize)]
struct Session {
    session_id: String,
    sandbox_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Pod>,
    state: &'static str,
    bound: Vec<Bound>,
    created_at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    labels: BTreeMap<String, String>,
    tunnels: u32,
    connections: u32,
    connections_total: u64,
    rejected_total: u64,
    bytes_from_pod: u64,
    bytes_to_pod: u64,
}

#[derive(Debug, Serialize)]
struct Pod {
    namespace: String,
    name: String,
    uid: String,
}

#[derive(Debug, Serialize)]
struct Bound {
    listener_id: u32,
    address: String,
    port: u32,
}

impl From<&pb::Session> for Session {
    fn from(session: &pb::Session) -> Self {
        let pod = session.pod.as_ref().map(|pod| Pod {
            namespace: clean(&pod.namespace),
            name: clean(&pod.name),
            uid: clean(&pod.uid),
        });
        let bound = session.bound.iter().map(|bound| Bound {
            listener_id: bound.listener_id,
            address: clean(&bound.address),
            port: bound.port,
        });
        let user = session.requester.as_ref().map(|r| clean(&r.user));
        let labels = session.labels.iter().map(|(k, v)| (clean(k), clean(v)));
        Self {
            session_id: clean(&session.session_id),
            sandbox_id: clean(&session.sandbox_id),
            pod,
            state: match session.state() {
                pb::SessionState::Unspecified => "unknown",
                pb::SessionState::Waiting => "waiting",
                pb::SessionState::Active => "active",
                pb::SessionState::Held => "held",
            },
            bound: bound.collect(),
            created_at_ms: session.created_at_ms,
            user: user.filter(|user| !user.is_empty()),
            labels: labels.collect(),
            tunnels: session.tunnels,
            connections: session.connections,
            connections_total: session.connections_total,
            rejected_total: session.rejected_total,
            bytes_from_pod: session.bytes_from_pod,
            bytes_to_pod: session.bytes_to_pod,
        }
    }
}

impl Session {
    fn row(&self, now: Duration) -> [String; 8] {
        let pod = self.pod.as_ref().filter(|pod| !pod.name.is_empty());
        let bound: Vec<String> = self.bound.iter().map(Bound::shown).collect();
        let or_none = |text: String| {
            if text.is_empty() {
                "<none>".to_owned()
            } else {
                text
            }
        };
        [
            self.session_id.clone(),
            short_id(&self.sandbox_id),
            or_none(
                pod.map(|pod| format!("{}/{}", pod.namespace, pod.name))
                    .unwrap_or_default(),
            ),
            self.state.to_owned(),
            or_none(bound.join(",")),
            format!("{}/{}", self.connections, self.connections_total),
            self.rejected_total.to_string(),
            // Clocks of two machines may differ: an age is never negative.
            span::age(now.saturating_sub(Duration::from_millis(self.created_at_ms))),
        ]
    }
}

impl Bound {
    fn shown(&self) -> String {
        if self.address.contains(':') {
            format!("[{}]:{}", self.address, self.port)
        } else {
            format!("{}:{}", self.address, self.port)
        }
    }
}

fn short_id(id: &str) -> String {
    let made = id.len() == RUNTIME_ID && id.bytes().all(|b| b.is_ascii_hexdigit());
    if made {
        id[..SHOWN_ID].to_owned()
    } else {
        id.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_what_matters_and_nothing_that_acts_on_a_terminal() {
        let session = Session::from(&pb::Session {
            session_id: "s1\x1b[2J".into(),
            sandbox_id: "a".repeat(64),
            pod: Some(pb::Pod {
                namespace: "default".into(),
                name: "web".into(),
                uid: "u".into(),
            }),
            state: pb::SessionState::Held.into(),
            bound: vec![
                pb::Bound {
                    listener_id: 0,
                    address: "127.0.0.1".into(),
                    port: 80,
                },
                pb::Bound {
                    listener_id: 0,
                    address: "::1".into(),
                    port: 80,
                },
            ],
            created_at_ms: 1_000,
            connections: 2,
            connections_total: 10,
            rejected_total: 3,
            ..pb::Session::default()
        });
        assert_eq!(
            session.row(Duration::from_secs(301)),
            [
                "s1[2J",
                "aaaaaaaaaaaaa",
                "default/web",
                "held",
                "127.0.0.1:80,[::1]:80",
                "2/10",
                "3",
                "5m"
            ]
        );
    }

    #[test]
    fn names_that_people_gave_stay_whole() {
        assert_eq!(short_id("my-long-sandbox-name"), "my-long-sandbox-name");
    }
}
