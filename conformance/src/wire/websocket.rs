//! The WebSocket form (RFC 6455) from the client's side.

use super::tunnel::Duplex;
use std::io;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf},
    sync::{mpsc, watch},
};

/// The example of RFC 6455, section 1.3: its answer is known without SHA-1.
pub(crate) const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What `Sec-WebSocket-Accept` has to be for [`WEBSOCKET_KEY`].
pub(crate) const WEBSOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const LONGEST: u64 = 1 << 20;

/// An upgraded WebSocket. Its inside is a byte stream for a tunnel.
pub(crate) struct Socket {
    frames: mpsc::UnboundedSender<Vec<u8>>,
    pongs: watch::Receiver<Vec<u8>>,
}

impl Socket {
    /// Wraps a connection after its 101. Each message carries at most `most`
    /// bytes of the tunnel.
    pub(crate) fn new(io: Box<dyn Duplex>, early: Vec<u8>, most: usize) -> (Self, DuplexStream) {
        let (inside, outside) = tokio::io::duplex(256 * 1024);
        let (read, write) = tokio::io::split(io);
        let (from_tunnel, to_tunnel) = tokio::io::split(outside);
        let (frames, queue) = mpsc::unbounded_channel();
        let (pong, pongs) = watch::channel(Vec::new());
        let read = io::Cursor::new(early).chain(read);
        tokio::spawn(unwrap(read, to_tunnel, pong, frames.clone()));
        tokio::spawn(wrap(from_tunnel, write, queue, most));
        (Self { frames, pongs }, inside)
    }

    /// Sends a ping.
    pub(crate) fn ping(&self, payload: &[u8]) {
        let _ = self.frames.send(frame(PING, payload));
    }

    /// Sends a text message.
    pub(crate) fn text(&self, payload: &[u8]) {
        let _ = self.frames.send(frame(TEXT, payload));
    }

    /// Sends a close frame with code 1000.
    pub(crate) fn close(&self) {
        let _ = self.frames.send(frame(CLOSE, &1000_u16.to_be_bytes()));
    }

    /// Waits for a pong with this payload.
    pub(crate) async fn ponged(&mut self, payload: &[u8]) {
        if self.pongs.wait_for(|got| got == payload).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// One final frame, masked as a client's have to be.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![0x80 | opcode];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..126), _) => bytes.push(0x80 | length),
        (_, Ok(length)) => {
            bytes.push(0x80 | 126);
            bytes.extend(length.to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    bytes
}

async fn wrap(
    mut tunnel: ReadHalf<DuplexStream>,
    mut socket: WriteHalf<Box<dyn Duplex>>,
    mut frames: mpsc::UnboundedReceiver<Vec<u8>>,
    most: usize,
) {
    let mut buffer = vec![0; most];
    loop {
        let bytes = tokio::select! {
            length = tunnel.read(&mut buffer) => match length {
                Ok(length) if length > 0 => frame(BINARY, &buffer[..length]),
                _ => break,
            },
            Some(bytes) = frames.recv() => bytes,
        };
        if socket.write_all(&bytes).await.is_err() || socket.flush().await.is_err() {
            break;
        }
    }
    let _ = socket.shutdown().await;
}

async fn unwrap<R: AsyncRead + Unpin>(
    mut socket: R,
    mut tunnel: WriteHalf<DuplexStream>,
    pong: watch::Sender<Vec<u8>>,
    frames: mpsc::UnboundedSender<Vec<u8>>,
) {
    while let Ok((opcode, payload)) = read(&mut socket).await {
        let told = match opcode {
            CONTINUATION | BINARY => tunnel.write_all(&payload).await.is_ok(),
            PING => frames.send(frame(PONG, &payload)).is_ok(),
            PONG => {
                pong.send_replace(payload);
                true
            }
            _ => false,
        };
        if !told {
            break;
        }
    }
    let _ = tunnel.shutdown().await;
}

async fn read<R: AsyncRead + Unpin>(socket: &mut R) -> io::Result<(u8, Vec<u8>)> {
    let first = socket.read_u8().await?;
    let second = socket.read_u8().await?;
    // A server masks nothing, and no extension was negotiated.
    if second & 0x80 != 0 || first & 0x70 != 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let length = match second {
        126 => u64::from(socket.read_u16().await?),
        127 => socket.read_u64().await?,
        short => u64::from(short),
    };
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; usize::try_from(length).unwrap_or(0)];
    socket.read_exact(&mut payload).await?;
    Ok((first & 0x0f, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_are_masked() {
        assert_eq!(frame(BINARY, b"ab").len(), 2 + 4 + 2);
        assert_eq!(frame(BINARY, &[0; 126]).len(), 4 + 4 + 126);
        assert_eq!(frame(BINARY, &[0; 65_536]).len(), 10 + 4 + 65_536);
        assert_eq!(frame(PING, b"ab")[6], b'a' ^ 0x37);
    }
}
