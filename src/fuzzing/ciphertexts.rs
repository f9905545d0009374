//! Ciphertexts (C1 to C4).

use std::ops::Range;

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    cursor::Cursor,
    plain::{self, Json},
};
use crate::crypto::{
    Algorithm, MasterKey,
    ciphertext::{self, Format},
};

/// A key, a context and a plaintext; and how what is sealed is changed.
pub fn ciphertexts(data: &[u8]) {
    let mut cursor = Cursor(data);
    let (choice, place, bit) = (cursor.byte(), cursor.short(), cursor.byte() % 8);
    let mut bytes = [0; 32];
    cursor.take(32).iter().zip(&mut bytes).for_each(|(from, to)| *to = *from);
    let context = cursor.bytes();
    let plaintext = cursor.0;
    let algorithm = match choice & 3 {
        0 => Some(Algorithm::Aes256),
        1 => Some(Algorithm::ChaCha20),
        _ => None,
    };
    let format = if choice & 4 == 0 { Format::Json } else { Format::Binary };
    let key = key(&bytes, algorithm);
    let sealed = ciphertext::seal(&key, plaintext, context, format).expect("it can be sealed");
    let parts = Parts::of(&sealed, format);
    let algorithm = algorithm.unwrap_or(Algorithm::Aes256);
    if algorithm == Algorithm::Aes256 {
        assert_eq!(plaintext, parts.open(&bytes, context), "another AES-256-GCM");
    }
    // The other formats have the same parts.
    let all = parts.written(algorithm, &String::from_utf8_lossy(context));
    let own = if format == Format::Json { &all[0] } else { &all[3] };
    assert_eq!(own.0, sealed, "how it is written");
    let change = Change { place: place.into(), bit };
    for (at, (sealed, unread)) in all.into_iter().enumerate() {
        let sealed = Text { bytes: &sealed, is_json: at < 2, unread };
        check(&key, &bytes, &sealed, context, plaintext, change);
    }
    // Nobody can make one without the key.
    for input in [data, plaintext, context] {
        assert!(ciphertext::open(&key, input, b"").is_err(), "it was never sealed");
    }
}

fn key(bytes: &[u8], algorithm: Option<Algorithm>) -> MasterKey {
    let key = MasterKey::from_bytes(bytes).expect("32 bytes");
    match algorithm {
        Some(algorithm) => key.with_algorithm(algorithm),
        None => key,
    }
}

struct Parts {
    iv: Vec<u8>,
    nonce: Vec<u8>,
    /// Encrypted bytes and tag.
    bytes: Vec<u8>,
}

impl Parts {
    fn of(sealed: &[u8], format: Format) -> Self {
        match format {
            Format::Json => {
                let json = Json::first(sealed).expect("it is JSON");
                let texts = json.texts(["iv", "nonce", "bytes"]).expect("it is an object");
                let [iv, nonce, bytes] =
                    texts.map(|text| plain::base64(text).expect("it is base64"));
                Self { iv, nonce, bytes }
            }
            Format::Binary => {
                let (bytes, random) = sealed.split_at(sealed.len() - 28);
                let (iv, nonce) = random.split_at(16);
                Self { iv: iv.to_vec(), nonce: nonce.to_vec(), bytes: bytes.to_vec() }
            }
        }
    }

