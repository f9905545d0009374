//! The answers of the server.

use super::{connection::Connection, frame::*, hpack, stream::State};
use crate::http::{
    date::with_date,
    reply::{Reply, TRAILER, decimal},
};

impl Connection {
    pub fn connection_room(&self) -> i64 {
        self.sending.left()
    }

    pub fn is_full(&self, stream: u32) -> bool {
        let at = self.position(stream);
        at.is_none_or(|at| self.streams[at].sending.left() <= 0)
    }

    pub fn room(&self, stream: u32) -> usize {
        let room = self.position(stream).map_or(0, |at| self.streams[at].sending.left());
        usize::try_from(room.min(self.sending.left())).unwrap_or(0)
    }

    pub fn go_ahead(&mut self, stream: u32, out: &mut Vec<u8>) {
        self.send_block(stream, false, out, |out| hpack::put_status(out, 100));
    }

    pub fn send_head(&mut self, stream: u32, reply: &Reply, is_last: bool, out: &mut Vec<u8>) {
        self.send_block(stream, is_last, out, |out| {
            hpack::put_status(out, reply.status);
            if let Some(content_type) = reply.content_type {
                hpack::put_indexed(out, hpack::CONTENT_TYPE, content_type.as_bytes());
                if reply.is_nosniff {
                    hpack::put_field(out, "x-content-type-options", b"nosniff");
                }
            }
            if let Some((name, value)) = &reply.header {
                hpack::put_field(out, &name.to_ascii_lowercase(), value.as_bytes());
            }
            if reply.announces_trailers {
                hpack::put_field(out, "trailer", TRAILER.as_bytes());
            }
            if !reply.is_stream && !reply.is_open {
                let length = reply.body.len();
                hpack::put_indexed(out, hpack::CONTENT_LENGTH, decimal(length, &mut [0; 20]));
            }
            with_date(|date| hpack::put_indexed(out, hpack::DATE, date));
        });
    }

    pub fn send_trailers(&mut self, stream: u32, out: &mut Vec<u8>) {
        self.send_block(stream, true, out, |out| {
            hpack::put_field(out, "status", b"200");
            hpack::put_field(out, "error", b"");
        });
    }

    fn send_block(
        &mut self,
        stream: u32,
        is_last: bool,
        out: &mut Vec<u8>,
        fields: impl FnOnce(&mut Vec<u8>),
    ) {
        if self.sending_on(stream).is_none() {
            return;
        }
        let start = out.len();
        out.extend_from_slice(&[0; HEADER]);
        if std::mem::take(&mut self.must_forget) {
            hpack::put_no_table(out);
        }
        fields(out);
        let length = out.len() - start - HEADER;
        let mut flags = if is_last { END_STREAM } else { 0 };
        if length <= MAX_FRAME {
            let header = header(length, HEADERS, flags | END_HEADERS, stream);
            out[start..start + HEADER].copy_from_slice(&header);
        } else {
            let block = out.split_off(start + HEADER);
            out.truncate(start);
            let (mut rest, mut kind) = (block.as_slice(), HEADERS);
            while !rest.is_empty() {
                let (part, more) = rest.split_at(rest.len().min(MAX_FRAME));
                flags |= if more.is_empty() { END_HEADERS } else { 0 };
                out.extend_from_slice(&header(part.len(), kind, flags, stream));
                out.extend_from_slice(part);
                (rest, kind, flags) = (more, CONTINUATION, 0);
            }
        }
        self.sent(stream, is_last);
    }

    pub fn send_body(&mut self, stream: u32, body: &[u8], is_last: bool, out: &mut Vec<u8>) {
        let Some(at) = self.sending_on(stream) else {
            return;
        };
        // The caller has asked for the room.
        let _ = self.streams[at].sending.take(body.len());
        let _ = self.sending.take(body.len());
        let mut rest = body;
        loop {
            let (part, more) = rest.split_at(rest.len().min(MAX_FRAME));
            let flags = if is_last && more.is_empty() { END_STREAM } else { 0 };
            out.extend_from_slice(&header(part.len(), DATA, flags, stream));
            out.extend_from_slice(part);
            self.meter.sent(part.len());
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        self.sent(stream, is_last);
    }

    /// The place of a stream whose answer is not whole.
    fn sending_on(&self, stream: u32) -> Option<usize> {
        self.position(stream).filter(|at| self.streams[*at].state != State::HalfClosedLocal)
    }

    fn sent(&mut self, stream: u32, is_last: bool) {
        if let Some(at) = self.position(stream).filter(|_| is_last) {
            self.pass(at, self.streams[at].state.sent());
        }
    }
}
