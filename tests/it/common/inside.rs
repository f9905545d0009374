//! A server in the process of the test, with a key store of the test's own.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use kes::inside::{
    AuditMode, ClientTrust, Expiry, Generation, Group, KeyStore, Limits, Listeners, Log,
    LogSettings, Policies, Server, ServerTls, State, expiry, load_certificate, server_config,
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
        let state = State {
            certificate_expiry: expiry(&loaded),
            tls: server_config(loaded, trust.clone(), &Group::ALL, ServerTls::default()).unwrap(),
            trust,
            trust_generation: 0,
            policies: Policies::builder(&root.id, &[]).build(),
            generation: Generation::V0_14,
            texts: Generation::V0_14,
            apis: HashMap::new(),
            proxy_header: None,
        };
        let api = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = api.local_addr().unwrap();
        let log = Log::start(LogSettings { audit: AuditMode::Off, error: false }, true);
        let limits = Limits { workers: 2, connections: 100 };
        let server = Server::start(
            Listeners { api, probe: None },
            limits,
            state,
            Expiry::default(),
            store,
            Box::leak(Box::new(log.unwrap())),
        )
        .unwrap();
        Self { server: Some(server), address, certificate, root }
    }

    /// Ends it, while the key store may still be busy.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop(Duration::ZERO);
        }
    }

    pub fn root(&self) -> Client {
        let certificate = self.certificate.chain[0].clone();
        Client::new(self.address, certificate, Some(&self.root))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.stop();
    }
}
