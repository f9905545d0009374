//! The signature with which the other end of a handshake proves that it holds the key of its certificate.
//!
//! With the key alone: the rest of the certificate is for others to judge, and may be of version 1.

use rustls::{
    CertificateError, DigitallySignedStruct, Error as TlsError, PeerMisbehaved,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key},
};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;

use super::verify::Refusal;
use crate::identity;

/// The key that is proven: the bytes that identities are made of.
pub(super) fn public_key<'a>(
    leaf: &'a CertificateDer<'_>,
) -> Result<SubjectPublicKeyInfoDer<'a>, TlsError> {
    let key = identity::public_key(leaf).map_err(|_| CertificateError::BadEncoding)?;
    Ok(key.into())
}

/// Verifies the signature of a TLS 1.3 handshake.
pub(super) fn verify_tls13(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, TlsError> {
    let key = public_key(leaf)?;
    let verified = verify_tls13_signature_with_raw_key(message, &key, signature, algorithms);
    verified.map_err(|e| because_of_key(leaf, e))
}

/// Verifies the signature of a TLS 1.2 handshake.
pub(super) fn verify_tls12(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, TlsError> {
    let key = public_key(leaf)?;
    let bad = || because_of_key(leaf, CertificateError::BadSignature.into());
    let key = RawPublicKeyEntity::try_from(&key).map_err(|_| bad())?;
    let known = algorithms.mapping.iter().find(|(scheme, _)| *scheme == signature.scheme);
    let Some((_, possible)) = known else {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    };
    // In TLS 1.2 a scheme does not name the curve, so there is an algorithm for each.
    let is_valid = |algorithm: &&dyn rustls_pki_types::SignatureVerificationAlgorithm| {
        key.verify_signature(*algorithm, message, signature.signature()).is_ok()
    };
    match possible.iter().any(is_valid) {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(bad()),
    }
}

/// `error`, unless the kind of key explains it.
fn because_of_key(leaf: &CertificateDer<'_>, error: TlsError) -> TlsError {
    match identity::key_kind(leaf) {
        Some("P-256" | "P-384" | "Ed25519" | "RSA") | None => error,
        Some(kind) => Refusal::Key(kind).into(),
    }
}
