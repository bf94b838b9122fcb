//! The LISTEN half of a SPEC.

use super::{is_number, port};
use std::net::{IpAddr, Ipv6Addr};
use sternline_api::listen::Bind;

/// Splits a SPEC into where to listen, the port, and what follows.
pub(super) fn split(text: &str) -> Result<(Bind, u16, Option<&str>), String> {
    let (bind, after) = bind(text)?;
    let (number, rest) = match after.split_once(':') {
        Some((number, rest)) => (number, Some(rest)),
        None => (after, None),
    };
    Ok((bind, port(number, "listening port")?, rest))
}

/// Takes BIND and its colon from the front, if there is one.
fn bind(text: &str) -> Result<(Bind, &str), String> {
    if let Some(bracketed) = text.strip_prefix('[') {
        return ipv6(bracketed);
    }
    let (first, after) = match text.split_once(':') {
        Some((first, after)) => (first, Some(after)),
        None => (text, None),
    };
    if is_number(first) || signed(first) {
        return Ok((Bind::Loopback, text));
    }
    if text.parse::<Ipv6Addr>().is_ok() || first.is_empty() && text.starts_with("::") {
        return Err("an IPv6 address stands in brackets: write [::1]:8080:3000".into());
    }
    let Some(after) = after else {
        return Err(format!(
            "{first:?} is not a number: give a port of 1-65535, or 0:TARGET for a free one"
        ));
    };
    if first.eq_ignore_ascii_case("localhost") {
        return Ok((Bind::Loopback, after));
    }
    match first {
        "" => Err(
            "the address before the first colon is missing: write localhost:8080, or just 8080"
                .into(),
        ),
        "*" => Err("\"*\" is no address: write 0.0.0.0 or [::] to listen on all of them".into()),
        _ => match first.parse() {
            Ok(IpAddr::V4(ip)) => Ok((Bind::Ip(ip.into()), after)),
            _ => Err(format!(
                "{first:?} is no address to listen on: write localhost, an IPv4 address or an [IPv6] address; a host to dial comes after the port, as in 8080:{first}:3000"
            )),
        },
    }
}

fn ipv6(bracketed: &str) -> Result<(Bind, &str), String> {
    let Some((address, after)) = bracketed.split_once(']') else {
        return Err("the bracket is not closed: write [::1]:8080:3000".into());
    };
    if address.parse::<Ipv6Addr>().is_err() {
        return Err(format!(
            "[{address}] is no IPv6 address: write one such as [::1]"
        ));
    }
    let Some(after) = after.strip_prefix(':') else {
        return Err(format!(
            "the port is missing after [{address}]: write [{address}]:8080:3000"
        ));
    };
    let bind = Bind::parse(address).map_err(|failure| failure.message)?;
    Ok((bind, after))
}

/// A number with a sign is a port that is out of range rather than an address.
fn signed(text: &str) -> bool {
    text.strip_prefix(['-', '+']).is_some_and(is_number)
}
