//! HTTP/2 frames (RFC 9113, section 4 and 6).

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// `END_STREAM` of DATA and HEADERS; `ACK` of SETTINGS and PING has the same bit.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

pub(crate) const SETTING_ENABLE_PUSH: u16 = 2;
pub(crate) const SETTING_MAX_STREAMS: u16 = 3;
pub(crate) const SETTING_WINDOW: u16 = 4;
pub(crate) const SETTING_CONNECT_PROTOCOL: u16 = 8;

/// Error codes of RST_STREAM that specs name.
pub(crate) const CANCEL: u32 = 8;
pub(crate) const CONNECT_ERROR: u32 = 10;

/// What the client of HTTP/2 sends first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Largest payload that the suite takes: HTTP/2's default, never raised.
pub(crate) const MAX_PAYLOAD: usize = 16_384;

/// One frame as it came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload without padding and priority.
    pub(crate) fn content(&self) -> Option<&[u8]> {
        let mut content = &self.payload[..];
        if matches!(self.kind, DATA | HEADERS) && self.has(PADDED) {
            let (padding, rest) = content.split_first()?;
            content = rest.get(..rest.len().checked_sub(usize::from(*padding))?)?;
        }
        if self.kind == HEADERS && self.has(PRIORITY) {
            content = content.get(5..)?;
        }
        Some(content)
    }

    /// The first four bytes of the payload as a number.
    pub(crate) fn number(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.payload.get(..4)?.try_into().ok()?))
    }
}

/// Reads one frame; `None` at the end of the byte stream.
pub(crate) async fn read<R: AsyncRead + Unpin>(io: &mut R) -> io::Result<Option<Frame>> {
    let mut head = [0; 9];
    if io.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    io.read_exact(&mut head[1..]).await?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    if length > MAX_PAYLOAD {
        let message = format!("a frame of {length} bytes; {MAX_PAYLOAD} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut payload = vec![0; length];
    io.read_exact(&mut payload).await?;
    let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
    Ok(Some(Frame {
        kind: head[3],
        flags: head[4],
        stream,
        payload,
    }))
}

/// Puts a frame into bytes. The payload is at most [`MAX_PAYLOAD`] long.
pub(crate) fn encode(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The payload of a SETTINGS frame.
pub(crate) fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in entries {
        payload.extend(id.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_survives_the_way_there_and_back() {
        let bytes = encode(DATA, END_STREAM | PADDED, 5, &[2, b'h', b'i', 0, 0]);
        let frame = read(&mut &bytes[..]).await.expect("io").expect("frame");
        assert_eq!((frame.kind, frame.stream), (DATA, 5));
        assert!(frame.has(END_STREAM));
        assert_eq!(frame.content(), Some(&b"hi"[..]));
        assert!(read(&mut &b""[..]).await.expect("io").is_none());
    }

    #[tokio::test]
    async fn a_frame_that_is_too_long_is_refused() {
        let head = [0, 0x40, 1, DATA, 0, 0, 0, 0, 1];
        let error = read(&mut &head[..]).await.expect_err("too long");
        assert!(error.to_string().contains("16385"), "{error}");
    }
}
