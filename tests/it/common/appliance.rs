//! A KeySecure appliance over TLS, with an authority of its own, and servers that keep keys on it.

use std::{fs, path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use serde_json::{Value, json};

use super::{Authority, Config, Profile, Server, TempDir, keysecure::Simulator, server::Refusal};

pub const TOKEN: &str = "refresh-token-of-the-tests";

/// A simulated appliance; it ends with the test.
pub struct Appliance {
    pub simulator: Simulator,
    pub port: u16,
    /// The newest TLS that it speaks.
    pub tls: &'static str,
    directory: TempDir,
}

impl Appliance {
    pub fn start() -> Self {
        let directory = TempDir::new();
        let authority = Authority::new("appliance");
        let server = authority.issue("appliance", &Profile::server());
        let write = |name: &str, text: String| fs::write(directory.path().join(name), text);
        write("ca.crt", authority.identity.certificate_pem()).unwrap();
        write("server.crt", server.certificate_pem()).unwrap();
        write("server.key", server.key_pem()).unwrap();
        let simulator = Simulator::new(vec![(TOKEN, ""), (TOKEN, "tenant")]);
        let mut appliance = Self { simulator, port: 0, tls: "1.3", directory };
        appliance.spawn();
        appliance
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts it, on the port that it had, with the certificate that is in its files.
    pub fn spawn(&mut self) {
        let chain = CertificateDer::pem_file_iter(self.file("server.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.file("server.key")).unwrap();
        let versions: &[_] = if self.tls == "1.2" { &[&TLS12] } else { &[&TLS12, &TLS13] };
        // Also a certificate that rustls would not show by itself.
        let own = CertifiedKey::new(
            chain.map(Result::unwrap).collect(),
            ring::sign::any_supported_type(&key).unwrap(),
        );
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        self.port = self.simulator.start(Arc::new(config));
    }

    /// Ends it in the middle of whatever it does; its data stay.
    pub fn kill(&self) {
        self.simulator.kill();
    }

    /// Lets nothing move until [`Appliance::go_on`].
    pub fn pause(&self) {
        self.simulator.pause();
    }

    pub fn go_on(&self) {
        self.simulator.go_on();
    }

    pub fn turn(&self, knobs: Value) {
        self.simulator.turn(knobs);
    }

    /// Lets `fault` happen to the next calls.
    pub fn fault(&self, fault: Value) {
        self.turn(json!({ "faults": [fault] }));
    }

    /// A counter, such as `calls/token`.
    pub fn count(&self, name: &str) -> u64 {
        self.simulator.count(name)
    }

    /// What stands under `keys` in the configuration.
    pub fn settings(&self) -> String {
        self.settings_with("", TOKEN, "ca.crt")
    }

    pub fn settings_with(&self, domain: &str, token: &str, ca: &str) -> String {
        let (port, ca) = (self.port, self.file(ca).display().to_string());
        format!(
            "gemalto: {{keysecure: {{endpoint: \"https://127.0.0.1:{port}\", \
             credentials: {{token: {token}, domain: {domain:?}, retry: 1s}}, tls: {{ca: {ca:?}}}}}}}"
        )
    }

    pub fn server(&self) -> Server {
        Server::start(|config| self.configure(config))
    }

    pub fn configure(&self, config: &mut Config) {
        config.key_store = self.settings();
    }

    /// A server that does not start.
    pub fn refusal(&self) -> Refusal {
        let started = Server::try_start(|config| self.configure(config));
        started.err().expect("the server starts")
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        self.kill();
    }
}
