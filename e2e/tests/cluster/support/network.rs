//! The network between the machines: a bridge where the run began, which is also
//! where people sit with their kubectl, and routes to the pods of each node.

use super::machine::Machine;
use crate::shared::system::{program, run};
use anyhow::Result;
use std::net::Ipv4Addr;

/// The workstation.
pub(crate) const WORKSTATION: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);

/// The machine of the control plane.
pub(crate) const CONTROL: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);

/// The nodes.
pub(crate) const NODES: [(&str, Ipv4Addr); 2] = [
    ("one", Ipv4Addr::new(192, 168, 77, 11)),
    ("two", Ipv4Addr::new(192, 168, 77, 12)),
];

/// Of all pods.
pub(crate) const PODS: &str = "10.244.0.0/16";

/// Of all services.
pub(crate) const SERVICES: &str = "10.96.0.0/16";

/// The service of the API server: the first of them.
pub(crate) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// The service of the cluster's DNS.
pub(crate) const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// An address at which nothing ever answers, nor is refused: that of a pod on a node
/// that is dead.
pub(crate) const NOWHERE: Ipv4Addr = Ipv4Addr::new(192, 168, 78, 1);

const BRIDGE: &str = "fabric0";

/// Of the pods of the node with this address.
pub(crate) fn pods_of(node: Ipv4Addr) -> String {
    format!("10.244.{}.0/24", node.octets()[3])
}

/// Makes the bridge, with the workstation on it.
///
/// # Errors
/// `ip` refuses.
pub(crate) fn lay() -> Result<()> {
    ip(&format!("link add {BRIDGE} type bridge"))?;
    ip(&format!("addr add {WORKSTATION}/24 dev {BRIDGE}"))?;
    ip(&format!("link set {BRIDGE} up"))?;
    ip(&format!("route add blackhole {NOWHERE}/32"))?;
    routes("").iter().try_for_each(|route| ip(route))
}

/// Connects a machine with the bridge.
///
/// # Errors
/// `ip` refuses.
pub(crate) fn plug(machine: &Machine) -> Result<()> {
    let (name, pid) = (machine.name(), machine.pid());
    ip(&format!(
        "link add to-{name} type veth peer name eth0 netns {pid}"
    ))?;
    ip(&format!("link set to-{name} master {BRIDGE} up"))?;
    let there = |words: &str| machine.run(&format!("ip {words}")).map(drop);
    there(&format!("addr add {}/24 dev eth0", machine.address()))?;
    there("link set eth0 up")?;
    there(&format!("route add default via {WORKSTATION}"))?;
    let routes = routes(name);
    routes.iter().try_for_each(|route| there(route))
}

/// To the pods of every node but this one.
fn routes(but: &str) -> Vec<String> {
    let others = NODES.iter().filter(|(name, _)| *name != but);
    others
        .map(|(_, address)| format!("route add {} via {address}", pods_of(*address)))
        .collect()
}

fn ip(words: &str) -> Result<()> {
    run(std::process::Command::new(program("ip")?).args(words.split_whitespace()))
}
