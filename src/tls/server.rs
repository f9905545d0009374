//! TLS of the server: which clients may connect, and what a resumed session must still prove.
//!
//! Clients prove that they hold the key of their certificate in every full handshake. A resumed
//! session skips that and the chain, so [`ClientTrust::verify`] is asked again for it.

use std::{path::Path, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, ring},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{
    certificate::Error,
    group::{Group, provider, provider_with},
    signature::{public_key, verify_tls12, verify_tls13},
    verify::{Anchors, in_brackets},
};
use crate::base::generation::Generation;

#[derive(Debug)]
pub struct ClientTrust {
    /// `None`: any certificate will do (`--auth off`), policies still apply.
    anchors: Option<Anchors>,
    /// Why parts of the system store could not be read.
    pub flaws: Vec<String>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientTrust {
    /// Accepts any certificate whose key the client holds.
    pub fn any() -> Self {
        let algorithms = provider().signature_verification_algorithms;
        Self { anchors: None, flaws: Vec::new(), algorithms }
    }

    /// Accepts the certificates of the system store (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured)
    /// and those that its authorities issued, within their validity and usable for client
    /// authentication.
    pub fn system() -> Result<Self, Error> {
        let (anchors, flaws) = Anchors::of_system();
        if anchors.is_empty() {
            let why = in_brackets(&flaws);
            return Err(Error::Other(format!(
                "no trusted certificate authority found, so no client could connect{why}: install CA \
                 certificates, set SSL_CERT_FILE or SSL_CERT_DIR, or start with --auth off (with \
                 \"admin\" in the file: set tls.ca, or tls.auth to off)"
            )));
        }
        Ok(Self { anchors: Some(anchors), flaws, ..Self::any() })
    }

    /// As [`ClientTrust::system`], and those in the PEM file at `path`, or in all files of the directory
    /// there; the system store may be empty.
    pub fn with(path: &Path) -> Result<Self, Error> {
        let (mut anchors, flaws) = Anchors::of_system();
        anchors.add(Anchors::of_files(path)?);
        Ok(Self { anchors: Some(anchors), flaws, ..Self::any() })
    }

    /// Whether certificates are checked at all (`--auth on`).
    pub fn is_checked(&self) -> bool {
        self.anchors.is_some()
    }

    /// What could not be read this time, and could when these `others` were made.
    pub fn new_flaw(&self, others: &Self) -> Option<&String> {
        // Those of two files may have the same text, so more of them count, too.
        let is_new = |flaw: &&String| !others.flaws.contains(flaw);
        let found = self.flaws.iter().find(is_new).or_else(|| self.flaws.get(others.flaws.len()));
        found.filter(|_| others.is_checked())
    }

    /// Checks the chain that a client showed, leaf first.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), TlsError> {
        match chain.split_first() {
            Some((leaf, others)) => self.check(leaf, others, now),
            None => Err(TlsError::NoCertificatesPresented),
        }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), TlsError> {
        match &self.anchors {
            Some(anchors) => anchors.verify_client(leaf, others, now),
            None => public_key(leaf).map(|_| ()),
        }
    }
}

/// Asks clients for their certificates.
#[derive(Debug)]
struct Verifier {
    trust: Arc<ClientTrust>,
    is_mandatory: bool,
}

impl ClientCertVerifier for Verifier {
    // Go clients withhold self-signed certificates when the request names authorities.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.trust.check(leaf, others, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12(message, cert, signature, &self.trust.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13(message, cert, signature, &self.trust.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

/// What a server demands of the TLS of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerTls {
    /// The generation whose versions of TLS are spoken: 1.3, and since then 1.2 too.
    pub versions: Generation,
    /// Whether a client needs a certificate.
    pub client_certificate: ClientCertificate,
}

/// Whether a client needs a certificate for the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificate {
    /// There is no connection without one.
    #[default]
    Required,
    /// It is checked if there is one.
    Optional,
}

/// TLS as the server speaks it, with stateless session tickets. Of `groups`, a client gets the one that it
/// likes best.
///
/// Every call makes new ticket keys, so a server that changes whom it trusts forgets all sessions.
pub fn server_config(
    certificate: Arc<CertifiedKey>,
    trust: Arc<ClientTrust>,
    groups: &[Group],
    tls: ServerTls,
) -> Result<Arc<ServerConfig>, Error> {
    let versions = match tls.versions {
        Generation::V0_14 => &[&rustls::version::TLS13][..],
        Generation::Newest => rustls::ALL_VERSIONS,
    };
    let is_mandatory = tls.client_certificate == ClientCertificate::Required;
    let mut config = ServerConfig::builder_with_provider(provider_with(groups))
        .with_protocol_versions(versions)
        .map_err(Error::Tls)?
        .with_client_cert_verifier(Arc::new(Verifier { trust, is_mandatory }))
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certificate)));
    // HTTP/1.0 clients that negotiate at all (`curl --http1.0`) want to see their version.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    // The in-memory session store is single-use; concurrent clients hardly ever resume with it.
    config.ticketer = ring::Ticketer::new().map_err(Error::Tls)?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}
