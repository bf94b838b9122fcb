//! The command line.

mod access;
mod audit;
mod binder;
mod cluster;
mod ending;
mod logs;
mod source;
mod tls;

pub use access::{AccessArgs, Group};
pub use audit::{AuditArgs, AuditTarget};
pub use binder::{
    BinderAddress, BinderConfig, BinderLimitArgs, DEFAULT_BINDER_SOCKET, SeparationArgs, User,
};
pub use cluster::{ClusterArgs, TrustArgs};
pub use ending::EndingArgs;
pub use logs::{LogArgs, LogFormat};
pub use source::SourceArgs;
pub use tls::{Host, TlsArgs, TlsFiles};

use crate::limits::Limits;
use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use sternline_api::protocol::DEFAULT_SOCKET;
use sternline_api::{socket, span};

/// The node side of Sternline: reverse port-forwarding for Kubernetes pods.
///
/// Answers `ReversePortForward` on a Unix socket: binds in a pod's network
/// namespace and streams the connections it accepts to the client that asked.
#[derive(Debug, Parser)]
#[command(name = "sternline-shim", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the call and the streaming endpoint, binding in this process or through a binder.
    Serve(Box<Config>),
    /// Bind in sandboxes for a serve that has no privileges.
    Binder(Box<BinderConfig>),
}

/// Settings of `sternline-shim serve`.
#[derive(Clone, Debug, Args)]
pub struct Config {
    /// Unix socket of the call, also as unix:///PATH; made with mode 0600, or 0660 with --socket-group.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, value_parser = socket::path)]
    pub socket: PathBuf,

    /// Who may open the sockets.
    #[command(flatten)]
    pub access: AccessArgs,

    /// Where clients stream: an address with a port (0 for a free one), or unix:PATH. Beyond
    /// loopback with TLS only.
    #[arg(
        long,
        value_name = "ADDR:PORT|unix:PATH",
        default_value = "127.0.0.1:0"
    )]
    pub streaming_address: StreamingAddress,

    /// Where sandboxes come from.
    #[command(flatten)]
    pub source: SourceArgs,

    /// The binder process, if there is one.
    #[command(flatten)]
    pub separation: SeparationArgs,

    /// Serve /metrics, /healthz and /readyz here; off unless given.
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics_address: Option<SocketAddr>,

    /// TLS of the streaming endpoint.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// The cluster, if the node is in one.
    #[command(flatten)]
    pub cluster: ClusterArgs,

    /// The limits.
    #[command(flatten)]
    pub limits: LimitArgs,

    /// How it stops.
    #[command(flatten)]
    pub ending: EndingArgs,

    /// The audit log.
    #[command(flatten)]
    pub audit: AuditArgs,

    /// Write the addresses, as JSON, to this file once everything listens.
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,

    /// The logs.
    #[command(flatten)]
    pub logs: LogArgs,
}

/// The limits, each a flag with its default.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Streams open at once in a session.
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections_per_session, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_connections_per_session: u32,
    /// Streams open at once on the node; lowered to what the descriptor limit leaves.
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections_per_node, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections_per_node: u32,
    /// Sessions at once in a sandbox.
    #[arg(long, value_name = "N", default_value_t = Limits::default().sessions_per_sandbox, value_parser = clap::value_parser!(u32).range(1..))]
    max_sessions_per_sandbox: u32,
    /// Sessions at once on the node.
    #[arg(long, value_name = "N", default_value_t = Limits::default().sessions_per_node, value_parser = clap::value_parser!(u32).range(1..))]
    max_sessions_per_node: u32,
    /// Listeners in a session.
    #[arg(long, value_name = "N", default_value_t = Limits::default().listeners_per_session, value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_listeners_per_session: u32,
    /// Tunnels at once in a session.
    #[arg(long, value_name = "N", default_value_t = Limits::default().tunnels_per_session, value_parser = clap::value_parser!(u32).range(1..=64))]
    max_tunnels_per_session: u32,
    /// Tokens that may wait to be redeemed.
    #[arg(long, value_name = "N", default_value_t = Limits::default().tokens, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Bytes that a session may hold in buffers (KiB, MiB and GiB are understood).
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = bytes)]
    buffer_bytes_per_session: u64,
    /// Bytes that all sessions may hold in buffers.
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = bytes)]
    buffer_bytes_per_node: u64,
    /// How long a client may take to reach its target.
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = duration(10, 300_000))]
    dial_timeout: Duration,
    /// How long a token waits to be redeemed.
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = duration(100, 600_000))]
    token_ttl: Duration,
    /// End streams that are silent in both directions for so long; 0s never does.
    #[arg(long, value_name = "SPAN", default_value = "0s", value_parser = duration(0, 604_800_000))]
    idle_timeout: Duration,
    /// Longest hold that a session may ask for.
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = duration(0, 86_400_000))]
    max_hold: Duration,
    /// Time between two PINGs; a peer that misses two is dead.
    #[arg(long, value_name = "SPAN", default_value = "15s", value_parser = duration(50, 300_000))]
    ping_interval: Duration,
}

