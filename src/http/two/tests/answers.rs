//! Answers and their fields, the states of a stream, and what the client may ask of a connection.

use super::*;
use crate::http::two::{
    meter::{Kind, Meter},
    window::Window,
};

impl Peer {
    /// The fields of the only frame that was sent, and its flags.
    fn head(&mut self) -> (Vec<String>, u8) {
        let out = std::mem::take(&mut self.out);
        let frame = Frame::read(&out).unwrap().unwrap();
        assert_eq!((HEADERS, out.len()), (frame.kind, HEADER + frame.payload.len()));
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let field = |name: &[u8], value: &[u8]| {
            let value = if name == b"date" { String::new() } else { text(value) };
            fields.push(format!("{}: {value}", text(name)));
        };
        Decoder::default().decode(frame.payload, field).unwrap();
        (fields, frame.flags)
    }
}

#[test]
fn a_head_has_the_fields_of_its_answer() {
    let mut peer = Peer::new();
    peer.send(&post(1, &[("content-length", "1")])).unwrap();
    peer.connection.go_ahead(1, &mut peer.out);
    assert_eq!((vec![":status: 100".to_owned()], END_HEADERS), peer.head());
    let error = Reply {
        status: 405,
        is_nosniff: true,
        header: Some(("Accept", "PUT".to_owned())),
        ..Reply::json(b"{}".to_vec())
    };
    let json = "content-type: application/json";
    let (lines, trailer) = ("content-type: application/x-ndjson", "trailer: Status, Error");
    let nosniff = "x-content-type-options: nosniff";
    for (reply, fields) in [
        (Reply::empty(), &[":status: 200", trailer, "content-length: 0"][..]),
        (error, &[":status: 405", json, nosniff, "accept: PUT", trailer, "content-length: 2"]),
        (Reply::json_lines(vec![0; 9]), &[":status: 200", lines, trailer]),
        (Reply::open_stream(), &[":status: 200", lines]),
    ] {
        for is_last in [false, true] {
            let mut peer = Peer::new();
            peer.send(&get(1)).unwrap();
            peer.connection.send_head(1, &reply, is_last, &mut peer.out);
            let flags = END_HEADERS | if is_last { END_STREAM } else { 0 };
            let wanted = fields.iter().chain(&["date: "]).map(ToString::to_string).collect();
            assert_eq!((wanted, flags), peer.head());
            // The end is said once.
            peer.connection.send_trailers(1, &mut peer.out);
            match is_last {
                true => assert!(peer.out.is_empty()),
                false => {
                    let trailers = vec!["status: 200".to_owned(), "error: ".to_owned()];
                    assert_eq!((trailers, END_HEADERS | END_STREAM), peer.head());
                }
            }
            assert!(peer.connection.streams.is_empty());
        }
    }
}

#[test]
fn each_side_ends_a_stream_for_itself() {
    let body = |stream, flags| frame(DATA, flags, stream, b"body");
    // The client first.
    let mut peer = Peer::new();
    peer.send(&[post(1, &[]), body(1, END_STREAM)].concat()).unwrap();
    peer.connection.send_head(1, &Reply::empty(), false, &mut peer.out);
    peer.connection.send_body(1, b"a", true, &mut peer.out);
    assert_eq!((HEADERS, DATA), (peer.out[3], peer.sent()[1].0));
    assert!(peer.connection.streams.is_empty());
    // The server first: the rest of the body still comes in.
    peer.send(&post(3, &[])).unwrap();
    peer.connection.send_head(3, &Reply::empty(), true, &mut peer.out);
    peer.sent();
    peer.connection.send_body(3, b"more", true, &mut peer.out);
    assert!(peer.out.is_empty(), "its answer is whole");
    peer.send(&[body(3, 0), body(3, END_STREAM)].concat()).unwrap();
    assert_eq!(["3 body false", "3 body true"], peer.seen[peer.seen.len() - 2..]);
    assert!(peer.connection.streams.is_empty());
    // Behind both ends there is nothing.
    assert_eq!(Err(Code::StreamClosed), peer.send(&body(3, 0)));

    // Nothing may come behind the end of the client, and no room is made for it.
    let mut peer = Peer::new();
    peer.send(&get(1)).unwrap();
    peer.connection.release(1, 60_000, &mut peer.out);
    assert!(peer.sent().is_empty());
    peer.send(&body(1, 0)).unwrap();
    assert_eq!(Code::StreamClosed as u32, peer.reset(1));
}

