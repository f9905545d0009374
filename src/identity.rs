//! Who a certificate is: the SHA-256 of its public key (`auth.md` 1), and what else must be known of
//! a certificate.

use std::{fmt, time::Duration};

use rustls_pki_types::UnixTime;
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::{
    Certificate,
    der::{self, Decode, Encode},
    ext::pkix::BasicConstraints,
};

/// A certificate that can't be read.
#[derive(Debug)]
pub struct Error(der::Error);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed certificate: {}", self.0)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// A hash function for identities. Servers use SHA-256 only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256
    Sha256,
    /// SHA-384
    Sha384,
    /// SHA-512
    Sha512,
}

impl Hash {
    /// The hash with this name; with or without hyphen, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().replace('-', "").as_str() {
            "SHA256" => Some(Self::Sha256),
            "SHA384" => Some(Self::Sha384),
            "SHA512" => Some(Self::Sha512),
            _ => None,
        }
    }
}

/// The identity of a DER certificate: 64 lower-case hex digits.
///
/// # Errors
/// [`Error`] if `der` is no certificate.
pub fn of_certificate(der: &[u8]) -> Result<String, Error> {
    with_hash(der, Hash::Sha256)
}

/// As [`of_certificate`], with another hash function.
///
/// # Errors
/// [`Error`] if `der` is no certificate.
pub fn with_hash(der: &[u8], hash: Hash) -> Result<String, Error> {
    // DER has one encoding for each value and the parser takes no other, so encoding the key again
    // gives the bytes that stand in the certificate.
    let key = parse(der)?
        .tbs_certificate
        .subject_public_key_info
        .to_der()
        .map_err(Error)?;
    Ok(match hash {
        Hash::Sha256 => hex(&Sha256::digest(&key)),
        Hash::Sha384 => hex(&Sha384::digest(&key)),
        Hash::Sha512 => hex(&Sha512::digest(&key)),
    })
}

/// When a DER certificate expires.
///
/// # Errors
/// [`Error`] if `der` is no certificate.
pub fn not_after(der: &[u8]) -> Result<UnixTime, Error> {
    let end = parse(der)?
        .tbs_certificate
        .validity
        .not_after
        .to_unix_duration();
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(
        end.as_secs(),
    )))
}

/// Whether a DER certificate is that of a certificate authority.
pub fn is_ca(der: &[u8]) -> bool {
    let constraints = parse(der).ok().and_then(|certificate| {
        certificate
            .tbs_certificate
            .get::<BasicConstraints>()
            .ok()
            .flatten()
    });
    constraints.is_some_and(|(_, constraints)| constraints.ca)
}

fn parse(der: &[u8]) -> Result<Certificate, Error> {
    Certificate::from_der(der).map_err(Error)
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::{CertificateDer, pem::PemObject};

    use super::*;

    #[test]
    fn identities_are_those_of_the_vectors() {
        let text = include_str!("../testdata/identities.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        for case in vectors["certificates"].as_array().unwrap() {
            let pem = case["certificate_pem"].as_str().unwrap();
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            assert_eq!(case["identity"], of_certificate(&der).unwrap());
            assert_eq!(case["sha384"], with_hash(&der, Hash::Sha384).unwrap());
            assert_eq!(case["sha512"], with_hash(&der, Hash::Sha512).unwrap());
            assert!(not_after(&der).unwrap() > UnixTime::since_unix_epoch(Duration::from_secs(1)));
        }
    }

    #[test]
    fn garbage_is_no_certificate() {
        for der in [&b""[..], b"\x30", b"\x30\x00", &[0x30; 64]] {
            assert!(of_certificate(der).is_err());
            assert!(!is_ca(der));
        }
    }
}
