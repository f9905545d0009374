//! The connections of a listener, as the metrics show them.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many connections are open and idle, and how many there may be.
#[derive(Debug)]
pub struct Connections {
    open: AtomicUsize,
    idle: AtomicUsize,
    limit: AtomicUsize,
}

impl Connections {
    /// None, of at most `limit`.
    pub fn new(limit: usize) -> Self {
        Self {
            open: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
        }
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Open connections that wait for their next request.
    pub fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
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

    /// Counts a connection that became idle, or busy again.
    pub fn set_idle(&self, is_idle: bool) {
        match is_idle {
            true => self.idle.fetch_add(1, Ordering::Relaxed),
            false => self.idle.fetch_sub(1, Ordering::Relaxed),
        };
    }
}
