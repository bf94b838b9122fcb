//! Bytes that look random, differ at every offset, and that both ends can make
//! from a seed alone.
//!
//! A receiver that knows the seed finds the first byte that was lost, doubled
//! or swapped, which equal lengths or a repeating text would hide.

use sha2::{Digest, Sha256};

/// Fills `buf` with the bytes that stand from `offset` on in the pattern of
/// `seed`. Cutting a range in pieces does not change its bytes.
pub fn fill(seed: u64, offset: u64, buf: &mut [u8]) {
    let mut word_index = offset / 8;
    let skip = usize::try_from(offset % 8).unwrap_or_default();
    let (head, body) = buf.split_at_mut(buf.len().min((8 - skip) % 8));
    if !head.is_empty() {
        let word = word(seed, word_index);
        head.copy_from_slice(&word[skip..skip + head.len()]);
        word_index += 1;
    }
    for chunk in body.chunks_mut(8) {
        chunk.copy_from_slice(&word(seed, word_index)[..chunk.len()]);
        word_index += 1;
    }
}

/// The position in `buf` of the first byte that is not what the pattern of
/// `seed` has from `offset` on.
#[must_use]
pub fn first_difference(seed: u64, offset: u64, buf: &[u8]) -> Option<usize> {
    let mut expected = vec![0; buf.len()];
    fill(seed, offset, &mut expected);
    if expected == buf {
        return None;
    }
    expected.iter().zip(buf).position(|(e, b)| e != b)
}

/// The SHA-256, in hex, of the first `length` bytes of the pattern of `seed`.
#[must_use]
pub fn checksum(seed: u64, length: u64) -> String {
    let mut hash = Sha256::new();
    let mut buf = vec![0; 64 * 1024];
    let mut done = 0;
    while done < length {
        let n = usize::try_from(length - done).map_or(buf.len(), |left| left.min(buf.len()));
        fill(seed, done, &mut buf[..n]);
        hash.update(&buf[..n]);
        done += n as u64;
    }
    hex(&hash.finalize())
}

/// Lower-case hex digits of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// SplitMix64 at a position, so that any offset is found at once.
fn word(seed: u64, index: u64) -> [u8; 8] {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_give_the_same_bytes_as_the_whole() {
        let mut whole = [0; 100];
        fill(7, 3, &mut whole);
        for cut in 0..=100 {
            let mut pieces = [0; 100];
            let (a, b) = pieces.split_at_mut(cut);
            fill(7, 3, a);
            fill(7, 3 + cut as u64, b);
            assert_eq!(pieces, whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_lost_byte_is_found_where_it_was_lost() {
        let mut bytes = vec![0; 64];
        fill(1, 0, &mut bytes);
        assert_eq!(first_difference(1, 0, &bytes), None);
        bytes.remove(20);
        assert_eq!(first_difference(1, 0, &bytes), Some(20));
    }

    #[test]
    fn checksums_tell_seeds_and_lengths_apart() {
        assert_eq!(checksum(1, 70_000), checksum(1, 70_000));
        assert_ne!(checksum(1, 70_000), checksum(2, 70_000));
        assert_ne!(checksum(1, 70_000), checksum(1, 69_999));
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(checksum(1, 0), empty);
    }
}
