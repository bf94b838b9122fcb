//! What can be done wrong.

/// Every fault: its name, and whether it shows only where wide addresses are
/// allowed.
#[rustfmt::skip]
pub const FAULTS: &[(&str, bool)] = &[
    // Requests.
    ("missing-target-internal", false), ("unknown-sandbox-code", false), ("no-prefix", false),
    ("ambiguous-picks-one", false), ("pod-invalid", false), ("requester-honoured", false),
    ("grant-honoured", false), ("no-listeners-fine", false), ("port-wraps", false),
    ("names-are-loopback", false), ("mapped-unmapped", false), ("any-protocol", false),
    ("unset-protocol-refused", false), ("collision-unchecked", false), ("zero-collides", false),
    ("hold-clamped", false), ("many-labels", false), ("long-labels", false), ("host-network-fine", false),
    // What the calls answer.
    ("version-empty", false), ("no-conditions", false), ("limits-zero", false), ("expiry-in-seconds", false),
    ("limits-missing", false), ("id-in-url", false), ("v6-first", false), ("list-not-waiting", false),
    ("labels-forgotten", false), ("list-all", false), ("stop-unknown-fine", false), ("stop-whole-id", false),
    ("stop-frees-v6-late", false), ("no-reason-word", false),
    // Tokens.
    ("short-token", false), ("token-reusable", false), ("version-consumes", false), ("plain-consumes", false),
    ("token-outlives", false), ("expiry-leaks", false), ("token-evicts", false),
    // Listening.
    ("binds-any", false), ("v4-only-for-free-ports", false), ("also-on-node", false),
    ("early-connections-dropped", false), ("port-zero-differs", false), ("low-port-plus-one", false),
    ("any-127-is-127.0.0.1", false), ("v6-adds-v4", false), ("conflict-unnamed", false),
    ("v6-conflict-dropped", false), ("half-binds", false), ("reuseport", false), ("wide-allowed-anyway", false),
    ("wide-told-narrow", true), ("unavailable-is-internal", true), ("reports-other-port", false),
    // The Upgrade.
    ("101-without-upgrade", false), ("case-sensitive", false), ("connection-exact", false),
    ("version-of-client", false), ("no-supported-list", false), ("426-without-list", false),
    ("other-upgrade-400", false), ("put-is-404", false), ("path-plain-404", false), ("token-unknown-410", false),
    ("short-head", false), ("one-read-head", false), ("early-bytes-taken", false), ("ws-no-protocol", false),
    ("ws-drops-single-bytes", false), ("ws-no-pong", false), ("ws-text-taken", false),
    ("ws-close-ignored", false), ("ws-key-unchecked", false),
    // The tunnel.
    ("push-on", false), ("control-elsewhere", false), ("no-pong-when-stalled", false), ("pings-slowly", false),
    ("never-dead", false), ("ignores-window", false),
    // The control stream.
    ("ready-other-session", false), ("ready-without-bound", false), ("ready-without-limits", false),
    ("ready-without-hold", false), ("unknown-event-ends", false), ("frame-is-message", false),
    ("any-length", false), ("target-down-ends", false), ("add-unanswered", false),
    ("remove-always-fine", false), ("done-holds", false),
    // Forwarded connections.
    ("authority-of-sandbox", false), ("authority-of-v6-is-v4", false), ("listener-zero", false),
    ("forwarded-unquoted", false), ("corrupts-from-pod", false), ("corrupts-to-pod", false),
    ("impatient-answer", false), ("pod-fin-kills", false), ("drops-half-close", false),
    ("client-end-stops-pod", false), ("loses-tail", false), ("reset-is-end", false), ("reset-is-cancel", false),
    ("reset-is-fin", false), ("end-stops-watching", false), ("empty-data", false),
    ("ends-over-small-frames", false), ("stalled-stream-blocks", false), ("stalled-pod-blocks", false),
    ("greedy", false), ("drops-bytes-of-the-31st", false), ("burst-ends-session", false),
    ("refused-is-fin", false), ("504-is-fin", false), ("500-hangs", false), ("unanswered-reset-is-fin", false),
    ("dns-error-ends-session", false), ("waits-for-ever", false),
    // Sessions and tunnels.
    ("crossed-sessions", false), ("stop-stops-sandbox", false), ("takes-over", false), ("no-counts", false),
    ("hold-short", false), ("hold-for-ever", false), ("resume-without-bound", false), ("no-superseded", false),
    ("ticket-reusable", false), ("join-idle", false),
    // Ends and limits.
    ("leaks-listener", false), ("lost-is-fin", false), ("stop-untold", false), ("stop-stays-open", false),
    ("stop-resets-with-internal", false), ("stop-resets-late", false), ("gone-is-stopped", false),
    ("gone-still-listed", false), ("pins-namespace", false), ("waiting-pins", false), ("port-rests", false),
    ("over-limit-hangs", false), ("rejected-untold", false), ("slot-leak", false),
    ("ignores-listener-limit", false), ("ignores-session-limit", false), ("session-slot-late", false),
    ("ignores-connection-limit", false),
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
