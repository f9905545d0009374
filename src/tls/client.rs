//! The end that asks a server: the command line, and the server towards its key store.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{group::provider, verify::Anchors};

/// TLS as a client speaks it: 1.2 and 1.3, with this certificate if there is one. Without `trust`,
/// nothing about the server is checked.
pub fn client_config(
    trust: Option<Anchors>,
    certificate: Option<Arc<CertifiedKey>>,
) -> Arc<ClientConfig> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(ServerTrust { anchors: trust, algorithms });
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .expect("there are suites and groups for all versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Arc::new(match certificate {
        Some(certificate) => {
            config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)))
        }
        None => config.with_no_client_auth(),
    })
}

#[derive(Debug)]
struct ServerTrust {
    /// `None`: any server (`-k`), also one with a kind of key that can't be checked.
    anchors: Option<Anchors>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ServerTrust {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        if let Some(anchors) = &self.anchors {
            anchors.verify_server(leaf, others, name, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        match self.anchors {
            Some(_) => verify_tls12_signature(message, cert, signature, &self.algorithms),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        match self.anchors {
            Some(_) => verify_tls13_signature(message, cert, signature, &self.algorithms),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        use SignatureScheme::*;
        if self.anchors.is_some() {
            return self.algorithms.supported_schemes();
        }
        vec![
            ECDSA_NISTP256_SHA256,
            ECDSA_NISTP384_SHA384,
            ECDSA_NISTP521_SHA512,
            ED25519,
            ED448,
            RSA_PSS_SHA256,
            RSA_PSS_SHA384,
            RSA_PSS_SHA512,
            RSA_PKCS1_SHA256,
            RSA_PKCS1_SHA384,
            RSA_PKCS1_SHA512,
            RSA_PKCS1_SHA1,
        ]
    }
}
