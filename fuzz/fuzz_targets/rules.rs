//! Patterns and the decisions of policies.
// Covers: src/base/glob.rs src/policy/mod.rs src/policy/rule.rs src/policy/document.rs
#![no_main]

kes_fuzz::target!(kes::inside::fuzzing::rules, 1 << 20);
