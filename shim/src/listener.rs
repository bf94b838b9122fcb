//! Sockets that listen, made in whatever network namespace the calling thread
//! is in: everything that was asked for, or nothing.

use crate::{
    binder::BoundSocket,
    netns::{holder::Holder, out_of_descriptors},
};
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
};
use sternline_api::{
    Failure, Reason,
    listen::{Bind, Listen},
};

/// How often a free port is drawn until every address of a listener has it. One
/// failure means that the port is taken in the other address family only.
const FREE_PORT_ATTEMPTS: u32 = 32;

/// What the sentence of an address that is taken begins with, whoever has it.
pub(crate) fn taken(addr: SocketAddr) -> String {
    format!("{addr} is already in use")
}

/// A listener that could not be made, without the name of its sandbox.
#[derive(Debug)]
pub struct ListenError {
    reason: Reason,
    what: String,
    next: String,
    taken: Option<SocketAddr>,
}

impl ListenError {
    /// The failure of a call for this sandbox.
    #[must_use]
    pub fn for_sandbox(&self, sandbox: &str) -> Failure {
        let Self {
            reason, what, next, ..
        } = self;
        Failure::new(*reason, format!("{what} in sandbox {sandbox}: {next}"))
    }

    /// The address that somebody else has, if that is what is wrong.
    #[must_use]
    pub fn taken(&self) -> Option<SocketAddr> {
        self.taken
    }

    /// Says who has the address that is taken.
    #[must_use]
    pub fn held_by(self, holder: &Holder) -> Self {
        let what = format!("{} by {holder}", self.what);
        Self { what, ..self }
    }

    fn new(addr: SocketAddr, source: &io::Error) -> Self {
        let errno = source.raw_os_error().map(Errno::from_raw);
        let (reason, what, next) = match errno {
            Some(Errno::EADDRINUSE) => (
                Reason::PortInUse,
                taken(addr),
                "choose another port, or stop what listens there".to_owned(),
            ),
            Some(Errno::EACCES | Errno::EPERM) => (
                Reason::BindRefused,
                format!("the kernel does not allow to listen on {addr}"),
                format!("{source}; choose a port above 1023"),
            ),
            // EINVAL: a link-local address, which is none without its interface.
            Some(Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT | Errno::EINVAL) => (
                Reason::AddressUnavailable,
                format!("{addr} cannot be listened on"),
                format!("{source}; choose an address that the sandbox has"),
            ),
            _ if out_of_descriptors(source) => (
                Reason::DescriptorLimit,
                format!("no file descriptor is left to listen on {addr}"),
                format!("{source}; end other sessions, or raise the server's limit"),
            ),
            _ => (
                Reason::Internal,
                format!("{addr} cannot be listened on"),
                format!("{source}; see the kernel's log"),
            ),
        };
        let taken = (reason == Reason::PortInUse).then_some(addr);
        Self {
            reason,
            what,
            next,
            taken,
        }
    }

    fn no_free_port(listen: &Listen) -> Self {
        Self {
            reason: Reason::PortInUse,
            what: format!("no free port was found for {}", listen.bind),
            next: format!(
                "tried {FREE_PORT_ATTEMPTS} times; name a port, or close connections there"
            ),
            taken: None,
        }
    }

    fn unreachable(addr: SocketAddr, source: &io::Error) -> Self {
        if out_of_descriptors(source) {
            return Self::new(addr, source);
        }
        Self {
            reason: Reason::AddressUnavailable,
            what: format!("nothing could connect to {addr}"),
            next: format!(
                "{source}; its loopback interface is down or has no address: bring up `lo` there"
            ),
            taken: None,
        }
    }

    fn is_in_use(&self) -> bool {
        self.reason == Reason::PortInUse
    }
}

/// Binds and listens, in the current namespace of the calling thread. The result
/// is in the order of `listeners`, IPv4 before IPv6.
///
/// # Errors
/// The first address that cannot be had; nothing stays bound.
pub fn listen_all(listeners: &[Listen], backlog: u32) -> Result<Vec<BoundSocket>, ListenError> {
    let mut made = Vec::with_capacity(listeners.len());
    // Fixed ports first: a free port that is drawn must not be one of them.
    let (fixed, free): (Vec<_>, Vec<_>) = listeners
        .iter()
        .enumerate()
        .partition(|(_, listen)| listen.port != 0);
    for (position, listen) in fixed {
        let sockets = listen_at(listen, listen.port, backlog).map_err(|attempt| attempt.error)?;
        made.push((position, sockets));
    }
    for (position, listen) in free {
        made.push((position, listen_anywhere(listen, backlog)?));
    }
    made.sort_by_key(|(position, _)| *position);
    Ok(made.into_iter().flat_map(|(_, sockets)| sockets).collect())
}

