//! `kes config check`: all that keeps a server from starting with a file, and all that looks wrong.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use rustls_pki_types::UnixTime;
use serde_json::json;

use super::{
    Args, Failure, print,
    server::settings,
    style::{Paint, Style, harmless},
};
use crate::{
    config::{Auth, Config, Finding, KeyStoreConfig, Review, Severity},
    identity::{self, End},
    server::routes::ROUTES,
    tls::{self, ClientTrust},
};

type Result<T> = std::result::Result<T, Failure>;

pub(super) const DETAILS: &str = "\
Finds what a server that is started with this file and these flags would refuse, and
what it would take but is hardly meant. Nothing is changed. Exit codes: 0 if a server
would start, 78 if not (with --strict: if there is anything to say). '-' reads the file
from standard input.";

/// The exit code for a wrong configuration: `EX_CONFIG` of sysexits.h.
const EX_CONFIG: u8 = 78;

/// A certificate that expires within this time is worth a warning, if less than a third of its life
/// is left: one that lives for a week is renewed every few days.
const SOON: Duration = Duration::from_secs(30 * DAY);
const DAY: u64 = 24 * 60 * 60;

/// `kes config check <file>`
pub(super) fn check(args: &Args) -> Result<()> {
    let file = match args.positional.as_slice() {
        [] => return Err("no configuration file specified".into()),
        [file] => file,
        _ => return Err("too many arguments".into()),
    };
    let flags = settings(args)?;
    let endpoints: Vec<_> = ROUTES.iter().map(|route| route.pattern).collect();
    let (file, review) = match file.as_str() {
        "-" => ("<stdin>", Review::of_stdin(&flags, &endpoints)),
        file => (file, Review::of_file(Path::new(file), &flags, &endpoints)),
    };
    let mut findings = match review {
        Err(error) => vec![Finding::from(error)],
        Ok(review) => {
            let mut look = Look {
                review: &review,
                findings: review.findings.clone(),
            };
            look.at_certificate(flags.auth);
            look.at_key_store();
            look.findings
        }
    };
    findings.sort_by_key(Finding::order);
    let count = |severity| {
        let same = findings.iter().filter(|found| found.severity == severity);
        same.count()
    };
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    print(&match args.is_set("json") {
        true => as_json(file, &findings),
        false => as_text(file, &findings, errors, warnings),
    })?;
    match errors > 0 || (warnings > 0 && args.is_set("strict")) {
        true => Err(Failure::Exit(EX_CONFIG)),
        false => Ok(()),
    }
}

/// What the settings lead to outside the file.
struct Look<'a> {
    review: &'a Review,
    findings: Vec<Finding>,
}

