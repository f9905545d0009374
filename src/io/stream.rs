//! One request on a connection, from its head to the last byte of its answer. A connection of HTTP/1.1 has
//! one stream at a time, one of HTTP/2 many.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    service::{Lines, Progress, Request},
    socket::limit_send_buffer,
    turn::Turn,
};
use crate::http::{
    Code, Engine, MAX_DISCARD, Method,
    reply::Reply,
    request::{Framing, Head},
};

/// A request must be complete after this time.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer must make progress within this time.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client may take this time to see its answer before it hears that the rest of its body is unwanted, and to
/// close its side after the last answer.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Whether a client may still see its log stream is checked this often.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The kernel may keep so many bytes of a log stream for a client of HTTP/1.1.
const SEND_BUFFER: usize = 128 * 1024;

/// A request and where it is.
pub struct Stream {
    pub id: u32,
    is_head: bool,
    /// The client has sent all of it.
    is_complete: bool,
    /// The client waits for an answer before it sends the body.
    awaits_go_ahead: bool,
    /// Bytes of the body that came in and that the client has not been given room for again.
    used: usize,
    /// Bytes of the body that nobody wanted.
    unwanted: u64,
    /// When its state began, or last made progress.
    since: Instant,
    state: State,
}

/// Each state is named after the thing that the stream waits for or does.
///
/// ```text
///  Receiving ──▶ Waiting ──▶ Early ──▶ Sending ──▶ Discarding ──▶ Over
///                   └──────▶ Following ───────────────┘
/// ```
///
/// Each may be skipped.
enum State {
    Receiving(Box<Receiving>),
    Waiting(Box<dyn Request>),
    /// The end of the body, before the answer is given. There are clients of HTTP/2 that miss an answer which
    /// comes before they have sent all (curl 7.88).
    Early(Box<Reply>),
    /// The client, to make room for the answer.
    Sending(Sending),
    Following(Box<Following>),
    /// The rest of a body that nobody wants. A client whose stream is reset while it sends may not look at
    /// its answer.
    Discarding,
    Over,
}

struct Receiving {
    request: Box<dyn Request>,
    body: Vec<u8>,
    /// The length that was announced, in bytes, which counts at once.
    announced: usize,
    max_body: usize,
    /// It is too long, malformed or cut off.
    is_refused: bool,
}

struct Sending {
    body: Vec<u8>,
    sent: usize,
    has_trailers: bool,
}

struct Following {
    request: Box<dyn Request>,
    block: Arc<[u8]>,
    sent: usize,
    /// Since when the client has made no room for what is there.
    stalled_since: Option<Instant>,
    /// The client may not see more, but what is queued.
    has_ended: bool,
}

impl Stream {
    pub fn new(id: u32, head: Option<&Head>, is_complete: bool, now: Instant) -> Self {
        Self {
            id,
            is_head: head.is_some_and(|head| head.method == Method::Head),
            is_complete,
            awaits_go_ahead: head.is_some_and(|head| head.expects_continue),
            used: 0,
            unwanted: 0,
            since: now,
            state: State::Over,
        }
    }

