//! Clients that want too much, and input at random.

use super::*;
use crate::http::two::connection::MAX_STREAMS;

#[test]
fn streams_beyond_the_limit_are_refused_and_the_others_go_on() {
    let mut peer = Peer::new();
    for stream in (1..).step_by(2).take(MAX_STREAMS) {
        peer.send(&get(stream)).unwrap();
    }
    assert!(peer.sent().is_empty());
    let next = 2 * MAX_STREAMS as u32 + 1;
    peer.send(&get(next)).unwrap();
    assert_eq!(Code::RefusedStream as u32, peer.reset(next));
    peer.send(&frame(RST_STREAM, 0, 1, &[0; 4])).unwrap();
    peer.send(&get(next + 2)).unwrap();
    assert!(peer.sent().is_empty());
    assert_eq!(MAX_STREAMS + 2, peer.seen.len());
    // After the goodbye nothing is opened, and nothing is wrong.
    peer.connection.end(Code::NoError, &mut peer.out);
    peer.send(&[post(next + 4, &[]), frame(DATA, END_STREAM, next + 4, b"x")].concat()).unwrap();
    assert_eq!(MAX_STREAMS + 2, peer.seen.len());
}

#[test]
fn frames_that_ask_for_nothing_are_a_flood_at_some_point() {
    let many = [
        frame(PING, 0, 0, &[0; 8]),
        frame(PING, ACK, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(SETTINGS, ACK, 0, &[]),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]),
        frame(99, 0, 0, b"what"),
        update(0, 1),
        frame(DATA, 0, 1, &[]),
        frame(GOAWAY, 0, 0, &[0; 8]),
        [get(1), get(1)].concat(),
    ];
    for (at, flood) in many.iter().enumerate() {
        let mut peer = Peer::new();
        peer.send(&post(1, &[])).unwrap();
        let found = peer.send(&flood.repeat(2001));
        assert_eq!(Err(Code::EnhanceYourCalm), found, "{at}");
        assert!(peer.out.len() < 20_000);
    }
    let mut peer = Peer::new();
    let mut found = Ok(());
    for stream in (1..3000).step_by(2) {
        let reset = [get(stream), frame(RST_STREAM, 0, stream, &[0; 4])].concat();
        found = found.and_then(|()| peer.send(&reset));
    }
    assert_eq!(Err(Code::EnhanceYourCalm), found);
    assert!(peer.seen.len() < 1100);
    // Those that had their answer do not count: each request pays for some.
    let mut peer = Peer::new();
    for stream in (1..20_000).step_by(2) {
        peer.send(&get(stream)).unwrap();
        let out = &mut peer.out;
        peer.connection.send_head(stream, &Reply::empty(), true, out);
        peer.send(&frame(RST_STREAM, 0, stream, &[0; 4])).unwrap();
    }
    let found = peer.send(&frame(RST_STREAM, 0, 1, &[0; 4]).repeat(2001));
    assert_eq!(Err(Code::EnhanceYourCalm), found);
    let mut peer = Peer::new();
    peer.send(&frame(HEADERS, 0, 1, &[])).unwrap();
    let found = peer.send(&frame(CONTINUATION, 0, 1, &[]).repeat(65));
    assert_eq!(Err(Code::EnhanceYourCalm), found);
}

#[test]
fn a_client_that_takes_much_may_make_room_for_it_in_small_steps() {
    let mut peer = Peer::new();
    let window = setting(4, 4 << 20);
    peer.send(&[window, get(1), update(0, 1 << 30)].concat()).unwrap();
    // 80 MB, and as a client in Go makes room: for every 4 KiB, here and there.
    let room = [update(0, 4096), update(1, 4096)].concat();
    for _ in 0..20 {
        let body = vec![7; 4 << 20];
        peer.connection.send_body(1, &body, false, &mut peer.out);
        peer.send(&room.repeat(1024)).unwrap();
    }
    // Their allowance is used up: more of them is a flood.
    let found = peer.send(&update(0, 1).repeat(30_000));
    assert_eq!(Err(Code::EnhanceYourCalm), found);
}

#[test]
fn a_client_that_provokes_resets_is_as_bad_as_one_that_resets() {
    for wrong in [
        |stream| update(stream, 0),
        |stream| update(stream, 0x7fff_ffff),
        |stream| frame(DATA, END_STREAM, stream, b"abc"),
        |stream| frame(PRIORITY, 0, stream, &[0]),
        |stream| frame(HEADERS, END_HEADERS, stream, &block("GET", &[])),
    ] {
        let mut peer = Peer::new();
        let mut found = Ok(());
        for stream in (1..3000).step_by(2) {
            let bytes = [post(stream, &[("content-length", "2")]), wrong(stream)].concat();
            found = found.and_then(|()| peer.send(&bytes));
        }
        assert_eq!(Err(Code::EnhanceYourCalm), found);
        assert!(peer.seen.len() < 1100, "{}", peer.seen.len());
    }
}

#[test]
fn nothing_that_comes_in_makes_it_panic_or_answer_without_end() {
    let valid = [
        setting(4, 1000),
        get(1),
        post(3, &[("content-length", "5")]),
        frame(DATA, END_STREAM, 3, b"hello"),
        update(0, 100),
        frame(PING, 0, 0, &[0; 8]),
        frame(
            HEADERS,
            PADDED | HAS_PRIORITY | END_HEADERS,
            5,
            &[&[1, 0, 0, 0, 3, 9], &block("PUT", &[])[..], &[0]].concat(),
        ),
        frame(RST_STREAM, 0, 5, &[0; 4]),
        frame(HEADERS, 0, 7, &block("GET", &[])),
        frame(CONTINUATION, END_HEADERS, 7, &[0x40, 1, b'a', 1, b'b']),
    ]
    .concat();
    let mut random = 1_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    for _ in 0..20_000 {
        let mut bytes = valid.clone();
        for _ in 0..1 + next(6) {
            let at = next(bytes.len());
            match next(4) {
                0 => bytes[at] ^= 1 << next(8),
                1 => bytes[at] = next(256) as u8,
                2 => drop(bytes.drain(at..(at + 1 + next(20)).min(bytes.len() - 1).max(at))),
                _ => {
                    let copy = bytes[at..(at + next(40)).min(bytes.len())].to_vec();
                    let to = next(bytes.len());
                    bytes.splice(to..to, copy);
                }
            }
        }
        let mut peer = Peer::new();
        let _ = peer.send(&bytes);
        assert!(peer.out.len() < 4096);
        for stream in [1, 3, 5, 7] {
            let room = peer.connection.room(stream).min(2000);
            peer.connection.send_head(stream, &Reply::empty(), false, &mut peer.out);
            peer.connection.send_body(stream, &vec![0; room], true, &mut peer.out);
        }
        peer.sent();
    }
}
