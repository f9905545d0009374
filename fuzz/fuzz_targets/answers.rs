//! Answers of Vault and KeySecure, and the JSON bodies of clients.
// Covers: src/keystore/vault/answer.rs src/keystore/keysecure/appliance.rs src/keystore/remote/answer.rs src/crypto/json.rs
#![no_main]

kes_fuzz::target!(kes::inside::fuzzing::answers, 4 << 20);
