//! Configuration files, and their conversion.
// Covers: src/config
#![no_main]

kes_fuzz::target!(kes::inside::fuzzing::config, 64 << 20);
