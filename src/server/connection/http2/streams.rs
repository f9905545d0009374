//! One request of HTTP/2, from its head to the last byte of its answer.

use std::{sync::Arc, time::Instant};

use rustls_pki_types::UnixTime;

use crate::{
    http::{
        head::{Framing, Head},
        reply::Reply,
        two::{self, Code},
    },
    server::{
        Server,
        connection::{
            Connection, Inner, LINGER_TIMEOUT, MAX_DISCARD, MAX_OUTPUT, READ_TIMEOUT,
            WRITE_TIMEOUT,
            streaming::{CHECK_INTERVAL, Streaming},
        },
        exchange::Exchange,
        failure::Failure,
        pending::{Answer, Pending},
        proxy::Forwarded,
    },
};

/// A request and where it is.
pub(super) struct Stream {
    pub(super) id: u32,
    /// Its number on the connection.
    pub(super) request: u64,
    is_head: bool,
    /// The client has sent all of it.
    is_complete: bool,
    /// The client waits for an answer before it sends the body.
    pub(super) wants_go_ahead: bool,
    /// Bytes of the body that came in and are used up, but the client was not told.
    used: usize,
    /// Bytes of the body that nobody wanted.
    unwanted: u64,
    /// When the sweeper must look.
    pub(super) deadline: Instant,
    pub(super) state: State,
}

/// What a stream is waiting for.
pub(super) enum State {
    /// The body.
    Body(Box<Receiving>),
    /// The answer.
    Waiting(Box<Pending>),
    /// The client, to make room for the answer.
    Sending(Sending),
    /// Events.
    Streaming(Box<Following>),
    /// The rest of a body that nobody wants. A client whose stream is reset while it sends may not
    /// look at its answer.
    Discard,
    /// The rest of the body, before the answer is given. There are clients that miss an answer which
    /// comes before they have sent all (curl 7.88).
    Early(Box<Reply>),
    /// Nothing: it is over.
    Over,
}

/// A request whose body is coming in.
pub(super) struct Receiving {
    exchange: Exchange,
    body: Vec<u8>,
    /// The length that was announced, in bytes, which counts at once.
    announced: usize,
    max_body: usize,
    is_too_long: bool,
}

/// An answer that is being sent.
pub(super) struct Sending {
    body: Vec<u8>,
    sent: usize,
    has_trailers: bool,
}

/// A log stream that is being sent.
pub(super) struct Following {
    streaming: Streaming,
    /// What the client was told apart by, if a TLS proxy speaks for it.
    forwarded: Option<Box<Forwarded>>,
    block: Arc<[u8]>,
    sent: usize,
    /// Since when the client has made no room for what is there.
    stalled_since: Option<Instant>,
    /// There will be no more than what is queued, or what is queued can't be complete.
    has_ended: bool,
    is_cut_off: bool,
}

impl Stream {
    pub(super) fn new(
        id: u32,
        request: u64,
        is_head: bool,
        is_complete: bool,
        now: Instant,
    ) -> Self {
        Self {
            id,
            request,
            is_head,
            is_complete,
            wants_go_ahead: false,
            used: 0,
            unwanted: 0,
            deadline: now + READ_TIMEOUT,
            state: State::Over,
        }
    }

    /// Goes on with a request that was admitted; its body may be so long, or is ignored if that is 0.
    pub(super) fn open(&mut self, exchange: Exchange, max_body: usize, head: &Head) {
        let length = match head.framing {
            Framing::Length(length) if max_body > 0 => length,
            _ => 0,
        };
        let is_too_long = length > max_body as u64;
        self.state = State::Body(Box::new(Receiving {
            exchange,
            body: Vec::new(),
            // One that is not too long fits.
            announced: if is_too_long { 0 } else { length as usize },
            max_body,
            is_too_long,
        }));
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Whether its answer is a log stream.
    pub(super) fn is_following(&self) -> bool {
        matches!(self.state, State::Streaming(_))
    }

    /// Whether its answer is there and not all sent.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self.state, State::Sending(_) | State::Early(_))
    }

