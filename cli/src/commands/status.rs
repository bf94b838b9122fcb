//! `sternline status`: what `Status` of the call answers.

use super::json;
use super::table::table;
use crate::args::{Format, Status};
use crate::clean::clean;
use crate::connect::Server;
use crate::fault::Fault;
use crate::output::Output;
use crate::span;
use serde::Serialize;
use std::time::Duration;
use sternline_api::v1alpha1 as pb;

/// Prints the server's status.
///
/// # Errors
/// The server does not answer.
pub async fn status(server: &Server, args: &Status, output: &Output) -> Result<(), Fault> {
    let mut client = server.connect().await?;
    let answer = server.answer(client.status(pb::StatusRequest {})).await?;
    let told = Told::from(&answer);
    match args.output {
        Format::Json => json(output, &told),
        Format::Text => {
            for line in told.lines() {
                output.line(line);
            }
            Ok(())
        }
    }
}

/// The answer as programs see it; every string is clean.
#[derive(Debug, Serialize)]
struct Told {
    runtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    feature: Option<Feature>,
    sessions: u32,
    connections: u32,
    wide_bind_allowed: bool,
    protocols: Vec<&'static str>,
    conditions: Vec<Condition>,
    limits: Limits,
}

#[derive(Debug, Serialize)]
struct Feature {
    enabled: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

#[derive(Debug, Serialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: bool,
    reason: String,
    message: String,
}

/// Named as in the call.
#[derive(Debug, Serialize)]
struct Limits {
    connections_per_session: u32,
    connections_per_node: u32,
    sessions_per_sandbox: u32,
    sessions_per_node: u32,
    listeners_per_session: u32,
    tunnels_per_session: u32,
    tokens_in_flight: u32,
    buffer_bytes_per_session: u64,
    buffer_bytes_per_node: u64,
    token_ttl_ms: u64,
    dial_timeout_ms: u64,
    ping_interval_ms: u64,
    max_hold_ms: u64,
    idle_timeout_ms: u64,
}

