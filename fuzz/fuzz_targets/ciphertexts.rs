//! Ciphertexts, sealed, changed and opened.
// Covers: src/crypto/ciphertext.rs src/crypto/json.rs crates/aead/src
#![no_main]

kes_fuzz::target!(kes::inside::fuzzing::ciphertexts, 1 << 20);
