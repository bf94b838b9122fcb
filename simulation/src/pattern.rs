//! What connections carry: bytes that tell to which connection, direction and place
//! they belong.

use crate::rng::mix;

/// Bytes that name the connection, before everything that the pod sends.
pub(crate) const HEADER: usize = 8;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the pod to the target.
    There,
    /// From the target to the pod.
    Back,
}

/// So many bytes from a place.
pub(crate) fn bytes(connection: u64, way: Way, from: usize, len: usize) -> Vec<u8> {
    let key = mix(connection << 1 | u64::from(way == Way::Back));
    let mut made = Vec::with_capacity(len + 16);
    for word in from / 8..(from + len).div_ceil(8) {
        let word = match word {
            0 if way == Way::There => connection,
            word => mix(key ^ word as u64),
        };
        made.extend_from_slice(&word.to_be_bytes());
    }
    made.drain(..from % 8);
    made.truncate(len);
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_part_of_the_whole_and_of_no_other() {
        let whole = bytes(7, Way::There, 0, 100);
        assert_eq!(whole[..HEADER], 7_u64.to_be_bytes());
        for (from, len) in [(0, 1), (3, 5), (7, 9), (8, 8), (50, 50)] {
            assert_eq!(bytes(7, Way::There, from, len), whole[from..from + len]);
        }
        assert_ne!(bytes(7, Way::Back, 8, 92), whole[8..]);
        assert_ne!(bytes(8, Way::There, 8, 92), whole[8..]);
    }
}
