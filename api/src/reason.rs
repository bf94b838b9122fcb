//! The one table of what can go wrong, or end a session or a stream.
//!
//! Each [`Reason`] has one label, which is the word in `sternline-reason`
//! metadata, in control messages, in metrics and in logs, and one translation
//! into each vocabulary: gRPC code, HTTP status, HTTP/2 reset, exit code of the
//! CLI and, for failed targets, the RFC 9209 error of `Proxy-Status`.

use http::StatusCode;
use tonic::Code;

/// HTTP/2 error codes used to reset a stream (RFC 9113, section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reset {
    /// `CANCEL`: our own wish; nobody misbehaved.
    Cancel,
    /// `REFUSED_STREAM`: a limit; the request was not acted on.
    Refused,
    /// `CONNECT_ERROR`: the TCP connection behind the stream was reset.
    Connect,
    /// `PROTOCOL_ERROR`: the peer broke the protocol.
    Protocol,
    /// `INTERNAL_ERROR`: a fault of this implementation.
    Internal,
}

impl Reset {
    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Protocol => 0x1,
            Self::Internal => 0x2,
            Self::Refused => 0x7,
            Self::Cancel => 0x8,
            Self::Connect => 0xa,
        }
    }
}

macro_rules! table {
    ($( $(#[$doc:meta])* $name:ident: $label:literal, $grpc:ident, $http:literal, $reset:ident, $exit:literal, $proxy:expr; )*) => {
        /// Why something failed or ended. See the module's documentation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $( $(#[$doc])* $name, )*
        }

        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )* ];

            /// The word for programs: stable, lower case, `a-z` and `_` only.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $( Self::$name => $label, )* }
            }

            /// The gRPC status code of a call that fails so.
            #[must_use]
            pub const fn grpc(self) -> Code {
                match self { $( Self::$name => Code::$grpc, )* }
            }

            /// The HTTP status of a response that fails so.
            #[must_use]
            pub fn http(self) -> StatusCode {
                let code: u16 = match self { $( Self::$name => $http, )* };
                StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }

            /// How a stream is reset that ends so.
            #[must_use]
            pub const fn reset(self) -> Reset {
                match self { $( Self::$name => Reset::$reset, )* }
            }

            /// The exit code of the CLI.
            #[must_use]
            pub const fn exit(self) -> u8 {
                match self { $( Self::$name => $exit, )* }
            }

            /// The error type of `Proxy-Status` (RFC 9209, section 2.3), where
            /// there is one.
            #[must_use]
            pub const fn proxy_status(self) -> Option<&'static str> {
                match self { $( Self::$name => $proxy, )* }
            }
        }
    };
}

