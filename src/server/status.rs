//! What the server says about itself.

use std::time::Instant;

use rustls_pki_types::UnixTime;

use super::{Call, Outcome, Server, failure::Failure};
use crate::{
    http::reply::Reply,
    log::Stream,
    metrics::{self, Family},
};

/// `GET /version`
pub(super) fn version(_: &Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Done(version_reply()))
}

/// `GET /v1/metrics`
pub(super) fn metrics(call: &Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Done(metrics_reply(call.server)))
}

pub(super) fn version_reply() -> Reply {
    let body = concat!("{\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}");
    Reply::json(body.as_bytes().to_vec())
}

pub(super) fn metrics_reply(server: &Server) -> Reply {
    let readings = metrics::process().into_iter().chain(readings(server));
    let page = server.metrics.page(readings, server.log.subscribers(), Instant::now());
    Reply {
        content_type: Some("text/plain; version=0.0.4; charset=utf-8"),
        ..Reply::json(page.into_bytes())
    }
}

/// What the parts of the server know by themselves.
#[rustfmt::skip]
fn readings(server: &Server) -> [Family; 13] {
    let expiry = server.state().certificate_expiry.as_secs() as f64 - UnixTime::now().as_secs() as f64;
    let idle = server.registry.count(|connection| !connection.is_probe && connection.is_idle());
    [
        Family::counter("kes_cache_hits", "Requests whose key was in the cache.", server.cache.hits()),
        Family::counter("kes_cache_misses", "Requests whose key was not in the cache.", server.cache.misses()),
        Family::gauge("kes_cache_size", "Keys in the cache.", server.cache.len() as f64),
        Family::gauge("kes_connections_open", "Open connections of clients.", server.registry.len() as f64),
        Family::gauge("kes_connections_idle", "Open connections that wait for their next request.", idle as f64),
        Family::gauge("kes_connections_limit", "Open connections of clients at most.", server.max_connections() as f64),
        Family::gauge("kes_keystore_queue", "Jobs that wait for the key store or run.", server.pool.depth() as f64),
        Family::counter("kes_log_audit_events", "Audit events that were sent to subscribers.", server.log.events(Stream::Audit)),
        Family::counter("kes_log_audit_lost", "Audit lines that were lost because nobody read them.", server.log.audit_lost()),
        Family::counter("kes_log_error_events", "Error events that were sent to subscribers.", server.log.events(Stream::Error)),
        Family::gauge("kes_log_subscribers", "Open log streams.", server.log.subscribers() as f64),
        Family::counter("kes_log_subscribers_dropped", "Log streams that were closed because their readers did not keep up.", server.log.subscribers_dropped()),
        Family::gauge("kes_tls_certificate_expiry", "Seconds until the certificate of the server expires.", expiry),
    ]
}
