//! API keys, private keys with passwords, certificates, and those that proxies forward.
// Covers: src/tls/api_key.rs src/tls/encrypted.rs src/tls/pem.rs src/identity.rs src/request/proxy.rs
#![no_main]

kes_fuzz::target!(kes::inside::fuzzing::credentials, 64 << 10, 128);
