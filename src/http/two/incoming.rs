//! What the frames of a client do to a connection.

use std::time::Instant;

use super::{
    Block, Code, Connection, Event, MAX_HEADERS, MAX_STREAMS, MAX_WINDOW, Result, STREAM_WINDOW,
    Stream, frame::*, hpack, meter::Kind, request,
};

impl Connection {
    pub(super) fn data<'a>(
        &mut self,
        frame: &Frame<'a>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Event<'a>> {
        let content = frame.content()?;
        let is_last = frame.has(END_STREAM);
        if content.is_empty() && !is_last {
            self.count(Kind::Other, now)?;
        }
        if self.is_idle_stream(frame.stream) {
            return Err(Code::Protocol);
        }
        let size = frame.payload.len() as i64;
        self.to_receive -= size;
        if self.to_receive < 0 {
            return Err(Code::FlowControl);
        }
        // The connection has room again at once: what each stream may send is bound to that of its
        // own, and one that has to wait must not keep the others from sending.
        self.release_on_connection(size, out);
        let at = self.position(frame.stream);
        let Some(at) = at.filter(|at| self.streams[*at].is_receiving) else {
            return match at.is_some() {
                true => self.fail(frame.stream, Code::StreamClosed, now, out),
                false => self.closed(frame.stream, now),
            };
        };
        let stream = &mut self.streams[at];
        stream.to_receive -= size;
        let length = content.len() as u64;
        let is_too_long = stream.left.is_some_and(|left| length > left);
        stream.left = stream.left.map(|left| left.saturating_sub(length));
        let is_too_short = is_last && stream.left.is_some_and(|left| left > 0);
        let code = match stream.to_receive < 0 {
            true => Some(Code::FlowControl),
            false => (is_too_long || is_too_short).then_some(Code::Protocol),
        };
        if let Some(code) = code {
            return self.fail(frame.stream, code, now, out);
        }
        // Whoever gets the content releases it; the padding is released here.
        self.release(frame.stream, frame.payload.len() - content.len(), out);
        if is_last {
            self.received(at);
        }
        Ok(Event::Body(frame.stream, content, is_last))
    }

    fn received(&mut self, at: usize) {
        self.streams[at].is_receiving = false;
        self.close_if_done(at);
    }

    /// `HEADERS` or `CONTINUATION`, of whose payload this is the part of the header block.
    pub(super) fn headers(
        &mut self,
        frame: &Frame<'_>,
        content: &[u8],
        kept: Option<&str>,
        has_room: bool,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Event<'static>> {
        let mut block = match self.block.take() {
            Some(block) => block,
            None => {
                if frame.stream.is_multiple_of(2) {
                    return Err(Code::Protocol);
                }
                Block {
                    stream: frame.stream,
                    ends_stream: frame.has(END_STREAM),
                    bytes: Vec::new(),
                }
            }
        };
        let is_whole = block.bytes.is_empty() && frame.has(END_HEADERS);
        if !is_whole {
            if block.bytes.len() + content.len() > MAX_HEADERS {
                return Err(Code::EnhanceYourCalm);
            }
            block.bytes.extend_from_slice(content);
        }
        if !frame.has(END_HEADERS) {
            self.block = Some(block);
            self.since.get_or_insert(now);
            return Ok(Event::Nothing);
        }
        let bytes = if is_whole { content } else { &block.bytes };
        // Whatever becomes of it, it has to be decoded for those that follow.
        let head = request::read(&mut self.decoder, bytes, kept).map_err(|_| Code::Compression)?;
        let id = block.stream;
        if id > self.last && !self.is_ending {
            self.last = id;
            let is_wrong = frame.kind == HEADERS && frame.depends_on_itself();
            return self.open(
                id,
                head.and_then(|head| head.unless(is_wrong)),
                block.ends_stream,
                has_room,
                now,
                out,
            );
        }
        match self.position(id) {
            None => self.closed(id, now),
            Some(at) if !self.streams[at].is_receiving => {
                self.fail(id, Code::StreamClosed, now, out)
            }
            // Trailers: of no interest, but they end the body.
            Some(at) => {
                let is_complete = self.streams[at].left.is_none_or(|left| left == 0);
                let is_trailer = head.is_ok_and(|head| head.is_trailer);
                if !block.ends_stream || !is_complete || !is_trailer {
                    return self.fail(id, Code::Protocol, now, out);
                }
                self.received(at);
                Ok(Event::Body(id, &[], true))
            }
        }
    }

    fn open(
        &mut self,
        id: u32,
        head: Result<request::Fields, String>,
        ends_stream: bool,
        has_room: bool,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Event<'static>> {
        let head = match head.and_then(|head| head.request(ends_stream)) {
            Ok(head) => head,
            Err(path) => {
                self.count(Kind::Refused, now)?;
                self.reset(id, Code::Protocol, out);
                return Ok(Event::Malformed(path));
            }
        };
        if self.streams.len() >= MAX_STREAMS || !has_room {
            self.count(Kind::Refused, now)?;
            self.reset(id, Code::RefusedStream, out);
            return Ok(Event::Nothing);
        }
        self.meter.request();
        self.idle_since = now;
        let (head, left) = head;
        self.streams.push(Stream {
            id,
            to_send: self.initial_window,
            to_receive: STREAM_WINDOW,
            untold: 0,
            is_receiving: !ends_stream,
            is_sending: true,
            left,
        });
        Ok(Event::Request(id, head, ends_stream))
    }

