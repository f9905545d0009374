//! The connections of a listener, as the metrics show them.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

/// How many connections are open and idle, and how many there may be.
pub struct Connections {
    open: AtomicUsize,
    limit: AtomicUsize,
    /// Counts those that are idle: only when asked, so that no request has to.
    idle: OnceLock<Box<dyn Fn() -> usize + Send + Sync>>,
}

impl Connections {
    /// None, of at most `limit`.
    pub fn new(limit: usize) -> Self {
        let (open, limit) = (AtomicUsize::new(0), AtomicUsize::new(limit));
        Self { open, limit, idle: OnceLock::new() }
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Open connections that wait for their next request.
    pub fn idle(&self) -> usize {
        self.idle.get().map_or(0, |count| count())
    }

    /// Open connections at most.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes the limit. Connections that are open stay, even if there are more.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Counts a connection that was opened.
    pub fn add(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that was closed.
    pub fn remove(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Has idle connections counted by `count`; once.
    pub fn count_idle_by(&self, count: impl Fn() -> usize + Send + Sync + 'static) {
        let _ = self.idle.set(Box::new(count));
    }
}
