//! What all requests share: the state, the key store behind its cache and threads, the log, counters.

use std::{
    io,
    sync::{Arc, PoisonError, atomic::AtomicUsize},
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwap, Guard};

use super::{
    changes::Changes,
    failure::{Failure, Task},
    health::Health,
    quota::Quotas,
    slot::Waiter,
    state::State,
    threads::Threads,
};
use crate::{
    base::{
        clock,
        deadline::Deadline,
        sync::{Mutex, MutexGuard},
    },
    cache::{Cache, Expiry},
    crypto::{MasterKey, stored},
    http::reply::Reply,
    keystore::{self, KeyName, KeyStore},
    log::{Cause, Log},
    metrics::{Event, Metrics, Outcome},
};

const KEY_STORE_THREADS: usize = 8;
/// Jobs that may wait for the key store threads, at most half of them of one identity.
const KEY_STORE_QUEUE: usize = 2048;
/// Keys that the cache holds at most.
const CACHE_CAPACITY: usize = 16 * 1024;
/// The assumed size of a list before the first one, in bytes.
const UNKNOWN_LIST: usize = 4 << 20;

/// As many as are wanted; in half of all simulations so few that requests wait for their turns.
fn key_store_threads() -> usize {
    #[cfg(test)]
    if crate::base::sync::world::is_simulated() && crate::base::sync::world::one_in(2) {
        return 2;
    }
    KEY_STORE_THREADS
}

/// A key from the key store.
pub type Fetched = Result<Arc<MasterKey>, Failure>;

/// Makes an answer of what the key store says of its status, and of how long it took.
pub type Answer = fn(&Core, &Result<(), keystore::Error>, Duration) -> Result<Reply, Failure>;

/// A request that waits for the status of the key store, and what makes its answer.
pub type Asking = (Answer, Waiter<Result<Reply, Failure>>);

/// What all requests share. Lives as long as the process, so that no request counts references.
pub struct Core {
    state: ArcSwap<State>,
    /// Held from reading the state to replacing it, so that no change is lost.
    writer: Mutex<()>,
    /// The key store.
    pub store: Arc<dyn KeyStore>,
    /// Keys that were read lately.
    pub cache: Cache<Arc<MasterKey>, Waiter<Fetched>>,
    /// The key store threads.
    pub threads: Threads,
    /// What each identity has asked for lately.
    pub quotas: Quotas,
    /// Changes of keys.
    pub changes: Changes,
    /// Requests that wait for the status of the key store.
    question: Mutex<Vec<Asking>>,
    /// The size of all names as an answer, in bytes, when they were listed last.
    pub list_size: AtomicUsize,
    /// Audit and error log.
    pub log: &'static Log,
    /// Counters.
    pub metrics: &'static Metrics,
    /// Whether the server is fit to serve.
    pub health: Health,
    /// When the server was started.
    pub started_at: SystemTime,
}

impl Core {
    /// Starts the key store threads. `workers` threads serve requests.
    ///
    /// # Errors
    /// If the system refuses threads.
    pub fn start(
        state: State,
        expiry: Expiry,
        store: Arc<dyn KeyStore>,
        log: &'static Log,
        workers: usize,
    ) -> io::Result<&'static Self> {
        let threads = Threads::start(key_store_threads(), KEY_STORE_QUEUE)?;
        let metrics: &'static Metrics =
            Box::leak(Box::new(Metrics::new(workers + KEY_STORE_THREADS)));
        Ok(Box::leak(Box::new(Self {
            state: ArcSwap::from_pointee(state),
            writer: Mutex::default(),
            store,
            cache: Cache::new(CACHE_CAPACITY, expiry),
            quotas: Quotas::default(),
            changes: Changes::new(threads.clone(), log),
            threads,
            question: Mutex::default(),
            list_size: AtomicUsize::new(UNKNOWN_LIST),
            log,
            metrics,
            health: Health::default(),
            started_at: clock::wall(),
        })))
    }

    /// The state that a request works with from start to finish, and not beyond: a private key that a
    /// reload has replaced goes with the last request that uses it.
    pub fn state(&self) -> Guard<Arc<State>> {
        self.state.load()
    }

    /// Replaces the state with what `change` makes of it. Requests that begin from now on see it whole;
    /// running ones keep theirs. If `change` fails, nothing changes.
    pub fn change_state<T, E>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T, E>,
    ) -> Result<T, E> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = State::clone(&self.state());
        let done = change(&mut state)?;
        self.state.store(Arc::new(state));
        Ok(done)
    }

    /// The requests that wait for the status of the key store.
    pub fn asking(&self) -> MutexGuard<'_, Vec<Asking>> {
        self.question.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a key from the key store.
    pub fn fetch(&self, name: &KeyName, deadline: Deadline) -> Fetched {
        let value = self.called(self.store.get(name, deadline), Task::Access, Some(name))?;
        let key = stored::decode(value.expose()).map_err(|e| {
            self.log.error_from_outside(Cause::Failure, || {
                format!("the stored value of key {:?} is no key: {e}", name.as_str())
            });
            Failure::KeyStore(Task::Access)
        })?;
        Ok(Arc::new(key))
    }

    /// The cache learns how a create of `name` has ended. Nothing is cached here: a key that is not durable yet must
    /// not encrypt anything. But a key of this name that another server has deleted must go.
    pub fn has_created(&self, name: &KeyName, created: &Result<(), keystore::Error>) {
        match created {
            Ok(()) => self.cache.remove(name),
            Err(keystore::Error::Exists) => self.cache.doubt(name, clock::now()),
            // Nothing is known of the key, which may be the only way to serve it for a while.
            Err(_) => {}
        }
    }

    /// Counts how a call of the key store ended.
    pub fn count<T>(&self, result: &Result<T, keystore::Error>) {
        use keystore::Error::{Exists, NotFound, Sealed, Unavailable};
        self.metrics.count(Event::KeyStore(match result {
            Ok(_) => Outcome::Success,
            Err(Exists | NotFound) => Outcome::Error,
            Err(Sealed | Unavailable { .. }) => Outcome::Failure,
        }));
    }

    /// Counts a call of the key store that did `task`, and turns its error into the failure that the
    /// client gets; the cause goes to the error log.
    pub fn called<T>(
        &self,
        result: Result<T, keystore::Error>,
        task: Task,
        name: Option<&KeyName>,
    ) -> Result<T, Failure> {
        self.count(&result);
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let failure = Failure::from_key_store(&error, task);
        if matches!(failure, Failure::KeyStore(_) | Failure::Sealed) {
            self.health.hurry();
            self.log.error_from_outside(Cause::Failure, || match name {
                Some(name) => format!("key {:?}: {error}", name.as_str()),
                None => error.to_string(),
            });
        }
        Err(failure)
    }
}
