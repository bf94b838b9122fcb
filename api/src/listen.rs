//! What a client may ask to listen on, validated once at the boundary.

use crate::{Failure, Reason, v1alpha1 as pb};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The addresses that one listener binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bind {
    /// `127.0.0.1` and, where the sandbox has it, `::1`.
    Loopback,
    /// Exactly this address.
    Ip(IpAddr),
}

impl Bind {
    /// Reads an address as the call carries it: empty for loopback, else an IP
    /// address without brackets, port or zone.
    ///
    /// # Errors
    /// Anything else, and IPv4-mapped IPv6 addresses, which would bind an IPv4
    /// address in disguise.
    pub fn parse(address: &str) -> Result<Self, Failure> {
        if address.is_empty() {
            return Ok(Self::Loopback);
        }
        let ip: IpAddr = address.parse().map_err(|_| {
            invalid(format!(
                "address {address:?} is not an IP address: give one such as 127.0.0.1 or ::1, or leave it empty for loopback"
            ))
        })?;
        if let IpAddr::V6(v6) = ip
            && v6.to_ipv4_mapped().is_some()
        {
            return Err(invalid(format!(
                "address {address} is an IPv4 address mapped into IPv6: give the IPv4 address itself"
            )));
        }
        Ok(Self::Ip(ip))
    }

    /// The addresses to bind, IPv4 first.
    #[must_use]
    pub fn addresses(self) -> Vec<IpAddr> {
        match self {
            Self::Loopback => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Self::Ip(ip) => vec![ip],
        }
    }

    /// Whether others than the pod itself could reach it: everything outside
    /// `127.0.0.0/8` and `::1`.
    #[must_use]
    pub fn is_wide(self) -> bool {
        self.addresses().iter().any(|ip| !ip.is_loopback())
    }

    fn overlaps(self, other: Self) -> bool {
        self.addresses().iter().any(|a| {
            other.addresses().iter().any(|b| {
                a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
            })
        })
    }
}

impl std::fmt::Display for Bind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Loopback => f.write_str("localhost"),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(ip) => write!(f, "{ip}"),
        }
    }
}

/// One listener as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Names the listener on the wire, unique in its session.
    pub id: u32,
    /// Where.
    pub bind: Bind,
    /// 1-65535, or 0 for a free one, the same in every address family.
    pub port: u16,
}

impl Listen {
    /// Reads one listener of the call.
    ///
    /// # Errors
    /// A protocol other than TCP, a port above 65535, a bad address.
    pub fn from_proto(id: u32, listener: &pb::Listener) -> Result<Self, Failure> {
        match pb::Protocol::try_from(listener.protocol) {
            Ok(pb::Protocol::Unspecified | pb::Protocol::Tcp) => {}
            Err(_) => {
                return Err(invalid(format!(
                    "listener {id}: protocol {} is not supported: use TCP",
                    listener.protocol
                )));
            }
        }
        let port = u16::try_from(listener.port).map_err(|_| {
            invalid(format!(
                "listener {id}: port {} is out of range: use 1-65535, or 0 for a free port",
                listener.port
            ))
        })?;
        let bind = Bind::parse(&listener.address)?;
        Ok(Self { id, bind, port })
    }

    /// The listener as the call carries it.
    #[must_use]
    pub fn to_proto(self) -> pb::Listener {
        pb::Listener {
            protocol: pb::Protocol::Tcp.into(),
            address: match self.bind {
                Bind::Loopback => String::new(),
                Bind::Ip(ip) => ip.to_string(),
            },
            port: self.port.into(),
        }
    }

    /// Reads all listeners of a call; their ids are their positions.
    ///
    /// # Errors
    /// None at all, a bad one, or two that would take the same address.
    pub fn all_from_proto(listeners: &[pb::Listener]) -> Result<Vec<Self>, Failure> {
        let listeners = (0..).zip(listeners);
        Self::all(listeners.map(|(id, listener)| Self::from_proto(id, listener)))
    }

    /// Collects what somebody asks to listen on at once.
    ///
    /// # Errors
    /// None at all, a bad one, or two that would take the same address.
    pub fn all(
        listeners: impl IntoIterator<Item = Result<Self, Failure>>,
    ) -> Result<Vec<Self>, Failure> {
        let mut all: Vec<Self> = Vec::new();
        for listen in listeners {
            let listen = listen?;
            if let Some(twin) = all.iter().find(|other| other.collides(listen)) {
                return Err(invalid(format!(
                    "listeners {} and {} both ask for {listen}: name each port once",
                    twin.id, listen.id
                )));
            }
            all.push(listen);
        }
        if all.is_empty() {
            return Err(invalid(
                "the request has no listeners: name at least one port to listen on".to_owned(),
            ));
        }
        Ok(all)
    }

