//! The tests of the whole server and of its command line: one program, so that it is linked once.
//!
//!     cargo test --test it                                   all of them
//!     cargo test --test it reload::                          one file
//!     cargo test --test it reload::a_broken_file          those whose names start so

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

mod api;
mod api_keys;
mod arena;
mod certificates;
mod cli;
mod client;
mod config_check;
mod connections;
mod conversion;
mod converted;
mod doctor;
mod formats;
mod generations;
mod groups;
mod handshakes;
mod http2;
mod http2_bounds;
mod http2_deadlines;
mod http2_floods;
mod http2_noise;
mod http2_shared;
mod init;
mod key_store_threads;
mod keysecure;
mod kinds_of_keys;
mod logs;
mod memory;
mod metrics;
mod neighbours;
mod newest;
mod object_servers;
mod policies;
mod probe;
mod proxy;
mod regression;
mod reload;
mod replay;
mod secrets;
mod shutdown;
mod systemd;
mod transcripts;
mod trust;
mod turns;
mod vectors;
mod watch;
mod words;
