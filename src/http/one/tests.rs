use std::time::Duration;

use super::*;

/// A client, its connection, and what happened there.
struct Peer {
    connection: Connection,
    now: Instant,
    /// Bytes that are not used yet.
    input: Vec<u8>,
    /// Events; bodies are joined.
    seen: Vec<String>,
    out: Vec<u8>,
    /// Requests that are complete are answered with this.
    reply: Option<Reply>,
}

impl Peer {
    fn is_idle(&self) -> bool {
        self.connection.answer == Answer::Whole && self.connection.body.is_none()
    }

    fn new() -> Self {
        let now = Instant::now();
        Self {
            connection: Connection::new(),
            now,
            input: Vec::new(),
            seen: Vec::new(),
            out: Vec::new(),
            reply: None,
        }
    }

    /// A client whose requests are answered as soon as they are complete.
    fn served() -> Self {
        Self { reply: Some(Reply::json(b"{}".to_vec())), ..Self::new() }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.input.extend_from_slice(bytes.as_ref());
        let input = std::mem::take(&mut self.input);
        let mut rest = input.as_slice();
        loop {
            let (used, event) = self.connection.next(rest, Some("x-kept"), self.now);
            let complete = match event {
                Event::Request { stream, head: Ok(head), is_complete } => {
                    let (method, path, kept) = (head.method.name(), head.path, head.kept.len());
                    self.seen.push(format!("{stream} {method} {path} {kept}"));
                    is_complete.then_some(stream)
                }
                Event::Request { stream, head: Err((malformed, path)), is_complete } => {
                    self.seen.push(format!("{stream} {} {path}", malformed.status));
                    is_complete.then_some(stream)
                }
                Event::Body { stream, bytes, is_complete } => {
                    let text = String::from_utf8_lossy(bytes);
                    let before = format!("{stream}: ");
                    match self.seen.last_mut().filter(|line| line.starts_with(&before)) {
                        Some(line) => line.push_str(&text),
                        None => self.seen.push(before + &text),
                    }
                    if is_complete {
                        self.seen.push(format!("{stream} complete"));
                    }
                    is_complete.then_some(stream)
                }
                Event::BadBody { stream } => {
                    self.seen.push(format!("{stream} bad"));
                    Some(stream)
                }
                Event::Nothing if used == 0 => break,
                Event::Nothing => None,
                event => panic!("{event:?}"),
            };
            assert!(used > 0, "an event that used nothing");
            rest = &rest[used..];
            if let (Some(stream), Some(reply)) = (complete, &self.reply) {
                answer(&mut self.connection, stream, reply, false, &mut self.out);
            }
        }
        self.input = rest.to_vec();
    }

    /// The bytes sent since the last call, without the date.
    fn sent(&mut self) -> String {
        let sent = String::from_utf8(std::mem::take(&mut self.out)).unwrap();
        let is_date = |line: &&str| line.starts_with("Date: ") && line.ends_with(" GMT\r\n");
        sent.split_inclusive('\n').filter(|line| !is_date(line)).collect()
    }
}

/// Gives a whole answer, as a server would.
fn answer(
    connection: &mut Connection,
    stream: u32,
    reply: &Reply,
    is_head: bool,
    out: &mut Vec<u8>,
) {
    let has_trailers = reply.is_stream && !is_head;
    let is_all = is_head || (reply.body.is_empty() && !has_trailers && !reply.is_open);
    connection.send_head(stream, reply, is_all, out);
    if !reply.body.is_empty() {
        connection.send_body(stream, &reply.body, !has_trailers && !reply.is_open, out);
    }
    if has_trailers {
        connection.send_trailers(stream, out);
    }
}

fn lines(text: &str) -> String {
    text.replace('\n', "\r\n")
}

fn get(more: &str) -> String {
    lines(&format!("GET /a HTTP/1.1\nHost: x\n{more}\n"))
}

