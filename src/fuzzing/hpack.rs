//! Header blocks of HTTP/2, against another implementation.

use super::cursor::Cursor;
use crate::http::two::hpack::{self, Decoder, MAX_TABLE, OVERHEAD};

/// Names and values.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// Another implementation of HPACK.
pub trait Other {
    fn decode(&mut self, block: &[u8]) -> Option<Fields>;
    fn encode(&mut self, fields: &Fields) -> Vec<u8>;
}

/// Header blocks of one connection. Without an `other`, our decoder reads what our encoder writes.
pub fn hpack(data: &[u8], mut other: Option<&mut dyn Other>) {
    let mut cursor = Cursor(data);
    let mut decoder = Decoder::default();
    if cursor.byte() & 1 == 0 {
        while !cursor.is_empty() {
            let block = cursor.bytes();
            let Some(ours) = decode(&mut decoder, block) else { return };
            // A block without fields is no request, and others refuse it.
            if ours.is_empty() {
                return;
            }
            if let Some(other) = &mut other {
                assert_eq!(Some(ours), other.decode(block), "{block:02x?}");
            }
        }
        return;
    }
    while !cursor.is_empty() {
        let fields: Fields = (0..cursor.byte() % 8)
            .map(|_| (cursor.bytes().to_ascii_lowercase(), long(cursor.bytes(), cursor.byte())))
            .collect();
        if let Some(other) = &mut other {
            let block = other.encode(&fields);
            assert_eq!(Some(&fields), decode(&mut decoder, &block).as_ref(), "{block:02x?}");
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
        if let Some(other) = &mut other {
            assert_eq!(Some(written), other.decode(&block), "{block:02x?}");
        }
    }
}

/// `text`, and now and then more of it.
fn long(text: &[u8], times: u8) -> Vec<u8> {
    text.repeat(if times > 250 { 20 } else { 1 })
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Option<Fields> {
    let (mut fields, mut size) = (Fields::new(), 0);
    let result = decoder.decode(block, |name, value| {
        size += name.len() + value.len();
        fields.push((name.to_vec(), value.to_vec()));
    });
    // Each byte of a block names at most one entry.
    assert!(size <= block.len() * (MAX_TABLE - OVERHEAD).max(1), "{size} bytes");
    result.ok().map(|()| fields)
}