    /// Ends a stream because of what the client did there. That counts as if the client had reset it:
    /// else it could give up as many requests as it likes, and have us say so.
    fn fail(
        &mut self,
        stream: u32,
        code: Code,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Event<'static>> {
        self.count(Kind::Reset, now)?;
        self.reset(stream, code, out);
        Ok(Event::Reset(stream))
    }

    /// Something came on a stream that is closed. A client that has not heard yet that we closed it, or
    /// that we open no more, is not wrong.
    fn closed(&mut self, stream: u32, now: Instant) -> Result<Event<'static>> {
        match stream > self.last || self.resets.contains(&stream) {
            true => self.count(Kind::Refused, now).map(|()| Event::Nothing),
            false => Err(Code::StreamClosed),
        }
    }

    /// Whether a stream was never opened.
    fn is_idle_stream(&self, stream: u32) -> bool {
        stream.is_multiple_of(2) || (stream > self.last && !self.is_ending)
    }

    pub(super) fn reset_by_client(
        &mut self,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<Event<'static>> {
        if frame.payload.len() != 4 {
            return Err(Code::FrameSize);
        }
        if self.is_idle_stream(frame.stream) {
            return Err(Code::Protocol);
        }
        // One that had its whole answer costs nothing more: curl resets each that ended without a body.
        let Some(at) = self.position(frame.stream) else {
            return self.count(Kind::Other, now).map(|()| Event::Nothing);
        };
        self.count(Kind::Reset, now)?;
        self.streams.remove(at);
        Ok(Event::Reset(frame.stream))
    }

    pub(super) fn window_update(
        &mut self,
        frame: &Frame<'_>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Event<'static>> {
        self.count(Kind::Other, now)?;
        if frame.payload.len() != 4 {
            return Err(Code::FrameSize);
        }
        let more = i64::from(number(frame.payload) & 0x7fff_ffff);
        if frame.stream == 0 {
            self.to_send += more;
            return match (more, self.to_send > MAX_WINDOW) {
                (0, _) => Err(Code::Protocol),
                (_, true) => Err(Code::FlowControl),
                _ => Ok(Event::Nothing),
            };
        }
        if self.is_idle_stream(frame.stream) {
            return Err(Code::Protocol);
        }
        let Some(at) = self.position(frame.stream) else {
            return Ok(Event::Nothing);
        };
        self.streams[at].to_send += more;
        match (more, self.streams[at].to_send > MAX_WINDOW) {
            (0, _) => self.fail(frame.stream, Code::Protocol, now, out),
            (_, true) => self.fail(frame.stream, Code::FlowControl, now, out),
            _ => Ok(Event::Nothing),
        }
    }

    /// Frames of the connection, and those that mean nothing here.
    pub(super) fn other(
        &mut self,
        frame: &Frame<'_>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Event<'static>> {
        let (kind, length) = (frame.kind, frame.payload.len());
        if matches!(kind, SETTINGS | PING | GOAWAY) && frame.stream != 0 {
            return Err(Code::Protocol);
        }
        match kind {
            SETTINGS => {
                self.count(Kind::Settings, now)?;
                self.has_settings = true;
                if frame.has(ACK) {
                    return match length {
                        0 => Ok(Event::Nothing),
                        _ => Err(Code::FrameSize),
                    };
                }
                if length % 6 != 0 {
                    return Err(Code::FrameSize);
                }
                for setting in frame.payload.chunks_exact(6) {
                    self.set(number(&setting[..2]), number(&setting[2..]))?;
                }
                put_header(out, 0, SETTINGS, ACK, 0);
            }
            PING => {
                self.count(Kind::Ping, now)?;
                if length != 8 {
                    return Err(Code::FrameSize);
                }
                if !frame.has(ACK) {
                    put_header(out, 8, PING, ACK, 0);
                    out.extend_from_slice(frame.payload);
                }
            }
            PRIORITY => {
                self.count(Kind::Other, now)?;
                if frame.stream == 0 {
                    return Err(Code::Protocol);
                }
                let code = match length {
                    5 => frame.depends_on_itself().then_some(Code::Protocol),
                    _ => Some(Code::FrameSize),
                };
                match code {
                    None => {}
                    // A stream that was never opened can't be reset.
                    Some(code) if self.is_idle_stream(frame.stream) => return Err(code),
                    Some(code) => return self.fail(frame.stream, code, now, out),
                }
            }
            GOAWAY if length < 8 => return Err(Code::FrameSize),
            _ => self.count(Kind::Other, now)?,
        }
        Ok(Event::Nothing)
    }

    /// Takes up a setting of the client (RFC 9113 6.5.2).
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
                if value > MAX_WINDOW {
                    return Err(Code::FlowControl);
                }
                let more = value - self.initial_window;
                self.initial_window = value;
                for stream in &mut self.streams {
                    stream.to_send += more;
                    if stream.to_send > MAX_WINDOW {
                        return Err(Code::FlowControl);
                    }
                }
            }
            MAX_FRAME_SIZE if !(16 * 1024..1 << 24).contains(&value) => return Err(Code::Protocol),
            // Larger frames would gain nothing.
            _ => {}
        }
        Ok(())
    }
}
