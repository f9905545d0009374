//! Certificates and private keys in files, and what may be wrong with them.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    Error as TlsError,
    sign::{CertifiedKey, SigningKey},
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, UnixTime,
    pem::{self, PemObject as _},
};
use webpki::EndEntityCert;

use super::{
    encrypted::{decrypt, is_encrypted},
    group::provider,
};
use crate::{
    base::secret::{self, Secret},
    identity,
};

/// An error in the server's certificate or the trusted certificate authorities.
#[derive(Debug)]
pub enum Error {
    /// A file of this kind can't be read.
    Unreadable(PathBuf, &'static str, io::Error),
    /// A file has no usable PEM block of this kind.
    Unusable(PathBuf, &'static str, String),
    /// rustls refuses the combination.
    Tls(TlsError),
    /// Anything else, in words.
    Other(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, what, e) => {
                write!(f, "failed to read {what} file {path:?}: {e}")
            }
            Self::Unusable(path, what, why) => write!(f, "invalid {what} file {path:?}: {why}"),
            Self::Tls(e) => write!(f, "failed to set up TLS: {e}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

/// Fails if the certificate that was read from the file `cert` has expired at `now`.
pub fn check_expiry(certified: &CertifiedKey, cert: &Path, now: UnixTime) -> Result<(), Error> {
    match expiry(certified).as_secs() < now.as_secs() {
        true => Err(Error::Other(format!(
            "certificate {cert:?} has expired: make or request a new one"
        ))),
        false => Ok(()),
    }
}

/// When a certificate that [`load_certificate`] returned expires.
pub fn expiry(certified: &CertifiedKey) -> UnixTime {
    validity(certified)[1]
}

/// The first and the last moment at which a certificate that [`load_certificate`] returned is valid.
pub fn validity(certified: &CertifiedKey) -> [UnixTime; 2] {
    let leaf = certified.cert.first();
    leaf.and_then(|leaf| identity::valid_between(leaf).ok())
        .expect("the certificate was read when it was loaded")
}

/// The identity of the server with this certificate: the SHA-256 of its public key, as clients have theirs.
pub fn server_identity(certified: &CertifiedKey) -> String {
    let leaf = certified.cert.first();
    leaf.and_then(|leaf| identity::of_certificate(leaf).ok())
        .expect("the certificate was read when it was loaded")
}

/// Whether the certificate is for the host of this name or IP address.
pub fn is_for_host(certified: &CertifiedKey, host: &str) -> bool {
    let Ok(host) = ServerName::try_from(host) else { return false };
    let leaf = certified.end_entity_cert().ok().and_then(|leaf| EndEntityCert::try_from(leaf).ok());
    leaf.is_some_and(|leaf| leaf.verify_is_valid_for_subject_name(&host).is_ok())
}

const CERT: &str = "certificate";
const KEY: &str = "private key";

/// Reads the PEM certificate chain of a server and its private key, and checks that they belong
/// together and that clients can read the certificate. `password` is that of the key, if it has one.
pub fn load_certificate(
    cert: &Path,
    key: &Path,
    password: Option<&Secret>,
) -> Result<Arc<CertifiedKey>, Error> {
    let certified = load_client_certificate(cert, key, password)?;
    let leaf = certified.end_entity_cert().map_err(Error::Tls)?;
    let why = match EndEntityCert::try_from(leaf) {
        Ok(_) => return Ok(certified),
        Err(webpki::Error::UnsupportedCertVersion) => {
            "it is of X.509 version 1; make one of version 3"
        }
        Err(_) => "it breaks a rule, or has a critical extension that clients can't know",
    };
    Err(Error::Unusable(cert.to_owned(), CERT, why.to_owned()))
}

/// Reads the PEM certificate chain of a client and its private key, and checks that they belong
/// together. `password` is that of the key, if it has one.
pub fn load_client_certificate(
    cert: &Path,
    key: &Path,
    password: Option<&Secret>,
) -> Result<Arc<CertifiedKey>, Error> {
    let text = std::fs::read(cert).map_err(|e| Error::Unreadable(cert.to_owned(), CERT, e))?;
    let unusable = |why| Error::Unusable(cert.to_owned(), CERT, why);
    let chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| unusable(pem_reason(&e)))?;
    let Some(leaf) = chain.first() else {
        return Err(unusable("no PEM block of type CERTIFICATE".to_owned()));
    };
    identity::not_after(leaf).map_err(|e| unusable(e.to_string()))?;
    let public_key = identity::public_key(leaf).map_err(|e| unusable(e.to_string()))?;
    let signing_key = secret::on_wiped_stack(|| load_private_key(key, password, cert, leaf))?;
    if (signing_key.public_key()).is_some_and(|own| *own != *public_key) {
        return Err(Error::Other(format!(
            "private key {key:?} does not belong to certificate {cert:?}: their public keys differ"
        )));
    }
    Ok(Arc::new(CertifiedKey::new(chain, signing_key)))
}

fn load_private_key(
    key: &Path,
    password: Option<&Secret>,
    cert: &Path,
    leaf: &CertificateDer<'_>,
) -> Result<Arc<dyn SigningKey>, Error> {
    let text = std::fs::read(key).map_err(|e| Error::Unreadable(key.to_owned(), KEY, e))?;
    let unusable = |why: String| Error::Unusable(key.to_owned(), KEY, why);
    let private_key = match (is_encrypted(&text), password) {
        (true, Some(password)) => decrypt(&text, password).map_err(|e| unusable(e.to_string()))?,
        (true, None) => {
            let why = "the key is protected by a password, and none is given: password required";
            return Err(unusable(why.to_owned()));
        }
        (false, _) => PrivateKeyDer::from_pem_slice(&text).map_err(|e| {
            unusable(match e {
                pem::Error::NoItemsFound => {
                    "no PEM block of type PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY".to_owned()
                }
                e => pem_reason(&e),
            })
        })?,
    };
    provider().key_provider.load_private_key(private_key).map_err(|_| {
        let mut why =
            "not a key of type Ed25519, P-256, P-384 or RSA (2048 to 4096 bits)".to_owned();
        if let Some(kind) = identity::key_kind(leaf) {
            why = format!("{why}; the one in certificate {cert:?} is of type {kind}");
        }
        unusable(why)
    })
}

pub fn pem_reason(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a PEM block has no end line".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a PEM block has a broken start line".to_owned(),
        pem::Error::Base64Decode(_) => "a PEM block is not valid base64".to_owned(),
        pem::Error::NoItemsFound => "no PEM block of the expected type".to_owned(),
        _ => "a PEM block is too large".to_owned(),
    }
}
