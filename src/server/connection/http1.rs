//! HTTP/1.1 on a connection: heads, bodies and answers, one request after the other.
//!
//! Each step is a function of the state and the input; reading and writing is left to the parent.

use std::{io, sync::Arc};

use rustls::HandshakeKind;

use super::{Connection, Http2, Inner, MAX_DISCARD, READ_TIMEOUT, Receiving, Stage, Step, Waiting};
use crate::{
    http::{
        Malformed, Method,
        body::BodyReader,
        head::{self, Head},
        reply::{Frame, Reply},
    },
    io::service::{Begun, Handshake, Progress, Request},
    server::Server,
};

impl Inner {
    /// One step of the protocol with the bytes that are there.
    pub(super) fn advance(
        &mut self,
        connection: &Arc<Connection>,
        server: &Server,
    ) -> io::Result<Step> {
        match &mut self.stage {
            Stage::Handshake if self.transport.is_handshaking() => Ok(Step::NeedsInput),
            Stage::Handshake => self.finish_handshake(connection, server),
            Stage::Head => self.read_head(connection, server),
            Stage::Body(_) => self.read_body(connection, server),
            Stage::Waiting(waiting) if !waiting.is_ready => Ok(Step::NeedsReply),
            Stage::Waiting(_) => {
                let Stage::Waiting(waiting) = std::mem::replace(&mut self.stage, Stage::Head)
                else {
                    return Ok(Step::NeedsReply);
                };
                let Waiting { mut request, unread, frame, .. } = *waiting;
                let number = self.requests;
                let progress = request.poll(self.now, &|| connection.waker(number, server));
                Ok(self.give(request, progress, unread, frame, connection, server))
            }
            Stage::Http2(_) => Ok(self.speak_http2(connection, server)),
            Stage::Streaming(_) => self.stream(),
            Stage::Discard(reader, left) => {
                if self.input.is_empty() {
                    return Ok(Step::NeedsInput);
                }
                let step = reader.read(&self.input, |_| {});
                match step {
                    Ok(step) if step.is_complete => {
                        self.consume(step.consumed);
                        self.next_request(connection, server);
                        Ok(Step::Progress)
                    }
                    Ok(step) if step.consumed as u64 <= *left => {
                        *left -= step.consumed as u64;
                        self.consume(step.consumed);
                        Ok(Step::NeedsInput)
                    }
                    // The answer was given already and must not be lost; nothing after it can be
                    // trusted.
                    _ => {
                        self.is_closing = true;
                        Ok(Step::Progress)
                    }
                }
            }
            Stage::Linger | Stage::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn finish_handshake(&mut self, connection: &Connection, server: &Server) -> io::Result<Step> {
        if connection.is_probe {
            self.next_request(connection, server);
            return Ok(Step::Progress);
        }
        let handshake = Handshake {
            chain: self.transport.peer_certificates(),
            is_resumed: self.transport.handshake_kind() == Some(HandshakeKind::Resumed),
            group: self.transport.group(),
        };
        if self.session.established(&handshake).is_err() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if self.transport.speaks_http2() {
            self.stage = Stage::Http2(Box::new(Http2::new(self.now, &mut self.output)));
            connection.set_deadline(server, self.now + READ_TIMEOUT);
            return Ok(Step::Progress);
        }
        self.next_request(connection, server);
        Ok(Step::Progress)
    }

    fn next_request(&mut self, connection: &Connection, server: &Server) {
        self.stage = Stage::Head;
        self.scanned = 0;
        self.empty_lines = 0;
        connection.set_deadline(server, self.now + connection.service.idle_timeout());
    }

    fn consume(&mut self, count: usize) {
        self.input.drain(..count);
    }

    fn read_head(&mut self, connection: &Arc<Connection>, server: &Server) -> io::Result<Step> {
        if self.scanned == 0 {
            match head::skip_empty_lines(&self.input, &mut self.empty_lines) {
                Ok(count) => self.consume(count),
                Err(malformed) => {
                    let path = head::seeming_path(head::seeming_target(&self.input));
                    self.refuse_malformed(malformed, path);
                    return Ok(Step::Progress);
                }
            }
            // The time for a request runs from its first byte, which is not that of an empty line.
            if matches!(self.input[..], [] | [b'\r']) {
                return Ok(Step::NeedsInput);
            }
            connection.set_deadline(server, self.now + READ_TIMEOUT);
        }
        let end = match head::find_end(&self.input, &mut self.scanned) {
            Ok(Some(end)) => end,
            Ok(None) => return Ok(Step::NeedsInput),
            Err(malformed) => {
                let path = head::seeming_path(head::seeming_target(&self.input));
                self.refuse_malformed(malformed, path);
                return Ok(Step::Progress);
            }
        };
        let kept = self.session.kept_header();
        let head = head::parse(&self.input[..end], kept.as_deref()).map_err(|malformed| {
            let target = head::seeming_target(&self.input[..end]);
            (malformed, head::seeming_path(target))
        });
        self.consume(end);
        match head {
            Ok(head) => Ok(self.begin(head, connection, server)),
            Err((malformed, path)) => {
                self.refuse_malformed(malformed, path);
                Ok(Step::Progress)
            }
        }
    }

    /// Answers what is no request, but seems to be one for `path`; there is no way to go on.
    fn refuse_malformed(&mut self, malformed: Malformed, path: String) {
        let frame = Frame { is_http11: true, is_head: false, keep_alive: false };
        self.session.malformed(malformed, path, self.now).write(frame, &mut self.output);
        self.is_closing = true;
    }

    fn begin(&mut self, head: Head, connection: &Arc<Connection>, server: &Server) -> Step {
        self.requests += 1;
        // The metrics may be asked for.
        if head.path == "/v1/metrics" {
            server.count_idle();
        }
        let frame = frame(&head, server);
        let without_go_ahead = frame.without_go_ahead(&head);
        let (framing, expects_continue) = (head.framing, head.expects_continue);
        let chain = self.transport.peer_certificates();
        match self.session.begin(head, chain, self.now) {
            Begun::Answer(reply, is_last) => {
                let keep_alive = without_go_ahead.keep_alive && !is_last;
                let frame = Frame { keep_alive, ..without_go_ahead };
                self.send(&reply, frame, BodyReader::new(framing), connection, server);
                Step::Progress
            }
            Begun::Request(request, max_body) => match BodyReader::new(framing) {
                Some(reader) if max_body > 0 => {
                    let is_too_long =
                        matches!(reader, BodyReader::Length(n) if n > max_body as u64);
                    self.stage = Stage::Body(Box::new(Receiving {
                        request,
                        reader,
                        body: Vec::new(),
                        max_body,
                        frame,
                    }));
                    if is_too_long {
                        self.fail_body(connection, server);
                    } else if expects_continue && self.input.is_empty() {
                        self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                    }
                    Step::Progress
                }
                unread => {
                    let body = Some(&[][..]);
                    self.run(request, body, unread, without_go_ahead, connection, server)
                }
            },
        }
    }

    fn run(
        &mut self,
        mut request: Box<dyn Request>,
        body: Option<&[u8]>,
        unread: Option<BodyReader>,
        frame: Frame,
        connection: &Arc<Connection>,
        server: &Server,
    ) -> Step {
        let number = self.requests;
        let progress = request.run(body, self.now, &|| connection.waker(number, server));
        self.give(request, progress, unread, frame, connection, server)
    }

    fn read_body(&mut self, connection: &Arc<Connection>, server: &Server) -> io::Result<Step> {
        let Stage::Body(receiving) = &mut self.stage else {
            return Ok(Step::NeedsInput);
        };
        let Receiving { reader, body, max_body, .. } = receiving.as_mut();
        let max_body = *max_body;
        let step = reader.read(&self.input, |bytes| {
            let room = (max_body + 1).saturating_sub(body.len());
            let bytes = &bytes[..bytes.len().min(room)];
            body.extend_from_slice(bytes);
        });
        let is_too_long = body.len() > max_body;
        match step {
            Ok(step) if !is_too_long => {
                self.consume(step.consumed);
                if !step.is_complete {
                    if self.is_eof {
                        self.fail_body(connection, server);
                        return Ok(Step::Progress);
                    }
                    return Ok(Step::NeedsInput);
                }
                let stage = std::mem::replace(&mut self.stage, Stage::Head);
                let Stage::Body(receiving) = stage else {
                    return Ok(Step::NeedsInput);
                };
                let Receiving { request, body, frame, .. } = *receiving;
                Ok(self.run(request, Some(&body), None, frame, connection, server))
            }
            _ => {
                self.fail_body(connection, server);
                Ok(Step::Progress)
            }
        }
    }

    /// Answers a request whose body is too long, cut off or malformed, and closes after it.
    pub(super) fn fail_body(&mut self, connection: &Arc<Connection>, server: &Server) {
        if let Stage::Body(receiving) = std::mem::replace(&mut self.stage, Stage::Head) {
            let Receiving { request, frame, .. } = *receiving;
            let frame = Frame { keep_alive: false, ..frame };
            self.run(request, None, None, frame, connection, server);
        }
    }

    /// Sends an answer, or waits for it.
    fn give(
        &mut self,
        request: Box<dyn Request>,
        progress: Progress,
        unread: Option<BodyReader>,
        frame: Frame,
        connection: &Connection,
        server: &Server,
    ) -> Step {
        match progress {
            Progress::Reply(reply) => {
                self.send(&reply, frame, unread, connection, server);
                Step::Progress
            }
            Progress::Wait => {
                connection.set_deadline(server, request.deadline());
                let waiting = Waiting { request, is_ready: false, unread, frame };
                self.stage = Stage::Waiting(Box::new(waiting));
                Step::NeedsReply
            }
            Progress::Lines => self.open_stream(request, frame, connection, server),
        }
    }

    fn send(
        &mut self,
        reply: &Reply,
        frame: Frame,
        unread: Option<BodyReader>,
        connection: &Connection,
        server: &Server,
    ) {
        let is_small = !matches!(unread, Some(BodyReader::Length(n)) if n > MAX_DISCARD);
        let frame =
            Frame { keep_alive: frame.keep_alive && is_small && !server.is_draining(), ..frame };
        reply.write(frame, &mut self.output);
        self.is_closing = !frame.keep_alive;
        self.next_request(connection, server);
        if let Some(reader) = unread {
            self.stage = Stage::Discard(reader, MAX_DISCARD);
            connection.set_deadline(server, self.now + READ_TIMEOUT);
        }
    }
}

/// The frame of the answer to `head`.
fn frame(head: &Head, server: &Server) -> Frame {
    Frame {
        is_http11: head.is_http11,
        is_head: head.method == Method::Head,
        keep_alive: head.keep_alive && !server.is_draining(),
    }
}
