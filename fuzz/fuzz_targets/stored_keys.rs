//! Master keys as key stores hold them.
// Covers: src/crypto/stored.rs src/crypto/json.rs src/crypto/key.rs
#![no_main]

kes_fuzz::target!(kes::inside::fuzzing::stored_keys, 1 << 20);
