//! Stored keys (K1 to K4), as bytes and as other programs write them.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;
use x509_cert::der::DateTime;

use super::{
    cursor::Cursor,
    plain::{self, Json},
};
use crate::crypto::{
    Algorithm, MasterKey,
    ciphertext::{self, Format},
    stored,
};

/// A stored value; or how to make one, if the first byte is the number of its version.
pub fn stored_keys(data: &[u8]) {
    match data {
        [version @ 1..=4, rest @ ..] => made(*version, Cursor(rest)),
        _ => read(data),
    }
}

/// What a stored value says.
struct Wanted {
    bytes: Vec<u8>,
    algorithm: Option<Algorithm>,
    hmac_key: Option<Vec<u8>>,
    created_at: Option<String>,
    created_by: Option<String>,
}

impl Wanted {
    /// That of JSON; `None` if it is unusable.
    fn of_json([bytes, algorithm, created_at, created_by]: [&str; 4]) -> Option<Self> {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Some(Self {
            bytes: plain::base64(bytes).filter(|bytes| bytes.len() == 32)?,
            algorithm: match algorithm {
                "" => None,
                "AES256" | "AES256-GCM_SHA256" => Some(Algorithm::Aes256),
                "ChaCha20" | "XCHACHA20-POLY1305" => Some(Algorithm::ChaCha20),
                _ => return None,
            },
            hmac_key: None,
            created_at: text(created_at),
            created_by: text(created_by),
        })
    }
}

/// Any bytes. JSON says what another parser finds.
fn read(data: &[u8]) {
    const NAMES: [&str; 4] = ["bytes", "algorithm", "created_at", "created_by"];
    let found = stored::decode(data);
    if data.trim_ascii().first() == Some(&b'{')
        && let Some(json) = Json::first(data.trim_ascii())
    {
        let wanted = json.texts(NAMES).and_then(Wanted::of_json);
        return check(found.ok(), wanted);
    }
    if let Ok(key) = found {
        check_written(&key);
    }
}

/// A value of this version, whose parts may be unusable.
fn made(version: u8, mut cursor: Cursor<'_>) {
    let choice = cursor.byte();
    let names = ["AES256-GCM_SHA256", "XCHACHA20-POLY1305", "AES256", "ChaCha20", "", "DES"];
    let algorithm = cursor.one_of(&names);
    let mut part = |is_any: bool| {
        let mut bytes = cursor.bytes().to_vec();
        if !is_any {
            bytes.resize(32, 7);
        }
        bytes
    };
    let (bytes, hmac_key) = (part(choice & 1 != 0), part(choice & 2 != 0));
    let by = cursor.text();
    // Up to the year 6325, so that other programs can print it.
    let seconds = u64::from(cursor.long()) << (cursor.byte() % 6);
    let nanos = cursor.long();
    let time = Duration::from_secs(seconds) + Duration::from_nanos(nanos.into());
    let date = DateTime::from_unix_duration(Duration::from_secs(time.as_secs()));
    let date = date.expect("it is in range").to_string();
    let fraction = match time.subsec_nanos() {
        0 => String::new(),
        nanos => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
    };
    let at = Some(format!("{}{fraction}Z", date.trim_end_matches('Z')));
    let at = at.filter(|_| !time.is_zero());
    if version < 4 {
        let at = at.unwrap_or_default();
        let mut value = json!({ "bytes": BASE64_STANDARD.encode(&bytes) });
        let mut wanted = Wanted::of_json([&BASE64_STANDARD.encode(&bytes), "", "", ""]);
        if version > 1 {
            value["algorithm"] = algorithm.into();
            value["created_at"] = (&*at).into();
            value["created_by"] = (&*by).into();
            wanted = Wanted::of_json([&BASE64_STANDARD.encode(&bytes), algorithm, &at, &by]);
        }
        if version > 2 {
            value["version"] = "v1".into();
        }
        return check(stored::decode(value.to_string().as_bytes()).ok(), wanted);
    }
    let kind = u64::from(choice >> 2 & 3);
    let hash = u64::from(choice >> 4 & 3);
    let message = |part: [Vec<u8>; 2]| part.concat();
    let mut parts = vec![
        field(1, &message([field(1, &bytes), number(2, kind)])),
        field(2, &message([field(1, &hmac_key), number(2, hash)])),
        field(3, &message([number(1, seconds), number(2, nanos.into())])),
        field(4, by.as_bytes()),
    ];
    let is_usable = bytes.len() == 32 && hmac_key.len() == 32 && hash == 1;
    let algorithm = match kind {
        1 => Some(Algorithm::Aes256),
        2 => Some(Algorithm::ChaCha20),
        _ => None,
    };
    let wanted = algorithm.filter(|_| is_usable).map(|algorithm| Wanted {
        bytes,
        algorithm: Some(algorithm),
        hmac_key: Some(hmac_key),
        created_at: at.clone(),
        created_by: Some(by.clone()).filter(|by| !by.is_empty()),
    });
    // As it is written: without fields that are empty, and with a second instead of many nanoseconds.
    let mut own = parts.clone();
    let time = [number(1, time.as_secs()), number(2, time.subsec_nanos().into())];
    own[2] = field(3, &message(time));
    let has = [true, true, at.is_some(), !by.is_empty()];
    let own = own.iter().zip(has).filter(|(_, has)| *has).flat_map(|(part, _)| part.clone());
    let own = BASE64_STANDARD.encode(own.collect::<Vec<_>>());
    // Fields come in any order, and may be unknown.
    parts.push(number(15, seconds));
    parts.push([&[9 << 3 | 1][..], &[1; 8]].concat());
    parts.rotate_left(usize::from(choice >> 6));
    let found = stored::decode(BASE64_STANDARD.encode(parts.concat()).as_bytes()).ok();
    if let Some(key) = &found {
        assert_eq!(own.as_bytes(), stored::encode(key).expose(), "how it is written");
    }
    check(found, wanted);
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A field of protobuf; those that are zero are left out.
fn number(tag: u8, number: u64) -> Vec<u8> {
    if number == 0 { Vec::new() } else { [vec![tag << 3], varint(number)].concat() }
}

fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [vec![tag << 3 | 2], varint(bytes.len() as u64), bytes.to_vec()].concat()
}

