//! Whether the server is fit to serve: what the key store said last about its status.

use std::{
    sync::{
        PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    base::{
        clock,
        sync::{Mutex, MutexGuard},
    },
    keystore::Error,
    log::Log,
};

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
    /// When the key store was asked for the status that it has not said yet.
    asked: Mutex<Option<Instant>>,
    /// A request has found that the key store fails.
    is_urgent: AtomicBool,
    is_ending: AtomicBool,
}

#[derive(Clone, Copy)]
struct Status {
    at: Instant,
    is_fit: bool,
    is_sealed: bool,
    /// How long the answer took.
    took: Duration,
}

impl Health {
    fn status(&self) -> MutexGuard<'_, Option<Status>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the key store was asked for the status that it has not said yet.
    pub fn asked(&self) -> MutexGuard<'_, Option<Instant>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the key store was available when it was asked last.
    pub fn is_fit(&self) -> bool {
        self.status().is_some_and(|status| status.is_fit)
    }

    /// Whether the key store said that it is sealed, and how long its answer took, when it was asked last.
    pub fn last_answer(&self) -> (bool, Duration) {
        self.status().map(|status| (status.is_sealed, status.took)).unwrap_or_default()
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
            Some(status) => (!status.is_fit).then_some("the key store is not available\n"),
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
        let is_urgent = is_urgent || is_watched || !status.is_fit;
        let interval = match ping {
            _ if is_urgent => Duration::ZERO,
            ping if has_probe => ping.unwrap_or(INTERVAL).min(INTERVAL),
            ping => ping.unwrap_or(IDLE_INTERVAL),
        };
        now.saturating_duration_since(status.at) >= interval
    }

    /// Notes what the key store, asked at `asked`, has answered. Returns whether it was available before, or was
    /// not asked.
    pub fn note(&self, answer: &Result<(), Error>, asked: Instant) -> bool {
        let at = clock::now();
        let mut status = self.status();
        let was_fit = status.is_none_or(|last| last.is_fit);
        let is_sealed = matches!(answer, Err(Error::Sealed));
        let took = at.saturating_duration_since(asked);
        *status = Some(Status { at, is_fit: answer.is_ok(), is_sealed, took });
        was_fit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_of_the_key_store_counts() {
        let (health, asked) = (Health::default(), Instant::now());
        assert!(!health.is_fit());
        assert_eq!((false, Duration::ZERO), health.last_answer());
        assert!(health.note(&Err(Error::Sealed), asked), "nothing was known");
        assert!(health.last_answer().0 && !health.is_fit());
        let failed = Err(Error::during("ask")("refused"));
        assert!(!health.note(&failed, asked));
        assert!(!health.last_answer().0 && !health.is_fit());
        let before = asked.checked_sub(Duration::from_secs(3)).unwrap();
        assert!(!health.note(&Ok(()), before));
        assert!(health.last_answer().1 >= Duration::from_secs(3) && health.is_fit());
    }
}