    /// Whether both cannot be bound at once. Free ports never collide.
    #[must_use]
    pub fn collides(self, other: Self) -> bool {
        self.port != 0 && self.port == other.port && self.bind.overlaps(other.bind)
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.bind, self.port)
    }
}

impl pb::Bound {
    /// One bound address as the call answers it.
    #[must_use]
    pub fn from_addr(listener_id: u32, addr: SocketAddr) -> Self {
        Self {
            listener_id,
            address: addr.ip().to_string(),
            port: u32::from(addr.port()),
        }
    }

    /// The address, if it is one: an IP address and a port other than 0.
    #[must_use]
    pub fn to_addr(&self) -> Option<SocketAddr> {
        let port = u16::try_from(self.port).ok().filter(|port| *port != 0)?;
        Some(SocketAddr::new(self.address.parse().ok()?, port))
    }
}

fn invalid(message: String) -> Failure {
    Failure::new(Reason::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tcp(address: &str, port: u32) -> pb::Listener {
        pb::Listener {
            protocol: pb::Protocol::Tcp.into(),
            address: address.into(),
            port,
        }
    }

    fn refused(listeners: &[pb::Listener]) -> String {
        let failure = Listen::all_from_proto(listeners).expect_err("refused");
        assert_eq!(failure.reason, Reason::InvalidRequest);
        failure.message
    }

    #[test]
    fn loopback_is_what_stays_inside_the_pod() {
        for narrow in ["", "127.0.0.1", "127.8.9.10", "::1"] {
            assert!(!Bind::parse(narrow).expect(narrow).is_wide(), "{narrow}");
        }
        for wide in ["0.0.0.0", "::", "10.1.2.3", "fe80::1", "128.0.0.1"] {
            assert!(Bind::parse(wide).expect(wide).is_wide(), "{wide}");
        }
    }

    #[test]
    fn bad_listeners_are_refused_with_what_is_wrong() {
        assert!(refused(&[]).contains("no listeners"));
        assert!(refused(&[tcp("", 65536)]).contains("65536"));
        assert!(refused(&[tcp("localhost", 80)]).contains("localhost"));
        assert!(refused(&[tcp("[::1]", 80)]).contains("[::1]"));
        assert!(refused(&[tcp("::ffff:127.0.0.1", 80)]).contains("mapped"));
        assert!(refused(&[tcp("fe80::1%eth0", 80)]).contains("eth0"));
        let udp = pb::Listener {
            protocol: 9,
            ..tcp("", 80)
        };
        assert!(refused(&[udp]).contains("protocol"));
    }

    #[test]
    fn two_that_would_take_the_same_address_are_refused() {
        for (a, b) in [
            ("", ""),
            ("", "127.0.0.1"),
            ("::1", ""),
            ("0.0.0.0", "127.0.0.1"),
            ("::", "::1"),
            ("10.0.0.1", "10.0.0.1"),
        ] {
            assert!(
                refused(&[tcp(a, 80), tcp(b, 80)]).contains("0 and 1"),
                "{a} {b}"
            );
        }
        for (a, b) in [
            ("127.0.0.1", "::1"),
            ("0.0.0.0", "::"),
            ("127.0.0.1", "127.0.0.2"),
        ] {
            assert!(
                Listen::all_from_proto(&[tcp(a, 80), tcp(b, 80)]).is_ok(),
                "{a} {b}"
            );
        }
        assert!(Listen::all_from_proto(&[tcp("", 0), tcp("", 0)]).is_ok());
    }

    #[test]
    fn what_is_asked_for_is_read_as_it_was_meant() {
        for (text, port) in [("", 9003), ("", 0), ("127.0.0.2", 1), ("::", 65535)] {
            let listen = Listen {
                id: 3,
                bind: Bind::parse(text).expect("one"),
                port,
            };
            let read = Listen::from_proto(3, &listen.to_proto());
            assert_eq!(read.expect("sound"), listen);
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(address in ".{0,40}", port in any::<u32>(), protocol in any::<i32>()) {
            let listener = pb::Listener { protocol, address, port };
            let _ = Listen::all_from_proto(&[listener.clone(), listener]);
        }

        #[test]
        fn bound_addresses_survive_the_way_there_and_back(ip: IpAddr, port in 1_u16.., id: u32) {
            let addr = SocketAddr::new(ip, port);
            prop_assert_eq!(pb::Bound::from_addr(id, addr).to_addr(), Some(addr));
        }
    }
}
