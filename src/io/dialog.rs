//! HTTP on a connection, whatever its version: requests come out of the engine, meet the session, and their
//! answers go into the engine. A stream that waits holds up neither the worker nor the other streams.

use std::time::{Duration, Instant};

use super::{
    service::Begun,
    stream::{READ_TIMEOUT, Stream, WRITE_TIMEOUT},
    turn::Turn,
};
use crate::http::{Code, Engine, Event, Malformed, Refused, request::Head};

/// Reads and requests in one turn, so that a busy connection does not keep a worker for itself.
pub const TURN: u64 = 64;

/// Bodies and answers that a connection may hold, in bytes. More requests are refused.
const MAX_HELD: usize = 4 << 20;

pub struct Dialog {
    engine: Engine,
    /// The requests that are not over, in their order.
    streams: Vec<Stream>,
    /// The memory for them, in bytes.
    held: usize,
    /// Since when no request is under way, if none is.
    idle_since: Instant,
    /// When the client last took bytes of an answer's body, and on which stream.
    progress: Instant,
    served: u32,
    /// Requests that have begun in all.
    begun: u64,
}

/// How a connection goes on.
#[derive(PartialEq, Eq)]
pub enum Next {
    /// When there is something new.
    Wait,
    /// When what there is to say is written.
    GoOn,
    /// It ends, for this reason, when what there is to say is written.
    Close(Code),
    /// It is cut off.
    Break,
}

impl Dialog {
    pub fn new(engine: Engine, now: Instant) -> Self {
        Self {
            engine,
            streams: Vec::new(),
            held: 0,
            idle_since: now,
            progress: now,
            served: 0,
            begun: 0,
        }
    }

    pub fn is_idle(&self) -> bool {
        self.streams.is_empty()
    }

    /// Whether the client has still to hear that the connection ends, before it may be closed.
    pub fn owes_goodbye(&self) -> bool {
        self.engine.is_multiplexed() && !self.engine.is_ending()
    }

    pub fn has_begun(&self) -> bool {
        self.begun > 0
    }