impl Look<'_> {
    fn find(&mut self, severity: Severity, field: &str, message: String, advice: &str) {
        let position = self.review.position(field);
        self.findings.push(Finding {
            severity,
            position,
            field: field.to_owned(),
            message,
            advice: advice.to_owned(),
        });
    }

    fn refuse(&mut self, field: &str, why: impl ToString) {
        self.find(Severity::Error, field, why.to_string(), "");
    }

    /// As the server does at its start, and what it does not look at.
    fn at_certificate(&mut self, auth: Auth) {
        let Config {
            tls_key,
            tls_cert,
            tls_groups,
            ..
        } = &self.review.config;
        let trust = match auth {
            Auth::On => ClientTrust::system(),
            Auth::Off => Ok(ClientTrust::any()),
        };
        let trust = match trust {
            Ok(trust) => trust,
            Err(e) => {
                self.refuse("--auth", e);
                ClientTrust::any()
            }
        };
        if tls_key.as_os_str().is_empty() || tls_cert.as_os_str().is_empty() {
            return; // an error already
        }
        let now = UnixTime::now();
        match tls::load_certificate(tls_cert, tls_key) {
            Err(e) => {
                let is_about_key = matches!(
                    &e,
                    tls::Error::Unreadable(_, "private key", _)
                        | tls::Error::Unusable(_, "private key", _)
                );
                self.refuse(if is_about_key { "tls.key" } else { "tls.cert" }, e);
                if let (false, Err(e)) = (is_about_key, fs::File::open(tls_key)) {
                    let path = tls_key.clone();
                    self.refuse("tls.key", tls::Error::Unreadable(path, "private key", e));
                }
            }
            Ok(certified) => {
                let expired = tls::check_expiry(&certified, tls_cert, now).err();
                let is_expired = expired.is_some();
                if let Some(e) = expired {
                    self.refuse("tls.cert", e);
                }
                for (number, der) in certified.cert.iter().enumerate() {
                    if number > 0 || !is_expired {
                        self.at_expiry(number, der, now);
                    }
                }
                if !certified
                    .cert
                    .first()
                    .is_none_or(|der| identity::has_usage_of(End::Server, der))
                {
                    self.find(
                        Severity::Warning,
                        "tls.cert",
                        "the certificate is not for servers, so clients refuse it".to_owned(),
                        "its extended key usage must have serverAuth, as with \
                         'kes tool identity new --server'",
                    );
                }
                if let Err(e) = tls::server_config(certified, Arc::new(trust), tls_groups) {
                    self.refuse("tls.cert", e);
                }
            }
        }
        if fs::metadata(tls_key).is_ok_and(|file| file.permissions().mode() & 0o004 != 0) {
            let message = format!("private key {tls_key:?} can be read by every user");
            self.find(
                Severity::Warning,
                "tls.key",
                message,
                "run 'chmod 600' on it",
            );
        }
    }

    /// Warns if certificate `number` of the chain expires soon, or has.
    fn at_expiry(&mut self, number: usize, der: &[u8], now: UnixTime) {
        let Ok(end) = identity::not_after(der) else {
            return;
        };
        let which = match number {
            0 => "the certificate".to_owned(),
            number => format!("certificate {} of the chain", number + 1),
        };
        let third = identity::lifetime(der).unwrap_or_default() / 3;
        let message = match end.as_secs().checked_sub(now.as_secs()) {
            None => format!("{which} has expired"),
            Some(left) if left < SOON.min(third).as_secs() => match left / DAY {
                0 => format!("{which} expires within a day"),
                1 => format!("{which} expires in 1 day"),
                days => format!("{which} expires in {days} days"),
            },
            Some(_) => return,
        };
        let advice = "make or request a new one";
        self.find(Severity::Warning, "tls.cert", message, advice);
    }

    /// Looks at a directory without changing it, unlike the server, which makes it.
    fn at_key_store(&mut self) {
        // The section is called as the format of the file has it.
        let field = |field: &str| {
            let newer = format!("keystore.{field}");
            match self.review.position(&newer) {
                Some(_) => newer,
                None => format!("keys.{field}"),
            }
        };
        match &self.review.config.key_store {
            // Nothing is asked over the network.
            KeyStoreConfig::Memory | KeyStoreConfig::Vault(_) | KeyStoreConfig::KeySecure(_) => {}
            KeyStoreConfig::Fs { path } => self.at_directory(&field("fs.path"), path),
        }
    }

    fn at_directory(&mut self, field: &str, path: &Path) {
        let absolute = std::path::absolute(path);
        let path = absolute.as_deref().unwrap_or(path);
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => {
                self.refuse(field, format!("{path:?} is not a directory"));
            }
            Ok(found) if found.permissions().mode() & 0o007 != 0 => {
                let message = format!("directory of keys {path:?} is open to every user");
                self.find(Severity::Warning, field, message, "run 'chmod 700' on it");
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut parents = path.ancestors().skip(1);
                let exists = |parent: &&Path| parent.exists();
                if let Some(parent) = parents.find(exists).filter(|parent| !parent.is_dir()) {
                    self.refuse(field, format!("{parent:?} is not a directory"));
                }
            }
            Err(e) => {
                // The server may run as somebody else, who has the right.
                let message = format!("can't look at {path:?}: {e}");
                self.find(Severity::Warning, field, message, "");
            }
        }
    }
}

/// One line for each, in the form that editors and CI systems know.
fn as_text(file: &str, findings: &[Finding], errors: usize, warnings: usize) -> String {
    let style = Style::of_stdout();
    let mut text = String::new();
    for found in findings {
        text += &harmless(file);
        if let Some(at) = found.position {
            text += &format!(":{}:{}", at.line, at.column);
        }
        let severity = format!("{}:", found.severity);
        let paint = match found.severity {
            Severity::Error => Paint::Red,
            Severity::Warning => Paint::Yellow,
        };
        text += &format!(": {} ", style.paint(paint, &severity));
        if !found.field.is_empty() {
            text += &format!("{}: ", harmless(&found.field));
        }
        text += &harmless(&found.message);
        if !found.advice.is_empty() {
            text += &format!(" ({})", harmless(&found.advice));
        }
        text.push('\n');
    }
    let number = |count, what| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    };
    if findings.is_empty() {
        text += &format!("{}: {}\n", harmless(file), style.paint(Paint::Green, "ok"));
    } else {
        let (errors, warnings) = (number(errors, "error"), number(warnings, "warning"));
        text += &format!("{errors}, {warnings}\n");
    }
    text
}

fn as_json(file: &str, findings: &[Finding]) -> String {
    let findings: Vec<_> = findings
        .iter()
        .map(|found| {
            json!({
                "severity": found.severity.to_string(),
                "line": found.position.map(|at| at.line),
                "column": found.position.map(|at| at.column),
                "field": found.field,
                "message": found.message,
                "advice": found.advice,
            })
        })
        .collect();
    format!("{}\n", json!({ "file": file, "findings": findings }))
}
