//! What requests have in common whatever the protocol: who may ask, and answers that come later.

use std::sync::{Arc, Weak};

use super::{Connection, HOLD_TIMEOUT, Inner, Wait};
use crate::{
    clock,
    deadline::Deadline,
    http::{head::Head, reply::Reply},
    log::{Cause, Stream},
    server::{
        Server, State,
        exchange::Exchange,
        failure::Failure,
        pipeline::{Admission, Progress},
        proxy::Client,
    },
};

/// Where the answer of a waiting request goes.
pub(in crate::server) struct Address {
    connection: Weak<Connection>,
    request: u64,
}

impl Address {
    /// Hands in the answer and wakes a worker. Does nothing if the request has ended meanwhile.
    pub(in crate::server) fn deliver(&self, server: &Server, result: Result<Reply, Failure>) {
        self.answer(server, |_| Some(result));
    }

    /// Lets an answer go that is held for its audit line, or refuses it.
    pub(in crate::server) fn release(&self, server: &Server, is_written: bool) {
        self.answer(server, |held| match held.take() {
            Some(reply) if is_written => Some(Ok(reply)),
            Some(_) => Some(Err(Failure::NotAudited)),
            None => None,
        });
    }

    fn answer(
        &self,
        server: &Server,
        result: impl FnOnce(&mut Option<Reply>) -> Option<Result<Reply, Failure>>,
    ) {
        if let Some(connection) = self.connection.upgrade() {
            let inner = &mut *connection.lock();
            if let Some(pending) = inner.pending(self.request)
                && pending.result.is_none()
                && let Some(result) = result(&mut pending.held)
            {
                pending.result = Some(result);
                server.arm(&connection, &inner.socket, Wait::Writable);
            }
        }
    }
}

/// A request whose answer comes from a key store thread or waits for its audit line.
pub(super) struct Pending {
    pub(super) exchange: Exchange,
    pub(super) request: u64,
    result: Option<Result<Reply, Failure>>,
    /// The answer that waits for its audit line.
    held: Option<Reply>,
}

impl Pending {
    /// Whether its answer is there.
    pub(super) fn is_answered(&self) -> bool {
        self.result.is_some()
    }

    /// Its time is over: unless its answer is there, it is that it took too long.
    pub(super) fn expire(&mut self) {
        if self.result.is_none() {
            self.result = Some(Err(match self.held.take() {
                Some(_) => Failure::NotAudited,
                None => Failure::Timeout,
            }));
        }
    }

    /// The answer, which may have to wait for its audit line now.
    pub(super) fn finish(
        self,
        inner: &Inner,
        connection: &Arc<Connection>,
        server: &Server,
    ) -> Answer {
        let result = self.result.unwrap_or(Err(Failure::Timeout));
        inner.finish(self.exchange, result, self.request, connection, server)
    }

    /// Ends it where nobody will hear the answer; it is audited all the same.
    pub(super) fn abandon(self) {
        let result = self.result.unwrap_or(Err(Failure::Timeout));
        self.exchange.answer(result);
    }
}

/// What a request comes to.
pub(super) enum Answer {
    /// This.
    Now(Reply),
    /// It is not there yet.
    Later(Pending),
    /// Events as they come.
    Stream(Exchange, Stream),
}

/// A request whose head was looked at.
pub(super) enum Admitted {
    /// It may go on: its body can be at most so long (0: it is ignored).
    Granted(Exchange, usize),
    /// This is the answer; after it the connection may have to be closed.
    Answered(Reply, bool),
}

impl Inner {
    /// Decides about a request whose head is there.
    pub(super) fn admit(
        &mut self,
        head: &mut Head,
        state: &State,
        connection: &Connection,
        server: &Server,
    ) -> Option<Admitted> {
        self.requests += 1;
        let peer = self.peer.as_mut()?;
        let chain = self.transport.peer_certificates();
        let is_trusted = peer.is_still_trusted(state, chain, clock::unix());
        let client = Client::new(state, peer, head, &mut self.forwarded, |reason| {
            let address = connection.peer_address;
            server.log.error_from_outside(Cause::Forwarded, || {
                format!("http: client certificate forwarded by TLS proxy {address}: {reason}")
            });
        });
        Some(match server.admit(state, &client, head, self.now) {
            Admission::Granted(exchange, max_body) if is_trusted => {
                Admitted::Granted(exchange, max_body)
            }
            Admission::Granted(exchange, _) => {
                let failure = server.distrust(client.peer.identity(), &exchange.path);
                Admitted::Answered(exchange.answer(Err(failure)), true)
            }
            Admission::Refused(exchange, failure) => {
                Admitted::Answered(exchange.answer(Err(failure)), false)
            }
            Admission::Redirect(reply) => Admitted::Answered(reply, false),
        })
    }

    /// Runs a request whose body is complete.
    pub(super) fn run(
        &self,
        exchange: Exchange,
        body: &[u8],
        request: u64,
        connection: &Arc<Connection>,
        server: &Server,
    ) -> Answer {
        let address = || Address {
            connection: Arc::downgrade(connection),
            request,
        };
        match server.run(&exchange, body, address) {
            Progress::Done(result) => self.finish(exchange, result, request, connection, server),
            Progress::Later => Answer::Later(Pending {
                exchange,
                request,
                result: None,
                held: None,
            }),
            Progress::Stream(stream) => Answer::Stream(exchange, stream),
        }
    }

    /// Answers a request, unless the answer must wait for its audit line.
    fn finish(
        &self,
        mut exchange: Exchange,
        result: Result<Reply, Failure>,
        request: u64,
        connection: &Arc<Connection>,
        server: &Server,
    ) -> Answer {
        let result = match result {
            Ok(reply) if exchange.must_be_held(&reply) => {
                let address = Address {
                    connection: Arc::downgrade(connection),
                    request,
                };
                if exchange.hold(address, server) {
                    exchange.deadline = Deadline::after(self.now, HOLD_TIMEOUT);
                    return Answer::Later(Pending {
                        exchange,
                        request,
                        result: None,
                        held: Some(reply),
                    });
                }
                Err(Failure::NotAudited)
            }
            result => result,
        };
        Answer::Now(exchange.answer(result))
    }
}