    /// Goes on with a request whose body has at most so many bytes (0: it is ignored).
    pub fn open(
        &mut self,
        request: Box<dyn Request>,
        max_body: usize,
        framing: Framing,
        engine: &mut Engine,
        turn: &mut Turn<'_>,
    ) {
        let length = match framing {
            Framing::Length(length) if max_body > 0 => length,
            _ => 0,
        };
        let is_refused = length > max_body as u64;
        if max_body > 0 && !is_refused && std::mem::take(&mut self.awaits_go_ahead) {
            engine.go_ahead(self.id, &mut turn.output.bytes);
        }
        self.state = State::Receiving(Box::new(Receiving {
            request,
            body: Vec::new(),
            // One that is not too long fits.
            announced: if is_refused { 0 } else { length as usize },
            max_body,
            is_refused,
        }));
    }

    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    pub fn is_receiving(&self) -> bool {
        matches!(self.state, State::Receiving(_))
    }

    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting(_))
    }

    pub fn is_following(&self) -> bool {
        matches!(self.state, State::Following(_))
    }

    pub fn is_sending(&self) -> bool {
        matches!(self.state, State::Sending(_) | State::Early(_))
    }

    pub fn held(&self) -> usize {
        match &self.state {
            State::Receiving(receiving) => receiving.body.capacity().max(receiving.announced),
            State::Waiting(request) => request.held(),
            State::Early(reply) => reply.body.capacity(),
            State::Sending(sending) => sending.body.capacity(),
            State::Following(_) | State::Discarding | State::Over => 0,
        }
    }

    pub fn deadline(&self, is_multiplexed: bool) -> Instant {
        let timeout = match &self.state {
            State::Waiting(request) => return request.deadline(),
            State::Receiving(_) => READ_TIMEOUT,
            State::Discarding if !is_multiplexed => READ_TIMEOUT,
            State::Early(_) | State::Discarding => LINGER_TIMEOUT,
            State::Sending(_) | State::Over => WRITE_TIMEOUT,
            State::Following(_) => CHECK_INTERVAL,
        };
        self.since + timeout
    }

    /// Ends it where nobody will hear the answer. A request that waits is audited as it is dropped.
    pub fn abandon(self, now: Instant) {
        if let State::Receiving(mut receiving) = self.state {
            receiving.request.run(None, now, &|| std::task::Waker::noop().clone());
        }
    }

    pub fn receive(&mut self, bytes: &[u8], is_complete: bool) {
        self.is_complete |= is_complete;
        self.used += bytes.len();
        match &mut self.state {
            State::Receiving(receiving) if receiving.max_body > 0 => receiving.add(bytes),
            _ => self.unwanted += bytes.len() as u64,
        }
    }

    pub fn break_off(&mut self) {
        self.is_complete = true;
        if let State::Receiving(receiving) = &mut self.state {
            receiving.is_refused = true;
        }
    }

    /// One step. `false` if there is nothing to do but wait. The client may send more of the body if
    /// `may_receive`.
    pub fn advance(&mut self, may_receive: bool, engine: &mut Engine, turn: &mut Turn<'_>) -> bool {
        if self.used > 0 && may_receive && self.unwanted <= MAX_DISCARD {
            engine.release(self.id, std::mem::take(&mut self.used), &mut turn.output.bytes);
        }
        match &mut self.state {
            State::Receiving(receiving) => {
                if !self.is_complete && !receiving.is_done() {
                    return false;
                }
                self.run(engine, turn);
                true
            }
            State::Waiting(request) => match request.poll(turn.now, turn.waker) {
                Progress::Wait => false,
                progress => {
                    let State::Waiting(request) = self.take_state() else { return false };
                    self.go_on(request, progress, engine, turn);
                    true
                }
            },
            State::Early(_) => {
                let is_due = self.is_complete || self.unwanted > MAX_DISCARD;
                if is_due {
                    self.send_early(engine, turn);
                }
                is_due
            }
            State::Sending(sending) => {
                let left = &sending.body[sending.sent..];
                let is_last = !sending.has_trailers;
                let count = send(self.id, left, is_last, engine, turn);
                if count > 0 {
                    self.since = turn.now;
                }
                sending.sent += count;
                if sending.sent < sending.body.len() {
                    return false;
                }
                if sending.has_trailers {
                    engine.send_trailers(self.id, &mut turn.output.bytes);
                }
                self.rest(engine, turn.now);
                true
            }
            State::Following(following) => {
                match following.send(self.id, engine, turn) {
                    Lines::End => {
                        engine.send_body(self.id, &[], true, &mut turn.output.bytes);
                        self.rest(engine, turn.now);
                    }
                    Lines::CutOff => self.cut_off(engine, turn),
                    Lines::Block(_) | Lines::Nothing => {}
                }
                false
            }
            State::Discarding => {
                if !engine.is_multiplexed() && self.unwanted > MAX_DISCARD {
                    // The answer was given and must not be lost; the rest of the body is not looked at.
                    engine.reset(self.id, Code::NoError, &mut turn.output.bytes);
                }
                if self.is_complete || engine.is_ending() && !engine.is_multiplexed() {
                    self.state = State::Over;
                }
                false
            }
            State::Over => false,
        }
    }

    fn take_state(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Over)
    }

    fn run(&mut self, engine: &mut Engine, turn: &mut Turn<'_>) {
        let State::Receiving(receiving) = self.take_state() else { return };
        let Receiving { mut request, body, is_refused, .. } = *receiving;
        if is_refused && !engine.is_multiplexed() {
            // Where the next request begins is not known.
            engine.end(Code::NoError, &mut turn.output.bytes);
        }
        let body = (!is_refused).then_some(&*body);
        let progress = request.run(body, turn.now, turn.waker);
        self.go_on(request, progress, engine, turn);
    }

    fn go_on(
        &mut self,
        request: Box<dyn Request>,
        progress: Progress,
        engine: &mut Engine,
        turn: &mut Turn<'_>,
    ) {
        self.since = turn.now;
        match progress {
            Progress::Wait => self.state = State::Waiting(request),
            Progress::Reply(reply) => self.reply(reply, engine, turn),
            Progress::Lines => {
                if !engine.is_multiplexed() {
                    limit_send_buffer(turn.socket, SEND_BUFFER);
                }
                let out = &mut turn.output.bytes;
                engine.send_head(self.id, &Reply::open_stream(), false, out);
                self.state = State::Following(Box::new(Following {
                    request,
                    block: Arc::default(),
                    sent: 0,
                    stalled_since: None,
                    has_ended: false,
                }));
            }
        }
    }

    /// Gives an answer, as soon as the client looks at it.
    pub fn reply(&mut self, reply: Reply, engine: &mut Engine, turn: &mut Turn<'_>) {
        if self.is_complete || self.awaits_go_ahead || !engine.is_multiplexed() {
            self.send(reply, engine, turn);
        } else {
            self.since = turn.now;
            self.state = State::Early(Box::new(reply));
        }
    }

    /// Gives the answer that waits for the body to end, whether it has or not.
    fn send_early(&mut self, engine: &mut Engine, turn: &mut Turn<'_>) {
        if let State::Early(_) = &self.state
            && let State::Early(reply) = self.take_state()
        {
            self.send(*reply, engine, turn);
        }
    }

    fn send(&mut self, reply: Reply, engine: &mut Engine, turn: &mut Turn<'_>) {
        let has_trailers = reply.is_stream && !self.is_head;
        let is_all = self.is_head || (reply.body.is_empty() && !has_trailers);
        engine.send_head(self.id, &reply, is_all, &mut turn.output.bytes);
        if is_all {
            return self.rest(engine, turn.now);
        }
        self.since = turn.now;
        self.state = State::Sending(Sending { body: reply.body, sent: 0, has_trailers });
    }

    /// The answer is given: what is left of the body is dropped.
    fn rest(&mut self, engine: &Engine, now: Instant) {
        self.since = now;
        let is_last = engine.is_ending() && !engine.is_multiplexed();
        self.state = match self.is_complete || is_last {
            true => State::Over,
            false => State::Discarding,
        };
    }

    /// Ends a log stream so that the client sees that some is missing.
    fn cut_off(&mut self, engine: &mut Engine, turn: &mut Turn<'_>) {
        if let State::Following(mut following) = self.take_state() {
            following.request.count_drop();
            engine.reset(self.id, Code::Cancel, &mut turn.output.bytes);
            turn.is_broken |= !engine.is_multiplexed();
        }
    }

    /// Ends or goes on when its deadline has passed. `is_stuck`: the client has taken no byte of any answer
    /// for a while, for the window of the connection. Fails if the connection must end: it is stuck itself,
    /// or too many answers were not read.
    pub fn expire(
        &mut self,
        is_stuck: bool,
        engine: &mut Engine,
        turn: &mut Turn<'_>,
    ) -> Result<(), Code> {
        match &mut self.state {
            // The read timeout cuts the body off.
            State::Receiving(receiving) => {
                receiving.is_refused = true;
                self.run(engine, turn);
                self.send_early(engine, turn);
            }
            State::Waiting(request) => request.expire(),
            State::Early(_) => self.send_early(engine, turn),
            // An answer that waits for its own window ends alone.
            State::Sending(_) if engine.is_full(self.id) => {
                engine.give_up(self.id, turn.now, &mut turn.output.bytes)?;
                self.state = State::Over;
            }
            State::Sending(_) if is_stuck => return Err(Code::EnhanceYourCalm),
            // It may just not have had its turn.
            State::Sending(_) => self.since = turn.now,
            State::Following(following) => {
                self.since = turn.now;
                let stalled_since = following.stalled_since;
                if stalled_since.is_some_and(|since| turn.now >= since + WRITE_TIMEOUT) {
                    self.cut_off(engine, turn);
                } else if !following.request.may_go_on(turn.chain) {
                    following.has_ended = true;
                }
            }
            State::Discarding => {
                engine.reset(self.id, Code::NoError, &mut turn.output.bytes);
                turn.is_broken |= !engine.is_multiplexed();
                self.state = State::Over;
            }
            State::Over => {}
        }
        Ok(())
    }

    pub fn count_drop(&mut self) {
        if let State::Following(following) = &mut self.state {
            following.request.count_drop();
        }
    }
}