    /// Whether its body is still coming in.
    pub(super) fn is_receiving(&self) -> bool {
        matches!(self.state, State::Body(_))
    }

    /// What it makes the server hold, in bytes.
    pub(super) fn held(&self) -> usize {
        match &self.state {
            State::Body(receiving) => receiving.body.capacity().max(receiving.announced),
            State::Waiting(pending) => pending.held(),
            State::Sending(sending) => sending.body.capacity(),
            State::Early(reply) => reply.body.capacity(),
            _ => 0,
        }
    }

    /// Ends it where nobody will hear the answer; it is audited all the same.
    pub(super) fn abandon(self) {
        match self.state {
            State::Body(receiving) => drop(receiving.exchange.answer(Err(Failure::InvalidJson))),
            State::Waiting(pending) => pending.abandon(),
            _ => {}
        }
    }

    /// Takes bytes of the body.
    pub(super) fn receive(&mut self, bytes: &[u8], is_complete: bool) {
        self.is_complete |= is_complete;
        self.used += bytes.len();
        match &mut self.state {
            State::Body(receiving) if receiving.max_body > 0 => receiving.add(bytes),
            _ => self.unwanted += bytes.len() as u64,
        }
    }

    /// One step. `false` if there is nothing to do but wait. The client may send more of the body if
    /// `may_receive`.
    pub(super) fn advance(
        &mut self,
        may_receive: bool,
        protocol: &mut two::Connection,
        inner: &mut Inner,
        connection: &Arc<Connection>,
        server: &Server,
    ) -> bool {
        if self.used > 0 && may_receive && self.unwanted <= MAX_DISCARD {
            let used = std::mem::take(&mut self.used);
            protocol.release(self.id, used, &mut inner.output);
        }
        match &mut self.state {
            State::Body(receiving) => {
                if !receiving.is_done() && !self.is_complete {
                    return false;
                }
                let State::Body(receiving) = std::mem::replace(&mut self.state, State::Over) else {
                    return false;
                };
                let Receiving { exchange, body, is_too_long, .. } = *receiving;
                let answer = match is_too_long {
                    true => Answer::Now(exchange.answer(Err(Failure::InvalidJson))),
                    false => server.run(exchange, &body, &|| connection.address(self.request)),
                };
                self.give(answer, protocol, inner, connection, server);
                true
            }
            State::Waiting(pending) => {
                if !pending.is_answered() {
                    return false;
                }
                let State::Waiting(pending) = std::mem::replace(&mut self.state, State::Over)
                else {
                    return false;
                };
                let answer = pending.finish(server, &|| connection.address(self.request));
                self.give(answer, protocol, inner, connection, server);
                true
            }
            State::Sending(sending) => {
                let sent = sending.send(self.id, protocol, inner);
                if sent > 0 {
                    self.deadline = inner.now + WRITE_TIMEOUT;
                }
                if sending.sent < sending.body.len() {
                    return false;
                }
                if sending.has_trailers {
                    protocol.send_trailers(self.id, &mut inner.output);
                }
                self.rest(inner);
                true
            }
            State::Streaming(following) => {
                following.send(self.id, protocol, inner);
                if following.is_cut_off {
                    protocol.reset(self.id, Code::Cancel, &mut inner.output);
                    self.state = State::Over;
                } else if following.has_ended && following.is_empty() {
                    protocol.send_body(self.id, &[], true, &mut inner.output);
                    self.rest(inner);
                }
                false
            }
            State::Early(_) => {
                if !self.is_complete && self.unwanted <= MAX_DISCARD {
                    return false;
                }
                self.send_early(protocol, inner);
                true
            }
            State::Discard => {
                // Else the sweeper resets it, when the client has had time to see its answer.
                if self.is_complete {
                    self.state = State::Over;
                }
                false
            }
            State::Over => false,
        }
    }

