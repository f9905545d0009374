//! TLS: its cryptography, the certificates that are shown, and those that are trusted, at both ends.

mod api_key;
mod certificate;
mod client;
mod encrypted;
mod group;
mod hybrid;
pub mod pem;
pub mod self_signed;
mod server;
mod signature;
#[cfg(test)]
mod tests;
mod verify;
pub mod words;

pub use self::{
    api_key::{API_KEY_PREFIX, ApiKey},
    certificate::{
        Error, check_expiry, expiry, is_for_host, load_certificate, load_client_certificate,
        server_identity, validity,
    },
    client::{ClientTls, ServerTrust, client_config},
    encrypted::{decrypt, encrypt_pem, is_encrypted},
    group::{Group, provider},
    server::{ClientCertificate, ClientTrust, ServerTls, server_config},
    verify::Anchors,
};
