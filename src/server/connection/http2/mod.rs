//! HTTP/2 on a connection: many requests at once, each with a stream of its own.
//!
//! The protocol is [`two::Connection`]; here its requests meet the pipeline. A stream that waits for
//! the key store holds up neither the worker nor the other streams.

mod streams;

use std::{sync::Arc, time::Instant};

use self::streams::{State, Stream};
use super::{
    Connection, IDLE_TIMEOUT, Inner, MAX_OUTPUT, READ_TIMEOUT, Stage, Step, WRITE_TIMEOUT,
    streaming::Streaming,
};
use crate::{
    http::{
        Malformed, Method, Refused,
        head::Head,
        two::{self, Code, Event},
    },
    metrics,
    server::{Server, failure::Failure, pending::Pending, pipeline::Admission},
};

/// Bodies and answers that a connection may hold, in bytes. More requests are refused.
const MAX_HELD: usize = 4 << 20;

/// What a connection keeps of HTTP/2.
pub(super) struct Http2 {
    protocol: two::Connection,
    /// The requests that are not over, in the order of their streams.
    streams: Vec<Stream>,
    /// What they hold, in bytes.
    held: usize,
    /// When the client last took bytes of an answer's body, and on which stream.
    progress: Instant,
    served: u32,
    /// A client that does not read is sent away then.
    pub(super) stalled_until: Instant,
}

/// How a connection goes on.
#[derive(PartialEq, Eq)]
enum Next {
    /// When there is something new.
    Wait,
    /// When what there is to say is written.
    GoOn,
    /// It does not.
    Close,
}

impl Http2 {
    /// A connection whose handshake has just ended; what the client has to know goes to `out`.
    pub(super) fn new(now: Instant, out: &mut Vec<u8>) -> Self {
        Self {
            protocol: two::Connection::new(now, out),
            streams: Vec::new(),
            held: 0,
            progress: now,
            served: 0,
            stalled_until: now,
        }
    }