    /// Opens with AES-256.
    fn open(&self, key: &[u8], context: &[u8]) -> Vec<u8> {
        use ring::{aead, hmac};

        let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &self.iv);
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, key.as_ref()).expect("32 bytes");
        let nonce = aead::Nonce::try_assume_unique_for_key(&self.nonce).expect("12 bytes");
        let mut bytes = self.bytes.clone();
        let key = aead::LessSafeKey::new(key);
        let opened = key.open_in_place(nonce, aead::Aad::from(context), &mut bytes);
        opened.expect("the tag is that of AES-256-GCM").to_vec()
    }

    /// C1 to C4, each with the place of what is not read: the id of a key.
    fn written(&self, algorithm: Algorithm, id: &str) -> [(Vec<u8>, Range<usize>); 4] {
        let [iv, nonce, bytes] =
            [&self.iv, &self.nonce, &self.bytes].map(|part| BASE64_STANDARD.encode(part));
        let (name, old_name) = match algorithm {
            Algorithm::Aes256 => ("AES-256-GCM-HMAC-SHA-256", "AES256-GCM_SHA256"),
            Algorithm::ChaCha20 => ("ChaCha20Poly1305", "XCHACHA20-POLY1305"),
        };
        let start = format!(r#"{{"aead":"{name}","#);
        let rest = format!(r#""iv":"{iv}","nonce":"{nonce}","bytes":"{bytes}"}}"#);
        let with_id = format!(r#""id":{},"#, serde_json::json!(id));
        let json_id = start.len()..start.len() + with_id.len();

        let mut array = Vec::new();
        rmp::encode::write_array_len(&mut array, 5).expect("there is room");
        rmp::encode::write_str(&mut array, old_name).expect("there is room");
        rmp::encode::write_str(&mut array, id).expect("there is room");
        let array_id = array.len() - id.len()..array.len();
        for part in [&self.iv, &self.nonce, &self.bytes] {
            rmp::encode::write_bin(&mut array, part).expect("there is room");
        }
        [
            (format!("{start}{rest}").into_bytes(), 0..0),
            (format!("{start}{with_id}{rest}").into_bytes(), json_id),
            (array, array_id),
            ([&self.bytes[..], &self.iv, &self.nonce].concat(), 0..0),
        ]
    }
}

/// A ciphertext, of which a part is not read. Other formats may begin like JSON.
struct Text<'a> {
    bytes: &'a [u8],
    is_json: bool,
    unread: Range<usize>,
}

/// A bit to change, and where; the place is also the byte that is added.
#[derive(Clone, Copy)]
struct Change {
    place: usize,
    bit: u8,
}

/// Opens `sealed`, then changed in one bit, cut off or with one more byte; with another context, and with another
/// key or algorithm.
fn check(
    key: &MasterKey,
    bytes: &[u8; 32],
    text: &Text<'_>,
    context: &[u8],
    plaintext: &[u8],
    Change { place, bit }: Change,
) {
    let Text { bytes: sealed, is_json, ref unread } = *text;
    let open = |sealed: &[u8]| ciphertext::open(key, sealed, context);
    let opened = open(sealed).expect("it can be opened");
    assert_eq!(plaintext, opened.expose(), "the plaintext");
    let at = place % sealed.len();
    let mut changed = sealed.to_vec();
    changed[at] ^= 1 << bit;
    if let Ok(opened) = open(&changed) {
        assert_eq!(plaintext, opened.expose(), "a changed ciphertext opens to something else");
        let is_harmless = unread.contains(&at) || is_json && is_same_json(sealed, &changed, at);
        assert!(is_harmless, "bit {bit} of byte {at} is not authenticated");
    }
    assert!(open(&sealed[..at]).is_err(), "a part of a ciphertext is one");
    let byte = place as u8;
    let is_space = is_json && b" \t\r\n".contains(&byte);
    for longer in [[sealed, &[byte]].concat(), [&[byte], sealed].concat()] {
        assert_eq!(is_space, open(&longer).is_ok(), "a byte {byte} more");
    }

    let is_open = |context: &[u8]| ciphertext::open(key, sealed, context).is_ok();
    assert!(!is_open(&[context, b"x"].concat()), "the context is not authenticated");
    if let [first, rest @ ..] = context {
        assert!(
            !is_open(&[&[first ^ (1 << bit)], rest].concat()),
            "the context is not authenticated"
        );
        assert!(!is_open(rest), "the context is not authenticated");
    }
    let opens_with = |key: &MasterKey| ciphertext::open(key, sealed, context).is_ok();
    let mut stranger = *bytes;
    stranger[at % 32] ^= 1 << bit;
    assert!(!opens_with(&self::key(&stranger, key.algorithm())), "it opens with another key");
    let other = match key.algorithm() {
        Some(Algorithm::ChaCha20) => Algorithm::Aes256,
        _ => Algorithm::ChaCha20,
    };
    assert!(!opens_with(&self::key(bytes, Some(other))), "it opens with another algorithm");
}

/// Whether JSON says the same once its byte `at` is another: as in Go, names of members are read without case, and
/// what base64 has behind the last bit is not looked at.
fn is_same_json(sealed: &[u8], changed: &[u8], at: usize) -> bool {
    let is_in = |name: &&str| {
        let start = memchr::memmem::find(sealed, format!("\"{name}\":").as_bytes());
        start.is_some_and(|start| (start..start + name.len() + 2).contains(&at))
    };
    if ["aead", "iv", "nonce", "bytes"].iter().any(is_in) {
        return sealed[at].eq_ignore_ascii_case(&changed[at]);
    }
    // The last digits of base64, up to the quote behind them.
    let Some(end) = sealed[at..].iter().position(|byte| *byte == b'"') else { return false };
    let group = at + end - 4..at + end;
    let read = |text: &[u8]| plain::base64(str::from_utf8(&text[group.clone()]).ok()?);
    sealed[at + 1] == b'=' && read(sealed) == read(changed)
}