const JSON: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
    Trailer: Status, Error\r\nContent-Length: 2\r\n\r\n{}";
const JSON_AND_CLOSE: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
    Trailer: Status, Error\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";

#[test]
fn requests_and_answers_are_the_same_however_the_bytes_arrive() {
    let all = lines(
        "\n\nGET /a%20b?c HTTP/1.1\nHost: x\nX-Kept: 1\nx-kept: 2\n\n\
        POST https://x/b HTTP/1.1\nhost: x\ncontent-length: 5\n\nhello\n\
        PUT /c HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n\
        3;x=y\nabc\n0a\n0123456789\n0\nTrailer: t\n\n\
        DELETE /d HTTP/1.0\nConnection: keep-alive\nContent-Length: 0\n\n\
        PURGE /e HTTP/1.1\nHost: x\nConnection: TE, close\n\nGET /never HTTP/1.1\n",
    );
    let seen = [
        "1 GET /a b 2",
        "2 POST /b 0",
        "2: hello",
        "2 complete",
        "3 PUT /c 0",
        "3: abc0123456789",
        "3 complete",
        "4 DELETE /d 0",
        "5 OTHER /e 0",
    ];
    let old = JSON.replace("HTTP/1.1", "HTTP/1.0");
    let old = old.replace("Content-Len", "Connection: keep-alive\r\nContent-Len");
    let answers = [JSON, JSON, JSON, &old, JSON_AND_CLOSE].concat();
    for piece in [1, 2, 3, 7, 50, 10_000] {
        let mut peer = Peer::served();
        for part in all.as_bytes().chunks(piece) {
            peer.send(part);
        }
        assert_eq!(seen, peer.seen[..], "{piece}");
        assert_eq!(answers, peer.sent(), "{piece}");
        assert!(peer.connection.is_ending() && peer.input.is_empty());
    }
}

#[test]
fn answers_are_as_the_request_and_the_reply_say() {
    let failure = || Reply {
        status: 400,
        content_type: Some("text/plain; charset=utf-8"),
        is_nosniff: true,
        ..Reply::json(b"no".to_vec())
    };
    let moved =
        || Reply { status: 301, header: Some(("Location", "/b".to_owned())), ..Reply::empty() };
    let list = || Reply::json_lines(b"{}\n".to_vec());
    let open = || Reply { body: b"{}\n".to_vec(), ..Reply::open_stream() };
    let (new, old) = ("GET / HTTP/1.1\nHost: x\n", "GET / HTTP/1.0\n");
    let kept = "GET / HTTP/1.0\nConnection: keep-alive\n";
    let nosniff = "Content-Type: text/plain; charset=utf-8\nX-Content-Type-Options: nosniff\n";
    let ndjson = "Content-Type: application/x-ndjson\n";
    let announced = "Trailer: Status, Error\n";
    let in_chunks = "Transfer-Encoding: chunked\n";
    for (request, reply, head, body) in [
        (new, Reply::empty(), format!("1.1 200 OK\n{announced}Content-Length: 0\n"), ""),
        (
            new,
            Reply { announces_trailers: false, ..Reply::empty() },
            "1.1 200 OK\nContent-Length: 0\n".to_owned(),
            "",
        ),
        (
            new,
            failure(),
            format!("1.1 400 Bad Request\n{nosniff}{announced}Content-Length: 2\n"),
            "no",
        ),
        (
            new,
            moved(),
            format!("1.1 301 Moved Permanently\nLocation: /b\n{announced}Content-Length: 0\n"),
            "",
        ),
        (
            old,
            Reply::empty(),
            format!("1.0 200 OK\n{announced}Connection: close\nContent-Length: 0\n"),
            "",
        ),
        (
            kept,
            failure(),
            format!(
                "1.0 400 Bad Request\n{nosniff}{announced}Connection: keep-alive\nContent-Length: 2\n"
            ),
            "no",
        ),
        (
            new,
            list(),
            format!("1.1 200 OK\n{ndjson}{announced}{in_chunks}"),
            "3\r\n{}\n\r\n0\r\nStatus: 200\r\nError: \r\n\r\n",
        ),
        (
            new,
            Reply::json_lines(Vec::new()),
            format!("1.1 200 OK\n{ndjson}{announced}{in_chunks}"),
            "0\r\nStatus: 200\r\nError: \r\n\r\n",
        ),
        (
            kept,
            list(),
            format!("1.0 200 OK\n{ndjson}{announced}Connection: keep-alive\nContent-Length: 3\n"),
            "{}\n",
        ),
        (
            new,
            open(),
            format!("1.1 200 OK\n{ndjson}Connection: close\n{in_chunks}"),
            "3\r\n{}\n\r\n0\r\n\r\n",
        ),
        (kept, open(), format!("1.0 200 OK\n{ndjson}Connection: close\n"), "{}\n"),
    ] {
        for is_head in [false, true] {
            let mut peer = Peer::new();
            peer.send(lines(&format!("{request}\n")));
            answer(&mut peer.connection, 1, &reply, is_head, &mut peer.out);
            peer.connection.send_body(1, b"", true, &mut peer.out);
            let body = if is_head { "" } else { body };
            assert_eq!(format!("HTTP/{}\r\n{body}", lines(&head)), peer.sent());
            assert_eq!(head.contains("close"), peer.connection.is_ending());
            // An answer is given once.
            answer(&mut peer.connection, 1, &reply, is_head, &mut peer.out);
            assert!(peer.out.is_empty());
        }
    }
}

