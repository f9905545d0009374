//! HTTP/2: frames in any order, in pieces of any size, beside answers of the server. A plain model of what the
//! client has allowed watches all that the server sends.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::cursor::{Cursor, pieces};
use crate::http::{
    Code, Event,
    reply::Reply,
    two::{
        Connection,
        connection::{MAX_STREAMS, PREFACE},
        fields::MAX_HEADERS,
        frame::*,
        hpack::{self, Decoder},
    },
};

const INITIAL_WINDOW_SIZE: u16 = 4;

/// Each step is a frame of the client or something that the server does.
pub fn http2(data: &[u8]) {
    let mut cursor = Cursor(data);
    let count = cursor.byte() % 8;
    let sizes = cursor.take(count.into());
    let mut peer = Peer::new(sizes);
    if peer.send(PREFACE).is_err() || peer.frame(SETTINGS, 0, 0, &[]).is_err() {
        panic!("the beginning of a connection was refused");
    }
    while !cursor.is_empty() {
        if let Err(code) = peer.step(&mut cursor) {
            peer.engine.end(code, &mut peer.out);
            return peer.watch();
        }
        peer.watch();
    }
}

struct Peer<'a> {
    engine: Connection,
    now: Instant,
    sizes: &'a [u8],
    /// Bytes that the engine has not used yet.
    waiting: Vec<u8>,
    out: Vec<u8>,
    decoder: Decoder,
    /// Bytes that the server may send on all streams together, and on a new one.
    window: i64,
    initial: i64,
    /// Bytes that the client may send.
    ours: i64,
    streams: BTreeMap<u32, Side>,
    last: u32,
    /// The server has said that the connection ends.
    is_going: bool,
}

/// A stream, as the client knows it.
struct Side {
    window: i64,
    /// Bytes of the body that the server has not made room for again.
    unused: usize,
    /// The request came in; its body is whole.
    is_whole: bool,
    /// The server may send nothing more.
    is_over: bool,
    has_head: bool,
}

