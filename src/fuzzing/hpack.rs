//! Header blocks of HTTP/2, against another implementation and against fields that are written plainly.

use super::{
    cursor::Cursor,
    hpack_plain::{Fields, MAX_FIELDS, Writer, is_odd, size},
};
use crate::http::two::hpack::{self, Decoder};

/// Another implementation of HPACK.
pub trait Other {
    fn decode(&mut self, block: &[u8]) -> Option<Fields>;
    fn encode(&mut self, fields: &Fields) -> Vec<u8>;
}

/// Header blocks of one connection: as they come, written by our encoder and by the other, or written plainly.
/// Without an `other`, our decoder reads alone.
pub fn hpack(data: &[u8], mut other: Option<&mut dyn Other>) {
    let mut cursor = Cursor(data);
    let mut decoder = Decoder::default();
    match cursor.byte() {
        choice @ 0x80.. => {
            // Its table of Huffman codes, which it makes for each text, takes a hundred times as long as all else, and the
            // fields are known. Now and then it reads what the plain writer wrote all the same.
            let mut other = other.filter(|_| choice & 0x3c == 0);
            let mut writer = Writer::default();
            while !cursor.is_empty() {
                let (block, fields) = writer.block(&mut cursor);
                let ours = read(&mut decoder, &mut other, &block);
                assert!(ours == fields, "a block is read wrong: {fields:02x?}, not {ours:02x?}");
                if ours.is_none_or(|fields| fields.is_empty()) {
                    return;
                }
            }
        }
        choice if choice & 1 == 0 => {
            while !cursor.is_empty() {
                let ours = read(&mut decoder, &mut other, cursor.bytes());
                if ours.is_none_or(|fields| fields.is_empty()) {
                    return;
                }
            }
        }
        _ => {
            while !cursor.is_empty() {
                encode(&mut cursor, &mut decoder, &mut other);
            }
        }
    }
}

/// Our encoder writes blocks that both read; ours reads those of the other.
fn encode(cursor: &mut Cursor<'_>, decoder: &mut Decoder, other: &mut Option<&mut dyn Other>) {
    let fields: Fields = (0..cursor.byte() % 8)
        .map(|_| (cursor.bytes().to_ascii_lowercase(), long(cursor.bytes(), cursor.byte())))
        .collect();
    if let Some(other) = other {
        let block = other.encode(&fields);
        assert_eq!(Some(&fields), decode(decoder, &block).as_ref(), "{block:02x?}");
    }
    let mut block = Vec::new();
    for (name, value) in &fields {
        hpack::put_field(&mut block, &String::from_utf8_lossy(name), value);
    }
    let written: Fields = fields
        .into_iter()
        .map(|(name, value)| (String::from_utf8_lossy(&name).into_owned().into_bytes(), value))
        .collect();
    let mut fresh = Decoder::default();
    assert_eq!(Some(&written), decode(&mut fresh, &block).as_ref(), "{block:02x?}");
    if let Some(other) = other {
        assert_eq!(Some(written), other.decode(&block), "{block:02x?}");
    }
}

/// `text`, and now and then more of it.
fn long(text: &[u8], times: u8) -> Vec<u8> {
    text.repeat(if times > 250 { 20 } else { 1 })
}

/// Reads a block, as the other does, too.
fn read(decoder: &mut Decoder, other: &mut Option<&mut dyn Other>, block: &[u8]) -> Option<Fields> {
    let ours = decode(decoder, block);
    // A block without fields is no request, and others refuse it.
    let is_empty = ours.as_ref().is_some_and(Vec::is_empty);
    if let Some(other) = other.as_mut().filter(|_| !is_empty && !is_odd(block)) {
        let theirs = other.decode(block);
        let is_too_large = theirs.as_ref().is_some_and(|fields| size(fields) > MAX_FIELDS);
        assert!(
            ours == theirs || is_too_large && ours.is_none(),
            "a block is read wrong: {theirs:02x?}, not {ours:02x?}"
        );
    }
    ours
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Option<Fields> {
    let mut fields = Fields::new();
    let result = decoder.decode(block, |name, value| fields.push((name.to_vec(), value.to_vec())));
    let size = size(&fields);
    assert!(size <= MAX_FIELDS, "a block of {} bytes has {size} bytes of fields", block.len());
    result.ok().map(|()| fields)
}
