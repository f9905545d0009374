mod answers;
mod endings;
mod floods;
mod priorities;
mod windows;

use std::time::Instant;

use super::{
    connection::PREFACE,
    frame::*,
    hpack::{self, Decoder},
    *,
};
use crate::http::{
    event::{Code, Event},
    reply::Reply,
};

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&header(payload.len(), kind, flags, stream), payload].concat()
}

fn setting(id: u8, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&[0, id], &value.to_be_bytes()[..]].concat())
}

fn update(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

/// The fields of a request to `/a`, and more.
fn block(method: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x80 | 7];
    hpack::put_field(&mut block, ":method", method.as_bytes());
    hpack::put_field(&mut block, ":path", b"/a");
    for (name, value) in more {
        hpack::put_field(&mut block, name, value.as_bytes());
    }
    block
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block("GET", &[]))
}

fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block("POST", more))
}

/// A connection, and what happened on it.
struct Peer {
    connection: Connection,
    now: Instant,
    out: Vec<u8>,
    seen: Vec<String>,
}

impl Peer {
    fn new() -> Self {
        let (now, mut out) = (Instant::now(), Vec::new());
        let mut peer =
            Self { connection: Connection::new(now, &mut out), now, out, seen: Vec::new() };
        peer.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).unwrap();
        peer.out.clear();
        peer
    }

    fn send(&mut self, mut input: &[u8]) -> Result<(), Code> {
        loop {
            let kept = Some("X-Kept");
            let out = &mut self.out;
            let (used, event) = self.connection.next(input, kept, true, self.now, out)?;
            if used == 0 {
                return Ok(());
            }
            input = &input[used..];
            self.seen.extend(match event {
                Event::Request { stream: id, head: Ok(head), is_complete } => Some(format!(
                    "{id} {:?} {} {is_complete} {:?}",
                    head.method,
                    head.path,
                    head.kept.len()
                )),
                Event::Request { stream: id, head: Err((e, _)), .. } => {
                    Some(format!("{id} {}", e.status))
                }
                Event::Body { stream: id, bytes, is_complete } => {
                    Some(format!("{id} {} {is_complete}", String::from_utf8_lossy(bytes)))
                }
                Event::Reset { stream: id } => Some(format!("{id} reset")),
                Event::Malformed(_) | Event::BadBody { .. } | Event::Nothing => None,
            });
        }
    }

    /// The frames that were sent since the last call: kind, flags, stream and length.
    fn sent(&mut self) -> Vec<(u8, u8, u32, usize)> {
        let out = std::mem::take(&mut self.out);
        let (mut rest, mut found) = (out.as_slice(), Vec::new());
        while let Some(frame) = Frame::read(rest).unwrap() {
            found.push((frame.kind, frame.flags, frame.stream, frame.payload.len()));
            rest = &rest[HEADER + frame.payload.len()..];
        }
        assert!(rest.is_empty(), "a frame is cut off");
        found
    }

    /// The code of the only frame that was sent, which resets this stream.
    fn reset(&mut self, stream: u32) -> u32 {
        let code = number(&self.out[self.out.len() - 4..]);
        assert_eq!(vec![(RST_STREAM, 0, stream, 4)], self.sent());
        code
    }
}

#[test]
fn requests_come_in_whole_however_they_arrive() {
    let body = [4, b'l', b'o', 0, 0, 0, 0];
    let all = [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        get(1),
        post(3, &[("content-length", "5"), ("x-kept", "v")]),
        frame(DATA, 0, 3, b"hel"),
        frame(DATA, PADDED | END_STREAM, 3, &body),
        frame(HEADERS, 0, 5, &block("PUT", &[])[..3]),
        frame(CONTINUATION, END_HEADERS, 5, &block("PUT", &[])[3..]),
        frame(HEADERS, END_HEADERS | END_STREAM, 5, &[0, 1, b't', 1, b'v']),
    ]
    .concat();
    for piece in [1, 2, 7, 9, 100, 10_000] {
        let (now, mut out) = (Instant::now(), Vec::new());
        let connection = Connection::new(now, &mut out);
        let mut peer = Peer { connection, now, out, seen: Vec::new() };
        // Bytes that were not used are shown again, with more behind them.
        let mut waiting = Vec::new();
        for part in all.chunks(piece) {
            waiting.extend_from_slice(part);
            loop {
                let out = &mut peer.out;
                let (used, event) =
                    peer.connection.next(&waiting, Some("x-kept"), true, now, out).unwrap();
                let line = format!("{event:?}");
                if used == 0 {
                    break;
                }
                if line != "Nothing" {
                    peer.seen.push(line);
                }
                waiting.drain(..used);
            }
        }
        assert!(waiting.is_empty());
        assert_eq!(None, peer.connection.incomplete_since());
        assert_eq!(6, peer.seen.len(), "{:?}", peer.seen);
        assert!(
            peer.seen[0]
                .starts_with("Request { stream: 1, head: Ok(Head { method: Get, path: \"/a\"")
        );
        assert!(
            peer.seen[1].contains("framing: Length(5)")
                && peer.seen[1].ends_with("is_complete: false }")
        );
        assert_eq!("Body { stream: 3, bytes: [104, 101, 108], is_complete: false }", peer.seen[2]);
        assert_eq!("Body { stream: 3, bytes: [108, 111], is_complete: true }", peer.seen[3]);
        assert!(peer.seen[4].contains("method: Put"));
        assert_eq!("Body { stream: 5, bytes: [], is_complete: true }", peer.seen[5]);
    }
}

