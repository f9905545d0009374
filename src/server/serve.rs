//! A running server: its listeners, its workers and what it serves.

use std::{
    io,
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{background, probe::Probe};
use crate::{
    api::{core::Core, state::State},
    cache::Expiry,
    io::{Acceptor, Sockets, Workers},
    keystore::KeyStore,
    log::Log,
    request::Api,
};

/// The sizes of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Worker threads.
    pub workers: usize,
    /// Open connections of clients.
    pub connections: usize,
}

/// Where a server listens.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub api: TcpListener,
    /// For probes, without TLS.
    pub probe: Option<TcpListener>,
}

/// A running server.
pub struct Server {
    pub core: &'static Core,
    sockets: Arc<Sockets>,
    workers: Workers,
    api: Acceptor,
    probe: Option<Acceptor>,
}

impl Server {
    /// Starts to serve `listeners`.
    ///
    /// # Errors
    /// If the system refuses threads or descriptors.
    pub fn start(
        listeners: Listeners,
        limits: Limits,
        state: State,
        expiry: Expiry,
        store: Arc<dyn KeyStore>,
        log: &'static Log,
    ) -> io::Result<Self> {
        let core = Core::start(state, expiry, store, log, limits.workers)?;
        core.metrics.connections.set_limit(limits.connections);
        let (sockets, workers) = Sockets::start(limits.workers, log, core.metrics)?;
        background::start(core, &sockets, listeners.probe.is_some())?;
        let serve_probes =
            |listener| Acceptor::start(&sockets, listener, Box::new(Probe::new(core)));
        let probe = listeners.probe.map(serve_probes).transpose()?;
        let api = Acceptor::start(&sockets, listeners.api, Box::new(Api(core)))?;
        Ok(Self { core, sockets, workers, api, probe })
    }

    /// Stops: no new connections, running requests may finish within `patience`, then all connections
    /// are closed and the workers end. Probes get answers meanwhile.
    pub fn stop(self, patience: Duration) {
        let until = Instant::now() + patience;
        self.core.health.end();
        self.api.stop();
        self.sockets.drain(until, || self.core.log.end_streams());
        if let Some(probe) = self.probe {
            probe.stop();
        }
        self.sockets.stop(&self.workers);
        self.core.changes.give_up();
    }
}
