//! Frames of HTTP/2 in any order, and answers beside them.
// Covers: src/http/two
#![no_main]

kes_fuzz::target!(kes::inside::fuzzing::http2, 4 << 20);