#[test]
fn a_request_waits_for_the_answer_to_the_one_before() {
    let mut peer = Peer::new();
    let first = lines("POST /a HTTP/1.1\nHost: x\nContent-Length: 1\n\nx");
    peer.send(first + &get("") + &get(""));
    assert_eq!(["1 POST /a 0", "1: x", "1 complete"], peer.seen[..]);
    for stream in 1..3 {
        // Calls for another request have no effect.
        answer(&mut peer.connection, stream + 1, &Reply::empty(), false, &mut peer.out);
        peer.connection.reset(stream + 1);
        peer.send("");
        assert!(peer.out.is_empty());
        answer(&mut peer.connection, stream, &Reply::empty(), false, &mut peer.out);
        peer.send("");
        assert_eq!(&format!("{} GET /a 0", stream + 1), peer.seen.last().unwrap());
        peer.out.clear();
    }
    assert!(peer.input.is_empty());
}

#[test]
fn calls_for_another_request_change_nothing() {
    let streamed = Reply::json_lines(b"x".to_vec());
    let mut peer = Peer::new();
    let head = "Content-Length: 1\nExpect: 100-continue\n";
    peer.send(get(head));
    for other in [0, 2] {
        peer.connection.go_ahead(other, &mut peer.out);
        peer.connection.send_head(other, &streamed, false, &mut peer.out);
        assert_eq!("", peer.sent());
    }
    peer.connection.go_ahead(1, &mut peer.out);
    assert_eq!("HTTP/1.1 100 Continue\r\n\r\n", peer.sent());
    peer.connection.send_head(1, &streamed, false, &mut peer.out);
    assert!(peer.sent().ends_with("\r\n\r\n"));
    for other in [0, 2] {
        peer.connection.send_body(other, b"other", true, &mut peer.out);
        peer.connection.send_trailers(other, &mut peer.out);
        peer.connection.reset(other);
        assert_eq!("", peer.sent());
    }
    peer.connection.send_body(1, b"own", false, &mut peer.out);
    peer.connection.send_trailers(1, &mut peer.out);
    assert_eq!("3\r\nown\r\n0\r\nStatus: 200\r\nError: \r\n\r\n", peer.sent());
    // Nor do calls for the one that has its answer.
    peer.connection.send_body(1, b"more", true, &mut peer.out);
    peer.connection.send_trailers(1, &mut peer.out);
    peer.connection.send_head(1, &streamed, false, &mut peer.out);
    peer.connection.go_ahead(1, &mut peer.out);
    assert_eq!("", peer.sent());
}

