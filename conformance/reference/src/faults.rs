//! What can be done wrong.

use Setup::{Extras, Plain, Pods};

/// How the reference has to be set up for a fault to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// As it is without being told.
    Plain,
    /// With what a node need not have: wide addresses, an idle time-out, and TLS.
    Extras,
    /// On pods of a container runtime.
    Pods,
}

/// Every fault: its name and its set-up.
#[rustfmt::skip]
pub const FAULTS: &[(&str, Setup)] = &[
    // Requests.
    ("missing-target-internal", Plain), ("unknown-sandbox-code", Plain), ("no-prefix", Plain),
    ("ambiguous-picks-one", Plain), ("pod-invalid", Plain), ("requester-honoured", Plain),
    ("grant-honoured", Plain), ("no-listeners-fine", Plain), ("port-wraps", Plain),
    ("names-are-loopback", Plain), ("mapped-unmapped", Plain), ("any-protocol", Plain),
    ("unset-protocol-refused", Plain), ("collision-unchecked", Plain), ("zero-collides", Plain),
    ("hold-clamped", Plain), ("many-labels", Plain), ("long-labels", Plain), ("host-network-fine", Plain),
    // What the calls answer.
    ("version-empty", Plain), ("no-conditions", Plain), ("limits-zero", Plain), ("expiry-in-seconds", Plain),
    ("limits-missing", Plain), ("id-in-url", Plain), ("v6-first", Plain), ("list-not-waiting", Plain),
    ("labels-forgotten", Plain), ("list-all", Plain), ("stop-unknown-fine", Plain), ("stop-whole-id", Plain),
    ("stop-frees-v6-late", Plain), ("no-reason-word", Plain),
    // Tokens.
    ("short-token", Plain), ("token-reusable", Plain), ("version-consumes", Plain), ("plain-consumes", Plain),
    ("token-outlives", Plain), ("expiry-leaks", Plain), ("token-evicts", Plain),
    // Listening.
    ("binds-any", Plain), ("v4-only-for-free-ports", Plain), ("also-on-node", Plain),
    ("early-connections-dropped", Plain), ("port-zero-differs", Plain), ("low-port-plus-one", Plain),
    ("any-127-is-127.0.0.1", Plain), ("v6-adds-v4", Plain), ("conflict-unnamed", Plain),
    ("v6-conflict-dropped", Plain), ("half-binds", Plain), ("reuseport", Plain), ("wide-allowed-anyway", Plain),
    ("wide-told-narrow", Extras), ("unavailable-is-internal", Extras), ("reports-other-port", Plain),
    // The Upgrade.
    ("101-without-upgrade", Plain), ("case-sensitive", Plain), ("connection-exact", Plain),
    ("version-of-client", Plain), ("no-supported-list", Plain), ("426-without-list", Plain),
    ("other-upgrade-400", Plain), ("put-is-404", Plain), ("path-plain-404", Plain), ("token-unknown-410", Plain),
    ("short-head", Plain), ("one-read-head", Plain), ("early-bytes-taken", Plain), ("ws-no-protocol", Plain),
    ("ws-drops-single-bytes", Plain), ("ws-no-pong", Plain), ("ws-text-taken", Plain),
    ("ws-close-ignored", Plain), ("ws-key-unchecked", Plain),
    // The tunnel.
    ("push-on", Plain), ("control-elsewhere", Plain), ("no-pong-when-stalled", Plain), ("pings-slowly", Plain),
    ("never-dead", Plain), ("ignores-window", Plain),
    // The control stream.
    ("ready-other-session", Plain), ("ready-without-bound", Plain), ("ready-without-limits", Plain),
    ("ready-without-hold", Plain), ("unknown-event-ends", Plain), ("frame-is-message", Plain),
    ("any-length", Plain), ("target-down-ends", Plain), ("add-unanswered", Plain),
    ("remove-always-fine", Plain), ("done-holds", Plain),
    // Forwarded connections.
    ("authority-of-sandbox", Plain), ("authority-of-v6-is-v4", Plain), ("listener-zero", Plain),
    ("forwarded-unquoted", Plain), ("corrupts-from-pod", Plain), ("corrupts-to-pod", Plain),
    ("impatient-answer", Plain), ("pod-fin-kills", Plain), ("drops-half-close", Plain),
    ("client-end-stops-pod", Plain), ("loses-tail", Plain), ("reset-is-end", Plain), ("reset-is-cancel", Plain),
    ("reset-is-fin", Plain), ("end-stops-watching", Plain), ("empty-data", Plain),
    ("ends-over-small-frames", Plain), ("stalled-stream-blocks", Plain), ("stalled-pod-blocks", Plain),
    ("greedy", Plain), ("drops-bytes-of-the-31st", Plain), ("burst-ends-session", Plain),
    ("refused-is-fin", Plain), ("504-is-fin", Plain), ("500-hangs", Plain), ("unanswered-reset-is-fin", Plain),
    ("dns-error-ends-session", Plain), ("waits-for-ever", Plain),
    // Sessions and tunnels.
    ("crossed-sessions", Plain), ("stop-stops-sandbox", Plain), ("takes-over", Plain), ("no-counts", Plain),
    ("hold-short", Plain), ("hold-for-ever", Plain), ("resume-without-bound", Plain), ("no-superseded", Plain),
    ("ticket-reusable", Plain), ("join-idle", Plain),
    // Ends and limits.
    ("leaks-listener", Plain), ("lost-is-fin", Plain), ("stop-untold", Plain), ("stop-stays-open", Plain),
    ("stop-resets-with-internal", Plain), ("stop-keeps-port", Plain), ("gone-is-stopped", Plain),
    ("gone-still-listed", Plain), ("pins-namespace", Plain), ("waiting-pins", Plain), ("port-rests", Plain),
    ("over-limit-hangs", Plain), ("rejected-untold", Plain), ("slot-leak", Plain),
    ("ignores-listener-limit", Plain), ("ignores-session-limit", Plain), ("session-slot-leak", Plain),
    ("ignores-connection-limit", Plain), ("ignores-node-limit", Plain), ("join-beyond-limit", Plain),
    ("never-idle", Extras),
    // Beside the call.
    ("no-health", Plain), ("no-reflection", Plain), ("status-counts-nothing", Plain), ("status-without-tcp", Plain),
    // Sandboxes that stopped or went.
    ("remembers-removed", Plain), ("stopped-is-unknown", Pods), ("stop-is-stopped", Pods), ("stop-pins", Pods),
    // What an operator does.
    ("drain-untold", Plain), ("drain-leaks", Plain), ("off-holds-sessions", Plain), ("off-takes-calls", Plain),
    ("stays-off", Plain), ("ignores-switch", Plain),
];

/// The fault that is switched on, if any.
#[derive(Debug)]
pub(crate) struct Faults(Option<String>);

impl Faults {
    /// Fails for a fault that does not exist.
    pub(crate) fn new(name: Option<&str>) -> Result<Self, String> {
        match name {
            Some(name) if !FAULTS.iter().any(|(known, _)| *known == name) => {
                Err(format!("there is no fault {name:?}"))
            }
            name => Ok(Self(name.map(str::to_owned))),
        }
    }

    /// Whether this one is on.
    pub(crate) fn has(&self, name: &str) -> bool {
        debug_assert!(
            FAULTS.iter().any(|(known, _)| *known == name),
            "{name} is not in the list"
        );
        self.0.as_deref() == Some(name)
    }
}
