//! Heads of HTTP/1.1: where they end, and what they say.

use std::mem::MaybeUninit;

use crate::http::{
    request::{CONTINUE, Framing, Head, Malformed, Method},
    target,
};

/// The longest request head, in bytes, including its final empty line.
pub const MAX_HEAD: usize = 64 * 1024;

/// Empty lines that may come before a request: old clients send one after a body.
const MAX_EMPTY_LINES: u8 = 4;

const MAX_HEADERS: usize = 100;

/// Counts the bytes of the empty lines that `input` begins with, which belong to no request (RFC 9112 2.2),
/// and adds to `lines`, their number since the last request.
///
/// # Errors
/// [`Malformed`] if there are too many.
pub fn skip_empty_lines(input: &[u8], lines: &mut u8) -> Result<usize, Malformed> {
    let mut count = 0;
    while input[count..].starts_with(b"\r\n") {
        if *lines == MAX_EMPTY_LINES {
            return Err(Malformed::bad_request("more than 4 empty lines before a request"));
        }
        *lines += 1;
        count += 2;
    }
    Ok(count)
}

/// Finds the end of the head that `input` begins with; an earlier call has searched the first `*scanned`
/// bytes.
///
/// Returns the length of the head with its final empty line, or `None` if more bytes are needed.
///
/// # Errors
/// [`Malformed`] for a line feed without carriage return, and for a head over [`MAX_HEAD`].
pub fn find_end(input: &[u8], scanned: &mut usize) -> Result<Option<usize>, Malformed> {
    // RFC 9112 2.2: a line ends with CR LF. A proxy in front of the server may or may not take a bare LF
    // for a line end, and a request can be smuggled where the two disagree.
    let start = *scanned;
    let limit = input.len().min(MAX_HEAD);
    for at in memchr::memchr_iter(b'\n', &input[start..limit]).map(|found| start + found) {
        if at == 0 || input[at - 1] != b'\r' {
            return Err(Malformed::bad_request("line feed without carriage return"));
        }
        if at >= 3 && &input[at - 3..=at] == b"\r\n\r\n" {
            *scanned = 0;
            return Ok(Some(at + 1));
        }
    }
    *scanned = limit;
    if input.len() > MAX_HEAD {
        return Err(Malformed::TOO_LONG);
    }
    Ok(None)
}

/// Parses one whole head, as [`find_end`] delimits it, and keeps the values of the header `kept`, whose name
/// is compared without case.
///
/// # Errors
/// [`Malformed`] for each head that two parsers could read differently (RFC 9112 6.3): several lengths, a
/// length with chunked, transfer codings other than chunked, folded lines, several `Host` lines, a missing
/// `Host` in HTTP/1.1.
pub fn parse(bytes: &[u8], kept: Option<&str>) -> Result<Head, Malformed> {
    let mut lines = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut lines) {
        Ok(httparse::Status::Complete(len)) if len == bytes.len() => {}
        Ok(_) => return Err(Malformed::bad_request("malformed request head")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Malformed { status: 431, reason: "more than 100 header lines" });
        }
        Err(httparse::Error::Version) => {
            return Err(Malformed { status: 505, reason: "unsupported protocol version" });
        }
        Err(_) => return Err(Malformed::bad_request("malformed request head")),
    }
    let method = Method::parse(request.method.unwrap_or_default());
    let is_http11 = request.version == Some(1);
    let mut head = Head {
        is_http11,
        keep_alive: is_http11,
        ..Head::new(method, request.path.unwrap_or_default())?
    };
    let (mut hosts, mut closes) = (0, false);
    for line in request.headers.iter() {
        if kept.is_some_and(|name| line.name.eq_ignore_ascii_case(name)) {
            head.kept.push(line.value.to_vec());
        }
        if line.name.eq_ignore_ascii_case("content-length") {
            set_once(&mut head.framing, || Ok(Framing::Length(parse_length(line.value)?)))?;
        } else if line.name.eq_ignore_ascii_case("transfer-encoding") {
            set_once(&mut head.framing, || match line.value {
                _ if !is_http11 => Err(Malformed::bad_request("transfer coding in HTTP/1.0")),
                value if value.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
                _ => Err(Malformed { status: 501, reason: "unsupported transfer coding" }),
            })?;
        } else if line.name.eq_ignore_ascii_case("connection") {
            for option in tokens(line.value) {
                closes |= option.eq_ignore_ascii_case(b"close");
                head.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        } else if line.name.eq_ignore_ascii_case("expect") {
            if !line.value.eq_ignore_ascii_case(CONTINUE) {
                return Err(Malformed::EXPECTATION);
            }
            head.expects_continue = is_http11;
        } else if line.name.eq_ignore_ascii_case("host") {
            hosts += 1;
        } else if line.name.eq_ignore_ascii_case("content-type") {
            head.has_content_type = true;
        }
    }
    if hosts > 1 {
        return Err(Malformed::bad_request("more than one Host header"));
    }
    if is_http11 && hosts == 0 {
        return Err(Malformed::bad_request("missing required Host header"));
    }
    // RFC 9112 9.3: whatever else it says.
    head.keep_alive &= !closes;
    Ok(head)
}

