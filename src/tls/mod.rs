//! TLS: its cryptography, the certificates that are shown, and those that are trusted, at both ends.

mod certificate;
mod client;
mod group;
mod hybrid;
pub mod self_signed;
mod server;
mod verify;
pub mod words;

pub use self::{
    certificate::{Error, check_expiry, expiry, load_certificate, load_client_certificate},
    client::client_config,
    group::{Group, provider},
    server::{ClientTrust, server_config},
    verify::Anchors,
};
