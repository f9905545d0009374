//! Flow control.

use super::*;
use crate::http::two::connection::CONNECTION_WINDOW;

#[test]
fn bodies_are_what_their_length_says_and_fit_into_their_windows() {
    let data = |stream, size: usize, flags| frame(DATA, flags, stream, &vec![b'x'; size]);
    for (length, parts) in [("3", vec![4]), ("3", vec![2, 2]), ("3", vec![2]), ("3", vec![0])] {
        let mut peer = Peer::new();
        peer.send(&post(1, &[("content-length", length)])).unwrap();
        for (at, size) in parts.iter().enumerate() {
            let flags = if at + 1 == parts.len() { END_STREAM } else { 0 };
            peer.send(&data(1, *size, flags)).unwrap();
        }
        assert_eq!(Code::Protocol as u32, peer.reset(1), "{parts:?}");
        assert_eq!(Some(&"1 reset".to_owned()), peer.seen.last());
        // Frames still under way are ignored, new streams are not.
        peer.send(&data(1, 1, 0)).unwrap();
        peer.send(&get(3)).unwrap();
    }
    let mut peer = Peer::new();
    peer.send(&[post(1, &[]), data(1, 16_384, 0).repeat(3)].concat()).unwrap();
    peer.send(&[data(1, 16_383, 0), data(1, 0, 0)].concat()).unwrap();
    assert!(peer.sent().is_empty());
    // Half of the window that was used up is given back at once, not byte by byte.
    peer.connection.release(1, 32_000, &mut peer.out);
    assert!(peer.sent().is_empty());
    peer.connection.release(1, 1000, &mut peer.out);
    assert_eq!(33_000, number(&peer.out[9..]));
    peer.send(&[data(1, 16_384, 0).repeat(2), data(1, 232, 0)].concat()).unwrap();
    let sent = peer.out.len();
    peer.send(&data(1, 1, 0)).unwrap();
    peer.out.drain(..sent);
    assert_eq!(Code::FlowControl as u32, peer.reset(1));
}

#[test]
fn streams_whose_bodies_have_to_wait_do_not_keep_others_from_sending() {
    let mut peer = Peer::new();
    let (mut sent, mut room) = (0, CONNECTION_WINDOW);
    for stream in (1..=199).step_by(2) {
        peer.send(&post(stream, &[])).unwrap();
        for size in [16_384, 16_384, 16_384, 16_383] {
            assert!(sent + size <= room, "stream {stream} has no room");
            peer.send(&frame(DATA, 0, stream, &vec![b'x'; size as usize])).unwrap();
            sent += size;
            for update in peer.out.drain(..).as_slice().chunks(HEADER + 4) {
                assert_eq!((WINDOW_UPDATE, 0), (update[3], number(&update[5..9])));
                room += i64::from(number(&update[HEADER..]));
            }
        }
    }
    // And what comes on streams that are reset is no loss.
    for stream in (1..=199).step_by(2) {
        peer.connection.reset(stream, Code::NoError, &mut Vec::new());
    }
    assert!(room - sent > CONNECTION_WINDOW / 2);
}

#[test]
fn answers_are_as_long_as_the_client_allows() {
    let mut peer = Peer::new();
    peer.send(&[setting(4, 100), get(1), get(3)].concat()).unwrap();
    assert_eq!(vec![(SETTINGS, ACK, 0, 0)], peer.sent());
    assert_eq!(100, peer.connection.room(1));
    peer.connection.send_head(1, &Reply::empty(), false, &mut peer.out);
    peer.connection.send_body(1, &[7; 100], false, &mut peer.out);
    let sent = peer.sent();
    assert_eq!((HEADERS, END_HEADERS, 1), (sent[0].0, sent[0].1, sent[0].2));
    assert_eq!((DATA, 0, 1, 100), sent[1]);
    assert_eq!(0, peer.connection.room(1));
    // A smaller window than was used up already.
    peer.send(&[setting(4, 10), update(1, 89)].concat()).unwrap();
    assert_eq!((0, 10), (peer.connection.room(1), peer.connection.room(3)));
    peer.send(&update(1, 40_002)).unwrap();
    assert_eq!(40_001, peer.connection.room(1));
    peer.sent();
    peer.connection.send_body(1, &[7; 40_001], true, &mut peer.out);
    assert_eq!(
        vec![(DATA, 0, 1, 16_384), (DATA, 0, 1, 16_384), (DATA, END_STREAM, 1, 7233)],
        peer.sent()
    );
    assert!(!peer.connection.streams.is_empty());
    peer.connection.send_head(3, &Reply::empty(), true, &mut peer.out);
    assert!(peer.connection.streams.is_empty());
    // All streams share the window of the connection: 65,535 bytes, of which 40,101 are used.
    peer.send(&[setting(4, 1 << 20), get(5)].concat()).unwrap();
    assert_eq!(25_434, peer.connection.room(5));
    peer.send(&[update(0, 1000), update(5, 0x7fff_ffff)].concat()).unwrap();
    assert_eq!(Some(&"5 reset".to_owned()), peer.seen.last());
    assert_eq!(0, peer.connection.room(5));
    // A window that overflows because of a setting ends the connection.
    peer.send(&[get(7), update(7, 0x7fff_ffff - (1 << 20))].concat()).unwrap();
    assert_eq!(Err(Code::FlowControl), peer.send(&setting(4, (1 << 20) + 1)));
}
