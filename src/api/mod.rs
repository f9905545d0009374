//! The API: what is served, to requests that were admitted.
//!
//! [`run`] takes a request from its handler to its answer, [`routes`] is the table of what there is,
//! and [`core`] what all requests share. Knows no socket and no certificate.

pub mod call;
pub mod changes;
pub mod core;
pub mod exchange;
pub mod failure;
pub mod follow;
pub mod health;
pub mod identity;
pub mod key;
pub mod object;
pub mod policy;
pub mod quota;
pub mod routes;
pub mod run;
pub mod slot;
pub mod spellings;
pub mod state;
pub mod status;
pub mod threads;
pub mod trace;
pub mod wanted;
