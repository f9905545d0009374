//! What happens by itself: connections past their deadline are closed, old keys leave the cache, the
//! key store is asked for its status.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::Server;
use crate::base::panics::survive;

const INTERVAL: Duration = Duration::from_secs(1);

/// Starts the sweeper, the cache expiry and the look at the key store; they end with the server.
pub(super) fn start(server: &Arc<Server>, has_probe: bool) -> io::Result<()> {
    every(server, "sweeper", INTERVAL, |server, now| {
        server.log.report_left_out();
        let millis = server.millis(now);
        for connection in server.registry.select(|connection| connection.is_due(millis)) {
            connection.on_deadline(server, now);
        }
        for notice in server.store.notices() {
            server.log_error(&notice);
        }
        server.log.report_lost(now);
    })?;
    every(server, "expiry", INTERVAL, |server, now| {
        server.cache.expire(now);
    })?;
    every(server, "key-store-status", INTERVAL, move |server, now| {
        if server.health.is_due(server, has_probe, now) {
            server.health.refresh(server, now);
        }
    })?;
    Ok(())
}

fn every(
    server: &Arc<Server>,
    name: &str,
    interval: Duration,
    action: impl Fn(&Server, Instant) + Send + 'static,
) -> io::Result<()> {
    let server = Arc::downgrade(server);
    std::thread::Builder::new().name(name.to_owned()).stack_size(256 * 1024).spawn(move || {
        loop {
            match server.upgrade() {
                // There is a next time.
                Some(server) => drop(survive(|| action(&server, Instant::now()))),
                None => return,
            }
            std::thread::sleep(interval);
        }
    })?;
    Ok(())
}
