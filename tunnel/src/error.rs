//! How a tunnel fails.

use std::time::Duration;

/// Why a tunnel, or a stream of it, cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// HTTP/2 said so: the byte stream broke, or the peer broke the protocol.
    #[error("tunnel: {0}")]
    Http2(#[from] h2::Error),
    /// The peer answered no PING.
    #[error("tunnel: the peer answered no PING for {0:?}")]
    PeerSilent(Duration),
    /// The peer did not finish setting up.
    #[error("tunnel: the peer did not {what} within {within:?}")]
    Slow {
        /// What was waited for.
        what: &'static str,
        /// How long.
        within: Duration,
    },
    /// A control message that cannot be read or is too long.
    #[error("control stream: {0}")]
    Control(String),
    /// The peer answered the control stream with this status.
    #[error("control stream: refused with HTTP status {0}")]
    ControlRefused(http::StatusCode),
    /// The tunnel is closed.
    #[error("tunnel: closed")]
    Closed,
}

impl TunnelError {
    /// Whether the peer broke the protocol, as opposed to going away.
    #[must_use]
    pub fn is_protocol(&self) -> bool {
        match self {
            Self::Http2(error) => !error.is_io() && error.is_library(),
            Self::Control(_) => true,
            _ => false,
        }
    }
}
