//! Settings of `sternline-shim binder`, and of a serve that uses one.

use super::{LogArgs, SourceArgs, TrustArgs, duration};
use crate::binder::server::{KeepLimits, ServerLimits};
use clap::Args;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use sternline_api::socket;

/// Where the binder listens unless told otherwise. Not beside serve's sockets: in
/// their directory serve may write, in this one it must not.
pub const DEFAULT_BINDER_SOCKET: &str = "/run/sternline-binder/binder.sock";

/// Settings of `sternline-shim binder`.
#[derive(Clone, Debug, Args)]
pub struct BinderConfig {
    /// Unix socket for serve, also as unix:///PATH; made with mode 0600, for the user of --serve-uid.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_BINDER_SOCKET, value_parser = absolute)]
    pub socket: PathBuf,

    /// User that serve runs as: the only one besides the binder's own that is let in.
    #[arg(long, value_name = "UID")]
    pub serve_uid: Option<u32>,

    /// Where sandboxes come from.
    #[command(flatten)]
    pub source: SourceArgs,

    /// Bind only what a gateway of the cluster has granted, whatever serve asks for.
    #[arg(long, requires = "node_name", help_heading = "Cluster")]
    pub require_grants: bool,

    /// Leave the network of the pod for an empty one before anything else is done.
    #[arg(long, help_heading = "Cluster")]
    pub own_network: bool,

    /// What gateways are known by.
    #[command(flatten)]
    pub trust: TrustArgs,

    /// The limits.
    #[command(flatten)]
    pub limits: BinderLimitArgs,

    /// Write the address, as JSON, to this file once the binder listens.
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,

    /// The logs.
    #[command(flatten)]
    pub logs: LogArgs,
}

/// Reads the path of a Unix socket; the binder is root and follows none from where
/// it happens to be started.
fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = socket::path(text)?;
    match path.is_absolute() {
        true => Ok(path),
        false => Err(format!(
            "{text:?} is no absolute path: write /run/x.sock, or unix:///run/x.sock"
        )),
    }
}

/// The binder's limits, each a flag with its default.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct BinderLimitArgs {
    /// Connections of serve at once; during an upgrade there are two.
    #[arg(long, value_name = "N", default_value_t = ServerLimits::default().connections, value_parser = clap::value_parser!(u32).range(1..=64))]
    max_connections: u32,
    /// Requests of a connection that are under way.
    #[arg(long, value_name = "N", default_value_t = ServerLimits::default().requests, value_parser = clap::value_parser!(u32).range(64..=4096))]
    max_requests: u32,
    /// Sandboxes that a connection has watched, one for each session.
    #[arg(long, value_name = "N", default_value_t = ServerLimits::default().watches, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_watches: u32,
    /// Keep the listeners of a serve that is gone for so long, for the next one; 0s keeps none.
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = duration(0, 300_000))]
    restart_grace: Duration,
    /// Sessions whose listeners are kept.
    #[arg(long, value_name = "N", default_value_t = KeepLimits::default().entries, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_kept: u32,
    /// Sockets that are kept; lowered to what the descriptor limit leaves.
    #[arg(long, value_name = "N", default_value_t = KeepLimits::default().descriptors, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_kept_descriptors: u32,
}

impl From<BinderLimitArgs> for ServerLimits {
    fn from(args: BinderLimitArgs) -> Self {
        Self {
            connections: args.max_connections,
            requests: args.max_requests,
            watches: args.max_watches,
            keep: KeepLimits {
                grace: args.restart_grace,
                entries: args.max_kept,
                descriptors: args.max_kept_descriptors,
            },
        }
    }
}

/// Flags of serve that a binder has itself. What needs a binder conflicts with them
/// too: an argument that is required is not missed where it could not be given.
const OF_THE_BINDER: [&str; 3] = ["standalone", "netns_dir", "allow_runtime_handler"];

/// How serve uses a binder process, and what it gives up then.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Binder process")]
pub struct SeparationArgs {
    /// Bind through the binder process at this socket, and run without privileges.
    #[arg(long, value_name = "unix:PATH", conflicts_with_all = OF_THE_BINDER)]
    pub binder: Option<BinderAddress>,

    /// Started as root: become this user before anything else is done. Only with --binder.
    #[arg(long, value_name = "UID:GID", requires = "binder", conflicts_with_all = OF_THE_BINDER)]
    pub run_as: Option<User>,

    /// Serve even if this process could enter network namespaces itself. Only with --binder.
    #[arg(long, requires = "binder", conflicts_with_all = OF_THE_BINDER)]
    pub allow_privileged_serve: bool,

    /// What the process gave up, in words, once it did.
    #[arg(skip)]
    pub in_force: Option<String>,
}

/// `unix:PATH`, absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinderAddress(PathBuf);

impl BinderAddress {
    /// The path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for BinderAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = text.strip_prefix("unix:");
        // Both unix:/path and unix:///path are in use.
        let path = path.map(|path| path.strip_prefix("//").unwrap_or(path));
        match path {
            Some(path) if path.starts_with('/') => Ok(Self(path.into())),
            _ => Err(format!("{text:?} is not unix: and an absolute path")),
        }
    }
}

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// Its only group.
    pub gid: u32,
}

impl FromStr for User {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = |number: &str| number.parse::<u32>().ok().filter(|n| *n != u32::MAX);
        let user = text.split_once(':').and_then(|(uid, gid)| {
            let (uid, gid) = (parse(uid)?, parse(gid)?);
            Some(Self { uid, gid })
        });
        match user {
            Some(user) if user.uid != 0 && user.gid != 0 => Ok(user),
            _ => Err(format!(
                "{text:?} is no ordinary UID:GID: write two numbers above 0, such as 65532:65532"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ordinary_users_are_taken() {
        assert_eq!("7:8".parse(), Ok(User { uid: 7, gid: 8 }));
        for bad in [
            "",
            "0:0",
            "7",
            "7:",
            "0:7",
            "7:0",
            "root:root",
            "-1:7",
            "4294967295:7",
        ] {
            bad.parse::<User>().expect_err(bad);
        }
    }

    #[test]
    fn a_binder_listens_at_an_absolute_path() {
        for good in ["/run/b.sock", "unix:///run/b.sock"] {
            assert_eq!(absolute(good), Ok("/run/b.sock".into()));
        }
        for bad in ["", "b.sock", "./b.sock", "unix:b.sock"] {
            absolute(bad).expect_err(bad);
        }
    }

    #[test]
    fn the_binder_is_named_by_an_absolute_path() {
        for good in ["unix:/run/b.sock", "unix:///run/b.sock"] {
            let address: BinderAddress = good.parse().expect("good");
            assert_eq!(address.path(), Path::new("/run/b.sock"));
        }
        for bad in ["", "/run/b.sock", "unix:b.sock", "tcp:1.2.3.4:5"] {
            bad.parse::<BinderAddress>().expect_err(bad);
        }
    }
}
