//! What wakes a connection when a request on it can go on.

use std::{
    sync::{Arc, Weak},
    task::{Wake, Waker},
    time::Instant,
};

use super::{Connection, Inner, Stage, WRITE_TIMEOUT};
use crate::server::Server;

/// The request with this number on a connection.
struct Address {
    connection: Weak<Connection>,
    server: Weak<Server>,
    request: u64,
}

impl Wake for Address {
    fn wake(self: Arc<Self>) {
        if let (Some(connection), Some(server)) = (self.connection.upgrade(), self.server.upgrade())
        {
            let wake = |inner: &mut Inner| inner.wake_request(self.request, &connection, &server);
            connection.with(&server, wake);
        }
    }
}

impl Connection {
    /// What wakes the request with this number.
    pub(super) fn waker(self: &Arc<Self>, request: u64, server: &Server) -> Waker {
        let connection = Arc::downgrade(self);
        Arc::new(Address { connection, server: server.me(), request }).into()
    }
}

impl Inner {
    fn wake_request(&mut self, request: u64, connection: &Connection, server: &Server) {
        match &mut self.stage {
            // The last request: no other is looked at meanwhile.
            Stage::Waiting(waiting) if request == self.requests => {
                waiting.is_ready = true;
                if !self.is_stalled {
                    // From now on it is up to the client, as with every answer.
                    connection.set_deadline(server, Instant::now() + WRITE_TIMEOUT);
                }
            }
            Stage::Http2(http2) => http2.wake(request),
            Stage::Streaming(_) => {}
            _ => return,
        }
        self.wake(connection, server);
    }
}
