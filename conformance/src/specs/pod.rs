//! What a process in the pod does with its end of a connection.

use crate::{
    verdict::{Step, check, failed, within},
    wire::stream::Stream,
};
use socket2::SockRef;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Reads exactly `length` bytes.
pub(super) async fn read(
    inside: &mut TcpStream,
    length: usize,
    patience: Duration,
) -> Step<Vec<u8>> {
    let expected = format!("the pod reads {length} bytes");
    let mut bytes = vec![0; length];
    match within(patience, &expected, inside.read_exact(&mut bytes)).await? {
        Ok(_) => Ok(bytes),
        Err(error) => failed(expected, error.to_string()),
    }
}

/// Writes all of `bytes`.
pub(super) async fn write(inside: &mut TcpStream, bytes: &[u8], patience: Duration) -> Step {
    let expected = format!("the pod writes {} bytes", bytes.len());
    match within(patience, &expected, inside.write_all(bytes)).await? {
        Ok(()) => Ok(()),
        Err(error) => failed(expected, error.to_string()),
    }
}

/// Ends the pod's direction: `shutdown(SHUT_WR)`.
pub(super) async fn shut(inside: &mut TcpStream) -> Step {
    let done = inside.shutdown().await;
    done.map_err(crate::verdict::broken("shutting down the pod's socket"))
}

/// Expects the end of the other direction.
pub(super) async fn end(inside: &mut TcpStream, patience: Duration) -> Step {
    let expected = "the pod reads the end of the connection";
    match within(patience, expected, inside.read(&mut [0; 16])).await? {
        Ok(0) => Ok(()),
        Ok(length) => failed(expected, format!("{length} more bytes")),
        Err(error) => failed(expected, error.to_string()),
    }
}

/// Expects `ECONNRESET`, over whatever bytes come before it.
pub(super) async fn reset(inside: &mut TcpStream, patience: Duration) -> Step {
    let expected = "the pod's connection is reset (ECONNRESET)";
    let mut buffer = vec![0; 16_384];
    loop {
        match within(patience, expected, inside.read(&mut buffer)).await? {
            Ok(0) => return failed(expected, "a clean end"),
            Ok(_) => {}
            Err(error) => {
                let is_reset = error.kind() == io::ErrorKind::ConnectionReset;
                return check(is_reset, expected, error);
            }
        }
    }
}

/// Resets the connection: `SO_LINGER` 0, close.
pub(super) fn abort(inside: TcpStream) -> Step {
    let linger = SockRef::from(&inside).set_linger(Some(Duration::ZERO));
    drop(inside);
    linger.map_err(crate::verdict::broken("setting SO_LINGER"))
}

/// Sends to a stream until the node grants no more window.
pub(super) async fn fill(stream: &Stream, most: usize) -> Step<usize> {
    let block = vec![0; 65_536];
    let mut sent = 0;
    while sent < most {
        let sending = stream.send(&block);
        tokio::pin!(sending);
        // A node that has no time grants nothing either: it has to answer
        // quickly while it does not, if it answers at all.
        // All of it within the patience of whoever sends.
        let tick = (stream.patience() / 6).min(Duration::from_millis(400));
        let mut stalls = 0;
        loop {
            match tokio::time::timeout(tick, &mut sending).await {
                Ok(done) => break done?,
                Err(_) if stalls == 2 || stream.is_quick().await => return Ok(sent),
                Err(_) => stalls += 1,
            }
        }
        sent += block.len();
    }
    Ok(sent)
}

/// Bytes that no two places share: a counter's bytes, mixed.
pub(super) fn pattern(length: usize, salt: u32) -> Vec<u8> {
    let mut state = salt.wrapping_mul(2_654_435_761) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..length).map(next).collect()
}

/// Fails where two runs of bytes differ first.
pub(super) fn same(sent: &[u8], received: &[u8]) -> Step {
    let at = sent.iter().zip(received).position(|(a, b)| a != b);
    check(
        at.is_none() && sent.len() == received.len(),
        "the bytes arrive unchanged and in order",
        format!("a difference at byte {at:?} of {}", sent.len()),
    )
}
