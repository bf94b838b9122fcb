//! A peer that writes frames by hand, and so may send what no library would.

use super::soon;
use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

/// Types of frames (RFC 9113, section 6).
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn is_end_stream(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & END_STREAM != 0
    }

    /// The code of a RST_STREAM, the increment of a WINDOW_UPDATE.
    pub(crate) fn number(&self) -> u32 {
        u32::from_be_bytes(self.payload[..4].try_into().expect("four bytes"))
    }
}

pub(crate) struct Raw {
    io: DuplexStream,
    input: BytesMut,
    out: Vec<u8>,
}

impl Raw {
    /// The requesting side, as a node is.
    pub(crate) async fn client(io: DuplexStream) -> Self {
        let mut raw = Self {
            io,
            input: BytesMut::new(),
            out: PREFACE.to_vec(),
        };
        raw.frame(kind::SETTINGS, 0, 0, &[]);
        raw.flush().await;
        raw
    }

    /// The serving side, as a workstation is. `window` is every stream's.
    pub(crate) async fn server(io: DuplexStream, window: u32) -> Self {
        let mut raw = Self {
            io,
            input: BytesMut::new(),
            out: Vec::new(),
        };
        let mut settings = vec![0, 4];
        settings.extend_from_slice(&window.to_be_bytes());
        raw.frame(kind::SETTINGS, 0, 0, &settings);
        raw.flush().await;
        let mut preface = [0; PREFACE.len()];
        soon(raw.io.read_exact(&mut preface)).await.expect("open");
        assert_eq!(preface, PREFACE);
        raw
    }

    /// Queues a frame; [`Raw::flush`] sends all that is queued at once.
    pub(crate) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        self.out.extend_from_slice(&length[1..]);
        self.out.extend_from_slice(&[kind, flags]);
        self.out.extend_from_slice(&stream.to_be_bytes());
        self.out.extend_from_slice(payload);
    }

    pub(crate) fn connect(&mut self, stream: u32) {
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "CONNECT"),
            (":authority", "127.0.0.1:8080"),
            ("sternline-listener", "7"),
        ] {
            // A literal that enters no table, uncompressed (RFC 7541, 6.2.2).
            block.push(0);
            block.push(name.len() as u8);
            block.extend_from_slice(name.as_bytes());
            block.push(value.len() as u8);
            block.extend_from_slice(value.as_bytes());
        }
        self.frame(kind::HEADERS, END_HEADERS, stream, &block);
    }

    /// Answers with status 200, index 8 of the static table.
    pub(crate) fn answer(&mut self, stream: u32) {
        self.frame(kind::HEADERS, END_HEADERS, stream, &[0x88]);
    }

    pub(crate) fn data(&mut self, stream: u32, payload: &[u8]) {
        self.frame(kind::DATA, 0, stream, payload);
    }

    pub(crate) fn reset(&mut self, stream: u32, code: u32) {
        self.frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes());
    }

    pub(crate) fn window_update(&mut self, stream: u32, increment: u32) {
        self.frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes());
    }

    pub(crate) async fn flush(&mut self) {
        let out = std::mem::take(&mut self.out);
        soon(self.io.write_all(&out)).await.expect("open");
    }

    /// The next frame that is neither a SETTINGS nor a PING, which are
    /// answered; `None` at the end. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            let Some(frame) = self.parse() else {
                if self.io.read_buf(&mut self.input).await.ok()? == 0 {
                    return None;
                }
                continue;
            };
            match (frame.kind, frame.flags & ACK) {
                (kind::SETTINGS, 0) => self.frame(kind::SETTINGS, ACK, 0, &[]),
                (kind::PING, 0) => self.frame(kind::PING, ACK, 0, &frame.payload),
                (kind::SETTINGS | kind::PING, _) => {}
                _ => return Some(frame),
            }
            // A peer that is gone needs no answer, and what it sent is read.
            let out = std::mem::take(&mut self.out);
            let _ = self.io.write_all(&out).await;
        }
    }

    fn parse(&mut self) -> Option<Frame> {
        let head: [u8; 9] = self.input.get(..9)?.try_into().expect("nine bytes");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = self.input.get(9..9 + length)?.to_vec();
        self.input.advance(9 + length);
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    /// Reads on to the first frame of a stream that `wanted` accepts.
    pub(crate) async fn find(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        soon(async {
            loop {
                let frame = self.next().await.expect("the tunnel is open");
                assert_ne!(frame.kind, kind::GOAWAY, "the tunnel ended: {frame:?}");
                if wanted(&frame) {
                    return frame;
                }
            }
        })
        .await
    }

    /// What comes while every task runs and this peer says nothing.
    pub(crate) async fn gather(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        for _ in 0..500 {
            tokio::select! {
                biased;
                frame = self.next() => match frame {
                    Some(frame) => frames.push(frame),
                    None => break,
                },
                () = tokio::task::yield_now() => {}
            }
        }
        frames
    }
}
