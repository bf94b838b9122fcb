//! HPACK (RFC 7541): a whole decoder, and the least encoder that is correct.

use super::huffman;
use std::collections::VecDeque;

/// One header block, in the order of the wire.
pub(crate) type Headers = Vec<(String, String)>;

/// The static table; the position here is the index minus one.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""),
    ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""),
    ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""),
    ("last-modified", ""), ("link", ""), ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""),
    ("proxy-authorization", ""), ("range", ""), ("referer", ""), ("refresh", ""), ("retry-after", ""),
    ("server", ""), ("set-cookie", ""), ("strict-transport-security", ""), ("transfer-encoding", ""),
    ("user-agent", ""), ("vary", ""), ("via", ""), ("www-authenticate", ""),
];

/// Largest table that the suite allows: HTTP/2's default.
const TABLE: usize = 4096;

/// Decodes the blocks of one connection, which build on each other.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    table: VecDeque<(String, String)>,
}

impl Decoder {
    /// Decodes one block. The error says what is wrong with it.
    pub(crate) fn decode(&mut self, mut block: &[u8]) -> Result<Headers, String> {
        let mut headers = Headers::new();
        while let Some(first) = block.first().copied() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                headers.push(self.entry(index)?);
            } else if first & 0xe0 == 0x20 {
                let size = integer(&mut block, 5)?;
                if size > TABLE {
                    return Err(format!("a header table of {size} bytes was not allowed"));
                }
                self.shrink(size);
            } else {
                let indexed = first & 0x40 != 0;
                let index = integer(&mut block, if indexed { 6 } else { 4 })?;
                let name = match index {
                    0 => string(&mut block)?,
                    _ => self.entry(index)?.0,
                };
                let header = (name, string(&mut block)?);
                headers.push(header.clone());
                if indexed {
                    self.table.push_front(header);
                    self.shrink(TABLE);
                }
            }
        }
        Ok(headers)
    }

    fn entry(&self, index: usize) -> Result<(String, String), String> {
        match index {
            0 => Err("header index 0".into()),
            1..=61 => Ok((STATIC[index - 1].0.into(), STATIC[index - 1].1.into())),
            _ => self
                .table
                .get(index - 62)
                .cloned()
                .ok_or_else(|| format!("header index {index} is beyond the table")),
        }
    }

    fn shrink(&mut self, size: usize) {
        let held = |table: &VecDeque<(String, String)>| -> usize {
            table.iter().map(|(n, v)| n.len() + v.len() + 32).sum()
        };
        while held(&self.table) > size {
            self.table.pop_back();
        }
    }
}

fn integer(block: &mut &[u8], prefix: u8) -> Result<usize, String> {
    let mask = (1_usize << prefix) - 1;
    let mut value = usize::from(take(block)?) & mask;
    if value < mask {
        return Ok(value);
    }
    for shift in [0, 7, 14] {
        let byte = usize::from(take(block)?);
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("an integer of a header block is too long".into())
}

fn take(block: &mut &[u8]) -> Result<u8, String> {
    let (first, rest) = block.split_first().ok_or("a header block ends early")?;
    *block = rest;
    Ok(*first)
}

fn string(block: &mut &[u8]) -> Result<String, String> {
    let huffman = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(block, 7)?;
    if length > block.len() {
        return Err("a header block ends early".into());
    }
    let (raw, rest) = block.split_at(length);
    *block = rest;
    let bytes = match huffman {
        true => huffman::decode(raw).ok_or("a header string is no Huffman code")?,
        false => raw.to_vec(),
    };
    String::from_utf8(bytes).map_err(|_| "a header string is no UTF-8".into())
}

/// Encodes without tables and without Huffman: every field as a literal.
pub(crate) fn encode(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for part in [name, value] {
            // 127 and more take a second byte, and a third from 255 on.
            match part.len() {
                short @ 0..127 => block.push(u8::try_from(short).unwrap_or(0)),
                long => {
                    let mut rest = long - 127;
                    block.push(127);
                    while rest >= 128 {
                        block.push(u8::try_from(rest % 128).unwrap_or(0) | 0x80);
                        rest /= 128;
                    }
                    block.push(u8::try_from(rest).unwrap_or(0));
                }
            }
            block.extend_from_slice(part.as_bytes());
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_the_rfc_are_decoded_in_order() {
        // RFC 7541, C.4: Huffman and the dynamic table.
        let mut decoder = Decoder::default();
        let first = [
            0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab,
            0x90, 0xf4, 0xff,
        ];
        let headers = decoder.decode(&first).expect("C.4.1");
        assert_eq!(headers[3], (":authority".into(), "www.example.com".into()));
        let second = [
            0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf,
        ];
        let headers = decoder.decode(&second).expect("C.4.2");
        assert_eq!(headers[3].1, "www.example.com");
        assert_eq!(headers[4], ("cache-control".into(), "no-cache".into()));
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let long = "x".repeat(300);
        let block = encode(&[(":status", "502"), ("proxy-status", &long)]);
        let headers = Decoder::default().decode(&block).expect("own block");
        assert_eq!(headers[0], (":status".into(), "502".into()));
        assert_eq!(headers[1].1, long);
    }

    #[test]
    fn broken_blocks_are_refused() {
        for block in [&[0x80][..], &[0xff, 0xff], &[0xbe], &[0x00, 0x05, b'a']] {
            assert!(Decoder::default().decode(block).is_err(), "{block:x?}");
        }
    }
}