#[test]
fn there_is_room_as_the_windows_say() {
    let mut peer = Peer::new();
    assert!(peer.connection.is_full(1));
    assert_eq!((65_535, 0), (peer.connection.connection_room(), peer.connection.room(1)));
    peer.send(&[setting(4, 10), get(1), update(0, 5)].concat()).unwrap();
    assert_eq!(65_540, peer.connection.connection_room());
    assert!(!peer.connection.is_full(1));
    peer.connection.send_body(1, &[7; 10], false, &mut peer.out);
    assert_eq!(65_530, peer.connection.connection_room());
    assert!(peer.connection.is_full(1));
    peer.send(&setting(4, 1)).unwrap();
    assert!(peer.connection.is_full(1), "less than none");
    peer.send(&update(1, 10)).unwrap();
    assert!(!peer.connection.is_full(1));
    assert_eq!(1, peer.connection.room(1));
    let mut window = Window::new(10);
    window.take(7).unwrap();
    assert_eq!((None, Some(6)), (window.free(5, 6), window.free(1, 6)));
    assert_eq!(9, window.left());
}

#[test]
fn settings_and_pings_are_answered() {
    let mut peer = Peer::new();
    for (id, value) in [(2, 0), (2, 1), (4, 0), (4, 0x7fff_ffff), (5, 16_384), (5, (1 << 24) - 1)] {
        assert_eq!(Ok(()), peer.send(&setting(id, value)), "{id} {value}");
        assert_eq!(vec![(SETTINGS, ACK, 0, 0)], peer.sent());
    }
    peer.send(&frame(SETTINGS, ACK, 0, &[])).unwrap();
    peer.send(&frame(PING, ACK, 0, b"12345678")).unwrap();
    assert!(peer.out.is_empty());
    peer.send(&frame(PING, 0, 0, b"12345678")).unwrap();
    assert_eq!(frame(PING, ACK, 0, b"12345678"), peer.out);
    // A client that allows the default has nothing to hear.
    peer.out.clear();
    peer.send(&[setting(1, 4096), get(1)].concat()).unwrap();
    peer.sent();
    peer.connection.send_head(1, &Reply::empty(), true, &mut peer.out);
    assert_eq!(0x88, peer.out[HEADER]);
}

#[test]
fn a_header_block_may_have_64_kib_in_any_number_of_frames() {
    for too_long in [0, 1] {
        let length = 64 * 1024 + too_long;
        let mut block = block("GET", &[]);
        // A field without its value.
        block.extend([0, 1, b'a']);
        let mut field = vec![0x7f];
        let mut rest = length - block.len() - 4 - 0x7f;
        for _ in 0..2 {
            field.push(0x80 | (rest & 0x7f) as u8);
            rest >>= 7;
        }
        field.push(rest as u8);
        block.extend(field);
        block.resize(length, b'v');
        let mut peer = Peer::new();
        let kinds = [HEADERS, CONTINUATION, CONTINUATION, CONTINUATION];
        for (at, (part, kind)) in block.chunks(MAX_FRAME).zip(kinds).enumerate() {
            let flags = if at == 0 { END_STREAM } else { 0 };
            peer.send(&frame(kind, flags, 1, part)).unwrap();
        }
        let last = frame(CONTINUATION, END_HEADERS, 1, &block[4 * MAX_FRAME..]);
        let found = peer.send(&last);
        assert_eq!(if too_long == 0 { Ok(()) } else { Err(Code::EnhanceYourCalm) }, found);
        assert_eq!(usize::from(too_long == 0), peer.seen.len());
    }
}

#[test]
fn parts_of_a_body_may_be_small_but_not_empty() {
    let mut peer = Peer::new();
    peer.send(&post(1, &[])).unwrap();
    peer.send(&frame(DATA, 0, 1, b"a").repeat(3000)).unwrap();
    assert_eq!(3001, peer.seen.len());
    // The last may be.
    for stream in (3..4003).step_by(2) {
        peer.send(&[post(stream, &[]), frame(DATA, END_STREAM, stream, &[])].concat()).unwrap();
        peer.connection.send_head(stream, &Reply::empty(), true, &mut peer.out);
    }
    assert_eq!(Err(Code::EnhanceYourCalm), peer.send(&frame(DATA, 0, 1, &[]).repeat(2001)));
}

#[test]
fn frames_are_allowed_by_whole_seconds_and_by_what_was_sent() {
    let start = Instant::now();
    let after = |millis| start + std::time::Duration::from_millis(millis);
    let exhausted = |kind| {
        let mut meter = Meter::new(start);
        while meter.count(kind, start) {}
        meter
    };
    let allowed =
        |meter: &mut Meter, kind, now| (0..).take_while(|_| meter.count(kind, now)).count();
    let mut meter = exhausted(Kind::Settings);
    assert_eq!(0, allowed(&mut meter, Kind::Settings, after(600)));
    assert_eq!(1, allowed(&mut meter, Kind::Settings, after(1200)), "they add up");
    let mut meter = exhausted(Kind::Ping);
    assert_eq!(200, allowed(&mut meter, Kind::Ping, after(10_000)));
    assert_eq!(500, allowed(&mut meter, Kind::Ping, after(100_000)));
    for (bytes, frames) in [(0, 2), (2047, 2), (2048, 3), (16_384, 10)] {
        let mut meter = exhausted(Kind::Other);
        meter.sent(bytes);
        assert_eq!(frames, allowed(&mut meter, Kind::Other, start), "{bytes}");
    }
}
