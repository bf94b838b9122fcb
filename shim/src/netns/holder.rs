//! Who has an address in a namespace: a hint for the sentence that refuses it,
//! and nothing more.
//!
//! Two steps, because each sees another part. The thread that is in the namespace
//! reads its table of sockets; then `/proc` of this server is searched for the
//! process of that namespace which has the socket open. Where the server may not
//! look at the processes of pods, or does not see them, there is no hint.

use super::{NamespaceId, visit};
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How long a search may take. A node with a thousand processes takes 20 ms.
const SEARCH_TIMEOUT: Duration = Duration::from_millis(500);

/// Searches at once: each keeps a processor busy. More get no hint.
const MAX_SEARCHES: usize = 2;

/// Processes that are looked at.
const MAX_PROCESSES: usize = 32_768;

/// Descriptors that are looked at, of all processes of the namespace.
const MAX_DESCRIPTORS: usize = 65_536;

/// How much of the table of sockets is read, in bytes. Those that listen come
/// first.
const MAX_TABLE: u64 = 1 << 20;

/// How the table marks sockets that listen.
const LISTEN: &str = "0A";

static SEARCHES: Semaphore = Semaphore::const_new(MAX_SEARCHES);

/// A process that has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    name: String,
    pid: u32,
    /// Whether the number is one of the pod's own, and not of this server's view.
    in_pod: bool,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.in_pod { " in the pod" } else { "" };
        write!(f, "{} (pid {}{place})", self.name, self.pid)
    }
}

/// The inode of the socket that keeps `addr` from being bound in the namespace of
/// the calling thread, if the kernel shows one.
#[must_use]
pub fn socket_at(addr: SocketAddr) -> Option<u64> {
    let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
    let found = tables.iter().filter_map(|path| {
        let table = BufReader::new(File::open(path).ok()?.take(MAX_TABLE));
        let entries = table.lines().map_while(Result::ok);
        let entries = entries.filter_map(|line| Entry::read(&line));
        entries
            .filter_map(|entry| Some((entry.stands_in_the_way_of(addr)?, entry.inode)))
            .min()
    });
    found.min().map(|(_, inode)| inode)
}

/// The process of the namespace that has a socket, if it can be told. Never takes
/// longer than half a second.
pub async fn process_with(inode: u64, namespace: NamespaceId) -> Option<Holder> {
    let permit = SEARCHES.try_acquire().ok()?;
    // On a thread that ends with it; it sees to its own end between two system
    // calls.
    let search = visit(Path::new("/proc"), SEARCH_TIMEOUT, move || {
        let _permit = permit;
        search(inode, namespace, Instant::now() + SEARCH_TIMEOUT)
    });
    search.await.ok()?
}

fn search(inode: u64, namespace: NamespaceId, end: Instant) -> Option<Holder> {
    let socket = format!("socket:[{inode}]");
    let mut descriptors = 0..MAX_DESCRIPTORS;
    let in_time = || Instant::now() < end;
    let processes = fs::read_dir("/proc").ok()?.flatten().filter(|entry| {
        let name = entry.file_name();
        name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
    });
    processes
        .take(MAX_PROCESSES)
        .take_while(|_| in_time())
        .map(|process| process.path())
        .filter(|process| {
            NamespaceId::of_path(&process.join("ns/net")).is_ok_and(|id| id == namespace)
        })
        .find(|process| {
            let open = fs::read_dir(process.join("fd")).into_iter().flatten();
            open.flatten()
                .take_while(|_| descriptors.next().is_some() && in_time())
                .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == &*socket))
        })
        .and_then(|process| describe(&process))
}

fn describe(process: &Path) -> Option<Holder> {
    let status = fs::read(process.join("status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let numbers = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    let numbers: Vec<u32> = numbers
        .split_ascii_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    Some(Holder {
        name: clean(&fs::read(process.join("comm")).ok()?),
        pid: *numbers.last()?,
        in_pod: numbers.len() > 1,
    })
}

/// A process's name for itself, fit for a sentence: it may be anything.
fn clean(name: &[u8]) -> String {
    let name = name.strip_suffix(b"\n").unwrap_or(name);
    let clean = name.iter().take(32).map(|byte| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '?',
    });
    match clean.collect::<String>() {
        name if name.trim().is_empty() => "a process".to_owned(),
        name => name,
    }
}

/// A line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    local: SocketAddr,
    listens: bool,
    inode: u64,
}

impl Entry {
    /// Reads `sl local_address rem_address st queues timer retrnsmt uid timeout
    /// inode ...`; nothing of the heading, nor of sockets that nobody has open.
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (ip, port) = words.next()?.split_once(':')?;
        let state = words.nth(1)?;
        let inode = words.nth(5)?.parse().ok().filter(|inode| *inode != 0)?;
        let port = u16::from_str_radix(port, 16).ok()?;
        Some(Self {
            local: SocketAddr::new(address(ip)?, port),
            listens: state == LISTEN,
            inode,
        })
    }

    /// Whether a socket at `addr` meets this one; the less, the likelier it is the
    /// one that the kernel refused it for.
    fn stands_in_the_way_of(&self, addr: SocketAddr) -> Option<u8> {
        if self.local.port() != addr.port() {
            return None;
        }
        let (theirs, ours) = (self.local.ip(), addr.ip());
        let rank = match (theirs, ours) {
            _ if theirs == ours => 0,
            (IpAddr::V6(v6), IpAddr::V4(v4)) => match v6.to_ipv4_mapped() {
                Some(mapped) if mapped == v4 || either_unspecified(mapped.into(), ours) => 1,
                // Open to IPv4 as well, unless it said otherwise.
                None if v6.is_unspecified() => 3,
                _ => return None,
            },
            _ if theirs.is_ipv4() == ours.is_ipv4() && either_unspecified(theirs, ours) => 2,
            _ => return None,
        };
        Some(if self.listens { rank } else { rank + 4 })
    }
}

