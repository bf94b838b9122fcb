//! Dials targets.

use crate::local::{self, LocalStream};
use crate::spec::Target;
use crate::{cause, descriptors, span};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;
use sternline_api::{Failure, Reason};
use sternline_tunnel::{RelayOptions, Relayed, Socket, TunnelStream, relay};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Addresses of one name that are tried. A name with more has a fault.
const MOST_ADDRESSES: usize = 8;

/// How long an address is tried alone before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);

/// Pause before a Unix socket whose queue is full is tried again.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// A target that was reached.
#[derive(Debug)]
pub enum Reached {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(LocalStream),
    /// By what a simulation has for a socket.
    Other(Box<dyn Relays>),
}

/// A connection that can be copied to and from a stream, whatever its kind.
pub trait Relays: fmt::Debug + Send {
    /// Copies until the end, as [`relay()`] does.
    fn relay(
        self: Box<Self>,
        stream: TunnelStream,
        options: RelayOptions,
    ) -> Pin<Box<dyn Future<Output = Relayed> + Send>>;
}

impl<S: Socket + fmt::Debug> Relays for S {
    fn relay(
        self: Box<Self>,
        stream: TunnelStream,
        options: RelayOptions,
    ) -> Pin<Box<dyn Future<Output = Relayed> + Send>> {
        Box::pin(async move { relay(*self, stream, &options).await })
    }
}

/// Dials a target, within `limit`.
///
/// # Errors
/// Which address failed and how, as `connect: connection refused`.
pub(super) async fn dial(target: &Target, limit: Duration) -> Result<Reached, Failure> {
    match target {
        Target::Unix(path) => unix(path, limit).await,
        Target::Ipv6(address) => {
            tcp(target, &[(*address).into()], Instant::now() + limit, limit).await
        }
        Target::Host { port, .. } if target.is_localhost() => {
            // RFC 6761, section 6.3: it is loopback, whatever a resolver says.
            let both = [
                SocketAddr::from((Ipv4Addr::LOCALHOST, *port)),
                SocketAddr::from((Ipv6Addr::LOCALHOST, *port)),
            ];
            tcp(target, &both, Instant::now() + limit, limit).await
        }
        Target::Host { host, port } => {
            let deadline = Instant::now() + limit;
            let addresses = resolve(target, host, *port, limit).await?;
            tcp(target, &addresses, deadline, limit).await
        }
    }
}

async fn resolve(
    target: &Target,
    host: &str,
    port: u16,
    limit: Duration,
) -> Result<Vec<SocketAddr>, Failure> {
    let unresolved = |why: &str| {
        Failure::new(
            Reason::TargetUnresolved,
            format!("cannot reach {target}: lookup {host}: {why}"),
        )
    };
    match timeout(limit, lookup_host((host, port))).await {
        Ok(Ok(found)) => {
            let found: Vec<_> = found.take(MOST_ADDRESSES).collect();
            if found.is_empty() {
                return Err(unresolved("it has no address"));
            }
            Ok(found)
        }
        Ok(Err(error)) => Err(unresolved(&cause(&error))),
        Err(_) => Err(unresolved(&format!(
            "timed out after {}",
            span::short(limit)
        ))),
    }
}

/// A connection that the kernel resets if this process is killed before it is
/// relayed, which then sees to it: the target would take silence for a clean end.
async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_zero_linger()?;
    socket.connect(address).await
}

/// Tries the addresses in their order, each with a head start on the next, in
/// the manner of RFC 8305: one that swallows packets does not hide those after
/// it, and takes none of their time.
async fn tcp(
    target: &Target,
    addresses: &[SocketAddr],
    deadline: Instant,
    limit: Duration,
) -> Result<Reached, Failure> {
    let mut waiting = addresses.iter().copied();
    let mut pending: Vec<SocketAddr> = Vec::new();
    let mut attempts = JoinSet::new();
    let mut first: Option<Failure> = None;
    loop {
        if let Some(address) = waiting.next() {
            pending.push(address);
            attempts.spawn(async move { (address, connect(address).await) });
        } else if attempts.is_empty() {
            break;
        }
        let patience = match waiting.len() {
            0 => deadline,
            _ => deadline.min(Instant::now() + HEAD_START),
        };
        match timeout_at(patience, attempts.join_next()).await {
            Ok(Some(Ok((_, Ok(stream))))) => {
                // A small write must not wait for the answer to the last one.
                let _ = stream.set_nodelay(true);
                return Ok(Reached::Tcp(stream));
            }
            Ok(Some(Ok((address, Err(error))))) => {
                let failure = failed(target, &address, &error);
                tracing::debug!(%target, %address, reason = %failure.reason, "not reached");
                pending.retain(|other| *other != address);
                first.get_or_insert(failure);
            }
            Err(_) if Instant::now() >= deadline => break,
            // The next may start, or an attempt was lost with its thread.
            Ok(_) | Err(_) => {}
        }
    }
    // One that hangs says more than one that refused at once.
    match (pending.first(), first) {
        (Some(address), _) => Err(timed_out(target, address, limit)),
        (None, Some(failure)) => Err(failure),
        (None, None) => Err(timed_out(target, &"no address", limit)),
    }
}

async fn unix(path: &Path, limit: Duration) -> Result<Reached, Failure> {
    let target = Target::Unix(path.to_owned());
    let address = path.display();
    let connect = async {
        loop {
            match local::connect(path).await {
                // Its queue of connections is full: TCP would wait here too.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(BUSY_PAUSE).await,
                done => return done,
            }
        }
    };
    match timeout_at(Instant::now() + limit, connect).await {
        Ok(Ok(stream)) => Ok(Reached::Unix(stream)),
        Ok(Err(error)) => Err(failed(&target, &address, &error)),
        Err(_) => Err(timed_out(&target, &address, limit)),
    }
}

