//! The connections of a listener, as the metrics show them.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

pub struct Connections {
    open: AtomicUsize,
    limit: AtomicUsize,
    /// Counts those that are idle: only when asked, so that no request has to.
    idle: OnceLock<Box<dyn Fn() -> usize + Send + Sync>>,
}

impl Connections {
    pub fn new(limit: usize) -> Self {
        let (open, limit) = (AtomicUsize::new(0), AtomicUsize::new(limit));
        Self { open, limit, idle: OnceLock::new() }
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Open connections that wait for their next request.
    pub fn idle(&self) -> usize {
        self.idle.get().map_or(0, |count| count())
    }

    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes the limit. Connections that are open stay, even if there are more.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub fn add(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub fn remove(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn count_idle_by(&self, count: impl Fn() -> usize + Send + Sync + 'static) {
        let _ = self.idle.set(Box::new(count));
    }
}
