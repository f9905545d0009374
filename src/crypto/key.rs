//! The master key: 32 secret bytes, their algorithm, and the keys derived from them.

use std::{
    array, fmt, slice,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chacha20::{R20, hchacha};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Sha256, block_api::compress256};
use zeroize::{Zeroize, Zeroizing};

use crate::base::{
    arena,
    secret::{self, Secret},
};

/// Size of a master key, of the keys derived from it, and of an HMAC key, in bytes.
pub const KEY_SIZE: usize = 32;

/// Size of the random input of a key derivation, in bytes.
pub(super) const IV_SIZE: usize = 16;

/// How a master key encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC-SHA-256 derives the message key, AES-256-GCM encrypts.
    Aes256,
    /// HChaCha20 derives the message key, ChaCha20-Poly1305 (RFC 8439) encrypts.
    ChaCha20,
}

impl Algorithm {
    /// The algorithm with this name in a stored key of any age, or in an imported one.
    pub fn from_stored_name(name: &str) -> Option<Self> {
        match name {
            "AES256" | "AES256-GCM_SHA256" => Some(Self::Aes256),
            "ChaCha20" | "XCHACHA20-POLY1305" => Some(Self::ChaCha20),
            _ => None,
        }
    }

    /// The name that the newest generation has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes256 => "AES256",
            Self::ChaCha20 => "ChaCha20",
        }
    }
}

/// Nanoseconds in a second.
const NANOS: u32 = 1_000_000_000;

/// The time when a key was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CreatedAt {
    /// As text (RFC 3339).
    pub(super) text: String,
    /// Seconds since 1970, and nanoseconds; zeros if only the text is known.
    pub(super) timestamp: (i64, u32),
}

impl CreatedAt {
    /// The time as Go prints it: UTC, without trailing zeros in the fraction. `None` for the zero
    /// timestamp and for times out of range.
    pub(super) fn from_timestamp(seconds: i64, nanos: u32) -> Option<Self> {
        if (seconds, nanos) == (0, 0) {
            return None;
        }
        // Of too many nanoseconds, Go makes seconds.
        let seconds = seconds.checked_add((nanos / NANOS).into())?;
        let nanos = nanos % NANOS;
        let time = tz::UtcDateTime::from_timespec(seconds, nanos).ok()?;
        let mut text = format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            time.year(),
            time.month(),
            time.month_day(),
            time.hour(),
            time.minute(),
            time.second(),
        );
        if nanos != 0 {
            text.push_str(format!(".{nanos:09}").trim_end_matches('0'));
        }
        text.push('Z');
        Some(Self { text, timestamp: (seconds, nanos) })
    }
}

/// A master key. Encrypts and decrypts data keys through [`ciphertext`](super::ciphertext).
///
/// Prints its properties, never its bytes.
pub struct MasterKey {
    /// All that is secret, in one slot of the arena: the key, what HMAC-SHA-256 makes of it before the first
    /// byte of a message (its inner and its outer state), and the HMAC key.
    secret: Secret,
    has_hmac_key: bool,
    pub(super) algorithm: Option<Algorithm>,
    pub(super) created_at: Option<CreatedAt>,
    pub(super) created_by: Option<String>,
}

/// Places in the secret of a master key.
const KEY: usize = 0;
const INNER: usize = KEY_SIZE;
const OUTER: usize = 2 * KEY_SIZE;
const HMAC_KEY: usize = 3 * KEY_SIZE;
const ALL: usize = 4 * KEY_SIZE;
const _: () = assert!(ALL <= arena::SLOT);

