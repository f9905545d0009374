//! Fuzz targets: functions that take any bytes and panic where a promise of the product does not hold.
//!
//! `scripts/prove fuzz` feeds them with inputs that libFuzzer makes up; the tests feed them with the corpora in
//! `fuzz/corpus`, so that each input that once found something is tried forever.

mod answers;
mod bodies;
mod certificates;
mod ciphertexts;
mod config;
mod credentials;
mod cursor;
mod dns;
mod documents;
mod globs;
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
mod plain;
mod rules;
mod stored_keys;

pub use self::{
    answers::answers, ciphertexts::ciphertexts, config::config, credentials::credentials, dns::dns,
    heads::heads, hpack::hpack, http2::http2, pipeline::pipeline, rules::rules,
    stored_keys::stored_keys,
};

#[cfg(fuzzing)]
pub use self::{hpack::Other, hpack_plain::Fields};

#[cfg(test)]
mod tests;
