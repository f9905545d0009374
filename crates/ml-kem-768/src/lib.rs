//! ML-KEM-768 (FIPS 203) on arrays of bytes.
//!
//! The crate `ml-kem` is generic, and what is generic is compiled with the settings of the package
//! that uses it. `kes` is compiled for size; this package, which is for nothing else, for speed.

use ml_kem::{
    B32, Ciphertext, DecapsulationKey768, EncapsulationKey768, Key, KeyExport as _, MlKem768, Seed,
    kem::Decapsulate as _,
};
use zeroize::{Zeroize as _, Zeroizing};

/// Bytes of an encapsulation key.
pub const KEY: usize = 1184;
/// Bytes of a ciphertext.
pub const CIPHERTEXT: usize = 1088;
/// Bytes of what a key pair is made from.
pub const SEED: usize = 64;
/// Bytes of the secret that both sides agree on, and of the message it is made from.
pub const SECRET: usize = 32;

/// The secret that both sides agree on, wiped when it is dropped.
pub type Secret = Zeroizing<[u8; SECRET]>;

/// Makes a secret from a message, which must be random, and the ciphertext from which the owner of
/// the key gets the same secret. `None` if it is no key: not all coefficients are reduced (FIPS 203,
/// 7.2).
///
/// The secret is put where it stays: moved along with the ciphertext, it would leave copies behind.
#[must_use]
pub fn encapsulate(
    key: &[u8; KEY],
    message: &[u8; SECRET],
    secret: &mut Secret,
) -> Option<[u8; CIPHERTEXT]> {
    let key = EncapsulationKey768::new(<&Key<EncapsulationKey768>>::from(key)).ok()?;
    let (ciphertext, mut shared) = key.encapsulate_deterministic(<&B32>::from(message));
    secret.copy_from_slice(&shared);
    shared.zeroize();
    Some(ciphertext.into())
}

/// A decapsulation key, wiped when it is dropped.
pub struct PrivateKey(DecapsulationKey768);

impl PrivateKey {
    /// The key that is made from a seed, which must be random.
    #[must_use]
    pub fn from_seed(seed: &[u8; SEED]) -> Self {
        Self(DecapsulationKey768::from_seed(*<&Seed>::from(seed)))
    }

    /// The encapsulation key that belongs to it.
    #[must_use]
    pub fn public_key(&self) -> [u8; KEY] {
        self.0.encapsulation_key().to_bytes().into()
    }

    /// The secret in a ciphertext. Any ciphertext gives one; a forged one gives one that nobody else
    /// has.
    #[must_use]
    pub fn decapsulate(&self, ciphertext: &[u8; CIPHERTEXT]) -> Secret {
        let ciphertext = <&Ciphertext<MlKem768>>::from(ciphertext);
        let mut shared = self.0.decapsulate(ciphertext);
        let mut secret = Secret::default();
        secret.copy_from_slice(&shared);
        shared.zeroize();
        secret
    }
}
