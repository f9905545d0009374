//! What happens by itself: connections past their deadline are closed, old keys leave the cache.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::Server;

const INTERVAL: Duration = Duration::from_secs(1);

/// Starts the sweeper and the cache expiry; they end with the server.
pub(super) fn start(server: &Arc<Server>) -> io::Result<()> {
    every(server, "sweeper", |server, now| {
        let millis = server.millis(now);
        for connection in server
            .registry
            .select(|connection| connection.is_due(millis))
        {
            connection.on_deadline(server, now);
        }
        server.report_unexplained();
        server.log.report_lost();
    })?;
    every(server, "expiry", |server, now| server.cache.expire(now))
}

fn every(
    server: &Arc<Server>,
    name: &str,
    action: impl Fn(&Server, Instant) + Send + 'static,
) -> io::Result<()> {
    let server = Arc::downgrade(server);
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(256 * 1024)
        .spawn(move || {
            loop {
                std::thread::sleep(INTERVAL);
                let Some(server) = server.upgrade() else {
                    return;
                };
                action(&server, Instant::now());
            }
        })?;
    Ok(())
}
