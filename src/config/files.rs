//! The files that the settings name: reads what the server needs of them, and finds what looks wrong.
//! Changes nothing, and asks nothing over the network.

use std::{
    fmt, fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{ServerConfig, sign::CertifiedKey};
use rustls_pki_types::UnixTime;

use super::{
    findings::{Findings, Severity, Subject},
    settings::Config,
    source::Source,
    types::{Auth, KeyStoreConfig},
};
use crate::{
    identity::{self, End},
    keystore::{ClientCert, Start, vault},
    tls::{self, ClientTrust},
};

/// A certificate that expires within this time is worth a warning, if less than a third of its life
/// is left: one that lives for a week is renewed every few days.
const SOON: Duration = Duration::from_secs(30 * DAY);
const DAY: u64 = 24 * 60 * 60;

/// How errors about the way to a key store begin, as in KES.
const TO_VAULT: &str = "failed to connect to Vault: ";
const TO_KEY_SECURE: &str = "failed to connect to Gemalto KeySecure: ";

/// What the server needs of files for its connections.
#[derive(Clone, Debug)]
pub struct Material {
    /// The certificate of the server and its key.
    pub certificate: Arc<CertifiedKey>,
    /// Which client certificates are accepted.
    pub trust: Arc<ClientTrust>,
    /// TLS with both.
    pub tls: Arc<ServerConfig>,
}

/// Looks at all files that `config` names. `in_use` is the certificate that the server has, if it is
/// running: that one may stay although it has expired. There is no material if there is an error
/// about it.
pub(super) fn look(
    source: &Source,
    config: &Config,
    in_use: Option<&CertifiedKey>,
    findings: &mut Findings,
) -> Option<Material> {
    let mut look = Look { source, config, now: UnixTime::now(), findings };
    let material = look.at_certificate(in_use);
    look.at_key_store();
    material
}

struct Look<'a> {
    source: &'a Source,
    config: &'a Config,
    now: UnixTime,
    findings: &'a mut Findings,
}