    /// Whether no request is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.is_empty()
    }

    /// Whether an answer is waited for.
    pub(super) fn is_waiting(&self) -> bool {
        let mut streams = self.streams.iter();
        streams.any(|stream| matches!(stream.state, State::Waiting(_)))
    }

    /// Whether log streams are all that goes on.
    pub(super) fn only_streams(&self) -> bool {
        let mut streams = self.streams.iter();
        !self.is_idle() && streams.all(Stream::is_following)
    }

    /// The request with this number, if its answer is waited for.
    pub(super) fn pending(&mut self, request: u64) -> Option<&mut Pending> {
        match &mut self.stream(request)?.state {
            State::Waiting(pending) => Some(pending),
            _ => None,
        }
    }

    /// The log stream that is the answer to the request with this number, if it goes on.
    pub(super) fn streaming(&mut self, request: u64) -> Option<&mut Streaming> {
        match &mut self.stream(request)?.state {
            State::Streaming(following) => following.streaming_on(),
            _ => None,
        }
    }

    /// Ends the log stream that is the answer to the request with this number. If not `is_complete`,
    /// the client sees that some is missing.
    pub(super) fn end_stream(&mut self, request: u64, is_complete: bool) {
        if let Some(stream) = self.stream(request) {
            stream.end(is_complete);
        }
    }

    fn stream(&mut self, request: u64) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| stream.request == request)
    }

    fn position(&self, id: u32) -> Option<usize> {
        self.streams.binary_search_by_key(&id, |stream| stream.id).ok()
    }

    /// Ends what is under way where nobody will hear the answers.
    pub(super) fn abandon(self) {
        self.streams.into_iter().for_each(Stream::abandon);
    }

    /// When the sweeper must look.
    pub(super) fn deadline(&self) -> Instant {
        let incomplete = self.protocol.incomplete_since();
        let incomplete = incomplete.map(|since| since + READ_TIMEOUT);
        let streams = self.streams.iter().map(|stream| stream.deadline);
        let idle = self.protocol.idle_since() + IDLE_TIMEOUT;
        streams.chain(incomplete).fold(idle, Instant::min)
    }

    /// When the sweeper must look while the client does not read: not later at its log streams.
    pub(super) fn stalled_deadline(&self) -> Instant {
        let streams = self.streams.iter().filter(|stream| stream.is_following());
        let deadlines = streams.map(|stream| stream.deadline);
        deadlines.fold(self.stalled_until, Instant::min)
    }

    /// Tells the client why the connection ends.
    fn end(&mut self, code: Code, inner: &mut Inner, server: &Server) -> Next {
        if code == Code::EnhanceYourCalm {
            server.metrics.count(metrics::Event::Http2Flood);
        }
        self.protocol.end(code, &mut inner.output);
        Next::Close
    }

    /// Does what can be done with `input` and with what has been answered, and says how many bytes of
    /// the former are used up.
    fn drive(
        &mut self,
        input: &[u8],
        inner: &mut Inner,
        connection: &Arc<Connection>,
        server: &Server,
    ) -> (usize, Next) {
        let mut used = 0;
        loop {
            if inner.unsent() >= MAX_OUTPUT {
                return (used, Next::GoOn);
            }
            let has_room = self.has_room();
            let state = server.state();
            let kept = inner.peer.as_ref();
            let kept = kept.and_then(|peer| state.forwards_in(peer));
            let out = &mut inner.output;
            let next = self.protocol.next(&input[used..], kept, has_room, inner.now, out);
            let event = match next {
                Ok((0, _)) => break,
                Ok((count, event)) => {
                    used += count;
                    event
                }
                Err(code) => return (used, self.end(code, inner, server)),
            };
            match event {
                Event::Request { stream: id, head, is_complete } => {
                    self.begin(id, head, is_complete, inner, connection, server);
                }
                Event::Body { stream: id, bytes, is_complete } => {
                    if let Some(at) = self.position(id) {
                        let stream = &mut self.streams[at];
                        stream.receive(bytes, is_complete);
                        self.advance(at, inner, connection, server);
                    }
                }
                Event::Reset { stream: id } => {
                    if let Some(at) = self.position(id) {
                        let stream = self.streams.remove(at);
                        self.held = self.held.saturating_sub(stream.held());
                        stream.abandon();
                    }
                }
                Event::Malformed(path) => {
                    let malformed = Malformed::bad_request("malformed request");
                    inner.audit_malformed(malformed, path, server);
                }
                Event::BadBody { .. } | Event::Nothing => {}
            }
        }
        if server.is_draining() {
            self.protocol.end(Code::NoError, &mut inner.output);
        }
        let next = self.advance_all(inner, connection, server);
        match next == Next::Wait && self.protocol.is_ending() && self.is_idle() {
            true => (used, Next::Close),
            false => (used, next),
        }
    }

    /// Takes a new request as far as it gets now.
    fn begin(
        &mut self,
        id: u32,
        head: Result<Head, Refused>,
        is_complete: bool,
        inner: &mut Inner,
        connection: &Arc<Connection>,
        server: &Server,
    ) {
        let is_head = head.as_ref().is_ok_and(|head| head.method == Method::Head);
        let refused = |inner: &Inner, (malformed, path)| {
            inner.audit_malformed(malformed, path, server);
            Failure::Malformed(malformed)
        };
        let admitted = head.map_err(|e| refused(inner, e)).and_then(|mut head| {
            let admitted = inner.admit(&mut head, &server.state(), connection, server);
            let unknown = Failure::Internal("the client is not known");
            Ok((head, admitted.ok_or(unknown)?))
        });
        let mut stream = Stream::new(id, inner.requests, is_head, is_complete, inner.now);
        match admitted {
            Ok((head, Admission::Granted(exchange, max_body))) => {
                if head.expects_continue && max_body > 0 {
                    self.protocol.go_ahead(id, &mut inner.output);
                } else {
                    stream.wants_go_ahead = head.expects_continue;
                }
                stream.open(exchange, max_body, &head);
            }
            Ok((head, Admission::Answered(reply, is_last))) => {
                stream.wants_go_ahead = head.expects_continue;
                stream.reply(reply, &mut self.protocol, inner);
                if is_last {
                    self.protocol.end(Code::NoError, &mut inner.output);
                }
            }
            Err(failure) => stream.reply(failure.reply(), &mut self.protocol, inner),
        }
        self.held += stream.held();
        self.streams.push(stream);
        self.advance(self.streams.len() - 1, inner, connection, server);
    }

    /// Whether there is room for one more request. An answer that is large by itself does not keep
    /// others out: there is one of them without HTTP/2 as well.
    fn has_room(&self) -> bool {
        let answers = self.streams.iter().filter(|stream| stream.is_sending());
        let largest = || answers.map(Stream::held).max().unwrap_or(0);
        self.held < MAX_HELD || self.held.saturating_sub(largest()) < MAX_HELD
    }

    /// Whether no older stream waits for its body. One comes in whatever the others hold, so that
    /// there is an end to it.
    fn is_oldest_body(&self, at: usize) -> bool {
        self.streams[..at].iter().all(|stream| !stream.is_receiving())
    }

    /// Takes one stream as far as it gets.
    fn advance(
        &mut self,
        at: usize,
        inner: &mut Inner,
        connection: &Arc<Connection>,
        server: &Server,
    ) {
        let may_receive = self.held < MAX_HELD || self.is_oldest_body(at);
        let stream = &mut self.streams[at];
        let (held, room) = (stream.held(), self.protocol.connection_room());
        while stream.advance(may_receive, &mut self.protocol, inner, connection, server) {}
        if self.protocol.connection_room() < room {
            (self.progress, self.served) = (inner.now, stream.id);
        }
        self.held = self.held.saturating_sub(held) + stream.held();
        if stream.is_over() {
            self.streams.remove(at);
        }
    }

    /// Takes all streams as far as they get.
    fn advance_all(
        &mut self,
        inner: &mut Inner,
        connection: &Arc<Connection>,
        server: &Server,
    ) -> Next {
        // Each takes its turn: whoever comes behind the one that sent last is the first now.
        let mut at = self.streams.partition_point(|stream| stream.id <= self.served);
        for _ in 0..self.streams.len() {
            if inner.unsent() >= MAX_OUTPUT {
                return Next::GoOn;
            }
            at = if at < self.streams.len() { at } else { 0 };
            let before = self.streams.len();
            self.advance(at, inner, connection, server);
            at += usize::from(self.streams.len() == before);
        }
        self.held = self.streams.iter().map(Stream::held).sum();
        // What found no room for its bytes comes again when some are written.
        match inner.unsent() >= MAX_OUTPUT {
            true => Next::GoOn,
            false => Next::Wait,
        }
    }
}

