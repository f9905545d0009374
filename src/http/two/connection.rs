//! A connection: its streams, the order of its frames, and how it ends.

use std::{collections::VecDeque, time::Instant};

use super::{
    fields::MAX_HEADERS,
    frame::*,
    hpack::Decoder,
    meter::{Kind, Meter},
    stream::{State, Stream},
    window::{self, Window},
};
use crate::http::event::{Code, Event};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Requests at the same time on one connection. Go clients open another one when that is not enough.
pub const MAX_STREAMS: usize = 250;
/// Bytes of bodies that may be under way on a connection.
pub const CONNECTION_WINDOW: i64 = 1 << 20;
/// The latest streams that the server reset: the client did not know that yet when it sent more frames.
const MAX_RESETS: usize = 256;

/// How far the beginning of a connection has come in (RFC 9113 3.4).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Less than the preface and a whole frame behind it.
    Preface,
    /// The first settings of the client.
    Open,
}

pub struct Block {
    pub stream: u32,
    pub ends_stream: bool,
    pub bytes: Vec<u8>,
}

pub struct Connection {
    phase: Phase,
    pub decoder: Decoder,
    pub block: Option<Block>,
    /// In the order of their numbers.
    pub streams: Vec<Stream>,
    /// The highest number of a stream that was opened.
    pub last: u32,
    pub resets: VecDeque<u32>,
    /// Bytes that the server may send on all streams together.
    pub sending: Window,
    /// Bytes that the client may send on all streams together.
    pub receiving: Window,
    /// The window of the server on a new stream, in bytes.
    pub initial_window: i64,
    /// The next header block must say that the server remembers no fields.
    pub must_forget: bool,
    pub is_ending: bool,
    pub meter: Meter,
    pub now: Instant,
    pub since: Option<Instant>,
}

impl Connection {
    pub fn new(now: Instant, out: &mut Vec<u8>) -> Self {
        const MAX_CONCURRENT_STREAMS: u8 = 3;
        const MAX_HEADER_LIST_SIZE: u8 = 6;
        out.extend_from_slice(&header(12, SETTINGS, 0, 0));
        for (setting, value) in
            [(MAX_CONCURRENT_STREAMS, MAX_STREAMS), (MAX_HEADER_LIST_SIZE, MAX_HEADERS)]
        {
            out.extend_from_slice(&[0, setting]);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
        put_number(out, WINDOW_UPDATE, 0, (CONNECTION_WINDOW - window::DEFAULT) as u32);
        Self {
            phase: Phase::Preface,
            decoder: Decoder::default(),
            block: None,
            streams: Vec::new(),
            last: 0,
            resets: VecDeque::new(),
            sending: Window::new(window::DEFAULT),
            receiving: Window::new(CONNECTION_WINDOW),
            initial_window: window::DEFAULT,
            must_forget: false,
            is_ending: false,
            meter: Meter::new(now),
            now,
            since: Some(now),
        }
    }

    /// As [`Engine::next`](crate::http::Engine::next), one frame at a time.
    pub fn next<'a>(
        &mut self,
        input: &'a [u8],
        kept: Option<&str>,
        has_room: bool,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(usize, Event<'a>)> {
        self.now = now;
        let start = if self.phase == Phase::Preface { PREFACE.len() } else { 0 };
        let seen = input.len().min(start);
        if input[..seen] != PREFACE[..seen] {
            return Err(Code::Protocol);
        }
        let Some(frame) = input.get(start..).map(Frame::read).transpose()?.flatten() else {
            if !input.is_empty() {
                self.since.get_or_insert(now);
            }
            return Ok((0, Event::Nothing));
        };
        if self.phase == Phase::Preface && (frame.kind != SETTINGS || frame.has(ACK)) {
            return Err(Code::Protocol);
        }
        self.phase = Phase::Open;
        let event = self.handle(&frame, kept, has_room, out)?;
        if self.block.is_none() {
            self.since = None;
        }
        Ok((start + HEADER + frame.payload.len(), event))
    }

    pub fn incomplete_since(&self) -> Option<Instant> {
        self.since
    }

    pub fn is_ending(&self) -> bool {
        self.is_ending
    }

    pub fn give_up(&mut self, stream: u32, now: Instant, out: &mut Vec<u8>) -> Result<()> {
        self.now = now;
        self.count(Kind::Unread)?;
        self.reset(stream, Code::Cancel, out);
        Ok(())
    }

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
    /// error. New ones are ignored from now on.
    pub fn end(&mut self, code: Code, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.is_ending, true) && code == Code::NoError {
            return;
        }
        out.extend_from_slice(&header(8, GOAWAY, 0, 0));
        out.extend_from_slice(&self.last.to_be_bytes());
        out.extend_from_slice(&(code as u32).to_be_bytes());
    }

    pub fn count(&mut self, kind: Kind) -> Result<()> {
        match self.meter.count(kind, self.now) {
            true => Ok(()),
            false => Err(Code::EnhanceYourCalm),
        }
    }

    pub fn position(&self, stream: u32) -> Option<usize> {
        self.streams.binary_search_by_key(&stream, |stream| stream.id).ok()
    }

    /// Takes a stream to its next state; `None` closes it.
    pub fn pass(&mut self, at: usize, next: Option<State>) {
        match next {
            Some(state) => self.streams[at].state = state,
            None => drop(self.streams.remove(at)),
        }
    }
}
