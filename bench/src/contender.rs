//! What is compared: each contender leads connections at the node, or in the pod,
//! to the target at the workstation.

mod certificate;
mod peers;
mod ssh;
mod sternline;

pub(crate) use certificate::Certificate;
pub(crate) use sternline::{forward, shim, socket};

use crate::enclosure::STATE;
use crate::process::{Process, find};
use crate::stage::{NODE, Place, Stage, WORK, target_at_work, target_over_link};
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Bound on the start of a contender.
const START: Duration = Duration::from_secs(20);

/// A contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// The target itself, over the link.
    Raw,
    /// Two hops of TLS, a connection each.
    Relay,
    /// `ssh -R` with aes128-gcm.
    Ssh,
    /// Sternline in the raw Upgrade form.
    Sternline,
    /// Sternline in the WebSocket form.
    SternlineWebsocket,
    /// rathole over TLS.
    Rathole,
    /// frp over TLS.
    Frp,
    /// chisel: SSH inside HTTP.
    Chisel,
    /// ktunnel over TLS.
    Ktunnel,
}

impl Kind {
    /// Every contender, in the order of the tables.
    pub(crate) const ALL: [Self; 9] = [
        Self::Raw,
        Self::Relay,
        Self::Ssh,
        Self::Rathole,
        Self::Frp,
        Self::Chisel,
        Self::Ktunnel,
        Self::Sternline,
        Self::SternlineWebsocket,
    ];

    /// The peers that take part when their program is installed.
    pub(crate) const OPTIONAL: [Self; 4] = [Self::Rathole, Self::Frp, Self::Chisel, Self::Ktunnel];

    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw TCP",
            Self::Relay => "TLS relay",
            Self::Ssh => "ssh -R",
            Self::Sternline => "sternline",
            Self::SternlineWebsocket => "sternline ws",
            Self::Rathole => "rathole",
            Self::Frp => "frp",
            Self::Chisel => "chisel",
            Self::Ktunnel => "ktunnel",
        }
    }

    /// Why it cannot take part on this machine.
    pub(crate) fn missing(self, stage: &Stage) -> Option<String> {
        let programs: &[&str] = match self {
            Self::Raw | Self::Relay => &[],
            Self::Ssh => &["ssh", "sshd", "ssh-keygen"],
            Self::Rathole => &["rathole", "openssl"],
            Self::Frp => &["frps", "frpc"],
            Self::Chisel => &["chisel"],
            Self::Ktunnel => &["ktunnel"],
            Self::Sternline => return None,
            Self::SternlineWebsocket => return sternline::no_websocket(stage),
        };
        let missing = programs.iter().find(|program| find(program).is_none())?;
        Some(format!("{missing} is not on the PATH"))
    }
}

/// How a contender is to be started.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// Connections that it must be able to hold; 0 leaves its own limits.
    pub(crate) connections: u32,
    /// Tells instances of Sternline that run at the same time from each other.
    pub(crate) instance: u16,
    /// Certificate of those that take one.
    pub(crate) certificate: Certificate,
    /// Whether Sternline streams in plain although it could in TLS.
    pub(crate) plain: bool,
}

/// A contender that carries connections.
#[derive(Debug)]
pub(crate) struct Running {
    /// Where to connect.
    pub(crate) connect: SocketAddr,
    /// Where the generator runs.
    pub(crate) from: Place,
    /// Its processes on the node's side.
    pub(crate) node: Vec<Process>,
    /// Its processes on the workstation's side.
    pub(crate) client: Vec<Process>,
    /// What its bytes look like between node and workstation.
    pub(crate) form: String,
}

impl Running {
    /// Process ids of a side.
    pub(crate) fn pids(side: &[Process]) -> Vec<u32> {
        side.iter().map(Process::pid).collect()
    }

    fn on_node(port: u16, form: &str, node: Vec<Process>, client: Vec<Process>) -> Self {
        Self {
            connect: (Ipv4Addr::LOCALHOST, port).into(),
            from: Place::Node,
            node,
            client,
            form: form.to_owned(),
        }
    }
}

/// Starts a contender. That it carries connections is for the caller to check.
///
/// # Errors
/// One of its programs fails.
pub(crate) fn start(kind: Kind, stage: &Stage, setting: &Setting) -> Result<Running> {
    let running = match kind {
        Kind::Raw => Ok(Running {
            connect: target_over_link(),
            from: Place::Node,
            node: Vec::new(),
            client: Vec::new(),
            form: "plain".to_owned(),
        }),
        Kind::Relay => relay(stage, &setting.certificate),
        Kind::Ssh => ssh::start(stage),
        Kind::Sternline => sternline::start(stage, setting, false),
        Kind::SternlineWebsocket => sternline::start(stage, setting, true),
        Kind::Rathole => peers::rathole(stage, &setting.certificate),
        Kind::Frp => peers::frp(stage),
        Kind::Chisel => peers::chisel(stage),
        Kind::Ktunnel => peers::ktunnel(stage, &setting.certificate),
    };
    running.with_context(|| format!("{} does not start", kind.name()))
}

fn launch(name: &str, command: Command) -> Result<Process> {
    Process::start(name, command, Path::new(STATE))
}

fn relay(stage: &Stage, certificate: &Certificate) -> Result<Running> {
    let (port, between) = (7101, SocketAddr::from((WORK, 7102)));
    let hop = |place, hop: &str, listen: SocketAddr, to: SocketAddr| {
        let mut command = stage.own(place, "relay");
        command
            .args(["--hop", hop])
            .args(["--listen", &listen.to_string()])
            .args(["--to", &to.to_string()])
            .arg("--certificate")
            .arg(&certificate.certificate)
            .arg("--key")
            .arg(&certificate.key);
        launch(&format!("relay-{hop}"), command)
    };
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let node = hop(Place::Node, "node", listen, between)?;
    let client = hop(Place::Work, "work", between, target_at_work())?;
    Ok(Running::on_node(port, "TLS 1.3", vec![node], vec![client]))
}

/// The node's end of the link, with a port.
fn node_at(port: u16) -> SocketAddr {
    (NODE, port).into()
}
