//! One client connection: handshake, requests, goodbye; driven by the worker that owns it.
//!
//! A connection never waits: a turn does what can be done with the bytes that are there. What it waits for
//! after that, and until when, follows from its state, in [`Inner::interest`] and [`Inner::deadline`].

use std::{
    io,
    net::Shutdown,
    sync::{
        Arc, PoisonError, TryLockError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Wake, Waker},
    time::{Duration, Instant},
};

use rustls::HandshakeKind;

use super::{
    Sockets,
    dialog::{Dialog, Next, TURN},
    listener::Listener,
    poller::{Interest, Place, Watch},
    service::{Handshake, NotAccepted, Session},
    socket::Socket,
    stream::{LINGER_TIMEOUT, READ_TIMEOUT, WRITE_TIMEOUT},
    transport::Transport,
    turn::Turn,
    wire::{Received, Wire},
};
use crate::{
    base::{clock, panics::survive, sync::Mutex},
    http::{Code, Engine},
    log::Cause,
    metrics::Event,
};

/// When the server drains, a client that has connected so lately may still send its first request.
const FRESH: Duration = Duration::from_secs(1);

pub struct Connection {
    pub token: u64,
    pub listener: Arc<Listener>,
    sockets: Arc<Sockets>,
    /// When the sweeper must look, in milliseconds since the start of the server.
    deadline: AtomicU64,
    place: Place,
    inner: Mutex<Inner>,
}

struct Inner {
    wire: Wire,
    watch: Watch,
    session: Box<dyn Session>,
    phase: Phase,
    since: Instant,
    /// No more requests: it is closed when the output is written.
    is_closing: bool,
}

/// ```text
///  Handshake ──▶ Open ──▶ Linger ──▶ Closed
/// ```
///
/// Each may go to `Closed`.
enum Phase {
    Handshake,
    Open(Box<Dialog>),
    /// The last answer and the goodbye are written, or the alert; the client may still be sending.
    Linger,
    Closed,
}

#[derive(PartialEq, Eq)]
enum End {
    /// There is nothing to do but wait.
    Rest,
    /// There is more to do, after the others had their turns.
    Again,
    Closed,
}

impl Connection {
    pub fn new(
        token: u64,
        socket: Socket,
        transport: Transport,
        session: Box<dyn Session>,
        listener: Arc<Listener>,
        sockets: Arc<Sockets>,
    ) -> Self {
        let now = clock::now();
        Self {
            token,
            listener,
            deadline: AtomicU64::new(sockets.millis(now + READ_TIMEOUT)),
            sockets,
            place: Place::new(token),
            inner: Mutex::new(Inner {
                wire: Wire::new(socket, transport),
                watch: Watch::default(),
                session,
                phase: Phase::Handshake,
                since: now,
                is_closing: false,
            }),
        }
    }

