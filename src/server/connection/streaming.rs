//! Connections of HTTP/1.1 whose answer is a log stream.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Connection, Inner, Stage, Step, Wait};
use crate::{
    http::reply::{Frame, LAST_CHUNK, Reply, chunk},
    io::service::{Lines, Request},
    server::Server,
};

/// How often a connection checks whether its client may still see its log streams.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// What the kernel may keep of a stream for its client, in bytes.
const SEND_BUFFER: usize = 128 * 1024;

/// A log stream to a client.
pub(super) struct Streaming {
    request: Box<dyn Request>,
    /// The lines are sent in chunks, as HTTP/1.1 has them.
    is_chunked: bool,
    /// A client that does not read is disconnected then.
    pub(super) stalled_until: Instant,
}

impl Inner {
    /// Answers a request with a stream.
    pub(super) fn open_stream(
        &mut self,
        request: Box<dyn Request>,
        frame: Frame,
        connection: &Connection,
        server: &Server,
    ) -> Step {
        let frame = Frame { keep_alive: false, ..frame };
        Reply::open_stream().write(frame, &mut self.output);
        // Bounds what a client that does not read can make the kernel hold. Where it can't be set, the
        // system has bounds of its own.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&self.socket, SEND_BUFFER);
        let is_chunked = frame.is_http11;
        let streaming = Streaming { request, is_chunked, stalled_until: self.now };
        self.stage = Stage::Streaming(Box::new(streaming));
        connection.set_deadline(server, self.now + CHECK_INTERVAL);
        Step::Progress
    }

    /// Moves the next lines to the output. What the client sends is of no interest.
    pub(super) fn stream(&mut self) -> std::io::Result<Step> {
        self.input = Vec::new();
        let Stage::Streaming(streaming) = &mut self.stage else {
            return Ok(Step::NeedsInput);
        };
        match streaming.request.next_lines() {
            Lines::Nothing => return Ok(Step::NeedsInput),
            Lines::Block(block) if streaming.is_chunked => chunk(&block, &mut self.output),
            Lines::Block(block) => self.output.extend_from_slice(&block),
            Lines::End => self.end_stream(),
            Lines::CutOff => return Err(std::io::ErrorKind::TimedOut.into()),
        }
        Ok(Step::Progress)
    }

    fn end_stream(&mut self) {
        let Stage::Streaming(streaming) = &self.stage else {
            return;
        };
        if streaming.is_chunked {
            self.output.extend_from_slice(LAST_CHUNK);
        }
        self.is_closing = true;
        // The subscription ends here, whatever the client does.
        self.stage = Stage::Head;
    }

    /// What the sweeper does: disconnects a client that does not read, or that may not see the stream
    /// any more.
    pub(super) fn check_stream(
        &mut self,
        connection: &Arc<Connection>,
        server: &Server,
        now: Instant,
    ) {
        let Stage::Streaming(streaming) = &mut self.stage else {
            return;
        };
        if self.is_stalled && now >= streaming.stalled_until {
            streaming.request.count_drop();
            connection.close(self, server);
            return;
        }
        if streaming.request.may_go_on(self.transport.peer_certificates()) {
            connection.set_deadline(server, now + CHECK_INTERVAL);
            return;
        }
        // What is queued may still be seen.
        while let Stage::Streaming(_) = &self.stage {
            match self.stream() {
                Ok(Step::Progress) => {}
                _ => self.end_stream(),
            }
        }
        if self.is_stalled {
            self.now = Instant::now();
            self.stall(connection, server);
        } else {
            let wait = self.turn(connection, server).unwrap_or(Wait::Closed);
            connection.settle(self, server, wait);
        }
    }
}
