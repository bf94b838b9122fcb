//! The metrics: every name, label and help text in one place.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sternline_api::Reason;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Grows and shrinks.
    Gauge,
    /// Distribution in seconds.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($const:ident = $name:literal, $kind:ident, [$($label:literal),*], $help:literal;)*) => {
        $( const $const: &str = $name; )*

        /// Every metric that the gateway serves.
        pub const ALL: &[Metric] = &[ $( Metric {
            name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help,
        }, )* ];
    };
}

metrics! {
    FORWARDS = "sternline_gateway_forwards_total", Counter, ["result"], "Forwards that were asked for, by result: ok, unauthenticated, or a word of the error table.";
    SETUP_SECONDS = "sternline_gateway_setup_duration_seconds", Histogram, [], "How long it took to the 101 when there was one.";
    TUNNELS_ACTIVE = "sternline_gateway_tunnels_active", Gauge, [], "Tunnels that are carried now.";
    TUNNEL_SECONDS = "sternline_gateway_tunnel_duration_seconds", Histogram, [], "How long tunnels were carried.";
    BYTES = "sternline_gateway_bytes_total", Counter, ["direction"], "Bytes of tunnels carried: from_node and to_node.";
    CONNECTIONS_ACTIVE = "sternline_gateway_connections_active", Gauge, [], "Connections of the API server, nodes and probes open now, those of tunnels included.";
    HANDSHAKES = "sternline_gateway_handshakes_total", Counter, ["result"], "Connections taken, by how they began: ok, failed, slow, evicted.";
    NODE_CERTIFICATES = "sternline_gateway_node_certificates_total", Counter, ["result"], "Certificates that nodes asked for: signed, refused, failed.";
    AUTHORITY_ERRORS = "sternline_gateway_authority_errors_total", Counter, [], "Times that Secret, ConfigMap or APIService of the authority could not be looked after.";
    CERTIFICATE_EXPIRY = "sternline_gateway_certificate_expiry_timestamp_seconds", Gauge, [], "When the gateway's own certificate ends, as Unix time; 0 while it has none.";
    AUDIT_LOST = "sternline_gateway_audit_lost_total", Counter, [], "Audit records that were lost: the queue was full, or standard output could not be written.";
    LIMIT = "sternline_gateway_limit", Gauge, ["limit"], "The most of something that there may be: sessions, sessions_per_user, connections.";
}

/// Upper bounds of the histograms' buckets, in seconds.
const BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 3600.0, 86_400.0,
];

/// Counters with labels that are served from the start: a rate notices the first
/// of something only where there was a 0 before.
const FROM_THE_START: &[(&str, &str, &[&str])] = &[
    (FORWARDS, "result", &["ok"]),
    (BYTES, "direction", &["from_node", "to_node"]),
    (HANDSHAKES, "result", &["ok", "failed", "slow", "evicted"]),
    (
        NODE_CERTIFICATES,
        "result",
        &["signed", "refused", "failed"],
    ),
];

/// How often samples of histograms are folded together.
const UPKEEP: Duration = Duration::from_secs(5);

/// Renders the metrics.
#[derive(Clone)]
pub struct Exporter(PrometheusHandle);

impl Exporter {
    /// Takes the process's metrics over; once.
    ///
    /// # Errors
    /// Somebody did before.
    pub fn install() -> anyhow::Result<Self> {
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), BUCKETS)?
            .install_recorder()?;
        for metric in ALL {
            match metric.kind {
                Kind::Counter => describe_counter!(metric.name, metric.help),
                Kind::Gauge => describe_gauge!(metric.name, metric.help),
                Kind::Histogram => describe_histogram!(metric.name, metric.help),
            }
            match metric.kind {
                Kind::Counter if metric.labels.is_empty() => {
                    counter!(metric.name).absolute(0);
                }
                Kind::Gauge if metric.labels.is_empty() => gauge!(metric.name).set(0.0),
                _ => {}
            }
        }
        for (name, label, values) in FROM_THE_START {
            for value in *values {
                counter!(*name, *label => *value).absolute(0);
            }
        }
        Ok(Self(handle))
    }

    /// The page.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Folds samples together until `stop`.
    pub async fn keep_up(self, stop: CancellationToken) {
        let fold = async {
            loop {
                sleep(UPKEEP).await;
                self.0.run_upkeep();
            }
        };
        stop.run_until_cancelled(fold).await;
    }
}

/// Counts something for as long as it is there.
#[derive(Debug)]
pub struct Active(&'static str);

impl Active {
    /// A connection.
    #[must_use]
    pub fn connection() -> Self {
        Self::of(CONNECTIONS_ACTIVE)
    }

    /// A tunnel.
    #[must_use]
    pub fn tunnel() -> Self {
        Self::of(TUNNELS_ACTIVE)
    }

    fn of(name: &'static str) -> Self {
        gauge!(name).increment(1.0);
        Self(name)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1.0);
    }
}

/// A forward came to its 101.
pub fn set_up(took: Duration) {
    counter!(FORWARDS, "result" => "ok").increment(1);
    histogram!(SETUP_SECONDS).record(took);
}

/// A forward was refused.
pub fn refused(reason: Reason) {
    counter!(FORWARDS, "result" => reason.label()).increment(1);
}

/// Somebody asked that nobody knows.
pub fn unauthenticated() {
    counter!(FORWARDS, "result" => "unauthenticated").increment(1);
}

/// A tunnel ended.
pub fn tunnel_ended(open: Duration) {
    histogram!(TUNNEL_SECONDS).record(open);
}

/// Bytes went from a node to a client.
pub fn from_node(bytes: u64) {
    counter!(BYTES, "direction" => "from_node").increment(bytes);
}

/// Bytes went from a client to a node.
pub fn to_node(bytes: u64) {
    counter!(BYTES, "direction" => "to_node").increment(bytes);
}

/// A connection began, or did not.
pub fn handshake(result: &'static str) {
    counter!(HANDSHAKES, "result" => result).increment(1);
}

/// A node asked for a certificate.
pub fn node_certificate(result: &'static str) {
    counter!(NODE_CERTIFICATES, "result" => result).increment(1);
}

/// An audit record will never be written.
pub fn audit_lost() {
    counter!(AUDIT_LOST).increment(1);
}

/// The authority could not be looked after.
pub fn authority_failed() {
    counter!(AUTHORITY_ERRORS).increment(1);
}

/// A certificate came into use.
pub fn certificate_expires(at: SystemTime) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    gauge!(CERTIFICATE_EXPIRY).set(since.as_secs_f64());
}

/// A limit in force.
pub fn limit(limit: &'static str, most: u32) {
    gauge!(LIMIT, "limit" => limit).set(f64::from(most));
}
