//! The files that the settings name: what the server needs of them is read here, and what looks wrong
//! about them is said. Nothing is changed, and nothing is asked over the network.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{ServerConfig, sign::CertifiedKey};
use rustls_pki_types::UnixTime;

use super::{
    Auth, Config, Error, Finding, Flags, KeyStoreConfig, Place, Position, Severity,
    check::Warnings,
    load::{Loaded, overridden},
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

/// How errors about the way to a key store begin (`config.md` 2).
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

/// What a look at the files gave.
pub(super) struct Looked {
    /// Unless there is an error about it.
    pub(super) material: Option<Material>,
    pub(super) errors: Vec<Error>,
}

/// Looks at all files that the settings name. `path` is the configuration file; `in_use` the
/// certificate that the server has, if it is running: that one may stay although it has expired.
pub(super) fn look(
    loaded: &Loaded,
    path: Option<&Path>,
    flags: &Flags,
    in_use: Option<&CertifiedKey>,
    warnings: &mut Warnings,
) -> Looked {
    let mut look = Look {
        loaded,
        path,
        unread: overridden(flags).collect(),
        now: UnixTime::now(),
        warnings,
        errors: Vec::new(),
    };
    let material = look.at_certificate(in_use);
    look.at_key_store();
    Looked { material: material.filter(|_| look.errors.is_empty()), errors: look.errors }
}

struct Look<'a> {
    loaded: &'a Loaded,
    path: Option<&'a Path>,
    /// The fields that flags win over.
    unread: Vec<&'static str>,
    now: UnixTime,
    warnings: &'a mut Warnings,
    errors: Vec<Error>,
}

impl Look<'_> {
    /// Where the setting is that a field of the file stands for.
    fn position(&self, field: &str) -> Option<Position> {
        let is_read = !self.unread.contains(&field);
        is_read.then(|| self.loaded.position(field)).flatten()
    }

    fn warn(&mut self, field: &str, message: impl Into<String>, advice: &str) {
        let position = self.position(field);
        self.warnings.add(|| Finding {
            severity: Severity::Warning,
            position,
            field: field.to_owned(),
            message: message.into(),
            advice: advice.to_owned(),
        });
    }

    fn refuse(&mut self, field: &str, reason: impl ToString, advice: &'static str) {
        let place = Place::Field {
            file: self.path.unwrap_or(Path::new("")).into(),
            position: self.position(field),
            field: field.to_owned(),
        };
        self.errors.push(Error::Unusable { place, reason: reason.to_string(), advice });
    }

    /// Reads the certificate, its key and the trusted authorities.
    fn at_certificate(&mut self, in_use: Option<&CertifiedKey>) -> Option<Material> {
        let Config { auth, tls_key, tls_cert, tls_groups, .. } = &self.loaded.config;
        let trust = match auth {
            Auth::On => ClientTrust::system(),
            Auth::Off => Ok(ClientTrust::any()),
        };
        let trust = trust.map(Arc::new).map_err(|e| self.refuse("--auth", e, "")).ok();
        if tls_key.as_os_str().is_empty() || tls_cert.as_os_str().is_empty() {
            return None; // an error already
        }
        self.at_key("tls.key", tls_key);
        let certificate = self.pair("", "tls.cert", tls_cert, "tls.key", tls_key)?;
        if let Err(e) = tls::check_expiry(&certificate, tls_cert, self.now) {
            // The certificate that is in use can only be kept; other settings must not wait for it.
            match in_use.is_some_and(|in_use| in_use.cert == certificate.cert) {
                true => self.warn("tls.cert", e.to_string(), ""),
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
        let tls = tls::server_config(certificate.clone(), trust.clone(), tls_groups)
            .map_err(|e| self.refuse("tls.cert", e, ""))
            .ok()?;
        Some(Material { certificate, trust, tls })
    }

    /// Reads a certificate and its key; `None` after an error, which begins with `during`.
    fn pair(
        &mut self,
        during: &str,
        cert_field: &str,
        cert: &Path,
        key_field: &str,
        key: &Path,
    ) -> Option<Arc<CertifiedKey>> {
        let error = match tls::load_certificate(cert, key) {
            Ok(certified) => return Some(certified),
            Err(error) => error,
        };
        let is_about_key = matches!(
            &error,
            tls::Error::Unreadable(_, "private key", _) | tls::Error::Unusable(_, "private key", _)
        );
        let field = if is_about_key { key_field } else { cert_field };
        self.refuse(field, format!("{during}{error}"), "");
        if let (false, Err(e)) = (is_about_key, fs::read(key)) {
            let error = tls::Error::Unreadable(key.to_owned(), "private key", e);
            self.refuse(key_field, format!("{during}{error}"), "");
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
            let (Ok(start), Ok(end)) = (identity::not_before(der), identity::not_after(der)) else {
                continue;
            };
            if start > self.now {
                let message = format!("{which} is not valid yet, so it is refused");
                let advice = "look at the clock of this machine, or wait";
                self.warn(field, message, advice);
            }
            let third = identity::lifetime(der).unwrap_or_default() / 3;
            let message = match end.as_secs().checked_sub(self.now.as_secs()) {
                None => format!("{which} has expired"),
                Some(left) if left < SOON.min(third).as_secs() => match left / DAY {
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
        let loaded = self.loaded;
        let field = |field: &str| format!("{}.{field}", loaded.section);
        match &loaded.config.key_store {
            KeyStoreConfig::Memory => {}
            KeyStoreConfig::Fs { path } => self.at_directory(&field("fs.path"), path),
            KeyStoreConfig::Vault(settings) => {
                let ca = settings.ca.as_deref();
                self.at_authorities(TO_VAULT, &field("vault.tls.ca"), ca);
                if let Some(ClientCert { key, cert }) = &settings.client_cert {
                    let (key_field, cert_field) = (field("vault.tls.key"), field("vault.tls.cert"));
                    self.at_key(&key_field, key);
                    let pair = self.pair(TO_VAULT, &cert_field, cert, &key_field, key);
                    if let Some(certified) = pair {
                        self.at_validity(&cert_field, &certified, 0);
                    }
                }
                if let vault::Login::Kubernetes { jwt, .. } = &settings.login {
                    self.at_token(&field("vault.kubernetes.jwt"), jwt);
                }
            }
            KeyStoreConfig::KeySecure(settings) => {
                let field = field("gemalto.keysecure.tls.ca");
                self.at_authorities(TO_KEY_SECURE, &field, settings.ca.as_deref());
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
        match self.loaded.config.key_store_start {
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
                // The server may run as somebody else, who has the right.
                let message = format!("can't look at {path:?}: {e}");
                self.warn(field, message, "");
            }
        }
    }
}
