//! One connection: what a process in a sandbox does with it.

use crate::{Args, Outcome, report, stream};
use std::io::{self, Read as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};
use sternline_e2e::report::{Echo, End, Ended, Listening, Transfer};

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

pub(crate) fn echo(args: &Args) -> Outcome {
    let to: String = args.need("to")?;
    let (bytes, seed) = (args.or("bytes", 64)?, args.or("seed", 1)?);
    let timeout = args.timeout()?;
    args.done()?;
    let unknown = |why: String| format!("{to} has no address: {why}");
    let mut found = to
        .to_socket_addrs()
        .map_err(|why| unknown(why.to_string()))?;
    let to = found
        .next()
        .ok_or_else(|| unknown("none was found".to_owned()))?;
    let start = Instant::now();
    let connection = stream::connect(to, timeout)?;
    let connect_ms = milliseconds(start);
    let start = Instant::now();
    stream::echo(&connection, seed, bytes)?;
    report(&Echo {
        bytes,
        connect_ms,
        echo_ms: milliseconds(start),
    })
}

pub(crate) fn transfer(args: &Args) -> Outcome {
    let to = args.need("to")?;
    let plan = Plan::new(args)?;
    let timeout = args.timeout()?;
    args.done()?;
    report(&plan.run(&stream::connect(to, timeout)?)?)
}

/// The other side of [`transfer`]: one connection, with the seeds swapped.
pub(crate) fn serve_transfer(args: &Args) -> Outcome {
    let address: SocketAddr = args.need("address")?;
    let plan = Plan::new(args)?;
    let timeout = args.timeout()?;
    args.done()?;
    let listener = TcpListener::bind(address)?;
    report(&Listening {
        listening: listener.local_addr()?,
        pid: std::process::id(),
    })?;
    let (connection, _) = listener.accept()?;
    stream::bound(&connection, timeout)?;
    let plan = Plan {
        seed: plan.seed + 1,
        peer_seed: plan.seed,
        ..plan
    };
    report(&plan.run(&connection)?)
}

struct Plan {
    send: u64,
    receive: u64,
    seed: u64,
    peer_seed: u64,
}

impl Plan {
    fn new(args: &Args) -> Result<Self, String> {
        let seed = args.or("seed", 1)?;
        Ok(Self {
            send: args.need("send")?,
            receive: args.need("receive")?,
            seed,
            peer_seed: seed + 1,
        })
    }

    /// Sends and receives at once; each direction ends with a FIN.
    fn run(&self, connection: &TcpStream) -> io::Result<Transfer> {
        let start = Instant::now();
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let hash = stream::send(connection, self.seed, self.send)?;
                connection.shutdown(Shutdown::Write)?;
                io::Result::Ok(hash)
            });
            let received = stream::receive(connection, Some(self.peer_seed), None);
            let sent = sender.join().map_err(|_| io::Error::other("panicked"))?;
            let (received, received_sha256) = received?;
            if received != self.receive {
                let expected = self.receive;
                return Err(io::Error::other(format!(
                    "received {received} bytes, expected {expected}"
                )));
            }
            Ok(Transfer {
                sent: self.send,
                sent_sha256: sent?,
                received,
                received_sha256,
                seconds: start.elapsed().as_secs_f64(),
            })
        })
    }
}

/// Sends everything, finishes, and only then reads: what the peer says after
/// our FIN must arrive.
pub(crate) fn finish_first(args: &Args) -> Outcome {
    let to = args.need("to")?;
    let (send, seed) = (args.need("send")?, args.or("seed", 1)?);
    let timeout = args.timeout()?;
    args.done()?;
    let start = Instant::now();
    let connection = stream::connect(to, timeout)?;
    let sent_sha256 = stream::send(&connection, seed, send)?;
    connection.shutdown(Shutdown::Write)?;
    let (received, received_sha256) = stream::receive(&connection, None, None)?;
    report(&Transfer {
        sent: send,
        sent_sha256,
        received,
        received_sha256,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Reads until the peer finishes, and only then sends: what we say after its
/// FIN must arrive.
pub(crate) fn finish_last(args: &Args) -> Outcome {
    let to = args.need("to")?;
    let (send, seed) = (args.need("send")?, args.or("seed", 1)?);
    let timeout = args.timeout()?;
    args.done()?;
    let start = Instant::now();
    let connection = stream::connect(to, timeout)?;
    let (received, received_sha256) = stream::receive(&connection, None, None)?;
    let sent_sha256 = stream::send(&connection, seed, send)?;
    connection.shutdown(Shutdown::Write)?;
    report(&Transfer {
        sent: send,
        sent_sha256,
        received,
        received_sha256,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Has some bytes echoed, so that the connection stands on the whole way, and
/// resets it.
pub(crate) fn reset(args: &Args) -> Outcome {
    let to = args.need("to")?;
    let after = args.or("after", 4)?;
    let timeout = args.timeout()?;
    args.done()?;
    let connection = stream::connect(to, timeout)?;
    stream::echo(&connection, 1, after)?;
    Ok(stream::reset(connection)?)
}

/// Sends some bytes and waits for the end, whichever it is.
pub(crate) fn expect_end(args: &Args) -> Outcome {
    let to: SocketAddr = args.need("to")?;
    let send: u64 = args.or("send", 0)?;
    let timeout = args.timeout()?;
    args.done()?;
    let start = Instant::now();
    let (ended, received) = match stream::connect(to, timeout) {
        Err(error) => (End::from(&error), 0),
        // The kernel tells of a reset once: whoever writes into it hears of it,
        // and a read after that sees a plain end.
        Ok(connection) => match stream::send(&connection, 1, send) {
            Err(error) => (End::from(&error), 0),
            Ok(_) => until_end(&connection),
        },
    };
    report(&Ended {
        ended,
        received,
        after_ms: start.elapsed().as_millis().try_into()?,
    })
}

/// Reads until the connection ends, and tells how.
pub(crate) fn until_end(mut connection: &TcpStream) -> (End, u64) {
    let mut buf = [0; 4096];
    let mut received = 0;
    loop {
        match connection.read(&mut buf) {
            Ok(0) => return (End::Eof, received),
            Ok(n) => received += n as u64,
            Err(error) => return (End::from(&error), received),
        }
    }
}

pub(crate) fn expect_refused(args: &Args) -> Outcome {
    let to: SocketAddr = args.need("to")?;
    let timeout: Duration = args.timeout()?;
    args.done()?;
    match stream::connect(to, timeout) {
        Ok(_) => Err(format!("{to} took the connection: somebody listens there").into()),
        Err(error) if End::from(&error) == End::Refused => Ok(()),
        Err(error) => Err(format!("{to}: {error}, not a refusal").into()),
    }
}