impl Receiving {
    fn add(&mut self, bytes: &[u8]) {
        self.is_refused |= self.body.len() + bytes.len() > self.max_body;
        if !self.is_refused {
            self.body.extend_from_slice(bytes);
        }
    }

    fn is_done(&self) -> bool {
        self.max_body == 0 || self.is_refused
    }
}

impl Following {
    /// Sends what is queued as far as there is room for it, and says how it goes on.
    fn send(&mut self, id: u32, engine: &mut Engine, turn: &mut Turn<'_>) -> Lines {
        loop {
            if self.sent == self.block.len() {
                self.stalled_since = None;
                match self.request.next_lines() {
                    Lines::Block(block) => (self.block, self.sent) = (block, 0),
                    Lines::Nothing if self.has_ended => return Lines::End,
                    end => return end,
                }
            }
            let count = send(id, &self.block[self.sent..], false, engine, turn);
            self.sent += count;
            if count == 0 {
                self.stalled_since.get_or_insert(turn.now);
                return Lines::Nothing;
            }
            self.stalled_since = None;
        }
    }
}

/// Sends what there is room for of `bytes`, here and at the client, and says how much that was.
fn send(id: u32, bytes: &[u8], is_last: bool, engine: &mut Engine, turn: &mut Turn<'_>) -> usize {
    // HTTP/1.1 sends all as one chunk, so that a chunk of a log has whole lines.
    let room = match turn.output.room() {
        1.. if !engine.is_multiplexed() => usize::MAX,
        room => room,
    };
    let count = engine.room(id).min(room).min(bytes.len());
    if count > 0 {
        let is_last = is_last && count == bytes.len();
        engine.send_body(id, &bytes[..count], is_last, &mut turn.output.bytes);
    }
    count
}