impl MasterKey {
    /// A new random key for any algorithm.
    ///
    /// # Errors
    /// If the system provides no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let bytes = Secret::random(KEY_SIZE)?;
        Ok(Self::from_bytes(bytes.expose()).expect("it has that many"))
    }

    /// The key with these bytes for any algorithm; `None` unless there are exactly [`KEY_SIZE`] of them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let key = bytes.try_into().ok()?;
        Some(Self {
            secret: secret_of(key, &[0; KEY_SIZE]),
            has_hmac_key: false,
            algorithm: None,
            created_at: None,
            created_by: None,
        })
    }

    /// The same key for `algorithm` alone.
    pub fn with_algorithm(self, algorithm: Algorithm) -> Self {
        Self { algorithm: Some(algorithm), ..self }
    }

    /// The same key as the newest generation makes them: with a fresh HMAC key, made by the identity
    /// `created_by` at the time `at`, and for AES-256 unless it is for another algorithm.
    ///
    /// # Errors
    /// If the system provides no randomness.
    pub fn with_origin(self, created_by: &str, at: SystemTime) -> Result<Self, getrandom::Error> {
        let at = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let seconds = i64::try_from(at.as_secs()).unwrap_or_default();
        Ok(Self {
            algorithm: self.algorithm.or(Some(Algorithm::Aes256)),
            created_at: CreatedAt::from_timestamp(seconds, at.subsec_nanos()),
            created_by: Some(created_by.to_owned()).filter(|by| !by.is_empty()),
            ..self.with_hmac_key(Secret::random(KEY_SIZE)?.expose()).expect("it has that many")
        })
    }

    /// The same key with that HMAC key; `None` unless it has [`KEY_SIZE`] bytes.
    pub(super) fn with_hmac_key(self, hmac_key: &[u8]) -> Option<Self> {
        let secret = secret_of(self.part(KEY), hmac_key.try_into().ok()?);
        Some(Self { secret, has_hmac_key: true, ..self })
    }

    fn part(&self, at: usize) -> &[u8; KEY_SIZE] {
        self.secret.expose()[at..].first_chunk().expect("each part is whole")
    }

    /// The bytes of the key.
    pub(super) fn bytes(&self) -> &[u8; KEY_SIZE] {
        self.part(KEY)
    }

    /// The HMAC key that is stored beside the key, if there is one.
    pub(super) fn hmac_key(&self) -> Option<&[u8; KEY_SIZE]> {
        self.has_hmac_key.then(|| self.part(HMAC_KEY))
    }

    /// The only algorithm this key may be used with; `None` if any will do.
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.algorithm
    }

    /// The time when the key was made (RFC 3339), if its stored value has it.
    pub fn created_at(&self) -> Option<&str> {
        self.created_at.as_ref().map(|at| &*at.text)
    }

    /// The identity that made the key, if its stored value has it.
    pub fn created_by(&self) -> Option<&str> {
        self.created_by.as_deref()
    }

    /// HMAC-SHA-256 of `message` under the HMAC key that is stored beside the key, if there is one.
    pub fn hmac(&self, message: &[u8]) -> Option<[u8; 32]> {
        let key = self.hmac_key()?;
        let mut mac = secret::on_wiped_stack(|| {
            Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length")
        });
        mac.update(message);
        Some(mac.finalize().into_bytes().into())
    }

    /// The key of the message with this `iv`: HMAC-SHA-256 of `iv` under the master key, or HChaCha20
    /// of both (draft-irtf-cfrg-xchacha 2.2).
    ///
    /// Not inlined, so that it works where the caller, which goes on to seal or open, wipes the stack.
    #[inline(never)]
    pub(super) fn message_key(
        &self,
        algorithm: Algorithm,
        iv: &[u8; IV_SIZE],
    ) -> Zeroizing<[u8; KEY_SIZE]> {
        match algorithm {
            Algorithm::Aes256 => {
                let inner = last_block(self.part(INNER), iv);
                Zeroizing::new(last_block(self.part(OUTER), inner.as_slice()))
            }
            Algorithm::ChaCha20 => {
                let mut derived = hchacha::<R20>(self.bytes().into(), iv.into());
                let key = Zeroizing::new(derived.into());
                derived.zeroize();
                key
            }
        }
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey")
            .field("secret", &self.secret)
            .field("algorithm", &self.algorithm)
            .field("has_hmac_key", &self.has_hmac_key)
            .field("created_at", &self.created_at)
            .field("created_by", &self.created_by)
            .finish()
    }
}

/// The secret of a master key, which [`MasterKey::part`] takes apart.
fn secret_of(key: &[u8; KEY_SIZE], hmac_key: &[u8; KEY_SIZE]) -> Secret {
    secret::on_wiped_stack(|| {
        // RFC 2104: the key, filled up with zeros, over the inner and over the outer padding.
        let [inner, outer] = [0x36, 0x5c].map(|padding| {
            let block = array::from_fn(|at| key.get(at).unwrap_or(&0) ^ padding);
            compressed(SHA_256, &block)
        });
        Secret::kept([*key, inner, outer, *hmac_key].as_flattened())
    })
}

