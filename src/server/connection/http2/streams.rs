//! One request of HTTP/2, from its head to the last byte of its answer.

use std::{sync::Arc, task::Poll, time::Instant};

use bytes::Buf as _;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use rustls_pki_types::UnixTime;

use super::{Payload, context};
use crate::{
    http::{
        head::{Framing, Head},
        reply::{Reply, with_date},
    },
    secret::{self, Wiped},
    server::{
        Server,
        connection::{
            Connection, Inner, LINGER_TIMEOUT, MAX_DISCARD, READ_TIMEOUT, WRITE_TIMEOUT,
            answering::{Answer, Pending},
            streaming::{CHECK_INTERVAL, Streaming},
        },
        exchange::Exchange,
        failure::Failure,
        proxy::Forwarded,
    },
};

/// A request and where it is.
pub(super) struct Stream {
    /// Its number on the connection.
    pub(super) request: u64,
    is_head: bool,
    /// When the sweeper must look.
    pub(super) deadline: Instant,
    /// Where the head of the answer goes; `None` when it went there.
    respond: Option<SendResponse<Payload>>,
    /// Where the body comes from.
    source: RecvStream,
    pub(super) state: State,
}

/// What a stream is waiting for.
pub(super) enum State {
    /// The body.
    Body(Box<Receiving>),
    /// The answer.
    Waiting(Box<Pending>),
    /// The client, to take the answer.
    Sending(Sending),
    /// Events.
    Streaming(Box<Following>),
    /// The rest of a body that nobody wants, at most so many bytes. A client that is reset while it
    /// sends may not look at its answer.
    Discard(usize),
    /// Nothing: it is over.
    Over,
}

/// A request whose body is coming in.
pub(super) struct Receiving {
    exchange: Exchange,
    body: Wiped,
    max_body: usize,
    is_too_long: bool,
}

/// An answer that is being sent.
pub(super) struct Sending {
    to: SendStream<Payload>,
    left: Payload,
    has_trailers: bool,
}

/// A log stream that is being sent.
pub(super) struct Following {
    to: SendStream<Payload>,
    pub(super) streaming: Streaming,
    /// What the client was told apart by, if a TLS proxy speaks for it.
    forwarded: Option<Box<Forwarded>>,
    block: Option<Payload>,
    /// There will be no more than what is queued.
    pub(super) has_ended: bool,
    /// Since when the client has made no room for what is there.
    stalled_since: Option<Instant>,
}

impl Stream {
    /// The request with this number.
    pub(super) fn new(
        request: u64,
        is_head: bool,
        respond: SendResponse<Payload>,
        source: RecvStream,
        now: Instant,
    ) -> Self {
        Self {
            request,
            is_head,
            deadline: now + READ_TIMEOUT,
            respond: Some(respond),
            source,
            state: State::Over,
        }
    }

