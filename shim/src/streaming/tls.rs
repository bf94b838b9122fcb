//! From an accepted connection to an encrypted one.

use super::{Place, Way, connection, metrics};
use crate::session::Shared;
use crate::tls::Tls;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// First byte of every TLS connection: a handshake record (RFC 8446, section
/// 5.1).
const HANDSHAKE: u8 = 0x16;

/// How long a client has to read why it is turned away. Closing with bytes of
/// its unread would reset the connection, and the reason be lost.
const FAREWELL: Duration = Duration::from_secs(1);

/// For a client that speaks HTTP at once.
const CLEAR_TEXT: &str = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 116\r\n\r\n{\"reason\":\"protocol_error\",\"message\":\"this endpoint speaks TLS only: use the https URL that the call answered with\"}";

/// How a handshake ended, as a metric has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Encrypted.
    Ok,
    /// The client closed before it said anything, as a probe of the port does.
    Closed,
    /// Another client needed the place.
    Evicted,
    /// It took too long.
    Slow,
    /// It was not TLS.
    NotTls,
    /// The client sent no certificate, or not one of the CA's.
    ClientCertificate,
    /// The client did not want our certificate.
    Refused,
    /// Anything else: no version in common, garbage.
    Failed,
}

impl Outcome {
    /// The metric's label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Closed => "closed",
            Self::Evicted => "evicted",
            Self::Slow => "slow",
            Self::NotTls => "not_tls",
            Self::ClientCertificate => "client_certificate",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Serves one connection from its handshake up to its Upgrade.
pub(super) async fn encrypted(
    io: TcpStream,
    tls: Arc<Tls>,
    shared: Arc<Shared>,
    place: Arc<Place>,
    stop: CancellationToken,
) {
    let shaken = tokio::select! {
        () = stop.cancelled() => return,
        () = place.evicted() => Err(Outcome::Evicted),
        shaken = handshake(io, &tls) => shaken,
    };
    metrics::handshake(
        shaken
            .as_ref()
            .map_or_else(|outcome| outcome.label(), |_| Outcome::Ok.label()),
    );
    match shaken {
        Ok(io) => connection(io, Way::Node, shared, place, stop).await,
        Err(outcome) => tracing::debug!(outcome = outcome.label(), "no TLS with a client"),
    }
}

async fn handshake(mut io: TcpStream, tls: &Tls) -> Result<TlsStream<TcpStream>, Outcome> {
    let deadline = Instant::now() + tls.handshake_timeout();
    let mut first = [0];
    match timeout_at(deadline, io.peek(&mut first)).await {
        Err(_) => return Err(Outcome::Slow),
        Ok(Err(_) | Ok(0)) => return Err(Outcome::Closed),
        Ok(Ok(_)) if first[0] == HANDSHAKE => {}
        Ok(Ok(_)) => {
            if first[0].is_ascii_uppercase() {
                let _ = timeout_at(deadline, io.write_all(CLEAR_TEXT.as_bytes())).await;
            }
            farewell(io).await;
            return Err(Outcome::NotTls);
        }
    }
    let shaking = TlsAcceptor::from(tls.config()).accept(io).into_fallible();
    match timeout_at(deadline, shaking).await {
        Err(_) => Err(Outcome::Slow),
        Ok(Ok(io)) => Ok(io),
        Ok(Err((error, io))) => {
            tracing::debug!(%error, "a TLS handshake failed");
            farewell(io).await;
            Err(outcome(&error))
        }
    }
}

/// How a handshake with a gateway failed, as a metric has it.
pub(crate) fn handshake_outcome(error: &io::Error) -> &'static str {
    outcome(error).label()
}

fn outcome(error: &io::Error) -> Outcome {
    use rustls::Error as Tls;
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Tls>());
    match inner {
        None => Outcome::Closed,
        Some(Tls::AlertReceived(_)) => Outcome::Refused,
        Some(Tls::NoCertificatesPresented | Tls::InvalidCertificate(_)) => {
            Outcome::ClientCertificate
        }
        Some(_) => Outcome::Failed,
    }
}

/// Closes so that the client reads what was written last.
async fn farewell(mut io: TcpStream) {
    let close = async {
        let _ = io.shutdown().await;
        // No more than what a client sends before it looks for an answer.
        let mut rest = [0; 1024];
        for _ in 0..64 {
            if !io.read(&mut rest).await.is_ok_and(|n| n > 0) {
                break;
            }
        }
    };
    let _ = timeout(FAREWELL, close).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_in_clear_text_is_whole() {
        let (head, body) = CLEAR_TEXT.split_once("\r\n\r\n").expect("a head");
        assert!(
            head.ends_with(&format!("Content-Length: {}", body.len())),
            "{}",
            body.len()
        );
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["reason"], sternline_api::Reason::ProtocolError.label());
    }

    #[test]
    fn failures_are_told_apart() {
        let tls =
            |error: rustls::Error| outcome(&io::Error::new(io::ErrorKind::InvalidData, error));
        assert_eq!(
            tls(rustls::Error::NoCertificatesPresented),
            Outcome::ClientCertificate
        );
        assert_eq!(
            tls(rustls::Error::AlertReceived(
                rustls::AlertDescription::UnknownCA
            )),
            Outcome::Refused
        );
        assert_eq!(tls(rustls::Error::DecryptError), Outcome::Failed);
        assert_eq!(
            outcome(&io::ErrorKind::UnexpectedEof.into()),
            Outcome::Closed
        );
    }
}
