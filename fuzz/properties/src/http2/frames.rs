//! HTTP/2 frames out of the fuzzer's bytes (RFC 9113, section 4.1): mostly well
//! formed, so that what is behind the framing is reached.

use crate::input::Input;

/// What a client sends before its first frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// What a hostile node sends: it is the client of HTTP/2.
pub(super) fn of_a_node(input: &mut Input<'_>) -> Vec<u8> {
    if input.byte().is_multiple_of(8) {
        return input.rest().to_vec();
    }
    let mut wire = PREFACE.to_vec();
    frame(&mut wire, 0x4, 0, 0, &[]);
    frames(input, &mut wire, |choice| {
        if choice % 4 == 0 {
            fields(&[
                (":method", "CONNECT"),
                (":protocol", "sternline-control"),
                (":scheme", "http"),
                (":path", "/control"),
                (":authority", "session"),
            ])
        } else {
            let listener = (choice as u32 * 7919).to_string();
            fields(&[
                (":method", "CONNECT"),
                (":authority", "127.0.0.1:8080"),
                ("sternline-listener", &listener),
                ("forwarded", "for=\"127.0.0.1:40000\""),
            ])
        }
    });
    wire
}

/// What a hostile workstation sends: it is the server.
pub(super) fn of_a_workstation(input: &mut Input<'_>) -> Vec<u8> {
    if input.byte().is_multiple_of(8) {
        return input.rest().to_vec();
    }
    let mut wire = Vec::new();
    // SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441, section 3).
    frame(&mut wire, 0x4, 0, 0, &[0, 8, 0, 0, 0, 1]);
    frames(input, &mut wire, |choice| match choice % 4 {
        0 => fields(&[
            (":status", "502"),
            ("proxy-status", "sternline; error=connection_refused"),
        ]),
        1 => fields(&[(":status", "100")]),
        _ => fields(&[(":status", "200")]),
    });
    wire
}

fn frames(input: &mut Input<'_>, wire: &mut Vec<u8>, head: impl Fn(u8) -> Vec<u8>) {
    while !input.is_empty() && wire.len() < 1 << 20 {
        let (kind, choice) = (input.byte(), input.byte());
        // Few streams, so that frames meet each other: odd ones mostly.
        let stream = match choice >> 4 {
            0 => 0,
            1 => input.word(),
            n => u32::from(n) * 2 - 3,
        };
        match kind % 12 {
            0 => {
                let data = input.take(usize::from(input_len(choice)));
                let repeat = if kind & 0x40 == 0 { 1 } else { 300 };
                let data = data.repeat(repeat.min(16_384 / data.len().max(1)));
                frame(wire, 0x0, choice & END_STREAM, stream, &data);
            }
            1 | 2 => {
                let block = head(input.byte());
                frame(wire, 0x1, END_HEADERS | choice & END_STREAM, stream, &block);
            }
            3 => {
                let block = input.take(usize::from(input_len(choice)));
                frame(wire, 0x1, choice & 0x2f, stream, block);
            }
            4 => frame(wire, 0x3, 0, stream, &input.word().to_be_bytes()),
            5 => {
                let mut entry = (input.short() % 10).to_be_bytes().to_vec();
                entry.extend(input.word().to_be_bytes());
                frame(wire, 0x4, choice & 1, 0, &entry);
            }
            6 => frame(wire, 0x6, choice & 1, 0, &[choice; 8]),
            7 => {
                let mut away = stream.to_be_bytes().to_vec();
                away.extend(input.word().to_be_bytes());
                frame(wire, 0x7, 0, 0, &away);
            }
            8 => frame(wire, 0x8, 0, stream, &input.word().to_be_bytes()),
            9 => frame(wire, 0x9, choice, stream, input.take(16)),
            10 => {
                let payload = input.take(usize::from(input_len(choice)));
                frame(wire, kind >> 4, choice, stream, payload);
            }
            _ => wire.extend_from_slice(input.take(usize::from(choice))),
        }
    }
}

fn input_len(choice: u8) -> u8 {
    choice.rotate_left(3)
}

fn frame(wire: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let len = u32::try_from(payload.len()).unwrap_or(0);
    wire.extend(&len.to_be_bytes()[1..]);
    wire.extend([kind, flags]);
    wire.extend(stream.to_be_bytes());
    wire.extend(payload);
}

/// A header block of literal fields without indexing (RFC 7541, section 6.2.2).
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap_or(0) & 0x7f);
            block.extend(text.bytes());
        }
    }
    block
}