impl Inner {
    /// Bytes of answers that the transport has not taken yet.
    fn unsent(&self) -> usize {
        self.output.len() - self.taken
    }

    /// One step of the protocol with the bytes that are there.
    pub(super) fn speak_http2(&mut self, connection: &Arc<Connection>, server: &Server) -> Step {
        // Out of the way, so that it and what it is part of can both be changed.
        let Stage::Http2(mut http2) = std::mem::replace(&mut self.stage, Stage::Closed) else {
            return Step::NeedsInput;
        };
        let mut input = std::mem::take(&mut self.input);
        let (used, next) = http2.drive(&input, self, connection, server);
        input.drain(..used);
        self.input = input;
        if http2.is_idle() {
            http2.streams = Vec::new();
        }
        connection.set_deadline(server, http2.deadline());
        self.stage = Stage::Http2(http2);
        match next {
            Next::Wait => Step::NeedsInput,
            Next::GoOn => Step::Progress,
            Next::Close => {
                self.is_closing = true;
                Step::Progress
            }
        }
    }

    /// Lets a worker see what was left for it, unless the socket has to take something first.
    pub(super) fn wake(&mut self, server: &Server) {
        if let Some(place) = self.place.as_mut().filter(|_| !self.is_stalled) {
            server.poller.wake(place);
        }
    }

    /// What the sweeper does: ends what takes too long, or the whole connection. A turn must follow.
    pub(super) fn expire_http2(&mut self, server: &Server, now: Instant) {
        self.now = now;
        let Stage::Http2(mut http2) = std::mem::replace(&mut self.stage, Stage::Closed) else {
            return;
        };
        // An answer that is reset for its own window gives the others that of the connection back.
        let is_unread = |stream: &Stream| {
            now >= stream.deadline && stream.is_sending() && http2.protocol.is_full(stream.id)
        };
        let is_stuck =
            now >= http2.progress + WRITE_TIMEOUT && !http2.streams.iter().any(is_unread);
        let mut ends = Ok(());
        for stream in &mut http2.streams {
            if now >= stream.deadline && ends.is_ok() {
                ends = stream.expire(is_stuck, &mut http2.protocol, self, server);
            }
        }
        let incomplete = http2.protocol.incomplete_since();
        let is_idle = http2.is_idle() && now >= http2.protocol.idle_since() + IDLE_TIMEOUT;
        let is_incomplete = incomplete.is_some_and(|since| now >= since + READ_TIMEOUT);
        let code = match ends {
            Err(code) => Some(code),
            Ok(()) if is_incomplete => Some(Code::Protocol),
            // Idle for too long: the client hears that it is no accident.
            Ok(()) => is_idle.then_some(Code::NoError),
        };
        if let Some(code) = code {
            self.is_closing = http2.end(code, self, server) == Next::Close;
        }
        self.stage = Stage::Http2(http2);
    }

    /// What the sweeper does while the client does not read: looks who may still follow a log.
    pub(super) fn check_http2(&mut self, connection: &Connection, server: &Server, now: Instant) {
        self.now = now;
        let Stage::Http2(mut http2) = std::mem::replace(&mut self.stage, Stage::Closed) else {
            return;
        };
        for stream in &mut http2.streams {
            if stream.is_following() && now >= stream.deadline {
                // A log stream that ends does not end the connection.
                let _ = stream.expire(false, &mut http2.protocol, self, server);
            }
        }
        connection.set_deadline(server, http2.stalled_deadline());
        self.stage = Stage::Http2(http2);
    }
}

#[cfg(test)]
mod tests;