/// SHA-256 (FIPS 180-4) before the first block.
const SHA_256: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// The state of SHA-256, in the form of its result, after another block.
fn compressed(mut state: [u32; 8], block: &[u8; 64]) -> [u8; KEY_SIZE] {
    compress256(&mut state, slice::from_ref(block));
    let mut bytes = [0; KEY_SIZE];
    for (bytes, word) in bytes.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    state.zeroize();
    bytes
}

/// The result of SHA-256 that was in `state` after one block, if `message` is all that follows. It has to
/// fit into a block with its length.
fn last_block(state: &[u8; KEY_SIZE], message: &[u8]) -> [u8; KEY_SIZE] {
    let words =
        array::from_fn(|at| u32::from_be_bytes(array::from_fn(|byte| state[4 * at + byte])));
    let mut block = Zeroizing::new([0; 64]);
    block[..message.len()].copy_from_slice(message);
    block[message.len()] = 0x80;
    let bits = (64 + message.len()) as u16 * 8;
    block[62..].copy_from_slice(&bits.to_be_bytes());
    compressed(words, &block)
}

#[cfg(test)]
mod tests {
    use super::{super::testdata, *};

    #[test]
    fn message_keys_are_derived_as_published() {
        let data = testdata::read("primitives.json");
        for (list, algorithm, input) in [
            ("hmac_sha256_key_derivation", Algorithm::Aes256, "iv"),
            ("hchacha20", Algorithm::ChaCha20, "nonce"),
        ] {
            for case in data[list].as_array().unwrap() {
                let key = MasterKey::from_bytes(&testdata::hex(case, "key")).unwrap();
                let iv = testdata::hex(case, input).try_into().unwrap();
                let derived = key.message_key(algorithm, &iv);
                assert_eq!(testdata::hex(case, "out"), derived.as_slice());
            }
        }
    }

    #[test]
    fn the_time_of_a_key_is_one_that_others_can_read() {
        let text = |seconds, nanos| CreatedAt::from_timestamp(seconds, nanos).map(|at| at.text);
        assert_eq!(None, text(0, 0));
        assert_eq!(Some("1970-01-01T00:00:00.5Z"), text(0, 500_000_000).as_deref());
        assert_eq!(Some("1970-01-01T00:00:02.5Z"), text(1, 1_500_000_000).as_deref());
        assert_eq!(None, text(i64::MAX, u32::MAX));
    }

    #[test]
    fn a_key_with_an_hmac_key_authenticates_messages() {
        for case in testdata::read("hmac.json")["cases"].as_array().unwrap() {
            let key = MasterKey::generate().unwrap();
            let key = key.with_hmac_key(&testdata::base64(case, "hmac_key")).unwrap();
            let tag = key.hmac(&testdata::base64(case, "message")).unwrap();
            assert_eq!(testdata::base64(case, "hmac"), tag);
        }
    }

    #[test]
    fn a_key_without_an_hmac_key_authenticates_nothing() {
        assert_eq!(None, MasterKey::generate().unwrap().hmac(b"message"));
    }

    #[test]
    fn an_algorithm_has_the_name_that_is_stored() {
        for (algorithm, name) in [(Algorithm::Aes256, "AES256"), (Algorithm::ChaCha20, "ChaCha20")]
        {
            assert_eq!(name, algorithm.name());
            assert_eq!(Some(algorithm), Algorithm::from_stored_name(name));
        }
    }

    #[test]
    fn only_32_bytes_are_a_key() {
        for len in [0, 31, 33, 64] {
            assert!(MasterKey::from_bytes(&vec![0; len]).is_none());
        }
        assert!(MasterKey::from_bytes(&[0; 32]).is_some());
    }

    #[test]
    fn generated_keys_differ() {
        let [a, b] = [(); 2].map(|()| MasterKey::generate().unwrap());
        assert_ne!(a.bytes(), b.bytes());
    }

    #[test]
    fn debug_does_not_show_the_bytes() {
        let shown = format!("{:?}", MasterKey::from_bytes(&[77; 32]).unwrap());
        assert!(shown.contains("Secret(128 bytes)"), "{shown}");
        assert!(!shown.contains("77"), "{shown}");
    }
}