    /// How every thread touches a connection. If `action` panics, the connection is closed, what it was
    /// asked for is audited, and the thread goes on.
    fn with<T>(&self, action: impl FnOnce(&mut Inner) -> T) -> Option<T> {
        self.guard(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner), action)
    }

    fn guard<T>(&self, inner: &mut Inner, action: impl FnOnce(&mut Inner) -> T) -> Option<T> {
        let done = survive(|| action(inner));
        if done.is_none() {
            inner.phase = Phase::Closed;
            self.settle(inner, End::Closed);
        }
        done
    }

    pub fn register(&self) -> io::Result<()> {
        let register = |inner: &mut Inner| {
            self.sockets.poller.register(&self.place, &mut inner.watch, &inner.wire.socket)
        };
        self.with(register).unwrap_or_else(|| Err(io::ErrorKind::NotConnected.into()))
    }

    /// Whether the sweeper must look at `now` (milliseconds since the start of the server).
    pub fn is_due(&self, now: u64) -> bool {
        now >= self.deadline.load(Ordering::Relaxed)
    }

    /// Whether it waits for its next request. A connection that a worker is processing does not.
    pub fn is_idle(&self) -> bool {
        self.inner.try_lock().is_ok_and(|inner| inner.is_idle())
    }

    /// Whether the end of the server waits for it.
    pub fn is_counted(&self) -> bool {
        self.listener.is_ending()
    }

    /// Whether log streams are all that goes on. A connection that a worker is processing is skipped.
    pub fn only_follows(&self) -> bool {
        self.inner
            .try_lock()
            .is_ok_and(|inner| matches!(&inner.phase, Phase::Open(dialog) if dialog.only_follows()))
    }

    pub fn drive(self: &Arc<Self>) {
        self.with(|inner| {
            self.place.begin_turn();
            self.take_turn(inner);
            if !matches!(inner.phase, Phase::Closed) {
                let (poller, socket) = (&self.sockets.poller, &inner.wire.socket);
                self.check(poller.end_turn(&self.place, &mut inner.watch, socket));
            }
        });
    }

    /// Moves to another worker, unless one is processing it.
    pub fn hand_over(&self, worker: usize) {
        if let Ok(mut inner) = self.inner.try_lock() {
            let Inner { watch, wire, .. } = &mut *inner;
            let poller = &self.sockets.poller;
            self.check(poller.hand_over(&self.place, watch, &wire.socket, worker));
        }
    }

    /// A socket that the poller can't watch: the sweeper ends the connection at its deadline.
    fn check(&self, watched: io::Result<()>) {
        if let Err(e) = watched {
            self.sockets.log.error_from_outside(Cause::Connection, || {
                format!("failed to watch a connection: {e}")
            });
        }
    }

    fn take_turn(self: &Arc<Self>, inner: &mut Inner) {
        let end = inner.turn(self).unwrap_or(End::Closed);
        self.settle(inner, end);
    }

    /// Draws the conclusions from the state of the connection, after each change of it.
    fn settle(&self, inner: &mut Inner, end: End) {
        let sockets = &self.sockets;
        if end == End::Closed {
            inner.close();
        }
        let interest = inner.interest();
        let Inner { watch, wire, .. } = inner;
        if matches!(inner.phase, Phase::Closed) {
            sockets.poller.leave(&self.place, watch, &wire.socket);
            let _ = wire.socket.shutdown(Shutdown::Both);
            sockets.registry.remove(self.token);
            return;
        }
        self.check(sockets.poller.set_interest(&self.place, watch, &wire.socket, interest));
        if let Some(deadline) = inner.deadline(&self.listener) {
            self.deadline.store(sockets.millis(deadline), Ordering::Relaxed);
        }
        if end == End::Again {
            sockets.poller.wake(&self.place);
        }
    }

    /// The sweeper has seen that the deadline has passed.
    pub fn on_deadline(self: &Arc<Self>, now: Instant) {
        let is_due = || self.is_due(self.sockets.millis(now));
        self.with(|inner| {
            // A worker may have moved the deadline while the lock was waited for. What came in time may wait in the
            // socket for a worker that is busy with others.
            if is_due() {
                self.take_turn(inner);
            }
            if is_due() && !matches!(inner.phase, Phase::Closed) {
                match inner.expire(self, now) {
                    Ok(()) => self.take_turn(inner),
                    Err(_) => self.settle(inner, End::Closed),
                }
            }
        });
    }

    /// Closes the connection if it is idle and not fresh, and else after the answers it still owes; `at_once`
    /// closes it in any case. A connection that a worker is processing is skipped.
    pub fn drain(self: &Arc<Self>, at_once: bool) {
        let mut inner = match self.inner.try_lock() {
            Ok(inner) => inner,
            Err(TryLockError::Poisoned(inner)) => inner.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let now = clock::now();
        self.guard(&mut inner, |inner| match &inner.phase {
            _ if at_once => self.settle(inner, End::Closed),
            _ if inner.is_fresh(now) => {}
            Phase::Handshake => {
                let end = inner.hang_up(now);
                self.settle(inner, end);
            }
            Phase::Open(_) => self.take_turn(inner),
            Phase::Linger | Phase::Closed => {}
        });
    }
}

struct Wakeup(Weak<Connection>);

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        if let Some(connection) = self.0.upgrade() {
            connection.sockets.poller.wake(&connection.place);
        }
    }
}

impl Inner {
    fn interest(&self) -> Interest {
        match &self.phase {
            Phase::Closed => Interest::Wake,
            Phase::Linger => Interest::Read,
            _ if self.wire.stalled_since.is_some() => Interest::Write,
            Phase::Handshake => Interest::Read,
            Phase::Open(dialog) if dialog.wants_input() && !self.wire.is_eof => Interest::Read,
            Phase::Open(_) => Interest::Wake,
        }
    }

