//! Bytes that must not be seen: master keys, data keys, plaintexts, stored key values.
//!
//! A [`Secret`] prints only its length and yields its bytes only through [`Secret::expose`], so that a
//! search for that word finds every place that handles key material. It is wiped when dropped, as is
//! all memory that is freed.

use std::{fmt, hint::black_box};

use super::arena::{SLOT, Slot};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// Wipes freed memory, so that no buffer leaves a secret behind, not even one that grew or that is inside
/// rustls, ureq or serde_json. Stacks and registers are wiped by [`on_wiped_stack`] and [`wipe_stack`].
#[cfg(not(fuzzing))] // there, fuzz/ counts what is allocated
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

/// Bytes of the stack that [`on_wiped_stack`] wipes: more than sealing and opening use.
const STACK: usize = 8 * 1024;
/// Bytes of the stack that [`wipe_stack`] wipes: more than a request or an answer of a key store uses.
const DEEP_STACK: usize = 32 * 1024;

/// Runs `work` and wipes its stack, where libraries leave copies: HMAC of its key, AES-GCM of the last
/// blocks of a plaintext.
#[inline(never)]
pub fn on_wiped_stack<T>(work: impl FnOnce() -> T) -> T {
    // Not inlined, so that both begin at the same place in the stack.
    #[inline(never)]
    fn run<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    let result = run(work);
    wipe::<STACK>();
    result
}

/// Wipes what calls of the caller left on the stack: TLS keeps a copy of the last block of each record
/// there. For threads that go on to wait, and for those that end, since the C library keeps their stacks.
pub fn wipe_stack() {
    wipe::<DEEP_STACK>();
    wipe_registers();
}

/// Puts zeros where copies and hashes leave what they worked on: a thread that waits keeps its vector registers, and a
/// core file has them.
fn wipe_registers() {
    // Copies of these lengths use all registers that the C library copies with, whether they have 16, 32 or 64 bytes.
    for len in [128, 256, 512, 1024] {
        let (from, mut to) = ([0_u8; 1024], [0_u8; 1024]);
        black_box(&mut to)[..black_box(len)].copy_from_slice(&black_box(&from)[..len]);
        black_box(&to);
    }
    black_box(Sha256::digest(black_box([0_u8; 64])));
    // The ciphers of TLS leave blocks that they opened in registers that nothing else uses. So much at once takes all
    // there are.
    if let Ok(key) = UnboundKey::new(&CHACHA20_POLY1305, &[0; 32]) {
        let (nonce, mut zeros) = (Nonce::assume_unique_for_key([0; 12]), [0_u8; 1024]);
        let key = LessSafeKey::new(key);
        let _ = black_box(key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut zeros));
    }
}

/// Wipes the stack from the frame of the caller on.
#[inline(never)]
fn wipe<const BYTES: usize>() {
    // Mutable, since a constant would live elsewhere.
    black_box(&mut [0_u8; BYTES]);
}

pub struct Secret(Bytes);

enum Bytes {
    Heap(Vec<u8>),
    /// The first so many bytes of the slot.
    Arena(Slot, usize),
}

impl Secret {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Bytes::Heap(bytes))
    }

    /// Bytes that live longer than a request, in the [arena](super::arena) if they fit and it has room.
    pub fn kept(bytes: &[u8]) -> Self {
        match (bytes.len() <= SLOT).then(Slot::take).flatten() {
            Some(mut slot) => {
                slot[..bytes.len()].copy_from_slice(bytes);
                Self(Bytes::Arena(slot, bytes.len()))
            }
            None => Self::new(bytes.to_vec()),
        }
    }

    /// `len` fresh random bytes from the operating system. A stock of them would hold the secrets of later
    /// requests, and a copy of a virtual machine would hand them out again.
    pub fn random(len: usize) -> Result<Self, getrandom::Error> {
        let mut bytes = vec![0; len];
        getrandom::fill(&mut bytes)?;
        Ok(Self::new(bytes))
    }

    pub fn expose(&self) -> &[u8] {
        match &self.0 {
            Bytes::Heap(bytes) => bytes,
            Bytes::Arena(slot, len) => &slot[..*len],
        }
    }

    pub fn len(&self) -> usize {
        self.expose().len()
    }

    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }
}

impl Default for Secret {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Clone for Secret {
    fn clone(&self) -> Self {
        match &self.0 {
            Bytes::Heap(bytes) => Self::new(bytes.clone()),
            Bytes::Arena(..) => Self::kept(self.expose()),
        }
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
        assert_eq!("Secret(3 bytes)", format!("{:?}", Secret::new(vec![1, 2, 3])));
    }
}
