//! AES-256-GCM (NIST SP 800-38D) and ChaCha20-Poly1305 (RFC 8439) in place, with key schedules that are
//! wiped after use.
//!
//! The crates are generic, so they are compiled where they are used: here for speed, as one of these runs
//! in nearly each request.

use aes_gcm::{
    Aes256Gcm,
    aead::{AeadInOut, KeyInit},
};
use chacha20poly1305::ChaCha20Poly1305;

/// Length of a key, in bytes.
pub const KEY: usize = 32;
/// Length of a nonce, in bytes.
pub const NONCE: usize = 12;
/// Length of the tag behind a ciphertext, in bytes.
pub const TAG: usize = 16;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
}

/// What can't be sealed since it is too long, or opened since it is not authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

impl Cipher {
    /// Encrypts `bytes` and appends the tag, which also covers `context`.
    ///
    /// # Errors
    /// [`Refused`] if there is more than the cipher takes (64 GiB).
    pub fn seal(
        self,
        key: &[u8; KEY],
        nonce: &[u8; NONCE],
        context: &[u8],
        bytes: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let (key, nonce) = (key.into(), nonce.into());
        match self {
            Self::Aes256Gcm => Aes256Gcm::new(key).encrypt_in_place(nonce, context, bytes),
            Self::ChaCha20Poly1305 => {
                ChaCha20Poly1305::new(key).encrypt_in_place(nonce, context, bytes)
            }
        }
        .map_err(|_| Refused)
    }

    /// Checks the tag at the end of `bytes` and decrypts what stands before it.
    ///
    /// # Errors
    /// [`Refused`] if key, nonce, context or any of the bytes is not what it was when they were sealed.
    pub fn open(
        self,
        key: &[u8; KEY],
        nonce: &[u8; NONCE],
        context: &[u8],
        bytes: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let (key, nonce) = (key.into(), nonce.into());
        match self {
            Self::Aes256Gcm => Aes256Gcm::new(key).decrypt_in_place(nonce, context, bytes),
            Self::ChaCha20Poly1305 => {
                ChaCha20Poly1305::new(key).decrypt_in_place(nonce, context, bytes)
            }
        }
        .map_err(|_| Refused)
    }
}
