//! Fields of HTTP that are read: `Proxy-Status`, `Forwarded`, lists of protocols.

use crate::input::Input;
use http::{HeaderValue, StatusCode};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use sternline_api::Reason;
use sternline_api::protocol::{STREAM_PROTOCOLS, choose_protocol};
use sternline_tunnel::fuzzing::{forwarded, forwarded_for, proxy_status, refusal};

/// What we write we read back, whatever people's words are in it; what others
/// write is read without trust.
pub(crate) fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let status = StatusCode::from_u16(input.short() % 1000).unwrap_or(StatusCode::BAD_GATEWAY);
    let address = address(&mut input);
    assert_eq!(forwarded_for(&forwarded(address)), Some(address));
    let rest = input.rest();
    if let Ok(value) = HeaderValue::from_bytes(rest) {
        let _ = refusal(status, value);
    }
    let Ok(text) = std::str::from_utf8(rest) else {
        return;
    };
    for reason in [
        Reason::TargetRefused,
        Reason::TargetTimeout,
        Reason::TargetUnresolved,
        Reason::TargetUnreachable,
        Reason::UnknownListener,
    ] {
        let value = HeaderValue::try_from(proxy_status(reason, text)).expect("any detail fits");
        assert_eq!(refusal(status, value), reason);
    }
    if let Some(address) = forwarded_for(text) {
        assert!(text.to_ascii_lowercase().contains("for="), "{address}");
    }
    if let Some(chosen) = choose_protocol(text) {
        assert!(STREAM_PROTOCOLS.contains(&chosen) && text.contains(chosen));
    }
}

fn address(input: &mut Input<'_>) -> SocketAddr {
    let ip: IpAddr = if input.byte().is_multiple_of(2) {
        Ipv4Addr::from(input.word()).into()
    } else {
        let high = u128::from(input.word()) << 96;
        Ipv6Addr::from(high | u128::from(input.word())).into()
    };
    SocketAddr::new(ip, input.short())
}
