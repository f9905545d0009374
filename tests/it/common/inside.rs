//! A server in the process of the test, with a key store of the test's own.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use kes::inside::{
    ApiOptions, AuditMode, ClientCertificate, ClientTrust, Expiry, Generation, Group, KeyStore,
    Limits, Listeners, Log, LogSettings, Notifier, Policies, Server, ServerTls, Shutdown, State,
    expiry, load_certificate, server_config,
};

use super::{Client, Identity, Profile, TempDir};

/// A running server; it is stopped when it is dropped.
pub struct Inside {
    server: Option<Server>,
    address: SocketAddr,
    certificate: Identity,
    root: Identity,
}

impl Inside {
    pub fn start(store: Arc<dyn KeyStore>) -> Self {
        Self::with(store, Generation::V0_14, Vec::new(), |root| {
            Policies::builder(root, &[]).build()
        })
    }

    /// A server of this generation with settings of single APIs, and policies that know the root identity.
    pub fn with(
        store: Arc<dyn KeyStore>,
        generation: Generation,
        apis: Vec<(String, ApiOptions)>,
        policies: impl FnOnce(&str) -> Policies,
    ) -> Self {
        Self::changed(store, generation, apis, policies, |_| {})
    }

    /// The same with another state.
    pub fn changed(
        store: Arc<dyn KeyStore>,
        generation: Generation,
        apis: Vec<(String, ApiOptions)>,
        policies: impl FnOnce(&str) -> Policies,
        change: impl FnOnce(&mut State),
    ) -> Self {
        Self::caching(store, Expiry::default(), generation, apis, policies, change)
    }

    /// The same with a cache whose keys expire.
    pub fn caching(
        store: Arc<dyn KeyStore>,
        cache: Expiry,
        generation: Generation,
        apis: Vec<(String, ApiOptions)>,
        policies: impl FnOnce(&str) -> Policies,
        change: impl FnOnce(&mut State),
    ) -> Self {
        let certificate = Identity::self_signed("server", &Profile::server());
        let root = Identity::new("root");
        let directory = TempDir::new();
        let file = |name: &str, text: String| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let loaded = load_certificate(
            &file("server.crt", certificate.certificate_pem()),
            &file("server.key", certificate.key_pem()),
            None,
        )
        .unwrap();
        let trust = Arc::new(ClientTrust::any());
        let skips_auth = apis.iter().any(|(_, api)| api.skip_auth);
        let client_certificate = match skips_auth {
            true => ClientCertificate::Optional,
            false => ClientCertificate::Required,
        };
        let tls = ServerTls { versions: generation, client_certificate };
        let mut state = State {
            limits: Default::default(),
            certificate_expiry: expiry(&loaded),
            tls: server_config(loaded, trust.clone(), &Group::ALL, tls).unwrap(),
            trust,
            trust_generation: 0,
            policies: policies(&root.id),
            keys: Vec::new(),
            generation,
            texts: generation,
            apis,
            proxy_header: None,
            shutdown: Shutdown { delay: Duration::ZERO, timeout: Duration::ZERO },
            address_proxies: Arc::default(),
        };
        change(&mut state);
        let api = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = api.local_addr().unwrap();
        let log = Log::start(LogSettings { audit: AuditMode::Off, error: false }, true);
        let limits = Limits { workers: 2, connections: 100 };
        let server = Server::start(
            Listeners { api: api.into(), probe: None },
            limits,
            state,
            cache,
            store,
            Box::leak(Box::new(log.unwrap())),
            Box::leak(Box::new(Notifier::default())),
        )
        .unwrap();
        Self { server: Some(server), address, certificate, root }
    }

    /// Ends it, while the key store may still be busy.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }

    pub fn root(&self) -> Client {
        self.client(Some(&self.root))
    }

    pub fn root_id(&self) -> &str {
        &self.root.id
    }

    /// A client with a certificate, or without one.
    pub fn client(&self, identity: Option<&Identity>) -> Client {
        let certificate = self.certificate.chain[0].clone();
        Client::new(self.address, certificate, identity)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.stop();
    }
}
