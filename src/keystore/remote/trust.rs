//! The certificates that are shown to a key store, and the authorities that its own is checked with.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use crate::tls::{self, Anchors};

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

/// Trust in the certificates in the file at `path`, or in all files of the directory there.
pub(in crate::keystore) fn authorities(path: &Path) -> Result<Anchors, SetupError> {
    let fail = |path: &Path, why: String| SetupError::Authorities(path.to_owned(), why);
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        files = fs::read_dir(path)
            .and_then(|entries| {
                entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
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
            found.push(certificate.map_err(|e| fail(file, tls::pem_reason(&e)))?);
        }
        if found.len() == before {
            return Err(fail(file, "no PEM block of type CERTIFICATE".to_owned()));
        }
    }
    if found.is_empty() {
        return Err(fail(path, "the directory has no files".to_owned()));
    }
    let anchors = Anchors::new(&found);
    match anchors.is_empty() {
        true => Err(fail(path, "no certificate in it can be read".to_owned())),
        false => Ok(anchors),
    }
}
