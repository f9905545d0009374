//! The master key: 32 secret bytes, their algorithm, and the keys derived from them.

use std::{
    fmt,
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chacha20::{R20, hchacha};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::base::secret::{self, Secret};

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
    /// HMAC-SHA-256 under the key, ready for the first byte of a message.
    mac: OnceLock<Hmac<Sha256>>,
    pub(super) bytes: Secret,
    pub(super) algorithm: Option<Algorithm>,
    pub(super) hmac_key: Option<Secret>,
    pub(super) created_at: Option<CreatedAt>,
    pub(super) created_by: Option<String>,
}

impl MasterKey {
    /// A new random key for any algorithm.
    ///
    /// # Errors
    /// If the system provides no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        Secret::random(KEY_SIZE).map(Self::generic)
    }

    /// The key with these bytes for any algorithm; `None` unless there are exactly [`KEY_SIZE`] of them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == KEY_SIZE).then(|| Self::generic(Secret::new(bytes.to_vec())))
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
            hmac_key: Some(Secret::random(KEY_SIZE)?),
            created_at: CreatedAt::from_timestamp(seconds, at.subsec_nanos()),
            created_by: Some(created_by.to_owned()).filter(|by| !by.is_empty()),
            ..self
        })
    }

    fn generic(bytes: Secret) -> Self {
        Self {
            mac: OnceLock::new(),
            bytes,
            algorithm: None,
            hmac_key: None,
            created_at: None,
            created_by: None,
        }
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
        let key = self.hmac_key.as_ref()?;
        let mut mac = keyed(key.expose());
        mac.update(message);
        Some(mac.finalize().into_bytes().into())
    }

    /// The key of the message with this `iv`: HMAC-SHA-256 of `iv` under the master key, or HChaCha20
    /// of both (draft-irtf-cfrg-xchacha 2.2).
    pub(super) fn message_key(
        &self,
        algorithm: Algorithm,
        iv: &[u8; IV_SIZE],
    ) -> Zeroizing<[u8; KEY_SIZE]> {
        let bytes = self.bytes.expose();
        match algorithm {
            Algorithm::Aes256 => {
                let mut mac = self.mac.get_or_init(|| keyed(bytes)).clone();
                mac.update(iv);
                Zeroizing::new(mac.finalize().into_bytes().into())
            }
            Algorithm::ChaCha20 => {
                let bytes = bytes
                    .try_into()
                    .expect("every constructor checks that a master key has 32 bytes");
                let mut derived = hchacha::<R20>(bytes, iv.into());
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
            .field("bytes", &self.bytes)
            .field("algorithm", &self.algorithm)
            .field("hmac_key", &self.hmac_key)
            .field("created_at", &self.created_at)
            .field("created_by", &self.created_by)
            .finish()
    }
}

/// HMAC-SHA-256 (RFC 2104) under `key`.
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    let keyed = || Hmac::new_from_slice(key).expect("HMAC takes keys of any length");
    secret::on_wiped_stack(keyed)
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
    fn a_key_with_an_hmac_key_authenticates_messages() {
        for case in testdata::read("hmac.json")["cases"].as_array().unwrap() {
            let mut key = MasterKey::generate().unwrap();
            key.hmac_key = Some(Secret::new(testdata::base64(case, "hmac_key")));
            let tag = key.hmac(&testdata::base64(case, "message")).unwrap();
            assert_eq!(testdata::base64(case, "hmac"), tag);
        }
    }

    #[test]
    fn a_key_without_an_hmac_key_authenticates_nothing() {
        assert_eq!(None, MasterKey::generate().unwrap().hmac(b"message"));
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
        assert_ne!(a.bytes, b.bytes);
    }

    #[test]
    fn debug_does_not_show_the_bytes() {
        let shown = format!("{:?}", MasterKey::from_bytes(&[77; 32]).unwrap());
        assert!(shown.contains("Secret(32 bytes)"), "{shown}");
        assert!(!shown.contains("77"), "{shown}");
    }
}
