//! Master keys as key stores hold them.
//!
//! Writes K1, the 56 bytes of KES 0.14, and K4, the message of the newest generation; reads K1 to K4.

use std::{borrow::Cow, fmt};

use base64::Engine;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
};

use super::{
    json::{self, BASE64},
    key::{Algorithm, CreatedAt, KEY_SIZE, MasterKey},
};
use crate::base::secret::Secret;

/// SHA-256 as the hash of an HMAC key in K4.
const SHA256: u64 = 1;

/// Why a stored value is no master key. Shows nothing of its content.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// The value is neither a JSON object nor a protobuf message in base64.
    Syntax,
    /// The key has this many bytes; zero if there is none.
    KeySize(usize),
    /// The key is for an algorithm that does not exist.
    UnknownAlgorithm,
    /// A protobuf value without an HMAC key for SHA-256 of 32 bytes.
    HmacKey,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("secret is malformed: ")?;
        match self {
            Self::Syntax => f.write_str("the stored value is in no known format"),
            Self::KeySize(size) => write!(f, "the key has {size} bytes instead of {KEY_SIZE}"),
            Self::UnknownAlgorithm => f.write_str("the key is for an unknown algorithm"),
            Self::HmacKey => f.write_str("the HMAC key is missing or unusable"),
        }
    }
}

impl std::error::Error for Error {}

