//! How streams and connections end, and what is still incomplete.

use std::time::Duration;

use super::*;

#[test]
fn a_connection_says_since_when_something_is_incomplete() {
    let begun = Instant::now();
    let after = |seconds| begun + Duration::from_secs(seconds);
    let mut out = Vec::new();
    let mut connection = Connection::new(begun, &mut out);
    // The client owes a preface.
    assert_eq!(Some(begun), connection.incomplete_since());
    let first = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let mut take = |input: &[u8], now| {
        let (used, _) = connection.next(input, None, true, now, &mut out).unwrap();
        (used, connection.incomplete_since())
    };
    assert_eq!((0, Some(begun)), take(&first[..20], after(1)));
    assert_eq!((first.len(), None), take(&first, after(2)));
    assert_eq!((0, None), take(&[], after(3)));
    let ping = frame(PING, 0, 0, &[0; 8]);
    assert_eq!((0, Some(after(4))), take(&ping[..1], after(4)));
    assert_eq!((0, Some(after(4))), take(&ping[..16], after(5)));
    assert_eq!((ping.len(), None), take(&ping, after(6)));
    // A header block is incomplete between its frames, too.
    let fields = block("GET", &[]);
    let [begin, more, end] = [
        frame(HEADERS, END_STREAM, 1, &fields[..2]),
        frame(CONTINUATION, 0, 1, &fields[2..4]),
        frame(CONTINUATION, END_HEADERS, 1, &fields[4..]),
    ];
    assert_eq!((begin.len(), Some(after(7))), take(&begin, after(7)));
    assert_eq!((0, Some(after(7))), take(&[], after(8)));
    assert_eq!((more.len(), Some(after(7))), take(&more, after(9)));
    assert_eq!((end.len(), None), take(&end, after(10)));
}

#[test]
fn a_goodbye_is_said_once_and_an_error_all_the_same() {
    let mut peer = Peer::new();
    peer.send(&get(1)).unwrap();
    assert!(!peer.connection.is_ending());
    let goodbye = |peer: &mut Peer, code| {
        peer.connection.end(code, &mut peer.out);
        assert!(peer.connection.is_ending());
        let out = peer.out.clone();
        let last = out.get(HEADER..).map(|payload| [number(&payload[..4]), number(&payload[4..])]);
        assert_eq!(usize::from(last.is_some()), peer.sent().len());
        last
    };
    assert_eq!(Some([1, 0]), goodbye(&mut peer, Code::NoError));
    assert_eq!(None, goodbye(&mut peer, Code::NoError));
    assert_eq!(Some([1, Code::Protocol as u32]), goodbye(&mut peer, Code::Protocol));
    // What is open may go on.
    peer.send(&frame(RST_STREAM, 0, 1, &[0; 4])).unwrap();
    assert_eq!(Some(&"1 reset".to_owned()), peer.seen.last());
}

#[test]
fn answers_that_are_not_taken_are_given_up_and_too_many_end_the_connection() {
    let mut peer = Peer::new();
    for stream in (1..=199).step_by(2) {
        peer.send(&get(stream)).unwrap();
        let (now, out) = (peer.now, &mut peer.out);
        assert_eq!(Ok(()), peer.connection.give_up(stream, now, out));
        assert_eq!(Code::Cancel as u32, peer.reset(stream));
    }
    assert!(peer.connection.streams.is_empty());
    peer.send(&get(201)).unwrap();
    let mut give_up = |seconds| {
        let now = peer.now + Duration::from_secs(seconds);
        peer.connection.give_up(201, now, &mut peer.out)
    };
    assert_eq!(Err(Code::EnhanceYourCalm), give_up(0));
    assert_eq!(Ok(()), give_up(1), "one more a second");
}

#[test]
fn frames_on_streams_that_were_reset_lately_are_no_mistake() {
    let mut peer = Peer::new();
    // The latest 256 resets are known.
    for stream in (1..=599).step_by(2) {
        peer.send(&get(stream)).unwrap();
        peer.connection.reset(stream, Code::Cancel, &mut Vec::new());
    }
    let data = |stream| frame(DATA, END_STREAM, stream, b"late");
    let known = 599 - 2 * 255;
    for stream in [599, known] {
        assert_eq!(Ok(()), peer.send(&data(stream)));
    }
    assert_eq!(Err(Code::StreamClosed), peer.send(&data(known - 2)));
}
