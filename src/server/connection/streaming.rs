//! Answers that are log streams, and connections of HTTP/1.1 that have one.
//!
//! A thread of the log hands over blocks of lines. In HTTP/1.1 it writes what the socket takes at once; a
//! worker goes on only if the socket was full. In HTTP/2, where other requests share the connection, it
//! leaves that to a worker. The blocks are shared by all subscribers, so a queue holds references.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use rustls_pki_types::{CertificateDer, UnixTime};

use super::{Connection, Inner, Stage, Step, Wait};
use crate::{
    http::{Frame, LAST_CHUNK, put_chunk, reply::Reply},
    log::{Stream, Subscriber, Subscription},
    server::{Server, exchange::Exchange, peer::Peer, proxy::Forwarded},
};

/// Whether a client may still see its stream is looked at this often.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Lines that wait for one client to read, in bytes; who has more is sent away.
const MAX_QUEUE: usize = 1 << 20;
/// What the kernel may keep of a stream for its client, in bytes.
const SEND_BUFFER: usize = 128 * 1024;

/// A log stream to a client.
pub(super) struct Streaming {
    queue: VecDeque<Arc<[u8]>>,
    queued: usize,
    /// The lines are sent in chunks, as HTTP/1.1 has them.
    is_chunked: bool,
    /// A client that does not read is sent away then.
    pub(super) stalled_until: Instant,
    subscription: Subscription,
    identity: Arc<str>,
    path: String,
}

impl Streaming {
    /// Answers the request with this number with `stream`, which begins with the audit event of the
    /// request itself.
    pub(super) fn new(
        exchange: Exchange,
        stream: Stream,
        request: u64,
        now: Instant,
        connection: &Arc<Connection>,
        server: &Server,
    ) -> Self {
        let (identity, path) = exchange.subject();
        let receiver =
            Receiver { connection: Arc::downgrade(connection), server: server.me(), request };
        Self {
            queue: VecDeque::new(),
            queued: 0,
            is_chunked: false,
            stalled_until: now,
            subscription: exchange.subscribe(stream, Box::new(receiver)),
            identity,
            path,
        }
    }

    /// Queues `lines`. `false` if there is no room for them.
    fn push(&mut self, lines: &Arc<[u8]>) -> bool {
        let has_room = self.queued + lines.len() <= MAX_QUEUE;
        if has_room {
            self.subscription.count_events(lines);
            self.queue.push_back(lines.clone());
            self.queued += lines.len();
        }
        has_room
    }

    /// The block that is to be sent next.
    pub(super) fn next(&mut self) -> Option<Arc<[u8]>> {
        let block = self.queue.pop_front()?;
        self.queued -= block.len();
        Some(block)
    }

    /// Whether nothing is queued.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Counts a client that is sent away because it does not keep up.
    pub(super) fn count_drop(&self) {
        self.subscription.count_drop();
    }

    /// Whether the client would still be let in: the other end of the connection, which showed
    /// `chain`, or whom it speaks for.
    pub(super) fn may_go_on(
        &self,
        peer: &mut Peer,
        chain: &[CertificateDer<'_>],
        forwarded: &mut Option<Box<Forwarded>>,
        server: &Server,
        now: UnixTime,
    ) -> bool {
        server.may_stay(peer, chain, forwarded, &self.identity, &self.path, now)
    }
}

/// The log's end of a stream.
struct Receiver {
    connection: Weak<Connection>,
    server: Weak<Server>,
    request: u64,
}

impl Subscriber for Receiver {
    fn publish(&self, lines: &Arc<[u8]>) -> bool {
        self.ends().is_some_and(|(connection, server)| {
            let publish = |inner: &mut _| connection.publish(inner, &server, self.request, lines);
            connection.with(&server, publish).unwrap_or(false)
        })
    }

    fn is_open(&self) -> bool {
        self.connection.strong_count() > 0
    }