// name: label, gRPC, HTTP, reset, exit, Proxy-Status
table! {
    // The request itself.
    /// The request is malformed or contradicts itself.
    InvalidRequest: "invalid_request", InvalidArgument, 400, Protocol, 2, Some("http_request_error");
    /// The caller may not do this.
    Forbidden: "forbidden", PermissionDenied, 403, Refused, 4, None;
    /// An address other than loopback was asked for and is not allowed.
    WideBindDenied: "wide_bind_denied", PermissionDenied, 403, Refused, 4, None;
    /// The feature is switched off.
    FeatureOff: "feature_off", FailedPrecondition, 503, Refused, 6, None;
    /// The server is going away and takes no new sessions.
    Draining: "draining", Unavailable, 503, Cancel, 9, None;
    /// The server may not work without its audit log, which cannot be written.
    AuditUnavailable: "audit_unavailable", Unavailable, 503, Refused, 6, None;
    /// A fault of this implementation.
    Internal: "internal", Internal, 500, Internal, 1, Some("proxy_internal_error");

    // The sandbox.
    /// No sandbox has this id.
    SandboxNotFound: "sandbox_not_found", NotFound, 404, Cancel, 3, None;
    /// The id is a prefix of several sandboxes.
    SandboxAmbiguous: "sandbox_ambiguous", InvalidArgument, 400, Cancel, 2, None;
    /// The sandbox exists and is not ready.
    SandboxNotReady: "sandbox_not_ready", FailedPrecondition, 409, Cancel, 3, None;
    /// The pod was replaced by another of the same name.
    PodReplaced: "pod_replaced", FailedPrecondition, 409, Cancel, 3, None;
    /// The sandbox uses the node's own network.
    HostNetwork: "host_network", FailedPrecondition, 409, Cancel, 6, None;
    /// The sandbox is a virtual machine or has a network of another kind.
    VmRuntime: "vm_runtime", FailedPrecondition, 409, Cancel, 6, None;
    /// The network namespace of the sandbox cannot be entered.
    NamespaceUnreachable: "namespace_unreachable", FailedPrecondition, 409, Cancel, 3, None;
    /// The container runtime does not answer.
    RuntimeUnavailable: "runtime_unavailable", Unavailable, 503, Cancel, 6, None;

    // The way through the cluster.
    /// The pod's node has no server that can be reached.
    NodeUnavailable: "node_unavailable", Unavailable, 503, Cancel, 6, None;
    /// The gateway has no answer of the Kubernetes API.
    ClusterUnavailable: "cluster_unavailable", Unavailable, 503, Cancel, 6, None;

    // Listening.
    /// The address is taken.
    PortInUse: "port_in_use", AlreadyExists, 409, Cancel, 5, None;
    /// The sandbox does not have the address.
    AddressUnavailable: "address_unavailable", FailedPrecondition, 409, Cancel, 5, None;
    /// The kernel did not allow the bind.
    BindRefused: "bind_refused", PermissionDenied, 403, Cancel, 5, None;

    // Limits.
    /// Too many sessions in the sandbox or on the node.
    SessionLimit: "session_limit", ResourceExhausted, 429, Refused, 1, None;
    /// Too many listeners in one session.
    ListenerLimit: "listener_limit", ResourceExhausted, 429, Refused, 1, None;
    /// Too many tunnels in one session.
    TunnelLimit: "tunnel_limit", ResourceExhausted, 429, Refused, 1, None;
    /// Too many tokens wait to be redeemed.
    TokenLimit: "token_limit", ResourceExhausted, 429, Refused, 1, None;
    /// Too many streams in the session.
    ConnectionLimit: "connection_limit", ResourceExhausted, 503, Refused, 1, Some("connection_limit_reached");
    /// Too many streams on the node.
    NodeConnectionLimit: "node_connection_limit", ResourceExhausted, 503, Refused, 1, Some("connection_limit_reached");
    /// Too many bytes wait for readers.
    BufferLimit: "buffer_limit", ResourceExhausted, 503, Refused, 1, None;
    /// The process has no file descriptors left.
    DescriptorLimit: "descriptor_limit", ResourceExhausted, 503, Refused, 1, None;
    /// A stream was silent for too long.
    IdleTimeout: "idle_timeout", DeadlineExceeded, 504, Cancel, 1, Some("connection_read_timeout");

    // The streaming endpoint.
    /// The token or ticket is unknown, used or expired.
    TokenUnknown: "token_unknown", NotFound, 404, Cancel, 7, None;
    /// Not an Upgrade, or to something else.
    UpgradeRequired: "upgrade_required", InvalidArgument, 426, Protocol, 6, None;
    /// No streaming protocol in common.
    VersionUnsupported: "version_unsupported", Unimplemented, 400, Protocol, 6, None;
    /// The client sent bytes before the 101, or broke the protocol after it.
    ProtocolError: "protocol_error", InvalidArgument, 400, Protocol, 1, Some("http_protocol_error");

    // Targets, as the client reports them.
    /// The target refused the connection.
    TargetRefused: "target_refused", Unavailable, 502, Connect, 1, Some("connection_refused");
    /// The target did not answer in time.
    TargetTimeout: "target_timeout", DeadlineExceeded, 504, Connect, 1, Some("connection_timeout");
    /// The name of the target does not resolve.
    TargetUnresolved: "target_unresolved", Unavailable, 502, Connect, 1, Some("dns_error");
    /// The target cannot be reached.
    TargetUnreachable: "target_unreachable", Unavailable, 502, Connect, 1, Some("destination_ip_unroutable");
    /// The target failed in another way.
    TargetFailed: "target_failed", Unavailable, 503, Connect, 1, Some("destination_unavailable");
    /// The client does not know the listener.
    UnknownListener: "unknown_listener", NotFound, 500, Refused, 1, Some("destination_not_found");

    // How streams end that were open.
    /// The process in the pod reset its connection.
    PodReset: "pod_reset", Aborted, 502, Connect, 1, Some("connection_terminated");
    /// The target reset its connection.
    TargetReset: "target_reset", Aborted, 502, Connect, 1, Some("connection_terminated");

    // How sessions end.
    /// The client asked for it.
    Done: "done", Ok, 200, Cancel, 0, None;
    /// The sandbox stopped or was removed.
    SandboxGone: "sandbox_gone", NotFound, 410, Cancel, 9, None;
    /// Someone called StopSession.
    Stopped: "stopped", Cancelled, 410, Cancel, 9, None;
    /// No session has this id.
    SessionNotFound: "session_not_found", NotFound, 404, Cancel, 3, None;
    /// Nobody redeemed the token in time.
    TokenExpired: "token_expired", DeadlineExceeded, 410, Cancel, 9, None;
    /// The last tunnel was lost, and the hold is over.
    TunnelLost: "tunnel_lost", Unavailable, 502, Cancel, 7, None;
    /// A newer tunnel took this one's place.
    Superseded: "superseded", Aborted, 410, Cancel, 7, None;
}

