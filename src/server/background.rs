//! What happens by itself: connections past their deadline are closed, old keys leave the cache, the
//! key store is asked for its status.

use std::{
    io,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use super::Server;
use crate::{
    api::core::Core,
    base::{deadline::Deadline, panics::survive},
    keystore::KeyStore as _,
};

const INTERVAL: Duration = Duration::from_secs(1);
/// The key store has to say its status within this time.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts the sweeper, the cache expiry and the look at the key store; they end with the server.
///
/// # Errors
/// If the system refuses threads.
pub fn start(server: &Arc<Server>, has_probe: bool) -> io::Result<()> {
    every_second(server, "sweeper", |server, now| {
        let core = server.core;
        core.log.report_left_out();
        server.sweep(now);
        core.store.notices().iter().for_each(|notice| core.log.error(notice));
        core.log.report_lost(now);
    })?;
    every_second(server, "expiry", |server, now| server.core.cache.expire(now))?;
    every_second(server, "key-store-status", move |server, now| {
        let core = server.core;
        if core.health.is_due(core.store.ping(), has_probe, core.cache.has_offline(), now) {
            ask_key_store(core, now);
        }
    })
}

/// Asks the key store for its status, which takes as long as the key store does. The error log hears of
/// changes, and the cache whether the key store is available.
fn ask_key_store(core: &Core, now: Instant) {
    core.health.asks();
    let status = core.store.status(Deadline::after(now, STATUS_TIMEOUT));
    let [before, unfit_since] = core.health.note(status.is_ok(), now);
    core.cache.set_offline(unfit_since);
    match status {
        Err(e) if before.is_none() => {
            core.log.error(&format!("the key store is not available: {e}"));
        }
        Ok(()) if before.is_some() => core.log.error("the key store is available again"),
        _ => {}
    }
}

fn every_second(
    server: &Arc<Server>,
    name: &str,
    action: impl Fn(&Server, Instant) + Send + 'static,
) -> io::Result<()> {
    let server: Weak<Server> = Arc::downgrade(server);
    let run = move || {
        while let Some(server) = server.upgrade() {
            survive(|| action(&server, Instant::now()));
            drop(server);
            std::thread::sleep(INTERVAL);
        }
    };
    std::thread::Builder::new().name(name.to_owned()).stack_size(256 * 1024).spawn(run)?;
    Ok(())
}
