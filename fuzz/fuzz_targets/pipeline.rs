//! Connections to a server with keys in memory.
// Covers: src/io/dialog.rs src/io/stream.rs src/request src/api src/http
#![no_main]

kes_fuzz::target!(kes::inside::fuzzing::pipeline, 64 << 20);
