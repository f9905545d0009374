//! API keys: a private key as a short text, for clients without certificate files.

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    digest,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::{
    certificate::Error,
    pem,
    self_signed::{self, ED25519_PKCS8, Holder, Usage, ed25519_pkcs8},
};
use crate::{
    base::secret::{self, Secret},
    identity,
};

/// How API keys begin.
pub const API_KEY_PREFIX: &str = "kes:v1:";
/// The first byte, which stands for Ed25519.
const ED25519: u8 = 0;
/// The length of the seed of a private key, in bytes.
const SEED: usize = 32;
/// The `SubjectPublicKeyInfo` of an Ed25519 key up to the key (RFC 8410 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
/// How long the certificates live that clients make of their keys.
const VALIDITY: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// A text that is no API key. Shows nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiKeyError {
    /// It begins otherwise.
    Prefix,
    /// What follows is no base64.
    Base64,
    /// It has another length.
    Length,
    /// It is for another kind of key.
    Type,
}

impl fmt::Display for ApiKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("kes: invalid API key: ")?;
        f.write_str(match self {
            Self::Prefix => "missing 'kes:v1:' prefix",
            Self::Base64 => "what follows 'kes:v1:' is no base64",
            Self::Length => "invalid length",
            Self::Type => "unsupported type",
        })
    }
}

impl std::error::Error for ApiKeyError {}

/// An API key: the seed of an Ed25519 key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    seed: Secret,
}

impl ApiKey {
    /// A fresh key.
    pub fn generate() -> Result<Self, getrandom::Error> {
        Ok(Self { seed: Secret::random(SEED)? })
    }

    /// The key in `text`, which is `kes:v1:` and, in base64, a zero and the seed; without the prefix too.
    pub fn parse(text: &str) -> Result<Self, ApiKeyError> {
        let text = text.trim();
        let base64 = match text.strip_prefix(API_KEY_PREFIX) {
            Some(base64) => base64,
            None if text.contains(':') => return Err(ApiKeyError::Prefix),
            None => text,
        };
        let bytes = STANDARD.decode(base64).map_err(|_| match base64.len() == text.len() {
            true => ApiKeyError::Prefix,
            false => ApiKeyError::Base64,
        })?;
        match bytes.split_first() {
            Some((_, seed)) if seed.len() != SEED => Err(ApiKeyError::Length),
            Some((&ED25519, seed)) => Ok(Self { seed: Secret::new(seed.to_vec()) }),
            Some(_) => Err(ApiKeyError::Type),
            None => Err(ApiKeyError::Length),
        }
    }

    /// The key as text.
    pub fn text(&self) -> Zeroizing<String> {
        let bytes = Secret::new([&[ED25519], self.seed.expose()].concat());
        Zeroizing::new(API_KEY_PREFIX.to_owned() + &STANDARD.encode(bytes.expose()))
    }

    /// The identity of clients with this key.
    pub fn identity(&self) -> String {
        let public_key = secret::on_wiped_stack(|| {
            let pair = Ed25519KeyPair::from_seed_unchecked(self.seed.expose());
            pair.expect("a seed has 32 bytes").public_key().as_ref().to_vec()
        });
        let spki = [&SPKI[..], &public_key].concat();
        identity::hex(digest::digest(&digest::SHA256, &spki).as_ref())
    }

    /// The private key in PKCS#8.
    pub fn pkcs8(&self) -> Secret {
        ed25519_pkcs8(&self.seed)
    }

