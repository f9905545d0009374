//! What load balancers, containers and Prometheus may ask without TLS, on an address of its own.
//!
//! Requests here are neither audited nor counted, and never wait: whether the key store is fine is
//! found out in the background.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Server, failure::Failure, status};
use crate::{
    deadline::Deadline,
    http::{Method, head::Head, reply::Reply},
};

/// How often the key store is asked for its status.
pub(super) const INTERVAL: Duration = Duration::from_secs(2);
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
    Reply {
        announces_trailers: false,
        ..reply
    }
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
pub(super) struct Health(Mutex<Option<Status>>);

struct Status {
    at: Instant,
    is_fine: bool,
}

impl Health {
    /// Why the server is not fit to serve at `now`, if it is not.
    fn unfit(&self, now: Instant) -> Option<&'static str> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Some("the key store was not asked yet\n"),
            Some(status) if now.saturating_duration_since(status.at) > MAX_AGE => {
                Some("the key store does not answer\n")
            }
            Some(status) if !status.is_fine => Some("the key store is not available\n"),
            Some(_) => None,
        }
    }

    /// Asks the key store. Takes as long as that does; the error log hears of changes.
    pub(super) fn refresh(&self, server: &Server, now: Instant) {
        let status = server.store.status(Deadline::after(now, TIMEOUT));
        let next = Status {
            at: Instant::now(),
            is_fine: status.is_ok(),
        };
        let last = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(next);
        let was_fine = last.is_none_or(|last| last.is_fine);
        match status {
            Err(e) if was_fine => server.log_error(&format!("the key store is not available: {e}")),
            Ok(()) if !was_fine => server.log_error("the key store is available again"),
            _ => {}
        }
    }
}