#[test]
fn frames_that_no_client_may_send_end_the_connection() {
    let priority = [0, 0, 0, 0, 1];
    for (wrong, code) in [
        (frame(HEADERS, END_HEADERS, 0, &block("GET", &[])), Code::Protocol),
        (frame(HEADERS, END_HEADERS, 2, &block("GET", &[])), Code::Protocol),
        (frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 1]), Code::Protocol),
        (frame(HEADERS, END_HEADERS, 1, &[0x80]), Code::Compression),
        (frame(DATA, 0, 0, b"a"), Code::Protocol),
        (frame(DATA, 0, 1, b"a"), Code::Protocol),
        (frame(DATA, PADDED, 1, &[]), Code::FrameSize),
        (frame(PRIORITY, 0, 0, &priority), Code::Protocol),
        (frame(RST_STREAM, 0, 1, &[0; 4]), Code::Protocol),
        (frame(RST_STREAM, 0, 0, &[0; 4]), Code::Protocol),
        (frame(RST_STREAM, 0, 1, &[0; 5]), Code::FrameSize),
        (frame(SETTINGS, 0, 1, &[]), Code::Protocol),
        (frame(SETTINGS, ACK, 0, &[0; 6]), Code::FrameSize),
        (frame(SETTINGS, 0, 0, &[0; 5]), Code::FrameSize),
        (setting(2, 2), Code::Protocol),
        (setting(4, 1 << 31), Code::FlowControl),
        (setting(5, 16_383), Code::Protocol),
        (setting(5, 1 << 24), Code::Protocol),
        (frame(PUSH_PROMISE, END_HEADERS, 1, &[0; 4]), Code::Protocol),
        (frame(PING, 0, 1, &[0; 8]), Code::Protocol),
        (frame(PING, 0, 0, &[0; 7]), Code::FrameSize),
        (frame(GOAWAY, 0, 1, &[0; 8]), Code::Protocol),
        (frame(GOAWAY, 0, 0, &[0; 7]), Code::FrameSize),
        (update(0, 0), Code::Protocol),
        (update(0, 0x7fff_ffff), Code::FlowControl),
        (update(1, 1), Code::Protocol),
        (frame(WINDOW_UPDATE, 0, 0, &[0; 3]), Code::FrameSize),
        (frame(CONTINUATION, END_HEADERS, 1, &[]), Code::Protocol),
        ([frame(HEADERS, 0, 1, &[]), get(3)].concat(), Code::Protocol),
        ([frame(HEADERS, 0, 1, &[]), frame(CONTINUATION, 0, 3, &[])].concat(), Code::Protocol),
        ([get(3), get(1)].concat(), Code::StreamClosed),
        (vec![0, 0x40, 1, DATA, 0, 0, 0, 0, 1], Code::FrameSize),
    ] {
        let mut peer = Peer::new();
        assert_eq!(Err(code), peer.send(&wrong), "{wrong:?}");
        peer.connection.end(code, &mut peer.out);
        assert_eq!(code as u32, number(&peer.out[peer.out.len() - 4..]));
    }
    let mut out = Vec::new();
    let mut connection = Connection::new(Instant::now(), &mut out);
    let wrong = b"PRI * HTTP/1.1\r\n";
    let found = connection.next(wrong, None, true, Instant::now(), &mut out);
    assert_eq!(Some(Code::Protocol), found.err());
    let wrong = [PREFACE, &frame(PING, 0, 0, &[0; 8])].concat();
    let found = connection.next(&wrong, None, true, Instant::now(), &mut out);
    assert_eq!(Some(Code::Protocol), found.err());
}

