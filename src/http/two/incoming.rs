//! The frames of a client, and their effects on a connection.

use super::{
    connection::{Block, CONNECTION_WINDOW, Connection, MAX_STREAMS},
    fields::{self, Fields, MAX_HEADERS},
    frame::*,
    hpack,
    meter::Kind,
    stream::Stream,
    window,
};
use crate::http::event::{Code, Event};

impl Connection {
    pub fn handle<'a>(
        &mut self,
        frame: &Frame<'a>,
        kept: Option<&str>,
        has_room: bool,
        out: &mut Vec<u8>,
    ) -> Result<Event<'a>> {
        match (&self.block, frame.kind) {
            (Some(block), CONTINUATION) if block.stream == frame.stream => {
                self.count(Kind::Continuation)?;
                self.headers(frame, frame.payload, kept, has_room, out)
            }
            (Some(_), _) | (None, CONTINUATION | PUSH_PROMISE) => Err(Code::Protocol),
            (None, DATA) => self.data(frame, out),
            (None, HEADERS) => self.headers(frame, frame.content()?, kept, has_room, out),
            (None, RST_STREAM) => self.rst_stream(frame),
            (None, WINDOW_UPDATE) => self.window_update(frame, out),
            (None, PRIORITY) => self.priority(frame, out),
            (None, SETTINGS | PING | GOAWAY) if frame.stream != 0 => Err(Code::Protocol),
            (None, SETTINGS) => self.settings(frame, out),
            (None, PING) => self.ping(frame, out),
            (None, GOAWAY) if frame.payload.len() < 8 => Err(Code::FrameSize),
            (None, _) => self.count(Kind::Other).map(|()| Event::Nothing),
        }
    }

    fn data<'a>(&mut self, frame: &Frame<'a>, out: &mut Vec<u8>) -> Result<Event<'a>> {
        let content = frame.content()?;
        let is_last = frame.has(END_STREAM);
        if content.is_empty() && !is_last {
            self.count(Kind::Other)?;
        }
        if self.is_idle_stream(frame.stream) {
            return Err(Code::Protocol);
        }
        let size = frame.payload.len();
        self.receiving.take(size)?;
        // The connection has room again at once: each stream is bound to its own window, and one that has
        // to wait must not keep the others from sending.
        if let Some(freed) = self.receiving.free(size, CONNECTION_WINDOW / 2) {
            put_number(out, WINDOW_UPDATE, 0, freed);
        }
        let Some(at) = self.position(frame.stream) else {
            return self.closed(frame.stream);
        };
        if let Err(code) = self.streams[at].receive(content.len(), size, is_last) {
            return self.fail(frame.stream, code, out);
        }
        // The content is released when it is used up, the padding now.
        self.release(frame.stream, size - content.len(), out);
        if is_last {
            self.pass(at, self.streams[at].state.received());
        }
        Ok(Event::Body { stream: frame.stream, bytes: content, is_complete: is_last })
    }

    pub fn release(&mut self, stream: u32, count: usize, out: &mut Vec<u8>) {
        if let Some(at) = self.position(stream)
            && self.streams[at].is_receiving()
            && let Some(freed) = self.streams[at].receiving.free(count, window::DEFAULT / 2)
        {
            put_number(out, WINDOW_UPDATE, stream, freed);
        }
    }

    /// `HEADERS` or `CONTINUATION`, with this part of a header block.
    fn headers(
        &mut self,
        frame: &Frame<'_>,
        part: &[u8],
        kept: Option<&str>,
        has_room: bool,
        out: &mut Vec<u8>,
    ) -> Result<Event<'static>> {
        let id = frame.stream;
        let mut block = match self.block.take() {
            Some(block) => block,
            None if id.is_multiple_of(2) => return Err(Code::Protocol),
            None => Block { stream: id, ends_stream: frame.has(END_STREAM), bytes: Vec::new() },
        };
        let is_whole = block.bytes.is_empty() && frame.has(END_HEADERS);
        if !is_whole {
            if block.bytes.len() + part.len() > MAX_HEADERS {
                return Err(Code::EnhanceYourCalm);
            }
            block.bytes.extend_from_slice(part);
        }
        if !frame.has(END_HEADERS) {
            self.block = Some(block);
            self.since.get_or_insert(self.now);
            return Ok(Event::Nothing);
        }
        let bytes = if is_whole { part } else { &block.bytes };
        // The blocks behind it can't be decoded without this one, whatever it is worth.
        let fields = fields::read(&mut self.decoder, bytes, kept);
        let mut fields = fields.map_err(|_| Code::Compression)?;
        if id > self.last && !self.is_ending {
            self.last = id;
            fields.is_malformed |= frame.kind == HEADERS && frame.depends_on_itself();
            return self.request(id, fields, block.ends_stream, has_room, out);
        }
        let Some(at) = self.position(id) else {
            return self.closed(id);
        };
        // Trailers are ignored, but end the body.
        let is_trailer = block.ends_stream && fields.is_trailer && !fields.is_malformed;
        let ends = self.streams[at].receive(0, 0, true);
        match ends.and(if is_trailer { Ok(()) } else { Err(Code::Protocol) }) {
            Err(code) => self.fail(id, code, out),
            Ok(()) => {
                self.pass(at, self.streams[at].state.received());
                Ok(Event::Body { stream: id, bytes: &[], is_complete: true })
            }
        }
    }

    fn request(
        &mut self,
        id: u32,
        fields: Fields,
        is_complete: bool,
        has_room: bool,
        out: &mut Vec<u8>,
    ) -> Result<Event<'static>> {
        let (code, event) = match fields.request(is_complete) {
            Err(path) => (Code::Protocol, Event::Malformed(path)),
            Ok(_) if self.streams.len() >= MAX_STREAMS || !has_room => {
                (Code::RefusedStream, Event::Nothing)
            }
            Ok((head, length)) => {
                self.meter.request();
                self.streams.push(Stream::new(id, is_complete, length, self.initial_window));
                return Ok(Event::Request { stream: id, head, is_complete });
            }
        };
        self.count(Kind::Refused)?;
        self.reset(id, code, out);
        Ok(event)
    }

    /// Ends a stream because of a mistake of the client. That counts like a reset by the client: otherwise
    /// it could give up any number of requests and have the server reset them.
    fn fail(&mut self, stream: u32, code: Code, out: &mut Vec<u8>) -> Result<Event<'static>> {
        self.count(Kind::Reset)?;
        self.reset(stream, code, out);
        Ok(Event::Reset { stream })
    }

    /// A frame came in on a closed stream. That is no mistake if the client could not know yet that the
    /// server had reset it, or opens no more.
    fn closed(&mut self, stream: u32) -> Result<Event<'static>> {
        match stream > self.last || self.resets.contains(&stream) {
            true => self.count(Kind::Refused).map(|()| Event::Nothing),
            false => Err(Code::StreamClosed),
        }
    }

    fn is_idle_stream(&self, stream: u32) -> bool {
        stream.is_multiple_of(2) || (stream > self.last && !self.is_ending)
    }

    fn rst_stream(&mut self, frame: &Frame<'_>) -> Result<Event<'static>> {
        frame.number()?;
        if self.is_idle_stream(frame.stream) {
            return Err(Code::Protocol);
        }
        // Behind a whole answer it costs nothing more: curl resets each stream that ended without a body.
        let Some(at) = self.position(frame.stream) else {
            return self.count(Kind::Other).map(|()| Event::Nothing);
        };
        self.count(Kind::Reset)?;
        self.pass(at, None);
        Ok(Event::Reset { stream: frame.stream })
    }

    fn window_update(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<Event<'static>> {
        self.count(Kind::Other)?;
        let more = frame.number()? & 0x7fff_ffff;
        if frame.stream == 0 {
            return self.sending.widen(more).map(|()| Event::Nothing);
        }
        if self.is_idle_stream(frame.stream) {
            return Err(Code::Protocol);
        }
        let Some(at) = self.position(frame.stream) else {
            return Ok(Event::Nothing);
        };
        match self.streams[at].sending.widen(more) {
            Ok(()) => Ok(Event::Nothing),
            Err(code) => self.fail(frame.stream, code, out),
        }
    }

    fn priority(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<Event<'static>> {
        self.count(Kind::Other)?;
        if frame.stream == 0 {
            return Err(Code::Protocol);
        }
        let code = match frame.payload.len() {
            5 if !frame.depends_on_itself() => return Ok(Event::Nothing),
            5 => Code::Protocol,
            _ => Code::FrameSize,
        };
        // A stream that was never opened can't be reset.
        match self.is_idle_stream(frame.stream) {
            true => Err(code),
            false => self.fail(frame.stream, code, out),
        }
    }

    fn ping(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<Event<'static>> {
        self.count(Kind::Ping)?;
        if frame.payload.len() != 8 {
            return Err(Code::FrameSize);
        }
        if !frame.has(ACK) {
            out.extend_from_slice(&header(8, PING, ACK, 0));
            out.extend_from_slice(frame.payload);
        }
        Ok(Event::Nothing)
    }

    fn settings(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<Event<'static>> {
        self.count(Kind::Settings)?;
        let is_acknowledgement = frame.has(ACK);
        let length = frame.payload.len();
        if !length.is_multiple_of(6) || (is_acknowledgement && length > 0) {
            return Err(Code::FrameSize);
        }
        for setting in frame.payload.chunks_exact(6) {
            self.set(number(&setting[..2]), number(&setting[2..]))?;
        }
        if !is_acknowledgement {
            out.extend_from_slice(&header(0, SETTINGS, ACK, 0));
        }
        Ok(Event::Nothing)
    }

    /// Applies a setting of the client (RFC 9113 6.5.2).
    fn set(&mut self, setting: u32, value: u32) -> Result<()> {
        const HEADER_TABLE_SIZE: u32 = 1;
        const ENABLE_PUSH: u32 = 2;
        const INITIAL_WINDOW_SIZE: u32 = 4;
        const MAX_FRAME_SIZE: u32 = 5;
        let value = i64::from(value);
        match setting {
            HEADER_TABLE_SIZE => self.must_forget |= value < hpack::MAX_TABLE as i64,
            ENABLE_PUSH if value > 1 => return Err(Code::Protocol),
            INITIAL_WINDOW_SIZE => {
                if value > window::MAX {
                    return Err(Code::FlowControl);
                }
                let more = value - self.initial_window;
                self.initial_window = value;
                for stream in &mut self.streams {
                    stream.sending.shift(more)?;
                }
            }
            MAX_FRAME_SIZE if !(16 * 1024..1 << 24).contains(&value) => return Err(Code::Protocol),
            // The server sends no frames larger than the default.
            _ => {}
        }
        Ok(())
    }
}