    /// The private key in PKCS#8, as PEM text.
    pub fn pkcs8_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem::write("PRIVATE KEY", self.pkcs8().expose()))
    }

    /// The Ed25519 key in PEM text; `None` if there is another one, none, or one with a password.
    pub fn from_pkcs8_pem(text: &[u8]) -> Option<Self> {
        let block =
            pem::Block::find(text, "PRIVATE KEY").filter(|block| block.label == "PRIVATE KEY")?;
        let (start, rest) = block.body.split_first_chunk::<{ ED25519_PKCS8.len() }>()?;
        // A key of version 2 is longer, and has its public key behind the seed.
        let is_ed25519 = [0, 1].contains(&start[4])
            && start[..1] == ED25519_PKCS8[..1]
            && start[2..4] == ED25519_PKCS8[2..4]
            && start[5..] == ED25519_PKCS8[5..];
        let (seed, _) = rest.split_at_checked(SEED).filter(|_| is_ed25519)?;
        Some(Self { seed: Secret::new(seed.to_vec()) })
    }

    /// A fresh certificate for clients, self-signed, with its key.
    pub fn certificate(&self) -> Result<Arc<CertifiedKey>, Error> {
        let holder = Holder {
            name: &self.identity(),
            usage: Usage::Client,
            addresses: Vec::new(),
            validity: VALIDITY,
        };
        secret::on_wiped_stack(|| self_signed::certified_by(holder, &self.pkcs8()))
            .map_err(|e| Error::Other(format!("failed to make a certificate: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::identity::End;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../testdata/identities.json")).unwrap()
    }

    #[test]
    fn keys_are_those_of_the_vectors() {
        for case in vectors()["api_keys"].as_array().unwrap() {
            let text = case["api_key"].as_str().unwrap();
            let key = ApiKey::parse(text).unwrap();
            assert_eq!(text, *key.text());
            assert_eq!(case["seed_hex"], identity::hex(key.seed.expose()));
            assert_eq!(case["identity"], key.identity());
            let pem = case["private_key_pem"].as_str().unwrap();
            assert_eq!(pem, *key.pkcs8_pem());
            assert_eq!(Some(&key), ApiKey::from_pkcs8_pem(pem.as_bytes()).as_ref());
            let shown = format!("{key:?}");
            assert!(!shown.contains(&text[7..]) && shown.contains("Secret(32 bytes)"), "{shown}");
        }
    }

    #[test]
    fn the_error_says_why_a_text_is_no_key() {
        for case in vectors()["invalid_api_keys"].as_array().unwrap() {
            let wanted = match case["reason"].as_str().unwrap() {
                "empty" | "too short" | "too long" => Some(ApiKeyError::Length),
                "unsupported type byte" => Some(ApiKeyError::Type),
                "not base64" => Some(ApiKeyError::Base64),
                "wrong prefix" => Some(ApiKeyError::Prefix),
                // As the newer SDK.
                reason => {
                    assert!(reason.contains("accepted by the newer SDK"), "{reason}");
                    None
                }
            };
            assert_eq!(wanted, ApiKey::parse(case["api_key"].as_str().unwrap()).err(), "{case}");
        }
        assert_eq!(
            "kes: invalid API key: missing 'kes:v1:' prefix",
            ApiKeyError::Prefix.to_string()
        );
    }

    #[test]
    fn only_ed25519_keys_without_a_password_are_api_keys() {
        let vectors = vectors();
        let locked = vectors["encrypted_private_key"]["pem"].as_str().unwrap();
        let holder =
            Holder { name: "", usage: Usage::Client, addresses: vec![], validity: VALIDITY };
        let (p256, cert) = self_signed::generate(holder, self_signed::KeyKind::P256).unwrap();
        for text in [locked, &p256, &cert, "", "kes:v1:"] {
            assert_eq!(None, ApiKey::from_pkcs8_pem(text.as_bytes()));
        }
    }

    #[test]
    fn the_certificate_of_a_key_is_one_for_clients_of_its_identity() {
        let key = ApiKey::generate().unwrap();
        let [a, b] = [(); 2].map(|()| key.certificate().unwrap());
        assert_ne!(a.cert, b.cert, "the serial numbers differ");
        let leaf = &a.cert[0];
        let id = key.identity();
        assert_eq!(id, identity::of_certificate(leaf).unwrap());
        assert_eq!(format!("CN={id}"), identity::subject(leaf).unwrap());
        assert!(identity::has_usage_of(End::Client, leaf));
        assert!(!identity::has_usage_of(End::Server, leaf));
        let [start, end] = identity::valid_between(leaf).unwrap();
        assert_eq!(VALIDITY.as_secs(), end.as_secs() - start.as_secs());
    }
}
