//! Control messages, length-delimited.

use crate::input::Input;
use bytes::{Buf as _, BytesMut};
use sternline_api::protocol::MAX_CONTROL_MESSAGE;
use sternline_api::v1alpha1::ControlMessage;
use sternline_tunnel::control::{decode, encode};

/// What is read does not depend on how the bytes were cut, and what was read is
/// read again after it was written.
pub(crate) fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let piece = usize::from(input.byte()).max(1);
    let wire = input.rest();
    let whole = read([wire].into_iter());
    let pieces = read(wire.chunks(piece));
    assert_eq!(whole, pieces, "cut into {piece}");
    for message in whole.0 {
        let Ok(mut again) = encode(&message).map(BytesMut::from) else {
            // A number written in fewer bytes than it takes may grow.
            continue;
        };
        assert!(again.len() <= MAX_CONTROL_MESSAGE + 5);
        let read = decode(&mut again).expect("we write what can be read");
        assert_eq!(read, Some(message));
        assert!(!again.has_remaining());
    }
}

/// The messages, whether reading failed then, and what was left.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<ControlMessage>, bool, usize) {
    let (mut buffer, mut messages) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decode(&mut buffer) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return (messages, true, 0),
            }
        }
    }
    (messages, false, buffer.len())
}
