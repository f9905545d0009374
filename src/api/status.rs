//! What the server says about itself.

use std::time::Instant;

use rustls_pki_types::UnixTime;

use super::{
    call::{Call, Outcome},
    core::Core,
    failure::Failure,
};
use crate::{
    http::reply::Reply,
    log::Stream,
    metrics::{self, Family},
};

/// `GET /version`
pub fn version(_: &Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Done(version_reply()))
}

/// `GET /v1/metrics`
pub fn metrics(call: &Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Done(metrics_reply(call.core)))
}

/// The answer with the version.
pub fn version_reply() -> Reply {
    let body = concat!("{\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}");
    Reply::json(body.as_bytes().to_vec())
}

/// The page that Prometheus reads.
pub fn metrics_reply(core: &Core) -> Reply {
    let readings = metrics::process().into_iter().chain(readings(core));
    let page = core.metrics.page(readings, core.log.subscribers(), Instant::now());
    Reply {
        content_type: Some("text/plain; version=0.0.4; charset=utf-8"),
        ..Reply::json(page.into_bytes())
    }
}

/// What the parts of the server know by themselves.
#[rustfmt::skip]
fn readings(core: &Core) -> [Family; 13] {
    let expiry = core.state().certificate_expiry.as_secs() as f64 - UnixTime::now().as_secs() as f64;
    let connections = &core.metrics.connections;
    [
        Family::counter("kes_cache_hits", "Requests whose key was in the cache.", core.cache.hits()),
        Family::counter("kes_cache_misses", "Requests whose key was not in the cache.", core.cache.misses()),
        Family::gauge("kes_cache_size", "Keys in the cache.", core.cache.len() as f64),
        Family::gauge("kes_connections_open", "Open connections of clients.", connections.open() as f64),
        Family::gauge("kes_connections_idle", "Open connections that wait for their next request.", connections.idle() as f64),
        Family::gauge("kes_connections_limit", "Open connections of clients at most.", connections.limit() as f64),
        Family::gauge("kes_keystore_queue", "Jobs that wait for the key store or run.", core.threads.depth() as f64),
        Family::counter("kes_log_audit_events", "Audit events that were sent to subscribers.", core.log.events(Stream::Audit)),
        Family::counter("kes_log_audit_lost", "Audit lines that were lost because nobody read them.", core.log.audit_lost()),
        Family::counter("kes_log_error_events", "Error events that were sent to subscribers.", core.log.events(Stream::Error)),
        Family::gauge("kes_log_subscribers", "Open log streams.", core.log.subscribers() as f64),
        Family::counter("kes_log_subscribers_dropped", "Log streams that were closed because their readers did not keep up.", core.log.subscribers_dropped()),
        Family::gauge("kes_tls_certificate_expiry", "Seconds until the certificate of the server expires.", expiry),
    ]
}
