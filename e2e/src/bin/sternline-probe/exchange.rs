//! Many whole exchanges at once, each judged by itself: a connection may be cut
//! off, and then it must say so.

use crate::{Args, Outcome, report, stream};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;
use sternline_e2e::report::{End, Exchanged};

pub(crate) fn exchange(args: &Args) -> Outcome {
    let to: SocketAddr = args.need("to")?;
    let connections: u64 = args.or("connections", 1)?;
    let (bytes, seed): (u64, u64) = (args.need("bytes")?, args.or("seed", 1)?);
    let timeout = args.timeout()?;
    args.done()?;
    let mut all = Exchanged::default();
    std::thread::scope(|scope| {
        let each = |n| scope.spawn(move || one(to, timeout, seed + n, bytes));
        let running: Vec<_> = (0..connections).map(each).collect();
        for one in running {
            let wrong = match one.join() {
                Ok(Ok(())) => {
                    all.whole += 1;
                    continue;
                }
                Ok(Err(error)) => match End::from(&error) {
                    End::Reset => {
                        all.cut += 1;
                        continue;
                    }
                    End::Refused => {
                        all.refused += 1;
                        continue;
                    }
                    _ => error.to_string(),
                },
                Err(_) => "a thread of the probe panicked".to_owned(),
            };
            *all.wrong.entry(wrong).or_default() += 1;
        }
    });
    report(&all)
}

/// Sends the pattern, finishes, and reads the same until the end.
fn one(to: SocketAddr, timeout: Duration, seed: u64, bytes: u64) -> io::Result<()> {
    let connection = stream::connect(to, timeout)?;
    let send = |connection: &TcpStream| {
        stream::send(connection, seed, bytes)?;
        connection.shutdown(Shutdown::Write)
    };
    let (sent, received) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(&connection));
        let received = stream::receive(&connection, Some(seed), None);
        let sent = sender.join().map_err(|_| io::Error::other("panicked"));
        (sent.and_then(|sent| sent), received)
    });
    match (received, sent) {
        // Bytes that nobody sent are worse than anything else.
        (Err(error), _) if End::from(&error) == End::Corrupt => Err(error),
        // The kernel tells of a reset once, to whoever asks first.
        (_, Err(error)) if End::from(&error) == End::Reset => Err(error),
        (_, Err(error)) if error.kind() == io::ErrorKind::NotConnected => {
            Err(io::ErrorKind::ConnectionReset.into())
        }
        (Err(error), _) | (Ok(_), Err(error)) => Err(error),
        (Ok((received, _)), Ok(())) if received == bytes => Ok(()),
        (Ok((received, _)), Ok(())) => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("a clean end after {received} of {bytes} bytes"),
        )),
    }
}
