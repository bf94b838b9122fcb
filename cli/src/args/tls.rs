//! Flags of TLS to the streaming endpoint.

use clap::Args;
use std::path::PathBuf;

/// Whom to trust, and who we are, where the streaming endpoint is an https URL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "TLS to the streaming endpoint")]
pub struct TlsArgs {
    /// CAs (PEM) that may vouch for the node, in place of those of this system.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Certificate (PEM, with its chain) to show to a node that asks for one.
    #[arg(long, value_name = "FILE", requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// Key (PEM) of --client-cert.
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
    /// Name that the node's certificate must be for, in place of the URL's host.
    #[arg(long, value_name = "NAME")]
    pub tls_server_name: Option<String>,
}
