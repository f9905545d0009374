//! HTTP/1.1 and HTTP/1.0 without sockets (RFC 9112), the server's side: bytes in, requests out; answers
//! in, bytes out.
//!
//! One request at a time: those behind it stay in the input until its body and its answer are whole.
//! Nothing is buffered here but a line of a chunked body. Knows nothing of TLS, routes or keys.

pub mod answer;
pub mod body;
pub mod head;

use std::time::Instant;

use self::body::BodyReader;
use super::{
    MAX_DISCARD,
    event::Event,
    reply::Reply,
    request::{Framing, Malformed},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It is whole, or there was no request yet.
    Whole,
    Awaited,
    /// Its head is sent; the body follows with its length, or until the connection ends.
    Plain,
    /// Its head is sent; the body follows in chunks.
    Chunked,
}

pub struct Connection {
    /// The number of the latest request.
    stream: u32,
    /// Its body, unless that is whole.
    body: Option<BodyReader>,
    answer: Answer,
    is_http11: bool,
    awaits_go_ahead: bool,
    /// It said so and sent bytes behind the head all the same.
    has_gone_ahead: bool,
    /// The body is too long to drop it.
    is_large: bool,
    /// The connection ends with the latest answer.
    is_last: bool,
    /// The connection ends with the next answer, or at once if no request is under way.
    is_ending: bool,
    /// The bytes of a head that were searched for its end.
    scanned: usize,
    empty_lines: u8,
    /// Since when a head is coming in.
    since: Option<Instant>,
}

impl Connection {
    pub fn new() -> Self {
        Self {
            stream: 0,
            body: None,
            answer: Answer::Whole,
            is_http11: true,
            awaits_go_ahead: false,
            has_gone_ahead: false,
            is_large: false,
            is_last: false,
            is_ending: false,
            scanned: 0,
            empty_lines: 0,
            since: None,
        }
    }