    /// Goes on with a request that was admitted; its body may be so long, or is ignored if that is 0.
    pub(super) fn open(&mut self, exchange: Exchange, max_body: usize, head: &Head) {
        let length = match head.framing {
            Framing::Length(length) => length,
            _ => 0,
        };
        let is_too_long = max_body > 0 && length > max_body as u64;
        let mut body = Wiped::default();
        if max_body > 0 && !is_too_long {
            // A buffer that grows would leave copies of what it held behind.
            body.reserve_exact(usize::try_from(length).unwrap_or(max_body));
        }
        if head.expects_continue
            && !self.source.is_end_stream()
            && let Some(respond) = &mut self.respond
        {
            let mut go_ahead = http::Response::new(());
            *go_ahead.status_mut() = StatusCode::CONTINUE;
            let _ = respond.send_informational(go_ahead);
        }
        self.state = State::Body(Box::new(Receiving {
            exchange,
            body,
            max_body,
            is_too_long,
        }));
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// What it makes the server hold, in bytes.
    pub(super) fn held(&self) -> usize {
        match &self.state {
            State::Body(receiving) => receiving.body.capacity(),
            State::Sending(sending) => sending.left.remaining(),
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

    /// Whether the client does not want the answer any more.
    pub(super) fn was_reset(&mut self) -> bool {
        let cx = &mut context();
        let reset = match (&mut self.state, &mut self.respond) {
            (State::Sending(sending), _) => sending.to.poll_reset(cx),
            (State::Streaming(following), _) => following.to.poll_reset(cx),
            (_, Some(respond)) => respond.poll_reset(cx),
            (_, None) => Poll::Pending,
        };
        reset.is_ready()
    }

    /// One step. `false` if there is nothing to do but wait. Bodies are read if `may_read`.
    pub(super) fn advance(
        &mut self,
        may_read: bool,
        inner: &mut Inner,
        connection: &Arc<Connection>,
        server: &Server,
    ) -> bool {
        match &mut self.state {
            State::Body(receiving) => {
                if !may_read || !receiving.read(&mut self.source) {
                    return false;
                }
                let State::Body(receiving) = std::mem::replace(&mut self.state, State::Over) else {
                    return false;
                };
                let Receiving {
                    exchange,
                    body,
                    is_too_long,
                    ..
                } = *receiving;
                let answer = match is_too_long {
                    true => Answer::Now(exchange.answer(Err(Failure::InvalidJson))),
                    false => inner.run(exchange, &body, self.request, connection, server),
                };
                self.give(answer, inner, connection, server);
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
                let answer = pending.finish(inner, connection, server);
                self.give(answer, inner, connection, server);
                true
            }
            State::Sending(sending) => match sending.send() {
                Sent::All => {
                    self.discard(inner.now);
                    true
                }
                Sent::Some => {
                    self.deadline = inner.now + WRITE_TIMEOUT;
                    true
                }
                Sent::Nothing => false,
            },
            State::Streaming(following) => match following.send(inner.now) {
                Sent::All => {
                    self.state = State::Over;
                    true
                }
                Sent::Some => true,
                Sent::Nothing => false,
            },
            State::Discard(left) => match discard(&mut self.source, left) {
                true => {
                    self.state = State::Over;
                    true
                }
                false => false,
            },
            State::Over => false,
        }
    }

    fn give(
        &mut self,
        answer: Answer,
        inner: &mut Inner,
        connection: &Arc<Connection>,
        server: &Server,
    ) {
        match answer {
            Answer::Now(reply) => self.reply(reply, inner.now),
            Answer::Later(pending) => {
                self.deadline = pending.exchange.deadline.instant();
                self.state = State::Waiting(Box::new(pending));
            }
            Answer::Stream(exchange, stream) => {
                let Some(to) = self.send_head(&Reply::open_stream(), false) else {
                    return;
                };
                self.deadline = inner.now + CHECK_INTERVAL;
                self.state = State::Streaming(Box::new(Following {
                    to,
                    streaming: Streaming::new(
                        exchange,
                        stream,
                        self.request,
                        inner.now,
                        connection,
                        server,
                    ),
                    forwarded: inner.forwarded.clone(),
                    block: None,
                    has_ended: false,
                    stalled_since: None,
                }));
            }
        }
    }

    /// Begins to send an answer.
    pub(super) fn reply(&mut self, reply: Reply, now: Instant) {
        self.state = State::Over;
        let has_trailers = reply.is_stream && !self.is_head;
        let is_all = self.is_head || (reply.body.is_empty() && !has_trailers);
        let Some(to) = self.send_head(&reply, is_all) else {
            return;
        };
        if is_all {
            self.discard(now);
            return;
        }
        self.deadline = now + WRITE_TIMEOUT;
        self.state = State::Sending(Sending {
            to,
            left: reply.body.into(),
            has_trailers,
        });
    }

    /// The answer is given: what is left of the body is dropped.
    fn discard(&mut self, now: Instant) {
        self.deadline = now + LINGER_TIMEOUT;
        self.state = match self.source.is_end_stream() {
            true => State::Over,
            false => State::Discard(MAX_DISCARD as usize),
        };
    }

    /// `None` if the client has reset the stream.
    fn send_head(&mut self, reply: &Reply, is_all: bool) -> Option<SendStream<Payload>> {
        let mut respond = self.respond.take()?;
        respond.send_response(response(reply), is_all).ok()
    }

    /// What the sweeper does when its deadline has passed. `false` if the client does not take its
    /// answer.
    pub(super) fn expire(&mut self, inner: &mut Inner, server: &Server) -> bool {
        match &mut self.state {
            State::Body(_) => {
                // The read timeout cuts the body off, which is no valid JSON.
                if let State::Body(receiving) = std::mem::replace(&mut self.state, State::Over) {
                    let reply = receiving.exchange.answer(Err(Failure::InvalidJson));
                    self.reply(reply, inner.now);
                }
            }
            State::Waiting(pending) => pending.expire(),
            State::Sending(_) => return false,
            State::Streaming(following) => {
                self.deadline = inner.now + CHECK_INTERVAL;
                if following.is_stalled(inner.now) {
                    self.send_away();
                } else if !inner.may_follow(following, server) {
                    following.has_ended = true;
                }
            }
            State::Discard(_) | State::Over => self.state = State::Over,
        }
        true
    }

    /// Ends a log stream that can't be complete, so that the client sees that.
    pub(super) fn send_away(&mut self) {
        if let State::Streaming(following) = &mut self.state {
            following.streaming.count_drop();
            following.to.send_reset(Reason::CANCEL);
            self.state = State::Over;
        }
    }
}

/// What came of an attempt to send.
enum Sent {
    /// It is all sent, or there is nobody to send it to.
    All,
    /// Something.
    Some,
    /// The client has made no room.
    Nothing,
}

impl Receiving {
    /// Reads what is there. Whether that is all, or all that is wanted.
    fn read(&mut self, source: &mut RecvStream) -> bool {
        if self.max_body == 0 {
            return true;
        }
        let cx = &mut context();
        loop {
            if self.is_too_long {
                return true;
            }
            match source.poll_data(cx) {
                Poll::Pending => return false,
                Poll::Ready(None) => return true,
                // A stream that the client has reset is found out elsewhere; a body that is not
                // what its length says is no JSON.
                Poll::Ready(Some(Err(_))) => self.is_too_long = true,
                Poll::Ready(Some(Ok(bytes))) => {
                    let _ = source.flow_control().release_capacity(bytes.len());
                    self.is_too_long = self.body.len() + bytes.len() > self.max_body;
                    if !self.is_too_long {
                        secret::reserve(&mut self.body, bytes.len());
                        self.body.extend_from_slice(&bytes);
                    }
                }
            }
        }
    }
}

/// Drops what comes in, at most so much. `true` if it is over.
fn discard(source: &mut RecvStream, left: &mut usize) -> bool {
    let cx = &mut context();
    loop {
        match source.poll_data(cx) {
            Poll::Pending => return false,
            Poll::Ready(Some(Ok(bytes))) if bytes.len() <= *left => {
                *left -= bytes.len();
                let _ = source.flow_control().release_capacity(bytes.len());
            }
            Poll::Ready(_) => return true,
        }
    }
}

impl Sending {
    fn send(&mut self) -> Sent {
        let sent = send(&mut self.to, &mut self.left, !self.has_trailers);
        if matches!(sent, Sent::All) && self.has_trailers {
            let _ = self.to.send_trailers(trailers());
        }
        sent
    }
}

/// Sends what there is room for of `left`.
fn send(to: &mut SendStream<Payload>, left: &mut Payload, is_last: bool) -> Sent {
    let count = left.remaining();
    to.reserve_capacity(count);
    let room = to.capacity().min(count);
    if room == 0 && count > 0 {
        return Sent::Nothing;
    }
    let is_all = room == count;
    match to.send_data(left.take(room), is_all && is_last) {
        Ok(()) if !is_all => Sent::Some,
        _ => Sent::All,
    }
}

impl Following {
    /// Whether the client has not read for so long that it is sent away.
    fn is_stalled(&self, now: Instant) -> bool {
        self.stalled_since
            .is_some_and(|since| now >= since + WRITE_TIMEOUT)
    }

    fn send(&mut self, now: Instant) -> Sent {
        let Some(block) = &mut self.block else {
            self.stalled_since = None;
            return match self.streaming.next() {
                Some(block) => {
                    self.block = Some(block.into());
                    Sent::Some
                }
                None if self.has_ended => {
                    let _ = self.to.send_data(Wiped::default().into(), true);
                    Sent::All
                }
                None => Sent::Nothing,
            };
        };
        match send(&mut self.to, block, false) {
            Sent::All => {
                self.block = None;
                self.stalled_since = None;
                Sent::Some
            }
            Sent::Some => {
                self.stalled_since = None;
                Sent::Some
            }
            Sent::Nothing => {
                self.stalled_since = self.stalled_since.or(Some(now));
                Sent::Nothing
            }
        }
    }
}

const TRAILER: HeaderValue = HeaderValue::from_static("Status, Error");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// The head of an answer.
fn response(reply: &Reply) -> http::Response<()> {
    let mut headers = HeaderMap::with_capacity(8);
    if let Some(content_type) = reply.content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if reply.status >= 400 {
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
        }
    }
    if let Some((name, value)) = &reply.header
        && let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        )
    {
        headers.insert(name, value);
    }
    if reply.announces_trailers {
        headers.insert(header::TRAILER, TRAILER);
    }
    if !reply.is_stream && !reply.is_open {
        headers.insert(header::CONTENT_LENGTH, reply.body.len().into());
    }
    if let Ok(date) = with_date(HeaderValue::from_bytes) {
        headers.insert(header::DATE, date);
    }
    let mut response = http::Response::new(());
    *response.status_mut() =
        StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = headers;
    response
}

/// What says that a list is complete.
fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("status", HeaderValue::from_static("200"));
    trailers.insert("error", HeaderValue::from_static(""));
    trailers
}

impl Inner {
    /// Whether whoever follows a log stream would still be let in.
    fn may_follow(&mut self, following: &mut Following, server: &Server) -> bool {
        let chain = self.transport.peer_certificates();
        let Following {
            streaming,
            forwarded,
            ..
        } = following;
        self.peer.as_mut().is_some_and(|peer| {
            streaming.may_go_on(peer, chain, forwarded, server, UnixTime::now())
        })
    }
}
