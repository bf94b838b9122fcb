//! The WebSocket form: frames of anyone, and our own.

use crate::input::Input;
use crate::io::Peer;
use sternline_tunnel::websocket::WebSocketIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, duplex};

/// Bytes that a test carries: more makes it slow and shows no more.
const MOST: usize = 512 * 1024;

/// What comes out of frames is what went in, however they are cut, masked,
/// fragmented and mixed with PINGs, and any other bytes are an error or an end.
pub(crate) fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let (mode, style) = (input.byte(), [input.byte(), input.byte(), input.byte()]);
    crate::run(async {
        match mode % 4 {
            0 => {
                let bytes = input.rest();
                let (peer, _) = Peer::new(&mut Input::new(&style), bytes);
                let read = drain(WebSocketIo::server(peer).await).await;
                assert!(read.len() <= bytes.len());
            }
            1 => {
                let bytes = input.rest();
                let (peer, _) = Peer::new(&mut Input::new(&style), bytes);
                let read = drain(WebSocketIo::client(peer).await).await;
                assert!(read.len() <= bytes.len());
            }
            2 => {
                let (frames, payload) = frames(&mut input);
                // All of it is read, and then the end.
                let style = [style[0] & 0x07 | 0x10];
                let (peer, _) = Peer::new(&mut Input::new(&style), &frames);
                assert_eq!(drain(WebSocketIo::server(peer).await).await, payload);
            }
            _ => there_and_back(&mut input).await,
        }
    });
}

/// Reads until the end, an error, or silence.
async fn drain<IO: AsyncRead + AsyncWrite + Unpin>(mut io: WebSocketIo<IO>) -> Vec<u8> {
    let mut read = Vec::new();
    let end = io.read_to_end(&mut read);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), end).await;
    read
}

/// Frames as a client may send them (RFC 6455, section 5.2), and the payload that
/// they carry. Written here from the RFC alone.
fn frames(input: &mut Input<'_>) -> (Vec<u8>, Vec<u8>) {
    let (mut wire, mut payload) = (Vec::new(), Vec::new());
    let mut inside = false;
    while !input.is_empty() && payload.len() < MOST {
        let choice = input.byte();
        if choice >= 0xf0 {
            // PING, which may stand between fragments: 125 bytes at most.
            let data = input.take(usize::from(choice & 0x0f));
            frame(&mut wire, 0x89, input.word().to_be_bytes(), data);
            continue;
        }
        let fin = choice & 1 == 1;
        let most = usize::from(input.byte()) << (choice >> 5);
        let mut data = input.take(most.min(64)).to_vec();
        // Long frames out of few bytes.
        let repeat = (most / data.len().max(1)).clamp(1, 4000);
        data = data.repeat(repeat);
        let opcode = if inside { 0 } else { 2 };
        let key = input.word().to_be_bytes();
        frame(&mut wire, u8::from(fin) << 7 | opcode, key, &data);
        payload.extend(data);
        inside = !fin;
    }
    if inside {
        frame(&mut wire, 0x80, [0; 4], &[]);
    }
    (wire, payload)
}

fn frame(wire: &mut Vec<u8>, first: u8, key: [u8; 4], data: &[u8]) {
    wire.push(first);
    match data.len() {
        len @ 0..=125 => wire.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            wire.push(0x80 | 126);
            wire.extend((len as u16).to_be_bytes());
        }
        len => {
            wire.push(0x80 | 127);
            wire.extend((len as u64).to_be_bytes());
        }
    }
    wire.extend(key);
    let masked = data.iter().zip(key.iter().cycle());
    wire.extend(masked.map(|(byte, key)| byte ^ key));
}

/// Both ends are ours, with a pipe between them that takes little at a time.
async fn there_and_back(input: &mut Input<'_>) {
    let (near, far) = duplex(16 * (usize::from(input.byte()) + 1));
    let piece = usize::from(input.short()) + 1;
    let data = input.rest().repeat(1 + piece % 7);
    let (mut client, mut server) = (
        WebSocketIo::client(near).await,
        WebSocketIo::server(far).await,
    );
    let send = async {
        for piece in data.chunks(piece) {
            client.write_all(piece).await.expect("the other end reads");
            client.flush().await.expect("the other end reads");
        }
        client.shutdown().await.expect("the other end reads");
        let mut back = Vec::new();
        client.read_to_end(&mut back).await.expect("an end");
        assert!(back.is_empty(), "nothing was sent back");
    };
    let receive = async {
        let mut read = Vec::new();
        server.read_to_end(&mut read).await.expect("an end");
        assert_eq!(read, data);
        let _ = server.shutdown().await;
    };
    tokio::join!(send, receive);
}
