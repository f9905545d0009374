//! The key encryption service: one binary that is both the server and its command line.
//!
//! Modules stand in layers and import from lower layers only (`tidy` checks it):
//! base (`secret`, `duration`, `deadline`, `clock`, `glob`, `name`), names (`resolver`), crypto
//! (`crypto`, `identity`, `tls`), ways to others (`agent`, `words`),
//! domain (`policy`, `keystore`), parts (`cache`, `http`, `log`, `metrics`), settings (`config`),
//! process (`server`, `client`), command (`cli`).

pub mod agent;
pub mod cache;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod crypto;
pub mod deadline;
pub mod duration;
pub mod glob;
pub mod http;
pub mod identity;
pub mod keystore;
pub mod log;
pub mod metrics;
pub mod name;
pub mod panics;
pub mod policy;
pub mod resolver;
pub mod secret;
pub mod server;
#[cfg(test)]
mod tidy;
pub mod tls;
pub mod words;
