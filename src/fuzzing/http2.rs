//! HTTP/2: frames in any order, in pieces of any size, beside answers of the server. The requests and bodies that come
//! out are those that went in, and a plain model of what the client has allowed watches all that the server sends.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, Instant},
};

use super::{
    cursor::{Cursor, pieces},
    http2_fields::{self, Fields, Meaning},
    http2_floods::Floods,
    http2_watch::{Books, STREAM_WINDOW, Side},
};
use crate::http::{
    Code, Event,
    reply::Reply,
    request::{Framing, Head},
    two::{Connection, connection::PREFACE, frame::*},
};

/// Requests at the same time, bytes of a header block, and the largest window.
const MAX_STREAMS: usize = 250;
const MAX_BLOCK: usize = 64 * 1024;
const MAX_WINDOW: i64 = (1 << 31) - 1;

/// Each step is a frame of the client, many of them, or something that the server does.
pub fn http2(data: &[u8]) {
    let mut cursor = Cursor(data);
    let count = cursor.byte() % 8;
    let sizes = cursor.take(count.into());
    let whole = talk(Cursor(cursor.0), &[]);
    if !sizes.is_empty() {
        assert_eq!(whole, talk(cursor, sizes), "it depends on how the bytes are cut");
    }
}

/// A client that sends its frames in pieces of these sizes. Returns a digest of what comes of it.
fn talk(mut cursor: Cursor<'_>, sizes: &[u8]) -> u64 {
    let mut peer = Peer::new(sizes);
    if peer.send(PREFACE).is_err() || peer.settings(0, 0, &[]).is_err() {
        panic!("the beginning of a connection was refused");
    }
    while !cursor.is_empty() {
        if let Err(code) = peer.step(&mut cursor) {
            (code as u32).hash(&mut peer.digest);
            peer.engine.end(code, &mut peer.out);
            peer.watch();
            break;
        }
        peer.watch();
        peer.books.check();
        peer.books.forget();
    }
    peer.digest.finish()
}

/// An event of the engine.
#[derive(Debug, PartialEq)]
enum Seen {
    Request { stream: u32, head: Result<Head, u16>, is_complete: bool },
    Body { stream: u32, bytes: Vec<u8>, is_complete: bool },
    Reset(u32),
    Malformed,
}

