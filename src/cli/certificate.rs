//! The identity that an argument is, or that the certificate in a file or in standard input has.

use std::{
    fmt::Display,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use rustls_pki_types::{
    CertificateDer,
    pem::{self, PemObject as _},
};

use super::output::{Result, stdin};
pub(crate) use crate::identity::is_identity;
use crate::identity::{self, Hash};

/// The identity that `argument` is, or that of the certificate in the file of this name.
pub(crate) fn identity_or_file(argument: &str) -> Result<String> {
    let is_file = argument.contains(['.', '/']) || Path::new(argument).is_file();
    match is_file && !is_identity(argument) {
        true => identity_in(Some(argument), Hash::SHA256),
        false => Ok(argument.to_owned()),
    }
}

/// The identity of the first certificate in a file or, without one, in standard input.
pub(crate) fn identity_in(file: Option<&str>, hash: Hash) -> Result<String> {
    let source = file.map_or("standard input".to_owned(), |file| format!("{file:?}"));
    let failed = |e: &dyn Display| format!("failed to read certificate from {source}: {e}");
    // It may be a private key, by mistake.
    let mut text = Vec::new();
    match file {
        Some(file) => File::open(file)
            .map_err(|e| format!("failed to open {file:?}: {e}"))?
            .read_to_end(&mut text),
        None => stdin("certificate").read_to_end(&mut text),
    }
    .map_err(|e| failed(&e))?;
    match CertificateDer::from_pem_slice(&text) {
        Ok(der) => Ok(identity::with_hash(&der, hash).map_err(|e| failed(&e))?),
        Err(pem::Error::NoItemsFound) => Err(format!(
            "found no (non-CA) certificate in any PEM block: {source} {}",
            instead_of_certificate(&text, file)
        )
        .into()),
        Err(e) => Err(failed(&e).into()),
    }
}

/// What `text`, which `file` has and which is no certificate, is instead, and what to give.
fn instead_of_certificate(text: &[u8], file: Option<&str>) -> String {
    let text = String::from_utf8_lossy(text);
    let labels: Vec<_> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .collect();
    let beside = || match file.and_then(certificate_beside) {
        Some(beside) => format!("is a private key: give its certificate, such as {beside:?}"),
        None => "is a private key: give the certificate that belongs to it".to_owned(),
    };
    let label = ["PRIVATE KEY", "CERTIFICATE REQUEST", "PUBLIC KEY"]
        .into_iter()
        .find(|what| labels.iter().any(|label| label.ends_with(what)));
    match label.or(labels.first().copied()) {
        Some("PRIVATE KEY") => beside(),
        Some("CERTIFICATE REQUEST") => {
            "is a request for a certificate: give the certificate that was issued for it".to_owned()
        }
        Some("PUBLIC KEY") => "is a public key: give the certificate that holds it".to_owned(),
        Some(label) => format!("is a PEM file of the type {label:?}: give a certificate"),
        None if text.trim().is_empty() => "is empty: give a certificate as PEM text".to_owned(),
        None => "is no PEM text, which begins with -----BEGIN CERTIFICATE-----".to_owned(),
    }
}

/// The file beside that of a private key that has a certificate, by its name.
fn certificate_beside(key: &str) -> Option<PathBuf> {
    let key = Path::new(key);
    let named = ["crt", "cert", "pem"].map(|extension| key.with_extension(extension));
    let mut candidates = named.into_iter().chain([key.with_file_name("public.crt")]);
    candidates.find(|file| CertificateDer::from_pem_file(file).is_ok())
}
