//! The TARGET half of a SPEC.

use super::{is_number, port};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV6};
use std::path::{Path, PathBuf};

/// Longest name of a host (RFC 1035, section 2.3.4).
const LONGEST_HOST: usize = 253;

/// Longest path that a Unix socket's address takes on every system, its final
/// NUL not counted (macOS has 104 bytes).
const LONGEST_PATH: usize = 103;

/// What is dialled on the workstation, and nothing else ever is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A host's TCP port.
    Host {
        /// A name or an IPv4 address.
        host: String,
        /// 1-65535.
        port: u16,
    },
    /// A TCP port of an IPv6 address.
    Ipv6(SocketAddrV6),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Target {
    /// A port of the workstation itself.
    #[must_use]
    pub fn local(port: u16) -> Self {
        let host = "localhost".to_owned();
        Self::Host { host, port }
    }

    /// Reads `PORT`, `HOST:PORT` or `unix:PATH`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        if text.is_empty() {
            return Err(
                "the target after the colon is missing: write 8080:3000, or just 8080".into(),
            );
        }
        if text.contains("://") {
            return Err(format!(
                "the target {text:?} is a URL: write HOST:PORT, as in localhost:3000"
            ));
        }
        if text.starts_with('[') {
            return ipv6(text);
        }
        let Some((host, number)) = text.rsplit_once(':') else {
            if is_number(text) || !is_host(text) {
                return Ok(Self::local(target_port(text)?));
            }
            return Err(format!(
                "the target {text:?} is not a number: give a port of 1-65535, or HOST:PORT as in {text}:3000"
            ));
        };
        let port = target_port(number)?;
        if host.contains(':') {
            return Err(format!(
                "the target {text:?} has too many colons: an IPv6 address stands in brackets, as in [::1]:3000"
            ));
        }
        if host.is_empty() {
            return Err(format!(
                "the host before :{number} is missing: write localhost:{number}"
            ));
        }
        if is_number(host) {
            return Err(format!(
                "the target's host {host:?} is a number: write HOST:PORT, and each further port as a SPEC of its own"
            ));
        }
        if !is_host(host) {
            return Err(format!(
                "the target's host {host:?} is no name or address: letters, digits, dots and hyphens make one"
            ));
        }
        Ok(Self::Host {
            host: host.to_owned(),
            port,
        })
    }

    /// Whether it is on this machine by its name alone.
    #[must_use]
    pub fn is_localhost(&self) -> bool {
        matches!(self, Self::Host { host, .. } if host.eq_ignore_ascii_case("localhost"))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { host, port } => write!(f, "{host}:{port}"),
            Self::Ipv6(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn target_port(text: &str) -> Result<u16, String> {
    match port(text, "target port")? {
        0 => Err("target port 0 cannot be dialled: give a port of 1-65535".into()),
        port => Ok(port),
    }
}

fn unix(path: &str) -> Result<Target, String> {
    if path.is_empty() {
        return Err("the path after unix: is missing: write unix:/run/app.sock".into());
    }
    if path.contains('\0') {
        return Err("the path after unix: has a NUL byte, which no path has".into());
    }
    if path.len() > LONGEST_PATH {
        return Err(format!(
            "the path after unix: has {} bytes, and a Unix socket takes at most {LONGEST_PATH}: use a shorter one",
            path.len()
        ));
    }
    Ok(Target::Unix(Path::new(path).to_owned()))
}

fn ipv6(text: &str) -> Result<Target, String> {
    let number = match text.split_once(']') {
        None => {
            return Err(format!(
                "the bracket of {text:?} is not closed: write [::1]:3000"
            ));
        }
        Some((_, after)) => after
            .strip_prefix(':')
            .ok_or_else(|| format!("the target {text:?} has no port: write [::1]:3000"))?,
    };
    target_port(number)?;
    let address = text.parse().map_err(|_| {
        format!("the target {text:?} is no IPv6 address and port: write [::1]:3000")
    })?;
    Ok(Target::Ipv6(address))
}

fn is_host(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let dotted = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.len() <= LONGEST_HOST
        && text.bytes().all(plain)
        && !text.starts_with(['-', '.'])
        && !text.contains("..")
        && (!dotted || text.parse::<Ipv4Addr>().is_ok())
}