impl From<&LimitArgs> for Limits {
    fn from(args: &LimitArgs) -> Self {
        Self {
            connections_per_session: args.max_connections_per_session,
            connections_per_node: args.max_connections_per_node,
            sessions_per_sandbox: args.max_sessions_per_sandbox,
            sessions_per_node: args.max_sessions_per_node,
            listeners_per_session: args.max_listeners_per_session,
            tunnels_per_session: args.max_tunnels_per_session,
            tokens: args.max_tokens,
            buffer_bytes_per_session: args.buffer_bytes_per_session,
            buffer_bytes_per_node: args.buffer_bytes_per_node,
            dial_timeout: args.dial_timeout,
            token_ttl: args.token_ttl,
            idle_timeout: args.idle_timeout,
            max_hold: args.max_hold,
            ping_interval: args.ping_interval,
        }
    }
}

/// Where clients stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamingAddress {
    /// HTTP on TCP: in clear text on loopback only, see [`TlsArgs::files`].
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for StreamingAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            // Both unix:/path and unix:///path are in use.
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(format!("{text:?} needs an absolute path after unix:"));
            }
            return Ok(Self::Unix(path.into()));
        }
        let addr: SocketAddr = text
            .parse()
            .map_err(|_| format!("{text:?} is neither ADDR:PORT nor unix:PATH"))?;
        Ok(Self::Tcp(addr))
    }
}

/// Reads a span such as 500ms, 1m30s or 1h, between `min` and `max`
/// milliseconds.
fn duration(min: u64, max: u64) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    let (min, max) = (Duration::from_millis(min), Duration::from_millis(max));
    move |text| {
        let span = span::parse(text)?;
        if !(min..=max).contains(&span) {
            let (min, max) = (span::exact(min), span::exact(max));
            return Err(format!("{text} is not between {min} and {max}"));
        }
        Ok(span)
    }
}

/// Reads a size such as 1048576, 64KiB, 64MiB or 1GiB, up to 1 TiB.
fn bytes(text: &str) -> Result<u64, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(format!("{text:?} is no size: write bytes, KiB, MiB or GiB")),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .filter(|n| *n <= 1 << 40)
        .ok_or_else(|| format!("{text:?} is no size up to 1024GiB"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use proptest::prelude::*;

    fn serve(args: &[&str]) -> Result<Config, clap::Error> {
        match Cli::try_parse_from([&["sternline-shim", "serve"], args].concat())?.command {
            Command::Serve(config) => Ok(*config),
            Command::Binder(_) => unreachable!("serve was asked for"),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_flags_default_to_the_documented_limits() {
        let config = serve(&[]).expect("no flag is needed");
        assert_eq!(Limits::from(&config.limits), Limits::default());
        assert_eq!(
            config.streaming_address,
            StreamingAddress::Tcp("127.0.0.1:0".parse().expect("address"))
        );
    }

    #[test]
    fn a_serve_with_a_binder_takes_no_settings_of_the_binder() {
        let binder = ["--binder", "unix:/run/b.sock"];
        serve(&binder).expect("enough");
        for other in [&["--standalone"][..], &["--allow-runtime-handler", "kata"]] {
            serve(&[&binder[..], other].concat()).expect_err("the binder's");
        }
        let alone: [&[&str]; 3] = [
            &[],
            &["--standalone", "--netns-dir", "/n"],
            &["--allow-runtime-handler", "kata"],
        ];
        for source in alone {
            for flag in [&["--run-as", "7:7"][..], &["--allow-privileged-serve"]] {
                let error = serve(&[source, flag].concat()).expect_err("needs a binder");
                assert_eq!(error.exit_code(), 2, "{source:?} {flag:?}");
            }
        }
    }

    #[test]
    fn an_endpoint_is_an_address_or_a_path() {
        for bad in ["unix:relative", "localhost:80", "127.0.0.1", ""] {
            assert!(serve(&["--streaming-address", bad]).is_err(), "{bad}");
        }
        for good in [
            "[::1]:0",
            "127.0.0.2:80",
            "unix:/run/x.sock",
            "unix:///run/x.sock",
        ] {
            assert!(serve(&["--streaming-address", good]).is_ok(), "{good}");
        }
    }

    #[test]
    fn the_socket_may_be_written_as_runtimes_write_theirs() {
        for form in ["/run/s.sock", "unix:///run/s.sock"] {
            let config = serve(&["--socket", form]).expect(form);
            assert_eq!(config.socket, PathBuf::from("/run/s.sock"));
            let words = ["sternline-shim", "binder", "--socket", form];
            let Command::Binder(config) = Cli::try_parse_from(words).expect(form).command else {
                unreachable!("binder was asked for");
            };
            assert_eq!(config.socket, PathBuf::from("/run/s.sock"));
        }
        let error = serve(&["--socket", "tcp://127.0.0.1:80"]).expect_err("another scheme");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn times_and_sizes_are_bounded() {
        for text in ["90s", "1m30s", "90000ms"] {
            let span = duration(0, 90_000)(text);
            assert_eq!(span, Ok(Duration::from_secs(90)), "{text}");
        }
        let error = duration(10, 300_000)("1h").expect_err("too long");
        assert_eq!(error, "1h is not between 10ms and 5m");
        for bad in ["", "5", "5d", "-1s", "100000000000000000000s", "91s"] {
            assert!(duration(0, 90_000)(bad).is_err(), "{bad}");
        }
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        for bad in ["", "MiB", "1TB", "-1", "99999999999GiB", "2000GiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,30}") {
            let _ = duration(0, 1000)(&text);
            let _ = bytes(&text);
            let _ = text.parse::<StreamingAddress>();
        }
    }
}