impl<'a> Peer<'a> {
    fn new(sizes: &'a [u8]) -> Self {
        let (now, mut out) = (Instant::now(), Vec::new());
        let engine = Connection::new(now, &mut out);
        let mut peer = Self {
            engine,
            now,
            sizes,
            waiting: Vec::new(),
            out,
            decoder: Decoder::default(),
            window: 65_535,
            initial: 65_535,
            ours: 65_535,
            streams: BTreeMap::new(),
            last: 0,
            is_going: false,
        };
        peer.watch();
        peer
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Code> {
        for piece in pieces(bytes, self.sizes) {
            self.waiting.extend_from_slice(piece);
            loop {
                let out = &mut self.out;
                let (used, event) =
                    self.engine.next(&self.waiting, Some("x-kept"), true, self.now, out)?;
                match event {
                    Event::Nothing if used == 0 => break,
                    Event::Nothing | Event::Malformed(_) => {}
                    Event::Request { stream, head, is_complete } => {
                        assert!(stream % 2 == 1 && stream > self.last, "stream {stream}");
                        if let Ok(head) = head {
                            assert!(head.path.starts_with('/') || head.path == "*");
                        }
                        self.last = stream;
                        let window = self.initial;
                        self.streams.insert(
                            stream,
                            Side {
                                window,
                                is_whole: is_complete,
                                is_over: false,
                                has_head: false,
                                unused: 0,
                            },
                        );
                    }
                    Event::Body { stream, bytes, is_complete } => {
                        let side = self.streams.get_mut(&stream).expect("a body has a request");
                        assert!(!side.is_whole, "a body behind its end");
                        side.is_whole = is_complete;
                        side.unused += bytes.len();
                    }
                    Event::Reset { stream } => match self.streams.get_mut(&stream) {
                        Some(side) => side.is_whole = true,
                        // It was refused, or the client may have opened it when the server took no more.
                        None => assert!(
                            self.is_going || stream <= self.engine.last,
                            "stream {stream} was never opened"
                        ),
                    },
                    Event::BadBody { .. } => panic!("no event of HTTP/2"),
                }
                self.waiting.drain(..used);
            }
        }
        assert!(self.waiting.len() < HEADER + MAX_FRAME + PREFACE.len());
        assert!(self.engine.streams.len() <= MAX_STREAMS, "too many streams");
        assert!(self.engine.resets.len() <= 256, "too many resets are remembered");
        assert!(self.engine.block.as_ref().is_none_or(|block| block.bytes.len() <= MAX_HEADERS));
        Ok(())
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<(), Code> {
        self.send(&[&header(payload.len(), kind, flags, stream), payload].concat())
    }

    fn step(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Code> {
        let kind = cursor.byte() % 20;
        let stream = match cursor.byte() {
            at if at < 192 => u32::from(at),
            at => self.last + u32::from(at - 192),
        };
        match kind {
            // What the client does. The model learns of it only where the server takes it.
            0 => {
                let (flags, payload) = (cursor.byte(), cursor.bytes());
                self.frame(HEADERS, flags, stream, payload)
            }
            1 | 2 => {
                let flags = if kind == 1 { END_STREAM } else { 0 } | END_HEADERS;
                let block = request(cursor);
                self.frame(HEADERS, flags, self.last + 2 - (self.last + 1) % 2, &block)
            }
            3 => {
                let block = request(cursor);
                let (first, rest) = block.split_at(usize::from(cursor.byte()).min(block.len()));
                self.frame(
                    HEADERS,
                    cursor.byte() & END_STREAM,
                    self.last + 2 - (self.last + 1) % 2,
                    first,
                )?;
                self.frame(CONTINUATION, END_HEADERS, self.last + 2 - (self.last + 1) % 2, rest)
            }
            4 => {
                let (flags, payload) = (cursor.byte(), cursor.bytes());
                self.data(flags, stream, payload)
            }
            5 => {
                let flags = cursor.byte() & END_STREAM;
                let payload = vec![b'x'; usize::from(cursor.short()) % (MAX_FRAME + 1)];
                self.data(flags, stream, &payload)
            }
            6 => {
                let more = cursor.long();
                let is_known = stream == 0 || self.engine.position(stream).is_some();
                self.frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())?;
                let more = i64::from(more & 0x7fff_ffff);
                if stream == 0 {
                    self.window += more;
                } else if let Some(side) = self.streams.get_mut(&stream).filter(|_| is_known) {
                    side.window += more;
                }
                Ok(())
            }
            7 => {
                let (id, value) = (u16::from(cursor.byte() % 8), cursor.long());
                let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
                self.frame(SETTINGS, 0, 0, &payload)?;
                if id == INITIAL_WINDOW_SIZE {
                    assert!(value <= 0x7fff_ffff, "a window of {value} bytes");
                    let more = i64::from(value) - self.initial;
                    self.initial = value.into();
                    self.streams.values_mut().for_each(|side| side.window += more);
                }
                Ok(())
            }
            8 => self.frame(RST_STREAM, 0, stream, &cursor.long().to_be_bytes()),
            9 => self.frame(PING, cursor.byte() & ACK, 0, &[7; 8]),
            10 => self.frame(PRIORITY, 0, stream, cursor.take(5)),
            11 => {
                // Any frame but those that change a window.
                let (kind, flags, payload) = (cursor.byte(), cursor.byte(), cursor.bytes());
                match kind {
                    WINDOW_UPDATE | SETTINGS | DATA => Ok(()),
                    kind => self.frame(kind, flags, stream, payload),
                }
            }
            12 => {
                let length = MAX_FRAME + 1 + usize::from(cursor.short());
                let taken = self.send(&header(length, cursor.byte(), 0, stream));
                assert_eq!(Err(Code::FrameSize), taken, "a frame of {length} bytes");
                taken
            }
            13 => {
                self.now += Duration::from_secs(cursor.byte().into());
                Ok(())
            }
            // What the server does.
            14 => {
                let status = cursor.one_of(&[200, 400, 404, 500, 503, 301, 418]);
                let long = usize::from(cursor.byte()) * 256;
                let header = (long > 0).then(|| ("Location", "a".repeat(long)));
                let is_last = cursor.byte() & 1 == 1;
                let reply = Reply { status, header, is_open: true, ..Reply::empty() };
                if self.streams.get(&stream).is_some_and(|side| !side.has_head) {
                    self.engine.send_head(stream, &reply, is_last, &mut self.out);
                }
                Ok(())
            }
            15 => {
                let count = usize::from(cursor.short()).min(self.engine.room(stream));
                let is_last = cursor.byte() & 1 == 1;
                if self.streams.get(&stream).is_some_and(|side| side.has_head) {
                    self.engine.send_body(stream, &vec![b'y'; count], is_last, &mut self.out);
                }
                Ok(())
            }
            16 => {
                if self.streams.get(&stream).is_some_and(|side| side.has_head) {
                    self.engine.send_trailers(stream, &mut self.out);
                }
                Ok(())
            }
            17 => {
                if let Some(side) = self.streams.get_mut(&stream) {
                    let count = side.unused.min(cursor.short().into());
                    side.unused -= count;
                    self.engine.release(stream, count, &mut self.out);
                }
                Ok(())
            }
            18 => {
                if self.engine.position(stream).is_some() {
                    self.engine.reset(stream, Code::Cancel, &mut self.out);
                }
                Ok(())
            }
            _ => {
                self.is_going = true;
                self.engine.end(Code::NoError, &mut self.out);
                Ok(())
            }
        }
    }

    fn data(&mut self, flags: u8, stream: u32, payload: &[u8]) -> Result<(), Code> {
        let before = self.ours;
        self.ours -= payload.len() as i64;
        let taken = self.frame(DATA, flags, stream, payload);
        assert!(taken.is_err() || before >= payload.len() as i64, "more bytes than the window has");
        taken
    }

    /// Checks what the server has sent since the last time.
    fn watch(&mut self) {
        let out = std::mem::take(&mut self.out);
        let (mut rest, mut open) = (&out[..], None::<(u32, u8, Vec<u8>)>);
        while let Some(frame) = Frame::read(rest).expect("a frame that is not too large") {
            rest = &rest[HEADER + frame.payload.len()..];
            assert_eq!(open.is_some(), frame.kind == CONTINUATION, "a header block is interrupted");
            match frame.kind {
                DATA => {
                    let side = self.streams.get_mut(&frame.stream).expect("a stream of the client");
                    assert!(!side.is_over && side.has_head, "a body outside an answer");
                    let size = frame.payload.len() as i64;
                    side.window -= size;
                    self.window -= size;
                    let has_room = side.window >= 0 && self.window >= 0;
                    assert!(size == 0 || has_room, "more bytes than the client allows");
                    side.is_over = frame.has(END_STREAM);
                }
                HEADERS => open = Some((frame.stream, frame.flags, frame.payload.to_vec())),
                CONTINUATION => {
                    let (stream, _, block) = open.as_mut().expect("a block is open");
                    assert_eq!(*stream, frame.stream, "the stream of a header block");
                    block.extend_from_slice(frame.payload);
                }
                RST_STREAM => {
                    if let Some(side) = self.streams.get_mut(&frame.stream) {
                        side.is_over = true;
                    }
                }
                WINDOW_UPDATE => {
                    let more = frame.number().expect("a number");
                    assert!(more > 0, "an update by nothing");
                    if frame.stream == 0 {
                        self.ours += i64::from(more);
                    }
                }
                SETTINGS | PING | GOAWAY => assert_eq!(0, frame.stream),
                kind => panic!("the server sends frames of type {kind}"),
            }
            if let Some((stream, flags, block)) = open.take_if(|_| frame.has(END_HEADERS)) {
                let mut status = None;
                self.decoder
                    .decode(&block, |name, value| {
                        let digits = String::from_utf8_lossy(value);
                        status = if name == b":status" { digits.parse().ok() } else { status };
                    })
                    .expect("a header block that can be decoded");
                let side = self.streams.get_mut(&stream).expect("a stream of the client");
                assert!(!side.is_over, "a header block behind the end");
                assert_eq!(status.is_none(), side.has_head, "one status");
                side.has_head = status != Some(100_u16);
                side.is_over = flags & END_STREAM != 0;
            }
        }
        assert!(rest.is_empty() && open.is_none(), "a frame is cut off");
    }
}

/// The header block of a request.
fn request(cursor: &mut Cursor<'_>) -> Vec<u8> {
    let mut block = vec![0x80 | 7];
    let choice = cursor.byte();
    let method = if choice & 1 == 0 { "GET" } else { "POST" };
    hpack::put_field(&mut block, ":method", method.as_bytes());
    hpack::put_field(&mut block, ":path", if choice & 2 == 0 { b"/a" } else { cursor.bytes() });
    if choice & 4 != 0 {
        hpack::put_field(&mut block, "content-length", cursor.short().to_string().as_bytes());
    }
    if choice & 8 != 0 {
        hpack::put_field(&mut block, "expect", b"100-continue");
    }
    if choice & 16 != 0 {
        hpack::put_field(&mut block, &cursor.text().to_ascii_lowercase(), cursor.bytes());
    }
    block
}