fn set_once(
    framing: &mut Framing,
    found: impl FnOnce() -> Result<Framing, Malformed>,
) -> Result<(), Malformed> {
    if *framing != Framing::None {
        return Err(Malformed::bad_request("more than one body length"));
    }
    *framing = found()?;
    Ok(())
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Digits only: `+5`, `5 ` and `5, 5` are lengths to some parsers and not to others.
fn parse_length(value: &[u8]) -> Result<u64, Malformed> {
    let wrong = Malformed::bad_request("malformed Content-Length");
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(wrong);
    }
    std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).ok_or(wrong)
}

/// The path that the first line of a malformed head seems to name; empty if there is none.
pub fn seeming_path(head: &[u8]) -> String {
    let end = memchr::memchr2(b'\r', b'\n', head).unwrap_or(head.len());
    let mut words = head[..end].split(|byte| *byte == b' ');
    target::seeming_path(words.nth(1).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &str) -> Result<Head, Malformed> {
        let text = format!("{}\r\n\r\n", lines.replace('\n', "\r\n"));
        let end = find_end(text.as_bytes(), &mut 0)?.expect("the head is whole");
        parse(&text.as_bytes()[..end], Some("x-Client-Cert"))
    }

    #[test]
    fn the_header_that_is_wanted_is_kept_as_often_as_it_comes() {
        let kept = |lines: &str| head(&format!("GET / HTTP/1.1\nHost: x{lines}")).unwrap().kept;
        assert!(kept("\nX-Client-Certs: a\nClient-Cert: b").is_empty());
        assert_eq!(
            vec![b"a+%20".to_vec(), vec![], b"b".to_vec()],
            kept("\nX-Client-Cert:  a+%20 \nX-CLIENT-CERT:\nA: c\nx-client-cert: b")
        );
    }

    #[test]
    fn a_plain_request_is_read() {
        let head =
            head("POST /v1/key/create/a%20b?x=1 HTTP/1.1\nHost: x\nContent-Length: 2").unwrap();
        assert_eq!(
            ("/v1/key/create/a b", Some("x=1"), Framing::Length(2), true),
            (head.path.as_str(), head.query.as_deref(), head.framing, head.keep_alive)
        );
    }

    #[test]
    fn absolute_targets_lose_their_authority() {
        assert_eq!("/version", head("GET https://x:7373/version HTTP/1.1\nHost: x").unwrap().path);
        assert_eq!("/", head("GET https://x HTTP/1.1\nHost: x").unwrap().path);
        assert_eq!("/", head("GET https://x?a HTTP/1.1\nHost: x").unwrap().path);
    }

    #[test]
    fn whatever_is_ambiguous_is_refused() {
        let refused = [
            "GET / HTTP/1.1\nHost: x\nContent-Length: 1\nContent-Length: 1",
            "GET / HTTP/1.1\nHost: x\nContent-Length: 1, 1",
            "GET / HTTP/1.1\nHost: x\nContent-Length: +1",
            "GET / HTTP/1.1\nHost: x\nContent-Length: -1",
            "GET / HTTP/1.1\nHost: x\nContent-Length: 0x1",
            "GET / HTTP/1.1\nHost: x\nContent-Length:",
            "GET / HTTP/1.1\nHost: x\nContent-Length: 99999999999999999999",
            "GET / HTTP/1.1\nHost: x\nContent-Length: 1\nTransfer-Encoding: chunked",
            "GET / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\nContent-Length: 1",
            "GET / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked",
            "GET / HTTP/1.1\nHost: x\nTransfer-Encoding: gzip, chunked",
            "GET / HTTP/1.1\nHost: x\nTransfer-Encoding: identity",
            "GET / HTTP/1.1\nHost: x\nTransfer-Encoding:",
            "GET / HTTP/1.0\nTransfer-Encoding: chunked",
            "GET / HTTP/1.1\nHost: x\nContent-Length : 1",
            "GET / HTTP/1.1\nHost: x\nX: a\n folded",
            "GET / HTTP/1.1\n Host: x",
            "GET / HTTP/1.1\nHost: x\nHost: x",
            "GET / HTTP/1.1",
            "GET / HTTP/2.0\nHost: x",
            "GET /%zz HTTP/1.1\nHost: x",
            "GET /%ff HTTP/1.1\nHost: x",
            "GET version HTTP/1.1\nHost: x",
            "GET  / HTTP/1.1\nHost: x",
            "GET /a b HTTP/1.1\nHost: x",
        ];
        for lines in refused {
            assert!(head(lines).is_err(), "{lines:?} was taken");
        }
    }

    #[test]
    fn a_bare_line_feed_is_refused_wherever_it_stands() {
        for text in ["GET / HTTP/1.1\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\n\r\n", "\n"] {
            assert!(find_end(text.as_bytes(), &mut 0).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_few_empty_lines_before_a_request_are_skipped() {
        for (text, before, found) in [
            ("GET", 0, Some((0, 0))),
            ("\r\n\r\nGET", 0, Some((4, 2))),
            ("\r\n\r", 3, Some((2, 4))),
            ("\n\r\n", 0, Some((0, 0))),
            ("\r\n", 4, None),
            ("\r\n\r\n\r\n\r\n\r\nGET", 0, None),
        ] {
            let mut lines = before;
            let count = skip_empty_lines(text.as_bytes(), &mut lines);
            assert_eq!(found, count.ok().map(|count| (count, lines)), "{text:?}");
        }
    }

    #[test]
    fn a_head_that_comes_byte_by_byte_is_found_once() {
        let text = b"GET / HTTP/1.1\r\nHost: x\r\n\r\nrest";
        let mut scanned = 0;
        for len in 0..27 {
            assert_eq!(Ok(None), find_end(&text[..len], &mut scanned));
        }
        assert_eq!(Ok(Some(27)), find_end(text, &mut scanned));
    }

    #[test]
    fn a_head_over_64_kib_is_refused() {
        let long =
            |length: usize| format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(length - 23));
        assert_eq!(Ok(Some(65_536)), find_end(long(65_536).as_bytes(), &mut 0));
        assert_eq!(431, find_end(long(65_537).as_bytes(), &mut 0).unwrap_err().status);
        let text = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(MAX_HEAD));
        assert_eq!(431, find_end(text.as_bytes(), &mut 0).unwrap_err().status);
    }

    #[test]
    fn http_1_0_closes_unless_asked_to_stay() {
        assert!(!head("GET / HTTP/1.0").unwrap().keep_alive);
        assert!(!head("GET / HTTP/1.0\nConnection: TE").unwrap().keep_alive);
        assert!(head("GET / HTTP/1.0\nConnection: TE, Keep-Alive").unwrap().keep_alive);
        for options in ["close, keep-alive", "keep-alive, close", "close\nConnection: keep-alive"] {
            for version in ["1.0", "1.1"] {
                let text = format!("GET / HTTP/{version}\nHost: x\nConnection: {options}");
                assert!(!head(&text).unwrap().keep_alive, "{text}");
            }
        }
        assert!(!head("GET / HTTP/1.1\nHost: x\nConnection: TE, close").unwrap().keep_alive);
    }
}
