//! What load balancers, containers and Prometheus may ask without TLS, on an address of its own.
//!
//! Requests here are neither audited nor counted, and never wait: whether the key store is fine is
//! found out in the background.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Server, failure::Failure, status};
use crate::{
    base::deadline::Deadline,
    http::{Method, head::Head, reply::Reply},
};

/// How often the key store is asked for its status.
const INTERVAL: Duration = Duration::from_secs(2);
/// The same where nobody asks for it.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);
/// The key store has to answer within this time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A status that is older than this says nothing any more.
const MAX_AGE: Duration = Duration::from_secs(15);

type Probe = fn(&Server) -> Reply;

/// All that is served.
const PROBES: &[(&str, Probe)] = &[
    ("/live", |_| text(200, "ok\n")),
    ("/ready", ready),
    ("/version", |_| status::version_reply()),
    ("/v1/metrics", status::metrics_reply),
];

/// The answer to one request.
pub(super) fn answer(server: &Server, head: &Head) -> Reply {
    let probe = PROBES.iter().find(|(path, _)| *path == head.path);
    let reply = match (probe, head.method) {
        (Some((_, probe)), Method::Get | Method::Head) => probe(server),
        (Some(_), _) => Reply {
            header: Some(("Allow", "GET, HEAD".to_owned())),
            ..text(405, "method not allowed\n")
        },
        (None, _) => Failure::NoSuchPath.reply(),
    };
    Reply { announces_trailers: false, ..reply }
}

fn ready(server: &Server) -> Reply {
    if server.is_draining() {
        return text(503, "the server is ending\n");
    }
    if server.log.refuses() {
        return text(503, "audit log is not available\n");
    }
    match server.health.unfit(Instant::now()) {
        None => text(200, "ok\n"),
        Some(why) => text(503, why),
    }
}

fn text(status: u16, text: &str) -> Reply {
    Reply {
        status,
        content_type: Some("text/plain; charset=utf-8"),
        ..Reply::json(text.as_bytes().to_vec())
    }
}

/// What the key store said last about its status.
#[derive(Default)]
pub(super) struct Health {
    status: Mutex<Option<Status>>,
    /// Somebody has seen that it is sealed.
    is_urgent: AtomicBool,
}

#[derive(Clone, Copy)]
struct Status {
    at: Instant,
    /// Since when it is not fine, if it is not.
    unfit_since: Option<Instant>,
}

impl Health {
    fn status(&self) -> MutexGuard<'_, Option<Status>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the key store was fine when it was asked last.
    pub(super) fn is_fit(&self) -> bool {
        self.status().is_some_and(|status| status.unfit_since.is_none())
    }

    /// Why the server is not fit to serve at `now`, if it is not.
    fn unfit(&self, now: Instant) -> Option<&'static str> {
        match &*self.status() {
            None => Some("the key store was not asked yet\n"),
            Some(status) if now.saturating_duration_since(status.at) > MAX_AGE => {
                Some("the key store does not answer\n")
            }
            Some(status) if status.unfit_since.is_some() => {
                Some("the key store is not available\n")
            }
            Some(_) => None,
        }
    }

    /// The key store is asked as soon as may be.
    pub(super) fn hurry(&self) {
        self.is_urgent.store(true, Ordering::Relaxed);
    }

    /// Whether it is time to ask the key store.
    pub(super) fn is_due(&self, server: &Server, has_probe: bool, now: Instant) -> bool {
        let Some(status) = *self.status() else {
            return true;
        };
        let is_urgent = status.unfit_since.is_some()
            || server.cache.has_offline()
            || self.is_urgent.load(Ordering::Relaxed);
        let interval = match server.store.ping() {
            _ if is_urgent => Duration::ZERO,
            ping if has_probe => ping.unwrap_or(INTERVAL).min(INTERVAL),
            ping => ping.unwrap_or(IDLE_INTERVAL),
        };
        now.saturating_duration_since(status.at) >= interval
    }

    /// Asks the key store. Takes as long as that does; the error log hears of changes, and the cache
    /// whether the key store is available.
    pub(super) fn refresh(&self, server: &Server, now: Instant) {
        self.is_urgent.store(false, Ordering::Relaxed);
        let status = server.store.status(Deadline::after(now, TIMEOUT));
        let since_before = self.status().and_then(|last| last.unfit_since);
        let unfit_since = status.is_err().then(|| since_before.unwrap_or(now));
        *self.status() = Some(Status { at: Instant::now(), unfit_since });
        server.cache.set_offline(unfit_since);
        match status {
            Err(e) if since_before.is_none() => {
                server.log_error(&format!("the key store is not available: {e}"));
            }
            Ok(()) if since_before.is_some() => {
                server.log_error("the key store is available again");
            }
            _ => {}
        }
    }
}
