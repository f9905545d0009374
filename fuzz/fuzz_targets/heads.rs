//! Requests of HTTP/1.1, in pieces.
// Covers: src/http/one src/http/target.rs
#![no_main]

kes_fuzz::target!(kes::inside::fuzzing::heads, 4 << 20);
