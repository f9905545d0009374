//! The server: a listener, a few workers, key store threads, and what they share.

mod acceptor;
pub mod advice;
mod background;
pub mod banner;
mod blocking;
mod changes;
mod connection;
mod counted;
mod exchange;
mod explain;
pub mod failure;
mod identity;
mod key;
pub mod lifecycle;
mod peer;
mod pending;
mod pipeline;
mod policy;
mod probe;
mod proxy;
mod registry;
mod reload;
pub(crate) mod room;
pub mod routes;
mod state;
mod status;
mod trace;
mod wanted;

use std::{
    io,
    net::TcpListener,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};

pub use self::state::State;
use self::{
    acceptor::{Acceptor, Service},
    blocking::Pool,
    changes::Changes,
    connection::{Address, Connection},
    counted::Counted,
    pipeline::{Call, Outcome},
    probe::Health,
    registry::Registry,
};
use crate::{
    base::panics::survive,
    cache::{Cache, Expiry},
    crypto::MasterKey,
    io::poller::{Driver, Poller},
    keystore::KeyStore,
    log::Log,
    metrics::Metrics,
};

/// Key store threads.
const KEY_STORE_THREADS: usize = 8;
/// Requests that may wait for the key store threads.
const KEY_STORE_QUEUE: usize = 1024;
/// Keys that the cache holds at most.
const CACHE_CAPACITY: usize = 16 * 1024;
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
    me: Weak<Server>,
    poller: Poller,
    started: Instant,
    is_draining: AtomicBool,
    /// Open connections of clients at most; can change at any time.
    max_connections: AtomicUsize,
    state: ArcSwap<State>,
    /// Held from reading the state to putting a changed one in its place, so that no change is lost.
    state_writer: Mutex<()>,
    log: &'static Log,
    health: Health,
    metrics: &'static Metrics,
    registry: Registry,
    pool: Pool,
    changes: Changes,
    cache: Cache<Arc<MasterKey>, Address>,
    store: Arc<dyn KeyStore>,
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
        let poller = Poller::new(limits.workers)?;
        let pool = Pool::start(KEY_STORE_THREADS, KEY_STORE_QUEUE)?;
        // Lives as long as the process, so that no request has to count references to the counters.
        let metrics: &'static Metrics =
            Box::leak(Box::new(Metrics::new(limits.workers + KEY_STORE_THREADS)));
        let server = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            poller,
            started: Instant::now(),
            is_draining: AtomicBool::new(false),
            max_connections: AtomicUsize::new(limits.connections),
            state: ArcSwap::from_pointee(state),
            state_writer: Mutex::new(()),
            log,
            health: Health::default(),
            metrics,
            registry: Registry::default(),
            pool,
            changes: Changes::default(),
            cache: Cache::new(CACHE_CAPACITY, expiry),
            store: Arc::new(Counted::new(store, metrics)),
        });
        let workers = (0..limits.workers)
            .map(|number| {
                let server = server.clone();
                std::thread::Builder::new()
                    .name(format!("worker-{number}"))
                    .stack_size(WORKER_STACK)
                    .spawn(move || {
                        if let Err(e) = server.poller.run(number, &*server) {
                            server.log_error(&format!("a worker has to stop: {e}"));
                        }
                    })
            })
            .collect::<io::Result<Vec<_>>>()?;
        background::start(&server, listeners.probe.is_some())?;
        let probe = listeners
            .probe
            .map(|probe| Acceptor::start(&server, probe, Service::Probe))
            .transpose()?;
        let threads =
            Threads { api: Acceptor::start(&server, listeners.api, Service::Api)?, probe, workers };
        Ok((server, threads))
    }

    /// Stops: no new connections, running requests may finish within `patience`, then everything
    /// is closed and the threads have ended. Probes are told meanwhile.
    pub fn stop(&self, threads: Threads, patience: Duration) {
        let until = Instant::now() + patience;
        self.is_draining.store(true, Ordering::SeqCst);
        threads.api.stop();
        // Subscribers of the log see the requests that are finished now, and go last.
        let wait_for = |is_done: &dyn Fn() -> bool, until| {
            for round in 0_u32.. {
                // Again now and then: a worker may have been busy with one that is idle since.
                if round % 10 == 0 {
                    self.registry.for_each(|connection| connection.drain(self, false));
                }
                if is_done() || Instant::now() >= until {
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let only_streams = || self.registry.count(Connection::only_streams);
        wait_for(&|| self.registry.len() <= only_streams(), until - patience / 4);
        self.log.end_streams();
        wait_for(&|| self.registry.len() == 0, until);
        if let Some(probe) = threads.probe {
            probe.stop();
        }
        self.registry.for_each(|connection| connection.drain(self, true));
        self.poller.stop();
        // A worker that is still busy ends with the process.
        let until = Instant::now() + WORKER_PATIENCE;
        while Instant::now() < until && !threads.workers.iter().all(JoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.changes.give_up();
    }

    fn me(&self) -> Weak<Self> {
        self.me.clone()
    }

    /// The state that a request works with from start to finish. Not kept beyond it: what a reload
    /// has replaced, such as a private key, goes when its last request has ended.
    fn state(&self) -> Guard<Arc<State>> {
        self.state.load()
    }

    /// Puts what `change` makes of the state in its place. Requests that begin from now on see it
    /// whole; those that run go on with the one they have. Nothing changes if `change` fails.
    fn change_state<T, E>(&self, change: impl FnOnce(&mut State) -> Result<T, E>) -> Result<T, E> {
        let _writer = self.state_writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = State::clone(&self.state());
        let done = change(&mut state)?;
        self.state.store(Arc::new(state));
        Ok(done)
    }

    /// Connections that are open stay, even if there are more.
    fn set_max_connections(&self, count: usize) {
        self.max_connections.store(count, Ordering::Relaxed);
    }

    fn max_connections(&self) -> usize {
        self.max_connections.load(Ordering::Relaxed)
    }

    fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Milliseconds from the start of the server to `at`.
    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn log_error(&self, message: &str) {
        self.log.error(message);
    }
}

impl Driver for Server {
    fn drive(&self, token: u64) {
        if let Some(connection) = self.registry.get(token) {
            survive(|| connection.drive(self));
        }
    }

    fn hand_over(&self, token: u64, worker: usize) {
        if let Some(connection) = self.registry.get(token) {
            survive(|| connection.hand_over(self, worker));
        }
    }
}

#[cfg(test)]
mod tests;
