//! Plain readers and writers, which several targets compare the product with.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use sha2::{Digest as _, Sha256};

/// The bytes of padded base64, whatever the unused bits of its last character are.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for digit in digits.chars() {
        bits = bits << 6 | DIGITS.find(digit)? as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

/// The digest in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An element of DER.
pub fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..0x80 => vec![tag, length as u8],
        0x80..0x100 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [&head, content].concat()
}

/// A value of JSON, with all members of an object in their order.
pub enum Json {
    Null,
    Text(String),
    Array(Vec<Self>),
    Object(Vec<(String, Self)>),
    Other,
}

impl Json {
    /// The value that `input` begins with.
    pub fn first(input: &[u8]) -> Option<Self> {
        serde_json::Deserializer::from_slice(input).into_iter().next()?.ok()
    }

    /// The values of each of these members, whose names come in any case; `None` if this is no object, or one of
    /// them no text. `null` is an object without members, or an empty text.
    pub fn members<const N: usize>(&self, names: [&str; N]) -> Option<[Vec<&str>; N]> {
        let members = match self {
            Self::Null => &[][..],
            Self::Object(members) => members,
            _ => return None,
        };
        let mut found = [const { Vec::new() }; N];
        for (name, value) in members {
            let Some(at) = names.iter().position(|known| known.eq_ignore_ascii_case(name)) else {
                continue;
            };
            found[at].push(match value {
                Self::Null => "",
                Self::Text(text) => text,
                _ => return None,
            });
        }
        Some(found)
    }

    /// The last value of each of these members, or an empty text.
    pub fn texts<const N: usize>(&self, names: [&str; N]) -> Option<[&str; N]> {
        Some(self.members(names)?.map(|found| found.last().copied().unwrap_or_default()))
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Json, A::Error> {
        let mut found = Vec::new();
        while let Some(element) = array.next_element()? {
            found.push(element);
        }
        Ok(Json::Array(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut found = Vec::new();
        while let Some(member) = map.next_entry()? {
            found.push(member);
        }
        Ok(Json::Object(found))
    }
}
