//! Many connections at once.

use crate::{Args, Outcome, report, stream};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread::{Builder, ScopedJoinHandle};
use std::time::{Duration, Instant};
use sternline_e2e::report::{End, Many, Storm};

/// A thread per connection: enough for an echo and its buffers.
const STACK: usize = 256 * 1024;

/// What one of many connections came to.
struct One {
    stood_ms: f64,
    data: Result<Duration, End>,
}

/// Opens all connections, waits until each stands or failed, echoes on all,
/// and closes none before the last is through.
pub(crate) fn many(args: &Args) -> Outcome {
    let to: SocketAddr = args.need("to")?;
    let connections: u32 = args.need("connections")?;
    let (bytes, rounds) = (args.or("bytes", 1024)?, args.or("rounds", 1)?);
    let ports: u16 = args.or("ports", 1)?;
    let timeout = args.timeout()?;
    args.done()?;
    // The +1 is this thread, which takes the time.
    let gate = Barrier::new(usize::try_from(connections)? + 1);
    let start = Instant::now();
    let one = |index: u32| {
        let nth = (index % u32::from(ports.max(1))) as u16;
        let to = SocketAddr::new(to.ip(), to.port() + nth);
        let connection = stream::connect(to, timeout);
        let stood_ms = start.elapsed().as_secs_f64() * 1000.0;
        gate.wait();
        let begun = Instant::now();
        let data = connection.and_then(|connection| {
            for round in 0..rounds {
                let seed = u64::from(index) * 1000 + round;
                stream::echo(&connection, seed, bytes)?;
            }
            Ok((begun.elapsed(), connection))
        });
        gate.wait();
        let data = match data {
            Ok((took, _connection)) => Ok(took),
            Err(error) => Err(End::from(&error)),
        };
        One { stood_ms, data }
    };
    let mut data_seconds = 0.0;
    let all: Vec<One> = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for index in 0..connections {
            let one = &one;
            let builder = Builder::new().stack_size(STACK);
            threads.push(builder.spawn_scoped(scope, move || one(index))?);
        }
        gate.wait();
        let begun = Instant::now();
        gate.wait();
        data_seconds = begun.elapsed().as_secs_f64();
        threads.into_iter().map(joined).collect::<io::Result<_>>()
    })?;
    let mut failed = BTreeMap::new();
    let mut slowest = Duration::ZERO;
    for one in &all {
        match one.data {
            Ok(took) => slowest = slowest.max(took),
            Err(end) => *failed.entry(end).or_default() += 1,
        }
    }
    report(&Many {
        ok: connections - failed.values().sum::<u32>(),
        failed,
        connect_ms: all.iter().map(|one| one.stood_ms).fold(0.0, f64::max),
        data_seconds,
        slowest_ms: slowest.as_secs_f64() * 1000.0,
    })
}

/// Connects and resets at once, over and over, as a port scanner does.
pub(crate) fn storm(args: &Args) -> Outcome {
    let to: SocketAddr = args.need("to")?;
    let connections: u32 = args.need("connections")?;
    let timeout = args.timeout()?;
    args.done()?;
    // Where the queue of the listener is full the kernel has a thread try again in a
    // second: with enough of them somebody always goes on.
    let threads = 512.min(connections.max(1));
    let start = Instant::now();
    let ends: Vec<Option<End>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                scope.spawn(move || {
                    let share = (worker..connections).step_by(threads as usize);
                    share
                        .map(|_| {
                            stream::connect(to, timeout)
                                .and_then(stream::reset)
                                .err()
                                .map(|error| End::from(&error))
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let parts = workers.into_iter().map(joined);
        parts
            .collect::<io::Result<Vec<_>>>()
            .map(|all| all.concat())
    })?;
    let mut failed = BTreeMap::new();
    for end in ends.iter().copied().flatten() {
        *failed.entry(end).or_default() += 1;
    }
    // Who is over a limit is reset by the other end, some before connect() has
    // returned: made and reset all the same.
    failed.remove(&End::Reset);
    report(&Storm {
        resets: connections - failed.values().sum::<u32>(),
        failed,
        seconds: start.elapsed().as_secs_f64(),
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> io::Result<T> {
    thread
        .join()
        .map_err(|_| io::Error::other("a thread of the probe panicked"))
}
