//! Threads that act again and again: they close connections past their deadline, drop old keys from the cache,
//! ask the key store for its status, and tell the service manager that the workers are alive.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::notify::{Notifier, Trouble, watchdog};
use crate::{
    api::core::Core,
    base::{
        clock,
        deadline::Deadline,
        panics::survive,
        secret,
        sync::{self, thread},
    },
    cache::Status,
    io::Sockets,
    keystore::Error,
};

const SECOND: Duration = Duration::from_secs(1);
/// The key store has to say its status within this time.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// A status that takes longer counts as a failure: the key store hangs, past its deadline.
const LATE: Duration = Duration::from_secs(6);
const ASK: &str = "ask the key store for its status";

/// Starts the sweeper, the cache expiry, the look at the key store and, if the service manager wants it, the
/// watchdog; they end with `sockets`.
///
/// # Errors
/// If the system refuses threads.
pub fn start(
    core: &'static Core,
    sockets: &Arc<Sockets>,
    has_probe: bool,
    notifier: &'static Notifier,
) -> io::Result<()> {
    every(
        SECOND,
        sockets,
        "sweeper",
        Box::new(|sockets, now| {
            core.log.report_left_out();
            sockets.sweep(now);
            core.store.notices().iter().for_each(|notice| core.log.error(notice));
            core.log.report_lost(now);
        }),
    )?;
    every(
        SECOND,
        sockets,
        "expiry",
        Box::new(|_, now| {
            let is_late = |asked: &mut Instant| now.saturating_duration_since(*asked) >= LATE;
            // Nobody else notices: the thread that asks waits, and may do so for ever.
            let asked = core.health.asked().take_if(is_late);
            if let Some(asked) = asked {
                let why = "it has not answered for 6 s";
                note_status(core, notifier, asked, &Err(Error::during(ASK)(why)));
            }
            core.cache.expire(now);
            core.store.tidy(now);
        }),
    )?;
    if let Some(timeout) = watchdog() {
        // A worker that is late once is no reason to end the server.
        every(
            timeout / 4,
            sockets,
            "watchdog",
            Box::new(|sockets, _| {
                if sockets.have_all_turned() {
                    notifier.is_alive();
                }
            }),
        )?;
    }
    every(
        SECOND,
        sockets,
        "key-store-status",
        Box::new(move |_, now| {
            if core.health.is_due(core.store.ping(), has_probe, core.cache.has_offline(), now) {
                ask_key_store(core, notifier, now);
            }
        }),
    )
}

/// Asks the key store for its status.
fn ask_key_store(core: &Core, notifier: &Notifier, now: Instant) {
    *core.health.asked() = Some(now);
    let status = core.store.status(Deadline::after(now, STATUS_TIMEOUT));
    *core.health.asked() = None;
    note_status(core, notifier, now, &status);
}

/// Passes the status of the key store, asked at `asked`, on to the cache, and logs changes.
fn note_status(core: &Core, notifier: &Notifier, asked: Instant, status: &Result<(), Error>) {
    let was_fit = core.health.note(status, asked);
    let for_cache = match status {
        Err(_) => Status::Unavailable,
        Ok(()) if core.store.is_login_failing() => Status::Doubtful,
        Ok(()) => Status::Available,
    };
    for (key, waiters) in core.cache.note(for_cache, asked, clock::now()) {
        waiters.into_iter().for_each(|waiter| waiter.deliver(Ok(key.clone())));
    }
    match status {
        Err(e) if was_fit => {
            let trouble = format!("the key store is not available: {e}");
            core.log.error(&trouble);
            notifier.has("", Trouble::KeyStore, &trouble);
        }
        Ok(()) if !was_fit => {
            core.log.error("the key store is available again");
            notifier.has("", Trouble::KeyStore, "");
        }
        _ => {}
    }
}

/// What a thread does again and again. Boxed, as threads of several kinds would be code for each.
type Action = dyn Fn(&Sockets, Instant) + Send;

fn every(
    interval: Duration,
    sockets: &Arc<Sockets>,
    name: &str,
    action: Box<Action>,
) -> io::Result<()> {
    let sockets = Arc::downgrade(sockets);
    let run = move || {
        while let Some(sockets) = sockets.upgrade() {
            survive(|| action(&sockets, clock::now()));
            // The sweeper gives connections turns.
            secret::wipe_stack();
            drop(sockets);
            thread::sleep(interval);
        }
    };
    sync::start(name, 256 * 1024, Box::new(run)).map(drop)
}