#[test]
fn malformed_requests_end_their_stream_only() {
    let plain = |fields: &[(&str, &str)]| {
        let mut block = Vec::new();
        for (name, value) in fields {
            hpack::put_field(&mut block, name, value.as_bytes());
        }
        block
    };
    let (method, path, scheme) = ((":method", "GET"), (":path", "/"), (":scheme", "https"));
    for fields in [
        vec![path, scheme],
        vec![method, scheme],
        vec![method, path],
        vec![method, (":path", ""), scheme],
        vec![method, (":path", "a"), scheme],
        vec![method, (":path", "https://kes/a"), scheme],
        vec![method, method, path, scheme],
        vec![method, path, scheme, (":status", "200")],
        vec![method, path, scheme, (":other", "x")],
        vec![method, path, ("a", "b"), scheme],
        vec![method, path, scheme, ("Upper", "x")],
        vec![method, path, scheme, ("", "x")],
        vec![method, path, scheme, ("a b", "x")],
        vec![method, path, scheme, ("a", "x\r\ny")],
        vec![method, path, scheme, ("a", "x\0")],
        vec![method, path, scheme, ("a", " x")],
        vec![method, path, scheme, ("connection", "close")],
        vec![method, path, scheme, ("transfer-encoding", "chunked")],
        vec![method, path, scheme, ("te", "gzip")],
        vec![method, path, scheme, ("content-length", "1")],
        vec![method, path, scheme, ("content-length", "+0")],
        vec![method, path, scheme, ("content-length", "0"), ("content-length", "1")],
    ] {
        let mut peer = Peer::new();
        peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &plain(&fields))).unwrap();
        assert_eq!(Code::Protocol as u32, peer.reset(1), "{fields:?}");
        peer.send(&get(3)).unwrap();
        assert_eq!(vec!["3 Get /a true 0"], peer.seen, "{fields:?}");
    }
    // Trailers likewise.
    for wrong in [path, ("Upper", "x"), ("connection", "close")] {
        let mut peer = Peer::new();
        let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &plain(&[wrong]));
        peer.send(&[post(1, &[]), trailers].concat()).unwrap();
        assert_eq!(Code::Protocol as u32, peer.reset(1), "{wrong:?}");
        assert_eq!(Some(&"1 reset".to_owned()), peer.seen.last());
    }
    // A path that can't be decoded and too many fields have an answer of their own.
    let mut peer = Peer::new();
    let block = plain(&[method, (":path", "/%x"), scheme]);
    peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).unwrap();
    // One long field that the table has, and 20 times the byte that names it: 80 KB of fields.
    let mut bomb = plain(&[method, path, scheme]);
    bomb.extend([0x40, 1, b'a', 0x7f, 0x80 | (3873 & 0x7f) as u8, (3873 >> 7) as u8]);
    bomb.extend([b'v'; 4000]);
    bomb.extend([0x80 | 62; 20]);
    peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &bomb)).unwrap();
    peer.send(&get(5)).unwrap();
    assert_eq!(vec!["1 400", "3 431", "5 Get /a true 0"], peer.seen);
    // A block that is as long itself is not read.
    let part = vec![0; 16_000];
    peer.send(&frame(HEADERS, 0, 7, &part)).unwrap();
    let more = frame(CONTINUATION, 0, 7, &part);
    peer.send(&more.repeat(3)).unwrap();
    assert_eq!(Err(Code::EnhanceYourCalm), peer.send(&more));
}

#[test]
fn a_client_without_a_table_hears_once_that_nothing_is_remembered() {
    let mut peer = Peer::new();
    peer.send(&[setting(1, 0), get(1), get(3)].concat()).unwrap();
    peer.sent();
    let mut first = Vec::new();
    peer.connection.send_head(1, &Reply::empty(), true, &mut first);
    peer.connection.send_head(3, &Reply::empty(), true, &mut peer.out);
    assert_eq!([0x20, 0x88], first[HEADER..HEADER + 2]);
    assert_eq!(0x88, peer.out[HEADER]);
}

#[test]
fn heads_that_are_too_long_for_a_frame_are_continued() {
    let mut peer = Peer::new();
    peer.send(&get(1)).unwrap();
    let header = Some(("Location", "a".repeat(40_000)));
    let reply = Reply { status: 301, header, ..Reply::empty() };
    peer.connection.send_head(1, &reply, true, &mut peer.out);
    let out = peer.out.clone();
    let sent = peer.sent();
    let kinds: Vec<_> = sent.iter().map(|sent| (sent.0, sent.1)).collect();
    assert_eq!(vec![(HEADERS, END_STREAM), (CONTINUATION, 0), (CONTINUATION, END_HEADERS)], kinds);
    let (mut rest, mut block) = (out.as_slice(), Vec::new());
    while let Some(frame) = Frame::read(rest).unwrap() {
        block.extend_from_slice(frame.payload);
        rest = &rest[HEADER + frame.payload.len()..];
    }
    let mut lengths = Vec::new();
    Decoder::default().decode(&block, |_, value| lengths.push(value.len())).unwrap();
    assert_eq!(vec![3, 40_000, 13, 1, 29], lengths);
}
