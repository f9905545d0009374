//! HTTP/2 without sockets (RFC 9113), the server's side: bytes in, requests out; answers in, bytes out.
//!
//! Nothing is buffered here but the header block that is coming in: bodies are handed on as they
//! arrive, and answers are taken only as far as the client has made room for them. Knows nothing of
//! TLS, routes or keys.

mod frame;
mod hpack;
mod huffman;
mod incoming;
mod meter;
mod request;

use std::{collections::VecDeque, time::Instant};

use self::{
    frame::*,
    hpack::Decoder,
    meter::{Kind, Meter},
};
use super::{Refused, head::Head};

/// What a client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Requests at the same time on one connection. Go clients open another one when that is not enough.
pub const MAX_STREAMS: usize = 250;
/// A header block as it is sent, and its fields as RFC 9113 6.5.2 counts them, in bytes.
const MAX_HEADERS: usize = 64 * 1024;
/// Bytes of bodies that may be under way: unread on a stream (the default), and on a connection.
const STREAM_WINDOW: i64 = 65_535;
const CONNECTION_WINDOW: i64 = 1 << 20;
const MAX_WINDOW: i64 = (1 << 31) - 1;
/// Streams that were reset lately: what the client sent before it knew is ignored.
const MAX_RESETS: usize = 256;

/// Why a stream or a connection ends (RFC 9113 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the words of the RFC
pub enum Code {
    NoError = 0,
    Protocol = 1,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    RefusedStream = 7,
    Cancel = 8,
    Compression = 9,
    EnhanceYourCalm = 11,
}

/// What has come in.
#[derive(Debug)]
pub enum Event<'a> {
    /// A request on this stream; complete if it has no body. One that is refused seems to be for this
    /// path.
    Request(u32, Result<Head, Refused>, bool),
    /// A request that was reset, as it is malformed. It seems to be for this path.
    Malformed(String),
    /// Bytes of its body; complete if they are the last.
    Body(u32, &'a [u8], bool),
    /// The client does not want the answer any more, or sent something wrong.
    Reset(u32),
    /// Nothing that anybody has to know.
    Nothing,
}

/// A header block that is coming in.
struct Block {
    stream: u32,
    ends_stream: bool,
    bytes: Vec<u8>,
}

/// A stream that is not closed.
struct Stream {
    id: u32,
    /// What the client takes, and may send, and what of the latter we have not told it yet, in bytes.
    to_send: i64,
    to_receive: i64,
    untold: i64,
    /// The client may still send, and so may we.
    is_receiving: bool,
    is_sending: bool,
    /// What is left of the body that was announced, in bytes.
    left: Option<u64>,
}

/// One connection.
pub struct Connection {
    has_preface: bool,
    has_settings: bool,
    decoder: Decoder,
    block: Option<Block>,
    /// In the order of their numbers.
    streams: Vec<Stream>,
    /// The last stream that was opened.
    last: u32,
    resets: VecDeque<u32>,
    /// The windows of the connection, as those of a stream.
    to_send: i64,
    to_receive: i64,
    untold: i64,
    /// What we may send on a new stream.
    initial_window: i64,
    /// The client must hear that we remember no fields.
    must_forget: bool,
    is_ending: bool,
    meter: Meter,
    /// When what is incomplete began to come in.
    since: Option<Instant>,
    /// When a stream was last open, or the connection opened.
    idle_since: Instant,
}

type Result<T, E = Code> = std::result::Result<T, E>;