#[test]
fn each_status_has_the_phrase_of_the_standard() {
    // RFC 9110 15
    for line in [
        "200 OK",
        "301 Moved Permanently",
        "307 Temporary Redirect",
        "400 Bad Request",
        "403 Forbidden",
        "404 Not Found",
        "405 Method Not Allowed",
        "406 Not Acceptable",
        "417 Expectation Failed",
        "422 Unprocessable Entity",
        "429 Too Many Requests",
        "431 Request Header Fields Too Large",
        "500 Internal Server Error",
        "501 Not Implemented",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "504 Gateway Timeout",
        "505 HTTP Version Not Supported",
    ] {
        let reply = Reply { status: line[..3].parse().unwrap(), ..Reply::empty() };
        let mut out = Vec::new();
        answer::put_head(&reply, true, true, &mut out);
        assert!(out.starts_with(format!("HTTP/1.1 {line}\r\n").as_bytes()), "{line}");
    }
}

#[test]
fn a_go_ahead_is_for_clients_that_wait_for_it() {
    const GO_AHEAD: &str = "HTTP/1.1 100 Continue\r\n\r\n";
    let post = |version: &str, more: &str| {
        lines(&format!("POST /a HTTP/{version}\nHost: x\nExpect: 100-Continue\n{more}\n"))
    };
    let chunked = "Transfer-Encoding: chunked\n";
    for (head, behind, rest, expected) in [
        (post("1.1", "Content-Length: 2\n"), "", "{}", GO_AHEAD),
        (post("1.1", chunked), "", "2\r\n{}\r\n0\r\n\r\n", GO_AHEAD),
        (post("1.1", "Content-Length: 2\n"), "{", "}", ""),
        (post("1.0", "Connection: keep-alive\nContent-Length: 2\n"), "", "{}", ""),
        (get("Content-Length: 2\n"), "", "{}", ""),
    ] {
        let mut peer = Peer::served();
        peer.send(head.clone() + behind);
        peer.connection.go_ahead(1, &mut peer.out);
        peer.connection.go_ahead(1, &mut peer.out);
        assert_eq!(expected, peer.sent(), "{head}");
        peer.send(rest);
        assert!(!peer.sent().contains("close"), "{head}");
        // A client that gets its answer first may or may not send the body.
        let mut peer = Peer::new();
        peer.send(head.clone() + behind);
        answer(&mut peer.connection, 1, &Reply::empty(), false, &mut peer.out);
        let awaits = head.contains("1.1\r\nHost: x\r\nExpect");
        assert_eq!(awaits, peer.sent().contains("Connection: close"), "{head}");
        assert_eq!(awaits, peer.connection.is_ending(), "{head}");
    }
    // Nor is it known what a client sends that expects to send nothing.
    let mut peer = Peer::served();
    peer.send(post("1.1", "Content-Length: 0\n"));
    assert_eq!(JSON_AND_CLOSE, peer.sent());
    let mut peer = Peer::served();
    peer.send(post("1.1", ""));
    assert_eq!(JSON, peer.sent());
}