impl Look<'_> {
    fn warn(&mut self, field: &str, message: impl fmt::Display, advice: &str) {
        self.findings.warn(self.source.at(field), message, advice);
    }

    fn refuse(&mut self, field: &str, reason: impl fmt::Display, advice: &str) {
        let kind = (Severity::Error, Subject::Outside);
        self.findings.add(kind, self.source.at(field), reason, advice);
    }

    /// Reads the certificate, its key and the trusted authorities.
    fn at_certificate(&mut self, in_use: Option<&CertifiedKey>) -> Option<Material> {
        let Config { auth, tls_key, tls_cert, tls_groups, .. } = self.config;
        let trust = match auth {
            Auth::On => ClientTrust::system(),
            Auth::Off => Ok(ClientTrust::any()),
        };
        let trust = trust.map(Arc::new).map_err(|e| self.refuse("--auth", e, "")).ok();
        if tls_key.as_os_str().is_empty() || tls_cert.as_os_str().is_empty() {
            return None; // an error already
        }
        let certificate = self.pair("", "tls", tls_cert, tls_key)?;
        if let Err(e) = tls::check_expiry(&certificate, tls_cert, self.now) {
            // The certificate that is in use can only be kept; other settings must not wait for it.
            match in_use.is_some_and(|in_use| in_use.cert == certificate.cert) {
                true => self.warn("tls.cert", e, ""),
                false => self.refuse("tls.cert", e, ""),
            }
            self.at_validity("tls.cert", &certificate, 1);
        } else {
            self.at_validity("tls.cert", &certificate, 0);
        }
        if !certificate.cert.first().is_none_or(|leaf| identity::has_usage_of(End::Server, leaf)) {
            self.warn(
                "tls.cert",
                "the certificate is not for servers, so clients refuse it",
                "its extended key usage must have serverAuth, as with \
                 'kes tool identity new --server'",
            );
        }
        let trust = trust?;
        let tls = tls::server_config(
            certificate.clone(),
            trust.clone(),
            tls_groups,
            self.config.server_tls(),
        )
        .map_err(|e| self.refuse("tls.cert", e, ""))
        .ok()?;
        Some(Material { certificate, trust, tls })
    }

    /// Reads a certificate and its key, which are in fields of `section`; `None` after an error, which
    /// begins with `during`.
    fn pair(
        &mut self,
        during: &str,
        section: &str,
        cert: &Path,
        key: &Path,
    ) -> Option<Arc<CertifiedKey>> {
        let (cert_field, key_field) = (format!("{section}.cert"), format!("{section}.key"));
        self.at_key(&key_field, key);
        let error = match tls::load_certificate(cert, key) {
            Ok(certified) => return Some(certified),
            Err(error) => error,
        };
        let is_about_key = matches!(
            &error,
            tls::Error::Unreadable(_, "private key", _) | tls::Error::Unusable(_, "private key", _)
        );
        let field = if is_about_key { &key_field } else { &cert_field };
        self.refuse(field, format_args!("{during}{error}"), "");
        if let (false, Err(e)) = (is_about_key, fs::read(key)) {
            let error = tls::Error::Unreadable(key.to_owned(), "private key", e);
            self.refuse(&key_field, format_args!("{during}{error}"), "");
        }
        None
    }

    /// Warns of a private key that others can read.
    fn at_key(&mut self, field: &str, path: &Path) {
        let Some(file) = fs::metadata(path).ok().filter(fs::Metadata::is_file) else {
            return; // an error, if it can't be read
        };
        let mode = file.permissions().mode();
        let whose = match (mode & 0o004 != 0, mode & 0o040 != 0) {
            (true, _) => "every user",
            (false, true) => "its group",
            (false, false) => return,
        };
        let message = format!("private key {path:?} can be read by {whose}");
        self.warn(field, message, "run 'chmod 600' on it");
    }

    /// Warns of certificates of a chain, but the first few, that are not valid yet, expire soon, or
    /// have expired.
    fn at_validity(&mut self, field: &str, certified: &CertifiedKey, skipped: usize) {
        for (number, der) in certified.cert.iter().enumerate().skip(skipped) {
            let which = match number {
                0 => "the certificate".to_owned(),
                number => format!("certificate {} of the chain", number + 1),
            };
            let Ok([start, end]) = identity::valid_between(der) else {
                continue;
            };
            if start > self.now {
                let message = format!("{which} is not valid yet, so it is refused");
                let advice = "look at the clock of this machine, or wait";
                self.warn(field, message, advice);
            }
            let third = end.as_secs().saturating_sub(start.as_secs()) / 3;
            let message = match end.as_secs().checked_sub(self.now.as_secs()) {
                None => format!("{which} has expired"),
                Some(left) if left < SOON.as_secs().min(third) => match left / DAY {
                    0 => format!("{which} expires within a day"),
                    1 => format!("{which} expires in 1 day"),
                    days => format!("{which} expires in {days} days"),
                },
                Some(_) => continue,
            };
            self.warn(field, message, "make or request a new one");
        }
    }

    fn at_key_store(&mut self) {
        match &self.config.key_store {
            KeyStoreConfig::Memory => {}
            KeyStoreConfig::Fs { path } => self.at_directory("keystore.fs.path", path),
            KeyStoreConfig::Vault(settings) => {
                let ca = settings.ca.as_deref();
                self.at_authorities(TO_VAULT, "keystore.vault.tls.ca", ca);
                if let Some(ClientCert { key, cert }) = &settings.client_cert {
                    let section = "keystore.vault.tls";
                    if let Some(certified) = self.pair(TO_VAULT, section, cert, key) {
                        self.at_validity("keystore.vault.tls.cert", &certified, 0);
                    }
                }
                if let vault::Login::Kubernetes { jwt, .. } = &settings.login {
                    self.at_token("keystore.vault.kubernetes.jwt", jwt);
                }
            }
            KeyStoreConfig::KeySecure(settings) => {
                let field = "keystore.gemalto.keysecure.tls.ca";
                self.at_authorities(TO_KEY_SECURE, field, settings.ca.as_deref());
            }
        }
    }

    fn at_authorities(&mut self, during: &str, field: &str, path: Option<&Path>) {
        if let Some(path) = path
            && let Err(e) = crate::tls::Anchors::of_files(path)
        {
            let advice = "name a PEM file of certificates, or a directory of such files";
            self.refuse(field, format!("{during}{e}"), advice);
        }
    }

    /// Looks at the token of a service account, which may be the content of a file. Its text is not
    /// repeated: what looks like a path may be a token after all.
    fn at_token(&mut self, field: &str, jwt: &vault::Jwt) {
        let path = match jwt {
            vault::Jwt::File(path) => path.clone(),
            // A directory is no token, whatever it is called.
            vault::Jwt::Token(token) => match str::from_utf8(token.expose()) {
                Ok(text) if Path::new(text).is_dir() => PathBuf::from(text),
                _ => return,
            },
        };
        let reason = match fs::read(&path) {
            Ok(token) if !token.trim_ascii().is_empty() => return,
            Ok(_) => "the file of vault.kubernetes.jwt is empty".to_owned(),
            Err(e) => format!("failed to read the file of vault.kubernetes.jwt: {e}"),
        };
        let advice = "name a file with a token: what begins with /, ./ or ../ is a path, anything else a \
                      token unless there is such a file";
        match self.config.key_store_start {
            Start::Required => self.refuse(field, format!("{TO_VAULT}{reason}"), advice),
            // The server tries again until the file is there.
            Start::Optional => self.warn(field, reason, advice),
        }
    }

    /// Looks at a directory without changing it, unlike the server, which makes it.
    fn at_directory(&mut self, field: &str, path: &Path) {
        let absolute = std::path::absolute(path);
        let path = absolute.as_deref().unwrap_or(path);
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => {
                self.refuse(field, format!("{path:?} is not a directory"), "");
            }
            Ok(found) if found.permissions().mode() & 0o007 != 0 => {
                let message = format!("directory of keys {path:?} is open to every user");
                self.warn(field, message, "run 'chmod 700' on it");
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut parents = path.ancestors().skip(1);
                let exists = |parent: &&Path| parent.exists();
                if let Some(parent) = parents.find(exists).filter(|parent| !parent.is_dir()) {
                    self.refuse(field, format!("{parent:?} is not a directory"), "");
                }
            }
            Err(e) => {
                // The server may run as another user, who has the right.
                let message = format!("can't look at {path:?}: {e}");
                self.warn(field, message, "");
            }
        }
    }
}
