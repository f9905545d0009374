//! Where master keys live: a small trait over opaque values, and the name rule that guards it.
//!
//! A key store creates (never overwrites), reads, deletes and lists values by name. It knows nothing of
//! HTTP requests, policies, caching or what the values mean.

pub mod copy;
pub mod fs;
pub mod keysecure;
pub mod mem;
pub mod remote;
mod store;
pub(crate) mod token;
pub mod trial;
pub mod vault;

pub(crate) use fs::is_unfit;
#[cfg(test)]
pub(crate) use store::Notices;
pub use store::{ClientCert, Error, KeyName, KeyStore, Settings, Start};