/// Draws ports until one is free at every address of the listener.
fn listen_anywhere(listen: &Listen, backlog: u32) -> Result<Vec<BoundSocket>, ListenError> {
    // Ports that some address lacks are kept until the end: else the kernel, which
    // prefers even ones, may draw the same again.
    let mut unfit = Vec::new();
    for _ in 0..FREE_PORT_ATTEMPTS {
        match listen_at(listen, 0, backlog) {
            Err(Attempt { error, made }) if error.is_in_use() => unfit.push(made),
            result => return result.map_err(|attempt| attempt.error),
        }
    }
    Err(ListenError::no_free_port(listen))
}

/// A listener that was made in part.
struct Attempt {
    error: ListenError,
    made: Vec<BoundSocket>,
}

fn listen_at(listen: &Listen, mut port: u16, backlog: u32) -> Result<Vec<BoundSocket>, Attempt> {
    let mut made: Vec<BoundSocket> = Vec::with_capacity(2);
    for ip in listen.bind.addresses() {
        let asked = SocketAddr::new(ip, port);
        match listen_on(asked, backlog) {
            Ok((addr, socket)) => {
                // The next address gets the port that this one drew.
                port = addr.port();
                made.push(BoundSocket {
                    listener_id: listen.id,
                    addr,
                    socket,
                });
            }
            Err(err) if listen.bind == Bind::Loopback && ip.is_ipv6() && is_absent(&err) => {}
            Err(err) => {
                let error = ListenError::new(asked, &err);
                return Err(Attempt { error, made });
            }
        }
    }
    let unreachable = made
        .iter()
        .find_map(|socket| probe(socket.addr).err().map(|err| (socket.addr, err)));
    match unreachable {
        Some((addr, err)) => {
            let error = ListenError::unreachable(addr, &err);
            Err(Attempt { error, made })
        }
        None => Ok(made),
    }
}

/// Whether the sandbox has no such address, or no IPv6 at all.
fn is_absent(err: &io::Error) -> bool {
    matches!(
        err.raw_os_error().map(Errno::from_raw),
        Some(Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT)
    )
}

fn listen_on(addr: SocketAddr, backlog: u32) -> io::Result<(SocketAddr, TcpListener)> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(addr), kind, Some(Protocol::TCP))?;
    // Connections of the past in TIME_WAIT do not stand in the way. Two such
    // sockets may both bind; `listen` refuses the second.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(backlog.max(1)).unwrap_or(i32::MAX))?;
    let socket = TcpListener::from(socket);
    Ok((socket.local_addr()?, socket))
}

