//! The stage: three network namespaces and what joins them.
//!
//! `node` and `work` are joined by a link, `pod` stands alone: whatever is in it
//! can leave only through Sternline.

use crate::enclosure::STATE;
use crate::process::{Process, run};
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The link's network.
const NETWORK: &str = "10.77.0.0/24";

/// Address of the node on the link.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Address of the workstation on the link.
pub(crate) const WORK: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// A loopback address of the node that is routed over the link, so that the
/// plain form of the streaming endpoint, which is for loopback only, can be
/// measured over the same TCP as everything else.
pub(crate) const ROUTED_LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);

/// Port of the target at the workstation.
pub(crate) const TARGET: u16 = 7000;

/// Bound on the start of a helper.
const START: Duration = Duration::from_secs(10);

/// A network namespace of the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Where shims and servers run.
    Node,
    /// The sandbox.
    Pod,
    /// The workstation.
    Work,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Pod => "pod",
            Self::Work => "work",
        }
    }

    /// The namespace's file.
    pub(crate) fn path(self) -> PathBuf {
        Path::new("/run/netns").join(self.name())
    }
}

/// What joins node and workstation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Link {
    /// A pair of virtual devices.
    Near,
    /// A wire with this round trip in milliseconds and this part of lost packets.
    Far {
        /// Round trip, in milliseconds.
        round_trip: u64,
        /// Part of the packets.
        loss: f64,
    },
}

impl Link {
    /// 40 ms there and back, with this part of lost packets.
    pub(crate) fn long(loss: f64) -> Self {
        Self::Far {
            round_trip: 40,
            loss,
        }
    }
}

/// The stage.
#[derive(Debug)]
pub(crate) struct Stage {
    own: PathBuf,
    bin_dir: PathBuf,
    seed: u64,
    /// The long wire, while it is the link.
    wire: Option<Process>,
}

impl Stage {
    /// Sets the namespaces up, joined by nothing yet. Programs of Sternline are
    /// taken from `bin_dir`.
    ///
    /// # Errors
    /// `ip` is missing or refuses.
    pub(crate) fn new(bin_dir: PathBuf, seed: u64) -> Result<Self> {
        let stage = Self {
            own: std::env::current_exe()?,
            bin_dir,
            seed,
            wire: None,
        };
        for place in [Place::Node, Place::Pod, Place::Work] {
            run(Command::new("ip").args(["netns", "add", place.name()]))?;
            stage.ip(place, "link set lo up")?;
            // Tens of thousands of connections a second from one address.
            stage.sysctl(place, "net/ipv4/ip_local_port_range", "1024 65535")?;
            stage.sysctl(place, "net/ipv4/ip_local_reserved_ports", "7000-7999")?;
            stage.sysctl(place, "net/ipv4/tcp_tw_reuse", "1")?;
            stage.sysctl(place, "net/core/somaxconn", "4096")?;
            stage.sysctl(place, "net/ipv4/tcp_max_syn_backlog", "4096")?;
        }
        // All but one address of 127/8 stays where it is.
        stage.ip(
            Place::Work,
            "route del local 127.0.0.0/8 dev lo table local",
        )?;
        stage.ip(
            Place::Work,
            "route add local 127.0.0.0/16 dev lo table local",
        )?;
        Ok(stage)
    }

    /// Joins node and workstation anew.
    ///
    /// # Errors
    /// The kernel has no such devices.
    pub(crate) fn link(&mut self, link: Link) -> Result<()> {
        if self.wire.take().is_none() {
            // None at the beginning.
            let _ = self.ip(Place::Node, "link del wire");
        }
        match link {
            Link::Near => self.veth()?,
            Link::Far { round_trip, loss } => self.long_wire(round_trip, loss)?,
        }
        for place in [Place::Node, Place::Work] {
            for device in ["all", "wire"] {
                let key = format!("net/ipv4/conf/{device}/route_localnet");
                self.sysctl(place, &key, "1")?;
            }
        }
        Ok(())
    }

    fn veth(&self) -> Result<()> {
        let (node, work) = (Place::Node.name(), Place::Work.name());
        let line = format!("link add wire netns {node} type veth peer name wire netns {work}");
        run(Command::new("ip").args(line.split(' ')))?;
        for (place, address) in [(Place::Node, NODE), (Place::Work, WORK)] {
            self.ip(place, &format!("addr add {address}/24 dev wire"))?;
            self.ip(place, "link set wire up")?;
        }
        Ok(())
    }

    fn long_wire(&mut self, round_trip: u64, loss: f64) -> Result<()> {
        let mut command = Command::new(&self.own);
        command
            .arg("wire")
            .arg("--near")
            .arg(Place::Node.path())
            .arg("--far")
            .arg(Place::Work.path())
            .args(["--near-address", &NODE.to_string()])
            .args(["--far-address", &WORK.to_string()])
            .args(["--delay", &(round_trip / 2).to_string()])
            .args(["--loss", &loss.to_string()])
            .args(["--seed", &self.seed.to_string()]);
        let mut wire = Process::start("wire", command, Path::new(STATE))?;
        wire.until("its devices", START, |wire| {
            wire.stdout().starts_with("ready").then_some(())
        })?;
        for place in [Place::Node, Place::Work] {
            // Room for what TCP sends before the wire's process runs again.
            self.ip(place, "link set wire txqueuelen 10000")?;
        }
        self.wire = Some(wire);
        Ok(())
    }

    /// Chooses the congestion control of both ends, for sockets that choose none
    /// themselves; for all where it is `forced`. By route: a namespace's own
    /// default can only be one that the machine allows everybody.
    ///
    /// # Errors
    /// The kernel does not have it.
    pub(crate) fn congestion(&self, algorithm: &str, forced: bool) -> Result<()> {
        let lock = if forced { "lock " } else { "" };
        let what = || format!("the kernel has no congestion control {algorithm}");
        for (place, own) in [(Place::Node, NODE), (Place::Work, WORK)] {
            let line = format!(
                "route replace {NETWORK} dev wire proto kernel scope link src {own} congctl {lock}{algorithm}"
            );
            self.ip(place, &line).with_context(what)?;
        }
        let line = format!(
            "route replace {ROUTED_LOOPBACK}/32 via {NODE} dev wire src {WORK} congctl {lock}{algorithm}"
        );
        self.ip(Place::Work, &line).with_context(what)
    }

    /// The processes that are part of the stage itself.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.wire.iter().map(Process::pid).collect()
    }

    /// A program that will run in a place.
    pub(crate) fn command(&self, place: Place, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(&self.own);
        command.arg("inside").arg("--netns").arg(place.path());
        command.arg("--").arg(program);
        command
    }

    /// This program, in a place.
    pub(crate) fn own(&self, place: Place, role: &str) -> Command {
        let mut command = self.command(place, &self.own);
        command.arg(role);
        command
    }

    /// A program of Sternline.
    pub(crate) fn sternline(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    fn ip(&self, place: Place, line: &str) -> Result<()> {
        run(Command::new("ip")
            .args(["-n", place.name()])
            .args(line.split(' ')))
        .map(drop)
    }

    fn sysctl(&self, place: Place, key: &str, value: &str) -> Result<()> {
        let script = format!("echo '{value}' > /proc/sys/{key}");
        run(self.command(place, "/bin/sh").args(["-c", &script])).map(drop)
    }
}

/// The target as the node sees it.
pub(crate) fn target_over_link() -> SocketAddr {
    (WORK, TARGET).into()
}

/// The target as the workstation's programs see it.
pub(crate) fn target_at_work() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, TARGET).into()
}
