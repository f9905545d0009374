//! Fuzz targets: functions that take any bytes and panic where a promise of the product does not hold.
//!
//! `scripts/prove fuzz` feeds them with inputs that libFuzzer makes up; the tests feed them with the corpora in
//! `fuzz/corpus`, so that each input that once found something is tried forever.

mod answers;
mod ciphertexts;
mod config;
mod cursor;
mod dns;
mod heads;
mod heads_plain;
mod hpack;
mod hpack_plain;
mod http2;
mod http2_fields;
mod http2_floods;
mod http2_watch;
mod pipeline;
mod pipeline_answers;
mod pipeline_line;
mod pipeline_site;
mod rules;

pub use self::{
    answers::answers,
    ciphertexts::{ciphertexts, stored_keys},
    config::{config, credentials},
    dns::dns,
    heads::heads,
    hpack::hpack,
    http2::http2,
    pipeline::pipeline,
    rules::rules,
};

#[cfg(fuzzing)]
pub use self::{hpack::Other, hpack_plain::Fields};

#[cfg(test)]
mod tests;
