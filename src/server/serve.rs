//! A running server: its listeners, its workers and what it serves.

use std::{io, sync::Arc};

use super::{background, notify::Notifier, probe::Probe};
use crate::{
    api::{core::Core, state::State},
    base::{clock, sync::thread},
    cache::Expiry,
    io::{Acceptor, Listening, Sockets, Workers},
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
    pub api: Listening,
    /// For probes, without TLS.
    pub probe: Option<Listening>,
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
        notifier: &'static Notifier,
    ) -> io::Result<Self> {
        let core = Core::start(state, expiry, store, log, limits.workers)?;
        core.metrics.connections.set_limit(limits.connections);
        let (sockets, workers) = Sockets::start(limits.workers, log, core.metrics)?;
        background::start(core, &sockets, listeners.probe.is_some(), notifier)?;
        let serve_probes =
            |listener| Acceptor::start(&sockets, listener, Box::new(Probe::new(core)));
        let probe = listeners.probe.map(serve_probes).transpose()?;
        let api = Acceptor::start(&sockets, listeners.api, Box::new(Api(core)))?;
        Ok(Self { core, sockets, workers, api, probe })
    }

    /// Stops: serves on for the delay that the configuration wants, then takes no new connections, lets
    /// running requests finish within its timeout, closes all connections and ends the workers. Probes get
    /// answers meanwhile.
    pub fn stop(self) {
        self.core.health.end();
        let shutdown = self.core.state().shutdown;
        thread::sleep(shutdown.delay);
        let until = clock::now() + shutdown.timeout;
        self.api.stop();
        self.sockets.drain(until, || self.core.log.end_streams());
        if let Some(probe) = self.probe {
            probe.stop();
        }
        self.sockets.stop(&self.workers);
        self.core.changes.give_up();
    }
}
