//! The WebSocket form from the server's side, frame by frame.

use crate::{faults::Faults, upgrade::Io};
use std::{io, sync::Arc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf},
    sync::mpsc,
};

/// Answers the inside of the WebSocket: a byte stream.
pub(crate) fn wrap(io: Io, faults: Arc<Faults>) -> DuplexStream {
    let (inside, outside) = tokio::io::duplex(64 * 1024);
    let (read, write) = tokio::io::split(io);
    let (from, to) = tokio::io::split(outside);
    let (pongs, queue) = mpsc::channel(8);
    tokio::spawn(async move {
        // The end of the socket, or of the protocol, ends the inside.
        let _ = receive(read, to, pongs, &faults).await;
    });
    tokio::spawn(async move {
        let _ = send(from, write, queue).await;
    });
    inside
}

fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    match u8::try_from(payload.len()) {
        Ok(short @ 0..126) => bytes.push(short),
        _ => {
            bytes.push(126);
            bytes.extend(
                u16::try_from(payload.len())
                    .unwrap_or(u16::MAX)
                    .to_be_bytes(),
            );
        }
    }
    bytes.extend(payload);
    bytes
}

async fn send(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<Io>,
    mut pongs: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16_384];
    loop {
        let bytes = tokio::select! {
            length = from.read(&mut buffer) => match length? {
                0 => return to.shutdown().await,
                length => frame(2, &buffer[..length]),
            },
            Some(payload) = pongs.recv() => frame(10, &payload),
        };
        to.write_all(&bytes).await?;
        to.flush().await?;
    }
}

async fn receive(
    mut from: ReadHalf<Io>,
    mut to: WriteHalf<DuplexStream>,
    pongs: mpsc::Sender<Vec<u8>>,
    faults: &Faults,
) -> io::Result<()> {
    loop {
        let opcode = from.read_u8().await? & 0x0f;
        let length = match from.read_u8().await? & 0x7f {
            126 => u64::from(from.read_u16().await?),
            127 => from.read_u64().await?,
            short => u64::from(short),
        };
        if length > 1 << 20 {
            return to.shutdown().await;
        }
        let mut mask = [0; 4];
        from.read_exact(&mut mask).await?;
        let mut payload = vec![0; usize::try_from(length).unwrap_or(0)];
        from.read_exact(&mut payload).await?;
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        match opcode {
            0 | 2 if faults.has("ws-drops-single-bytes") && payload.len() == 1 => {}
            0 | 2 => to.write_all(&payload).await?,
            1 if faults.has("ws-text-taken") => {}
            8 if faults.has("ws-close-ignored") => {}
            9 if faults.has("ws-no-pong") => {}
            9 => drop(pongs.send(payload).await),
            10 => {}
            _ => return to.shutdown().await,
        }
    }
}
