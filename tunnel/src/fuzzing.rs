//! Doors for the fuzz targets in `fuzz/`, and for nobody else: parsers of bytes
//! from outside that are no part of the tunnel's interface.

use crate::stream;
use http::{HeaderMap, HeaderValue, StatusCode};
use std::net::SocketAddr;
use sternline_api::Reason;

/// Why a stream was refused, from its answer's status and `Proxy-Status`.
#[must_use]
pub fn refusal(status: StatusCode, proxy_status: HeaderValue) -> Reason {
    let mut headers = HeaderMap::new();
    headers.insert(stream::PROXY_STATUS, proxy_status);
    stream::refusal(status, &headers)
}

/// The `Proxy-Status` of a refusal.
#[must_use]
pub fn proxy_status(reason: Reason, detail: &str) -> String {
    stream::proxy_status(reason, detail)
}

/// The `Forwarded` of a connection.
#[must_use]
pub fn forwarded(peer: SocketAddr) -> String {
    stream::forwarded(peer)
}

/// The address that a `Forwarded` names.
#[must_use]
pub fn forwarded_for(value: &str) -> Option<SocketAddr> {
    stream::forwarded_for(value)
}