struct Peer<'a> {
    engine: Connection,
    now: Instant,
    sizes: &'a [u8],
    /// Bytes that the engine has not used yet.
    waiting: Vec<u8>,
    out: Vec<u8>,
    books: Books,
    floods: Floods,
    /// The header block that is open: its stream, and its bytes.
    block: Option<(u32, usize)>,
    last: u32,
    /// The server has said that the connection ends.
    is_going: bool,
    /// The events of the latest frame, and a digest of all.
    seen: Vec<Seen>,
    digest: DefaultHasher,
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
            books: Books::new(),
            floods: Floods::default(),
            block: None,
            last: 0,
            is_going: false,
            seen: Vec::new(),
            digest: DefaultHasher::new(),
        };
        peer.watch();
        peer
    }

    fn watch(&mut self) {
        self.books.watch(&std::mem::take(&mut self.out));
    }

    /// Whether the client knows the stream as one that is open.
    fn is_open(&self, stream: u32) -> bool {
        self.books.streams.get(&stream).is_some_and(Side::is_open)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Code> {
        for piece in pieces(bytes, self.sizes) {
            self.waiting.extend_from_slice(piece);
            loop {
                let out = &mut self.out;
                let (used, event) =
                    self.engine.next(&self.waiting, Some("x-kept"), true, self.now, out)?;
                let seen = match event {
                    Event::Nothing if used == 0 => break,
                    Event::Nothing => None,
                    Event::Malformed(_) => Some(Seen::Malformed),
                    Event::Request { stream, head, is_complete } => {
                        let head = head.map_err(|(malformed, _)| malformed.status);
                        Some(Seen::Request { stream, head, is_complete })
                    }
                    Event::Body { stream, bytes, is_complete } => {
                        Some(Seen::Body { stream, bytes: bytes.to_vec(), is_complete })
                    }
                    Event::Reset { stream } => Some(Seen::Reset(stream)),
                    Event::BadBody { .. } => panic!("no event of HTTP/2"),
                };
                self.waiting.drain(..used);
                if let Some(seen) = seen {
                    self.note(&seen);
                    self.seen.push(seen);
                }
            }
        }
        assert!(self.waiting.len() < HEADER + MAX_FRAME + PREFACE.len());
        Ok(())
    }

    fn note(&mut self, seen: &Seen) {
        let streams = &mut self.books.streams;
        match seen {
            Seen::Request { stream, head, is_complete } => {
                assert!(stream % 2 == 1 && *stream > self.last, "stream {stream}");
                let open = streams.values().filter(|side| side.is_open()).count();
                assert!(open < MAX_STREAMS, "too many streams");
                let left = match head {
                    Ok(Head { framing: Framing::Length(length), .. }) => Some(*length),
                    _ => None,
                };
                let side = Side {
                    window: self.books.initial,
                    ours: STREAM_WINDOW,
                    unused: 0,
                    left,
                    is_refused: head.is_err(),
                    is_whole: *is_complete,
                    is_over: false,
                    is_gone: false,
                    has_head: false,
                    status: 0,
                    owed: 0,
                };
                streams.insert(*stream, side);
                format!("{head:?}").hash(&mut self.digest);
                self.floods.requests += 1;
            }
            Seen::Body { stream, bytes, is_complete } => {
                let side = streams.get_mut(stream).expect("a body has a request");
                assert!(side.is_receiving(), "a body behind its end");
                side.is_whole = *is_complete;
                side.unused += bytes.len();
                (stream, bytes, is_complete).hash(&mut self.digest);
            }
            Seen::Reset(stream) => {
                match streams.get_mut(stream) {
                    Some(side) => (side.is_gone, side.owed) = (true, 0),
                    // It was refused, or the client may have opened it when the server took no more.
                    None => {
                        let is_known = self.is_going || *stream <= self.last;
                        assert!(is_known, "stream {stream} was never opened");
                    }
                }
                stream.hash(&mut self.digest);
            }
            Seen::Malformed => {}
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<(), Code> {
        self.seen.clear();
        let taken = self.send(&[&header(payload.len(), kind, flags, stream), payload].concat());
        let interrupts = match self.block {
            Some((of, _)) => kind != CONTINUATION || of != stream,
            None => kind == CONTINUATION,
        };
        assert!(taken.is_err() || !interrupts, "a header block is interrupted");
        let is_head = matches!(kind, HEADERS | CONTINUATION) && taken.is_ok();
        let is_whole = is_head && flags & END_HEADERS != 0;
        if is_head {
            let part = content(kind, flags, payload).expect("it was taken");
            let size = self.block.map_or(0, |(_, size)| size) + part.len();
            assert!(size <= MAX_BLOCK, "a header block of {size} bytes");
            self.block = (!is_whole).then_some((stream, size));
            if is_whole && !self.is_going {
                self.last = self.last.max(stream);
            }
        }
        let resets = self.seen.iter().filter(|seen| matches!(seen, Seen::Reset(_))).count();
        let is_empty = content(kind, flags, payload).is_some_and(<[u8]>::is_empty);
        let is_idle = is_empty && flags & END_STREAM == 0;
        let is_ignored = !self.seen.iter().any(|seen| *seen != Seen::Malformed);
        match &taken {
            Ok(()) => self.floods.count(kind, resets, is_whole, is_idle, is_ignored),
            Err(code) => self.floods.check_refusal(*code, self.block.is_some()),
        }
        self.watch();
        self.floods.check(self.books.sent);
        assert!(self.engine.resets.len() <= 256, "too many resets are remembered");
        taken
    }

    /// A request on a new stream, and whether it comes out as it means.
    fn ask(&mut self, fields: &Fields, flags: u8, first: usize) -> Result<(), Code> {
        let stream = self.last + 2 - (self.last + 1) % 2;
        let (is_complete, is_interrupting) = (flags & END_STREAM != 0, self.block.is_some());
        let open = self.books.streams.values().filter(|side| side.is_open()).count();
        let block = http2_fields::block(fields);
        let (mut part, mut rest) = block.split_at(first.min(MAX_FRAME).min(block.len()));
        let (mut kind, mut flags) = (HEADERS, flags & END_STREAM);
        let taken = loop {
            flags |= if rest.is_empty() { END_HEADERS } else { 0 };
            let taken = self.frame(kind, flags, stream, part);
            if taken.is_err() || rest.is_empty() {
                break taken;
            }
            (part, rest) = rest.split_at(rest.len().min(MAX_FRAME));
            (kind, flags) = (CONTINUATION, 0);
        };
        if let Err(code) = taken {
            assert!(is_interrupting || code == Code::EnhanceYourCalm, "{code:?}: {fields:?}");
            return taken;
        }
        let meaning = http2_fields::meaning(fields, is_complete);
        let is_right = match (&meaning, &self.seen[..]) {
            (_, []) if self.is_going => true,
            (Meaning::Malformed | Meaning::TooLarge, [Seen::Malformed]) => true,
            (Meaning::Head(_) | Meaning::Refused | Meaning::TooLarge, []) => open >= MAX_STREAMS,
            (meaning, [Seen::Request { stream: of, head, is_complete: ends }]) => {
                let is_same = match (meaning, head) {
                    (Meaning::Head(meant), Ok(head)) => meant == head,
                    (Meaning::Refused, Err(status)) => [400, 417].contains(status),
                    (Meaning::TooLarge, Err(status)) => *status == 431,
                    _ => false,
                };
                is_same && *of == stream && *ends == is_complete
            }
            _ => false,
        };
        assert!(is_right, "{fields:?} means {meaning:?}, and came as {:?}", self.seen);
        Ok(())
    }

    fn step(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Code> {
        let kind = match cursor.byte() {
            kind @ 0..240 => kind % 20,
            kind => 20 + (kind - 240) % 6,
        };
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
                let flags = if kind == 1 { END_STREAM } else { 0 };
                self.ask(&http2_fields::request(cursor), flags, MAX_FRAME)
            }
            3 => {
                let fields = http2_fields::request(cursor);
                let first = cursor.byte().into();
                self.ask(&fields, cursor.byte(), first)
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
            6 => self.window_update(stream, cursor.long()),
            7 => {
                let (id, value) = (u16::from(cursor.byte() % 8), cursor.long());
                self.settings(0, 0, &[(id, value)])
            }
            8 => {
                self.frame(RST_STREAM, 0, stream, &cursor.long().to_be_bytes())?;
                assert!(!self.is_open(stream), "a stream is open behind its reset");
                Ok(())
            }
            9 => self.ping(cursor.byte()),
            10 => self.frame(PRIORITY, 0, stream, cursor.take(5)),
            11 => {
                // Any frame but those that change a window or must be acknowledged, which are here of a wrong length.
                let (kind, flags, payload) = (cursor.byte(), cursor.byte(), cursor.bytes());
                let is_wrong = match kind {
                    DATA => return Ok(()),
                    WINDOW_UPDATE => payload.len() != 4,
                    SETTINGS => !payload.len().is_multiple_of(6),
                    PING => payload.len() != 8,
                    _ => return self.frame(kind, flags, stream, payload),
                };
                if is_wrong {
                    let taken = self.frame(kind, flags, stream, payload);
                    assert!(taken.is_err(), "a frame of type {kind} with {} bytes", payload.len());
                    return taken;
                }
                Ok(())
            }
            12 => {
                let length = MAX_FRAME + 1 + usize::from(cursor.short());
                let taken = self.send(&header(length, cursor.byte(), 0, stream));
                assert_eq!(Err(Code::FrameSize), taken, "a frame of {length} bytes");
                taken
            }
            13 => {
                let seconds = cursor.byte();
                self.now += Duration::from_secs(seconds.into());
                self.floods.seconds += usize::from(seconds);
                Ok(())
            }
            20 => {
                let fields = http2_fields::any(cursor);
                let flags = cursor.byte();
                self.ask(&fields, flags, if flags & 2 == 0 { MAX_FRAME } else { 1 })
            }
            21 => {
                let (flags, stream) = (cursor.byte(), if stream == 7 { 7 } else { 0 });
                let entry = |_| (u16::from(cursor.byte() % 8), cursor.long());
                let entries: Vec<_> = (0..flags >> 4).map(entry).collect();
                self.settings(flags & ACK, stream, &entries)
            }
            22 => self.flood(stream, cursor),
            23 => {
                // A header block of many frames.
                let (count, size) = (cursor.byte(), usize::from(cursor.short()) % (MAX_FRAME + 1));
                let stream = self.last + 2 - (self.last + 1) % 2;
                let part = vec![b'h'; size];
                self.frame(HEADERS, 0, stream, &part)?;
                (0..count).try_for_each(|_| self.frame(CONTINUATION, 0, stream, &part))
            }
            24 => {
                // A body with padding.
                let (padding, size) = (cursor.byte(), usize::from(cursor.short()) % 16_000);
                let body = vec![b'x'; size];
                let payload = [&[padding], &body[..], &vec![0; padding.into()]].concat();
                self.data(PADDED | cursor.byte() & END_STREAM, stream, &payload)
            }
            25 => {
                let count = cursor.byte() % 16;
                let body = vec![b'x'; MAX_FRAME];
                (0..count).try_for_each(|_| self.data(0, stream, &body))
            }
            _ => {
                self.serve(kind, stream, cursor);
                Ok(())
            }
        }
    }

    /// What the server does.
    fn serve(&mut self, kind: u8, stream: u32, cursor: &mut Cursor<'_>) {
        let (engine, out) = (&mut self.engine, &mut self.out);
        let Some(side) = self.books.streams.get_mut(&stream) else {
            if kind == 19 {
                self.is_going = true;
                engine.end(Code::NoError, out);
            }
            return;
        };
        let is_open = side.is_open() && !side.is_over;
        match kind {
            14 => {
                let status = cursor.one_of(&[200, 400, 404, 500, 503, 301, 418]);
                let long = usize::from(cursor.byte()) * 256;
                let header = (long > 0).then(|| ("Location", "a".repeat(long)));
                let is_last = cursor.byte() & 1 == 1;
                let reply = Reply { status, header, is_open: true, ..Reply::empty() };
                if !side.has_head {
                    side.status = status;
                    engine.send_head(stream, &reply, is_last, out);
                    self.watch();
                    let side = &self.books.streams[&stream];
                    assert!(!is_open || side.has_head && side.is_over == is_last, "no answer");
                }
            }
            15 => {
                let count = usize::from(cursor.short()).min(engine.room(stream));
                let is_last = cursor.byte() & 1 == 1;
                if side.has_head {
                    side.owed += if is_open { count } else { 0 };
                    engine.send_body(stream, &vec![b'y'; count], is_last, out);
                    self.watch();
                    assert!(!is_open || self.books.streams[&stream].is_over == is_last, "no end");
                }
            }
            16 if side.has_head => {
                engine.send_trailers(stream, out);
                self.watch();
                assert!(!is_open || self.books.streams[&stream].is_over, "no end");
            }
            17 => {
                let count = side.unused.min(cursor.short().into());
                side.unused -= count;
                engine.release(stream, count, out);
            }
            18 if side.is_open() => engine.reset(stream, Code::Cancel, out),
            19 => {
                self.is_going = true;
                engine.end(Code::NoError, out);
            }
            _ => {}
        }
    }

    /// Sends a part of a body, and checks that it comes out, or is refused for a reason.
    fn data(&mut self, flags: u8, stream: u32, payload: &[u8]) -> Result<(), Code> {
        let (content, is_last) = (content(DATA, flags, payload), flags & END_STREAM != 0);
        let size = payload.len() as i64;
        let is_idle = stream.is_multiple_of(2) || stream > self.last && !self.is_going;
        let may_fail = content.is_none()
            || is_idle
            || self.block.is_some()
            || self.books.ours < size
            || !self.is_open(stream);
        self.books.ours -= size;
        let taken = match self.frame(DATA, flags, stream, payload) {
            Err(code) => {
                assert!(may_fail || code == Code::EnhanceYourCalm, "{code:?}");
                return Err(code);
            }
            Ok(()) => std::mem::take(&mut self.seen),
        };
        let content = content.expect("it was taken");
        assert!(!is_idle, "a body without a request");
        let Some(side) = self.books.streams.get_mut(&stream) else {
            assert!(taken.is_empty(), "a body of a request that was refused");
            return Ok(());
        };
        side.ours -= size;
        let is_too_much = side.ours < 0;
        let is_of_length = side.left.is_none_or(|left| {
            left >= content.len() as u64 && (!is_last || left == content.len() as u64)
        });
        side.left = side.left.map(|left| left.saturating_sub(content.len() as u64));
        match &taken[..] {
            [] => assert!(!side.is_open(), "a body is lost"),
            [Seen::Body { stream: of, bytes, is_complete }] => {
                assert!(!is_too_much, "more bytes than the window has");
                assert!(is_of_length, "another length than was announced");
                let sent = (stream, content, is_last);
                assert_eq!(sent, (*of, &**bytes, *is_complete), "another body than was sent");
            }
            [Seen::Reset(_)] => {
                let has_reason = is_too_much || !is_of_length || side.is_whole || side.is_refused;
                assert!(has_reason, "a body is refused without a reason");
            }
            other => panic!("a body is {other:?}"),
        }
        Ok(())
    }

    fn window_update(&mut self, stream: u32, more: u32) -> Result<(), Code> {
        let is_open = self.is_open(stream);
        self.frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())?;
        let more = i64::from(more & 0x7fff_ffff);
        let window = match self.books.streams.get_mut(&stream) {
            _ if stream == 0 => &mut self.books.window,
            Some(side) if is_open => &mut side.window,
            _ => return Ok(()),
        };
        *window += more;
        let is_bad = more == 0 || *window > MAX_WINDOW;
        assert!(!is_bad || stream > 0 && !self.is_open(stream), "an update by {more}");
        Ok(())
    }

    fn settings(&mut self, flags: u8, stream: u32, entries: &[(u16, u32)]) -> Result<(), Code> {
        const ENABLE_PUSH: u16 = 2;
        const INITIAL_WINDOW_SIZE: u16 = 4;
        const MAX_FRAME_SIZE: u16 = 5;
        let payload: Vec<u8> = entries
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        let is_good = |(id, value): &(u16, u32)| match *id {
            ENABLE_PUSH => *value <= 1,
            INITIAL_WINDOW_SIZE => i64::from(*value) <= MAX_WINDOW,
            MAX_FRAME_SIZE => (1 << 14..1 << 24).contains(value),
            _ => true,
        };
        let mut is_right = stream == 0 && entries.iter().all(is_good) && self.block.is_none();
        is_right &= flags & ACK == 0 || entries.is_empty();
        for (_, value) in entries.iter().filter(|(id, _)| *id == INITIAL_WINDOW_SIZE) {
            let more = i64::from(*value) - self.books.initial;
            self.books.initial = i64::from(*value);
            for side in self.books.streams.values_mut() {
                side.window += more;
                is_right &= side.window <= MAX_WINDOW || !side.is_open() || side.is_over;
            }
        }
        self.books.settings += usize::from(flags & ACK == 0);
        match self.frame(SETTINGS, flags, stream, &payload) {
            Ok(()) => assert!(is_right, "settings are taken: {entries:?}"),
            Err(code) => {
                let has_reason = !is_right || code != Code::Protocol;
                assert!(has_reason, "{code:?}: {entries:?}");
                return Err(code);
            }
        }
        Ok(())
    }

    fn ping(&mut self, flags: u8) -> Result<(), Code> {
        let payload = [self.books.sent as u8, 7, 0, 1, 2, 3, 4, 5];
        if flags & ACK == 0 {
            self.books.pings.push_back(payload.to_vec());
        }
        self.frame(PING, flags & ACK, 0, &payload)
    }

    /// Many frames that ask for nothing.
    fn flood(&mut self, stream: u32, cursor: &mut Cursor<'_>) -> Result<(), Code> {
        let (kind, count) = (cursor.byte() % 10, 10 * usize::from(cursor.byte()));
        let good: Fields = [(":scheme", "https"), (":method", "PUT"), (":path", "/a")]
            .map(|(name, value)| (name.to_owned(), value.into()))
            .into();
        for _ in 0..count {
            match kind {
                0 => self.ping(0)?,
                1 => self.settings(0, 0, &[])?,
                2 => self.window_update(0, 1)?,
                3 => self.frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 9])?,
                4 => {
                    self.ask(&good, 0, MAX_FRAME)?;
                    self.frame(RST_STREAM, 0, self.last, &[0; 4])?;
                }
                5 => self.data(0, stream, &[])?,
                6 => self.frame(0xfa, 0, stream, &[])?,
                7 => self.ask(&good[..2].to_vec(), END_STREAM, MAX_FRAME)?,
                8 => self.ask(&good, END_STREAM, MAX_FRAME)?,
                _ => {
                    self.ask(&good, END_STREAM, MAX_FRAME)?;
                    let given_up = self.engine.give_up(self.last, self.now, &mut self.out);
                    self.watch();
                    self.floods.unread(given_up)?;
                }
            }
            self.books.forget();
        }
        Ok(())
    }
}

/// The payload of a frame without padding and priority.
fn content(kind: u8, flags: u8, payload: &[u8]) -> Option<&[u8]> {
    let padding = match payload.first() {
        _ if flags & PADDED == 0 || kind > HEADERS => None,
        length => Some(usize::from(*length?)),
    };
    let end = payload.len().checked_sub(padding.unwrap_or(0))?;
    let priority = if kind == HEADERS && flags & HAS_PRIORITY != 0 { 5 } else { 0 };
    payload.get(usize::from(padding.is_some()) + priority..end)
}
