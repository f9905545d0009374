//! Answers of name servers, and resolv.conf.
// Covers: src/web/resolver/message.rs src/web/resolver/settings.rs
#![no_main]

kes_fuzz::target!(kes::inside::fuzzing::dns, 1 << 20);
