//! Threads that act every second: they close connections past their deadline, drop old keys from the cache,
//! and ask the key store for its status.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    api::core::Core,
    base::{deadline::Deadline, panics::survive},
    io::Sockets,
};

const INTERVAL: Duration = Duration::from_secs(1);
/// The key store has to say its status within this time.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts the sweeper, the cache expiry and the look at the key store; they end with `sockets`.
///
/// # Errors
/// If the system refuses threads.
pub fn start(core: &'static Core, sockets: &Arc<Sockets>, has_probe: bool) -> io::Result<()> {
    every_second(sockets, "sweeper", |sockets, now| {
        core.log.report_left_out();
        sockets.sweep(now);
        core.store.notices().iter().for_each(|notice| core.log.error(notice));
        core.log.report_lost(now);
    })?;
    every_second(sockets, "expiry", |_, now| {
        core.cache.expire(now);
        core.store.tidy(now);
    })?;
    every_second(sockets, "key-store-status", move |_, now| {
        if core.health.is_due(core.store.ping(), has_probe, core.cache.has_offline(), now) {
            ask_key_store(core, now);
        }
    })
}

/// Asks the key store for its status, passes it on to the cache, and logs changes.
fn ask_key_store(core: &Core, now: Instant) {
    let status = core.store.status(Deadline::after(now, STATUS_TIMEOUT));
    let [before, unfit_since] = core.health.note(&status, now);
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
    sockets: &Arc<Sockets>,
    name: &str,
    action: impl Fn(&Sockets, Instant) + Send + 'static,
) -> io::Result<()> {
    let sockets = Arc::downgrade(sockets);
    let run = move || {
        while let Some(sockets) = sockets.upgrade() {
            survive(|| action(&sockets, Instant::now()));
            drop(sockets);
            std::thread::sleep(INTERVAL);
        }
    };
    std::thread::Builder::new().name(name.to_owned()).stack_size(256 * 1024).spawn(run)?;
    Ok(())
}
