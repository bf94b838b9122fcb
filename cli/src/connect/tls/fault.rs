//! What a failed handshake means to a user.
//!
//! A node that cannot prove who it is counts as no server (exit code 6). A node
//! that does not let us in without another certificate forbids it (exit code 4).

use crate::fault::{Fault, exit};
use crate::span;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, Error};
use std::io;
use std::time::Duration;
use sternline_api::Reason;

/// No CA at all is trusted.
pub(super) fn no_system_roots() -> Fault {
    Fault::no_server(
        "this system has no CA certificates to check the streaming endpoint with: give its CA with --ca-file",
    )
}

/// Why the handshake with `endpoint` failed, which had to prove to be `name`.
/// `own_roots`: the CAs are those of --ca-file.
pub(super) fn explain(
    endpoint: &str,
    name: &ServerName<'_>,
    own_roots: bool,
    error: &io::Error,
) -> Fault {
    let Some(tls) = inner(error) else {
        return Fault::new(
            exit::LOST,
            format!(
                "the streaming endpoint {endpoint} broke off during the TLS handshake: {}: try again",
                crate::cause(error)
            ),
        );
    };
    match tls {
        Error::InvalidCertificate(why) => {
            let what = certificate(why, name, own_roots);
            Fault::no_server(format!(
                "the certificate of the streaming endpoint {endpoint} {what}"
            ))
        }
        Error::AlertReceived(alert) => refused_with(endpoint, *alert),
        Error::InvalidMessage(_) => Fault::protocol(format!(
            "the streaming endpoint {endpoint} does not speak TLS, and is not spoken to in clear text: is something else listening there?"
        )),
        Error::PeerIncompatible(why) => Fault::because(
            Reason::VersionUnsupported,
            format!(
                "the streaming endpoint {endpoint} has no TLS version or cipher in common with us, who speak TLS 1.3 ({why:?}): use releases that go together"
            ),
        ),
        other => Fault::protocol(format!(
            "the TLS handshake with the streaming endpoint {endpoint} failed: {other}"
        )),
    }
}

