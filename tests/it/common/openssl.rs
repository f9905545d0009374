//! Certificates as people make them: with the `openssl` command.

use std::{fs, path::PathBuf, process::Command};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};

use super::{Identity, TempDir};

/// A directory in which `openssl` works.
pub struct OpenSsl(TempDir);

impl OpenSsl {
    /// `None`, after saying so, where there is no `openssl`.
    pub fn find() -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            assert_ne!(Ok("true"), std::env::var("CI").as_deref(), "openssl is missing");
            eprintln!("skipped: openssl is missing");
            return None;
        }
        Some(Self(TempDir::new()))
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs `openssl` with the words of `arguments`; what it prints.
    pub fn run(&self, arguments: &str) -> Vec<u8> {
        let words: Vec<_> = arguments.split_whitespace().collect();
        let done = Command::new("openssl").args(words).current_dir(self.0.path()).output().unwrap();
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "openssl {arguments}: {stderr}");
        done.stdout
    }

    /// `openssl req -x509`, as guides have it: CA:TRUE, unless `more` says otherwise.
    pub fn self_signed(&self, name: &str, more: &str) -> Identity {
        self.run(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key \
             -out {name}.crt -days 2 {more}"
        ));
        self.identity(name)
    }

    /// `openssl x509 -req` without extensions, which makes version 1. `by` is `-CA ... -CAkey ...` or
    /// `-signkey ...`.
    pub fn version_1(&self, name: &str, by: &str) -> Identity {
        self.request(name, &format!("-subj /CN={name}"));
        self.run(&format!("x509 -req -in {name}.csr {by} -set_serial 7 -days 2 -out {name}.crt"));
        let text = self.run(&format!("x509 -in {name}.crt -noout -text"));
        assert!(String::from_utf8_lossy(&text).contains("Version: 1 (0x0)"));
        self.identity(name)
    }

    /// `NAME.key` and `NAME.csr`.
    pub fn request(&self, name: &str, more: &str) {
        self.run(&format!(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key \
             -out {name}.csr {more}"
        ));
    }

    /// What `NAME.key` and `NAME.crt` hold.
    pub fn identity(&self, name: &str) -> Identity {
        let read = |suffix| fs::read(self.file(&format!("{name}.{suffix}"))).unwrap();
        let chain =
            CertificateDer::pem_slice_iter(&read("crt")).collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(&read("key")).unwrap();
        let public = self.run(&format!("x509 -in {name}.crt -noout -pubkey"));
        fs::write(self.file("public.pem"), public).unwrap();
        let public = self.run("pkey -pubin -in public.pem -outform DER");
        let id = super::hex(&Sha256::digest(public));
        Identity::from_der(chain, key.secret_der().to_vec(), id)
    }

    /// The command that a message offers: from `start` to where its arguments end.
    pub fn command_in(message: &str, start: &str) -> String {
        let at = message.find(start).unwrap_or_else(|| panic!("{message:?} has no {start:?}"));
        let end = message[at..].find([';', '\n', '"']).map_or(message.len(), |end| at + end);
        message[at + "openssl ".len()..end].to_owned()
    }
}
