//! HTTP/1.1: the requests that come out are those that a plain reader finds, however the bytes are cut, and nothing
//! comes out behind an error.

use std::{borrow::Cow, time::Instant};

use super::{
    cursor::{Cursor, pieces, with_runs},
    heads_plain::{self, Seen},
};
use crate::http::{Event, one::Connection, reply::Reply};

/// A head is refused once so many bytes of it have come in.
const MAX_HEAD: usize = 64 * 1024;
/// Runs make inputs so long.
const MOST: usize = 2 * MAX_HEAD;

/// The first byte says how many of the next are sizes of pieces, and whether the rest has runs; the rest is what a
/// client sends.
pub fn heads(data: &[u8]) {
    let mut cursor = Cursor(data);
    let choice = cursor.byte();
    let sizes = cursor.take((choice % 8).into());
    let input = match choice {
        8..16 => Cow::Owned(with_runs(cursor.0, MOST)),
        _ => Cow::Borrowed(cursor.0),
    };
    let whole = talk(std::iter::once(&*input));
    let plain = heads_plain::read(&input);
    assert!(whole.0 == plain, "a plain reader finds {plain:?}, not {:?}", whole.0);
    // Long ones would take too much time byte by byte.
    let size = if input.len() > 4096 { 499 } else { 1 };
    for cut in [talk(pieces(&input, sizes)), talk(input.chunks(size))] {
        assert!(whole == cut, "it depends on how the bytes are cut: {whole:?} and {cut:?}");
    }
}

/// The requests of a client that sends `parts`, and the statuses of those that are refused. Each is answered when it
/// is whole.
fn talk<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<Seen>, Vec<u16>) {
    let (mut engine, now) = (Connection::new(), Instant::now());
    let (mut seen, mut statuses) = (Vec::<Seen>::new(), Vec::new());
    let (mut input, mut out) = (Vec::new(), Vec::new());
    let mut has_ended = false;
    for part in parts {
        input.extend_from_slice(part);
        let mut at = 0;
        loop {
            let (used, event) = engine.next(&input[at..], Some("x-kept"), now);
            assert!(used <= input.len() - at, "more bytes were used than there are");
            at += used;
            let (stream, is_over) = match event {
                Event::Nothing if used == 0 => break,
                Event::Nothing => continue,
                Event::Request { stream, head, is_complete } => {
                    assert!(!has_ended, "a request behind the end");
                    assert_eq!(seen.len() + 1, stream as usize, "numbers of requests");
                    assert!(seen.last().is_none_or(|last| last.is_whole || last.is_bad));
                    assert!(used <= MAX_HEAD || head.is_err(), "a head of {used} bytes");
                    let head = head.map_err(|(malformed, path)| {
                        assert!([400, 417, 431, 501, 505].contains(&malformed.status));
                        assert!(path.bytes().all(|byte| byte.is_ascii_graphic()), "{path:?}");
                        statuses.push(malformed.status);
                    });
                    let (is_bad, head) = (head.is_err(), head.ok());
                    seen.push(Seen { head, body: Vec::new(), is_whole: is_complete, is_bad });
                    engine.go_ahead(stream, &mut out);
                    (stream, is_complete)
                }
                Event::Body { stream, bytes, is_complete } => {
                    let last = seen.last_mut().expect("a body follows a head");
                    assert!(!last.is_whole && !last.is_bad, "a body behind its end");
                    last.body.extend_from_slice(bytes);
                    last.is_whole = is_complete;
                    (stream, is_complete)
                }
                Event::BadBody { stream } => {
                    seen.last_mut().expect("a body follows a head").is_bad = true;
                    (stream, true)
                }
                _ => panic!("no event of HTTP/1.1"),
            };
            if is_over {
                out.clear();
                engine.send_head(stream, &Reply::empty(), true, &mut out);
                let last = seen.last().expect("there is a request");
                let says_so = memchr::memmem::find(&out, b"Connection: close").is_some();
                let keeps = !last.is_bad && last.head.as_ref().is_some_and(heads_plain::goes_on);
                assert_eq!(!keeps, says_so, "the answer says whether the connection ends");
                has_ended |= says_so;
            }
        }
        input.drain(..at);
        assert!(input.len() <= MAX_HEAD, "{} bytes wait", input.len());
    }
    (seen, statuses)
}