fn failed(target: &Target, address: &impl fmt::Display, error: &io::Error) -> Failure {
    use io::ErrorKind as Kind;
    let reason = match error.kind() {
        // For a Unix socket a missing file is what a closed port is for TCP.
        Kind::ConnectionRefused | Kind::NotFound => Reason::TargetRefused,
        Kind::TimedOut => Reason::TargetTimeout,
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::AddrNotAvailable => {
            Reason::TargetUnreachable
        }
        _ => Reason::TargetFailed,
    };
    let hint = match descriptors::are_used_up(error) {
        true => ": raise the limit of open files (ulimit -Hn)",
        false => "",
    };
    Failure::new(
        reason,
        format!(
            "cannot reach {target}: dial {address}: connect: {}{hint}",
            cause(error)
        ),
    )
}

fn timed_out(target: &Target, address: &impl fmt::Display, limit: Duration) -> Failure {
    Failure::new(
        Reason::TargetTimeout,
        format!(
            "cannot reach {target}: dial {address}: connect: timed out after {}",
            span::short(limit)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(5);

    /// A port of loopback, in both families, that nobody listens on.
    fn closed_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        listener.local_addr().expect("bound").port()
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_in_the_words_of_kubectl_and_ssh() {
        let port = closed_port();
        let failure = dial(&Target::local(port), LIMIT).await.expect_err("closed");
        assert_eq!(failure.reason, Reason::TargetRefused);
        assert_eq!(
            failure.message,
            format!(
                "cannot reach localhost:{port}: dial 127.0.0.1:{port}: connect: connection refused"
            )
        );
    }

    #[tokio::test]
    async fn localhost_is_found_on_ipv6_alone() {
        let listener = match TcpListener::bind("[::1]:0") {
            Ok(listener) => listener,
            Err(error) if std::env::var_os("CI").is_none() => {
                eprintln!("skipped: this machine has no IPv6: {error}");
                return;
            }
            Err(error) => panic!("this test needs IPv6 on loopback: {error}"),
        };
        let port = listener.local_addr().expect("bound").port();
        let reached = dial(&Target::local(port), LIMIT).await.expect("reached");
        assert!(matches!(reached, Reached::Tcp(_)));
    }

    #[tokio::test]
    async fn a_unix_socket_is_reached_and_a_missing_one_is_refused() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("s");
        let failure = dial(&Target::Unix(path.clone()), LIMIT)
            .await
            .expect_err("missing");
        assert_eq!(failure.reason, Reason::TargetRefused);
        assert!(
            failure
                .message
                .contains("connect: no such file or directory"),
            "{failure}"
        );
        let _listener = std::os::unix::net::UnixListener::bind(&path).expect("binds");
        let reached = dial(&Target::Unix(path), LIMIT).await.expect("reached");
        assert!(matches!(reached, Reached::Unix(_)));
    }

    #[tokio::test]
    async fn a_name_without_address_says_which() {
        let target = Target::Host {
            host: "no-such-name.invalid".into(),
            port: 80,
        };
        let failure = dial(&target, LIMIT).await.expect_err("unknown");
        assert_eq!(failure.reason, Reason::TargetUnresolved);
        assert!(
            failure.message.contains("lookup no-such-name.invalid: "),
            "{failure}"
        );
    }

    #[tokio::test]
    async fn a_target_that_hangs_is_given_up_in_time() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("s");
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)
            .expect("socket");
        let address = socket2::SockAddr::unix(&path).expect("address");
        socket.bind(&address).expect("binds");
        socket.listen(0).expect("listens");
        // Fills the queue, so that the next one has to wait.
        let _held = std::os::unix::net::UnixStream::connect(&path).expect("connects");
        let limit = Duration::from_millis(200);
        let failure = dial(&Target::Unix(path), limit).await.expect_err("hangs");
        assert_eq!(failure.reason, Reason::TargetTimeout);
        assert!(
            failure.message.contains("timed out after 200ms"),
            "{failure}"
        );
    }

    #[tokio::test]
    async fn an_address_that_hangs_has_all_the_time_and_hides_no_other() {
        let full = || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
                .expect("socket");
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            socket.bind(&any.into()).expect("binds");
            socket.listen(0).expect("listens");
            let address = socket.local_addr().expect("bound").as_socket().expect("IP");
            let held = std::net::TcpStream::connect(address).expect("queued");
            (socket, held, address)
        };
        let (_socket, _held, hangs) = full();
        let refuses = SocketAddr::from((Ipv4Addr::LOCALHOST, closed_port()));
        let open = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("binds");
        let open = open.local_addr().expect("bound");
        let target = Target::local(80);
        let limit = Duration::from_millis(600);

        let began = Instant::now();
        let failure = tcp(&target, &[hangs, refuses], began + limit, limit)
            .await
            .expect_err("hangs");
        assert!(began.elapsed() >= limit, "{:?}", began.elapsed());
        assert_eq!(failure.reason, Reason::TargetTimeout, "{failure}");
        assert!(failure.message.contains(&hangs.to_string()), "{failure}");

        let began = Instant::now();
        let reached = tcp(&target, &[hangs, open], began + limit, limit).await;
        assert!(matches!(reached, Ok(Reached::Tcp(_))), "{reached:?}");
    }

    #[test]
    fn exhausted_descriptors_are_named() {
        let error = io::Error::from_raw_os_error(nix::libc::EMFILE);
        let failure = failed(&Target::local(80), &"127.0.0.1:80", &error);
        assert_eq!(failure.reason, Reason::TargetFailed);
        assert!(failure.message.contains("too many open files"), "{failure}");
        assert!(failure.message.contains("ulimit"), "{failure}");
    }
}
