//! What runs inside a sandbox: the suite's own program, started again with a
//! hidden word. It makes sockets there and hands them over a Unix socket, so
//! that the suite holds the pod's end of every connection itself.

use nix::sys::signal::{SigSet, Signal};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    fs,
    io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    thread,
    time::Duration,
};

/// The hidden word.
pub(crate) const WORD: &str = "probe";
/// The same in a pod, where nobody holds the standard input.
pub(crate) const POD_WORD: &str = "probe-in-pod";
/// Does nothing, as the first process of a pod may: a runtime without a pause
/// image of its own can be given the suite's.
pub(crate) const PAUSE_WORD: &str = "pause";
/// How long one action inside may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves at `socket` until standard input ends, which happens when the suite
/// does.
pub(crate) fn run(socket: &Path) -> io::Result<()> {
    begin(socket)?;
    io::stdout().write_all(b"ready\n")?;
    io::stdout().flush()?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// Serves at `socket` until the runtime ends the container.
pub(crate) fn run_in_pod(socket: &Path) -> io::Result<()> {
    let ends = endings()?;
    begin(socket)?;
    ends.wait()?;
    Ok(())
}

/// Waits until the runtime ends the container.
pub(crate) fn pause() -> io::Result<()> {
    endings()?.wait()?;
    Ok(())
}

/// The signals that end a container, held for whoever waits for them: process 1
/// of a PID namespace gets none that it does not ask for. Before there are other
/// threads, which inherit it.
fn endings() -> io::Result<SigSet> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    ends.thread_block()?;
    Ok(ends)
}

fn begin(socket: &Path) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(&stream));
        }
    });
    Ok(())
}

fn serve(stream: &UnixStream) {
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line).is_err() {
        return;
    }
    let mut words = line.split_whitespace();
    let action = words.next().unwrap_or("");
    let address = words.next().and_then(|word| word.parse().ok());
    let done = match (action, address) {
        ("connect", Some(address)) => connect(address).map(|fd| (Some(fd), String::new())),
        ("listen", Some(address)) => {
            listen(address, words.next() == Some("shared")).map(|fd| (Some(fd), String::new()))
        }
        ("table", _) => table().map(|text| (None, text)),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    };
    // The suite notices a probe that does not answer.
    let _ = match done {
        Ok((fd, text)) => answer(stream, &format!("ok {text}\n"), fd.as_ref()),
        Err(error) => answer(
            stream,
            &format!("err {}\n", error.raw_os_error().unwrap_or(0)),
            None,
        ),
    };
}

fn answer(stream: &UnixStream, text: &str, fd: Option<&OwnedFd>) -> io::Result<()> {
    let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let text = [IoSlice::new(text.as_bytes())];
    sendmsg(stream, &text, &mut control, SendFlags::empty())?;
    Ok(())
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )
}

fn connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket(address)?;
    socket.connect_timeout(&address.into(), PATIENCE)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Listens as an application would; `shared` with `SO_REUSEPORT`.
fn listen(address: SocketAddr, shared: bool) -> io::Result<OwnedFd> {
    let socket = socket(address)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(16)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Every address that listens in this namespace.
fn table() -> io::Result<String> {
    let mut found = Vec::new();
    for file in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        // A kernel without IPv6 has no such file.
        let text = fs::read_to_string(file).unwrap_or_default();
        for line in text.lines().skip(1) {
            let mut columns = line.split_whitespace().skip(1);
            let local = columns.next().and_then(parse);
            // 0A: LISTEN.
            if let (Some(local), Some("0A")) = (local, columns.nth(1)) {
                found.push(local.to_string());
            }
        }
    }
    Ok(found.join(" "))
}

/// `0100007F:1F90`: words of the address in the machine's order.
fn parse(local: &str) -> Option<SocketAddr> {
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let bytes: Vec<u8> = (0..address.len() / 8)
        .map(|word| u32::from_str_radix(&address[word * 8..word * 8 + 8], 16))
        .collect::<Result<Vec<u32>, _>>()
        .ok()?
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    let ip = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    Some(SocketAddr::new(ip, port))
}

/// Asks the probe at `socket`; from the suite's side. The outer error is the
/// probe's own, the inner one what the action came to inside.
pub(crate) fn ask(socket: &Path, line: &str) -> io::Result<io::Result<(String, Option<OwnedFd>)>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE * 2))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; 65_536];
    let read = recvmsg(
        &stream,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut text = String::from_utf8_lossy(&bytes[..read.bytes]).into_owned();
    stream.read_to_string(&mut text)?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match text.trim().split_once(' ').unwrap_or((text.trim(), "")) {
        ("ok", rest) => Ok(Ok((rest.to_owned(), fd))),
        ("err", errno) => Ok(Err(io::Error::from_raw_os_error(
            errno.parse().unwrap_or(0),
        ))),
        _ => Err(io::Error::other(format!("the probe answered {text:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let little = cfg!(target_endian = "little");
        let v4 = if little {
            "0100007F:1F90"
        } else {
            "7F000001:1F90"
        };
        assert_eq!(parse(v4), "127.0.0.1:8080".parse().ok());
        let v6 = if little {
            "00000000000000000000000001000000:0050"
        } else {
            "00000000000000000000000000000001:0050"
        };
        assert_eq!(parse(v6), "[::1]:80".parse().ok());
        assert_eq!(parse("nonsense"), None);
    }
}
