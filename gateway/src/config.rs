//! The command line.

mod logs;
mod span;

pub use logs::{LogArgs, LogFormat};

use crate::authority::{AuthorityError, Lifetimes};
use clap::{Args, Parser, Subcommand};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The gateway of Sternline: reverse port-forwarding for Kubernetes pods.
///
/// An aggregated API server for reverse.sternline.dev: decides who may listen in which pod,
/// and leads to its node.
#[derive(Debug, Parser)]
#[command(name = "sternline-gateway", version, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; serve, unless it is said.
    #[command(subcommand)]
    command: Option<Command>,

    /// Settings of serve.
    #[command(flatten)]
    config: Config,
}

impl Cli {
    /// The settings, with or without the word `serve`.
    #[must_use]
    pub fn config(self) -> Config {
        match self.command {
            Some(Command::Serve(config)) => *config,
            None => self.config,
        }
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API.
    Serve(Box<Config>),
}

/// Settings of `sternline-gateway`.
#[derive(Clone, Debug, Args)]
pub struct Config {
    /// Where the API server and nodes connect, in TLS. An unspecified IPv6 address takes IPv4 too.
    #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:10250")]
    pub address: SocketAddr,

    /// Namespace that this runs in, with the shims and the authority.
    #[arg(
        long,
        value_name = "NAME",
        env = "POD_NAMESPACE",
        default_value = "sternline"
    )]
    pub namespace: String,

    /// Name of the Service that leads here; SERVICE.NAMESPACE.svc is in the certificate.
    #[arg(long, value_name = "NAME", default_value = "sternline-gateway")]
    pub service: String,

    /// Name of the Secret and of the ConfigMap of the authority.
    #[arg(long, value_name = "NAME", default_value = "sternline-authority")]
    pub authority: String,

    /// Name of the DaemonSet of shims, and of their service account.
    #[arg(long, value_name = "NAME", default_value = "sternline-shim")]
    pub shims: String,

    /// Port of the shims, at their pods' addresses.
    #[arg(long, value_name = "PORT", default_value_t = 10251, value_parser = clap::value_parser!(u16).range(1..))]
    pub shim_port: u16,

    /// Serve /metrics, /healthz and /readyz here, in clear text; off unless given.
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics_address: Option<SocketAddr>,

    /// A kubeconfig, to run outside a cluster; its user has a token or a client certificate.
    #[arg(long, value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,

    /// How long things are good for.
    #[command(flatten)]
    pub lifetimes: LifetimeArgs,

    /// The limits.
    #[command(flatten)]
    pub limits: LimitArgs,

    /// How long tunnels may go on after SIGTERM or SIGINT; 0s ends them at once. A second signal
    /// does too.
    #[arg(long, value_name = "SPAN", default_value = "30s", value_parser = span::between("0s", "1h"))]
    pub drain_timeout: Duration,

    /// Write the addresses, as JSON, to this file once everything is served.
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,

    /// The logs.
    #[command(flatten)]
    pub logs: LogArgs,
}

/// Lifetimes, each a flag with its default.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Lifetimes")]
pub struct LifetimeArgs {
    /// Of a root of the authority.
    #[arg(long, value_name = "SPAN", default_value = "365d", value_parser = span::between("3s", "3650d"))]
    pub root_lifetime: Duration,
    /// How long a new root is trusted before it signs, and an old one after.
    #[arg(long, value_name = "SPAN", default_value = "30d", value_parser = span::between("1s", "365d"))]
    pub overlap: Duration,
    /// Of the certificates of gateways and nodes; renewed when two thirds are over.
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = span::between("1s", "365d"))]
    pub certificate_lifetime: Duration,
    /// Of a grant; never longer than that of the certificate that it is signed with.
    #[arg(long, value_name = "SPAN", default_value = "12h", value_parser = span::between("1s", "7d"))]
    pub grant_lifetime: Duration,
}

impl LifetimeArgs {
    /// Those of the authority.
    ///
    /// # Errors
    /// They leave no time to rotate.
    pub fn authority(&self) -> Result<Lifetimes, AuthorityError> {
        let lifetimes = Lifetimes {
            root: self.root_lifetime,
            overlap: self.overlap,
            leaf: self.certificate_lifetime,
        };
        lifetimes.validated()
    }
}

/// The limits, each a flag with its default.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Tunnels at once; a session has one.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_sessions: u32,
    /// Tunnels at once of one user.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_sessions_per_user: u32,
    /// Connections at once that carry no tunnel. The one that waits longest and was never the
    /// API server's makes room.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(8..=100_000))]
    pub max_connections: u32,
    /// Longest hold that is granted; shims have a maximum of their own.
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = span::between("0s", "24h"))]
    pub max_hold: Duration,
}

impl Config {
    /// The name in the gateway's certificate, by which the API server calls it.
    #[must_use]
    pub fn server_name(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }

    /// What to listen on where the address cannot be had for want of IPv6.
    #[must_use]
    pub fn fallback(&self) -> Option<SocketAddr> {
        let any: IpAddr = std::net::Ipv6Addr::UNSPECIFIED.into();
        let v4 = std::net::Ipv4Addr::UNSPECIFIED;
        (self.address.ip() == any).then(|| (v4, self.address.port()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(words: &[&str]) -> Result<Config, clap::Error> {
        let words = [&["sternline-gateway"], words].concat();
        Cli::try_parse_from(words).map(Cli::config)
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_word_serve_may_be_left_out() {
        for words in [
            &["--service", "g", "--namespace", "n"][..],
            &["serve", "--service", "g", "--namespace", "n"],
        ] {
            assert_eq!(parse(words).expect("sound").server_name(), "g.n.svc");
        }
    }

    #[test]
    fn the_defaults_are_sound() {
        let config = parse(&[]).expect("no flag is needed");
        let lifetimes = config.lifetimes.authority().expect("sound");
        assert_eq!(lifetimes, Lifetimes::default());
        assert_eq!(config.fallback(), "0.0.0.0:10250".parse().ok());
    }

    #[test]
    fn lifetimes_may_be_seconds_and_must_fit() {
        let words = ["--root-lifetime", "30s", "--overlap", "10s"];
        let short = [&words[..], &["--certificate-lifetime", "5s"]].concat();
        let short = parse(&short).expect("sound").lifetimes;
        short.authority().expect("they fit");
        let long = parse(&words).expect("read").lifetimes;
        long.authority().expect_err("a day is longer");
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        for words in [
            ["--max-sessions", "0"],
            ["--shim-port", "0"],
            ["--drain-timeout", "2h"],
            ["--grant-lifetime", "8d"],
            ["--address", "localhost:80"],
        ] {
            assert_eq!(parse(&words).expect_err("refused").exit_code(), 2);
        }
    }
}
