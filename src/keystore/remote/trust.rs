//! The certificates that are shown to a key store, and the authorities that its own is checked with.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use ureq::tls::{PemItem, parse_pem};

use crate::{secret::Secret, tls};

/// Why there is no way to a key store. Nothing was asked yet.
#[derive(Debug)]
pub(in crate::keystore) enum SetupError {
    /// The client certificate or its key can't be used.
    Certificate(tls::Error),
    /// The file or directory of trusted authorities can't be used.
    Authorities(PathBuf, String),
}

impl std::fmt::Display for SetupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Certificate(e) => e.fmt(f),
            Self::Authorities(path, why) => {
                write!(f, "invalid certificate authorities {path:?}: {why}")
            }
        }
    }
}

impl std::error::Error for SetupError {}

pub(super) fn client_certificate(
    cert: &Path,
    key: &Path,
) -> Result<ureq::tls::ClientCert, SetupError> {
    let unreadable = |path: &Path, what, e| {
        SetupError::Certificate(tls::Error::Unreadable(path.to_owned(), what, e))
    };
    // Checks them with errors that say what is wrong.
    tls::load_certificate(cert, key).map_err(SetupError::Certificate)?;
    let chain = fs::read(cert).map_err(|e| unreadable(cert, "certificate", e))?;
    let key_text = Secret::new(fs::read(key).map_err(|e| unreadable(key, "private key", e))?);
    let chain: Vec<_> = parse_pem(&chain)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    let private_key = ureq::tls::PrivateKey::from_pem(key_text.expose()).map_err(|e| {
        let why = e.to_string();
        SetupError::Certificate(tls::Error::Unusable(key.to_owned(), "private key", why))
    })?;
    Ok(ureq::tls::ClientCert::new_with_certs(&chain, private_key))
}

/// The certificates in the file at `path`, or in all files of the directory there.
pub(in crate::keystore) fn authorities(
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let fail = |path: &Path, why: String| SetupError::Authorities(path.to_owned(), why);
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        files = fs::read_dir(path)
            .and_then(|entries| {
                entries
                    .map(|entry| entry.map(|entry| entry.path()))
                    .collect::<Result<Vec<_>, _>>()
            })
            .map_err(|e| fail(path, e.to_string()))?;
        files.retain(|file| file.is_file());
        files.sort();
    }
    let mut found = Vec::new();
    for file in &files {
        let text = fs::read(file).map_err(|e| fail(file, e.to_string()))?;
        let before = found.len();
        for certificate in CertificateDer::pem_slice_iter(&text) {
            found.push(certificate.map_err(|e| fail(file, e.to_string()))?);
        }
        if found.len() == before {
            return Err(fail(file, "no PEM block of type CERTIFICATE".to_owned()));
        }
    }
    if found.is_empty() {
        return Err(fail(path, "the directory has no files".to_owned()));
    }
    Ok(found)
}
