//! The metrics: every name, label and help text in one place.

use crate::binder::wire::TurnedAway;
use crate::limits::Limits;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sternline_api::Reason;
use sternline_tunnel::budget::{ProcessBudget, Traffic};
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

        /// Every metric that the shim serves.
        pub const ALL: &[Metric] = &[ $( Metric {
            name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help,
        }, )* ];
    };
}

metrics! {
    CONNECTIONS = "sternline_connections_total", Counter, ["status"], "Forwarded connections that ended, by how: ok, session_ended (cut off by its end), or a word of the error table.";
    CONNECTIONS_ACTIVE = "sternline_connections_active", Gauge, [], "Forwarded connections open now.";
    CONNECTION_SECONDS = "sternline_connection_duration_seconds", Histogram, [], "How long forwarded connections were open.";
    REJECTIONS = "sternline_rejections_total", Counter, ["reason"], "Connections, sessions, tokens and streaming requests turned away, by reason.";
    ERRORS = "sternline_errors_total", Counter, ["type"], "Failed calls and streaming requests, by word of the error table.";
    CALLS = "sternline_calls_total", Counter, ["call", "code"], "Calls answered, by name and gRPC code.";
    SETUP_SECONDS = "sternline_setup_duration_seconds", Histogram, [], "How long ReversePortForward took when it succeeded.";
    LISTENERS_ACTIVE = "sternline_listeners_active", Gauge, [], "Sockets that listen in sandboxes now.";
    SESSIONS_ACTIVE = "sternline_sessions_active", Gauge, [], "Sessions now, waiting and held ones included.";
    SESSIONS = "sternline_sessions_total", Counter, ["end"], "Sessions that ended, by word of the error table.";
    TAKEN_OVER = "sternline_sessions_taken_over_total", Counter, [], "Sessions that this process went on with after the one before it.";
    NOT_KEPT = "sternline_sessions_not_kept_total", Counter, [], "Sessions that the binder does not keep for a restart: it has as many as it may, or no descriptors.";
    BINDER_TURNED_AWAY = "sternline_binder_turned_away_total", Counter, ["what"], "What the binder turned away, as it last told: strangers, or what was beyond a limit of its own.";
    TUNNELS_ACTIVE = "sternline_tunnels_active", Gauge, [], "Tunnels up now.";
    BYTES = "sternline_bytes_total", Counter, ["direction"], "Bytes forwarded: from_pod and to_pod.";
    BUFFERED_BYTES = "sternline_buffered_bytes", Gauge, [], "Bytes that wait in buffers for a reader.";
    ENABLED = "sternline_feature_enabled", Gauge, [], "1 while the feature is on, 0 while it is switched off.";
    TOKENS_WAITING = "sternline_tokens_waiting", Gauge, [], "Tokens that wait to be redeemed.";
    DESCRIPTORS = "sternline_open_descriptors", Gauge, [], "File descriptors that the shim has open.";
    LIMIT = "sternline_limit", Gauge, ["limit"], "The most of something that there may be: sessions, connections, tokens, buffer_bytes, descriptors.";
    RUNTIME_ERRORS = "sternline_runtime_errors_total", Counter, ["operation"], "Times that the source of sandboxes failed, by what it was asked for: bind, status.";
    AUDIT_RECORDS = "sternline_audit_records_total", Counter, [], "Lines of the audit log that were written.";
    AUDIT_LOST = "sternline_audit_lost_total", Counter, [], "Audit records that were lost: the queue was full, or the shim ended before they were written.";
    AUDIT_QUEUED = "sternline_audit_queued_records", Gauge, [], "Audit records that wait to be written.";
    AUDIT_FAILING = "sternline_audit_failing", Gauge, [], "1 while the audit log cannot be written, else 0.";
    HANDSHAKES = "sternline_streaming_handshakes_total", Counter, ["result"], "TLS handshakes of clients, by how they ended.";
    CERTIFICATE_EXPIRY = "sternline_streaming_certificate_expiry_timestamp_seconds", Gauge, [], "When the certificate in use expires, as Unix time; 0 without TLS.";
    CERTIFICATE_RELOADS = "sternline_streaming_certificate_reloads_total", Counter, ["result"], "New certificates: loaded, or failed, which leaves the old one in use.";
}