impl Reason {
    /// The reason with this label, if it is one that this release knows.
    #[must_use]
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|r| r.label() == label)
    }

    /// The reason of this RFC 9209 error type; the first of the table wins.
    #[must_use]
    pub fn from_proxy_status(error: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|r| r.reset() == Reset::Connect && r.proxy_status() == Some(error))
            .or_else(|| {
                Self::ALL
                    .iter()
                    .copied()
                    .find(|r| r.proxy_status() == Some(error))
            })
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}

/// A failure as a caller sees it: a [`Reason`] for programs and one sentence
/// for people that names the object, says what happened and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The word for programs.
    pub reason: Reason,
    /// The sentence for people.
    pub message: String,
}

impl Failure {
    /// Joins a reason and its sentence.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

impl From<Failure> for tonic::Status {
    fn from(failure: Failure) -> Self {
        let mut status = Self::new(failure.reason.grpc(), failure.message);
        // Labels are plain ASCII, which a test asserts.
        let label = tonic::metadata::MetadataValue::from_static(failure.reason.label());
        status
            .metadata_mut()
            .insert(crate::protocol::REASON_METADATA, label);
        status
    }
}

impl From<tonic::Status> for Failure {
    /// Reads what another implementation answered: its label where it sent one
    /// that is known, else the nearest reason of its code.
    fn from(status: tonic::Status) -> Self {
        let labelled = status
            .metadata()
            .get(crate::protocol::REASON_METADATA)
            .and_then(|value| value.to_str().ok())
            .and_then(Reason::from_label);
        let reason = labelled.unwrap_or_else(|| nearest(status.code()));
        Self::new(reason, status.message())
    }
}

fn nearest(code: Code) -> Reason {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Reason::InvalidRequest,
        Code::NotFound => Reason::SandboxNotFound,
        Code::FailedPrecondition => Reason::SandboxNotReady,
        Code::AlreadyExists => Reason::PortInUse,
        Code::PermissionDenied | Code::Unauthenticated => Reason::Forbidden,
        Code::ResourceExhausted => Reason::SessionLimit,
        Code::Unavailable | Code::DeadlineExceeded => Reason::RuntimeUnavailable,
        Code::Unimplemented => Reason::VersionUnsupported,
        _ => Reason::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn labels_are_unique_plain_words() {
        let mut seen = HashSet::new();
        for reason in Reason::ALL {
            let label = reason.label();
            assert!(seen.insert(label), "{label} stands twice");
            assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            assert_eq!(Reason::from_label(label), Some(*reason));
        }
    }

    #[test]
    fn a_failure_survives_the_way_through_a_grpc_status() {
        for reason in Reason::ALL.iter().filter(|r| r.grpc() != Code::Ok) {
            let sent = Failure::new(*reason, "sandbox abc: said so");
            let status = tonic::Status::from(sent.clone());
            assert_eq!(status.code(), reason.grpc());
            assert_eq!(Failure::from(status), sent);
        }
    }

    #[test]
    fn a_status_without_a_label_gets_the_nearest_reason() {
        let status = tonic::Status::new(Code::AlreadyExists, "taken");
        assert_eq!(Failure::from(status).reason, Reason::PortInUse);
    }

    #[test]
    fn target_errors_are_found_by_their_proxy_status() {
        for reason in [
            Reason::TargetRefused,
            Reason::TargetTimeout,
            Reason::TargetUnresolved,
            Reason::UnknownListener,
        ] {
            let error = reason.proxy_status().expect("has one");
            assert_eq!(Reason::from_proxy_status(error), Some(reason));
        }
        assert_eq!(Reason::from_proxy_status("no_such_error"), None);
    }
}