/// Asks the routing table whether a process here could connect to a loopback
/// address; no packet is sent. While `lo` is down, binding to it works and
/// connecting does not: such a listener must not be announced.
fn probe(addr: SocketAddr) -> io::Result<()> {
    if !addr.ip().is_loopback() {
        return Ok(());
    }
    let socket = UdpSocket::bind(match addr.ip() {
        IpAddr::V4(_) => "0.0.0.0:0",
        IpAddr::V6(_) => "[::]:0",
    })?;
    socket.connect(addr)?;
    if socket.local_addr()?.ip().is_loopback() {
        return Ok(());
    }
    Err(io::Error::from(Errno::ENETUNREACH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpStream};

    fn loopback(id: u32, port: u16) -> Listen {
        Listen {
            id,
            bind: Bind::Loopback,
            port,
        }
    }

    fn at(ip: &str, port: u16) -> Listen {
        Listen {
            id: 0,
            bind: Bind::Ip(ip.parse().expect("ip")),
            port,
        }
    }

    #[test]
    fn a_free_port_is_the_same_in_both_families_and_answers() {
        let bound = listen_all(&[loopback(7, 0)], 8).expect("bound");
        assert_eq!(bound[0].addr.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        let port = bound[0].addr.port();
        assert_ne!(port, 0);
        for socket in &bound {
            assert_eq!((socket.listener_id, socket.addr.port()), (7, port));
            TcpStream::connect(socket.addr).expect("listens");
        }
    }

    #[test]
    fn the_sockets_are_as_promised() {
        let bound = listen_all(&[loopback(0, 0)], 8).expect("bound");
        for bound in bound {
            let socket = Socket::from(bound.socket);
            assert!(socket.nonblocking().expect("flags"));
            let flags = nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_GETFD).expect("flags");
            assert_eq!(flags, nix::libc::FD_CLOEXEC);
            assert!(socket.reuse_address().expect("option"));
            assert!(!socket.reuse_port().expect("option"));
            assert!(bound.addr.is_ipv4() || socket.only_v6().expect("option"));
        }
    }

    #[test]
    fn a_taken_port_is_a_conflict_and_frees_the_others() {
        let other = listen_all(&[at("127.0.0.1", 0)], 1).expect("bound");
        let free = listen_all(&[at("127.0.0.1", 0)], 1).expect("bound");
        let (taken, wanted) = (other[0].addr.port(), free[0].addr.port());
        drop(free);

        let request = [loopback(0, wanted), loopback(1, taken)];
        let failure = listen_all(&request, 1)
            .expect_err("taken")
            .for_sandbox("web");
        assert_eq!(failure.reason, Reason::PortInUse);
        assert!(
            failure.message.starts_with(&format!(
                "127.0.0.1:{taken} is already in use in sandbox web"
            )),
            "{failure}"
        );
        listen_all(&request[..1], 1).expect("nothing stayed bound");
    }

    #[test]
    fn a_wildcard_listener_of_either_family_is_a_conflict() {
        for wildcard in ["0.0.0.0:0", "[::]:0"] {
            // As applications do: SO_REUSEADDR, and IPv6 open to IPv4.
            let other = TcpListener::bind(wildcard).expect("bound");
            let port = other.local_addr().expect("address").port();
            let err = listen_all(&[loopback(0, port)], 1).expect_err("taken");
            assert!(err.is_in_use(), "{wildcard}: {err:?}");
        }
    }

    #[test]
    fn a_port_that_only_ipv6_has_taken_is_a_conflict() {
        let other = listen_all(&[at("::1", 0)], 1).expect("needs ::1 on this machine");
        let port = other[0].addr.port();
        let failure = listen_all(&[loopback(0, port)], 1)
            .expect_err("taken")
            .for_sandbox("web");
        assert_eq!(failure.reason, Reason::PortInUse);
        assert!(
            failure.message.starts_with(&format!("[::1]:{port} ")),
            "{failure}"
        );
        listen_all(&[at("127.0.0.1", port)], 1).expect("IPv4 was given back");
    }

    #[test]
    fn results_come_in_the_order_of_the_request() {
        let port = {
            let free = listen_all(&[at("127.0.0.1", 0)], 1).expect("bound");
            free[0].addr.port()
        };
        let request = [at("127.0.0.1", 0), loopback(5, port), loopback(9, 0)];
        let bound = listen_all(&request, 1).expect("bound");
        let ids: Vec<_> = bound.iter().map(|b| b.listener_id).collect();
        assert!(ids.is_sorted(), "{ids:?}");
        assert_eq!((ids[0], *ids.last().expect("some")), (0, 9));
    }

    #[test]
    fn each_error_of_the_kernel_has_its_reason() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 80));
        for (errno, reason) in [
            (Errno::EADDRINUSE, Reason::PortInUse),
            (Errno::EACCES, Reason::BindRefused),
            (Errno::EPERM, Reason::BindRefused),
            (Errno::EADDRNOTAVAIL, Reason::AddressUnavailable),
            (Errno::EAFNOSUPPORT, Reason::AddressUnavailable),
            (Errno::EMFILE, Reason::DescriptorLimit),
            (Errno::ENFILE, Reason::DescriptorLimit),
            (Errno::ENOBUFS, Reason::Internal),
        ] {
            let failure = ListenError::new(addr, &errno.into()).for_sandbox("web");
            assert_eq!(failure.reason, reason, "{errno}");
            assert!(failure.message.contains("127.0.0.1:80"), "{failure}");
            assert!(failure.message.contains("sandbox web"), "{failure}");
        }
    }

    #[test]
    fn an_address_that_the_sandbox_lacks_is_named() {
        // TEST-NET-1 and the documentation prefix are nobody's.
        for ip in ["192.0.2.1", "2001:db8::1", "fe80::1"] {
            let failure = listen_all(&[at(ip, 0)], 1)
                .expect_err("not here")
                .for_sandbox("web");
            assert_eq!(failure.reason, Reason::AddressUnavailable, "{failure}");
            assert!(failure.message.contains(ip), "{failure}");
        }
    }
}
