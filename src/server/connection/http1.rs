//! HTTP/1.1 on a connection: heads, bodies and answers, one request after the other.
//!
//! Each step is a function of the state and the input; reading and writing is left to the parent.

use std::{io, sync::Arc};

use rustls::HandshakeKind;
use rustls_pki_types::UnixTime;

use super::Http2;
use super::{Connection, Inner, MAX_DISCARD, READ_TIMEOUT, Receiving, Stage, Step, Waiting};
use crate::{
    http::{
        Frame, Malformed, Method,
        body::BodyReader,
        head::{self, Head},
        reply::Reply,
    },
    metrics::Event,
    server::{
        Server, State, exchange::Exchange, failure::Failure, peer::Peer, pending::Answer,
        pipeline::Admission, probe,
    },
    tls::words,
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
            Stage::Waiting(waiting) if !waiting.pending.is_answered() => Ok(Step::NeedsReply),
            Stage::Waiting(_) => {
                let Stage::Waiting(waiting) = std::mem::replace(&mut self.stage, Stage::Head)
                else {
                    return Ok(Step::NeedsReply);
                };
                let Waiting { pending, unread, frame } = *waiting;
                let request = self.requests;
                let answer = pending.finish(server, &|| connection.address(request));
                Ok(self.give(answer, unread, frame, connection, server))
            }
            Stage::Http2(_) => Ok(self.speak_http2(connection, server)),
            Stage::Streaming(_) => Ok(self.stream()),
            Stage::Discard(reader, left) => {
                if self.input.is_empty() {
                    return Ok(Step::NeedsInput);
                }
                let step = reader.read_all(&self.input, |_| {});
                match step {
                    Ok((consumed, true)) => {
                        self.consume(consumed);
                        self.next_request(connection, server);
                        Ok(Step::Progress)
                    }
                    Ok((consumed, false)) if consumed as u64 <= *left => {
                        *left -= consumed as u64;
                        self.consume(consumed);
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

    /// Finds out who the client is. A resumed session brings the old certificate along unchecked,
    /// so it is checked here.
    fn finish_handshake(&mut self, connection: &Connection, server: &Server) -> io::Result<Step> {
        if connection.is_probe {
            self.next_request(connection, server);
            return Ok(Step::Progress);
        }
        let state = server.state();
        let chain = self.transport.peer_certificates();
        let is_resumed = self.transport.handshake_kind() == Some(HandshakeKind::Resumed);
        // A full handshake was checked by the trust that it began with, a resumed one is by that of
        // now; requests compare with the latest.
        let (checked, generation) = match is_resumed {
            true => (state.trust.verify(chain, UnixTime::now()), state.trust_generation),
            false => (Ok(()), connection.trust_generation),
        };
        let peer =
            checked.map_err(|e| words::of_client(&e)).and_then(|()| Peer::new(chain, generation));
        match peer {
            Ok(peer) => self.peer = Some(peer),
            Err(reason) => {
                connection.fail_handshake(server, &reason);
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        server.metrics.count(match is_resumed {
            true => Event::ResumedHandshake,
            false => Event::FullHandshake,
        });
        if let Some(group) = self.transport.group() {
            server.metrics.count(Event::KeyExchange(group));
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
        connection.set_deadline(server, self.now + connection.idle_timeout());
    }

    fn consume(&mut self, count: usize) {
        self.input.drain(..count);
    }

    fn read_head(&mut self, connection: &Arc<Connection>, server: &Server) -> io::Result<Step> {
        if self.scanned == 0 {
            match head::skip_empty_lines(&self.input, &mut self.empty_lines) {
                Ok(count) => self.consume(count),
                Err(malformed) => {
                    let path = head::seeming_path(&self.input);
                    self.refuse_malformed(malformed, path, server);
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
                let path = head::seeming_path(&self.input);
                self.refuse_malformed(malformed, path, server);
                return Ok(Step::Progress);
            }
        };
        let state = server.state();
        let kept = self.peer.as_ref().and_then(|peer| state.forwards_in(peer));
        let head = head::parse(&self.input[..end], kept).map_err(|malformed| {
            let path = head::seeming_path(&self.input[..end]);
            (malformed, path)
        });
        self.consume(end);
        match head {
            Ok(head) if connection.is_probe => Ok(self.answer_probe(&head, connection, server)),
            Ok(head) => self.begin(head, &state, connection, server),
            Err((malformed, path)) => {
                self.refuse_malformed(malformed, path, server);
                Ok(Step::Progress)
            }
        }
    }

    /// Answers what is no request, but seems to be one for `path`; there is no way to go on.
    fn refuse_malformed(&mut self, malformed: Malformed, path: String, server: &Server) {
        self.audit_malformed(malformed, path, server);
        let frame = Frame { is_http11: true, is_head: false, keep_alive: false };
        Failure::Malformed(malformed).reply().write(frame, &mut self.output);
        self.is_closing = true;
    }

    fn answer_probe(&mut self, head: &Head, connection: &Connection, server: &Server) -> Step {
        let frame = frame(head, server).without_go_ahead(head);
        let unread = BodyReader::new(head.framing);
        let reply = probe::answer(server, head);
        self.send(&reply, frame, unread, connection, server);
        Step::Progress
    }

    fn begin(
        &mut self,
        mut head: Head,
        state: &State,
        connection: &Arc<Connection>,
        server: &Server,
    ) -> io::Result<Step> {
        let frame = frame(&head, server);
        let (reply, frame) = match self.admit(&mut head, state, connection, server) {
            None => return Err(io::ErrorKind::NotConnected.into()),
            Some(Admission::Granted(exchange, max_body)) => {
                return Ok(self.accept(exchange, max_body, &head, frame, connection, server));
            }
            Some(Admission::Answered(reply, is_last)) => {
                let keep_alive = frame.keep_alive && !is_last;
                (reply, Frame { keep_alive, ..frame })
            }
        };
        let unread = BodyReader::new(head.framing);
        self.send(&reply, frame.without_go_ahead(&head), unread, connection, server);
        Ok(Step::Progress)
    }

    /// Goes on with a request that was admitted: reads its body, or runs it at once.
    fn accept(
        &mut self,
        exchange: Exchange,
        max_body: usize,
        head: &Head,
        frame: Frame,
        connection: &Arc<Connection>,
        server: &Server,
    ) -> Step {
        match BodyReader::new(head.framing) {
            Some(reader) if max_body > 0 => {
                let is_too_long = matches!(reader, BodyReader::Length(n) if n > max_body as u64);
                self.stage = Stage::Body(Box::new(Receiving {
                    exchange,
                    reader,
                    body: Vec::new(),
                    max_body,
                    frame,
                }));
                if is_too_long {
                    self.fail_body();
                } else if head.expects_continue && self.input.is_empty() {
                    self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                Step::Progress
            }
            unread => {
                let frame = frame.without_go_ahead(head);
                let request = self.requests;
                let answer = server.run(exchange, &[], &|| connection.address(request));
                self.give(answer, unread, frame, connection, server)
            }
        }
    }

    fn read_body(&mut self, connection: &Arc<Connection>, server: &Server) -> io::Result<Step> {
        let Stage::Body(receiving) = &mut self.stage else {
            return Ok(Step::NeedsInput);
        };
        let Receiving { reader, body, max_body, .. } = receiving.as_mut();
        let max_body = *max_body;
        let step = reader.read_all(&self.input, |bytes| {
            let room = (max_body + 1).saturating_sub(body.len());
            let bytes = &bytes[..bytes.len().min(room)];
            body.extend_from_slice(bytes);
        });
        let is_too_long = body.len() > max_body;
        match step {
            Ok((consumed, is_complete)) if !is_too_long => {
                self.consume(consumed);
                if !is_complete {
                    if self.is_eof {
                        self.fail_body();
                        return Ok(Step::Progress);
                    }
                    return Ok(Step::NeedsInput);
                }
                let stage = std::mem::replace(&mut self.stage, Stage::Head);
                let Stage::Body(receiving) = stage else {
                    return Ok(Step::NeedsInput);
                };
                let Receiving { exchange, body, frame, .. } = *receiving;
                let request = self.requests;
                let answer = server.run(exchange, &body, &|| connection.address(request));
                Ok(self.give(answer, None, frame, connection, server))
            }
            _ => {
                self.fail_body();
                Ok(Step::Progress)
            }
        }
    }

    /// Answers a request whose body is too long, cut off or malformed, and closes after it.
    pub(super) fn fail_body(&mut self) {
        if let Stage::Body(receiving) = std::mem::replace(&mut self.stage, Stage::Head) {
            let Receiving { exchange, frame, .. } = *receiving;
            let reply = exchange.answer(Err(Failure::InvalidJson));
            reply.write(Frame { keep_alive: false, ..frame }, &mut self.output);
            self.is_closing = true;
        }
    }

    /// Sends an answer, or waits for it.
    fn give(
        &mut self,
        answer: Answer,
        unread: Option<BodyReader>,
        frame: Frame,
        connection: &Arc<Connection>,
        server: &Server,
    ) -> Step {
        match answer {
            Answer::Now(reply) => {
                self.send(&reply, frame, unread, connection, server);
                Step::Progress
            }
            Answer::Later(pending) => {
                connection.set_deadline(server, pending.deadline);
                self.stage = Stage::Waiting(Box::new(Waiting { pending, unread, frame }));
                Step::NeedsReply
            }
            Answer::Stream(exchange, stream) => {
                self.open_stream(exchange, stream, frame, connection, server)
            }
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