/// The key that was read is the one that is wanted.
fn check(found: Option<MasterKey>, wanted: Option<Wanted>) {
    let (key, wanted) = match (found, wanted) {
        (Some(key), Some(wanted)) => (key, wanted),
        (found, wanted) => {
            assert!(wanted.is_none(), "it can't be read");
            assert!(found.is_none(), "it is no key");
            return;
        }
    };
    assert_eq!(wanted.algorithm, key.algorithm());
    assert_eq!(wanted.created_at.as_deref(), key.created_at());
    assert_eq!(wanted.created_by.as_deref(), key.created_by());
    let hmac = wanted.hmac_key.as_deref().map(|key| {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
        ring::hmac::sign(&key, b"x").as_ref().to_vec()
    });
    assert_eq!(hmac, key.hmac(b"x").map(|hmac| hmac.to_vec()), "the HMAC key");
    let mut same = MasterKey::from_bytes(&wanted.bytes).expect("32 bytes");
    if let Some(algorithm) = wanted.algorithm {
        same = same.with_algorithm(algorithm);
    }
    check_same(&key, &same);
    check_written(&key);
}

/// A key is written as it was read.
fn check_written(key: &MasterKey) {
    let text = stored::encode(key);
    let again = stored::decode(text.expose()).expect("what was written can be read");
    assert_eq!(text.expose(), stored::encode(&again).expose(), "a key is written as it was read");
    assert_eq!(key.hmac(b"x"), again.hmac(b"x"), "the HMAC key");
    // K1 has no more than the bytes.
    if key.hmac(b"x").is_some() {
        let all = |key: &MasterKey| {
            (
                key.algorithm(),
                key.created_at().map(str::to_owned),
                key.created_by().map(str::to_owned),
            )
        };
        assert_eq!(all(key), all(&again), "the properties of a key");
    }
    check_same(key, &again);
}

/// The second key opens what the first has sealed.
fn check_same(key: &MasterKey, same: &MasterKey) {
    let sealed = ciphertext::seal(key, b"data", b"", Format::Json).expect("it can be sealed");
    let opened = ciphertext::open(same, &sealed, b"").expect("it is the same key");
    assert_eq!(b"data", opened.expose());
}
