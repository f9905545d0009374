//! The server: from its flags to listening, and from a signal to the end.

mod acceptor;
pub mod background;
pub mod banner;
mod connection;
pub mod options;
pub mod probe;
mod registry;
pub mod reload;
pub mod room;
pub mod start;
pub mod stores;
mod worker;

use std::{
    io,
    net::TcpListener,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::event::{EventfdFlags, epoll, eventfd};

use self::{
    acceptor::Acceptor,
    connection::{Connection, Wait},
    probe::Probe,
    registry::Registry,
};
use crate::{
    api::{core::Core, state::State},
    cache::Expiry,
    keystore::KeyStore,
    log::{Cause, Log},
    request::Api,
};

/// At the end, workers may take this time for what they are busy with.
const WORKER_PATIENCE: Duration = Duration::from_millis(200);
/// Stack of a worker, in bytes.
const WORKER_STACK: usize = 512 * 1024;

/// The sizes of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Worker threads.
    pub workers: usize,
    /// Open connections of clients.
    pub connections: usize,
}

/// A running server.
pub struct Server {
    /// What is served.
    pub core: &'static Core,
    me: Weak<Server>,
    epoll: OwnedFd,
    stop: OwnedFd,
    started: Instant,
    is_draining: AtomicBool,
    registry: Registry,
}

/// Where a server listens.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub api: TcpListener,
    /// For probes, without TLS.
    pub probe: Option<TcpListener>,
}

/// The threads of a server.
pub struct Threads {
    api: Acceptor,
    probe: Option<Acceptor>,
    workers: Vec<JoinHandle<()>>,
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
    ) -> io::Result<(Arc<Self>, Threads)> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let core = Core::start(state, expiry, store, log, limits.workers)?;
        core.metrics.connections.set_limit(limits.connections);
        let server = Arc::new_cyclic(|me| Self {
            core,
            me: me.clone(),
            epoll,
            stop,
            started: Instant::now(),
            is_draining: AtomicBool::new(false),
            registry: Registry::default(),
        });
        // Level-triggered and never read: once written, every worker sees it.
        let token = epoll::EventData::new_u64(worker::STOP);
        epoll::add(&server.epoll, &server.stop, token, epoll::EventFlags::IN)?;
        let workers = (0..limits.workers)
            .map(|number| {
                let server = server.clone();
                std::thread::Builder::new()
                    .name(format!("worker-{number}"))
                    .stack_size(WORKER_STACK)
                    .spawn(move || worker::run(&server))
            })
            .collect::<io::Result<Vec<_>>>()?;
        background::start(&server, listeners.probe.is_some())?;
        let probe = listeners
            .probe
            .map(|probe| Acceptor::start(&server, probe, Arc::new(Probe::new(core))))
            .transpose()?;
        let api = Acceptor::start(&server, listeners.api, Arc::new(Api(core)))?;
        Ok((server, Threads { api, probe, workers }))
    }

    /// Stops: no new connections, running requests may finish within `patience`, then everything
    /// is closed and the threads have ended. Probes get answers meanwhile.
    pub fn stop(&self, threads: Threads, patience: Duration) {
        let until = Instant::now() + patience;
        self.is_draining.store(true, Ordering::SeqCst);
        self.core.health.end();
        threads.api.stop();
        // Subscribers of the log see the requests that are finished now, and go last.
        let wait_for = |is_done: &dyn Fn() -> bool, until| {
            for round in 0_u32.. {
                // Again now and then: a worker may have been busy with a connection that is idle since.
                if round % 10 == 0 {
                    self.registry.for_each(|connection| connection.drain(self, false));
                }
                if is_done() || Instant::now() >= until {
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let open = || self.core.metrics.connections.open();
        let only_streams = || self.registry.count(Connection::only_streams);
        wait_for(&|| open() <= only_streams(), until - patience / 4);
        self.core.log.end_streams();
        wait_for(&|| open() == 0, until);
        if let Some(probe) = threads.probe {
            probe.stop();
        }
        self.registry.for_each(|connection| connection.drain(self, true));
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        // A worker that is still busy ends with the process.
        let until = Instant::now() + WORKER_PATIENCE;
        while Instant::now() < until && !threads.workers.iter().all(JoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.core.changes.give_up();
    }

    fn me(&self) -> Weak<Self> {
        self.me.clone()
    }

    fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Ends what takes too long.
    fn sweep(&self, now: Instant) {
        let millis = self.millis(now);
        for connection in self.registry.select(|connection| connection.is_due(millis)) {
            connection.on_deadline(self, now);
        }
    }

    /// Counts the idle connections of clients for the metrics.
    fn count_idle(&self) {
        let connections = &self.core.metrics.connections;
        let is_idle = |connection: &Connection| !connection.is_probe && connection.is_idle();
        let idle = self.registry.count(is_idle);
        while connections.idle() < idle {
            connections.set_idle(true);
        }
        while connections.idle() > idle {
            connections.set_idle(false);
        }
    }

    /// Milliseconds from the start of the server to `at`.
    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn watch(&self, connection: &Connection, socket: impl AsFd) -> io::Result<()> {
        let token = epoll::EventData::new_u64(connection.token);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ONESHOT;
        Ok(epoll::add(&self.epoll, socket, token, flags)?)
    }

    /// Asks epoll for the one event that `wait` names. Called with the connection locked.
    fn arm(&self, connection: &Connection, socket: impl AsFd, wait: Wait) {
        let wanted = match wait {
            Wait::Writable => epoll::EventFlags::OUT,
            _ => epoll::EventFlags::IN | epoll::EventFlags::RDHUP,
        };
        let token = epoll::EventData::new_u64(connection.token);
        if let Err(e) =
            epoll::modify(&self.epoll, socket, token, wanted | epoll::EventFlags::ONESHOT)
        {
            // The sweeper ends the connection at its deadline.
            self.core.log.error_from_outside(Cause::Connection, || {
                format!("failed to watch a connection: {e}")
            });
        }
    }
}

#[cfg(test)]
mod tests;
