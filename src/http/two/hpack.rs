//! Header blocks of HTTP/2 (HPACK, RFC 7541): decodes those of clients, encodes those of the server.
//!
//! The server only refers to the static table, so that an answer costs no memory and any client can
//! read it, whatever it allows.

use std::collections::VecDeque;

use super::huffman;

/// The largest dynamic table of a client (RFC 9113 6.5.2: the default), in bytes as the RFC counts them.
pub const MAX_TABLE: usize = 4096;
/// The fields of a block may have so many bytes, which is much more than those of any request: two bytes of a block
/// can mean thousands.
const MAX_FIELDS: usize = 1 << 20;
/// The size of each field besides its bytes (RFC 7541 4.1).
pub const OVERHEAD: usize = 32;

/// Indices of names in the static table.
const STATUS: usize = 8;
pub const CONTENT_LENGTH: usize = 28;
pub const CONTENT_TYPE: usize = 31;
pub const DATE: usize = 33;

/// RFC 7541 appendix A; indices begin with 1.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// A header block can't be decoded; from now on the tables of client and server differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

#[derive(Default)]
pub struct Decoder {
    /// The fields that the client may refer to, the oldest first: where each begins in `bytes`, and
    /// the lengths of its name and value.
    entries: VecDeque<(usize, usize, usize)>,
    bytes: Vec<u8>,
    /// The size of the entries, and by how much the client has reduced the maximum.
    size: usize,
    reduced_by: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> Result<u8, Broken> {
        let (first, rest) = self.0.split_first().ok_or(Broken)?;
        self.0 = rest;
        Ok(*first)
    }

    /// A number whose first bits are the lower `bits` of `first` (RFC 7541 5.1).
    fn number(&mut self, first: u8, bits: u32) -> Result<usize, Broken> {
        let mask = (1_u8 << bits) - 1;
        let mut number = usize::from(first & mask);
        if number < usize::from(mask) {
            return Ok(number);
        }
        // No longer number makes sense here.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            number += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Broken)
    }

    /// Replaces `out` with a string (RFC 7541 5.2).
    fn string(&mut self, out: &mut Vec<u8>) -> Result<(), Broken> {
        let first = self.byte()?;
        let length = self.number(first, 7)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(Broken)?;
        self.0 = rest;
        out.clear();
        match first & 0x80 != 0 {
            true => huffman::decode(text, out).ok_or(Broken)?,
            false => out.extend_from_slice(text),
        }
        Ok(())
    }
}

/// Counts a field.
fn add(size: &mut usize, name: &[u8], value: &[u8]) -> Result<(), Broken> {
    *size += name.len() + value.len();
    if *size > MAX_FIELDS { Err(Broken) } else { Ok(()) }
}

