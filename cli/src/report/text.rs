//! Events as lines for people.

use super::event::{Closed, Event, Lost, Ready};
use crate::span;
use std::time::Duration;
use sternline_api::Reason;

/// A line and where it goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Standard output, silenced by `--quiet`.
    Progress(String),
    /// Standard error.
    Note(String),
    /// Standard error, with `error: ` before it.
    Error(String),
}

pub(super) fn lines(event: &Event) -> Vec<Line> {
    match event {
        Event::Ready(ready) => forwarding(ready),
        Event::Connection(connection) => {
            vec![Line::Progress(format!(
                "Handling connection for {}",
                connection.port
            ))]
        }
        Event::Closed(closed) if is_by_limit(closed) => vec![Line::Error(format!(
            "connection for {} was ended: {}",
            closed.port, closed.end
        ))],
        Event::Closed(_) => Vec::new(),
        // The end follows, and says it again.
        Event::Draining { deadline_ms: 0, .. } => Vec::new(),
        Event::Rejected(rejected) => vec![Line::Error(rejected.message.clone())],
        Event::Draining {
            deadline_ms,
            message,
        } => {
            let within = span::short(Duration::from_millis(*deadline_ms));
            let message = if message.is_empty() {
                "it is going away"
            } else {
                message
            };
            vec![Line::Note(format!(
                "warning: the server ends this session within {within}: {message}"
            ))]
        }
        Event::Lost(lost) => vec![Line::Note(lost_line(lost))],
        Event::Reconnected(back) => {
            let how = match back.new_session {
                true => " in a new session: connections were refused meanwhile",
                false => "",
            };
            let after = span::short(Duration::from_millis(back.after_ms));
            vec![Line::Note(format!(
                "Reconnected to {} after {after}{how}",
                back.place
            ))]
        }
        Event::Ended(ended) if !ended.is_failure() => Vec::new(),
        Event::Ended(ended) => vec![Line::Error(ended.message.clone())],
    }
}

/// Whether a limit ended a connection. Other ends are those of its two
/// processes, or are told for all connections at once.
fn is_by_limit(closed: &Closed) -> bool {
    [Reason::BufferLimit, Reason::IdleTimeout]
        .iter()
        .any(|reason| reason.label() == closed.end)
}

fn forwarding(ready: &Ready) -> Vec<Line> {
    let line = |f: &super::Forwarding| {
        let bound = f.bound.socket();
        Line::Progress(format!(
            "Forwarding from {bound} in {} -> {}",
            ready.place, f.target
        ))
    };
    ready.bound.iter().map(line).collect()
}

fn lost_line(lost: &Lost) -> String {
    let open = match lost.connections {
        0 => String::new(),
        1 => "; 1 open connection was reset".to_owned(),
        n => format!("; {n} open connections were reset"),
    };
    let hold = span::short(Duration::from_millis(lost.hold_ms));
    format!(
        "warning: {}{open}; trying for {hold} to come back",
        lost.message
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Connection, Forwarding};
    use super::*;

    fn ready(addresses: &[&str]) -> Event {
        let bound = addresses.iter().map(|a| Forwarding {
            listener_id: 0,
            bound: a.parse::<std::net::SocketAddr>().expect("address").into(),
            target: "localhost:3000".into(),
        });
        Event::Ready(Ready {
            session_id: "s1".into(),
            place: "sandbox/web".into(),
            namespace: None,
            hold_ms: 0,
            bound: bound.collect(),
        })
    }

    #[test]
    fn one_line_per_bound_address_in_kubectls_manner() {
        assert_eq!(
            lines(&ready(&["127.0.0.1:8080", "[::1]:8080"])),
            [
                Line::Progress(
                    "Forwarding from 127.0.0.1:8080 in sandbox/web -> localhost:3000".into()
                ),
                Line::Progress(
                    "Forwarding from [::1]:8080 in sandbox/web -> localhost:3000".into()
                ),
            ]
        );
    }

    #[test]
    fn a_node_that_goes_away_is_told_unless_its_end_follows_at_once() {
        let draining = |deadline_ms| Event::Draining {
            deadline_ms,
            message: "sandbox web: it says so".into(),
        };
        assert_eq!(
            lines(&draining(10_000)),
            [Line::Note(
                "warning: the server ends this session within 10s: sandbox web: it says so".into()
            )]
        );
        assert!(lines(&draining(0)).is_empty());
    }

    #[test]
    fn a_lost_connection_is_one_line() {
        let lost = Event::Lost(Lost {
            connections: 2,
            hold_ms: 30_000,
            message: "the connection to the shim is lost".into(),
        });
        assert_eq!(
            lines(&lost),
            [Line::Note(
                "warning: the connection to the shim is lost; 2 open connections were reset; trying for 30s to come back".into()
            )]
        );
    }

    #[test]
    fn of_the_ends_of_connections_those_by_a_limit_are_told() {
        let closed = |end| {
            lines(&Event::Closed(Closed {
                connection: 1,
                listener_id: 0,
                port: 8080,
                bytes_from_pod: 0,
                bytes_to_pod: 0,
                duration_ms: 0,
                end,
            }))
        };
        for end in ["buffer_limit", "idle_timeout"] {
            let said = format!("connection for 8080 was ended: {end}");
            assert_eq!(closed(end), [Line::Error(said)]);
        }
        for end in [
            "clean",
            "pod_reset",
            "target_reset",
            "stopped",
            "tunnel_lost",
        ] {
            assert!(closed(end).is_empty(), "{end}");
        }
    }

    #[test]
    fn the_json_form_is_what_programs_were_told() {
        let event = ready(&["[::1]:8080"]);
        let json: serde_json::Value = serde_json::to_value(&event).expect("JSON");
        assert_eq!(
            json,
            serde_json::json!({
                "event": "ready", "session_id": "s1", "place": "sandbox/web", "hold_ms": 0,
                "bound": [{"listener_id": 0, "address": "::1", "port": 8080, "target": "localhost:3000"}],
            })
        );
        let connection = Event::Connection(Connection {
            connection: 1,
            listener_id: 0,
            port: 8080,
            peer: None,
            target: "localhost:3000".into(),
        });
        let json = serde_json::to_string(&connection).expect("JSON");
        assert!(
            json.starts_with(r#"{"event":"connection","connection":1"#),
            "{json}"
        );
    }
}