fn either_unspecified(one: IpAddr, other: IpAddr) -> bool {
    one.is_unspecified() || other.is_unspecified()
}

/// An address as the kernel prints it: words of 32 bits in the machine's own order.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| -> Option<[u8; 4]> {
        let word = u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{TcpListener, TcpStream};

    fn entry(local: &str, listens: bool) -> Entry {
        Entry {
            local: local.parse().expect("an address"),
            listens,
            inode: 7,
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_table_are_read() {
        let four = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1 0 100 0 0 10 0";
        assert_eq!(Entry::read(four), Some(entry("127.0.0.1:8080", true)));
        let six = "  12: 00000000000000000000000001000000:0050 0000000000000000FFFF00000100007F:C001 01 00000000:00000000 00:00000000 00000000  1000        0 7 1";
        assert_eq!(Entry::read(six), Some(entry("[::1]:80", false)));
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(Entry::read(heading), None);
        let nobodys = four.replace(" 7 1 ", " 0 1 ");
        assert_eq!(Entry::read(&nobodys), None);
    }

    #[test]
    fn the_likeliest_socket_is_named() {
        // Which stands in the way, the likeliest first; the last does not.
        for (wanted, others, stranger) in [
            (
                "127.0.0.1:80",
                vec![
                    "127.0.0.1:80",
                    "[::ffff:127.0.0.1]:80",
                    "0.0.0.0:80",
                    "[::]:80",
                ],
                "127.0.0.2:80",
            ),
            ("[::1]:80", vec!["[::1]:80", "[::]:80"], "0.0.0.0:80"),
            (
                "0.0.0.0:80",
                vec!["0.0.0.0:80", "127.0.0.1:80", "[::]:80"],
                "[::1]:80",
            ),
            ("[::]:80", vec!["[::]:80", "[::1]:80"], "127.0.0.1:80"),
            ("127.0.0.1:80", vec![], "127.0.0.1:81"),
        ] {
            let wanted = wanted.parse().expect("an address");
            let rank = |local: &str| entry(local, true).stands_in_the_way_of(wanted);
            let ranks: Vec<_> = others.iter().map(|local| rank(local)).collect();
            assert!(
                ranks.is_sorted() && !ranks.contains(&None),
                "{wanted}: {ranks:?}"
            );
            assert_eq!(rank(stranger), None, "{wanted}");
            for local in others {
                let open = entry(local, false).stands_in_the_way_of(wanted);
                assert!(
                    open > ranks.last().copied().flatten(),
                    "{local} only connects"
                );
            }
        }
    }

    #[tokio::test]
    async fn the_process_of_a_socket_is_found() {
        let own = Path::new("/proc/self/ns/net");
        let own = NamespaceId::of_path(own).expect("a namespace");
        let name = clean(&fs::read("/proc/self/comm").expect("a name"));
        let pid = std::process::id();
        let end = Instant::now() + Duration::from_secs(20);
        for at in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"] {
            let listener = TcpListener::bind(at).expect("bound");
            let addr = listener.local_addr().expect("an address");
            let inode = socket_at(addr).expect("a socket");
            // A busy machine may not be done with it in time at first.
            let holder = loop {
                if let Some(holder) = process_with(inode, own).await {
                    break holder;
                }
                assert!(Instant::now() < end, "{at} is not found");
            };
            assert_eq!((&holder.name, holder.pid), (&name, pid), "{at}");
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let addr = listener.local_addr().expect("an address");
        // Of another namespace it is not told, whoever has it.
        let inode = socket_at(addr).expect("a socket");
        let other = NamespaceId { inode: 1, ..own };
        assert_eq!(search(inode, other, end), None);
        drop(listener);
        assert_eq!(socket_at(addr), None);
        assert_eq!(search(inode, own, end), None);
    }

    #[test]
    fn a_connection_that_has_the_address_is_found_too() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let to = listener.local_addr().expect("an address");
        let connection = TcpStream::connect(to).expect("connected");
        let from = connection.local_addr().expect("an address");
        assert!(socket_at(from).is_some());
    }

    #[test]
    fn a_search_ends_in_time() {
        let own = Path::new("/proc/self/ns/net");
        let own = NamespaceId::of_path(own).expect("a namespace");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let addr = listener.local_addr().expect("an address");
        let inode = socket_at(addr).expect("a socket");
        assert_eq!(search(inode, own, Instant::now()), None);
    }

    #[test]
    fn names_are_fit_for_a_sentence() {
        assert_eq!(clean(b"nginx\n"), "nginx");
        assert_eq!(clean(b"tmux: server\n"), "tmux: server");
        assert_eq!(clean(b"\x1b[2J\xe2\x80\xae\n"), "?[2J???");
        assert_eq!(clean(b"  \n"), "a process");
        assert_eq!(clean(b""), "a process");
        let holder = Holder {
            name: "nginx".into(),
            pid: 7,
            in_pod: true,
        };
        assert_eq!(holder.to_string(), "nginx (pid 7 in the pod)");
    }

    proptest! {
        #[test]
        fn no_line_panics(line in ".{0,200}") {
            let _ = Entry::read(&line);
            let _ = address(&line);
        }
    }
}
