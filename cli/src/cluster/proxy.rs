//! Proxies between us and an API server: which one, if any.
//!
//! A kubeconfig's `proxy-url` counts; else `HTTPS_PROXY` (for an http server
//! `HTTP_PROXY`) unless `NO_PROXY` names the server, each also in lower case.
//! As in kubectl, loopback is never reached through a proxy of the environment.

mod through;

pub(super) use through::{Stream, connect};

use super::kubeconfig::{ApiServer, host};
use crate::clean::clean;
use crate::fault::Fault;
use http::Uri;
use percent_encoding::percent_decode_str;
use std::fmt;
use std::net::IpAddr;

/// A proxy.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) kind: Kind,
    /// IPv6 without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Name and password.
    pub(super) login: Option<(String, String)>,
}

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// CONNECT in clear text.
    Http,
    /// CONNECT inside TLS.
    Https,
    /// SOCKS version 5; names are resolved by the proxy.
    Socks5,
}

/// Without the login.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Https => "https",
            Kind::Socks5 => "socks5",
        };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl Proxy {
    /// Reads a proxy's URL; without a scheme it is http, as everywhere.
    fn parse(url: &str) -> Option<Self> {
        let url = match url.contains("://") {
            true => url.to_owned(),
            false => format!("http://{url}"),
        };
        let uri: Uri = url.parse().ok()?;
        let (kind, usual) = match uri.scheme_str()? {
            "http" => (Kind::Http, 80),
            "https" => (Kind::Https, 443),
            "socks5" | "socks5h" => (Kind::Socks5, 1080),
            _ => return None,
        };
        let host = host(uri.host()?)?;
        let userinfo = uri
            .authority()?
            .as_str()
            .rsplit_once('@')
            .map(|(info, _)| info);
        let login = userinfo.map(|info| {
            let (name, password) = info.split_once(':').unwrap_or((info, ""));
            let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            (plain(name), plain(password))
        });
        Some(Self {
            kind,
            host,
            port: uri.port_u16().unwrap_or(usual),
            login,
        })
    }
}

