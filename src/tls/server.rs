//! TLS of the server: which clients may connect, and what a resumed session must still prove.
//!
//! Clients prove that they hold the key of their certificate in every full handshake. A resumed
//! session skips that and the chain, so [`ClientTrust::verify`] is asked again for it.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};

use super::{
    certificate::Error,
    group::{Group, provider, provider_with},
    verify::{Anchors, Refusal},
};
use crate::identity;

#[derive(Debug)]
pub struct ClientTrust {
    /// `None`: any certificate will do (`--auth off`), policies still apply.
    anchors: Option<Anchors>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientTrust {
    /// Accepts any certificate whose key the client holds.
    pub fn any() -> Self {
        Self { anchors: None, algorithms: provider().signature_verification_algorithms }
    }

    /// Accepts the certificates of the system store (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured)
    /// and those that its authorities issued, within their validity and usable for client
    /// authentication.
    pub fn system() -> Result<Self, Error> {
        let (anchors, why) = Anchors::of_system();
        if anchors.is_empty() {
            return Err(Error::Other(format!(
                "no trusted certificate authority found, so no client could connect{why}: install CA \
                 certificates, set SSL_CERT_FILE or SSL_CERT_DIR, or start with --auth off"
            )));
        }
        Ok(Self { anchors: Some(anchors), ..Self::any() })
    }

    /// Whether certificates are checked at all (`--auth on`).
    pub fn is_checked(&self) -> bool {
        self.anchors.is_some()
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

/// The key that a client proves to hold: the bytes that its identity is made of.
fn public_key<'a>(leaf: &'a CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'a>, TlsError> {
    let key = identity::public_key(leaf).map_err(|_| CertificateError::BadEncoding)?;
    Ok(key.into())
}

impl ClientCertVerifier for ClientTrust {
    // Go clients withhold self-signed certificates when the request names authorities.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.check(leaf, others, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    // With the key alone: the rest of the certificate is for `verify` to judge, which takes version 1.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let key = public_key(cert)?;
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms).map_err(
            |e| match identity::key_kind(cert) {
                Some("P-256" | "P-384" | "Ed25519" | "RSA") | None => e,
                Some(kind) => Refusal::Key(kind).into(),
            },
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// TLS as the server speaks it: 1.3 only, client certificate required, stateless session tickets.
/// Of `groups`, a client gets the one that it likes best.
///
/// Every call makes new ticket keys, so a server that changes whom it trusts forgets all sessions.
pub fn server_config(
    certificate: Arc<CertifiedKey>,
    trust: Arc<ClientTrust>,
    groups: &[Group],
) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider_with(groups))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::Tls)?
        .with_client_cert_verifier(trust)
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certificate)));
    // HTTP/1.0 clients that negotiate at all (`curl --http1.0`) want to see their version.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    // The in-memory session store is single-use; concurrent clients hardly ever resume with it.
    config.ticketer = ring::Ticketer::new().map_err(Error::Tls)?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}
