//! A connection whose answer is a log stream.
//!
//! A thread of the log hands it blocks of lines and writes what the socket takes at once; a worker goes on
//! only if the socket was full. The blocks are shared by all subscribers, so a queue holds references.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use rustls_pki_types::UnixTime;
use zeroize::Zeroize as _;

use super::{Connection, Inner, Stage, Step, Wait};
use crate::{
    http::reply::{Frame, LAST_CHUNK, Reply, chunk},
    log::{Stream, Subscriber, Subscription},
    server::{Server, exchange::Exchange},
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

/// The log's end of a stream.
struct Receiver {
    connection: Weak<Connection>,
    server: Weak<Server>,
}

impl Subscriber for Receiver {
    fn publish(&self, lines: &Arc<[u8]>) -> bool {
        self.ends()
            .is_some_and(|(connection, server)| connection.publish(&server, lines))
    }

    fn is_open(&self) -> bool {
        self.connection.strong_count() > 0
    }

    fn end(&self, is_complete: bool) {
        if let Some((connection, server)) = self.ends() {
            let inner = &mut *connection.lock();
            match is_complete {
                true => inner.end_stream(&connection, &server),
                false => connection.send_away(inner, &server),
            }
        }
    }
}

impl Receiver {
    fn ends(&self) -> Option<(Arc<Connection>, Arc<Server>)> {
        Some((self.connection.upgrade()?, self.server.upgrade()?))
    }
}

impl Connection {
    /// Queues `lines` and writes what the socket takes. `false` if the stream has ended.
    fn publish(self: &Arc<Self>, server: &Server, lines: &Arc<[u8]>) -> bool {
        let inner = &mut *self.lock();
        let Stage::Streaming(streaming) = &mut inner.stage else {
            return false;
        };
        if streaming.queued + lines.len() > MAX_QUEUE {
            self.send_away(inner, server);
            return false;
        }
        streaming.subscription.count_events(lines);
        streaming.queue.push_back(lines.clone());
        streaming.queued += lines.len();
        if !inner.is_stalled {
            inner.now = Instant::now();
            match inner.write_stream() {
                Ok(true) => {}
                Ok(false) => {
                    inner.stall(self, server);
                    server.arm(self, &inner.socket, Wait::Writable);
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
            streaming.subscription.count_drop();
            self.close(inner, server);
        }
    }
}

impl Inner {
    /// Answers a request with a stream that begins with the audit event of the request itself.
    pub(super) fn open_stream(
        &mut self,
        exchange: Exchange,
        stream: Stream,
        frame: Frame,
        connection: &Arc<Connection>,
        server: &Server,
    ) -> Step {
        let frame = Frame {
            keep_alive: false,
            ..frame
        };
        Reply::open_stream().write(frame, &mut self.output);
        // Keeps what a client that does not read can make the kernel hold within bounds. Where it
        // can't be set, the bounds are those of the system.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&self.socket, SEND_BUFFER);
        let (identity, path) = exchange.subject();
        let receiver = Receiver {
            connection: Arc::downgrade(connection),
            server: server.me(),
        };
        let streaming = Streaming {
            queue: VecDeque::new(),
            queued: 0,
            is_chunked: frame.is_http11,
            stalled_until: self.now,
            subscription: exchange.subscribe(stream, Box::new(receiver)),
            identity,
            path,
        };
        self.stage = Stage::Streaming(Box::new(streaming));
        connection.set_deadline(server, self.now + CHECK_INTERVAL);
        Step::Progress
    }

    /// Moves one block of the queue to the output. What the client sends is of no interest.
    pub(super) fn stream(&mut self) -> Step {
        self.input.zeroize();
        let Stage::Streaming(streaming) = &mut self.stage else {
            return Step::NeedsInput;
        };
        let Some(block) = streaming.queue.pop_front() else {
            return Step::NeedsInput;
        };
        streaming.queued -= block.len();
        match streaming.is_chunked {
            true => chunk(&block, &mut self.output),
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
            let (identity, path) = (&streaming.identity, &streaming.path);
            server.may_stay(peer, chain, forwarded, identity, path, UnixTime::now())
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