impl From<&pb::StatusResponse> for Told {
    fn from(answer: &pb::StatusResponse) -> Self {
        let feature = answer.feature.as_ref().map(|feature| Feature {
            enabled: feature.enabled,
            message: clean(&feature.message),
        });
        let conditions = answer.conditions.iter().map(|one| Condition {
            kind: clean(&one.r#type),
            status: one.status,
            reason: clean(&one.reason),
            message: clean(&one.message),
        });
        let protocols = answer.protocols().map(|protocol| match protocol {
            pb::Protocol::Unspecified => "unknown",
            pb::Protocol::Tcp => "TCP",
        });
        Self {
            runtime: clean(&answer.runtime),
            feature,
            sessions: answer.sessions,
            connections: answer.connections,
            wide_bind_allowed: answer.wide_bind_allowed,
            protocols: protocols.collect(),
            conditions: conditions.collect(),
            limits: answer.limits.unwrap_or_default().into(),
        }
    }
}

impl From<pb::Limits> for Limits {
    fn from(limits: pb::Limits) -> Self {
        Self {
            connections_per_session: limits.connections_per_session,
            connections_per_node: limits.connections_per_node,
            sessions_per_sandbox: limits.sessions_per_sandbox,
            sessions_per_node: limits.sessions_per_node,
            listeners_per_session: limits.listeners_per_session,
            tunnels_per_session: limits.tunnels_per_session,
            tokens_in_flight: limits.tokens_in_flight,
            buffer_bytes_per_session: limits.buffer_bytes_per_session,
            buffer_bytes_per_node: limits.buffer_bytes_per_node,
            token_ttl_ms: limits.token_ttl_ms,
            dial_timeout_ms: limits.dial_timeout_ms,
            ping_interval_ms: limits.ping_interval_ms,
            max_hold_ms: limits.max_hold_ms,
            idle_timeout_ms: limits.idle_timeout_ms,
        }
    }
}

impl Told {
    fn lines(&self) -> Vec<String> {
        let feature = match &self.feature {
            None => "on (the server has no switch)".to_owned(),
            Some(feature) if feature.enabled => "on".to_owned(),
            Some(feature) if feature.message.is_empty() => "off".to_owned(),
            Some(feature) => format!("off: {}", feature.message),
        };
        let wide = match self.wide_bind_allowed {
            true => "any address",
            false => "loopback only",
        };
        let mut lines = vec![
            format!("Runtime:      {}", or_none(&self.runtime)),
            format!("Feature:      {feature}"),
            format!("Listeners:    {}, {wide}", self.protocols.join(", ")),
            format!("Sessions:     {}", self.sessions),
            format!("Connections:  {}", self.connections),
            String::new(),
        ];
        let conditions: Vec<_> = self.conditions.iter().map(Condition::row).collect();
        lines.extend(table(
            ["CONDITION", "STATUS", "REASON", "MESSAGE"],
            &conditions,
        ));
        lines.push(String::new());
        lines.extend(table(["LIMIT", "VALUE"], &self.limits.rows()));
        lines
    }
}

impl Condition {
    fn row(&self) -> [String; 4] {
        let status = if self.status { "True" } else { "False" };
        [
            self.kind.clone(),
            status.to_owned(),
            or_none(&self.reason).to_owned(),
            or_none(&self.message).to_owned(),
        ]
    }
}

impl Limits {
    fn rows(&self) -> [[String; 2]; 14] {
        let number = |name: &str, value: u32| [name.to_owned(), value.to_string()];
        let bytes = |name: &str, value: u64| [name.to_owned(), format!("{value} bytes")];
        let time = |name: &str, ms: u64| [name.to_owned(), time(ms)];
        let idle = match self.idle_timeout_ms {
            0 => ["idle time-out".to_owned(), "none".to_owned()],
            ms => time("idle time-out", ms),
        };
        [
            number("connections per session", self.connections_per_session),
            number("connections per node", self.connections_per_node),
            number("sessions per sandbox", self.sessions_per_sandbox),
            number("sessions per node", self.sessions_per_node),
            number("listeners per session", self.listeners_per_session),
            number("tunnels per session", self.tunnels_per_session),
            number("tokens in flight", self.tokens_in_flight),
            bytes("buffers per session", self.buffer_bytes_per_session),
            bytes("buffers per node", self.buffer_bytes_per_node),
            time("age of a token", self.token_ttl_ms),
            time("dial time-out", self.dial_timeout_ms),
            time("PING interval", self.ping_interval_ms),
            time("longest hold", self.max_hold_ms),
            idle,
        ]
    }
}

fn time(ms: u64) -> String {
    span::short(Duration::from_millis(ms))
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> pb::StatusResponse {
        pb::StatusResponse {
            limits: Some(pb::Limits {
                connections_per_session: 256,
                token_ttl_ms: 60_000,
                ..pb::Limits::default()
            }),
            conditions: vec![pb::Condition {
                r#type: "RuntimeReachable".into(),
                reason: "Refused".into(),
                message: "no\x1b[2J runtime".into(),
                ..pb::Condition::default()
            }],
            runtime: "containerd 1.6.20".into(),
            sessions: 2,
            protocols: vec![pb::Protocol::Tcp.into()],
            feature: Some(pb::Feature {
                enabled: false,
                message: "by /etc/switch".into(),
            }),
            ..pb::StatusResponse::default()
        }
    }

    #[test]
    fn everything_that_the_server_tells_is_shown_and_clean() {
        let said = Told::from(&answer()).lines().join("\n");
        for part in [
            "Runtime:      containerd 1.6.20",
            "Feature:      off: by /etc/switch",
            "Listeners:    TCP, loopback only",
            "Sessions:     2",
            "RuntimeReachable   False    Refused   no[2J runtime",
            "connections per session   256",
            "age of a token            60s",
            "idle time-out             none",
        ] {
            assert!(said.contains(part), "{part:?} is missing:\n{said}");
        }
    }

    #[test]
    fn a_server_without_a_switch_is_on() {
        let told = Told::from(&pb::StatusResponse {
            feature: None,
            ..answer()
        });
        assert!(told.lines()[1].starts_with("Feature:      on"));
        let json = serde_json::to_value(&told).expect("JSON");
        assert!(json.get("feature").is_none(), "{json}");
        assert_eq!(json["conditions"][0]["type"], "RuntimeReachable");
        assert_eq!(json["limits"]["token_ttl_ms"], 60_000);
    }
}
