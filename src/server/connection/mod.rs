//! One client connection: TLS, requests in their order, answers; driven by whichever worker is free.
//!
//! A connection never waits: [`Connection::drive`] does what can be done with the bytes that are
//! there and says what to wait for. Between two calls nothing but the connection itself is held.

mod answering;
mod http1;
mod http2;
mod streaming;
mod transport;

use std::{
    io::{self, Read as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub(super) use self::answering::Address;
use self::http2::Http2;
use self::streaming::{CHECK_INTERVAL, Streaming};
pub(super) use self::transport::Transport;
use super::{
    Server, exchange::Exchange, failure::Failure, peer::Peer, pending::Pending, proxy::Forwarded,
};
use crate::{
    base::panics::survive,
    http::{Frame, body::BodyReader},
    io::poller::{Interest, Place},
    log::Cause,
    metrics::Event,
    tls::words,
};

/// A handshake must be done, and a request complete, after this time.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection may stay open without a request for this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// An answer must make progress within this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client may take this time to close its side after the last answer.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// An unread body up to this size is read and dropped to keep the connection, in bytes.
const MAX_DISCARD: u64 = 256 * 1024;
/// Answers that wait for the client to read, in bytes: more requests are not looked at before.
const MAX_OUTPUT: usize = 64 * 1024;
/// Reads and requests in one turn, so that a busy connection does not keep a worker for itself.
const TURN: u32 = 64;

/// How a connection goes on after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// When there is something new: see [`Inner::interest`].
    Event,
    /// When the others have had their turns.
    Turn,
    /// It is over.
    Closed,
}

/// A client connection.
pub(super) struct Connection {
    /// Its place in the registry.
    pub(super) token: u64,
    /// It is a probe's, without TLS and certificate.
    pub(super) is_probe: bool,
    peer_address: SocketAddr,
    /// The generation of the trust that its handshake works with.
    trust_generation: u64,
    /// When the sweeper must look, in milliseconds since the start of the server.
    deadline: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    socket: TcpStream,
    /// With the worker that it has from its registration to its end.
    place: Option<Place>,
    transport: Transport,
    peer: Option<Peer>,
    /// The certificate that a TLS proxy forwarded last.
    forwarded: Option<Box<Forwarded>>,
    stage: Stage,
    /// Decrypted bytes that are not used yet, and how many of them were searched for a head's end.
    input: Vec<u8>,
    scanned: usize,
    /// Empty lines before the request.
    empty_lines: u8,
    /// Bytes of answers that the transport has not taken yet, and how many of them it has.
    output: Vec<u8>,
    taken: usize,
    /// Requests so far.
    requests: u64,
    /// The client will send no more.
    is_eof: bool,
    has_received: bool,
    /// Close when the output is written.
    is_closing: bool,
    /// The client does not read fast enough; the deadline is that of the write.
    is_stalled: bool,
    /// When this turn began.
    now: Instant,
}

enum Stage {
    Handshake,
    /// Between requests, or inside a head.
    Head,
    Body(Box<Receiving>),
    Waiting(Box<Waiting>),
    /// It speaks HTTP/2, from the handshake to its end.
    Http2(Box<Http2>),
    /// The answer is a log stream.
    Streaming(Box<Streaming>),
    /// The answer is given; what is left of the body is dropped.
    Discard(BodyReader, u64),
    /// The last answer and the goodbye are written; the client may still be sending.
    Linger,
    Closed,
}

/// A request whose body is coming in.
struct Receiving {
    exchange: Exchange,
    reader: BodyReader,
    body: Vec<u8>,
    max_body: usize,
    frame: Frame,
}

/// A request whose answer is not there yet.
struct Waiting {
    pending: Pending,
    unread: Option<BodyReader>,
    frame: Frame,
}

/// Whether a step changed anything.
enum Step {
    Progress,
    NeedsInput,
    NeedsReply,
}

impl Connection {
    /// Takes over an accepted socket.
    pub(super) fn new(
        token: u64,
        socket: TcpStream,
        peer_address: SocketAddr,
        transport: Transport,
        trust_generation: u64,
        server: &Server,
    ) -> Self {
        let deadline = server.millis(Instant::now() + READ_TIMEOUT);
        Self {
            token,
            is_probe: transport.is_plain(),
            peer_address,
            trust_generation,
            deadline: AtomicU64::new(deadline),
            inner: Mutex::new(Inner {
                socket,
                place: None,
                transport,
                peer: None,
                forwarded: None,
                stage: Stage::Handshake,
                input: Vec::new(),
                scanned: 0,
                empty_lines: 0,
                output: Vec::new(),
                taken: 0,
                requests: 0,
                is_eof: false,
                has_received: false,
                is_closing: false,
                is_stalled: false,
                now: Instant::now(),
            }),
        }
    }

    /// How every thread touches a connection. If `action` panics, this connection is closed and what
    /// it was asked for is audited; the thread goes on.
    fn with<T>(&self, server: &Server, action: impl FnOnce(&mut Inner) -> T) -> Option<T> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard(&mut inner, server, action)
    }

    fn guard<T>(
        &self,
        inner: &mut Inner,
        server: &Server,
        action: impl FnOnce(&mut Inner) -> T,
    ) -> Option<T> {
        let done = survive(|| action(inner));
        if done.is_none() {
            inner.leave(server);
            server.registry.remove(self.token);
            // Requests are audited as they are dropped.
            inner.stage = Stage::Closed;
        }
        done
    }

    /// Whether the sweeper must look at `now` (milliseconds since the start of the server).
    pub(super) fn is_due(&self, now: u64) -> bool {
        now >= self.deadline.load(Ordering::Relaxed)
    }

    fn set_deadline(&self, server: &Server, at: Instant) {
        self.deadline.store(server.millis(at), Ordering::Relaxed);
    }

    /// Whether it waits for its next request. One that a worker is busy with does not.
    pub(super) fn is_idle(&self) -> bool {
        self.inner.try_lock().is_ok_and(|inner| inner.is_idle())
    }

    /// Whether log streams are all that goes on. That of one that a worker is busy with is not known.
    pub(super) fn only_streams(&self) -> bool {
        self.inner.try_lock().is_ok_and(|inner| match &inner.stage {
            Stage::Streaming(_) => true,
            Stage::Http2(http2) => http2.only_streams(),
            _ => false,
        })
    }

    /// Gives the socket to a worker.
    pub(super) fn register(&self, server: &Server) -> io::Result<()> {
        let refused = Err(io::ErrorKind::NotConnected.into());
        let register = |inner: &mut Inner| {
            inner.place = Some(server.poller.register(self.token, &inner.socket)?);
            Ok(())
        };
        self.with(server, register).unwrap_or(refused)
    }

    /// Does what can be done now.
    pub(super) fn drive(self: &Arc<Self>, server: &Server) {
        self.with(server, |inner| {
            if matches!(inner.stage, Stage::Closed) {
                return;
            }
            if let Some(place) = &mut inner.place {
                server.poller.begin_turn(place);
            }
            self.take_turn(inner, server);
            let Inner { place, socket, .. } = inner;
            let moved = place.as_mut().map(|place| server.poller.end_turn(place, socket));
            self.check_watched(moved, server);
        });
    }

    /// Moves to another worker, unless one is busy with it.
    pub(super) fn hand_over(&self, server: &Server, worker: usize) {
        if let Ok(mut inner) = self.inner.try_lock() {
            let Inner { place, socket, .. } = &mut *inner;
            let moved = place.as_mut().map(|place| server.poller.hand_over(place, socket, worker));
            self.check_watched(moved, server);
        }
    }

    /// Tells the worker what the connection waits for.
    fn watch(&self, inner: &mut Inner, server: &Server) {
        let interest = inner.interest();
        let Inner { place, socket, .. } = inner;
        let set = place.as_mut().map(|place| server.poller.set_interest(place, socket, interest));
        self.check_watched(set, server);
    }

    fn check_watched(&self, result: Option<io::Result<()>>, server: &Server) {
        if let Some(Err(e)) = result {
            // The sweeper ends the connection at its deadline.
            server.log.error_from_outside(Cause::Connection, || {
                format!("failed to watch a connection: {e}")
            });
        }
    }

    fn take_turn(self: &Arc<Self>, inner: &mut Inner, server: &Server) {
        let wait = inner.turn(self, server).unwrap_or(Wait::Closed);
        self.settle(inner, server, wait);
    }

    fn settle(&self, inner: &mut Inner, server: &Server, wait: Wait) {
        match wait {
            Wait::Closed => self.close(inner, server),
            Wait::Event => self.watch(inner, server),
            Wait::Turn => {
                self.watch(inner, server);
                inner.wake(server);
            }
        }
    }

    fn close(&self, inner: &mut Inner, server: &Server) {
        let stage = std::mem::replace(&mut inner.stage, Stage::Closed);
        // Even a request that nobody will hear the answer of is audited.
        match stage {
            Stage::Body(receiving) => {
                receiving.exchange.answer(Err(Failure::InvalidJson));
            }
            Stage::Waiting(waiting) => waiting.pending.abandon(),
            Stage::Http2(http2) => http2.abandon(),
            _ => {}
        }
        inner.input = Vec::new();
        inner.leave(server);
        server.registry.remove(self.token);
    }

    /// What the sweeper does with a connection whose deadline has passed.
    pub(super) fn on_deadline(self: &Arc<Self>, server: &Server, now: Instant) {
        self.with(server, |inner| {
            // A worker may have moved the deadline while the lock was waited for.
            if self.is_due(server.millis(now)) {
                self.expire(inner, server, now);
            }
        });
    }

    fn expire(self: &Arc<Self>, inner: &mut Inner, server: &Server, now: Instant) {
        match &mut inner.stage {
            Stage::Closed => {}
            Stage::Streaming(_) => inner.check_stream(self, server, now),
            Stage::Waiting(waiting) if !inner.is_stalled && !waiting.pending.is_answered() => {
                waiting.pending.expire();
                self.set_deadline(server, now + WRITE_TIMEOUT);
                inner.wake(server);
            }
            Stage::Http2(http2) if inner.is_stalled && now < http2.stalled_until => {
                inner.check_http2(self, server, now);
            }
            Stage::Http2(_) if !inner.is_stalled => {
                inner.expire_http2(server, now);
                self.take_turn(inner, server);
            }
            Stage::Body(_) => {
                // The read timeout cuts the body off, which is no valid JSON.
                inner.fail_body();
                self.set_deadline(server, now + WRITE_TIMEOUT);
                self.take_turn(inner, server);
            }
            Stage::Head if inner.input.is_empty() && !inner.is_stalled => {
                // Idle for too long: the client hears that it is no accident.
                inner.now = now;
                let wait = inner.hang_up(self, server);
                self.settle(inner, server, wait);
            }
            stage => {
                if matches!(stage, Stage::Handshake) && inner.has_received {
                    self.fail_handshake(server, "tls: handshake timed out");
                }
                self.close(inner, server);
            }
        }
    }

    /// Closes the connection if it is idle, and else after the answers it still owes; `at_once`
    /// closes it in any case. One that a worker is busy with stays as it is.
    pub(super) fn drain(&self, server: &Server, at_once: bool) {
        let mut inner = match self.inner.try_lock() {
            Ok(inner) => inner,
            Err(TryLockError::Poisoned(inner)) => inner.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.guard(&mut inner, server, |inner| {
            self.drain_now(inner, server, at_once);
        });
    }

    fn drain_now(&self, inner: &mut Inner, server: &Server, at_once: bool) {
        if matches!(inner.stage, Stage::Closed) {
            return;
        }
        let is_idle = match inner.stage {
            Stage::Handshake => true,
            _ => inner.is_idle(),
        };
        if matches!(inner.stage, Stage::Http2(_)) && !at_once {
            // A worker tells the client.
            inner.wake(server);
            return;
        }
        if at_once {
            self.close(inner, server);
        } else if is_idle {
            inner.now = Instant::now();
            let wait = inner.hang_up(self, server);
            self.settle(inner, server, wait);
        }
    }

    /// How long it may stay open without a request. Probes are few and come back: idle ones must not
    /// keep others out.
    fn idle_timeout(&self) -> Duration {
        match self.is_probe {
            true => READ_TIMEOUT,
            false => IDLE_TIMEOUT,
        }
    }

    fn fail_handshake(&self, server: &Server, reason: &str) {
        server.metrics.count(Event::FailedHandshake);
        let address = self.peer_address;
        server.log.error_from_outside(Cause::Handshake, || {
            format!("http: TLS handshake error from {address}: {reason}")
        });
    }
}

impl Inner {
    /// What the connection waits for.
    fn interest(&self) -> Interest {
        match &self.stage {
            _ if self.is_stalled => Interest::Write,
            // An answer of the key store: nothing that the client sends can be taken before.
            Stage::Waiting(_) => Interest::Wake,
            Stage::Http2(_) if self.is_eof => Interest::Wake,
            _ => Interest::Read,
        }
    }

    /// Ends the socket's time with its worker, and the connection.
    fn leave(&mut self, server: &Server) {
        if let Some(place) = self.place.take() {
            server.poller.leave(place, &self.socket);
        }
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Whether it is between two requests and owes no answer.
    fn is_idle(&self) -> bool {
        let owes_nothing = match &self.stage {
            Stage::Head => true,
            Stage::Http2(http2) => http2.is_idle(),
            _ => false,
        };
        owes_nothing && self.input.is_empty() && !self.is_stalled
    }

    /// Reads, answers and writes until there is nothing left to do without waiting.
    fn turn(&mut self, connection: &Arc<Connection>, server: &Server) -> io::Result<Wait> {
        if matches!(self.stage, Stage::Linger) {
            return Ok(self.linger());
        }
        // One look at the clock for the whole turn, which never waits.
        self.now = Instant::now();
        let mut has_written = false;
        for _ in 0..TURN {
            let mut step = Step::Progress;
            while matches!(step, Step::Progress) && self.output.len() - self.taken < MAX_OUTPUT {
                if self.is_closing {
                    break;
                }
                step = self.advance(connection, server)?;
            }
            let had_output = self.transport.wants_write() || self.taken < self.output.len();
            if !self.flush()? {
                self.stall(connection, server);
                return Ok(Wait::Event);
            }
            if std::mem::take(&mut self.is_stalled) {
                self.restore_deadline(connection, server);
            }
            has_written |= had_output;
            if self.is_closing {
                return Ok(self.hang_up(connection, server));
            }
            match step {
                Step::Progress => continue,
                Step::NeedsReply => return Ok(Wait::Event),
                Step::NeedsInput => {}
            }
            if self.is_eof {
                // Who has closed its own side only still hears what it waits for.
                if matches!(&self.stage, Stage::Http2(http2) if http2.is_waiting()) {
                    return Ok(Wait::Event);
                }
                return Ok(Wait::Closed);
            }
            // Whoever was just answered has not sent more yet: epoll will tell, a read would not.
            if has_written || !self.receive(connection, server)? {
                return Ok(self.rest(connection, server));
            }
        }
        Ok(Wait::Turn)
    }

    /// Gives back what an idle connection does not need.
    fn rest(&mut self, connection: &Connection, server: &Server) -> Wait {
        if self.input.is_empty() {
            self.input = Vec::new();
            if matches!(self.stage, Stage::Head) && server.is_draining() {
                return self.hang_up(connection, server);
            }
        }
        Wait::Event
    }

    /// Says goodbye and waits a moment for the client to do the same: closing a socket with unread
    /// bytes would throw away the answer that is still on its way.
    fn hang_up(&mut self, connection: &Connection, server: &Server) -> Wait {
        self.transport.say_goodbye();
        let sent = self.write_out();
        if self.is_eof || !matches!(sent, Ok(true)) {
            return Wait::Closed;
        }
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
        if let Stage::Http2(http2) = std::mem::replace(&mut self.stage, Stage::Linger) {
            http2.abandon();
        }
        self.stage = Stage::Linger;
        connection.set_deadline(server, self.now + LINGER_TIMEOUT);
        Wait::Event
    }

    /// Drops what still comes in until the client closes its side.
    fn linger(&mut self) -> Wait {
        let mut dropped = [0; 4096];
        for _ in 0..TURN {
            match self.socket.read(&mut dropped) {
                Ok(0) => return Wait::Closed,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Wait::Event,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Wait::Closed,
            }
        }
        Wait::Event
    }

    /// The socket takes no more for now.
    fn stall(&mut self, connection: &Connection, server: &Server) {
        self.is_stalled = true;
        let until = self.now + WRITE_TIMEOUT;
        match &mut self.stage {
            Stage::Streaming(streaming) => streaming.stalled_until = until,
            Stage::Http2(http2) => {
                http2.stalled_until = until;
                connection.set_deadline(server, http2.stalled_deadline());
            }
            _ => connection.set_deadline(server, until),
        }
    }

    fn restore_deadline(&self, connection: &Connection, server: &Server) {
        let now = self.now;
        let at = match &self.stage {
            Stage::Waiting(waiting) => waiting.pending.deadline,
            Stage::Head if self.input.is_empty() => now + connection.idle_timeout(),
            Stage::Streaming(_) => now + CHECK_INTERVAL,
            Stage::Http2(http2) => http2.deadline(),
            _ => now + READ_TIMEOUT,
        };
        connection.set_deadline(server, at);
    }

    /// Reads once from the socket. `false` if there is nothing to read now.
    fn receive(&mut self, connection: &Connection, server: &Server) -> io::Result<bool> {
        match self.transport.read(&mut self.socket) {
            Ok(0) => {
                if self.transport.is_handshaking() && self.has_received {
                    let eof = io::ErrorKind::UnexpectedEof.into();
                    connection.fail_handshake(server, &words::of_client_io(&eof));
                }
                self.is_eof = true;
                return Ok(true);
            }
            Ok(_) => self.has_received = true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(e) => {
                if self.transport.is_handshaking() && self.has_received {
                    connection.fail_handshake(server, &words::of_client_io(&e));
                }
                return Err(e);
            }
        }
        let received = match self.transport.process() {
            Ok(received) => received,
            Err(e) => {
                if self.transport.is_handshaking() {
                    connection.fail_handshake(server, &words::of_client(&e));
                }
                // The alert that says why.
                let _ = self.write_out();
                return Err(io::ErrorKind::InvalidData.into());
            }
        };
        let count = received.count;
        if count > 0 {
            let start = self.input.len();
            self.input.resize(start + count, 0);
            self.transport.take(&mut self.input[start..])?;
        }
        if received.is_end {
            self.is_eof = true;
        }
        Ok(true)
    }

    /// Gives the output to the transport and that to the socket. `false` if the socket takes no more now.
    fn flush(&mut self) -> io::Result<bool> {
        loop {
            while self.taken < self.output.len() {
                let count = self.transport.put(&self.output[self.taken..])?;
                if count == 0 {
                    break;
                }
                self.taken += count;
            }
            if !self.write_out()? {
                self.forget_taken();
                return Ok(false);
            }
            if self.taken == self.output.len() {
                if !self.output.is_empty() {
                    self.output = Vec::new();
                    self.taken = 0;
                }
                return Ok(true);
            }
        }
    }

    /// Drops what the transport has taken, if that is most of the output: for a client that is always
    /// behind it never gets empty, and must not grow. The rest is moved, which is why it must be less.
    fn forget_taken(&mut self) {
        if self.taken >= self.output.len() - self.taken {
            self.output.drain(..self.taken);
            self.taken = 0;
        }
    }

    fn write_out(&mut self) -> io::Result<bool> {
        while self.transport.wants_write() {
            match self.transport.write(&mut self.socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
