//! One forwarded connection as the tunnel carries it.

use crate::chunk::Chunk;
use crate::queue::Queue;
use crate::settings::Settings;
use crate::windows::Open;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, StatusCode};
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;
use sternline_api::Reason;

/// A stream whose request was sent (cluster side) or accepted (workstation
/// side), ready for [`crate::relay()`]. Dropping it resets it.
#[derive(Debug)]
pub struct TunnelStream {
    pub(crate) send: SendStream<Chunk>,
    pub(crate) inbound: Inbound,
    /// What came before anyone could take it.
    pub(crate) queue: Queue,
    pub(crate) open: Open,
    pub(crate) send_buffer: usize,
    pub(crate) answer_timeout: Duration,
}

/// The receiving half, which on the cluster side opens with the answer.
#[derive(Debug)]
pub(crate) enum Inbound {
    Awaiting(ResponseFuture),
    Open(RecvStream),
}

impl TunnelStream {
    pub(crate) fn new(
        send: SendStream<Chunk>,
        inbound: Inbound,
        queue: Queue,
        open: Open,
        settings: &Settings,
    ) -> Self {
        Self {
            send,
            inbound,
            queue,
            open,
            send_buffer: settings.send_buffer(),
            // The workstation answers within its dial time-out; the rest is for
            // the way there and back.
            answer_timeout: settings.dial_timeout + Duration::from_secs(5),
        }
    }
}

/// What a look at a stream's receiving half found.
#[derive(Debug)]
pub(crate) enum Drained {
    /// More may come.
    Open,
    /// END_STREAM: everything is in the queue.
    Ended,
}

/// Takes everything that came into `queue`; registers for more.
pub(crate) fn drain(
    recv: &mut RecvStream,
    queue: &mut Queue,
    cx: &mut Context<'_>,
) -> Result<Drained, h2::Error> {
    loop {
        match recv.poll_data(cx) {
            Poll::Ready(Some(Ok(data))) if data.is_empty() => {}
            Poll::Ready(Some(Ok(data))) => queue.push(data),
            Poll::Ready(Some(Err(error))) => return Err(error),
            Poll::Ready(None) => return Ok(Drained::Ended),
            Poll::Pending => return Ok(Drained::Open),
        }
    }
}

/// The `Forwarded` value of a connection (RFC 7239, section 4).
pub(crate) fn forwarded(peer: SocketAddr) -> String {
    format!("for=\"{peer}\"")
}

/// The address in a `Forwarded` value, if it names one.
pub(crate) fn forwarded_for(value: &str) -> Option<SocketAddr> {
    let nearest = split_unquoted(value, ',').next()?;
    let node = split_unquoted(nearest, ';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then_some(value)
    })?;
    node.trim_matches('"').parse().ok()
}

/// Field of RFC 9209 in which a failed dial is explained.
pub(crate) const PROXY_STATUS: &str = "proxy-status";

/// The `Proxy-Status` value of a failure (RFC 9209, section 2). `detail` is for
/// people; what a structured-field string cannot hold is left out.
pub(crate) fn proxy_status(reason: Reason, detail: &str) -> String {
    let error = reason.proxy_status().unwrap_or("proxy_internal_error");
    let detail: String = detail
        .chars()
        .filter(|c| (' '..='~').contains(c) && !matches!(c, '"' | '\\'))
        .take(200)
        .collect();
    format!("sternline; error={error}; details=\"{detail}\"")
}

/// Why the workstation refused a stream, from its status and `Proxy-Status`.
pub(crate) fn refusal(status: StatusCode, headers: &HeaderMap<impl AsRef<[u8]>>) -> Reason {
    headers
        .get(PROXY_STATUS)
        .and_then(|value| std::str::from_utf8(value.as_ref()).ok())
        .and_then(error_parameter)
        .and_then(Reason::from_proxy_status)
        .unwrap_or(match status {
            StatusCode::GATEWAY_TIMEOUT => Reason::TargetTimeout,
            _ => Reason::TargetFailed,
        })
}

/// The `error` parameter of the last member that has one: of several proxies the
/// nearest to us.
fn error_parameter(value: &str) -> Option<&str> {
    let error = |member| {
        let mut parameters = split_unquoted(member, ';');
        parameters.find_map(|p| p.trim().strip_prefix("error="))
    };
    split_unquoted(value, ',')
        .filter_map(error)
        .last()
        .map(str::trim)
}

/// Splits a field's value where `separator` stands outside of strings (RFC 9110,
/// section 5.6.4): what people write between quotes separates nothing.
fn split_unquoted(value: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    value.split(move |c| {
        if escaped {
            escaped = false;
            return false;
        }
        escaped = quoted && c == '\\';
        quoted ^= c == '"';
        c == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn headers(value: &str) -> HeaderMap<HeaderValue> {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(PROXY_STATUS, value);
        }
        headers
    }

    #[test]
    fn a_refusal_names_its_reason() {
        for reason in [
            Reason::TargetRefused,
            Reason::TargetTimeout,
            Reason::TargetUnresolved,
            Reason::UnknownListener,
        ] {
            let value = proxy_status(reason, "localhost:3000: \"no\"\n");
            assert_eq!(refusal(reason.http(), &headers(&value)), reason, "{value}");
        }
    }

    #[test]
    fn a_refusal_without_a_known_error_still_has_a_reason() {
        let none = headers("");
        assert_eq!(
            refusal(StatusCode::GATEWAY_TIMEOUT, &none),
            Reason::TargetTimeout
        );
        let odd = headers("other; error=made_up");
        assert_eq!(refusal(StatusCode::BAD_GATEWAY, &odd), Reason::TargetFailed);
    }

    #[test]
    fn what_people_write_in_a_refusal_decides_nothing() {
        for detail in ["a, b; error=dns_error", "x; error=dns_error;"] {
            let value = proxy_status(Reason::TargetRefused, detail);
            let reason = refusal(StatusCode::BAD_GATEWAY, &headers(&value));
            assert_eq!(reason, Reason::TargetRefused, "{value}");
        }
        let escaped = r#"p; details="\", q; error=dns_error"; error=connection_refused"#;
        let reason = refusal(StatusCode::BAD_GATEWAY, &headers(escaped));
        assert_eq!(reason, Reason::TargetRefused);
        let nearest = headers("far; error=dns_error, near; error=connection_refused");
        let reason = refusal(StatusCode::BAD_GATEWAY, &nearest);
        assert_eq!(reason, Reason::TargetRefused);
    }

    proptest! {
        #[test]
        fn any_field_value_is_read_without_panic(value in ".{0,100}", status in 100_u16..1000) {
            if let Ok(status) = StatusCode::from_u16(status) {
                let _ = refusal(status, &headers(&value));
            }
        }

        #[test]
        fn any_detail_makes_a_valid_field(detail in ".{0,300}") {
            prop_assert!(HeaderValue::from_str(&proxy_status(Reason::TargetFailed, &detail)).is_ok());
        }
    }
}