/// Upper bounds of the histograms' buckets, in seconds.
const BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 3600.0,
];

/// Counters with labels that are served from the start: a rate notices the first
/// of something only where there was a 0 before.
const FROM_THE_START: &[(&str, &str, &str)] = &[
    (BINDER_TURNED_AWAY, "what", TurnedAway::WORDS[0]),
    (BINDER_TURNED_AWAY, "what", TurnedAway::WORDS[1]),
    (BINDER_TURNED_AWAY, "what", TurnedAway::WORDS[2]),
    (BINDER_TURNED_AWAY, "what", TurnedAway::WORDS[3]),
    (BINDER_TURNED_AWAY, "what", TurnedAway::WORDS[4]),
    (RUNTIME_ERRORS, "operation", Operation::Bind.label()),
    (RUNTIME_ERRORS, "operation", Operation::Status.label()),
    (HANDSHAKES, "result", "ok"),
    (HANDSHAKES, "result", "failed"),
    (CERTIFICATE_RELOADS, "result", "loaded"),
    (CERTIFICATE_RELOADS, "result", "failed"),
];

/// How often samples of histograms are folded together.
const UPKEEP: Duration = Duration::from_secs(5);

/// Renders the metrics.
#[derive(Clone)]
pub struct Exporter {
    handle: PrometheusHandle,
    traffic: Arc<Traffic>,
    budget: Arc<ProcessBudget>,
    sample: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Exporter {
    /// Takes the process's metrics over; once.
    ///
    /// # Errors
    /// Somebody did before.
    pub fn install(traffic: Arc<Traffic>, budget: Arc<ProcessBudget>) -> anyhow::Result<Self> {
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), BUCKETS)?
            .install_recorder()?;
        for metric in ALL {
            match metric.kind {
                Kind::Counter => describe_counter!(metric.name, metric.help),
                Kind::Gauge => describe_gauge!(metric.name, metric.help),
                Kind::Histogram => describe_histogram!(metric.name, metric.help),
            }
            // What has no labels is served from the start, as 0.
            if metric.labels.is_empty() {
                match metric.kind {
                    Kind::Counter => counter!(metric.name).absolute(0),
                    Kind::Gauge => gauge!(metric.name).set(0.0),
                    Kind::Histogram => {}
                }
            }
        }
        for (name, label, value) in FROM_THE_START {
            counter!(*name, *label => *value).absolute(0);
        }
        Ok(Self {
            handle,
            traffic,
            budget,
            sample: None,
        })
    }

    /// Calls `sample` before each answer, to set what is not counted as it happens.
    #[must_use]
    pub fn sampling(mut self, sample: impl Fn() + Send + Sync + 'static) -> Self {
        self.sample = Some(Arc::new(sample));
        self
    }

    /// Folds the samples of the histograms together, until `stop`. They would
    /// pile up while nobody scrapes.
    pub async fn keep_up(self, stop: CancellationToken) {
        let fold = async {
            loop {
                sleep(UPKEEP).await;
                self.handle.run_upkeep();
            }
        };
        stop.run_until_cancelled(fold).await;
    }

    /// The text that Prometheus reads.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub fn render(&self) -> String {
        counter!(BYTES, "direction" => "from_pod").absolute(self.traffic.from_socket());
        counter!(BYTES, "direction" => "to_pod").absolute(self.traffic.to_socket());
        gauge!(BUFFERED_BYTES).set(self.budget.used() as f64);
        if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
            gauge!(DESCRIPTORS).set(descriptors.count() as f64);
        }
        if let Some(sample) = &self.sample {
            sample();
        }
        self.handle.render()
    }
}

/// Something that counts for as long as it is held.
#[derive(Debug)]
pub struct Active(&'static str);

impl Active {
    fn new(name: &'static str) -> Self {
        gauge!(name).increment(1.0);
        Self(name)
    }

    /// A forwarded connection.
    #[must_use]
    pub fn connection() -> Self {
        Self::new(CONNECTIONS_ACTIVE)
    }

    /// A listening socket.
    #[must_use]
    pub fn listener() -> Self {
        Self::new(LISTENERS_ACTIVE)
    }

    /// A session.
    #[must_use]
    pub fn session() -> Self {
        Self::new(SESSIONS_ACTIVE)
    }

    /// A tunnel.
    #[must_use]
    pub fn tunnel() -> Self {
        Self::new(TUNNELS_ACTIVE)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1.0);
    }
}