    /// Requests that have begun in all.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    pub fn is_waiting(&self) -> bool {
        self.streams.iter().any(Stream::is_waiting)
    }

    pub fn wants_input(&self) -> bool {
        self.engine.is_multiplexed() || !self.is_waiting()
    }

    pub fn only_follows(&self) -> bool {
        !self.is_idle() && self.streams.iter().all(Stream::is_following)
    }

    pub fn abandon(self, now: Instant) {
        self.streams.into_iter().for_each(|stream| stream.abandon(now));
    }

    /// When [`expire`](Self::expire) is due. While the client reads nothing (`is_stalled`), only its log
    /// streams are looked at.
    pub fn deadline(&self, idle_timeout: Duration, is_stalled: bool) -> Option<Instant> {
        let looks_at = |stream: &&Stream| !is_stalled || stream.is_following();
        let streams = self.streams.iter().filter(looks_at);
        let streams = streams.map(|stream| stream.deadline(self.engine.is_multiplexed()));
        let others = match is_stalled {
            true => [None, None],
            false => [self.incomplete_deadline(), self.idle_deadline(idle_timeout)],
        };
        streams.chain(others.into_iter().flatten()).min()
    }

    fn incomplete_deadline(&self) -> Option<Instant> {
        Some(self.engine.incomplete_since()? + READ_TIMEOUT)
    }

    fn idle_deadline(&self, idle_timeout: Duration) -> Option<Instant> {
        self.is_idle().then(|| self.idle_since + idle_timeout)
    }

    /// Does what can be done with `input` and with what has been answered, and says how many bytes of the
    /// former are used up.
    pub fn drive(&mut self, input: &[u8], turn: &mut Turn<'_>) -> (usize, Next) {
        let kept = turn.session.kept_header();
        let (mut used, end) = (0, self.begun + TURN);
        loop {
            if turn.output.room() == 0 || self.begun >= end {
                return (used, Next::GoOn);
            }
            let (has_room, out) = (self.has_room(), &mut turn.output.bytes);
            let next = self.engine.next(&input[used..], kept.as_deref(), has_room, turn.now, out);
            let (count, event) = match next {
                Ok((0, Event::Nothing)) => break,
                Ok(next) => next,
                Err(code) => {
                    self.engine.end(code, &mut turn.output.bytes);
                    return (used, Next::Close(code));
                }
            };
            used += count;
            self.take(event, turn);
            if turn.is_broken {
                return (used, Next::Break);
            }
        }
        let is_fresh = turn.is_fresh && !self.has_begun();
        if turn.is_draining && (self.engine.is_multiplexed() && !is_fresh || !self.is_idle()) {
            self.engine.end(Code::NoError, &mut turn.output.bytes);
        }
        if turn.is_eof && !self.engine.is_multiplexed() {
            self.streams.iter_mut().for_each(Stream::break_off);
        }
        let was_busy = !self.is_idle();
        let next = match self.advance_all(turn) {
            _ if turn.is_broken => Next::Break,
            Next::Wait if self.engine.is_ending() && self.is_idle() => Next::Close(Code::NoError),
            // HTTP/1.1 goes on with the request that came in behind this one.
            Next::Wait if was_busy && self.is_idle() => Next::GoOn,
            next => next,
        };
        (used, next)
    }

    fn take(&mut self, event: Event<'_>, turn: &mut Turn<'_>) {
        match event {
            Event::Request { stream, head, is_complete } => {
                self.begin(stream, head, is_complete, turn);
            }
            Event::Body { stream, bytes, is_complete } => {
                if let Some(at) = self.position(stream) {
                    self.streams[at].receive(bytes, is_complete);
                    self.advance(at, turn);
                }
            }
            Event::BadBody { stream } => {
                if let Some(at) = self.position(stream) {
                    self.streams[at].break_off();
                    self.engine.end(Code::Protocol, &mut turn.output.bytes);
                    self.advance(at, turn);
                }
            }
            Event::Reset { stream } => {
                if let Some(at) = self.position(stream) {
                    let stream = self.streams.remove(at);
                    self.held = self.held.saturating_sub(stream.held());
                    stream.abandon(turn.now);
                    self.idle_since = turn.now;
                }
            }
            Event::Malformed(path) => {
                let malformed = Malformed::bad_request("malformed request");
                turn.session.malformed(malformed, path, turn.now);
            }
            Event::Nothing => {}
        }
    }

    fn begin(
        &mut self,
        id: u32,
        head: Result<Head, Refused>,
        is_complete: bool,
        turn: &mut Turn<'_>,
    ) {
        let now = turn.now;
        self.begun += 1;
        if turn.is_draining && !self.engine.is_multiplexed() {
            // The answer says so.
            self.engine.end(Code::NoError, &mut turn.output.bytes);
        }
        let mut stream = Stream::new(id, head.as_ref().ok(), is_complete, now);
        match head {
            Ok(head) => {
                let framing = head.framing;
                match turn.session.begin(head, turn.chain, now) {
                    Begun::Request(request, max_body) => {
                        stream.open(request, max_body, framing, &mut self.engine, turn);
                    }
                    Begun::Answer(reply, is_last) => {
                        if is_last {
                            self.engine.end(Code::NoError, &mut turn.output.bytes);
                        }
                        stream.reply(reply, &mut self.engine, turn);
                    }
                }
            }
            Err((malformed, path)) => {
                let reply = turn.session.malformed(malformed, path, now);
                stream.reply(reply, &mut self.engine, turn);
            }
        }
        self.held += stream.held();
        self.streams.push(stream);
        self.advance(self.streams.len() - 1, turn);
    }

    fn position(&self, id: u32) -> Option<usize> {
        self.streams.binary_search_by_key(&id, |stream| stream.id).ok()
    }

    /// Whether there is room for one more request. One answer that is large by itself, or may become so,
    /// does not keep others out: HTTP/1.1 has one of them, too.
    fn has_room(&self) -> bool {
        let is_answer = |stream: &&Stream| stream.is_sending() || stream.is_waiting();
        let answers = self.streams.iter().filter(is_answer);
        let largest = || answers.map(Stream::held).max().unwrap_or(0);
        self.held < MAX_HELD || self.held.saturating_sub(largest()) < MAX_HELD
    }

    /// Whether no older stream waits for its body. One comes in whatever the others hold, so that there is
    /// an end to it.
    fn is_oldest_body(&self, at: usize) -> bool {
        self.streams[..at].iter().all(|stream| !stream.is_receiving())
    }

    fn advance(&mut self, at: usize, turn: &mut Turn<'_>) {
        let may_receive = self.held < MAX_HELD || self.is_oldest_body(at);
        let stream = &mut self.streams[at];
        let (held, room) = (stream.held(), self.engine.connection_room());
        while stream.advance(may_receive, &mut self.engine, turn) {}
        if self.engine.connection_room() < room {
            (self.progress, self.served) = (turn.now, stream.id);
        }
        self.held = self.held.saturating_sub(held) + stream.held();
        if stream.is_over() {
            self.streams.remove(at);
            self.idle_since = turn.now;
        }
    }

    fn advance_all(&mut self, turn: &mut Turn<'_>) -> Next {
        // Each takes its turn: the one behind the stream that sent last is the first now.
        let mut at = self.streams.partition_point(|stream| stream.id <= self.served);
        for _ in 0..self.streams.len() {
            if turn.output.room() == 0 {
                return Next::GoOn;
            }
            at = if at < self.streams.len() { at } else { 0 };
            let before = self.streams.len();
            self.advance(at, turn);
            at += usize::from(self.streams.len() == before);
        }
        self.held = self.streams.iter().map(Stream::held).sum();
        // A stream that found no room for its bytes comes again when some are written.
        match turn.output.room() == 0 {
            true => Next::GoOn,
            false => Next::Wait,
        }
    }

    /// Ends the streams that are past their deadlines, or the whole connection. A turn must follow unless
    /// the client reads nothing (`is_stalled`).
    pub fn expire(
        &mut self,
        idle_timeout: Duration,
        is_stalled: bool,
        turn: &mut Turn<'_>,
    ) -> Next {
        let (now, is_multiplexed) = (turn.now, self.engine.is_multiplexed());
        let is_due = |stream: &Stream| now >= stream.deadline(is_multiplexed);
        // An answer that is reset for its own window gives the others that of the connection back.
        let is_unread = |stream: &Stream| {
            is_due(stream) && stream.is_sending() && self.engine.is_full(stream.id)
        };
        let is_stuck = now >= self.progress + WRITE_TIMEOUT && !self.streams.iter().any(is_unread);
        let looks_at = |stream: &Stream| is_due(stream) && (!is_stalled || stream.is_following());
        let mut end = None;
        for stream in self.streams.iter_mut().filter(|stream| looks_at(stream)) {
            if let Err(code) = stream.expire(is_stuck, &mut self.engine, turn) {
                end = Some(code);
                break;
            }
        }
        if end.is_none() && !is_stalled {
            let is_due = |deadline: Option<Instant>| deadline.is_some_and(|at| now >= at);
            // Idle for too long: the client hears that it is no accident.
            let idle = is_due(self.idle_deadline(idle_timeout)).then_some(Code::NoError);
            end = is_due(self.incomplete_deadline()).then_some(Code::Protocol).or(idle);
        }
        match end {
            Some(code) => {
                self.engine.end(code, &mut turn.output.bytes);
                Next::Close(code)
            }
            None if turn.is_broken => Next::Break,
            None => Next::GoOn,
        }
    }

    /// The connection ends since its client does not read: counts the log streams that end with it.
    pub fn count_drops(&mut self) {
        self.streams.iter_mut().for_each(Stream::count_drop);
    }

    /// Gives back what an idle connection does not need.
    pub fn rest(&mut self) {
        if self.engine.is_multiplexed() && self.is_idle() {
            self.streams = Vec::new();
        }
    }
}
