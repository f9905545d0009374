//! The end that asks a server: the command line, and the server towards its key store.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::WebPkiSupportedAlgorithms,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{
    certificate::Error,
    group::provider,
    signature::{verify_tls12, verify_tls13},
    verify::{Anchors, Refusal, in_brackets},
};
use crate::identity;

/// Which servers are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerTrust {
    /// Those that the store of the system trusts, for their host.
    System,
    /// Those that the certificates in this PEM file, or in the files of this directory, trust, for their host.
    Files(PathBuf),
    /// The one with this identity, wherever it is and whatever its certificate says of host and validity.
    Identity(String),
    /// All. A server need not even hold the key of its certificate, so anyone on the way can read and change
    /// what is sent.
    Anything,
}

/// TLS as a client speaks it.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// For its connections.
    pub config: Arc<ClientConfig>,
    verifier: Arc<Verifier>,
}

impl ClientTls {
    #[cfg(test)]
    pub(super) fn verifier(&self) -> Arc<dyn ServerCertVerifier> {
        self.verifier.clone()
    }

    /// Why no server is accepted, in brackets or empty, if the store of the system trusts none.
    pub fn no_trust(&self) -> Option<&str> {
        match &self.verifier.accepted {
            Accepted::Trusted(anchors, why) if anchors.is_empty() => Some(why),
            _ => None,
        }
    }

    /// The identity of the server that showed its certificate last, accepted or not.
    pub fn server(&self) -> Option<String> {
        self.verifier.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// TLS 1.2 and 1.3 with the servers that `trust` accepts, and with this certificate if there is one.
pub fn client_config(
    trust: &ServerTrust,
    certificate: Option<Arc<CertifiedKey>>,
) -> Result<ClientTls, Error> {
    let accepted = match trust {
        ServerTrust::System => {
            let (anchors, flaws) = Anchors::of_system();
            Accepted::Trusted(anchors, in_brackets(&flaws))
        }
        ServerTrust::Files(path) => Accepted::Trusted(Anchors::of_files(path)?, String::new()),
        ServerTrust::Identity(identity) => Accepted::Identity(identity.clone()),
        ServerTrust::Anything => Accepted::Anything,
    };
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(Verifier { accepted, algorithms, server: Mutex::default() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .expect("there are suites and groups for all versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone());
    let config = Arc::new(match certificate {
        Some(certificate) => {
            config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)))
        }
        None => config.with_no_client_auth(),
    });
    Ok(ClientTls { config, verifier })
}

/// Checks the certificates of servers.
#[derive(Debug)]
struct Verifier {
    accepted: Accepted,
    algorithms: WebPkiSupportedAlgorithms,
    /// The identity of the server that showed its certificate last.
    server: Mutex<Option<String>>,
}

#[derive(Debug)]
enum Accepted {
    /// What these trust, and the first problem that reading them had, in brackets.
    Trusted(Anchors, String),
    Identity(String),
    /// Any server, also one with a kind of key that can't be checked.
    Anything,
}

impl Verifier {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), TlsError> {
        match &self.accepted {
            Accepted::Trusted(anchors, _) => anchors.verify_server(leaf, others, name, now),
            Accepted::Identity(wanted) => match identity::of_certificate(leaf) {
                Ok(found) if found == *wanted => Ok(()),
                found => {
                    let found = found.unwrap_or_default();
                    Err(Refusal::Identity { wanted: wanted.clone(), found }.into())
                }
            },
            Accepted::Anything => Ok(()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let identity = identity::of_certificate(leaf).ok();
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = identity;
        self.check(leaf, others, name, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        match self.accepted {
            Accepted::Anything => Ok(HandshakeSignatureValid::assertion()),
            _ => verify_tls12(message, cert, signature, &self.algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        match self.accepted {
            Accepted::Anything => Ok(HandshakeSignatureValid::assertion()),
            _ => verify_tls13(message, cert, signature, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        use SignatureScheme::*;
        if !matches!(self.accepted, Accepted::Anything) {
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
