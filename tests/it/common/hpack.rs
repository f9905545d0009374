//! Header compression (RFC 7541) as far as a client of the tests needs it: it writes literals only,
//! and reads whatever a server may write.

use std::{collections::VecDeque, io};

use super::client::wrong;

/// RFC 7541 Appendix A, from index 1 on.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"),
    (":path", "/index.html"), (":scheme", "http"), (":scheme", "https"), (":status", "200"),
    (":status", "204"), (":status", "206"), (":status", "304"), (":status", "400"),
    (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""),
    ("accept", ""), ("access-control-allow-origin", ""), ("age", ""), ("allow", ""),
    ("authorization", ""), ("cache-control", ""), ("content-disposition", ""),
    ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""),
    ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""),
    ("if-match", ""), ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""),
    ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""),
    ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""),
    ("via", ""), ("www-authenticate", ""),
];

/// How many bits each byte has in the code of RFC 7541 Appendix B, which is canonical: codes of one
/// length follow each other in the order of the bytes, and lengths make all the rest.
#[rustfmt::skip]
const BITS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5,
    6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6,
    7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23,
    23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22,
    22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22,
    23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27,
    27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25,
    24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// The table that a server may ask us to keep, in bytes: the default, which we never change.
const TABLE_SIZE: usize = 4096;

/// A number after a prefix of `bits` bits, whose byte has `first` in its other bits.
pub fn number(first: u8, bits: u32, mut value: usize) -> Vec<u8> {
    let most = (1 << bits) - 1;
    if value < most {
        return vec![first | value as u8];
    }
    let mut bytes = vec![first | most as u8];
    value -= most;
    while value >= 128 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A header that the server is not to remember.
pub fn literal(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let (name, value) = (name.as_ref(), value.as_ref());
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.extend(number(0, 7, text.len()));
        bytes.extend(text);
    }
    bytes
}

/// A header that the server is to remember.
pub fn remembered(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = literal(name, value);
    bytes[0] = 0x40;
    bytes
}

/// The reader of one connection.
#[derive(Default)]
pub struct Decoder {
    table: VecDeque<(String, String)>,
}

impl Decoder {
    pub fn decode(&mut self, mut block: &[u8]) -> io::Result<Vec<(String, String)>> {
        let mut headers = Vec::new();
        while let Some(&first) = block.first() {
            match first {
                0x80.. => {
                    let index = read_number(&mut block, 7)?;
                    headers.push(self.entry(index)?);
                }
                0x40.. => {
                    let header = self.literal(&mut block, 6)?;
                    self.table.push_front(header.clone());
                    self.evict();
                    headers.push(header);
                }
                0x20.. => {
                    let size = read_number(&mut block, 5)?;
                    if size > TABLE_SIZE {
                        return Err(wrong("a table larger than allowed"));
                    }
                }
                _ => headers.push(self.literal(&mut block, 4)?),
            }
        }
        Ok(headers)
    }

    fn entry(&self, index: usize) -> io::Result<(String, String)> {
        let found = match index.checked_sub(1 + STATIC.len()) {
            Some(at) => self.table.get(at).cloned(),
            None => STATIC
                .get(index.wrapping_sub(1))
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        };
        found.ok_or_else(|| wrong("no such header in the table"))
    }

    fn literal(&self, block: &mut &[u8], bits: u32) -> io::Result<(String, String)> {
        let name = match read_number(block, bits)? {
            0 => read_text(block)?,
            index => self.entry(index)?.0,
        };
        Ok((name, read_text(block)?))
    }

    fn evict(&mut self) {
        let size = |(name, value): &(String, String)| name.len() + value.len() + 32;
        while self.table.iter().map(size).sum::<usize>() > TABLE_SIZE {
            self.table.pop_back();
        }
    }
}

fn read_number(block: &mut &[u8], bits: u32) -> io::Result<usize> {
    let most = (1 << bits) - 1;
    let mut next = || {
        let (&first, rest) = block.split_first().ok_or_else(|| wrong("a cut header block"))?;
        *block = rest;
        io::Result::Ok(usize::from(first))
    };
    let mut value = next()? & most;
    if value < most {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = next()?;
        value += (byte & 127) << shift;
        if byte < 128 {
            return Ok(value);
        }
    }
    Err(wrong("a number that is too large"))
}

fn read_text(block: &mut &[u8]) -> io::Result<String> {
    let is_coded = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = read_number(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or_else(|| wrong("a cut header"))?;
    *block = rest;
    let bytes = match is_coded {
        true => decompress(text)?,
        false => text.to_vec(),
    };
    String::from_utf8(bytes).map_err(io::Error::other)
}

fn decompress(text: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut code, mut length) = (0_u32, 0_u8);
    for at in 0..text.len() * 8 {
        code = code << 1 | u32::from(text[at / 8] >> (7 - at % 8) & 1);
        length += 1;
        if let Some(byte) = symbol(code, length) {
            bytes.push(byte);
            (code, length) = (0, 0);
        }
    }
    // What is left are the first bits of the end mark, which are ones.
    match length < 8 && code == (1 << length) - 1 {
        true => Ok(bytes),
        false => Err(wrong("a header that ends inside a byte")),
    }
}

/// The byte with this code of so many bits.
fn symbol(code: u32, length: u8) -> Option<u8> {
    let mut first = 0;
    for bits in 5..=length {
        let count = BITS.iter().filter(|&&other| other == bits).count() as u32;
        if bits == length {
            let at = code.checked_sub(first).filter(|&at| at < count)? as usize;
            let mut bytes = (0..=255).filter(|&byte| BITS[usize::from(byte)] == bits);
            return bytes.nth(at);
        }
        first = (first + count) << 1;
    }
    None
}
