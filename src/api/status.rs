//! What the server says about itself.

use std::{error::Error as _, time::Duration};

use rustls_pki_types::UnixTime;

use super::{
    call::{Call, Outcome},
    core::{Answer, Core},
    failure::Failure,
    object::Object,
    slot::Waiter,
    threads::guarded,
};
use crate::{
    base::{clock, deadline::Deadline, generation::Generation},
    http::reply::Reply,
    keystore::{self, remote::NoAnswer},
    log::Stream,
    metrics::{self, Family, Process},
};

/// The commit that this was built from, if `KES_COMMIT` was set then.
const COMMIT: Option<&str> = option_env!("KES_COMMIT");
/// The key store has to say its status within this time.
const STATUS_TIMEOUT: Duration = Duration::from_millis(4_500);
/// Requests that may wait for that at once.
const MAX_WAITING: usize = 2048;

/// `GET /version`
pub fn version(call: &Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Done(version_reply(call.state.generation)))
}

/// `GET /v1/metrics`
pub fn metrics(call: &Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Done(metrics_reply(call.core)))
}

/// `GET /v1/ready`: whether the key store can serve now.
pub fn ready(_: &Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Status(|core, status, _| {
        if core.log.refuses() {
            return Err(Failure::NotAudited);
        }
        match status {
            Ok(()) => Ok(Reply::empty()),
            Err(e) if is_unreachable(e) => Err(Failure::Unreachable),
            Err(_) => Err(Failure::Unavailable),
        }
    }))
}

/// `GET /v1/status`: the process, and how long the key store takes to answer.
pub fn status(_: &Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Status(|core, status, took| {
        let up = clock::wall().duration_since(core.started_at).unwrap_or_default();
        let process = Process::now();
        let number = |number: Option<usize>| number.unwrap_or_default().to_string();
        let object = Object::new()
            .text("version", env!("CARGO_PKG_VERSION"))
            .text("os", std::env::consts::OS)
            .text("arch", architecture())
            .json("uptime", &up.as_secs().to_string())
            .json("num_cpu", &number(process.cpus))
            .json("num_cpu_used", &number(process.cpus_used))
            .json("mem_heap_used", &number(process.heap))
            .json("mem_stack_used", &number(process.stack));
        let object = match status {
            Ok(()) => object.json("keystore_latency", &took.as_nanos().max(1).to_string()),
            // SDKs take the first for an error without the second.
            Err(_) => {
                object.json("keystore_unreachable", "true").json("keystore_unavailable", "true")
            }
        };
        Ok(object.into_reply())
    }))
}

/// Answers `waiter` when the key store has said its status, for which it is asked once for all that wait, at a turn
/// that belongs to no identity. `false` if too many wait.
pub fn ask(core: &'static Core, answer: Answer, waiter: Waiter<Result<Reply, Failure>>) -> bool {
    let mut waiting = core.asking();
    if waiting.is_empty() {
        let Some(permit) = core.threads.reserve(&"status".into()) else { return false };
        core.threads.submit(permit, move |_| answer_all(core));
    }
    let has_room = waiting.len() < MAX_WAITING;
    if has_room {
        waiting.push((answer, waiter));
    }
    has_room
}

fn answer_all(core: &Core) {
    let asked_at = clock::now();
    let deadline = Deadline::after(asked_at, STATUS_TIMEOUT);
    let status = guarded(|| Ok(core.store.status(deadline)));
    let took = clock::now() - asked_at;
    let waiting = std::mem::take(&mut *core.asking());
    for (answer, waiter) in waiting {
        waiter.deliver(guarded(|| answer(core, status.as_ref().map_err(Clone::clone)?, took)));
    }
}

/// Whether the key store is not there, rather than there and not able to serve.
fn is_unreachable(error: &keystore::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<std::io::Error>() || error.is::<NoAnswer>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The architecture as Go names it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The answer with the version. Servers of 0.14 say nothing of a commit.
pub fn version_reply(generation: Generation) -> Reply {
    let object = Object::new().text("version", env!("CARGO_PKG_VERSION"));
    match generation {
        Generation::V0_14 => Reply::json(object.into_json().into_bytes()),
        Generation::Newest => object.text("commit", COMMIT.unwrap_or_default()).into_reply(),
    }
}

/// The page that Prometheus reads.
pub fn metrics_reply(core: &Core) -> Reply {
    let readings = metrics::process().into_iter().chain(readings(core));
    let by_status = core.state().generation == Generation::Newest;
    let page = core.metrics.page(readings, core.log.subscribers(), by_status, clock::now());
    Reply {
        content_type: Some("text/plain; version=0.0.4; charset=utf-8"),
        ..Reply::json(page.into_bytes())
    }
}

/// What the parts of the server know by themselves.
#[rustfmt::skip]
fn readings(core: &Core) -> [Family; 17] {
    let expiry = core.state().certificate_expiry.as_secs() as f64 - UnixTime::now().as_secs() as f64;
    let connections = &core.metrics.connections;
    let (is_sealed, took) = core.health.last_answer();
    let one_if = |is: bool| f64::from(u8::from(is));
    [
        Family::counter("kes_cache_hits", "Requests whose key was in the cache.", core.cache.hits()),
        Family::counter("kes_cache_misses", "Requests whose key was not in the cache.", core.cache.misses()),
        Family::gauge("kes_cache_size", "Keys in the cache.", core.cache.len() as f64),
        Family::gauge("kes_connections_open", "Open connections of clients.", connections.open() as f64),
        Family::gauge("kes_connections_idle", "Open connections that wait for their next request.", connections.idle() as f64),
        Family::gauge("kes_connections_limit", "Open connections of clients at most.", connections.limit() as f64),
        Family::gauge("kes_keystore_available", "1 if the key store was available when it was asked last, else 0.", one_if(core.health.is_fit())),
        Family::gauge("kes_keystore_latency", "Seconds that the key store took to say whether it is available.", took.as_secs_f64()),
        Family::gauge("kes_keystore_login_failing", "1 if the last login to the key store failed, else 0.", one_if(core.store.is_login_failing())),
        Family::gauge("kes_keystore_queue", "Jobs that wait for the key store or run.", core.threads.depth() as f64),
        Family::gauge("kes_keystore_sealed", "1 if the key store said that it is sealed when it was asked last, else 0.", one_if(is_sealed)),
        Family::counter("kes_log_audit_events", "Audit events that were sent to subscribers.", core.log.events(Stream::Audit)),
        Family::counter("kes_log_audit_lost", "Audit lines that were lost because nobody read them.", core.log.audit_lost()),
        Family::counter("kes_log_error_events", "Error events that were sent to subscribers.", core.log.events(Stream::Error)),
        Family::gauge("kes_log_subscribers", "Open log streams.", core.log.subscribers() as f64),
        Family::counter("kes_log_subscribers_dropped", "Log streams that were closed because their readers did not keep up.", core.log.subscribers_dropped()),
        Family::gauge("kes_tls_certificate_expiry", "Seconds until the certificate of the server expires.", expiry),
    ]
}
