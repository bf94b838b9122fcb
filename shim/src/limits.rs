//! Every limit of the shim, in one place.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::time::Duration;
use sternline_api::v1alpha1 as pb;
use sternline_tunnel::Settings;

/// Descriptors kept back for everything that is no forwarded connection:
/// listeners, tunnels, the runtime's socket, logs.
const DESCRIPTOR_RESERVE: u64 = 512;

/// Kept back besides where a binder is to keep the listeners: serve has a copy of
/// each, to give to the next binder.
const DESCRIPTORS_OF_COPIES: u64 = 256;

/// The limits in force. What each means, and in which unit, is said where a
/// client reads it: `Limits` in the call's proto.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams open at once in a session.
    pub connections_per_session: u32,
    /// Streams open at once on the node.
    pub connections_per_node: u32,
    /// Sessions at once in a sandbox.
    pub sessions_per_sandbox: u32,
    /// Sessions at once on the node.
    pub sessions_per_node: u32,
    /// Listeners in a session.
    pub listeners_per_session: u32,
    /// Tunnels at once in a session.
    pub tunnels_per_session: u32,
    /// Tokens that may wait to be redeemed.
    pub tokens: u32,
    /// Bytes that a session may hold in buffers.
    pub buffer_bytes_per_session: u64,
    /// Bytes that all sessions may hold in buffers.
    pub buffer_bytes_per_node: u64,
    /// How long the client may take to reach its target.
    pub dial_timeout: Duration,
    /// How long a token waits to be redeemed.
    pub token_ttl: Duration,
    /// How long a stream may be silent; zero for ever.
    pub idle_timeout: Duration,
    /// Longest hold that may be asked for.
    pub max_hold: Duration,
    /// Time between two PINGs.
    pub ping_interval: Duration,
}

impl Limits {
    /// Checks what cannot work and takes what the machine does not have: of so many
    /// descriptors, and with copies of listeners or without.
    ///
    /// # Errors
    /// One sentence that names the flag.
    pub fn validated(mut self, descriptors: u64, copies: bool) -> Result<Self, String> {
        let least = Settings::min_buffer_bytes(self.connections_per_session);
        if self.buffer_bytes_per_session < least {
            return Err(format!(
                "--buffer-bytes-per-session {} is too little for {} connections: give at least {least}, or lower --max-connections-per-session",
                self.buffer_bytes_per_session, self.connections_per_session
            ));
        }
        if self.buffer_bytes_per_node < self.buffer_bytes_per_session {
            return Err(format!(
                "--buffer-bytes-per-node {} is less than the {} of one session: raise it, or lower --buffer-bytes-per-session",
                self.buffer_bytes_per_node, self.buffer_bytes_per_session
            ));
        }
        let copies = if copies { DESCRIPTORS_OF_COPIES } else { 0 };
        let room = descriptors.saturating_sub(DESCRIPTOR_RESERVE + copies);
        let room = room.max(1);
        if u64::from(self.connections_per_node) > room {
            tracing::warn!(
                asked = self.connections_per_node,
                room,
                descriptors,
                "--max-connections-per-node is lowered to what the descriptor limit leaves"
            );
            self.connections_per_node = u32::try_from(room).unwrap_or(u32::MAX);
        }
        Ok(self)
    }

    /// The settings of this node's tunnels.
    #[must_use]
    pub fn tunnel(&self) -> Settings {
        Settings::from_limits(&self.to_proto())
    }

    /// As a client reads them.
    #[must_use]
    pub fn to_proto(&self) -> pb::Limits {
        pb::Limits {
            connections_per_session: self.connections_per_session,
            connections_per_node: self.connections_per_node,
            sessions_per_sandbox: self.sessions_per_sandbox,
            sessions_per_node: self.sessions_per_node,
            listeners_per_session: self.listeners_per_session,
            buffer_bytes_per_session: self.buffer_bytes_per_session,
            buffer_bytes_per_node: self.buffer_bytes_per_node,
            dial_timeout_ms: millis(self.dial_timeout),
            token_ttl_ms: millis(self.token_ttl),
            tokens_in_flight: self.tokens,
            idle_timeout_ms: millis(self.idle_timeout),
            max_hold_ms: millis(self.max_hold),
            ping_interval_ms: millis(self.ping_interval),
            tunnels_per_session: self.tunnels_per_session,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_session: 256,
            connections_per_node: 4096,
            sessions_per_sandbox: 16,
            sessions_per_node: 1000,
            listeners_per_session: 64,
            tunnels_per_session: 8,
            tokens: 1000,
            buffer_bytes_per_session: 64 << 20,
            buffer_bytes_per_node: 256 << 20,
            dial_timeout: Duration::from_secs(10),
            token_ttl: Duration::from_secs(60),
            idle_timeout: Duration::ZERO,
            max_hold: Duration::from_secs(3600),
            ping_interval: Duration::from_secs(15),
        }
    }
}

/// Whole milliseconds, as the protos carry times.
#[must_use]
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Raises the soft descriptor limit to the hard one and returns what holds.
#[must_use]
pub fn raise_descriptor_limit() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() => {
            hard.max(soft)
        }
        Ok((soft, _)) => soft,
        // Unknown: the least that any system gives.
        Err(_) => 1024,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound() {
        let limits = Limits::default().validated(1 << 20, true).expect("sound");
        assert_eq!(limits, Limits::default());
    }

    #[test]
    fn connections_never_exceed_the_descriptors() {
        for (copies, reserve) in [(false, 512), (true, 768)] {
            let limits = Limits::default().validated(1024, copies).expect("sound");
            assert_eq!(limits.connections_per_node, 1024 - reserve);
        }
        let starved = Limits::default().validated(10, true).expect("sound");
        assert_eq!(starved.connections_per_node, 1);
    }

    #[test]
    fn a_node_has_buffers_for_a_session_at_least() {
        let limits = Limits {
            buffer_bytes_per_node: 0,
            ..Limits::default()
        };
        let error = limits.validated(1 << 20, false).expect_err("too little");
        assert!(error.contains("--buffer-bytes-per-node"), "{error}");
    }

    #[test]
    fn buffers_too_small_for_the_connections_are_refused() {
        let limits = Limits {
            buffer_bytes_per_session: 1 << 20,
            connections_per_session: 1000,
            ..Limits::default()
        };
        let error = limits.validated(1 << 20, false).expect_err("too little");
        assert!(error.contains("--buffer-bytes-per-session"), "{error}");
    }
}
