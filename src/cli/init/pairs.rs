//! Private keys and certificates of a server and its clients: those that are there, or new ones.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::process::geteuid;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use zeroize::Zeroizing;

use crate::{
    base::{clock, secret::Secret},
    cli::{output::Result, pair::Wanted},
    identity,
    tls::{
        self, ApiKey, pem,
        self_signed::{self, Holder, KeyKind},
    },
};

/// A private key and its certificate, in files.
pub(crate) struct Pair {
    pub(crate) key: PathBuf,
    pub(crate) cert: PathBuf,
    /// What the files will hold, if they are not there.
    new_key: Option<Zeroizing<String>>,
    new_cert: Option<String>,
    pub(crate) identity: String,
    /// The hosts that the certificate names.
    pub(crate) names: Vec<String>,
    /// When it expires, in seconds since 1970.
    pub(crate) expires: u64,
}

/// How a client shows who it is.
pub(crate) enum Client {
    Key(Zeroizing<String>, String),
    Files(Pair),
}

impl Pair {
    /// The pair in these files, if both are there.
    ///
    /// # Errors
    /// Why it can't be used.
    pub(crate) fn find([key, cert]: [PathBuf; 2]) -> Result<Option<Self>> {
        check_owner(&key)?;
        if [&key, &cert].iter().any(|path| path.symlink_metadata().is_err()) {
            return Ok(None);
        }
        let certified = tls::load_certificate(&cert, &key, None)?;
        tls::check_expiry(&certified, &cert, clock::unix())?;
        Self::of(key, cert, &certified.cert[0]).map(Some)
    }

    /// The pair in these files, a certificate for the key that is there, or both.
    ///
    /// # Errors
    /// Why that does not work with what is there.
    pub(crate) fn find_or_make(
        [key, cert]: [PathBuf; 2],
        holder: Holder<'_>,
        kind: KeyKind,
    ) -> Result<Self> {
        if let Some(old) = Self::find([key.clone(), cert.clone()])? {
            return Ok(old);
        }
        let failed = |e| format!("failed to make a certificate: {e}");
        if cert.symlink_metadata().is_ok() {
            return Err(format!(
                "certificate {cert:?} is there, but not its private key {key:?}: put the key there, or \
                 move the certificate away"
            )
            .into());
        }
        let mut new_key = None;
        let (leaf, new_cert) = if key.symlink_metadata().is_ok() {
            let Ok(PrivateKeyDer::Pkcs8(old)) = PrivateKeyDer::from_pem_file(&key) else {
                return Err(format!(
                    "private key {key:?} is there, but not its certificate {cert:?}, and none can be \
                     made for that key: put the certificate there, or move the key away"
                )
                .into());
            };
            let old = Secret::new(old.secret_pkcs8_der().to_vec());
            let leaf = self_signed::certify(holder, &old).map_err(failed)?;
            let text = pem::write("CERTIFICATE", &leaf);
            (leaf, text)
        } else {
            let (key, cert) = self_signed::generate(holder, kind).map_err(failed)?;
            new_key = Some(Zeroizing::new(key));
            (CertificateDer::from_pem_slice(cert.as_bytes())?, cert)
        };
        Ok(Self { new_key, new_cert: Some(new_cert), ..Self::of(key, cert, &leaf)? })
    }

    /// The pair whose files are there, and hold this certificate.
    fn of(key: PathBuf, cert: PathBuf, leaf: &CertificateDer<'_>) -> Result<Self> {
        Ok(Self {
            identity: identity::of_certificate(leaf)?,
            names: identity::hosts(leaf),
            expires: identity::not_after(leaf)?.as_secs(),
            key,
            cert,
            new_key: None,
            new_cert: None,
        })
    }

    /// Whether the private key was there.
    pub(crate) fn is_old(&self) -> bool {
        self.new_key.is_none()
    }

    /// The files to write, with this mode of the private key.
    pub(crate) fn wanted(&self, mode: u32) -> Vec<(Wanted<'_>, &'static str)> {
        let key = self
            .new_key
            .as_ref()
            .map(|content| (Wanted { path: &self.key, content, mode }, "private key"));
        let cert = self
            .new_cert
            .as_ref()
            .map(|content| (Wanted { path: &self.cert, content, mode: 0o644 }, "certificate"));
        key.into_iter().chain(cert).collect()
    }
}

/// Looks whether a private key that is there is this user's or root's: in a folder that others can write to, one
/// of them may have put their own there.
fn check_owner(key: &Path) -> Result<()> {
    let owner = fs::metadata(key).map_or(0, |file| file.uid());
    match [0, geteuid().as_raw()].contains(&owner) {
        true => Ok(()),
        false => Err(format!(
            "private key {key:?} is there and belongs to user {owner}, who can know and replace it: 'chown' it \
             if it is yours, move it away, or name another folder"
        )
        .into()),
    }
}

impl Client {
    pub(crate) fn with_api_key() -> Result<Self> {
        let key = ApiKey::generate()?;
        Ok(Self::Key(key.text(), key.identity()))
    }

    pub(crate) fn identity(&self) -> &str {
        match self {
            Self::Key(_, identity) => identity,
            Self::Files(pair) => &pair.identity,
        }
    }

    pub(crate) fn wanted(&self) -> Vec<(Wanted<'_>, &'static str)> {
        match self {
            Self::Key(..) => Vec::new(),
            Self::Files(pair) => pair.wanted(0o600),
        }
    }
}
