//! Sending and receiving patterns over a TCP connection, with a bound on every
//! wait.

use sha2::{Digest as _, Sha256};
use socket2::SockRef;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use sternline_e2e::pattern;

const CHUNK: usize = 64 * 1024;

/// Connects; every later read and write waits `timeout` at most.
pub(crate) fn connect(to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, timeout)?;
    bound(&stream, timeout)?;
    Ok(stream)
}

/// Bounds the waits of a connection and turns Nagle's algorithm off.
pub(crate) fn bound(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.set_nodelay(true)
}

/// Closes with a reset instead of a FIN.
pub(crate) fn reset(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// Sends the first `length` bytes of the pattern and returns their SHA-256.
pub(crate) fn send(mut stream: &TcpStream, seed: u64, length: u64) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buf = vec![0; CHUNK];
    let mut sent = 0;
    while sent < length {
        let n = usize::try_from(length - sent).map_or(CHUNK, |left| left.min(CHUNK));
        pattern::fill(seed, sent, &mut buf[..n]);
        hash.update(&buf[..n]);
        stream.write_all(&buf[..n])?;
        sent += n as u64;
    }
    Ok(pattern::hex(&hash.finalize()))
}

/// Receives until the peer finishes, but `most` bytes at most; returns the
/// number of bytes and their SHA-256. With a `seed` each byte is compared with
/// the pattern.
pub(crate) fn receive(
    mut stream: &TcpStream,
    seed: Option<u64>,
    most: Option<u64>,
) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let mut buf = vec![0; CHUNK];
    let mut received = 0;
    loop {
        let left = most.map_or(u64::MAX, |most| most - received);
        let n = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        let n = match n {
            0 => 0,
            n => stream.read(&mut buf[..n])?,
        };
        if n == 0 {
            return Ok((received, pattern::hex(&hash.finalize())));
        }
        if let Some(seed) = seed
            && let Some(at) = pattern::first_difference(seed, received, &buf[..n])
        {
            let at = received + at as u64;
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("byte {at} is not the one that was sent"),
            ));
        }
        hash.update(&buf[..n]);
        received += n as u64;
    }
}

/// Sends `length` bytes and expects the same back; both at once, so that no
/// length can block.
pub(crate) fn echo(stream: &TcpStream, seed: u64, length: u64) -> io::Result<()> {
    if length <= 16 * 1024 {
        // Fits the smallest buffers on the way: no second thread is needed.
        send(stream, seed, length)?;
        return complete(receive(stream, Some(seed), Some(length))?.0, length);
    }
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(stream, seed, length));
        let received = receive(stream, Some(seed), Some(length));
        let sent = sender.join().map_err(|_| io::Error::other("panicked"))?;
        complete(received?.0, length)?;
        sent.map(|_| ())
    })
}

fn complete(received: u64, expected: u64) -> io::Result<()> {
    if received == expected {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("the stream ended after {received} of {expected} bytes"),
    ))
}
