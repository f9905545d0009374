//! Request heads: request line and headers, from bytes to a checked [`Head`].

use std::{borrow::Cow, mem::MaybeUninit};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, percent_decode_str, percent_encode};

use super::{Malformed, Method};

/// The longest request head, in bytes, including its final empty line.
pub const MAX_HEAD: usize = 64 * 1024;

/// Empty lines that may come before a request: clients of old send one after a body.
const MAX_EMPTY_LINES: u8 = 4;

/// More header lines than this are refused.
const MAX_HEADERS: usize = 100;

/// What a client may expect, without case, and what it hears if it expects something else.
pub(super) const CONTINUE: &[u8] = b"100-continue";
pub(super) const UNSUPPORTED_EXPECTATION: Malformed =
    Malformed { status: 417, reason: "unsupported expectation" };

/// How the end of the body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// `Content-Length`, in bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A request head that has one meaning only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// The path, percent-decoded but not cleaned.
    pub path: String,
    /// What follows the first `?` of the target.
    pub query: Option<String>,
    /// HTTP/1.1 rather than HTTP/1.0.
    pub is_http11: bool,
    /// Whether the client wants the connection to go on after the answer.
    pub keep_alive: bool,
    /// How long the body is.
    pub framing: Framing,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The values of the header that the caller of [`parse`] wants kept.
    pub kept: Vec<Vec<u8>>,
}

impl Head {
    /// The head of a request of HTTP/2 or without headers; its connection goes on.
    ///
    /// # Errors
    /// [`Malformed`] if `target` is no path, or not UTF-8 once it is decoded.
    pub fn new(method: Method, target: &str) -> Result<Self, Malformed> {
        let (path, query) = parse_target(target)?;
        Ok(Self {
            method,
            path,
            query,
            is_http11: true,
            keep_alive: true,
            framing: Framing::None,
            expects_continue: false,
            kept: Vec::new(),
        })
    }
}

/// Counts the bytes of the empty lines that `input` begins with; they are no part of a request (RFC 9112
/// 2.2). `lines` are those before this request.
///
/// # Errors
/// [`Malformed`] if there are too many. A client that goes on like that wants no request.
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

/// Finds the end of the head in `input`, of which the first `*scanned` bytes were looked at before.
///
/// Returns the length of the head with its final empty line, or `None` if more bytes are needed.
///
/// # Errors
/// [`Malformed`] for a line feed without carriage return, and for a head over [`MAX_HEAD`].
pub fn find_end(input: &[u8], scanned: &mut usize) -> Result<Option<usize>, Malformed> {
    // RFC 9112 2.2: a line ends with CR LF. Software in front of us may or may not take a bare LF
    // for a line end; whoever can make the two disagree can smuggle a request, so neither may pass.
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
        return Err(Malformed { status: 431, reason: "request head over 64 KiB" });
    }
    Ok(None)
}

/// Parses one whole head, as [`find_end`] delimits it, and keeps the values of the header `kept`,
/// its name without case.
///
/// # Errors
/// [`Malformed`] says what was wrong. Refused are all heads that two parsers could read differently
/// (RFC 9112 6.3): several lengths, a length with chunked, transfer codings other than chunked,
/// folded lines, several `Host` lines, a missing `Host` in HTTP/1.1.
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
    let mut hosts = 0;
    for line in request.headers.iter() {
        if kept.is_some_and(|name| line.name.eq_ignore_ascii_case(name)) {
            head.kept.push(line.value.to_vec());
        }
        if line.name.eq_ignore_ascii_case("content-length") {
            if head.framing != Framing::None {
                return Err(Malformed::bad_request("more than one body length"));
            }
            head.framing = Framing::Length(parse_length(line.value)?);
        } else if line.name.eq_ignore_ascii_case("transfer-encoding") {
            if head.framing != Framing::None {
                return Err(Malformed::bad_request("more than one body length"));
            }
            if !is_http11 {
                return Err(Malformed::bad_request("transfer coding in HTTP/1.0"));
            }
            if !line.value.eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed { status: 501, reason: "unsupported transfer coding" });
            }
            head.framing = Framing::Chunked;
        } else if line.name.eq_ignore_ascii_case("connection") {
            for option in tokens(line.value) {
                if option.eq_ignore_ascii_case("close") {
                    head.keep_alive = false;
                } else if option.eq_ignore_ascii_case("keep-alive") && !is_http11 {
                    head.keep_alive = true;
                }
            }
        } else if line.name.eq_ignore_ascii_case("expect") {
            if !line.value.eq_ignore_ascii_case(CONTINUE) {
                return Err(UNSUPPORTED_EXPECTATION);
            }
            head.expects_continue = is_http11;
        } else if line.name.eq_ignore_ascii_case("host") {
            hosts += 1;
        }
    }
    if hosts > 1 {
        return Err(Malformed::bad_request("more than one Host header"));
    }
    if is_http11 && hosts == 0 {
        return Err(Malformed::bad_request("missing required Host header"));
    }
    Ok(head)
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &str> {
    std::str::from_utf8(value).unwrap_or_default().split(',').map(str::trim)
}

