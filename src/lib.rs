//! The key encryption service: one binary that is both the server and its command line.
//!
//! Modules stand in layers and import from lower layers only (`tidy` checks it):
//! `base`; `crypto`, `identity`, `tls`; `web`; `policy`, `keystore`; `cache`, `http`, `log`, `metrics`;
//! `config`; `io`; `server`; `cli`.

pub mod base;
pub mod cache;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod http;
pub mod identity;
pub(crate) mod io;
pub mod keystore;
pub mod log;
pub mod metrics;
pub mod policy;
pub mod server;
#[cfg(test)]
mod tidy;
pub mod tls;
pub mod web;