    fn deadline(&self, listener: &Listener) -> Option<Instant> {
        let stalled = self.wire.stalled_since.map(|since| since + WRITE_TIMEOUT);
        match &self.phase {
            Phase::Handshake => Some(self.since + READ_TIMEOUT),
            Phase::Open(dialog) => {
                let dialog = dialog.deadline(listener.service.idle_timeout(), stalled.is_some());
                stalled.into_iter().chain(dialog).min()
            }
            Phase::Linger => Some(self.since + LINGER_TIMEOUT),
            Phase::Closed => None,
        }
    }

    /// Whether it is between two requests and owes no answer.
    fn is_idle(&self) -> bool {
        matches!(&self.phase, Phase::Open(dialog) if dialog.is_idle())
            && self.wire.input.is_empty()
            && self.wire.stalled_since.is_none()
    }

    /// Whether the client has just connected, and has still to send its first request.
    fn is_fresh(&self, now: Instant) -> bool {
        let has_begun = match &self.phase {
            Phase::Handshake => false,
            Phase::Open(dialog) => dialog.has_begun(),
            Phase::Linger | Phase::Closed => true,
        };
        !has_begun && now < self.since + FRESH
    }

    /// Reads, answers and writes until there is nothing left to do without waiting.
    fn turn(&mut self, connection: &Arc<Connection>) -> io::Result<End> {
        if matches!(self.phase, Phase::Linger) {
            return Ok(if self.wire.discard() { End::Rest } else { End::Closed });
        }
        // One look at the clock for the whole turn, which never waits.
        let now = clock::now();
        let mut has_written = false;
        let begun = |phase: &Phase| match phase {
            Phase::Open(dialog) => dialog.begun(),
            _ => 0,
        };
        let end = begun(&self.phase) + TURN;
        for _ in 0..TURN {
            let mut has_more = false;
            if !self.is_closing {
                has_more = self.advance(connection, now)?;
            }
            has_written |= self.wire.has_output();
            if !self.wire.flush(now)? {
                return Ok(End::Rest);
            }
            if self.is_closing {
                return Ok(self.hang_up(now));
            }
            if has_more && begun(&self.phase) >= end {
                break;
            }
            if has_more {
                continue;
            }
            if let Phase::Open(dialog) = &mut self.phase {
                if !dialog.wants_input() || self.wire.is_eof && dialog.is_waiting() {
                    // A client that has only closed its write side still gets its pending answer.
                    return Ok(End::Rest);
                }
                dialog.rest();
            }
            if self.wire.is_eof {
                return Ok(End::Closed);
            }
            // A client that was just answered has not sent more yet: the poller will tell, a read would
            // not.
            if has_written {
                return Ok(self.rest(&connection.sockets, now));
            }
            let session = &mut self.session;
            match self.wire.receive(|reason| session.handshake_failed(reason))? {
                Received::Some => {}
                Received::Nothing => return Ok(self.rest(&connection.sockets, now)),
                Received::Nonsense => return Ok(self.linger(now)),
            }
        }
        // The turn is over but the work is not.
        Ok(End::Again)
    }