/// The proxy on the way to `server`: of the kubeconfig, or of the environment as
/// `variable` reads it.
///
/// # Errors
/// One is named that is none.
pub(super) fn choose(
    own: Option<&str>,
    server: &ApiServer,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, Fault> {
    let read = |what: &str, url: &str| {
        // A login in it is not printed.
        let shown = clean(url.rsplit_once('@').map_or(url, |(_, host)| host));
        Proxy::parse(url).map(Some).ok_or_else(|| {
            Fault::usage(format!(
                "{what} {shown:?} is no proxy: write http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT"
            ))
        })
    };
    if let Some(url) = own {
        return read("kubeconfig: proxy-url", url);
    }
    let either = |name: &str| {
        let found = variable(name).or_else(|| variable(&name.to_ascii_lowercase()));
        found.filter(|value| !value.is_empty())
    };
    let name = if server.is_tls {
        "HTTPS_PROXY"
    } else {
        "HTTP_PROXY"
    };
    let Some(url) = either(name) else {
        return Ok(None);
    };
    if is_loopback(&server.host) || is_exempt(&either("NO_PROXY").unwrap_or_default(), server) {
        return Ok(None);
    }
    read(name, &url)
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Whether `NO_PROXY` names the server: `*`, an address, a network as
/// `10.0.0.0/8`, or a domain with all below it; each perhaps with a port. A domain
/// that begins with a dot names only what is below it.
fn is_exempt(list: &str, server: &ApiServer) -> bool {
    let host = server.host.trim_end_matches('.').to_ascii_lowercase();
    let ip: Option<IpAddr> = host.parse().ok();
    list.split(',')
        .map(str::trim)
        .filter(|one| !one.is_empty())
        .any(|one| {
            let one = one.to_ascii_lowercase();
            if one == "*" {
                return true;
            }
            if let Some((network, bits)) = one.split_once('/') {
                let network = network.parse().ok().zip(bits.parse().ok());
                return ip
                    .zip(network)
                    .is_some_and(|(ip, (network, bits))| holds(network, bits, ip));
            }
            let (name, port) = match one.rsplit_once(':') {
                // More colons are an IPv6 address, unless it has its brackets.
                Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
                    (name, Some(port))
                }
                _ => (one.as_str(), None),
            };
            if port.is_some_and(|port| port != server.port.to_string()) {
                return false;
            }
            let name = name.trim_matches(['[', ']']);
            match (ip, name.parse::<IpAddr>()) {
                (Some(ip), Ok(other)) => ip == other,
                (Some(_), Err(_)) | (None, Ok(_)) => false,
                (None, Err(_)) => {
                    let name = name.strip_prefix('*').unwrap_or(name);
                    match name.strip_prefix('.') {
                        Some(domain) => host.ends_with(&format!(".{domain}")),
                        None => host == name || host.ends_with(&format!(".{name}")),
                    }
                }
            }
        })
}

/// Whether `ip` is in the network.
fn holds(network: IpAddr, bits: u32, ip: IpAddr) -> bool {
    let same = |a: u128, b: u128, length: u32| {
        bits <= length && (bits == 0 || (a ^ b) >> (length - bits) == 0)
    };
    match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => {
            same(u32::from(network).into(), u32::from(ip).into(), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) => same(network.into(), ip.into(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chosen(own: Option<&str>, server: &str, environment: &[(&str, &str)]) -> Option<String> {
        let server = ApiServer::parse(server).expect("a server");
        let variable = |name: &str| {
            let mut all = environment.iter();
            all.find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        let proxy = choose(own, &server, variable).expect("sound");
        proxy.map(|proxy| proxy.to_string())
    }

    #[test]
    fn the_kubeconfig_counts_more_than_the_environment() {
        let environment = [("HTTPS_PROXY", "http://b:1"), ("NO_PROXY", "*")];
        let own = chosen(Some("socks5://a"), "https://k", &environment);
        assert_eq!(own.as_deref(), Some("socks5://a:1080"));
    }

    #[test]
    fn the_environment_is_read_in_both_cases() {
        for (environment, proxy) in [
            (&[("HTTPS_PROXY", "http://b:1")][..], Some("http://b:1")),
            (&[("https_proxy", "b:1")], Some("http://b:1")),
            (&[("HTTPS_PROXY", "")], None),
            (&[("HTTP_PROXY", "http://b:1")], None),
            (
                &[("HTTPS_PROXY", "https://u:p@b"), ("no_proxy", "x")],
                Some("https://b:443"),
            ),
        ] {
            assert_eq!(
                chosen(None, "https://k:6443", environment).as_deref(),
                proxy
            );
        }
        let http = [("HTTP_PROXY", "http://b:1")];
        assert_eq!(
            chosen(None, "http://k", &http).as_deref(),
            Some("http://b:1")
        );
        for loopback in [
            "https://localhost",
            "https://127.0.0.2:1",
            "https://[::1]:1",
        ] {
            assert_eq!(
                chosen(None, loopback, &[("HTTPS_PROXY", "http://b:1")]),
                None
            );
        }
    }

    #[test]
    fn exemptions_are_names_networks_and_ports() {
        for (list, server, exempt) in [
            ("*", "https://k", true),
            ("example.com", "https://example.com", true),
            ("EXAMPLE.com", "https://api.example.COM", true),
            ("example.com", "https://notexample.com", false),
            (".example.com", "https://example.com", false),
            ("*.example.com", "https://a.example.com", true),
            ("a, example.com:6443", "https://example.com:6443", true),
            ("example.com:6443", "https://example.com", false),
            ("10.0.0.0/8", "https://10.200.0.1", true),
            ("10.0.0.0/8", "https://11.0.0.1", false),
            ("0.0.0.0/0", "https://11.0.0.1", true),
            ("10.0.0.1", "https://10.0.0.1", true),
            ("0.0.0.1", "https://10.0.0.1", false),
            ("fd00::/16", "https://[fd00::7]", true),
            ("fd00::7", "https://[fd00::7]", true),
            ("[fd00::7]:443", "https://[fd00::7]", true),
            ("10.0.0.0/33", "https://10.0.0.1", false),
        ] {
            let environment = [("HTTPS_PROXY", "http://b:1"), ("NO_PROXY", list)];
            let direct = chosen(None, server, &environment).is_none();
            assert_eq!(direct, exempt, "{list} {server}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_its_login() {
        let server = ApiServer::parse("https://k").expect("a server");
        let fault = choose(Some("ftp://u:SECRET@h"), &server, |_| None).expect_err("refused");
        assert!(
            fault.message.contains("\"h\"") && !fault.message.contains("SECRET"),
            "{fault}"
        );
        let proxy = Proxy::parse("http://us%40er:p%3Aw@h:3128").expect("a proxy");
        assert_eq!(proxy.login, Some(("us@er".into(), "p:w".into())));
        assert!(!format!("{proxy:?}").contains("p:w"));
    }

    proptest! {
        #[test]
        fn any_proxy_and_any_list_is_read(url in ".{0,40}", list in "[a-z0-9.:/*,\\[\\] -]{0,60}") {
            let _ = Proxy::parse(&url);
            for server in ["https://k", "https://10.0.0.1", "https://[fd00::1]"] {
                let server = ApiServer::parse(server).expect("a server");
                let _ = is_exempt(&list, &server);
            }
        }
    }
}