/// The stored value of `key`.
///
/// With an HMAC key it is K4, which the newest generation reads, and keeps all that is known of the key.
/// Otherwise it is K1, `{"bytes":"<base64>"}`, which every version of KES reads; it loses algorithm and origin.
pub fn encode(key: &MasterKey) -> Secret {
    match key.hmac_key() {
        Some(hmac_key) => Secret::new(BASE64.encode(encode_protobuf(key, hmac_key)).into_bytes()),
        None => {
            let text = BASE64.encode(key.bytes());
            Secret::new(format!(r#"{{"bytes":"{text}"}}"#).into_bytes())
        }
    }
}

/// Writes the message that [`decode_protobuf`] reads.
fn encode_protobuf(key: &MasterKey, hmac_key: &[u8]) -> Vec<u8> {
    let kind = match key.algorithm {
        Some(Algorithm::Aes256) | None => 1,
        Some(Algorithm::ChaCha20) => 2,
    };
    let part = |bytes: &[u8], kind| {
        let mut part = Vec::with_capacity(64);
        put_bytes(1, bytes, &mut part);
        put_number(2, kind, &mut part);
        part
    };
    // Buffers that grow leave copies, which the allocator wipes.
    let mut message = Vec::with_capacity(256);
    put_bytes(1, &part(key.bytes(), kind), &mut message);
    put_bytes(2, &part(hmac_key, SHA256), &mut message);
    if let Some(CreatedAt { timestamp: (seconds, nanos), .. }) = key.created_at
        && (seconds, nanos) != (0, 0)
    {
        let mut timestamp = Vec::new();
        put_number(1, seconds.cast_unsigned(), &mut timestamp);
        put_number(2, nanos.into(), &mut timestamp);
        put_bytes(3, &timestamp, &mut message);
    }
    if let Some(by) = &key.created_by {
        put_bytes(4, by.as_bytes(), &mut message);
    }
    message
}

/// Writes a field that is a number, unless it is zero.
fn put_number(tag: u32, number: u64, message: &mut Vec<u8>) {
    if number != 0 {
        encode_key(tag, WireType::Varint, message);
        encode_varint(number, message);
    }
}

/// Writes a field that is bytes, a text or a message.
fn put_bytes(tag: u32, bytes: &[u8], message: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, message);
    encode_varint(bytes.len() as u64, message);
    message.extend_from_slice(bytes);
}

/// Reads a stored value of any generation: a JSON object (K1 to K3), behind which anything is ignored as in
/// KES 0.14, or else K4.
///
/// # Errors
/// [`Error`] if the value can't be used as a key.
pub fn decode(value: &[u8]) -> Result<MasterKey, Error> {
    let value = value.trim_ascii();
    if value.first() == Some(&b'{') {
        decode_json(value)
    } else {
        decode_protobuf(&from_base64(value)?)
    }
}

/// Reads K1 to K3. The member `version` is always `v1` and ignored.
fn decode_json(value: &[u8]) -> Result<MasterKey, Error> {
    let names = ["bytes", "algorithm", "created_at", "created_by"];
    let ([bytes, algorithm, created_at, created_by], _) =
        json::texts(value, names).ok_or(Error::Syntax)?;
    let bytes = from_base64(bytes.as_bytes())?;
    let mut key = MasterKey::from_bytes(&bytes).ok_or(Error::KeySize(bytes.len()))?;
    if !algorithm.is_empty() {
        key.algorithm =
            Some(Algorithm::from_stored_name(&algorithm).ok_or(Error::UnknownAlgorithm)?);
    }
    let non_empty = |text: Cow<'_, str>| Some(text.into_owned()).filter(|text| !text.is_empty());
    key.created_at = non_empty(created_at).map(|text| CreatedAt { text, timestamp: (0, 0) });
    key.created_by = non_empty(created_by);
    Ok(key)
}

/// Reads K4: `KeyVersion { 1: SecretKey { 1: bytes, 2: type }, 2: HMACKey { 1: bytes, 2: hash },
/// 3: Timestamp { 1: seconds, 2: nanos }, 4: created_by }`.
fn decode_protobuf(message: &[u8]) -> Result<MasterKey, Error> {
    let fields = Fields::parse(message)?;
    let secret = Fields::parse(fields.bytes[0])?;
    let mut key =
        MasterKey::from_bytes(secret.bytes[0]).ok_or(Error::KeySize(secret.bytes[0].len()))?;
    key.algorithm = Some(match secret.numbers[1] {
        1 => Algorithm::Aes256,
        2 => Algorithm::ChaCha20,
        _ => return Err(Error::UnknownAlgorithm),
    });

    let hmac = Fields::parse(fields.bytes[1])?;
    if hmac.numbers[1] != SHA256 {
        return Err(Error::HmacKey);
    }
    key = key.with_hmac_key(hmac.bytes[0]).ok_or(Error::HmacKey)?;

    let time = Fields::parse(fields.bytes[2])?.numbers;
    key.created_at = u32::try_from(time[1])
        .ok()
        .and_then(|nanos| CreatedAt::from_timestamp(time[0].cast_signed(), nanos));
    let by = std::str::from_utf8(fields.bytes[3]).map_err(|_| Error::Syntax)?;
    key.created_by = Some(by.to_owned()).filter(|by| !by.is_empty());
    Ok(key)
}

/// The first fields of a protobuf message, each both as bytes and as a number. A field that is
/// absent, or has another wire type, is empty and zero.
#[derive(Default)]
struct Fields<'a> {
    bytes: [&'a [u8]; 4],
    numbers: [u64; 4],
}

impl<'a> Fields<'a> {
    fn parse(mut message: &'a [u8]) -> Result<Self, Error> {
        let mut fields = Self::default();
        while !message.is_empty() {
            let (tag, wire_type) = decode_key(&mut message).map_err(|_| Error::Syntax)?;
            let index = tag as usize - 1; // a tag of zero is refused above
            match wire_type {
                WireType::Varint if index < fields.numbers.len() => {
                    fields.numbers[index] =
                        decode_varint(&mut message).map_err(|_| Error::Syntax)?;
                }
                WireType::LengthDelimited if index < fields.bytes.len() => {
                    let len = decode_varint(&mut message).map_err(|_| Error::Syntax)?;
                    let len = usize::try_from(len).map_err(|_| Error::Syntax)?;
                    (fields.bytes[index], message) =
                        message.split_at_checked(len).ok_or(Error::Syntax)?;
                }
                _ => skip_field(wire_type, tag, &mut message, DecodeContext::default())
                    .map_err(|_| Error::Syntax)?,
            }
        }
        Ok(fields)
    }
}

fn from_base64(text: &[u8]) -> Result<Vec<u8>, Error> {
    BASE64.decode(text).map_err(|_| Error::Syntax)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use base64::prelude::BASE64_STANDARD;

    use super::{super::testdata, *};

    #[test]
    fn a_key_is_written_as_kes_0_14_writes_it() {
        let key = MasterKey::from_bytes(&[0; 32]).unwrap();
        let value = encode(&key);
        assert_eq!(56, value.len());
        assert_eq!(b"{\"bytes\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"}", value.expose());
        assert_eq!(key.bytes(), decode(value.expose()).unwrap().bytes());
    }

    #[test]
    fn stored_values_of_every_generation_are_read() {
        let data = testdata::read("stored-keys.json");
        for case in data["cases"].as_array().unwrap() {
            let name = testdata::text(case, "name");
            let result = decode(testdata::text(case, "raw").as_bytes());
            if case["ok"] == false {
                assert!(result.is_err(), "{name}");
                continue;
            }
            let key = result.unwrap_or_else(|err| panic!("{name}: {err}"));
            assert_eq!(testdata::base64(case, "key"), key.bytes(), "{name}");
            let algorithm = match testdata::text(case, "type") {
                "AES256" => Some(Algorithm::Aes256),
                "ChaCha20" => Some(Algorithm::ChaCha20),
                _ => None,
            };
            assert_eq!(algorithm, key.algorithm(), "{name}");
            let hmac_key = case.get("hmac_key").map(|_| testdata::base64(case, "hmac_key"));
            assert_eq!(hmac_key.as_deref(), key.hmac_key().map(|key| key.as_slice()), "{name}");
            for (member, actual) in
                [("created_at", key.created_at()), ("created_by", key.created_by())]
            {
                let expected = case[member].as_str().unwrap_or_default();
                assert_eq!(expected, actual.unwrap_or_default(), "{name}");
            }
        }
    }

    #[test]
    fn a_key_of_the_newest_generation_is_written_as_it_was_read() {
        let data = testdata::read("stored-keys.json");
        let cases = data["cases"].as_array().unwrap().iter();
        let cases: Vec<_> =
            cases.filter(|case| case["ok"] == true && case["hmac_key"].is_string()).collect();
        assert_eq!(3, cases.len());
        for case in cases {
            let raw = testdata::text(case, "raw");
            let written = encode(&decode(raw.as_bytes()).unwrap());
            assert_eq!(raw.as_bytes(), written.expose(), "{}", case["name"]);
        }
    }

    #[test]
    fn a_key_with_an_origin_keeps_it() {
        for (nanos, text) in [
            (886_816_000, "2024-01-12T10:39:20.886816Z"),
            (1, "2024-01-12T10:39:20.000000001Z"),
            (0, "2024-01-12T10:39:20Z"),
        ] {
            let at = UNIX_EPOCH + Duration::new(1_705_055_960, nanos);
            for algorithm in [Algorithm::Aes256, Algorithm::ChaCha20] {
                let key = MasterKey::generate().unwrap().with_algorithm(algorithm);
                let key = key.with_origin("admin", at).unwrap();
                let read = decode(encode(&key).expose()).unwrap();
                assert_eq!(key.bytes(), read.bytes());
                assert_eq!(Some(algorithm), read.algorithm());
                assert_eq!(Some(text), read.created_at());
                assert_eq!(Some("admin"), read.created_by());
                assert_eq!(key.hmac(b"message"), read.hmac(b"message"));
                assert!(read.hmac(b"message").is_some());
            }
        }
    }

    #[test]
    fn an_origin_makes_a_key_one_of_aes_256_with_an_hmac_key_of_its_own() {
        let origin =
            || MasterKey::from_bytes(&[7; 32]).unwrap().with_origin("", UNIX_EPOCH).unwrap();
        let [a, b] = [origin(), origin()];
        assert_eq!(Some(Algorithm::Aes256), a.algorithm());
        assert_ne!(a.hmac(b""), b.hmac(b""));
        assert_eq!([None; 2], [a.created_by(), a.created_at()]);
        assert!(decode(encode(&a).expose()).is_ok());
    }

    #[test]
    fn a_value_cut_or_changed_anywhere_is_an_error_or_a_key_but_no_panic() {
        let data = testdata::read("stored-keys.json");
        for case in data["cases"].as_array().unwrap() {
            let raw = testdata::text(case, "raw").as_bytes();
            for at in 0..raw.len() {
                let _ = decode(&raw[..at]);
                let mut changed = raw.to_vec();
                changed[at] ^= 1;
                let _ = decode(&changed);
            }
            let Ok(message) = BASE64_STANDARD.decode(raw) else {
                continue;
            };
            for at in 0..message.len() {
                let _ = decode_protobuf(&message[..at]);
                for bit in 0..8 {
                    let mut changed = message.clone();
                    changed[at] ^= 1 << bit;
                    let _ = decode_protobuf(&changed);
                }
            }
        }
    }

    #[test]
    fn an_empty_value_is_a_key_of_no_bytes() {
        assert_eq!(Some(Error::KeySize(0)), decode(b"").err());
        assert_eq!(Some(Error::KeySize(0)), decode(b"{}").err());
    }

    #[test]
    fn an_error_says_what_is_wrong_with_the_value_and_nothing_of_it() {
        let read = |value: &str| decode(value.as_bytes()).unwrap_err().to_string();
        for (value, reason) in [
            ("{", "the stored value is in no known format"),
            (r#"{"bytes":"QUJD"}"#, "the key has 3 bytes instead of 32"),
            (
                r#"{"bytes":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","algorithm":"DES"}"#,
                "the key is for an unknown algorithm",
            ),
        ] {
            assert_eq!(format!("secret is malformed: {reason}"), read(value));
        }
        assert!(Error::HmacKey.to_string().ends_with("the HMAC key is missing or unusable"));
    }

    #[test]
    fn a_line_end_after_the_value_does_no_harm() {
        let data = testdata::read("stored-keys.json");
        for case in data["cases"].as_array().unwrap() {
            let raw = testdata::text(case, "raw");
            let with_line_end = decode(format!("{raw}\n").as_bytes());
            assert_eq!(decode(raw.as_bytes()).is_ok(), with_line_end.is_ok());
        }
    }
}