#[test]
fn an_unread_body_comes_in_behind_the_answer_unless_it_is_long() {
    for (length, is_last) in [(10, false), (MAX_DISCARD, false), (MAX_DISCARD + 1, true)] {
        let mut peer = Peer::new();
        peer.send(get(&format!("Content-Length: {length}\n")) + "12345");
        assert_eq!(["1 GET /a 0", "1: 12345"], peer.seen[..]);
        answer(&mut peer.connection, 1, &Reply::json(b"{}".to_vec()), false, &mut peer.out);
        assert_eq!(if is_last { JSON_AND_CLOSE } else { JSON }, peer.sent());
        assert_eq!(is_last, peer.connection.is_ending());
        assert_eq!(is_last, peer.is_idle());
        peer.seen.clear();
        peer.send("x".repeat(length as usize - 5) + &get(""));
        match is_last {
            true => assert!(peer.seen.is_empty() && peer.input.is_empty()),
            false => assert_eq!(["1 complete", "2 GET /a 0"], peer.seen[1..]),
        }
    }
    // A long one that was read does not end the connection.
    let mut peer = Peer::served();
    peer.send(get(&format!("Content-Length: {}\n", MAX_DISCARD + 1)));
    peer.send(vec![b'x'; MAX_DISCARD as usize + 1]);
    assert_eq!(JSON, peer.sent());
}

#[test]
fn broken_chunks_end_the_connection_with_their_answer() {
    let chunked = get("Transfer-Encoding: chunked\n");
    let mut peer = Peer::served();
    peer.send(chunked.clone() + "2\r\n{}\r\nx\r\n" + &get(""));
    assert_eq!(["1 GET /a 0", "1: {}", "1 bad"], peer.seen[..]);
    assert_eq!(JSON_AND_CLOSE, peer.sent());
    assert!(peer.connection.is_ending());
    // One that was given stands.
    let mut peer = Peer::new();
    peer.send(chunked);
    answer(&mut peer.connection, 1, &Reply::empty(), false, &mut peer.out);
    assert!(!peer.sent().contains("close") && !peer.connection.is_ending());
    peer.send("x\r\n".to_owned() + &get(""));
    assert_eq!(["1 GET /a 0", "1 bad"], peer.seen[..]);
    assert!(peer.connection.is_ending() && peer.input.is_empty());
}

#[test]
fn a_refused_head_ends_the_connection_with_its_answer() {
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(70_000));
    let path = format!("1 431 /{}", "a".repeat(2047));
    for (bytes, seen) in [
        ("GET /a?b HTTP/1.1\n\n", "1 400 /a"),
        ("GET /\u{e9} HTTP/2.0\nHost: x\n\n", "1 505 /%C3%A9"),
        ("GET / HTTP/1.1\nHost: x\nTransfer-Encoding: gzip\n\n", "1 501 /"),
        ("POST / HTTP/1.0\nExpect: a-miracle\n\n", "1 417 /"),
        ("\n\n\n\n\n", "1 400 "),
        ("x\n\n", "1 400 "),
        (&long, &path),
    ] {
        let mut peer = Peer::served();
        peer.send(lines(bytes) + &get(""));
        assert_eq!([seen], peer.seen[..]);
        assert_eq!(JSON_AND_CLOSE, peer.sent());
        assert!(peer.connection.is_ending() && peer.input.is_empty());
    }
    let mut peer = Peer::served();
    peer.send("GET / HTTP/1.1\r\nHost: x\n\r\n");
    assert_eq!(["1 400 /"], peer.seen[..]);
}

#[test]
fn the_end_comes_after_the_answer_that_is_owed() {
    let mut peer = Peer::new();
    peer.connection.end();
    assert!(peer.connection.is_ending());
    // A request that has begun is still answered, and the last one.
    let mut peer = Peer::served();
    peer.send(&get("")[..20]);
    peer.connection.end();
    assert!(!peer.connection.is_ending());
    peer.send(&get("")[20..]);
    assert_eq!(JSON_AND_CLOSE, peer.sent());
    assert!(peer.connection.is_ending());
    // An answer whose head is on its way can't tell, but is whole.
    let mut peer = Peer::new();
    peer.send(get("Content-Length: 2\n"));
    let reply = Reply::json(b"{}".to_vec());
    peer.connection.send_head(1, &reply, false, &mut peer.out);
    peer.connection.end();
    assert!(!peer.connection.is_ending());
    peer.connection.send_body(1, &reply.body, true, &mut peer.out);
    assert_eq!(JSON, peer.sent());
    assert!(!peer.connection.is_ending(), "the body is not dropped yet");
    peer.send("{}");
    assert!(peer.connection.is_ending());
    // A reset ends it as it is.
    let mut peer = Peer::new();
    peer.send(get("Content-Length: 2\n"));
    peer.connection.reset(1);
    assert!(peer.connection.is_ending() && peer.is_idle());
    answer(&mut peer.connection, 1, &reply, false, &mut peer.out);
    assert!(peer.out.is_empty());
}

