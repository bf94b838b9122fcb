//! Which listener leads where. The user's SPECs decide it, and nothing that a
//! server says can add to it.

use crate::fault::Fault;
use crate::report::Forwarding;
use crate::spec::{Spec, Target};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use sternline_api::listen::{Bind, Listen};
use sternline_api::v1alpha1 as pb;

/// Where the connections of one listener lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The listener's id, its position on the command line.
    pub(super) listener_id: u32,
    /// The port that it has in the sandbox.
    pub(super) port: u16,
    /// What is dialled.
    pub(super) target: Target,
}

/// Every listener of a session: what was asked for and what is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    routes: Vec<Route>,
    bound: Vec<(u32, SocketAddr)>,
}

impl Mapping {
    /// Joins what was asked for with what a server says is bound.
    ///
    /// # Errors
    /// The server says anything that was not asked for, says something twice,
    /// or leaves something out.
    pub(super) fn check(specs: &[Spec], bound: &[pb::Bound]) -> Result<Self, Fault> {
        let mut addresses = Vec::new();
        let mut seen = HashSet::new();
        for one in bound {
            let Some(address) = one.to_addr() else {
                return Err(Fault::protocol(format!(
                    "the server says that it listens on {:?} port {}, which is no address: the forward is given up",
                    one.address, one.port
                )));
            };
            let asked = specs.iter().find(|s| s.listen.id == one.listener_id);
            if !asked.is_some_and(|spec| fits(spec, address)) || !seen.insert(address) {
                return Err(Fault::protocol(format!(
                    "the server says that it listens on {address} as listener {}, which you did not ask for: the forward is given up",
                    one.listener_id
                )));
            }
            addresses.push((one.listener_id, address));
        }
        let routes = specs.iter().map(|spec| route(spec, &addresses));
        Ok(Self {
            routes: routes.collect::<Result<_, _>>()?,
            bound: addresses,
        })
    }

    /// Where the connections of a listener lead; `None` if it is none of ours.
    pub(super) fn route(&self, listener_id: Option<u32>) -> Option<&Route> {
        let id = listener_id?;
        self.routes.iter().find(|route| route.listener_id == id)
    }

    /// What was asked for, with the ports that were taken.
    pub(super) fn listens(&self, specs: &[Spec]) -> Vec<Listen> {
        let one = |spec: &Spec| {
            let port = self.route(Some(spec.listen.id))?.port;
            Some(Listen {
                port,
                ..spec.listen
            })
        };
        specs.iter().filter_map(one).collect()
    }

    /// How many listeners there are.
    pub(super) fn len(&self) -> usize {
        self.routes.len()
    }

    /// Every bound address and where it leads, for the user.
    pub(super) fn forwarding(&self) -> Vec<Forwarding> {
        let one = |(id, address): &(u32, SocketAddr)| {
            let target = self.route(Some(*id))?.target.to_string();
            Some(Forwarding {
                listener_id: *id,
                bound: (*address).into(),
                target,
            })
        };
        self.bound.iter().filter_map(one).collect()
    }
}

/// Whether an address is one that this SPEC asks for.
fn fits(spec: &Spec, address: SocketAddr) -> bool {
    let ip = address.ip();
    let bind = match spec.listen.bind {
        Bind::Loopback => {
            ip == IpAddr::from(Ipv4Addr::LOCALHOST) || ip == IpAddr::from(Ipv6Addr::LOCALHOST)
        }
        Bind::Ip(asked) => ip == asked,
    };
    bind && (spec.listen.port == 0 || spec.listen.port == address.port())
}

fn route(spec: &Spec, bound: &[(u32, SocketAddr)]) -> Result<Route, Fault> {
    let mut ports = bound
        .iter()
        .filter(|(id, _)| *id == spec.listen.id)
        .map(|(_, address)| address.port());
    let Some(port) = ports.next() else {
        return Err(Fault::protocol(format!(
            "the server does not say that it listens on {}, which you asked for: the forward is given up",
            spec.listen
        )));
    };
    if ports.any(|other| other != port) {
        return Err(Fault::protocol(format!(
            "the server took several ports for {}, where one was asked for: the forward is given up",
            spec.listen
        )));
    }
    Ok(Route {
        listener_id: spec.listen.id,
        port,
        target: spec.target.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse_all;

    fn check(specs: &[&str], bound: &[(u32, &str, u32)]) -> Result<Mapping, Fault> {
        let specs = parse_all(specs).expect("specs");
        let bound: Vec<pb::Bound> = bound
            .iter()
            .map(|(listener_id, address, port)| pb::Bound {
                listener_id: *listener_id,
                address: (*address).into(),
                port: *port,
            })
            .collect();
        Mapping::check(&specs, &bound)
    }

    #[test]
    fn what_was_asked_for_is_taken() {
        let mapping = check(
            &["8080:3000", "0:4000", "10.0.0.1:80:5000"],
            &[
                (0, "127.0.0.1", 8080),
                (0, "::1", 8080),
                (1, "127.0.0.1", 40001),
                (2, "10.0.0.1", 80),
            ],
        )
        .expect("fits");
        assert_eq!(mapping.len(), 3);
        assert_eq!(mapping.forwarding().len(), 4);
        let specs = parse_all(&["8080:3000", "0:4000", "10.0.0.1:80:5000"]).expect("specs");
        let listens = mapping.listens(&specs);
        let ports: Vec<_> = listens.iter().map(|listen| listen.port).collect();
        assert_eq!(ports, [8080, 40001, 80]);
        let route = mapping.route(Some(1)).expect("there");
        assert_eq!(
            (route.port, route.target.to_string()),
            (40001, "localhost:4000".into())
        );
        assert_eq!(mapping.route(Some(3)), None);
        assert_eq!(mapping.route(None), None);
    }

    #[test]
    fn anything_else_is_refused() {
        for (specs, bound, what) in [
            (&["80"][..], &[(1, "127.0.0.1", 80)][..], "did not ask"),
            (&["80"], &[(0, "127.0.0.1", 81)], "did not ask"),
            (&["80"], &[(0, "0.0.0.0", 80)], "did not ask"),
            (&["80"], &[(0, "127.0.0.2", 80)], "did not ask"),
            (&["127.0.0.1:80"], &[(0, "::1", 80)], "did not ask"),
            (
                &["80"],
                &[(0, "127.0.0.1", 80), (0, "127.0.0.1", 80)],
                "did not ask",
            ),
            (&["80"], &[], "does not say"),
            (&["80", "81"], &[(0, "127.0.0.1", 80)], "does not say"),
            (
                &["0:1"],
                &[(0, "127.0.0.1", 4000), (0, "::1", 4001)],
                "several ports",
            ),
            (&["80"], &[(0, "localhost", 80)], "no address"),
            (&["0:1"], &[(0, "127.0.0.1", 0)], "no address"),
            (&["0:1"], &[(0, "127.0.0.1", 65_616)], "no address"),
        ] {
            let fault = check(specs, bound).expect_err(what);
            assert!(fault.message.contains(what), "{specs:?}: {fault}");
            assert_eq!(fault.label(), "protocol_error");
        }
    }
}
