//! The key encryption service: one binary that is both the server and its command line.
//!
//! Modules stand in layers and import from lower layers only (`tidy` checks it):
//! `base`; `crypto`, `identity`; `tls`, `policy`; `web`; `keystore`; `cache`, `http`, `log`, `metrics`;
//! `config`; `io`, `api`; `request`; `server`; `cli`. They are private, so `pub` in them means: in the
//! crate.

#![allow(missing_docs)] // a comment must say more than a name

mod api;
mod base;
mod cache;
mod cli;
mod config;
mod crypto;
#[cfg(any(test, fuzzing))]
mod fuzzing;
mod http;
mod identity;
mod io;
mod keystore;
mod log;
mod metrics;
mod policy;
mod request;
mod server;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tidy;
mod tls;
mod web;

pub use cli::run;

/// Parts that the tests of this package work with directly. No stable interface.
#[doc(hidden)]
pub mod inside {
    #[cfg(fuzzing)]
    pub mod fuzzing {
        pub use crate::fuzzing::*;
    }
    pub use crate::{
        api::state::State,
        base::{deadline::Deadline, generation::Generation, secret::Secret},
        cache::Expiry,
        config::{ApiOptions, Shutdown},
        crypto::{Algorithm, MasterKey, ciphertext, json},
        keystore::{Error as KeyStoreError, KeyName, KeyStore, mem::Mem},
        log::{AuditMode, Log, Settings as LogSettings},
        policy::{Policies, Policy, Rule},
        server::{Limits, Listeners, Server, notify::Notifier},
        tls::{
            ApiKey, ClientCertificate, ClientTrust, Group, ServerTls, decrypt, encrypt_pem, expiry,
            load_certificate, provider, server_config,
        },
    };
}