    fn give(
        &mut self,
        answer: Answer,
        protocol: &mut two::Connection,
        inner: &mut Inner,
        connection: &Arc<Connection>,
        server: &Server,
    ) {
        match answer {
            Answer::Now(reply) => self.reply(reply, protocol, inner),
            Answer::Later(pending) => {
                self.deadline = pending.deadline;
                self.state = State::Waiting(Box::new(pending));
            }
            Answer::Stream(exchange, stream) => {
                self.send_head(&Reply::open_stream(), false, protocol, inner);
                let (request, now) = (self.request, inner.now);
                self.deadline = now + CHECK_INTERVAL;
                self.state = State::Streaming(Box::new(Following {
                    streaming: Streaming::new(exchange, stream, request, now, connection, server),
                    forwarded: inner.forwarded.clone(),
                    block: Arc::default(),
                    sent: 0,
                    stalled_since: None,
                    has_ended: false,
                    is_cut_off: false,
                }));
            }
        }
    }

    /// Gives an answer, as soon as the client looks at it.
    pub(super) fn reply(
        &mut self,
        reply: Reply,
        protocol: &mut two::Connection,
        inner: &mut Inner,
    ) {
        if self.is_complete || self.wants_go_ahead {
            self.send(reply, protocol, inner);
        } else {
            self.deadline = inner.now + LINGER_TIMEOUT;
            self.state = State::Early(Box::new(reply));
        }
    }

    /// Gives the answer that waits for the body to end, whether it has or not.
    fn send_early(&mut self, protocol: &mut two::Connection, inner: &mut Inner) {
        if let State::Early(reply) = std::mem::replace(&mut self.state, State::Over) {
            self.send(*reply, protocol, inner);
        }
    }

    /// Begins to send an answer.
    fn send(&mut self, reply: Reply, protocol: &mut two::Connection, inner: &mut Inner) {
        let has_trailers = reply.is_stream && !self.is_head;
        let is_all = self.is_head || (reply.body.is_empty() && !has_trailers);
        self.send_head(&reply, is_all, protocol, inner);
        if is_all {
            self.rest(inner);
            return;
        }
        self.deadline = inner.now + WRITE_TIMEOUT;
        self.state = State::Sending(Sending { body: reply.body, sent: 0, has_trailers });
    }

    fn send_head(
        &self,
        reply: &Reply,
        is_all: bool,
        protocol: &mut two::Connection,
        inner: &mut Inner,
    ) {
        protocol.send_head(self.id, reply, is_all, &mut inner.output);
    }

    /// The answer is given: what is left of the body is dropped.
    fn rest(&mut self, inner: &Inner) {
        self.deadline = inner.now + LINGER_TIMEOUT;
        self.state = match self.is_complete {
            true => State::Over,
            false => State::Discard,
        };
    }

    /// Ends a log stream; if not `is_complete`, the client sees that some is missing.
    pub(super) fn end(&mut self, is_complete: bool) {
        if let State::Streaming(following) = &mut self.state {
            following.has_ended = true;
            if !is_complete && !std::mem::replace(&mut following.is_cut_off, true) {
                following.streaming.count_drop();
            }
        }
    }