#[test]
fn while_a_log_is_followed_further_input_is_dropped() {
    let mut peer = Peer::new();
    peer.send(get("Transfer-Encoding: chunked\n"));
    peer.connection.send_head(1, &Reply::open_stream(), false, &mut peer.out);
    peer.sent();
    for bytes in [get(""), "x\r\n".repeat(1000), String::new()] {
        peer.send(bytes);
        assert!(peer.input.is_empty() && peer.seen.len() == 1 && !peer.connection.is_ending());
        peer.connection.send_body(1, b"{}\n", false, &mut peer.out);
        peer.connection.send_body(1, b"", false, &mut peer.out);
        assert_eq!("3\r\n{}\n\r\n", peer.sent());
    }
    peer.connection.send_body(1, b"{}\n", true, &mut peer.out);
    assert_eq!("3\r\n{}\n\r\n0\r\n\r\n", peer.sent());
    assert!(peer.connection.is_ending());
}

#[test]
fn it_is_known_since_when_a_head_comes_in() {
    let mut peer = Peer::new();
    let start = peer.now;
    let at = |second| start + Duration::from_secs(second);
    let mut send = |second, bytes: &str| {
        peer.now = at(second);
        peer.send(bytes);
        peer.connection.incomplete_since()
    };
    // Empty lines before a request are nothing.
    for (second, bytes) in [(1, "\r"), (2, "\n"), (3, "\r\n\r")] {
        assert_eq!(None, send(second, bytes));
    }
    assert_eq!(Some(at(4)), send(4, "\nG"));
    assert_eq!(Some(at(4)), send(5, &get("Content-Length: 2\n")[1..30]));
    assert_eq!(None, send(6, &get("Content-Length: 2\n")[30..]));
    assert_eq!(None, send(7, "{}"));
}

#[test]
fn nothing_that_comes_in_makes_it_panic_or_answer_without_end() {
    let valid = lines(
        "\nGET /a%20b?c HTTP/1.1\nHost: x\nX-Kept: 1\nConnection: TE\n\n\
        POST https://x/b HTTP/1.1\nHost: x\nExpect: 100-continue\nContent-Length: 5\n\nhello\
        PUT /c HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n3;x=y\nabc\n0\nTrailer: t\n\n\
        GET /d HTTP/1.0\nConnection: keep-alive\n\nGET /e HTTP/1.1\nHost: x\n\n",
    );
    let mut random = 1_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let special = b"\r\n\0 :;,/?%*+-09aAfF\x7f\x80\xff";
    for _ in 0..5000 {
        let mut bytes = valid.clone().into_bytes();
        for _ in 0..1 + next(4) {
            let at = next(bytes.len());
            match next(4) {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, special[next(special.len())]),
                2 => bytes[at] ^= 1 << next(8),
                _ => bytes[at] = special[next(special.len())],
            }
        }
        let (mut whole, mut pieces) = (Peer::served(), Peer::served());
        whole.send(&bytes);
        bytes.chunks(1 + next(40)).for_each(|part| pieces.send(part));
        assert!(whole.out.len() < 2000 && whole.seen.len() < 20);
        assert_eq!(whole.sent(), pieces.sent(), "{:?}", String::from_utf8_lossy(&bytes));
        assert_eq!(whole.seen, pieces.seen);
    }
}