    fn end(&self, is_complete: bool) {
        if let Some((connection, server)) = self.ends() {
            connection.with(&server, |inner| {
                if let Stage::Http2(http2) = &mut inner.stage {
                    http2.end_stream(self.request, is_complete);
                    inner.wake(&server);
                    return;
                }
                match is_complete {
                    true => inner.end_stream(&connection, &server),
                    false => connection.send_away(inner, &server),
                }
            });
        }
    }
}

impl Receiver {
    fn ends(&self) -> Option<(Arc<Connection>, Arc<Server>)> {
        Some((self.connection.upgrade()?, self.server.upgrade()?))
    }
}

impl Connection {
    /// Queues `lines` for the request with this number. `false` if the stream has ended.
    fn publish(
        self: &Arc<Self>,
        inner: &mut Inner,
        server: &Server,
        request: u64,
        lines: &Arc<[u8]>,
    ) -> bool {
        if let Stage::Http2(http2) = &mut inner.stage {
            let Some(streaming) = http2.streaming(request) else {
                return false;
            };
            let has_room = streaming.push(lines);
            if !has_room {
                http2.end_stream(request, false);
            }
            inner.wake(server);
            return has_room;
        }
        let Stage::Streaming(streaming) = &mut inner.stage else {
            return false;
        };
        if !streaming.push(lines) {
            self.send_away(inner, server);
            return false;
        }
        if !inner.is_stalled {
            inner.now = Instant::now();
            match inner.write_stream() {
                Ok(true) => {}
                Ok(false) => {
                    inner.stall(self, server);
                    self.watch(inner, server);
                }
                Err(_) => {
                    self.close(inner, server);
                    return false;
                }
            }
        }
        true
    }

    /// Ends a stream that can't be complete, so that the client sees that.
    fn send_away(&self, inner: &mut Inner, server: &Server) {
        if let Stage::Streaming(streaming) = &inner.stage {
            streaming.count_drop();
            self.close(inner, server);
        }
    }
}

impl Inner {
    /// Answers a request with a stream.
    pub(super) fn open_stream(
        &mut self,
        exchange: Exchange,
        stream: Stream,
        frame: Frame,
        connection: &Arc<Connection>,
        server: &Server,
    ) -> Step {
        let frame = Frame { keep_alive: false, ..frame };
        Reply::open_stream().write(frame, &mut self.output);
        // Keeps what a client that does not read can make the kernel hold within bounds. Where it
        // can't be set, the bounds are those of the system.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&self.socket, SEND_BUFFER);
        let request = self.requests;
        let streaming = Streaming {
            is_chunked: frame.is_http11,
            ..Streaming::new(exchange, stream, request, self.now, connection, server)
        };
        self.stage = Stage::Streaming(Box::new(streaming));
        connection.set_deadline(server, self.now + CHECK_INTERVAL);
        Step::Progress
    }

    /// Moves one block of the queue to the output. What the client sends is of no interest.
    pub(super) fn stream(&mut self) -> Step {
        self.input = Vec::new();
        let Stage::Streaming(streaming) = &mut self.stage else {
            return Step::NeedsInput;
        };
        let Some(block) = streaming.next() else {
            return Step::NeedsInput;
        };
        match streaming.is_chunked {
            true => put_chunk(&block, &mut self.output),
            false => self.output.extend_from_slice(&block),
        }
        Step::Progress
    }

    /// Writes the queue as far as the socket takes it. `false` if it is full.
    fn write_stream(&mut self) -> io::Result<bool> {
        while self.flush()? {
            if !matches!(self.stream(), Step::Progress) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What the sweeper does: sends a client away that does not read, or that would not be let in
    /// any more.
    pub(super) fn check_stream(
        &mut self,
        connection: &Arc<Connection>,
        server: &Server,
        now: Instant,
    ) {
        let Stage::Streaming(streaming) = &self.stage else {
            return;
        };
        if self.is_stalled && now >= streaming.stalled_until {
            connection.send_away(self, server);
            return;
        }
        let chain = self.transport.peer_certificates();
        let forwarded = &mut self.forwarded;
        let may_stay = self.peer.as_mut().is_some_and(|peer| {
            streaming.may_go_on(peer, chain, forwarded, server, UnixTime::now())
        });
        if may_stay {
            connection.set_deadline(server, now + CHECK_INTERVAL);
        } else {
            self.end_stream(connection, server);
        }
    }

    /// Sends what is queued and closes.
    fn end_stream(&mut self, connection: &Arc<Connection>, server: &Server) {
        while matches!(self.stream(), Step::Progress) {}
        let Stage::Streaming(streaming) = &self.stage else {
            return;
        };
        if streaming.is_chunked {
            self.output.extend_from_slice(LAST_CHUNK);
        }
        self.is_closing = true;
        // The subscription ends here, whatever the client does.
        self.stage = Stage::Head;
        if self.is_stalled {
            self.now = Instant::now();
            self.stall(connection, server);
        } else {
            let wait = self.turn(connection, server).unwrap_or(Wait::Closed);
            connection.settle(self, server, wait);
        }
    }
}
