//! The process in the sandbox: it enters the network namespace, fetches over
//! plain HTTP from an address there, and reports as one line of JSON.

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long one step of a request may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest response that is read, in bytes.
const MAX_RESPONSE: u64 = 64 * 1024;

/// What the process in the sandbox reports.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// Nothing listens on the address in the sandbox.
    Refused {
        /// The network namespace it was tried in.
        namespace: String,
    },
    /// The first response, whole, and how long the requests took.
    Fetched {
        /// The network namespace it was fetched in.
        namespace: String,
        /// Head and body.
        response: String,
        /// The first request, connect to last byte, in microseconds.
        first_us: u64,
        /// Median of all requests, in microseconds.
        median_us: u64,
        /// The slowest request, in microseconds.
        slowest_us: u64,
    },
}

/// Enters the namespace at `netns` and sends `count` requests to `address`,
/// each on a connection of its own. The report goes to standard output.
///
/// # Errors
/// Anything but a response or a refused connection.
pub(crate) fn run(netns: &Path, address: &str, count: &str) -> Result<()> {
    let address: SocketAddr = address.parse().context("the address to fetch from")?;
    let count: usize = count.parse().context("the number of requests")?;
    let file = File::open(netns).with_context(|| format!("opening {}", netns.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("entering {}", netns.display()))?;
    let namespace = crate::namespaces::network()?;

    let mut times = Vec::with_capacity(count);
    let mut first = None;
    for _ in 0..count {
        let start = Instant::now();
        match get(address) {
            Ok(response) => {
                times.push(u64::try_from(start.elapsed().as_micros())?);
                first.get_or_insert(response);
            }
            Err(error) if first.is_none() && error.kind() == io::ErrorKind::ConnectionRefused => {
                return report(&Report::Refused { namespace });
            }
            Err(error) => {
                let done = times.len();
                bail!("fetching from {address} in the sandbox, after {done} responses: {error}");
            }
        }
    }
    let first_us = times.first().copied();
    times.sort_unstable();
    match (first, first_us, times.get(times.len() / 2), times.last()) {
        (Some(response), Some(first_us), Some(median_us), Some(slowest_us)) => {
            report(&Report::Fetched {
                namespace,
                response,
                first_us,
                median_us: *median_us,
                slowest_us: *slowest_us,
            })
        }
        _ => bail!("asked for no requests at all"),
    }
}

fn get(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {address}\r\nUser-Agent: sternline-demo\r\n\r\n"
    )?;
    let mut response = String::new();
    stream.take(MAX_RESPONSE).read_to_string(&mut response)?;
    Ok(response)
}

fn report(report: &Report) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, report)?;
    writeln!(out)?;
    Ok(())
}