/// A connection ended.
pub fn connection_ended(status: &'static str, open: Duration) {
    counter!(CONNECTIONS, "status" => status).increment(1);
    histogram!(CONNECTION_SECONDS).record(open);
}

/// A connection was turned away before it was forwarded: it has no duration.
pub fn connection_rejected(reason: Reason) {
    counter!(CONNECTIONS, "status" => reason.label()).increment(1);
    rejected(reason);
}

/// Something was turned away.
pub fn rejected(reason: Reason) {
    counter!(REJECTIONS, "reason" => reason.label()).increment(1);
}

/// A session of the process before goes on here.
pub fn taken_over() {
    counter!(TAKEN_OVER).increment(1);
}

/// The binder does not keep a session for a restart.
pub fn not_kept() {
    counter!(NOT_KEPT).increment(1);
}

/// The binder turned something away so many times more.
pub fn binder_turned_away(what: &'static str, times: u64) {
    counter!(BINDER_TURNED_AWAY, "what" => what).increment(times);
}

/// A session ended.
pub fn session_ended(reason: Reason) {
    counter!(SESSIONS, "end" => reason.label()).increment(1);
}

/// A call or a streaming request failed.
pub fn failed(reason: Reason) {
    counter!(ERRORS, "type" => reason.label()).increment(1);
    if reason.grpc() == tonic::Code::ResourceExhausted {
        rejected(reason);
    }
}

/// A call was answered.
pub fn called(call: &'static str, code: tonic::Code) {
    counter!(CALLS, "call" => call, "code" => format!("{code:?}")).increment(1);
}

/// The feature was switched.
pub fn enabled(on: bool) {
    gauge!(ENABLED).set(if on { 1.0 } else { 0.0 });
}

/// A session was set up.
pub fn set_up(took: Duration) {
    histogram!(SETUP_SECONDS).record(took);
}

/// Audit records came into the queue, or left it.
pub fn audit_queued(records: f64) {
    gauge!(AUDIT_QUEUED).increment(records);
}

/// A line of the audit log was written.
pub fn audit_written() {
    counter!(AUDIT_RECORDS).increment(1);
}

/// Audit records will never be written.
pub fn audit_lost(records: u64) {
    counter!(AUDIT_LOST).increment(records);
}

/// Whether the audit log cannot be written.
pub fn audit_failing(failing: bool) {
    gauge!(AUDIT_FAILING).set(f64::from(u8::from(failing)));
}

/// A TLS handshake ended.
pub fn handshake(result: &'static str) {
    counter!(HANDSHAKES, "result" => result).increment(1);
}

/// A certificate came into use.
pub fn certificate_expires(at: SystemTime) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    gauge!(CERTIFICATE_EXPIRY).set(since.as_secs_f64());
}

/// New files of a certificate were looked at.
pub fn certificate_reloaded(loaded: bool) {
    let result = if loaded { "loaded" } else { "failed" };
    counter!(CERTIFICATE_RELOADS, "result" => result).increment(1);
}

/// What the source of sandboxes is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// To find a sandbox and bind in it.
    Bind,
    /// How it is.
    Status,
}

impl Operation {
    const fn label(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Status => "status",
        }
    }
}

/// The source of sandboxes failed.
pub fn runtime_failed(operation: Operation) {
    counter!(RUNTIME_ERRORS, "operation" => operation.label()).increment(1);
}

/// So many tokens wait.
#[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub fn tokens_waiting(tokens: usize) {
    gauge!(TOKENS_WAITING).set(tokens as f64);
}

/// The limits in force, and the most descriptors that there may be.
#[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub fn limits(limits: &Limits, descriptors: u64) {
    for (limit, most) in [
        ("sessions", limits.sessions_per_node.into()),
        ("connections", limits.connections_per_node.into()),
        ("tokens", limits.tokens.into()),
        ("buffer_bytes", limits.buffer_bytes_per_node),
        ("descriptors", descriptors),
    ] {
        gauge!(LIMIT, "limit" => limit).set(most as f64);
    }
}
