//! Priorities, which are read and not followed.

use super::*;

/// A `HEADERS` frame with a priority: its stream depends on another.
fn prioritized(stream: u32, on: u32, padding: u8) -> Vec<u8> {
    let flags = END_HEADERS | END_STREAM | HAS_PRIORITY | if padding > 0 { PADDED } else { 0 };
    let length = if padding > 0 { vec![padding] } else { vec![] };
    let block = block("GET", &[]);
    let padding = vec![0; padding.into()];
    frame(
        HEADERS,
        flags,
        stream,
        &[&length, &on.to_be_bytes()[..], &[9], &block, &padding].concat(),
    )
}

#[test]
fn a_priority_is_no_part_of_the_fields() {
    let mut peer = Peer::new();
    peer.send(&[prioritized(1, 0, 0), prioritized(3, 1, 0), prioritized(5, 3, 7)].concat())
        .unwrap();
    // It has a meaning in HEADERS only.
    let data = frame(DATA, HAS_PRIORITY | END_STREAM, 7, b"content");
    peer.send(&[post(7, &[]), data].concat()).unwrap();
    let get = |stream| format!("{stream} Get /a true 0");
    let wanted =
        [get(1), get(3), get(5), "7 Post /a false 0".to_owned(), "7 content true".to_owned()];
    assert_eq!(wanted.as_slice(), peer.seen);
    let short = frame(HEADERS, END_HEADERS | END_STREAM | HAS_PRIORITY, 9, &[0; 4]);
    assert_eq!(Err(Code::FrameSize), peer.send(&short));
}

#[test]
fn no_stream_depends_on_itself() {
    const EXCLUSIVE: u32 = 1 << 31;
    for (on, padding) in [(1, 0), (1, 5), (1 | EXCLUSIVE, 0), (1 | EXCLUSIVE, 200)] {
        let mut peer = Peer::new();
        peer.send(&prioritized(1, on, padding)).unwrap();
        assert_eq!(Code::Protocol as u32, peer.reset(1), "{on:x}");
        assert!(peer.seen.is_empty());
    }
    let priority = |stream, on: u32| {
        // This flag means nothing here.
        frame(PRIORITY, PADDED, stream, &[&on.to_be_bytes()[..], &[9]].concat())
    };
    for on in [1, 1 | EXCLUSIVE] {
        let mut peer = Peer::new();
        peer.send(&[get(1), priority(1, 3), priority(3, 1)].concat()).unwrap();
        assert!(peer.sent().is_empty());
        peer.send(&priority(1, on)).unwrap();
        assert_eq!(Code::Protocol as u32, peer.reset(1), "{on:x}");
        assert_eq!(Some(&"1 reset".to_owned()), peer.seen.last());
        // A stream that was never opened can't be reset.
        assert_eq!(Err(Code::Protocol), peer.send(&priority(3, on + 2)));
    }
    for length in [0, 4, 6] {
        let mut peer = Peer::new();
        peer.send(&[get(1), frame(PRIORITY, 0, 1, &[0; 8][..length])].concat()).unwrap();
        assert_eq!(Code::FrameSize as u32, peer.reset(1), "{length}");
        let found = Peer::new().send(&frame(PRIORITY, 0, 1, &[0; 8][..length]));
        assert_eq!(Err(Code::FrameSize), found);
    }
    // Fields that look like the number of their stream are none.
    let fields = [0x82, 0x87, 0x84, 0x41, 1, b'a'];
    let mut peer = Peer::new();
    peer.send(&frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        number(&fields[..4]) & !EXCLUSIVE,
        &fields,
    ))
    .unwrap();
    assert_eq!(1, peer.seen.len());
}
