//! Names of the wire: everything that two implementations must spell alike.
//! `docs/protocol.md` is the prose to it.

/// Version of the call and of the streaming path.
pub const API_VERSION: &str = "v1alpha1";

/// Versions of the call that this release serves, newest first.
pub const API_VERSIONS: &[&str] = &[API_VERSION];

/// Name of the streaming protocol, offered in [`PROTOCOL_HEADER`] (raw form) or
/// in `Sec-WebSocket-Protocol` (WebSocket form).
pub const STREAM_PROTOCOL: &str = "v1alpha1.reverse.sternline.dev";

/// Streaming protocols that this release speaks, newest first.
pub const STREAM_PROTOCOLS: &[&str] = &[STREAM_PROTOCOL];

/// Value of the `Upgrade` field in the raw form (RFC 9110, section 7.8).
pub const UPGRADE_RAW: &str = "sternline";

/// Value of the `Upgrade` field in the WebSocket form (RFC 6455, section 4.1).
pub const UPGRADE_WEBSOCKET: &str = "websocket";

/// Request field that lists the streaming protocols a client speaks, newest
/// first; response field that names the one chosen.
pub const PROTOCOL_HEADER: &str = "sternline-protocol";

/// Request field in which a client brings the ticket of a session to a gateway: in
/// the path it would stand in the API server's audit log.
pub const TICKET_HEADER: &str = "sternline-ticket";

/// Request field in which a gateway brings a signed grant to a streaming endpoint,
/// in base64url without padding (RFC 4648, section 5).
pub const GRANT_HEADER: &str = "sternline-grant";

/// Zone of the names in the certificates of nodes: one that is called as a gateway
/// is still none.
pub const NODE_ZONE: &str = "node.reverse.sternline.dev";

/// Path below which every session is streamed; a token or ticket follows.
pub const SESSIONS_PATH: &str = "/v1alpha1/sessions/";

/// `:protocol` of the control stream (RFC 8441, section 4).
pub const CONTROL_PROTOCOL: &str = "sternline-control";

/// Largest control message, in bytes, its length prefix not counted.
pub const MAX_CONTROL_MESSAGE: usize = 64 * 1024;

/// Request field of a CONNECT that carries the id of the listener that
/// accepted the connection.
pub const LISTENER_HEADER: &str = "sternline-listener";

/// Trailing metadata of a failed call: the [`crate::Reason`]'s label.
pub const REASON_METADATA: &str = "sternline-reason";

/// Where the call is served on a node, unless a flag says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sternline/sternline.sock";

/// Scheme of a streaming URL on a Unix socket; the percent-encoded path of the
/// socket stands where a host would.
pub const UNIX_SCHEME: &str = "http+unix";

/// Picks the newest streaming protocol that both sides speak.
///
/// `offered` is the value of [`PROTOCOL_HEADER`] or `Sec-WebSocket-Protocol`:
/// names separated by commas.
#[must_use]
pub fn choose_protocol(offered: &str) -> Option<&'static str> {
    STREAM_PROTOCOLS
        .iter()
        .find(|ours| offered.split(',').any(|theirs| theirs.trim() == **ours))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_protocol_is_found_in_a_list() {
        let offered = format!("v9.reverse.sternline.dev , {STREAM_PROTOCOL}");
        assert_eq!(choose_protocol(&offered), Some(STREAM_PROTOCOL));
    }

    #[test]
    fn a_protocol_is_compared_whole() {
        assert_eq!(choose_protocol("v1alpha1"), None);
        assert_eq!(choose_protocol(""), None);
        assert_eq!(choose_protocol(&format!("x{STREAM_PROTOCOL}")), None);
    }
}
