//! What a reload replaces as a whole: who may connect, who may do what, the certificate.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::UnixTime;

use crate::{policy::Policies, tls::ClientTrust};

/// The configuration that requests work with; each sees one from start to finish.
#[derive(Clone)]
pub struct State {
    /// TLS for new connections.
    pub tls: Arc<ServerConfig>,
    /// When the server's certificate expires.
    pub certificate_expiry: UnixTime,
    /// Which client certificates are accepted.
    pub trust: Arc<ClientTrust>,
    /// Counts the changes of `trust`; connections that were accepted under another one are checked
    /// again.
    pub trust_generation: u64,
    /// Who may do what.
    pub policies: Policies,
    /// The header in which TLS proxies forward the certificates of their clients.
    pub proxy_header: Option<String>,
}
