//! Flags of the streaming endpoint's TLS, and what goes together.

use super::{StreamingAddress, duration};
use clap::Args;
use rustls::pki_types::ServerName;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// TLS of the streaming endpoint.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "TLS of the streaming endpoint")]
pub struct TlsArgs {
    /// Stream over TLS, which an address beyond loopback must: certificate in PEM, with its chain.
    /// Read again when it changes.
    #[arg(long, value_name = "FILE", requires = "streaming_tls_key")]
    pub streaming_tls_cert: Option<PathBuf>,

    /// Key of the certificate in PEM; nobody else on the machine may be able to read it.
    #[arg(long, value_name = "FILE", requires = "streaming_tls_cert")]
    pub streaming_tls_key: Option<PathBuf>,

    /// Let in only clients with a certificate of one of these CAs (PEM).
    #[arg(long, value_name = "FILE", requires = "streaming_tls_cert")]
    pub streaming_client_ca: Option<PathBuf>,

    /// Name or address of this node in streaming URLs; the certificate must be for it. Needed
    /// where the endpoint listens on every address.
    #[arg(long, value_name = "NAME", requires = "streaming_tls_cert")]
    pub streaming_host: Option<Host>,

    /// How often the files of TLS are looked at; SIGHUP looks at once.
    #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = duration(50, 3_600_000))]
    pub streaming_tls_reload_interval: Duration,

    /// How long a client may take for its TLS handshake.
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = duration(50, 300_000))]
    pub streaming_tls_handshake_timeout: Duration,
}

/// The files of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and its chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// CAs of clients, if those need a certificate.
    pub client_ca: Option<PathBuf>,
}

impl TlsArgs {
    /// The files that `address` is served with; none in clear text.
    ///
    /// # Errors
    /// One sentence: the address and the flags do not go together.
    pub fn files(&self, address: &StreamingAddress) -> Result<Option<TlsFiles>, String> {
        let files = match (&self.streaming_tls_cert, &self.streaming_tls_key) {
            (Some(cert), Some(key)) => Some(TlsFiles {
                cert: cert.clone(),
                key: key.clone(),
                client_ca: self.streaming_client_ca.clone(),
            }),
            _ => None,
        };
        match (address, &files) {
            (StreamingAddress::Unix(path), Some(_)) => Err(format!(
                "--streaming-tls-cert does not go with --streaming-address unix:{}: a Unix socket is served without TLS, so leave the one or the other out",
                path.display()
            )),
            (StreamingAddress::Tcp(addr), None) if !addr.ip().is_loopback() => Err(format!(
                "--streaming-address {addr} is not loopback, and nothing is streamed there in clear text: give --streaming-tls-cert and --streaming-tls-key, or an address such as 127.0.0.1:0"
            )),
            (StreamingAddress::Tcp(addr), Some(_))
                if addr.ip().is_unspecified() && self.streaming_host.is_none() =>
            {
                Err(format!(
                    "--streaming-address {addr} is no address that a client could dial: give --streaming-host with the node's name or address in its certificate"
                ))
            }
            _ => Ok(files),
        }
    }

    /// The host in streaming URLs of an endpoint that listens on `bound`.
    #[must_use]
    pub fn host(&self, bound: SocketAddr) -> Host {
        self.streaming_host
            .clone()
            .unwrap_or_else(|| Host(ServerName::IpAddress(bound.ip().into())))
    }
}

/// A name or address that a certificate can be for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(ServerName<'static>);

impl Host {
    /// As certificates are checked for it.
    #[must_use]
    pub fn name(&self) -> &ServerName<'static> {
        &self.0
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
            return Err(format!("{text} is no address that a client could dial"));
        }
        ServerName::try_from(bare.to_owned())
            .map(Self)
            .map_err(|_| format!("{text:?} is neither a DNS name nor an IP address"))
    }
}

/// As it stands in a URL.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ServerName::IpAddress(ip) => match IpAddr::from(*ip) {
                IpAddr::V6(ip) => write!(f, "[{ip}]"),
                IpAddr::V4(ip) => write!(f, "{ip}"),
            },
            name => f.write_str(&name.to_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cli, Command, Config};
    use clap::Parser as _;

    fn serve(words: &str) -> Result<Config, clap::Error> {
        let words = words.split_whitespace();
        let all = ["sternline-shim", "serve", "--streaming-address"];
        let parsed = Cli::try_parse_from(all.into_iter().chain(words))?;
        let Command::Serve(config) = parsed.command else {
            unreachable!("serve was asked for");
        };
        Ok(*config)
    }

    fn files(words: &str) -> Result<Option<TlsFiles>, String> {
        let config = serve(words).expect("well formed");
        config.tls.files(&config.streaming_address)
    }

    const PAIR: &str = "--streaming-tls-cert /c --streaming-tls-key /k";

    #[test]
    fn clear_text_stays_on_loopback() {
        for clear in ["127.0.0.1:0", "[::1]:80", "unix:/run/s.sock"] {
            assert_eq!(files(clear), Ok(None), "{clear}");
        }
        for bad in ["10.0.0.1:80", "0.0.0.0:80", "[::]:80", "[2001:db8::1]:80"] {
            let error = files(bad).expect_err(bad);
            assert!(
                error.contains(bad) && error.contains("--streaming-tls-cert"),
                "{error}"
            );
        }
    }

    #[test]
    fn tls_is_for_addresses_that_can_be_dialled() {
        for good in ["10.0.0.1:80", "127.0.0.1:0", "[2001:db8::1]:0"] {
            let found = files(&format!("{good} {PAIR}")).expect(good).expect("TLS");
            assert_eq!(found.client_ca, None);
        }
        for bad in ["0.0.0.0:80", "[::]:80"] {
            let error = files(&format!("{bad} {PAIR}")).expect_err(bad);
            assert!(error.contains("--streaming-host"), "{error}");
            assert!(files(&format!("{bad} {PAIR} --streaming-host node-1")).is_ok());
        }
        let error = files(&format!("unix:/s {PAIR}")).expect_err("a Unix socket");
        assert!(error.contains("unix:/s"), "{error}");
    }

    #[test]
    fn half_a_pair_is_refused() {
        for bad in [
            "127.0.0.1:0 --streaming-tls-cert /c",
            "127.0.0.1:0 --streaming-tls-key /k",
            "127.0.0.1:0 --streaming-client-ca /ca",
            "127.0.0.1:0 --streaming-host node-1",
        ] {
            assert!(serve(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        let host = |text: &str| text.parse::<Host>().map(|host| host.to_string());
        assert_eq!(host("node-1.example").as_deref(), Ok("node-1.example"));
        assert_eq!(host("10.0.0.1").as_deref(), Ok("10.0.0.1"));
        assert_eq!(host("2001:db8::1").as_deref(), Ok("[2001:db8::1]"));
        assert_eq!(host("[2001:db8::1]").as_deref(), Ok("[2001:db8::1]"));
        for bad in [
            "",
            "a b",
            "a/b",
            "a:80",
            "a@b",
            "0.0.0.0",
            "::",
            "*.a",
            "fe80::1%1",
        ] {
            assert!(host(bad).is_err(), "{bad}");
        }
        let bound = "[2001:db8::2]:443".parse().expect("an address");
        let config = serve(&format!("[2001:db8::2]:443 {PAIR}")).expect("reads");
        assert_eq!(config.tls.host(bound).to_string(), "[2001:db8::2]");
    }
}
