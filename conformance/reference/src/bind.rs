//! Sandboxes by name, and sockets inside them.

use crate::{faults::Faults, node::Asked};
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
};
use sternline_api::{Failure, Reason};

/// A socket that listens, and what is told about it.
pub(crate) struct Bound {
    pub(crate) id: u32,
    pub(crate) told: Option<SocketAddr>,
    pub(crate) socket: std::net::TcpListener,
}

fn fail<T>(reason: Reason, message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::new(reason, message))
}

/// Finds a sandbox by its id or a prefix of it.
pub(crate) fn find(dir: &Path, id: &str, faults: &Faults) -> Result<(String, PathBuf), Failure> {
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut fitting: Vec<_> = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(id))
        .collect();
    fitting.sort();
    if let Some(at) = fitting.iter().position(|name| name == id) {
        fitting = vec![fitting.swap_remove(at)];
    }
    if fitting.len() == 1 && fitting[0] != id && faults.has("no-prefix") {
        fitting.clear();
    }
    match &fitting[..] {
        // Names are not hexadecimal here: this one no sandbox ever had.
        [] if faults.has("unknown-sandbox-code") && id.bytes().all(|b| b.is_ascii_hexdigit()) => {
            fail(
                Reason::SandboxNotReady,
                format!("sandbox {id} is not ready"),
            )
        }
        [] => fail(Reason::SandboxNotFound, format!("no sandbox {id}")),
        [_, _, ..] if !faults.has("ambiguous-picks-one") => fail(
            Reason::SandboxAmbiguous,
            format!("{id} fits several sandboxes"),
        ),
        [name, ..] => {
            let path = dir.join(name);
            let same = |a: &Path, b: &Path| {
                Some(fs::metadata(a).ok()?.ino() == fs::metadata(b).ok()?.ino())
            };
            let host = same(&path, Path::new("/proc/self/ns/net")) == Some(true);
            match host && !faults.has("host-network-fine") {
                true => fail(
                    Reason::HostNetwork,
                    format!("{name} is the node's own network"),
                ),
                false => Ok((name.clone(), path)),
            }
        }
    }
}

/// Runs `act` on a thread inside the namespace, which ends afterwards.
pub(crate) fn inside<T: Send + 'static>(
    path: &Path,
    act: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let namespace = File::open(path)?;
    let done = thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(act())
    });
    done.join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread inside panicked")))
}

/// Binds and listens: all of them, or none. Runs inside.
pub(crate) fn all(asked: &[Asked], faults: &Faults) -> Result<Vec<Bound>, Failure> {
    let mut bound = Vec::new();
    for one in asked {
        let single = asked.len() == 1;
        if let Err(failure) = listener(one, single, faults, &mut bound) {
            if faults.has("half-binds") {
                std::mem::forget(bound);
            }
            return Err(failure);
        }
    }
    Ok(bound)
}

fn listener(
    one: &Asked,
    single: bool,
    faults: &Faults,
    bound: &mut Vec<Bound>,
) -> Result<(), Failure> {
    let v4 = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let Some(ip) = one.ip else {
        let any = faults.has("binds-any");
        let real = if any {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        } else {
            v4
        };
        for attempt in 0..50 {
            let (socket, port) = listen(real, one.port, faults)?;
            if faults.has("v4-only-for-free-ports") && single && one.port == 0 {
                bound.push(told(one.id, v4, port, socket));
                return Ok(());
            }
            let differs = faults.has("port-zero-differs") && single && one.port == 0;
            match listen(v6, if differs { 0 } else { port }, faults) {
                Ok((other, six)) => {
                    let mut pair =
                        vec![told(one.id, v4, port, socket), told(one.id, v6, six, other)];
                    if faults.has("v6-first") {
                        pair.reverse();
                    }
                    bound.append(&mut pair);
                    return Ok(());
                }
                Err(failure) if failure.reason == Reason::PortInUse => {
                    if faults.has("v6-conflict-dropped") {
                        bound.push(told(one.id, v4, port, socket));
                        return Ok(());
                    }
                    if one.port != 0 || attempt == 49 {
                        return Err(failure);
                    }
                }
                Err(failure) if failure.reason == Reason::AddressUnavailable => {
                    bound.push(told(one.id, v4, port, socket));
                    return Ok(());
                }
                Err(failure) => return Err(failure),
            }
        }
        return fail(
            Reason::PortInUse,
            "no port is free in both address families",
        );
    };
    let narrowed = faults.has("any-127-is-127.0.0.1") && single && ip.is_loopback() && ip.is_ipv4();
    let (mut socket, mut port) = listen(if narrowed { v4 } else { ip }, one.port, faults)?;
    if faults.has("low-port-plus-one") && (20_000..30_000).contains(&one.port) {
        drop(socket);
        (socket, _) = listen(ip, one.port + 1, faults)?;
        port = one.port;
    }
    if faults.has("v6-adds-v4")
        && single
        && ip == v6
        && let Ok((socket, _)) = listen(v4, port, faults)
    {
        bound.push(Bound {
            id: one.id,
            told: None,
            socket,
        });
    }
    let say = match faults.has("wide-told-narrow") && ip.is_unspecified() {
        true => v4,
        false => ip,
    };
    bound.push(told(one.id, say, port, socket));
    Ok(())
}

fn told(id: u32, ip: IpAddr, port: u16, socket: std::net::TcpListener) -> Bound {
    Bound {
        id,
        told: Some(SocketAddr::new(ip, port)),
        socket,
    }
}

fn listen(ip: IpAddr, port: u16, faults: &Faults) -> Result<(std::net::TcpListener, u16), Failure> {
    let address = SocketAddr::new(ip, port);
    let open = || -> io::Result<(std::net::TcpListener, u16)> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        if faults.has("reuseport") && port == 0 {
            socket.set_reuse_port(true)?;
        }
        if ip.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(256)?;
        socket.set_nonblocking(true)?;
        let socket = std::net::TcpListener::from(socket);
        let port = socket.local_addr()?.port();
        Ok((socket, port))
    };
    open().map_err(|error| {
        let name = if faults.has("conflict-unnamed") {
            "an address".to_owned()
        } else {
            address.to_string()
        };
        let reason = match error.kind() {
            io::ErrorKind::AddrInUse => Reason::PortInUse,
            io::ErrorKind::AddrNotAvailable if faults.has("unavailable-is-internal") => {
                Reason::Internal
            }
            io::ErrorKind::AddrNotAvailable => Reason::AddressUnavailable,
            io::ErrorKind::PermissionDenied => Reason::BindRefused,
            _ => Reason::Internal,
        };
        Failure::new(reason, format!("cannot listen on {name}: {error}"))
    })
}
