//! What the probe does without a peer.

use crate::{Args, Outcome, report};
use nix::sys::signal::{SigSet, Signal};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;
use sternline_e2e::report::{Besieged, Listeners, Listening};

/// How long a connection may take to stand while its port is besieged.
const BESIEGE: Duration = Duration::from_secs(5);

/// State of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Binds and listens as an application would that sets no options: anything
/// left behind on the port, be it only in TIME_WAIT, makes it fail.
pub(crate) fn listen(args: &Args) -> Outcome {
    let address: SocketAddr = args.need("address")?;
    let keep = args.or("keep", false)?;
    let dual = args.or("dual", false)?;
    args.done()?;
    // Not the standard library's listener, which sets SO_REUSEADDR.
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual)?;
    }
    socket
        .bind(&address.into())
        .and_then(|()| socket.listen(16))
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let bound = socket.local_addr()?.as_socket();
    report(&Listening {
        listening: bound.ok_or("the socket has no IP address")?,
        pid: std::process::id(),
    })?;
    if keep {
        until_terminated()?;
    }
    Ok(())
}

/// Tries to listen on each of some ports, on both addresses, over and over, and to
/// connect to one of them in each round; says what came of it until it is killed.
pub(crate) fn besiege(args: &Args) -> Outcome {
    let (first, count): (u16, u16) = (args.need("first")?, args.need("count")?);
    args.done()?;
    let ports = first..first + count;
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let mut besieged = Besieged::default();
    for port in ports.clone().cycle() {
        for (ip, port) in loopback
            .iter()
            .flat_map(|ip| ports.clone().map(move |p| (*ip, p)))
        {
            let address = SocketAddr::new(ip, port);
            if is_free(address)? {
                besieged.free.push(address);
            }
        }
        let address = SocketAddr::new(loopback[0], port);
        match TcpStream::connect_timeout(&address, BESIEGE) {
            // Nobody is to wait for what this one has to say.
            Ok(stream) => SockRef::from(&stream).set_linger(Some(Duration::ZERO))?,
            // It stood, and went with who had taken it before this one looked.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(_) => besieged.refused.push(address),
        }
        besieged.rounds += 1;
        if besieged.rounds.is_multiple_of(20) || !besieged.free.is_empty() {
            report(&besieged)?;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Whether an application could listen there that shares no port but with what is
/// over.
fn is_free(address: SocketAddr) -> std::io::Result<bool> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    let made = socket.bind(&address.into()).and_then(|()| socket.listen(1));
    match made {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn listeners(args: &Args) -> Outcome {
    args.done()?;
    let mut listeners = Vec::new();
    for path in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        // Absent where the kernel has no such family.
        let table = std::fs::read_to_string(path).unwrap_or_default();
        listeners.extend(table.lines().skip(1).filter_map(listener_of));
    }
    report(&Listeners { listeners })
}

/// Waits for SIGTERM or SIGINT, which as process 1 would else be ignored.
pub(crate) fn pause(args: &Args) -> Outcome {
    args.done()?;
    until_terminated()
}

pub(crate) fn until_terminated() -> Outcome {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block()?;
    signals.wait()?;
    Ok(())
}

fn listener_of(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_whitespace().skip(1);
    let local = words.next()?;
    let state = words.nth(1)?;
    if state != LISTEN {
        return None;
    }
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(SocketAddr::new(ip_of(ip)?, port))
}

/// The kernel prints addresses as 32-bit words in its own byte order.
fn ip_of(hex: &str) -> Option<IpAddr> {
    let words: Vec<[u8; 4]> = (0..hex.len())
        .step_by(8)
        .map(|at| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok())
        .map(|word| word.map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    match words.as_slice() {
        [v4] => Some(Ipv4Addr::from(*v4).into()),
        [_, _, _, _] => {
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_from_the_kernels_table() {
        let v4 = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000";
        let v6 = "   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000";
        let other = "   1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000";
        assert_eq!(listener_of(v4), Some("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(listener_of(v6), Some("[::1]:8080".parse().unwrap()));
        assert_eq!(listener_of(other), None);
    }
}