impl Connection {
    /// A connection that opens `now`; what the client has to know goes to `out`.
    pub fn new(now: Instant, out: &mut Vec<u8>) -> Self {
        const MAX_CONCURRENT_STREAMS: u8 = 3;
        const MAX_HEADER_LIST_SIZE: u8 = 6;
        put_header(out, 12, SETTINGS, 0, 0);
        for (setting, value) in
            [(MAX_CONCURRENT_STREAMS, MAX_STREAMS), (MAX_HEADER_LIST_SIZE, MAX_HEADERS)]
        {
            out.extend_from_slice(&[0, setting]);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
        let more = CONNECTION_WINDOW - STREAM_WINDOW;
        put_number(out, WINDOW_UPDATE, 0, more as u32);
        Self {
            has_preface: false,
            has_settings: false,
            decoder: Decoder::default(),
            block: None,
            streams: Vec::new(),
            last: 0,
            resets: VecDeque::new(),
            to_send: STREAM_WINDOW,
            to_receive: CONNECTION_WINDOW,
            untold: 0,
            initial_window: STREAM_WINDOW,
            must_forget: false,
            is_ending: false,
            meter: Meter::new(now),
            since: Some(now),
            idle_since: now,
        }
    }

    /// Takes the first frame of `input`, which came in until `now`, and says how many bytes that were;
    /// 0 if it is not there as a whole. The values of the header `kept` are kept. A new request is
    /// refused if not `has_room`. What the client has to know goes to `out`.
    ///
    /// # Errors
    /// Why the connection must end: [`end`](Self::end) tells the client.
    pub fn next<'a>(
        &mut self,
        input: &'a [u8],
        kept: Option<&str>,
        has_room: bool,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(usize, Event<'a>)> {
        if !self.is_idle() {
            self.idle_since = now;
        }
        let start = if self.has_preface { 0 } else { PREFACE.len() };
        let seen = input.len().min(start);
        if input[..seen] != PREFACE[..seen] {
            return Err(Code::Protocol);
        }
        let frame = match input.get(start..).map(Frame::read).transpose()?.flatten() {
            Some(frame) => frame,
            None => {
                if !input.is_empty() {
                    self.since.get_or_insert(now);
                }
                return Ok((0, Event::Nothing));
            }
        };
        self.has_preface = true;
        if !self.has_settings && (frame.kind != SETTINGS || frame.has(ACK)) {
            return Err(Code::Protocol);
        }
        let used = start + HEADER + frame.payload.len();
        let event = match (&self.block, frame.kind) {
            (Some(block), CONTINUATION) if block.stream == frame.stream => {
                self.count(Kind::Continuation, now)?;
                self.headers(&frame, frame.payload, kept, has_room, now, out)
            }
            (Some(_), _) | (None, CONTINUATION | PUSH_PROMISE) => Err(Code::Protocol),
            (None, DATA) => self.data(&frame, now, out),
            (None, HEADERS) => {
                let content = frame.content()?;
                self.headers(&frame, content, kept, has_room, now, out)
            }
            (None, RST_STREAM) => self.reset_by_client(&frame, now),
            (None, WINDOW_UPDATE) => self.window_update(&frame, now, out),
            (None, _) => self.other(&frame, now, out),
        }?;
        if self.block.is_none() {
            self.since = None;
        }
        Ok((used, event))
    }

    /// When what is incomplete began to come in: the preface, a frame, or the frames of a header block.
    pub fn incomplete_since(&self) -> Option<Instant> {
        self.since
    }

    /// When the last stream ended, or the connection opened: no other frame makes it less idle. While
    /// a stream is open, when [`next`](Self::next) was last called.
    pub fn idle_since(&self) -> Instant {
        self.idle_since
    }

    /// Whether the client was told that the connection ends.
    pub fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Whether no stream is open.
    pub fn is_idle(&self) -> bool {
        self.streams.is_empty()
    }

    /// How many bytes of bodies the client takes on all streams together.
    pub fn connection_room(&self) -> i64 {
        self.to_send
    }

    /// Whether the client takes no bytes of a body on a stream now, even if no other needed any.
    pub fn is_full(&self, stream: u32) -> bool {
        let at = self.position(stream);
        at.is_none_or(|at| self.streams[at].to_send <= 0)
    }

    /// How many bytes of a body the client takes on a stream now.
    pub fn room(&self, stream: u32) -> usize {
        let room = self.position(stream).map_or(0, |at| self.streams[at].to_send.min(self.to_send));
        usize::try_from(room).unwrap_or(0)
    }

    /// Sends the head of an answer, or an interim one: its status and fields, names in lower case.
    pub fn send_head(
        &mut self,
        stream: u32,
        status: Option<u16>,
        fields: &[(&str, &[u8])],
        is_last: bool,
        out: &mut Vec<u8>,
    ) {
        if self.position(stream).is_none() {
            return;
        }
        let start = out.len();
        put_header(out, 0, HEADERS, 0, stream);
        if std::mem::take(&mut self.must_forget) {
            hpack::put_no_table(out);
        }
        if let Some(status) = status {
            hpack::put_status(out, status);
        }
        for (name, value) in fields {
            hpack::put_field(out, name, value);
        }
        let end_stream = if is_last { END_STREAM } else { 0 };
        let length = out.len() - start - HEADER;
        let mut rest = out.split_off(start + HEADER + length.min(MAX_FRAME));
        let end_headers = if rest.is_empty() { END_HEADERS } else { 0 };
        let mut header = Vec::with_capacity(HEADER);
        let flags = end_stream | end_headers;
        put_header(&mut header, length.min(MAX_FRAME), HEADERS, flags, stream);
        out[start..start + HEADER].copy_from_slice(&header);
        while !rest.is_empty() {
            let more = rest.split_off(rest.len().min(MAX_FRAME));
            let end_headers = if more.is_empty() { END_HEADERS } else { 0 };
            put_header(out, rest.len(), CONTINUATION, end_headers, stream);
            out.append(&mut rest);
            rest = more;
        }
        if is_last {
            self.sent(stream);
        }
    }

    /// Sends bytes of a body, for which there must be [`room`](Self::room).
    pub fn send_body(&mut self, stream: u32, body: &[u8], is_last: bool, out: &mut Vec<u8>) {
        let Some(at) = self.position(stream) else {
            return;
        };
        self.streams[at].to_send -= body.len() as i64;
        self.to_send -= body.len() as i64;
        let mut rest = body;
        loop {
            let (part, more) = rest.split_at(rest.len().min(MAX_FRAME));
            let flags = if is_last && more.is_empty() { END_STREAM } else { 0 };
            put_header(out, part.len(), DATA, flags, stream);
            out.extend_from_slice(part);
            self.meter.sent(part.len());
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        if is_last {
            self.sent(stream);
        }
    }

    /// Lets the client send so many bytes more on this stream, since they are used up.
    pub fn release(&mut self, stream: u32, count: usize, out: &mut Vec<u8>) {
        if let Some(at) = self.position(stream)
            && let stream = &mut self.streams[at]
            && stream.is_receiving
        {
            stream.untold += count as i64;
            if stream.untold >= STREAM_WINDOW / 2 {
                put_number(out, WINDOW_UPDATE, stream.id, stream.untold as u32);
                stream.to_receive += std::mem::take(&mut stream.untold);
            }
        }
    }

    fn release_on_connection(&mut self, count: i64, out: &mut Vec<u8>) {
        self.untold += count;
        if self.untold >= CONNECTION_WINDOW / 2 {
            put_number(out, WINDOW_UPDATE, 0, self.untold as u32);
            self.to_receive += std::mem::take(&mut self.untold);
        }
    }

    /// Ends a stream for whose answer the client makes no room.
    ///
    /// # Errors
    /// If there are too many of them: the connection must end.
    pub fn give_up(&mut self, stream: u32, now: Instant, out: &mut Vec<u8>) -> Result<()> {
        self.count(Kind::Unread, now)?;
        self.reset(stream, Code::Cancel, out);
        Ok(())
    }

    /// Ends a stream.
    pub fn reset(&mut self, stream: u32, code: Code, out: &mut Vec<u8>) {
        if let Some(at) = self.position(stream) {
            self.streams.remove(at);
        }
        if self.resets.len() == MAX_RESETS {
            self.resets.pop_front();
        }
        self.resets.push_back(stream);
        put_number(out, RST_STREAM, stream, code as u32);
    }

    /// Tells the client that the connection ends: after the streams that are open, if there is no
    /// error. Others are ignored from now on.
    pub fn end(&mut self, code: Code, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.is_ending, true) && code == Code::NoError {
            return;
        }
        put_header(out, 8, GOAWAY, 0, 0);
        out.extend_from_slice(&self.last.to_be_bytes());
        out.extend_from_slice(&(code as u32).to_be_bytes());
    }

    fn count(&mut self, kind: Kind, now: Instant) -> Result<()> {
        match self.meter.count(kind, now) {
            true => Ok(()),
            false => Err(Code::EnhanceYourCalm),
        }
    }

    fn position(&self, stream: u32) -> Option<usize> {
        self.streams.binary_search_by_key(&stream, |stream| stream.id).ok()
    }

    /// We have sent all.
    fn sent(&mut self, stream: u32) {
        if let Some(at) = self.position(stream) {
            self.streams[at].is_sending = false;
            self.close_if_done(at);
        }
    }

    fn close_if_done(&mut self, at: usize) {
        if !self.streams[at].is_sending && !self.streams[at].is_receiving {
            self.streams.remove(at);
        }
    }
}

#[cfg(test)]
mod tests;
