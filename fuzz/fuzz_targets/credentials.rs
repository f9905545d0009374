//! API keys, private keys with passwords, certificates.
// Covers: src/tls/api_key.rs src/tls/encrypted.rs src/tls/pem.rs src/identity.rs
#![no_main]

kes_fuzz::target!(kes::inside::fuzzing::credentials, 4 << 20);
