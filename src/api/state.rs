//! What a reload replaces as a whole: who may connect, who may do what, the certificate.

use std::{collections::HashSet, sync::Arc};

use rustls::{ServerConfig, sign::CertifiedKey};
use rustls_pki_types::UnixTime;

use super::exchange::Manner;
use crate::{
    base::generation::Generation,
    config::{Apis, Config, Limits, Material, Shutdown},
    keystore::KeyName,
    policy::Policies,
    tls::{self, ClientTrust},
};

/// The configuration that requests work with; each sees one from start to finish.
#[derive(Clone)]
pub struct State {
    /// TLS for new connections.
    pub tls: Arc<ServerConfig>,
    /// When the server's certificate expires.
    pub certificate_expiry: UnixTime,
    /// Which client certificates are accepted.
    pub trust: Arc<ClientTrust>,
    /// Counts the changes of `trust`; connections that were accepted under another one are checked
    /// again.
    pub trust_generation: u64,
    /// Who may do what.
    pub policies: Policies,
    /// The keys that the configuration asks for.
    pub keys: Vec<KeyName>,
    /// The generation that is served.
    pub generation: Generation,
    /// The generation whose error texts clients get.
    pub texts: Generation,
    /// What the configuration says of single APIs, by their paths.
    pub apis: Apis,
    /// The header in which TLS proxies forward the certificates of their clients or, in the newest
    /// generation, the addresses.
    pub proxy_header: Option<Arc<str>>,
    /// How much may be asked for.
    pub limits: Limits,
    /// How the server ends.
    pub shutdown: Shutdown,
    /// Identities of those that forward addresses.
    pub address_proxies: Arc<HashSet<String>>,
}

impl State {
    /// What `config` says, with the files that it names. Takes them over, so that nothing else keeps the
    /// private key when it is replaced.
    pub fn new(config: &Config, material: Material) -> Self {
        let proxy = &config.proxy;
        let proxy_header = proxy.header_ip.as_deref().or(proxy.header_cert.as_deref());
        Self {
            certificate_expiry: tls::expiry(&material.certificate),
            tls: material.tls,
            trust: material.trust,
            trust_generation: 0,
            policies: config.policies.clone(),
            keys: config.keys.clone(),
            generation: config.generation,
            texts: config.texts,
            apis: config.apis.clone(),
            limits: config.limits,
            shutdown: config.shutdown,
            proxy_header: proxy_header.map(Arc::from),
            address_proxies: Arc::new(match proxy.header_ip {
                Some(_) => proxy.identities.iter().cloned().collect(),
                None => HashSet::new(),
            }),
        }
    }

    /// How requests are answered.
    pub fn manner(&self) -> Manner {
        Manner { texts: self.texts, generation: self.generation }
    }

    /// Whether there is an API for clients without a certificate.
    pub fn takes_clients_without_certificate(&self) -> bool {
        self.apis.iter().any(|(_, options)| options.skip_auth)
    }

    /// Replaces the certificate; `tls` is the setting of TLS with it.
    pub fn set_certificate(&mut self, certificate: &CertifiedKey, tls: Arc<ServerConfig>) {
        self.certificate_expiry = tls::expiry(certificate);
        self.tls = tls;
    }
}

/// A state that lets no client do anything, and its certificate.
#[cfg(any(test, fuzzing))]
pub fn for_tests() -> (State, Arc<CertifiedKey>) {
    use std::time::Duration;

    let key = rcgen::KeyPair::generate().expect("it is for tests");
    let params = rcgen::CertificateParams::new(vec![]).expect("it is for tests");
    let chain = vec![params.self_signed(&key).expect("it is for tests").der().clone()];
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let certificate =
        CertifiedKey::from_der(chain, key, &tls::provider()).expect("it is for tests");
    let (certificate, trust) = (Arc::new(certificate), Arc::new(ClientTrust::any()));
    let state = State {
        certificate_expiry: tls::expiry(&certificate),
        tls: tls::server_config(
            certificate.clone(),
            trust.clone(),
            &tls::Group::ALL,
            tls::ServerTls::default(),
        )
        .expect("it is for tests"),
        trust,
        trust_generation: 0,
        policies: Policies::default(),
        keys: Vec::new(),
        generation: Generation::default(),
        texts: Generation::default(),
        apis: Vec::new(),
        proxy_header: None,
        limits: Limits::default(),
        shutdown: Shutdown { delay: Duration::ZERO, timeout: Duration::from_millis(800) },
        address_proxies: Arc::default(),
    };
    (state, certificate)
}
