//! Whether the server is fit to serve: what the key store said last about its status.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::log::Log;

/// How often the key store is asked for its status.
const INTERVAL: Duration = Duration::from_secs(2);
/// How often without a listener for probes.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);
/// A status that is older than this says nothing any more.
const MAX_AGE: Duration = Duration::from_secs(15);

/// The health of a server.
#[derive(Default)]
pub struct Health {
    status: Mutex<Option<Status>>,
    /// A request has found the key store sealed.
    is_urgent: AtomicBool,
    is_ending: AtomicBool,
}

#[derive(Clone, Copy)]
struct Status {
    at: Instant,
    /// Since when the key store is not available, if it is not.
    unfit_since: Option<Instant>,
}

impl Health {
    fn status(&self) -> MutexGuard<'_, Option<Status>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the key store was available when it was asked last.
    pub fn is_fit(&self) -> bool {
        self.status().is_some_and(|status| status.unfit_since.is_none())
    }

    /// Why the server is not fit to serve at `now`, if it is not.
    pub fn unfit(&self, log: &Log, now: Instant) -> Option<&'static str> {
        if self.is_ending.load(Ordering::Relaxed) {
            return Some("the server is ending\n");
        }
        if log.refuses() {
            return Some("audit log is not available\n");
        }
        match &*self.status() {
            None => Some("the key store was not asked yet\n"),
            Some(status) if now.saturating_duration_since(status.at) > MAX_AGE => {
                Some("the key store does not answer\n")
            }
            Some(status) => status.unfit_since.map(|_| "the key store is not available\n"),
        }
    }

    /// The server ends: it takes no more requests.
    pub fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// Asks for a look at the key store as soon as possible.
    pub fn hurry(&self) {
        self.is_urgent.store(true, Ordering::Relaxed);
    }

    /// Whether it is time to ask the key store, which wants that each `ping`. `is_watched` if the answer
    /// matters to others.
    pub fn is_due(
        &self,
        ping: Option<Duration>,
        has_probe: bool,
        is_watched: bool,
        now: Instant,
    ) -> bool {
        let is_urgent = self.is_urgent.swap(false, Ordering::Relaxed);
        let Some(status) = *self.status() else {
            return true;
        };
        let is_urgent = is_urgent || is_watched || status.unfit_since.is_some();
        let interval = match ping {
            _ if is_urgent => Duration::ZERO,
            ping if has_probe => ping.unwrap_or(INTERVAL).min(INTERVAL),
            ping => ping.unwrap_or(IDLE_INTERVAL),
        };
        now.saturating_duration_since(status.at) >= interval
    }

    /// Notes whether the key store, asked at `now`, is available. Returns since when it was not before,
    /// and since when it is not now.
    pub fn note(&self, is_fit: bool, now: Instant) -> [Option<Instant>; 2] {
        let mut status = self.status();
        let before = status.and_then(|last| last.unfit_since);
        let unfit_since = (!is_fit).then(|| before.unwrap_or(now));
        *status = Some(Status { at: Instant::now(), unfit_since });
        [before, unfit_since]
    }
}
