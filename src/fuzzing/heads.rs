//! HTTP/1.1: the same requests come out however the bytes are cut, and nothing comes out behind an error.

use std::time::Instant;

use super::cursor::{Cursor, pieces};
use crate::http::{
    Event,
    one::{Connection, head::MAX_HEAD},
    reply::Reply,
    request::{Framing, Head},
};

/// The first byte says how many of the next are sizes of pieces; the rest is what a client sends.
pub fn heads(data: &[u8]) {
    let mut cursor = Cursor(data);
    let count = cursor.byte() % 8;
    let sizes = cursor.take(count.into());
    let whole = talk(std::iter::once(cursor.0));
    assert_eq!(whole, talk(pieces(cursor.0, sizes)), "it depends on how the bytes are cut");
    assert_eq!(whole, talk(cursor.0.chunks(1)), "it depends on how the bytes are cut");
}

/// A request that came in, and its body.
#[derive(Debug, PartialEq)]
struct Seen {
    head: Result<Head, u16>,
    body: Vec<u8>,
    is_whole: bool,
    is_bad: bool,
}

/// The requests that a client makes which sends `parts`. Each is answered when it is whole.
fn talk<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Vec<Seen> {
    let (mut engine, now) = (Connection::new(), Instant::now());
    let (mut seen, mut input, mut out) = (Vec::<Seen>::new(), Vec::new(), Vec::new());
    let mut has_ended = false;
    for part in parts {
        input.extend_from_slice(part);
        loop {
            let (used, event) = engine.next(&input, Some("x-kept"), now);
            assert!(used <= input.len(), "more bytes were used than there are");
            let (stream, is_over) = match event {
                Event::Nothing if used == 0 => break,
                Event::Nothing => {
                    input.drain(..used);
                    continue;
                }
                Event::Request { stream, head, is_complete } => {
                    assert!(!has_ended, "a request behind the end");
                    assert_eq!(seen.len() + 1, stream as usize, "numbers of requests");
                    assert!(seen.last().is_none_or(|last| last.is_whole || last.is_bad));
                    let head = head.map_err(|(malformed, path)| {
                        assert!([400, 417, 431, 501, 505].contains(&malformed.status));
                        assert!(path.bytes().all(|byte| byte.is_ascii_graphic()), "{path:?}");
                        malformed.status
                    });
                    check(&head, used, is_complete);
                    let is_bad = head.is_err();
                    seen.push(Seen { head, body: Vec::new(), is_whole: is_complete, is_bad });
                    engine.go_ahead(stream, &mut out);
                    (stream, is_complete)
                }
                Event::Body { stream, bytes, is_complete } => {
                    let last = seen.last_mut().expect("a body follows a head");
                    assert!(!last.is_whole && !last.is_bad, "a body behind its end");
                    last.body.extend_from_slice(bytes);
                    last.is_whole = is_complete;
                    if let (Ok(Head { framing: Framing::Length(length), .. }), true) =
                        (&last.head, is_complete)
                    {
                        assert_eq!(*length, last.body.len() as u64);
                    }
                    (stream, is_complete)
                }
                Event::BadBody { stream } => {
                    seen.last_mut().expect("a body follows a head").is_bad = true;
                    (stream, true)
                }
                _ => panic!("no event of HTTP/1.1"),
            };
            input.drain(..used);
            if is_over {
                out.clear();
                engine.send_head(stream, &Reply::empty(), true, &mut out);
                let last = seen.last().expect("there is a request");
                let says_so = memchr::memmem::find(&out, b"Connection: close").is_some();
                // It is not known what a client sends that expects to send nothing.
                let is_clear =
                    |head: &Head| !head.expects_continue || head.framing != Framing::Length(0);
                let keeps = last.head.as_ref().is_ok_and(|head| head.keep_alive && is_clear(head))
                    && !last.is_bad;
                assert_eq!(!keeps, says_so, "the answer says whether the connection ends");
                has_ended |= says_so;
            }
        }
        assert!(input.len() <= MAX_HEAD + part.len(), "{} bytes wait", input.len());
    }
    seen
}

fn check(head: &Result<Head, u16>, size: usize, is_complete: bool) {
    let Ok(head) = head else {
        assert!(is_complete, "a refused request has no body");
        return;
    };
    assert!(size <= MAX_HEAD, "a head of {size} bytes");
    assert!(head.path.starts_with('/'), "{:?}", head.path);
    assert_eq!(is_complete, matches!(head.framing, Framing::None | Framing::Length(0)));
    assert!(head.kept.iter().all(|value| !value.contains(&b'\n') && !value.contains(&b'\r')));
}