impl Decoder {
    /// Shows the fields of `block`, names and values, to `field`.
    pub fn decode(
        &mut self,
        block: &[u8],
        mut field: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Broken> {
        let mut rest = Cursor(block);
        let (mut may_resize, mut size) = (true, 0);
        while !rest.0.is_empty() {
            let first = rest.byte()?;
            if first & 0xe0 == 0x20 {
                // RFC 7541 4.2: at the beginning of a block only.
                let size = rest.number(first, 5)?;
                if !may_resize || size > MAX_TABLE {
                    return Err(Broken);
                }
                self.reduced_by = MAX_TABLE - size;
                self.evict(0);
                continue;
            }
            may_resize = false;
            if first & 0x80 != 0 {
                let index = rest.number(first, 7)?;
                let (name, value) = self.entry(index)?;
                add(&mut size, name, value)?;
                field(name, value);
                continue;
            }
            // Literals with indexing, without, and never indexed: the last two are the same here.
            let is_kept = first & 0x40 != 0;
            let index = rest.number(first, if is_kept { 6 } else { 4 })?;
            let (mut name, mut value) =
                (std::mem::take(&mut self.name), std::mem::take(&mut self.value));
            match index {
                0 => rest.string(&mut name)?,
                index => {
                    name.clear();
                    name.extend_from_slice(self.entry(index)?.0);
                }
            }
            rest.string(&mut value)?;
            add(&mut size, &name, &value)?;
            field(&name, &value);
            if is_kept {
                self.insert(&name, &value);
            }
            (self.name, self.value) = (name, value);
        }
        // Long ones would be held for as long as the connection lasts.
        if self.name.capacity() + self.value.capacity() > 1024 {
            (self.name, self.value) = (Vec::new(), Vec::new());
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), Broken> {
        let index = index.checked_sub(1).ok_or(Broken)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let newest = self.entries.len().checked_sub(1).ok_or(Broken)?;
        let at = newest.checked_sub(index - STATIC.len()).ok_or(Broken)?;
        let (start, name, value) = self.entries[at];
        Ok(self.bytes[start..start + name + value].split_at(name))
    }

    fn insert(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + OVERHEAD;
        self.evict(size);
        // RFC 7541 4.4: an entry that is too large empties the table and is not added.
        if size > MAX_TABLE - self.reduced_by {
            return;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.entries.push_back((start, name.len(), value.len()));
        self.size += size;
    }

    fn evict(&mut self, size: usize) {
        let room = (MAX_TABLE - self.reduced_by).saturating_sub(size);
        while self.size > room {
            let Some((_, name, value)) = self.entries.pop_front() else {
                break;
            };
            self.size -= name + value + OVERHEAD;
        }
        // The bytes of evicted entries are dropped once they are half of all, so that moving the rest is
        // cheap.
        let unused = self.entries.front().map_or(self.bytes.len(), |entry| entry.0);
        if unused >= self.bytes.len() - unused {
            self.bytes.drain(..unused);
            for entry in &mut self.entries {
                entry.0 -= unused;
            }
        }
    }
}

/// Appends a number of which `bits` fit into the first byte.
fn put_number(out: &mut Vec<u8>, bits: u32, mut number: usize) {
    let mask = (1_usize << bits) - 1;
    if number < mask {
        out.push(number as u8);
        return;
    }
    out.push(mask as u8);
    number -= mask;
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Says that the server remembers no fields, as it must once to a client that allows less than the default.
pub fn put_no_table(out: &mut Vec<u8>) {
    out.push(0x20);
}

pub fn put_status(out: &mut Vec<u8>, status: u16) {
    match status {
        // The static table has these as a whole.
        200 => out.push(0x88),
        400 => out.push(0x8c),
        404 => out.push(0x8d),
        500 => out.push(0x8e),
        status => {
            let digit = |unit| b'0' + (status / unit % 10) as u8;
            put_indexed(out, STATUS, &[digit(100), digit(10), digit(1)]);
        }
    }
}

/// Appends a field; `name` is in lower case.
pub fn put_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    match STATIC.iter().position(|(known, _)| *known == name) {
        Some(index) => put_indexed(out, index + 1, value),
        None => {
            out.push(0);
            put_string(out, name.as_bytes());
            put_string(out, value);
        }
    }
}

/// Appends a field whose name has this index.
pub fn put_indexed(out: &mut Vec<u8>, index: usize, value: &[u8]) {
    put_number(out, 4, index);
    put_string(out, value);
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    put_number(out, 7, text.len());
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Broken> {
        let mut found = Vec::new();
        decoder.decode(block, |name, value| {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            found.push(format!("{}: {}", text(name), text(value)));
        })?;
        Ok(found)
    }

    #[test]
    fn two_bytes_can_mean_thousands_but_not_again_and_again() {
        let mut decoder = Decoder::default();
        let mut block = vec![0x40];
        put_string(&mut block, &[b'n'; 4000]);
        put_string(&mut block, b"v");
        assert_eq!(Ok(1), fields(&mut decoder, &block).map(|fields| fields.len()));
        // That name with another value, kept as well, and as it is.
        for again in [&[0x7e, 0][..], &[0xbe]] {
            assert_eq!(Ok(200), fields(&mut decoder, &again.repeat(200)).map(|found| found.len()));
            assert_eq!(Err(Broken), fields(&mut decoder, &again.repeat(300)));
        }
    }

    #[test]
    fn a_block_has_1_mib_of_fields_at_most() {
        let mut block = vec![0x40];
        put_string(&mut block, &[b'n'; 2040]);
        put_string(&mut block, b"8 bytes.");
        block.extend_from_slice(&[0xbe; 511]);
        assert_eq!(Ok(512), fields(&mut Decoder::default(), &block).map(|found| found.len()));
        put_field(&mut block, "n", b"");
        assert_eq!(Err(Broken), fields(&mut Decoder::default(), &block));
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    /// RFC 7541 C.3 and C.4: three requests of one connection, without and with Huffman code.
    #[test]
    fn the_examples_of_the_rfc_are_decoded() {
        let plain = [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ];
        let coded = [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ];
        for blocks in [plain, coded] {
            let mut decoder = Decoder::default();
            let all = blocks.map(|block| fields(&mut decoder, &bytes(block)).unwrap().join(", "));
            assert_eq!(
                [
                    ":method: GET, :scheme: http, :path: /, :authority: www.example.com",
                    ":method: GET, :scheme: http, :path: /, :authority: www.example.com, cache-control: no-cache",
                    ":method: GET, :scheme: https, :path: /index.html, :authority: www.example.com, custom-key: custom-value",
                ],
                all.each_ref().map(String::as_str)
            );
            assert_eq!(164, decoder.size);
        }
    }

    #[test]
    fn old_fields_leave_a_full_table_and_large_ones_empty_it() {
        let mut decoder = Decoder::default();
        let field = |value: &[u8]| {
            let mut block = vec![0x40, 1, b'n'];
            put_number(&mut block, 7, value.len());
            [block, value.to_vec()].concat()
        };
        for number in 0..1000_usize {
            let value = vec![b'a' + (number % 26) as u8; 600 + number % 7];
            fields(&mut decoder, &field(&value)).unwrap();
            assert!(decoder.size <= MAX_TABLE && decoder.bytes.len() <= 2 * MAX_TABLE);
            // The newest has the first index behind the static table.
            let newest = fields(&mut decoder, &[0x80 | 62]).unwrap();
            assert_eq!(format!("n: {}", String::from_utf8(value).unwrap()), newest[0]);
            let last = 61 + decoder.entries.len() as u8;
            let oldest = fields(&mut decoder, &[0x80 | last]).unwrap();
            let then = number + 1 - decoder.entries.len();
            assert_eq!(
                format!(
                    "n: {}",
                    char::from(b'a' + (then % 26) as u8).to_string().repeat(600 + then % 7)
                ),
                oldest[0]
            );
            assert_eq!(Err(Broken), fields(&mut decoder, &[0x80 | (last + 1)]));
        }
        fields(&mut decoder, &field(&[b'x'; 5000])).unwrap();
        assert_eq!((0, 0), (decoder.size, decoder.entries.len()));
        // A smaller table, and none.
        fields(&mut decoder, &field(b"v")).unwrap();
        assert_eq!(34, decoder.size);
        fields(&mut decoder, &[0x20 | 30]).unwrap();
        assert_eq!(0, decoder.size);
        fields(&mut decoder, &field(b"v")).unwrap();
        assert_eq!(0, decoder.size);
    }

    #[test]
    fn a_table_is_filled_to_its_last_byte() {
        let field = |name: u8, length: usize| {
            let mut block = vec![0x40, 1, name];
            put_number(&mut block, 7, length);
            block.resize(block.len() + length, b'v');
            block
        };
        for lengths in [&[4096 - 33][..], &[2048 - 33, 2048 - 33], &[1000, 3096 - 66]] {
            let mut decoder = Decoder::default();
            // The largest size is no other than the one at first.
            fields(&mut decoder, &[0x3f, 0xe1, 0x1f]).unwrap();
            for (length, name) in lengths.iter().zip(b'a'..) {
                fields(&mut decoder, &field(name, *length)).unwrap();
            }
            assert_eq!((MAX_TABLE, lengths.len()), (decoder.size, decoder.entries.len()));
            fields(&mut decoder, &field(b'z', 0)).unwrap();
            assert_eq!(lengths.len(), decoder.entries.len(), "one has made room");
            fields(&mut decoder, &field(b'z', 4096 - 32)).unwrap();
            assert_eq!((0, 0, 0), (decoder.size, decoder.entries.len(), decoder.bytes.len()));
        }
    }

    #[test]
    fn a_connection_keeps_no_long_fields_in_its_buffers() {
        for (name, value) in [(2000, 0), (0, 2000), (600, 600)] {
            let mut decoder = Decoder::default();
            let mut block = vec![0];
            for length in [name, value] {
                put_number(&mut block, 7, length);
                block.resize(block.len() + length, b'v');
            }
            assert_eq!(1, fields(&mut decoder, &block).unwrap().len());
            assert!(decoder.name.capacity() + decoder.value.capacity() <= 1024);
        }
    }

    #[test]
    fn a_string_of_any_length_is_read_as_it_is_written() {
        for length in (0..600).chain(16_380..16_520) {
            let text = vec![b'v'; length];
            let mut block = Vec::new();
            // Names whose index fits into four bits, just not, and not at all.
            for index in [1, 14, 15, 16, 61] {
                put_indexed(&mut block, index, &text);
            }
            let found = fields(&mut Decoder::default(), &block).unwrap();
            let names =
                [":authority", ":status", "accept-charset", "accept-encoding", "www-authenticate"];
            let value = String::from_utf8(text).unwrap();
            assert_eq!(names.map(|name| format!("{name}: {value}")).as_slice(), found);
        }
    }

    #[test]
    fn broken_blocks_are_refused() {
        for block in [
            "80",                // index 0
            "be",                // nothing in the table yet
            "ff ff ff ff ff 0f", // a number without end
            "40 05 61",          // cut off
            "00 81 ff 00",       // a name that is no Huffman code
            "82 20",             // a resize behind a field
            "3f e2 1f",          // to 4097
            "04",
        ] {
            let found = fields(&mut Decoder::default(), &bytes(block));
            assert_eq!(Err(Broken), found, "{block}");
        }
    }

    #[test]
    fn what_we_write_can_be_read() {
        let mut block = Vec::new();
        put_no_table(&mut block);
        for status in [200, 400, 404, 500, 503, 301] {
            put_status(&mut block, status);
        }
        put_field(&mut block, "content-type", b"application/json");
        put_field(&mut block, "x-content-type-options", b"nosniff");
        put_field(&mut block, "location", &[b'a'; 300]);
        put_field(&mut block, "error", b"");
        for index in [CONTENT_LENGTH, CONTENT_TYPE, DATE] {
            put_indexed(&mut block, index, b"x");
        }
        // The most frequent ones are a byte each.
        assert_eq!([0x20, 0x88, 0x8c, 0x8d, 0x8e], block[..5]);
        let found = fields(&mut Decoder::default(), &block).unwrap();
        let statuses = [200, 400, 404, 500, 503, 301].map(|status| format!(":status: {status}"));
        assert_eq!(statuses.as_slice(), &found[..6]);
        assert_eq!("content-type: application/json", found[6]);
        assert_eq!("x-content-type-options: nosniff", found[7]);
        assert_eq!(format!("location: {}", "a".repeat(300)), found[8]);
        assert_eq!("error: ", found[9]);
        assert_eq!(["content-length: x", "content-type: x", "date: x"], found[10..]);
    }
}