/// Digits only: `+5`, `5 ` and `5, 5` are lengths to some parsers and not to others.
fn parse_length(value: &[u8]) -> Result<u64, Malformed> {
    let wrong = Malformed::bad_request("malformed Content-Length");
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(wrong);
    }
    std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).ok_or(wrong)
}

/// Splits a request target in origin form or absolute form into decoded path and query.
fn parse_target(target: &str) -> Result<(String, Option<String>), Malformed> {
    let local = if target.starts_with('/') {
        Cow::Borrowed(target)
    } else {
        match target.split_once("://") {
            Some((scheme, rest))
                if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") =>
            {
                let path = rest.find(['/', '?']).map_or("", |at| &rest[at..]);
                if path.starts_with('/') {
                    Cow::Borrowed(path)
                } else {
                    Cow::Owned(format!("/{path}"))
                }
            }
            _ => return Err(Malformed::bad_request("malformed request target")),
        }
    };
    let (path, query) = match local.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (&*local, None),
    };
    Ok((decode(path)?, query))
}

fn decode(path: &str) -> Result<String, Malformed> {
    if memchr::memchr(b'%', path.as_bytes()).is_none() {
        return Ok(path.to_owned());
    }
    if !is_escaped_well(path.as_bytes()) {
        return Err(Malformed::bad_request("invalid URL escape"));
    }
    match percent_decode_str(path).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Malformed::bad_request("request path is not UTF-8")),
    }
}

/// What seems to be the target in the first line of a head that is malformed; empty if there is none.
pub fn seeming_target(head: &[u8]) -> &[u8] {
    let end = memchr::memchr2(b'\r', b'\n', head).unwrap_or(head.len());
    let mut words = head[..end].split(|byte| *byte == b' ');
    words.nth(1).unwrap_or_default()
}

/// The path that a malformed `target` seems to name, for the audit log: as it came, without query, at
/// most 2 KiB of it, escaped where it is no visible ASCII.
pub fn seeming_path(target: &[u8]) -> String {
    const MAX: usize = 2048;
    const UNSEEN: &AsciiSet = &CONTROLS.add(b' ');
    let end = memchr::memchr(b'?', target).unwrap_or(target.len());
    percent_encode(&target[..end.min(MAX)], UNSEEN).to_string()
}

/// Whether two hex digits follow every percent sign.
fn is_escaped_well(text: &[u8]) -> bool {
    let is_hex = |at: usize| text.get(at).is_some_and(u8::is_ascii_hexdigit);
    text.iter().enumerate().all(|(at, byte)| *byte != b'%' || (is_hex(at + 1) && is_hex(at + 2)))
}

/// What `text`, escaped as in a query (`%XX`, `+` is a blank), stands for; `None` if it is not.
pub fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let blank = |byte: &u8| if *byte == b'+' { b' ' } else { *byte };
    let text: Vec<u8> = text.iter().map(blank).collect();
    is_escaped_well(&text).then(|| percent_decode(&text).collect())
}

/// Whether [`clean`] would leave `path` as it is.
pub fn is_clean(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else {
        return false;
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    (rest.is_empty() && path.len() == 1)
        || rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// The shortest path that means the same: without empty elements, `.` and `..`; a trailing slash stays.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut cleaned = String::with_capacity(path.len());
    for part in &parts {
        cleaned.push('/');
        cleaned.push_str(part);
    }
    if cleaned.is_empty() || path.ends_with('/') {
        cleaned.push('/');
    }
    cleaned
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
    fn escapes_of_queries_are_resolved() {
        assert_eq!(Some(b"a b+\n\xff".to_vec()), unescape(b"a+b%2B%0a%FF"));
        for text in [&b"%"[..], b"%1", b"%1g", b"a%%20"] {
            assert_eq!(None, unescape(text));
        }
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
        let text = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(MAX_HEAD));
        assert_eq!(431, find_end(text.as_bytes(), &mut 0).unwrap_err().status);
    }

    #[test]
    fn http_1_0_closes_unless_asked_to_stay() {
        assert!(!head("GET / HTTP/1.0").unwrap().keep_alive);
        assert!(head("GET / HTTP/1.0\nConnection: keep-alive").unwrap().keep_alive);
        assert!(!head("GET / HTTP/1.1\nHost: x\nConnection: TE, close").unwrap().keep_alive);
    }

    #[test]
    fn clean_paths_are_known_without_cleaning_them() {
        for path in [
            "/", "//", "/a", "/a/", "/a//", "//a", "/.", "/a/./b", "/a/../b", "/..a/.b", "a", "*",
            "",
        ] {
            assert_eq!(clean(path) == path, is_clean(path), "{path:?}");
        }
    }

    #[test]
    fn paths_are_cleaned_as_the_vectors_say() {
        let text = include_str!("../../testdata/paths.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        for case in vectors["last_element"].as_array().unwrap() {
            let path = case["path"].as_str().unwrap();
            if path.starts_with('/') {
                let cleaned = clean(path);
                assert_eq!(cleaned == path, is_clean(path), "{path}");
                // The vectors give the form without trailing slash; routing keeps the slash.
                let cleaned = if cleaned == "/" { "/" } else { cleaned.trim_end_matches('/') };
                assert_eq!(case["cleaned"].as_str().unwrap(), cleaned);
            }
        }
    }
}