    /// As [`Engine::next`](crate::http::Engine::next). All input is dropped once an answer has announced that
    /// the connection ends.
    pub fn next<'a>(
        &mut self,
        input: &'a [u8],
        kept: Option<&str>,
        now: Instant,
    ) -> (usize, Event<'a>) {
        if self.is_last && self.answer != Answer::Awaited {
            return (input.len(), Event::Nothing);
        }
        match (&mut self.body, self.answer) {
            (Some(reader), _) => match reader.read(input) {
                Ok(step) => {
                    let body::Step { consumed, content, is_complete } = step;
                    if is_complete {
                        self.body = None;
                    } else if content.is_empty() {
                        return (consumed, Event::Nothing);
                    }
                    (consumed, Event::Body { stream: self.stream, bytes: content, is_complete })
                }
                Err(_) => {
                    self.body = None;
                    self.is_last = true;
                    (input.len(), Event::BadBody { stream: self.stream })
                }
            },
            (None, Answer::Whole) => self.head(input, kept, now),
            _ => (0, Event::Nothing),
        }
    }

    fn head<'a>(
        &mut self,
        input: &'a [u8],
        kept: Option<&str>,
        now: Instant,
    ) -> (usize, Event<'a>) {
        if self.scanned == 0 {
            match head::skip_empty_lines(input, &mut self.empty_lines) {
                Ok(0) if matches!(input, [] | [b'\r']) => return (0, Event::Nothing),
                Ok(0) => {}
                Ok(count) => return (count, Event::Nothing),
                Err(malformed) => return self.refuse(malformed, input),
            }
        }
        let end = match head::find_end(input, &mut self.scanned) {
            Ok(Some(end)) => end,
            Ok(None) => {
                self.since.get_or_insert(now);
                return (0, Event::Nothing);
            }
            Err(malformed) => return self.refuse(malformed, input),
        };
        let head = match head::parse(&input[..end], kept) {
            Ok(head) => head,
            Err(malformed) => return self.refuse(malformed, input),
        };
        self.begin();
        self.is_http11 = head.is_http11;
        self.is_last = !head.keep_alive;
        self.body = BodyReader::new(head.framing);
        self.awaits_go_ahead = head.expects_continue && head.framing != Framing::None;
        self.has_gone_ahead = input.len() > end;
        self.is_large = matches!(head.framing, Framing::Length(length) if length > MAX_DISCARD);
        let is_complete = self.body.is_none();
        (end, Event::Request { stream: self.stream, head: Ok(head), is_complete })
    }

    fn refuse(&mut self, malformed: Malformed, input: &[u8]) -> (usize, Event<'static>) {
        self.begin();
        self.is_http11 = true;
        self.is_last = true;
        self.awaits_go_ahead = false;
        let path = head::seeming_path(input);
        let head = Err((malformed, path));
        (input.len(), Event::Request { stream: self.stream, head, is_complete: true })
    }

    fn begin(&mut self) {
        self.stream = self.stream.wrapping_add(1);
        self.answer = Answer::Awaited;
        self.scanned = 0;
        self.empty_lines = 0;
        self.since = None;
    }

    /// Lets a client that waits for it send its body. Call it for each body that the server wants:
    /// otherwise the answer ends the connection, since the client may or may not send the body behind it.
    pub fn go_ahead(&mut self, stream: u32, out: &mut Vec<u8>) {
        let is_current = stream == self.stream && self.answer == Answer::Awaited;
        if is_current && self.body.is_some() && std::mem::take(&mut self.awaits_go_ahead) {
            // A client that did not wait needs none.
            if !self.has_gone_ahead {
                out.extend_from_slice(answer::CONTINUE);
            }
        }
    }

    pub fn send_head(&mut self, stream: u32, reply: &Reply, is_last: bool, out: &mut Vec<u8>) {
        if stream != self.stream || self.answer != Answer::Awaited {
            return;
        }
        let is_too_long = self.is_large && self.body.is_some();
        self.is_last |= self.is_ending || reply.is_open || self.awaits_go_ahead || is_too_long;
        if self.is_last {
            // Nothing behind it is read any more.
            self.body = None;
        }
        let is_chunked = answer::put_head(reply, self.is_http11, !self.is_last, out);
        self.answer = match is_chunked {
            _ if is_last => Answer::Whole,
            true => Answer::Chunked,
            false => Answer::Plain,
        };
    }

    pub fn send_body(&mut self, stream: u32, bytes: &[u8], is_last: bool, out: &mut Vec<u8>) {
        match self.answer {
            _ if stream != self.stream => return,
            Answer::Whole | Answer::Awaited => return,
            Answer::Plain => out.extend_from_slice(bytes),
            Answer::Chunked => {
                if !bytes.is_empty() {
                    answer::put_chunk(bytes, out);
                }
                if is_last {
                    out.extend_from_slice(answer::LAST_CHUNK);
                }
            }
        }
        if is_last {
            self.answer = Answer::Whole;
        }
    }

    pub fn send_trailers(&mut self, stream: u32, out: &mut Vec<u8>) {
        if stream == self.stream && matches!(self.answer, Answer::Plain | Answer::Chunked) {
            if self.answer == Answer::Chunked {
                out.extend_from_slice(answer::TRAILERS);
            }
            self.answer = Answer::Whole;
        }
    }

    pub fn reset(&mut self, stream: u32) {
        if stream == self.stream {
            self.body = None;
            self.answer = Answer::Whole;
            self.is_last = true;
        }
    }

    pub fn end(&mut self) {
        self.is_ending = true;
    }

    /// Whether no request is under way or coming in and none will be taken any more.
    pub fn is_ending(&self) -> bool {
        let is_whole = self.answer == Answer::Whole;
        is_whole
            && (self.is_last || (self.is_ending && self.body.is_none() && self.since.is_none()))
    }

    pub fn incomplete_since(&self) -> Option<Instant> {
        self.since
    }
}

#[cfg(test)]
mod tests;
