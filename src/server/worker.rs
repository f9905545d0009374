//! A worker: waits for one event at a time on the epoll that all workers share.

use rustix::event::epoll;

use super::Server;
use crate::base::panics::survive;

/// The token of the event that ends all workers; no connection has it.
pub(super) const STOP: u64 = u64::MAX;

/// Serves events until the server stops.
pub(super) fn run(server: &Server) {
    let mut events =
        [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
    loop {
        match epoll::wait(&server.epoll, &mut events[..], None) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(e) => {
                server.core.log.error(&format!("a worker has to stop: {e}"));
                return;
            }
        }
        let token = events[0].data.u64();
        if token == STOP {
            return;
        }
        let Some(connection) = server.registry.get(token) else {
            continue;
        };
        survive(|| connection.drive(server));
    }
}