/// What a node says about our certificate after the handshake, if `error` comes
/// of that: in TLS 1.3 it looks at it when the client's part is over.
pub(in crate::connect) fn refused(
    endpoint: &impl std::fmt::Display,
    error: &(dyn std::error::Error + 'static),
) -> Option<Fault> {
    let mut next = Some(error);
    while let Some(error) = next {
        let tls = error.downcast_ref::<io::Error>().and_then(inner);
        if let Some(Error::AlertReceived(alert)) = tls {
            return Some(refused_with(&endpoint.to_string(), *alert));
        }
        next = error.source();
    }
    None
}

fn inner(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn certificate(why: &CertificateError, name: &ServerName<'_>, own_roots: bool) -> String {
    let name = name.to_str();
    match why {
        CertificateError::UnknownIssuer if own_roots => {
            "is not signed by a CA of --ca-file: give the file with the node's CA".to_owned()
        }
        CertificateError::UnknownIssuer => {
            "is not signed by a CA that this system trusts: give the node's CA with --ca-file"
                .to_owned()
        }
        // Often a CA that was made anew under its old name.
        CertificateError::BadSignature => {
            "is signed by another CA of the same name than the one that is trusted: give the node's CA with --ca-file"
                .to_owned()
        }
        CertificateError::Expired => "has expired: it must be renewed on the node".to_owned(),
        CertificateError::ExpiredContext { time, not_after } => format!(
            "expired {} ago: it must be renewed on the node, unless the clock of this machine is wrong",
            apart(*not_after, *time)
        ),
        CertificateError::NotValidYet => {
            "is not valid yet: is the clock of this machine right?".to_owned()
        }
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "is not valid before {} from now: is the clock of this machine right?",
            apart(*time, *not_before)
        ),
        CertificateError::NotValidForName => format!(
            "is not for {name}: if it is the right node, give the name that the certificate has with --tls-server-name"
        ),
        CertificateError::NotValidForNameContext { presented, .. } => format!(
            "is not for {name} but for {}: if it is the right node, give that name with --tls-server-name",
            names(presented)
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not one of a server: the node needs one with that purpose".to_owned()
        }
        CertificateError::Revoked => "was revoked: it must be renewed on the node".to_owned(),
        other => format!("cannot be trusted: {other}"),
    }
}

/// The names of a certificate, as many as make a sentence.
fn names(presented: &[String]) -> String {
    /// More than these are no help.
    const SHOWN: usize = 5;
    if presented.is_empty() {
        return "no name at all".to_owned();
    }
    let names: Vec<&str> = presented
        .iter()
        .take(SHOWN)
        // As the library writes them: DnsName("a.example"), IpAddress(10.0.0.1).
        .map(|name| {
            let address = name.strip_prefix("IpAddress(");
            let address = address.and_then(|rest| rest.strip_suffix(')'));
            address.unwrap_or_else(|| name.split('"').nth(1).unwrap_or(name))
        })
        .collect();
    let more = if presented.len() > SHOWN { ", ..." } else { "" };
    format!("{}{more}", names.join(", "))
}

fn apart(from: UnixTime, to: UnixTime) -> String {
    span::short(Duration::from_secs(
        to.as_secs().saturating_sub(from.as_secs()),
    ))
}

fn refused_with(endpoint: &str, alert: AlertDescription) -> Fault {
    let forbidden = |what: &str| {
        Fault::because(
            Reason::Forbidden,
            format!("the streaming endpoint {endpoint} {what}"),
        )
    };
    match alert {
        AlertDescription::CertificateRequired => {
            forbidden("asks for a client certificate: give one with --client-cert and --client-key")
        }
        AlertDescription::UnknownCA => forbidden(
            "does not know the CA of the certificate of --client-cert: take one of a CA that it was given with --streaming-client-ca",
        ),
        AlertDescription::CertificateExpired => {
            forbidden("says that the certificate of --client-cert has expired: renew it")
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => forbidden(&format!(
            "does not accept the certificate of --client-cert ({alert:?}): is it one for clients, of a CA that the node was given?"
        )),
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => Fault::because(
            Reason::VersionUnsupported,
            format!(
                "the streaming endpoint {endpoint} has no TLS version or cipher in common with us, who speak TLS 1.3: use releases that go together"
            ),
        ),
        other => Fault::protocol(format!(
            "the streaming endpoint {endpoint} ended TLS with {other:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(own_roots: bool, error: Error) -> Fault {
        let name = ServerName::try_from("node-1").expect("a name");
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        explain("10.0.0.1:443", &name, own_roots, &error)
    }

    #[test]
    fn what_is_wrong_with_a_certificate_comes_with_the_next_step() {
        let day = |n: u64| UnixTime::since_unix_epoch(Duration::from_secs(n * 86_400));
        for (why, parts) in [
            (
                CertificateError::UnknownIssuer,
                ["this system", "--ca-file"],
            ),
            (CertificateError::Expired, ["expired", "renewed"]),
            (
                CertificateError::ExpiredContext {
                    time: day(13),
                    not_after: day(10),
                },
                ["expired 3d", "renewed"],
            ),
            (
                CertificateError::NotValidYetContext {
                    time: day(1),
                    not_before: day(3),
                },
                ["not valid before", "clock"],
            ),
            (
                CertificateError::NotValidForNameContext {
                    expected: ServerName::try_from("node-1").expect("a name"),
                    presented: vec!["DnsName(\"node-2\")".to_owned()],
                },
                ["not for node-1 but for node-2", "--tls-server-name"],
            ),
            (
                CertificateError::NotValidForNameContext {
                    expected: ServerName::try_from("node-1").expect("a name"),
                    presented: vec!["IpAddress(127.0.0.1)".to_owned()],
                },
                ["not for node-1 but for 127.0.0.1:", "--tls-server-name"],
            ),
        ] {
            let fault = fault(false, Error::InvalidCertificate(why));
            assert_eq!(fault.exit, exit::NO_SERVER);
            for part in parts {
                assert!(fault.message.contains(part), "{part:?} is not in {fault}");
            }
        }
        let own = fault(
            true,
            Error::InvalidCertificate(CertificateError::UnknownIssuer),
        );
        assert!(own.message.contains("a CA of --ca-file"), "{own}");
    }

    #[test]
    fn what_a_node_says_of_our_certificate_is_found_behind_other_errors() {
        #[derive(Debug, thiserror::Error)]
        #[error("behind")]
        struct Behind(#[source] io::Error);
        let alert = |alert| {
            let error = io::Error::new(io::ErrorKind::InvalidData, Error::AlertReceived(alert));
            refused(&"x:1", &Behind(error)).expect("an alert")
        };
        let required = alert(AlertDescription::CertificateRequired);
        assert_eq!(required.reason, Some(Reason::Forbidden));
        assert!(required.message.contains("--client-cert"), "{required}");
        assert_eq!(alert(AlertDescription::UnknownCA).exit, 4);
        assert_eq!(alert(AlertDescription::ProtocolVersion).exit, 6);
        assert_eq!(
            refused(&"x:1", &Behind(io::ErrorKind::BrokenPipe.into())),
            None
        );
    }

    #[test]
    fn a_connection_that_breaks_is_a_lost_one() {
        let name = ServerName::try_from("node-1").expect("a name");
        let error = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(explain("x:1", &name, false, &error).exit, exit::LOST);
    }
}
