//! Bytes that must not be seen: master keys, data keys, plaintexts, stored key values.
//!
//! A [`Secret`] is wiped when dropped, prints only its length, and yields its bytes only through
//! [`Secret::expose`], so that a search for that word finds every place that handles key material.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// Secret bytes of any length.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over `bytes`; they are wiped when the secret is dropped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// `len` bytes from the operating system's random generator.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn random(len: usize) -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new(vec![0; len]);
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Makes room for `additional` bytes in `buffer` without leaving a copy of its content behind, as a
/// buffer that grows by itself would.
pub fn reserve(buffer: &mut Vec<u8>, additional: usize) {
    if buffer.capacity() - buffer.len() < additional {
        let mut larger = Vec::with_capacity((buffer.len() + additional).next_power_of_two());
        larger.extend_from_slice(buffer);
        buffer.zeroize();
        *buffer = larger;
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.len())
    }
}

/// Compares in a time that depends on the lengths only.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }
}

impl Eq for Secret {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_length_and_not_the_bytes() {
        assert_eq!(
            "Secret(3 bytes)",
            format!("{:?}", Secret::new(vec![1, 2, 3]))
        );
    }
}
