//! Sockets and turns: listeners, connections, the workers that drive them, and the sweeper that ends what
//! takes too long. Knows neither HTTP paths nor keys; what is served stands behind [`service`].

mod acceptor;
mod connection;
pub mod dialog;
#[cfg(test)]
pub mod door;
mod epoll;
mod listener;
#[cfg(test)]
pub mod memory;
mod poller;
mod registry;
pub mod service;
pub mod socket;
mod stream;
pub mod transport;
pub mod turn;
pub mod wire;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

pub use self::{acceptor::Acceptor, listener::Listening};
use self::{
    connection::Connection,
    listener::Listener,
    poller::{Driver, Poller},
    registry::Registry,
    socket::Socket,
};
use crate::{
    base::{
        clock,
        panics::survive,
        sync::{
            self,
            thread::{self, JoinHandle},
        },
    },
    log::Log,
    metrics::Metrics,
};

/// Stack of a worker, in bytes.
const WORKER_STACK: usize = 512 * 1024;
/// At the end, workers may take this time for what they are busy with.
const WORKER_PATIENCE: Duration = Duration::from_millis(200);

pub struct Sockets {
    poller: Poller,
    registry: Registry,
    is_draining: AtomicBool,
    started: Instant,
    log: &'static Log,
    metrics: &'static Metrics,
}

pub struct Workers(Vec<JoinHandle<()>>);

impl Sockets {
    /// Fails if the system refuses threads or descriptors.
    pub fn start(
        workers: usize,
        log: &'static Log,
        metrics: &'static Metrics,
    ) -> io::Result<(Arc<Self>, Workers)> {
        let sockets = Arc::new(Self {
            poller: Poller::new(workers)?,
            registry: Registry::default(),
            is_draining: AtomicBool::new(false),
            started: clock::now(),
            log,
            metrics,
        });
        let workers = (0..workers).map(|number| {
            let sockets = sockets.clone();
            let run = move || {
                if let Err(e) = sockets.poller.run(number, &*sockets) {
                    sockets.log.error(&format!("a worker has to stop: {e}"));
                }
            };
            sync::start(&format!("worker-{number}"), WORKER_STACK, Box::new(run))
        });
        let workers = Workers(workers.collect::<io::Result<_>>()?);
        Ok((sockets, workers))
    }

    /// Takes over a client's connection.
    fn take(
        self: &Arc<Self>,
        listener: &Arc<Listener>,
        socket: Socket,
        address: SocketAddr,
    ) -> io::Result<()> {
        let (transport, session) = listener.service.open(address)?;
        let connection = self.registry.insert(|token| {
            Connection::new(token, socket, transport, session, listener.clone(), self.clone())
        });
        connection.register().inspect_err(|_| self.registry.remove(connection.token))
    }

    /// Ends what is past its deadline. Called once a second.
    pub fn sweep(&self, now: Instant) {
        let millis = self.millis(now);
        for connection in self.registry.select(|connection| connection.is_due(millis)) {
            connection.on_deadline(now);
        }
    }

    /// Whether each worker has come round since the last call.
    pub fn have_all_turned(&self) -> bool {
        self.poller.have_all_turned()
    }

    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Ends connections as soon as they owe no answer, until all have ended or `until`. Log streams go on
    /// while others do, so that they show the last requests, and for a quarter of the time after that:
    /// `end_streams` ends them.
    pub fn drain(&self, until: Instant, end_streams: impl FnOnce()) {
        let patience = until.saturating_duration_since(clock::now());
        self.is_draining.store(true, Ordering::SeqCst);
        let is_left =
            |connection: &Connection| connection.is_counted() && !connection.only_follows();
        self.wait_for(|| self.registry.select(is_left).is_empty(), until - patience / 4);
        end_streams();
        self.wait_for(|| self.registry.select(Connection::is_counted).is_empty(), until);
    }

    fn wait_for(&self, is_done: impl Fn() -> bool, until: Instant) {
        for round in 0_u32.. {
            // Again now and then: a worker may have been busy with one that is idle since.
            if round.is_multiple_of(10) {
                self.registry
                    .select(|_| true)
                    .iter()
                    .for_each(|connection| connection.drain(false));
            }
            if is_done() || clock::now() >= until {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Closes all connections and ends the workers. One that is still busy ends with the process.
    pub fn stop(&self, workers: &Workers) {
        self.registry.select(|_| true).iter().for_each(|connection| connection.drain(true));
        self.poller.stop();
        let until = clock::now() + WORKER_PATIENCE;
        while clock::now() < until && !workers.0.iter().all(JoinHandle::is_finished) {
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Milliseconds from the start of the server to `at`.
    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Driver for Sockets {
    fn drive(&self, token: u64) {
        if let Some(connection) = self.registry.get(token) {
            survive(|| connection.drive());
        }
    }

    fn hand_over(&self, token: u64, worker: usize) {
        if let Some(connection) = self.registry.get(token) {
            survive(|| connection.hand_over(worker));
        }
    }
}

#[cfg(test)]
mod tests;
