//! What requests have in common whatever the protocol: who may ask, and answers that come later.

use std::{
    sync::{Arc, Weak},
    time::Instant,
};

use super::{Connection, Inner, Stage, WRITE_TIMEOUT};
use crate::{
    base::clock,
    http::{Malformed, head::Head},
    log::Cause,
    server::{
        Server, State,
        exchange::Exchange,
        failure::Failure,
        pending::{Delivery, Pending},
        pipeline::Admission,
        proxy::Client,
    },
};

/// Where what a request waits for goes: the request with this number on a connection.
pub(in crate::server) struct Address {
    connection: Weak<Connection>,
    request: u64,
}

impl Address {
    /// Hands in what the request waits for and wakes a worker, unless the request has ended meanwhile.
    pub(in crate::server) fn deliver(&self, server: &Server, delivery: Delivery) {
        let Some(connection) = self.connection.upgrade() else {
            return;
        };
        connection.with(server, |inner| {
            let pending = inner.pending(self.request);
            if pending.is_some_and(|pending| pending.take(delivery)) {
                // From now on it is up to the client, as with every answer.
                if matches!(inner.stage, Stage::Waiting(_)) && !inner.is_stalled {
                    connection.set_deadline(server, Instant::now() + WRITE_TIMEOUT);
                }
                inner.wake(server);
            }
        });
    }
}

impl Connection {
    /// The address of the request with this number.
    pub(super) fn address(self: &Arc<Self>, request: u64) -> Address {
        Address { connection: Arc::downgrade(self), request }
    }
}

impl Inner {
    /// The request with this number, if it waits.
    fn pending(&mut self, request: u64) -> Option<&mut Pending> {
        match &mut self.stage {
            // The last one: no other is looked at meanwhile.
            Stage::Waiting(waiting) => {
                Some(&mut waiting.pending).filter(|_| request == self.requests)
            }
            Stage::Http2(http2) => http2.pending(request),
            _ => None,
        }
    }

    /// Decides about a request whose head is there.
    pub(super) fn admit(
        &mut self,
        head: &mut Head,
        state: &State,
        connection: &Connection,
        server: &Server,
    ) -> Option<Admission> {
        self.requests += 1;
        let peer = self.peer.as_mut()?;
        let chain = self.transport.peer_certificates();
        if !peer.is_still_trusted(state, chain, clock::unix()) {
            let path = std::mem::take(&mut head.path);
            let reply = server.turn_away(peer, path, self.now);
            return Some(Admission::Answered(reply, true));
        }
        let client = Client::new(state, peer, head, &mut self.forwarded, |reason| {
            let address = connection.peer_address;
            server.log.error_from_outside(Cause::Forwarded, || {
                format!("http: client certificate forwarded by TLS proxy {address}: {reason}")
            });
        });
        Some(server.admit(state, &client, head, self.now))
    }

    /// Audits and counts a request that can't be understood, which seems to be for `path`. Probes are
    /// not audited.
    pub(super) fn audit_malformed(&self, malformed: Malformed, path: String, server: &Server) {
        if let Some(peer) = &self.peer {
            Exchange::begin(server, None, path, peer.identity(), self.now)
                .answer(Err(Failure::Malformed(malformed)));
        }
    }
}
