//! Settings of a node in a cluster.

use clap::Args;
use http::Uri;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Longest name of a node, in bytes: it becomes a part of a host name (RFC 1123,
/// section 2.1).
const MAX_NODE: usize = 220;

/// Where the bundle of the cluster's authority is unless told otherwise.
const BUNDLE: &str = "/etc/sternline/authority/ca.crt";

/// How serve is reached by gateways.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Let gateways in here, over TLS with client certificates; off unless given.
    #[arg(long, value_name = "ADDR:PORT", requires_all = ["gateway", "gateway_token", "node_name"])]
    pub cluster_address: Option<SocketAddr>,

    /// Where certificates for this node are asked for: https://HOST:PORT, or https://HOST for port 443.
    #[arg(long, value_name = "URL", requires = "cluster_address", value_parser = gateway)]
    pub gateway: Option<Uri>,

    /// File with the token of the service account that this node shows to a gateway.
    #[arg(long, value_name = "FILE", requires = "cluster_address")]
    pub gateway_token: Option<PathBuf>,

    /// What gateways are known by.
    #[command(flatten)]
    pub trust: TrustArgs,
}

/// What gateways are known by.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub struct TrustArgs {
    /// Certificates of the cluster's authority in PEM, which gateways write; read again when they change.
    #[arg(long, value_name = "FILE", default_value = BUNDLE)]
    pub authority_bundle: PathBuf,

    /// Name of this node in the cluster.
    #[arg(long, value_name = "NAME", env = "NODE_NAME", value_parser = node_name)]
    pub node_name: Option<String>,
}

fn gateway(text: &str) -> Result<Uri, String> {
    let wrong = || format!("{text:?} is no https://HOST[:PORT]");
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let bare = uri.path() == "/" && uri.query().is_none() && !text.contains('@');
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) if bare && !host.is_empty() => Ok(uri),
        _ => Err(wrong()),
    }
}

fn node_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        let ends = [label.bytes().next(), label.bytes().last()];
        ends.iter().all(|end| end.is_some_and(plain))
            && label.len() <= 63
            && label.bytes().all(|byte| plain(byte) || byte == b'-')
    };
    if text.len() <= MAX_NODE && text.split('.').all(label) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is no name of a node"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_a_host_over_https() {
        for good in [
            "https://sternline-gateway.sternline.svc",
            "https://[::1]:10250",
            "https://a:1/",
        ] {
            gateway(good).expect(good);
        }
        for bad in [
            "",
            "a",
            "http://a",
            "https://",
            "https://a/b",
            "https://a?b",
            "//a",
            "https://a@b",
        ] {
            gateway(bad).expect_err(bad);
        }
    }

    #[test]
    fn a_node_is_a_name_that_hosts_have() {
        for good in ["a", "worker-1", "ip-10-0-0-1.ec2.internal"] {
            node_name(good).expect(good);
        }
        let long = "a".repeat(64);
        for bad in [
            "",
            "A",
            "a_b",
            "-a",
            "a-",
            "a..b",
            ".a",
            "a.",
            "a/b",
            "a b",
            long.as_str(),
        ] {
            node_name(bad).expect_err(bad);
        }
    }
}