    /// One step with the bytes that are there. `true` if there is more to do when the output is written.
    fn advance(&mut self, connection: &Arc<Connection>, now: Instant) -> io::Result<bool> {
        match &self.phase {
            Phase::Handshake if self.wire.transport.is_handshaking() => Ok(false),
            Phase::Handshake => {
                self.finish_handshake(now)?;
                Ok(true)
            }
            Phase::Open(_) => {
                let (used, next) =
                    self.talk(connection, now, |dialog, input, turn| dialog.drive(input, turn))?;
                self.wire.input.drain(..used);
                self.go_on(&next, &connection.sockets)
            }
            Phase::Linger | Phase::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The session decides about the client, TLS about the version of HTTP.
    fn finish_handshake(&mut self, now: Instant) -> io::Result<()> {
        let transport = &self.wire.transport;
        let handshake = Handshake {
            chain: transport.peer_certificates(),
            is_resumed: transport.handshake_kind() == Some(HandshakeKind::Resumed),
            group: transport.group(),
        };
        let refused = |NotAccepted| io::ErrorKind::InvalidData;
        self.session.established(&handshake).map_err(refused)?;
        let engine = match transport.speaks_http2() {
            true => Engine::two(now, &mut self.wire.output.bytes),
            false => Engine::one(),
        };
        self.phase = Phase::Open(Box::new(Dialog::new(engine, now)));
        Ok(())
    }

    /// Lends the dialog what it needs.
    fn talk<T>(
        &mut self,
        connection: &Arc<Connection>,
        now: Instant,
        action: impl FnOnce(&mut Dialog, &[u8], &mut Turn<'_>) -> T,
    ) -> io::Result<T> {
        let is_fresh = self.is_fresh(now);
        let Phase::Open(dialog) = &mut self.phase else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let wire = &mut self.wire;
        let mut turn = Turn {
            session: &mut *self.session,
            chain: wire.transport.peer_certificates(),
            socket: &wire.socket,
            output: &mut wire.output,
            waker: &|| Waker::from(Arc::new(Wakeup(Arc::downgrade(connection)))),
            now,
            is_eof: wire.is_eof,
            is_draining: connection.sockets.is_draining(),
            is_fresh,
            is_broken: false,
        };
        Ok(action(dialog, &wire.input, &mut turn))
    }

    /// `true` if there is more to do when the output is written.
    fn go_on(&mut self, next: &Next, sockets: &Sockets) -> io::Result<bool> {
        match next {
            Next::Wait => return Ok(false),
            Next::GoOn => {}
            Next::Break => return Err(io::ErrorKind::ConnectionAborted.into()),
            Next::Close(code) => {
                if *code == Code::EnhanceYourCalm {
                    sockets.metrics.count(Event::Http2Flood);
                }
                self.is_closing = true;
            }
        }
        Ok(true)
    }

    fn rest(&mut self, sockets: &Sockets, now: Instant) -> End {
        if self.wire.input.is_empty() {
            self.wire.input = Vec::new();
        }
        if !sockets.is_draining() || !self.is_idle() || self.is_fresh(now) {
            return End::Rest;
        }
        match &self.phase {
            // The drain began during this turn.
            Phase::Open(dialog) if dialog.owes_goodbye() => End::Again,
            _ => self.hang_up(now),
        }
    }

    /// Says goodbye and waits a moment for the client to do the same.
    fn hang_up(&mut self, now: Instant) -> End {
        match self.wire.say_goodbye() {
            true => self.linger(now),
            false => End::Closed,
        }
    }

    /// Closes this side, and waits a moment for the client to do the same: to close a socket with unread
    /// bytes would throw away what is still on its way to the client, be it an answer or an alert.
    fn linger(&mut self, now: Instant) -> End {
        let _ = self.wire.socket.shutdown(Shutdown::Write);
        self.close();
        (self.phase, self.since) = (Phase::Linger, now);
        End::Rest
    }

    /// Ends whatever is past its deadline. A turn must follow.
    fn expire(&mut self, connection: &Arc<Connection>, now: Instant) -> io::Result<()> {
        let timed_out = Err(io::ErrorKind::TimedOut.into());
        match &mut self.phase {
            Phase::Handshake => {
                if self.wire.has_received {
                    self.session.handshake_failed("tls: handshake timed out");
                }
                timed_out
            }
            Phase::Open(dialog) => {
                let is_stalled = self.wire.stalled_since;
                if is_stalled.is_some_and(|since| now >= since + WRITE_TIMEOUT) {
                    dialog.count_drops();
                    return timed_out;
                }
                let idle_timeout = connection.listener.service.idle_timeout();
                let next = self.talk(connection, now, |dialog, _, turn| {
                    dialog.expire(idle_timeout, is_stalled.is_some(), turn)
                })?;
                self.go_on(&next, &connection.sockets).map(drop)
            }
            Phase::Linger => timed_out,
            Phase::Closed => Ok(()),
        }
    }

    /// Ends what is under way where nobody will hear the answers; it is audited all the same.
    fn close(&mut self) {
        if let Phase::Open(dialog) = std::mem::replace(&mut self.phase, Phase::Closed) {
            dialog.abandon(clock::now());
        }
        self.wire.input = Vec::new();
    }
}