    /// Ends or goes on when its deadline has passed. `is_stuck`: the client has not taken a byte of any
    /// answer for a while, for the window of the connection.
    ///
    /// # Errors
    /// If the connection must end: it is stuck itself, or too many answers were not read.
    pub(super) fn expire(
        &mut self,
        is_stuck: bool,
        protocol: &mut two::Connection,
        inner: &mut Inner,
        server: &Server,
    ) -> Result<(), Code> {
        match &mut self.state {
            State::Body(_) => {
                // The read timeout cuts the body off, which is no valid JSON.
                if let State::Body(receiving) = std::mem::replace(&mut self.state, State::Over) {
                    let reply = receiving.exchange.answer(Err(Failure::InvalidJson));
                    self.send(reply, protocol, inner);
                }
            }
            State::Waiting(pending) => pending.expire(),
            // An answer that waits for its own window ends alone.
            State::Sending(_) if protocol.is_full(self.id) => {
                protocol.give_up(self.id, inner.now, &mut inner.output)?;
                self.state = State::Over;
            }
            State::Sending(_) if is_stuck => return Err(Code::EnhanceYourCalm),
            // It may just not have had its turn.
            State::Sending(_) => self.deadline = inner.now + WRITE_TIMEOUT,
            State::Streaming(following) => {
                self.deadline = inner.now + CHECK_INTERVAL;
                let stalled_since = following.stalled_since;
                if stalled_since.is_some_and(|since| inner.now >= since + WRITE_TIMEOUT) {
                    self.end(false);
                } else if !inner.may_follow(following, server) {
                    following.has_ended = true;
                }
            }
            State::Early(_) => self.send_early(protocol, inner),
            State::Discard => {
                protocol.reset(self.id, Code::NoError, &mut inner.output);
                self.state = State::Over;
            }
            State::Over => {}
        }
        Ok(())
    }
}

impl Receiving {
    fn add(&mut self, bytes: &[u8]) {
        self.is_too_long |= self.body.len() + bytes.len() > self.max_body;
        if !self.is_too_long {
            self.body.extend_from_slice(bytes);
        }
    }

    /// Whether what comes in does not matter any more.
    fn is_done(&self) -> bool {
        self.max_body == 0 || self.is_too_long
    }
}

/// Sends what there is room for of `bytes`, here and at the client, and says how much that was.
fn send(
    id: u32,
    bytes: &[u8],
    is_last: bool,
    protocol: &mut two::Connection,
    inner: &mut Inner,
) -> usize {
    let room = MAX_OUTPUT.saturating_sub(inner.unsent());
    let count = protocol.room(id).min(room).min(bytes.len());
    if count > 0 || bytes.is_empty() {
        let is_last = is_last && count == bytes.len();
        protocol.send_body(id, &bytes[..count], is_last, &mut inner.output);
    }
    count
}

impl Sending {
    fn send(&mut self, id: u32, protocol: &mut two::Connection, inner: &mut Inner) -> usize {
        if self.body.is_empty() {
            return 0;
        }
        let left = &self.body[self.sent..];
        let sent = send(id, left, !self.has_trailers, protocol, inner);
        self.sent += sent;
        sent
    }
}

impl Following {
    /// Sends what is queued as far as there is room for it.
    fn send(&mut self, id: u32, protocol: &mut two::Connection, inner: &mut Inner) {
        loop {
            if self.sent == self.block.len() {
                self.stalled_since = None;
                let Some(block) = self.streaming.next() else {
                    return;
                };
                (self.block, self.sent) = (block, 0);
            }
            let sent = send(id, &self.block[self.sent..], false, protocol, inner);
            self.sent += sent;
            if sent == 0 {
                self.stalled_since.get_or_insert(inner.now);
                return;
            }
            self.stalled_since = None;
        }
    }

    /// The stream, if more may be queued. One that has ended does not go on because there is something
    /// left of it.
    pub(super) fn streaming_on(&mut self) -> Option<&mut Streaming> {
        (!self.has_ended).then_some(&mut self.streaming)
    }

    fn is_empty(&self) -> bool {
        self.sent == self.block.len() && self.streaming.is_empty()
    }
}

impl Inner {
    /// Whether whoever follows a log stream would still be let in.
    fn may_follow(&mut self, following: &mut Following, server: &Server) -> bool {
        let chain = self.transport.peer_certificates();
        let Following { streaming, forwarded, .. } = following;
        self.peer.as_mut().is_some_and(|peer| {
            streaming.may_go_on(peer, chain, forwarded, server, UnixTime::now())
        })
    }
}
