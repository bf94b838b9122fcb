//! Connections that stay: idle, stalled, or fed a byte at a time.

use crate::{Args, Outcome, client, report, stream};
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use sternline_e2e::report::{End, Ended, Holding, Written};

/// A write that blocks for this long found every buffer on the way full.
const FULL: Duration = Duration::from_secs(2);

/// No connection is waited for longer.
const MOST: Duration = Duration::from_secs(300);

/// Has one byte echoed on each connection, so that each stands on the whole
/// way, then reports the end of the first, and stays until all have ended: the
/// kernel would end the others cleanly with this process, before whoever is
/// about to reset them.
pub(crate) fn hold(args: &Args) -> Outcome {
    let to: SocketAddr = args.need("to")?;
    let connections = args.or("connections", 1)?;
    let timeout = args.timeout()?;
    args.done()?;
    let held: Vec<TcpStream> = (0..connections)
        .map(|_| {
            let connection = stream::connect(to, timeout)?;
            stream::echo(&connection, 1, 1)?;
            Ok(connection)
        })
        .collect::<io::Result<_>>()?;
    report(&Holding {
        holding: connections,
    })?;
    let (first, others) = held.split_first().ok_or("--connections 0 holds nothing")?;
    wait_for_end(first)?;
    for other in others {
        other.set_read_timeout(Some(MOST))?;
        client::until_end(other);
    }
    Ok(())
}

/// Writes single bytes to a peer that does not read.
pub(crate) fn tiny(args: &Args) -> Outcome {
    let to: SocketAddr = args.need("to")?;
    let count: u64 = args.need("count")?;
    let timeout = args.timeout()?;
    args.done()?;
    let mut connection = stream::connect(to, timeout)?;
    for _ in 0..count {
        // Not through one buffer: each byte shall be a segment of its own.
        connection.write_all(b"x")?;
    }
    report(&Written { written: count })?;
    wait_for_end(&connection)
}

/// Never reads; with `--flood true` writes until nothing more fits, on every
/// connection at once.
pub(crate) fn stall(args: &Args) -> Outcome {
    let to: SocketAddr = args.need("to")?;
    let flood = args.or("flood", false)?;
    let connections = args.or("connections", 1)?;
    let timeout = args.timeout()?;
    args.done()?;
    let stalled: Vec<TcpStream> = (0..connections)
        .map(|_| stream::connect(to, timeout))
        .collect::<io::Result<_>>()?;
    if flood {
        let written = std::thread::scope(|scope| {
            let writers: Vec<_> = stalled
                .iter()
                .map(|connection| scope.spawn(|| fill(connection)))
                .collect();
            let each = writers.into_iter().map(|writer| {
                let panicked = |_| io::Error::other("a thread of the probe panicked");
                writer.join().map_err(panicked)?
            });
            each.sum::<io::Result<u64>>()
        })?;
        report(&Written { written })?;
    } else {
        for mut connection in &stalled {
            connection.write_all(b"g")?;
        }
        report(&Holding {
            holding: connections,
        })?;
    }
    // The peer's bytes stay unread in the kernel.
    crate::local::until_terminated()
}

/// Writes until nothing more fits, or the connection is reset.
fn fill(mut connection: &TcpStream) -> io::Result<u64> {
    connection.set_write_timeout(Some(FULL))?;
    let chunk = [0x5a; 16 * 1024];
    let mut written = 0;
    loop {
        match connection.write(&chunk) {
            Ok(n) => written += n as u64,
            Err(error) => match End::from(&error) {
                End::Timeout | End::Reset => return Ok(written),
                _ => return Err(error),
            },
        }
    }
}

fn wait_for_end(connection: &TcpStream) -> Outcome {
    let start = Instant::now();
    connection.set_read_timeout(Some(MOST))?;
    let (ended, received) = client::until_end(connection);
    report(&Ended {
        ended,
        received,
        after_ms: start.elapsed().as_millis().try_into()?,
    })
}
