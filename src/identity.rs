//! Who a certificate is: the SHA-256 of its public key (`auth.md` 1).

use std::{fmt, time::Duration};

use rustls_pki_types::UnixTime;
use sha2::{Digest, Sha256};
use x509_cert::der::{Decode, Encode};

/// A certificate that can't be read.
#[derive(Debug)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

fn parse(der: &[u8]) -> Result<x509_cert::Certificate, Error> {
    x509_cert::Certificate::from_der(der).map_err(|e| Error(format!("malformed certificate: {e}")))
}

/// The identity.
pub fn of_certificate(der: &[u8]) -> Result<String, Error> {
    let spki = parse(der)?.tbs_certificate.subject_public_key_info.to_der().map_err(|e| Error(e.to_string()))?;
    Ok(Sha256::digest(&spki).iter().map(|b| format!("{b:02x}")).collect())
}

/// End of validity.
pub fn not_after(der: &[u8]) -> Result<UnixTime, Error> {
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(parse(der)?.tbs_certificate.validity.not_after.to_unix_duration().as_secs())))
}

/// CA flag.
pub fn is_ca(der: &[u8]) -> bool {
    parse(der).ok().and_then(|c| c.tbs_certificate.get::<x509_cert::ext::pkix::BasicConstraints>().ok().flatten().map(|b| b.1.ca)).unwrap_or(false)
}
