//! Faults that h2 does not let happen: frames changed on their way.

use crate::{faults::Faults, upgrade::Io};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const PREFACE: usize = 24;
const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW: u16 = 4;

/// Puts the filter between h2 and the wire where a fault needs it.
pub(crate) fn wrap(io: Io, faults: &Arc<Faults>, stalled: Arc<AtomicBool>) -> Io {
    let needed = ["empty-data", "no-pong-when-stalled", "ignores-window"];
    if !needed.iter().any(|name| faults.has(name)) {
        return io;
    }
    let (inside, outside) = tokio::io::duplex(64 * 1024);
    let (read, write) = tokio::io::split(io);
    let (from, to) = tokio::io::split(outside);
    let (out, back) = (Arc::clone(faults), Arc::clone(faults));
    tokio::spawn(async move {
        let _ = pump(from, write, PREFACE, |frame| {
            outgoing(frame, &out, &stalled)
        })
        .await;
    });
    tokio::spawn(async move {
        let _ = pump(read, to, 0, |frame| incoming(frame, &back)).await;
    });
    Box::new(inside)
}

async fn pump<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    mut from: R,
    mut to: W,
    head: usize,
    change: impl Fn(Vec<u8>) -> Vec<u8>,
) -> io::Result<()> {
    let mut first = vec![0; head];
    from.read_exact(&mut first).await?;
    to.write_all(&first).await?;
    loop {
        let mut frame = vec![0; 9];
        if from.read_exact(&mut frame).await.is_err() {
            return to.shutdown().await;
        }
        let length =
            usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2]);
        frame.resize(9 + length, 0);
        from.read_exact(&mut frame[9..]).await?;
        to.write_all(&change(frame)).await?;
        to.flush().await?;
    }
}

fn outgoing(frame: Vec<u8>, faults: &Faults, stalled: &AtomicBool) -> Vec<u8> {
    match (frame[3], frame[4]) {
        (PING, 1) if faults.has("no-pong-when-stalled") && stalled.load(Ordering::Relaxed) => {
            Vec::new()
        }
        (DATA, 0) if faults.has("empty-data") && frame.len() == 10 => {
            let mut both = frame[..9].to_vec();
            both[2] = 0;
            both.extend(frame);
            both
        }
        _ => frame,
    }
}

fn incoming(mut frame: Vec<u8>, faults: &Faults) -> Vec<u8> {
    if faults.has("ignores-window") && frame[3] == SETTINGS {
        for entry in frame[9..].chunks_exact_mut(6) {
            if u16::from_be_bytes([entry[0], entry[1]]) == WINDOW {
                let more = u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]).max(65_535);
                entry[2..].copy_from_slice(&more.to_be_bytes());
            }
        }
    }
    frame
}
