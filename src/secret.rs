//! Bytes that must not be seen: master keys, data keys, plaintexts, stored key values.
//!
//! A [`Secret`] is wiped when dropped, prints only its length, and yields its bytes only through
//! [`Secret::expose`], so that a search for that word finds every place that handles key material.

use std::{
    cell::RefCell,
    fmt,
    ops::{Deref, DerefMut},
};

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// A buffer that is wiped when dropped, with all its capacity.
///
/// Like `Zeroizing<Vec<u8>>`, which wipes byte by byte what this wipes at once.
#[derive(Clone, Default)]
pub struct Wiped(Vec<u8>);

impl Wiped {
    /// An empty buffer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// Drops the first `count` bytes and leaves nothing of them behind.
    pub fn discard(&mut self, count: usize) {
        if count == self.0.len() {
            self.wipe();
        } else {
            self.0.drain(..count);
            self.0.spare_capacity_mut().zeroize();
        }
    }

    fn wipe(&mut self) {
        self.0.clear();
        self.0.spare_capacity_mut().zeroize();
    }

    /// Wipes the buffer and gives its memory back.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

impl From<Vec<u8>> for Wiped {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Deref for Wiped {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Wiped {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// Random bytes that one system call fetches for [`fill_random`].
const STOCK: usize = 1024;

/// Random bytes that were not handed out yet.
struct Stock {
    bytes: Zeroizing<[u8; STOCK]>,
    left: usize,
}

thread_local! {
    static FRESH: RefCell<Stock> = RefCell::new(Stock {
        bytes: Zeroizing::new([0; STOCK]),
        left: 0,
    });
}

/// Fills `bytes` from the operating system's random generator, with one system call for many
/// requests. Bytes that are handed out are wiped from the stock and never handed out again.
///
/// # Errors
/// If the system has no randomness to give.
pub fn fill_random(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    if bytes.len() > STOCK {
        return getrandom::fill(bytes);
    }
    FRESH.with_borrow_mut(|Stock { bytes: fresh, left }| {
        if *left < bytes.len() {
            getrandom::fill(fresh.as_mut_slice())?;
            *left = STOCK;
        }
        let taken = &mut fresh[*left - bytes.len()..*left];
        bytes.copy_from_slice(taken);
        taken.zeroize();
        *left -= bytes.len();
        Ok(())
    })
}

/// Secret bytes of any length.
#[derive(Clone)]
pub struct Secret(Wiped);

impl Secret {
    /// Takes over `bytes`; they are wiped when the secret is dropped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    /// `len` random bytes (see [`fill_random`]).
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn random(len: usize) -> Result<Self, getrandom::Error> {
        let mut bytes = Wiped::from(vec![0; len]);
        fill_random(&mut bytes)?;
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

impl From<Wiped> for Secret {
    fn from(bytes: Wiped) -> Self {
        Self(bytes)
    }
}

/// Makes room for `additional` bytes in `buffer` without leaving a copy of its content behind, as a
/// buffer that grows by itself would.
pub fn reserve(buffer: &mut Vec<u8>, additional: usize) {
    if buffer.capacity() - buffer.len() < additional {
        let mut larger = Vec::with_capacity((buffer.len() + additional).next_power_of_two());
        larger.extend_from_slice(buffer);
        drop(Wiped(std::mem::replace(buffer, larger)));
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
    fn random_bytes_are_never_handed_out_twice() {
        let mut seen = std::collections::HashSet::new();
        for len in [16, 28, 32, 33, 1000, 1024].into_iter().cycle().take(600) {
            let bytes = Secret::random(len).unwrap();
            assert_eq!(len, bytes.len());
            for part in bytes.expose().chunks_exact(16) {
                assert!(seen.insert(part.to_vec()), "handed out twice");
            }
        }
        assert!(!seen.contains([0; 16].as_slice()), "that is no random byte");
    }

    #[test]
    fn debug_shows_the_length_and_not_the_bytes() {
        assert_eq!(
            "Secret(3 bytes)",
            format!("{:?}", Secret::new(vec![1, 2, 3]))
        );
    }
}
