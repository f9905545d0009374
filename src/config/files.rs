//! The files that the settings name: reads what the server needs of them, and finds what looks wrong.
//! Changes nothing, and asks nothing over the network.

use std::{fmt, fs, os::unix::fs::MetadataExt as _, path::Path, sync::Arc, time::Duration};

use rustls::{ServerConfig, sign::CertifiedKey};
use rustls_pki_types::UnixTime;

use super::{
    findings::{Findings, Severity, Subject},
    settings::Config,
    source::Source,
    types::Auth,
};
use crate::{
    base::secret::Secret,
    identity::{self, End},
    tls::{self, ClientTrust},
};

/// A certificate that expires within this time is worth a warning, if less than a third of its life
/// is left: one that lives for a week is renewed every few days.
const SOON: Duration = Duration::from_secs(30 * DAY);
/// The field for authorities of clients.
const CA: &str = "tls.ca";
const DAY: u64 = 24 * 60 * 60;

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

/// Looks at the files of `config`, and says of which field something is wrong with them.
pub(super) struct Look<'a> {
    pub(super) source: &'a Source,
    pub(super) config: &'a Config,
    pub(super) now: UnixTime,
    pub(super) findings: &'a mut Findings,
}

impl Look<'_> {
    pub(super) fn warn(&mut self, field: &str, message: impl fmt::Display, advice: &str) {
        self.findings.warn(self.source.at(field), message, advice);
    }

    pub(super) fn refuse(&mut self, field: &str, reason: impl fmt::Display, advice: &str) {
        let kind = (Severity::Error, Subject::Outside);
        self.findings.add(kind, self.source.at(field), reason, advice);
    }

    /// Reads the certificate, its key and the trusted authorities; `None` after an error. `in_use` is the
    /// certificate that the server has, if it is running: that one may stay although it has expired.
    pub(super) fn at_certificate(&mut self, in_use: Option<&CertifiedKey>) -> Option<Material> {
        let Config { auth, tls_ca, tls_key, tls_cert, tls_groups, .. } = self.config;
        let Config { tls_password, generation, .. } = self.config;
        let trust = match (auth, tls_ca) {
            (Auth::On, Some(path)) => ClientTrust::with(path),
            (Auth::On, None) => ClientTrust::system(),
            (Auth::Off, _) => Ok(ClientTrust::any()),
        };
        let field = match (tls_ca, generation.is_newest()) {
            (Some(_), _) => CA,
            (None, true) => "tls.auth",
            (None, false) => "--auth",
        };
        let trust = trust.map(Arc::new).map_err(|e| self.refuse(field, e, "")).ok();
        if let Some(flaw) = trust.as_ref().and_then(|trust| trust.flaws.first()) {
            let message =
                format!("parts of the certificate store of the system can't be read: {flaw}");
            self.warn(field, message, "mend it: clients whose authority is missing are refused");
        }
        if *auth == Auth::Off {
            self.at_authorities("", CA);
        }
        if tls_key.as_os_str().is_empty() || tls_cert.as_os_str().is_empty() {
            return None; // an error already
        }
        let certificate = self.pair("", "tls", tls_cert, tls_key, tls_password.as_ref())?;
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
        // KES of this generation does not start with it.
        let names_none =
            certificate.cert.first().is_some_and(|leaf| identity::hosts(leaf).is_empty());
        if generation.is_newest() && names_none {
            self.warn(
                "tls.cert",
                "the certificate names no host or IP address in its subjectAltName, so clients refuse \
                 it",
                "make or request one that does, as with 'kes identity new --ip' or '--dns'",
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
    /// begins with `during`. The key may have a password.
    pub(super) fn pair(
        &mut self,
        during: &str,
        section: &str,
        cert: &Path,
        key: &Path,
        password: Option<&Secret>,
    ) -> Option<Arc<CertifiedKey>> {
        let (cert_field, key_field) = (format!("{section}.cert"), format!("{section}.key"));
        self.at_key(&key_field, key);
        let error = match tls::load_certificate(cert, key, password) {
            Ok(certified) => return Some(certified),
            Err(error) => error,
        };
        let is_about_key = matches!(
            &error,
            tls::Error::Unreadable(_, "private key", _) | tls::Error::Unusable(_, "private key", _)
        );
        let field = if is_about_key { &key_field } else { &cert_field };
        let advice = match (error.to_string().ends_with("password required"), section) {
            (true, "tls") if self.config.generation.is_newest() => {
                "set \"tls.password\", such as to ${KES_TLS_PASSWORD}"
            }
            (true, "tls") => {
                "decrypt it with 'openssl pkey', or set \"tls.password\" in the newest format, which 'kes \
                 config convert' writes"
            }
            (true, _) => "decrypt it with 'openssl pkey'",
            _ => "",
        };
        self.refuse(field, format_args!("{during}{error}"), advice);
        if let (false, Err(e)) = (is_about_key, fs::read(key)) {
            let error = tls::Error::Unreadable(key.to_owned(), "private key", e);
            self.refuse(&key_field, format_args!("{during}{error}"), "");
        }
        None
    }

    /// Warns of a private key that others can read. One of root's, for a group that is not root's, is meant
    /// for that group: that is how a server of its own user reads it and can't replace it.
    fn at_key(&mut self, field: &str, path: &Path) {
        let Some(file) = fs::metadata(path).ok().filter(fs::Metadata::is_file) else {
            return; // an error, if it can't be read
        };
        let is_for_group = file.uid() == 0 && file.gid() != 0;
        let whose = match (file.mode() & 0o004 != 0, file.mode() & 0o040 != 0 && !is_for_group) {
            (true, _) => "every user",
            (false, true) => "its group",
            (false, false) => return,
        };
        let message = format!("private key {path:?} can be read by {whose}");
        self.warn(field, message, "run 'chmod 600' on it");
    }

    /// Warns of certificates of a chain, but the first few, that are not valid yet, expire soon, or
    /// have expired.
    pub(super) fn at_validity(&mut self, field: &str, certified: &CertifiedKey, skipped: usize) {
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

    /// Looks at the authorities that a field names, unless it is empty.
    pub(super) fn at_authorities(&mut self, during: &str, field: &str) {
        if let Some(path) = self.source.filled(field)
            && let Err(e) = tls::Anchors::of_files(Path::new(&path))
        {
            let advice = "name a PEM file of certificates, or a directory of such files";
            self.refuse(field, format!("{during}{e}"), advice);
        }
    }
}
