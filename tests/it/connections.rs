//! Connections: keep-alive, pipelining, everything ambiguous, and clients that are slow, gone or
//! hostile while others are served.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use crate::common::{
    AT_5_SECONDS, Client, Connection, Crowd, Follower, Identity, PATIENCE, Server, base64,
    client::{chunked, request},
    closes_between, stored_key, wait_for, wait_until,
};
use rustls::ClientConnection;
use serde_json::json;

fn start() -> Server {
    raise_descriptor_limit();
    Server::start(|config| {
        std::fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
    })
}

/// Room for hundreds of connections in this process.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn head(lines: &str) -> String {
    format!("{}\r\n\r\n", lines.replace('\n', "\r\n"))
}

const SMUGGLED: &[u8] = b"POST /v1/key/create/smuggled HTTP/1.1\r\nHost: kes\r\n\r\n";

/// Sends `bytes` and a second request behind them, and asserts that the first is refused, the
/// second never executed, and the connection closed.
#[track_caller]
fn is_refused(server: &Server, bytes: impl AsRef<[u8]>) -> u16 {
    let bytes = bytes.as_ref();
    let what = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    let mut connection = server.root().connect();
    let _ = connection.try_send(&[bytes, SMUGGLED].concat());
    let answer = connection.try_response(false).unwrap_or_else(|e| panic!("{what:?}: {e}"));
    assert!((400..600).contains(&answer.status), "{what:?}: {answer:?}");
    assert_eq!(Some("close"), answer.header("Connection"), "{what:?}");
    assert!(connection.is_closed(), "{what:?}: {answer:?}");
    assert!(!server.keys().join("smuggled").exists(), "{what:?}");
    answer.status
}

// HTTP

#[test]
fn a_connection_serves_many_requests() {
    let server = start();
    let mut connection = server.root().connect();
    for _ in 0..200 {
        let answer = connection.request("POST", "/v1/key/generate/my-key", "{}");
        answer.is_json_success();
        assert_eq!(None, answer.header("Connection"));
    }
    assert_eq!(200, server.audit(200).len());
}

#[test]
fn a_client_that_asks_for_it_is_hung_up_on() {
    let server = start();
    for option in ["close", "Close", "keep-alive, close"] {
        let mut connection = server.root().connect();
        connection.send(head(&format!("GET /version HTTP/1.1\nHost: kes\nConnection: {option}")));
        let answer = connection.response();
        answer.is_json_success();
        assert_eq!(Some("close"), answer.header("Connection"));
        assert!(connection.is_closed());
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let server = start();
    let mut connection = server.root().connect();
    let mut bytes = Vec::new();
    for number in 0..100 {
        bytes.extend(request("POST", &format!("/v1/key/create/key-{number}"), b"ignored"));
        let body = json!({ "plaintext": base64(number.to_string()) }).to_string();
        let path = format!("/v1/key/encrypt/key-{number}");
        bytes.extend(request("POST", &path, body.as_bytes()));
        bytes.extend(chunked("POST", &path, body.as_bytes(), 7));
        bytes.extend(b"\r\n");
        bytes.extend(request("GET", &format!("/v1/key/list/key-{number}"), b""));
        bytes.extend(request("GET", "/nowhere", b""));
    }
    connection.send(&bytes);
    let mut sealed = Vec::new();
    for number in 0..100 {
        connection.response().is_empty_success();
        for _ in 0..2 {
            let answer = connection.response();
            answer.is_json_success();
            sealed.push((number, answer.text().to_owned()));
        }
        let answer = connection.response();
        assert_eq!(format!("{{\"Name\":\"key-{number}\"}}\n"), answer.text());
        assert_eq!(404, connection.response().status);
    }
    for (number, body) in sealed {
        let path = format!("/v1/key/decrypt/key-{number}");
        let answer = connection.request("POST", &path, body);
        assert_eq!(number.to_string().as_bytes(), answer.bytes("plaintext"));
    }
    assert_eq!(700, server.audit(700).len());
}

#[test]
fn a_request_may_arrive_in_pieces() {
    let server = start();
    let body = json!({ "plaintext": "" }).to_string();
    for bytes in [
        request("POST", "/v1/key/encrypt/my-key", body.as_bytes()),
        chunked("POST", "/v1/key/encrypt/my-key", body.as_bytes(), 5),
    ] {
        let mut connection = server.root().connect();
        for byte in &bytes {
            connection.send([*byte]);
        }
        connection.response().is_json_success();
        for part in bytes.chunks(bytes.len() / 3) {
            connection.send(part);
            std::thread::sleep(Duration::from_millis(20));
        }
        connection.response().is_json_success();
    }
}

#[test]
fn http_1_0_is_spoken() {
    let server = start();
    let mut connection = server.root().connect();
    connection.send(head("GET /version HTTP/1.0"));
    let answer = connection.response();
    answer.is_json_success();
    assert_eq!(("HTTP/1.0", Some("close")), (answer.version.as_str(), answer.header("Connection")));
    assert!(connection.is_closed());

    let mut connection = server.root().connect();
    for _ in 0..3 {
        connection.send(head("GET /v1/key/list/* HTTP/1.0\nConnection: Keep-Alive"));
        let answer = connection.response();
        assert_eq!((200, "{\"Name\":\"my-key\"}\n"), (answer.status, answer.text()));
        assert_eq!(None, answer.header("Transfer-Encoding"));
        assert_eq!(Some("keep-alive"), answer.header("Connection"));
    }
}

#[test]
fn the_target_may_be_absolute() {
    let server = start();
    let mut connection = server.root().connect();
    for target in ["https://kes:7373/version", "HTTPS://[::1]/version?a=b", "http://x/version"] {
        connection.send(head(&format!("GET {target} HTTP/1.1\nHost: kes")));
        connection.response().is_json_success();
    }
    connection.send(head("POST https://kes/v1/key/create/a HTTP/1.1\nHost: kes"));
    connection.response().is_empty_success();
    assert_eq!("/v1/key/create/a", server.audit(4)[3]["request"]["path"]);
}

#[test]
fn a_client_that_waits_for_it_gets_the_go_ahead() {
    let server = start();
    let mut connection = server.root().connect();
    for _ in 0..2 {
        connection.send(head(
            "POST /v1/key/encrypt/my-key HTTP/1.1\nHost: kes\nContent-Length: 2\nExpect: 100-Continue",
        ));
        let answer = connection.response();
        assert_eq!((100, 0), (answer.status, answer.headers.len()));
        connection.send("{}");
        connection.response().is_json_success();
    }
    connection.send(head(
        "POST /v1/key/encrypt/my-key HTTP/1.1\nHost: kes\nTransfer-Encoding: chunked\nExpect: 100-continue",
    ));
    assert_eq!(100, connection.response().status);
    connection.send("2\r\n{}\r\n0\r\n\r\n");
    connection.response().is_json_success();
}

#[test]
fn whoever_is_refused_gets_no_go_ahead() {
    let server = start();
    let stranger = Identity::new("stranger");
    let (root, stranger) = (server.root(), server.client(&stranger));
    for (client, method, path, length, status) in [
        (&stranger, "POST", "/v1/key/encrypt/my-key", 2, 403),
        (&root, "GET", "/v1/key/encrypt/my-key", 2, 405),
        (&root, "POST", "/nowhere", 2, 404),
        (&root, "POST", "/v1//nowhere", 2, 301),
        (&root, "POST", "/v1/key/encrypt/a/b", 2, 400),
        (&root, "POST", "/v1/key/encrypt/my-key", 1 << 20, 400),
        (&root, "POST", "/v1/key/create/new", 2, 200),
    ] {
        let mut connection = client.connect();
        connection.send(head(&format!(
            "{method} {path} HTTP/1.1\nHost: kes\nContent-Length: {length}\nExpect: 100-continue"
        )));
        let answer = connection.response();
        assert_eq!(status, answer.status, "{path}");
        assert_eq!(Some("close"), answer.header("Connection"), "{path}");
        assert!(connection.is_closed(), "{path}");
    }
    let mut connection = root.connect();
    connection.send(head("GET /version HTTP/1.1\nHost: kes\nExpect: a-miracle"));
    assert_eq!(417, connection.response().status);
    assert!(connection.is_closed());
}

#[test]
fn the_answer_to_head_has_no_body() {
    let server = start();
    let mut connection = server.root().connect();
    for path in ["/version", "/v1/key/list/*", "/nowhere", "/v1//key"] {
        let answer = connection.request("HEAD", path, "");
        assert!(answer.status >= 300 && answer.body.is_empty(), "{answer:?}");
    }
    connection.request("GET", "/version", "").is_json_success();
}

#[test]
fn an_answer_ends_where_it_says() {
    let server = start();
    let mut connection = server.root().connect();
    connection.send(head("GET /version HTTP/1.1\nHost: kes\nConnection: close"));
    let all = String::from_utf8(connection.rest()).unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap();
    let length = format!("Content-Length: {}", body.len());
    assert!(head.lines().any(|line| line == length), "{all}");
    assert!(head.contains("\r\nDate: "), "{all}");
}

// smuggling

#[test]
fn heads_with_two_meanings_are_refused() {
    let server = start();
    let post = "POST /v1/key/encrypt/my-key HTTP/1.1\nHost: kes";
    for lines in [
        "Content-Length: 2\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\nContent-Length: 2",
        "Content-Length: 2\nContent-Length: 3",
        "Content-Length: 2\nContent-Length: 2",
        "content-length: 2\nCONTENT-LENGTH: 0",
        "Content-Length: 2, 2",
        "Content-Length: +1",
        "Content-Length: -1",
        "Content-Length: 0x2",
        "Content-Length: 2 2",
        "Content-Length: 2.0",
        "Content-Length: ",
        "Content-Length: 99999999999999999999",
        "Content-Length : 2",
        "Content-Length\t: 2",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding:\u{b}chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: ",
        "X: a\n b",
        "X: a\n\tContent-Length: 2",
        "X: a\rContent-Length: 2",
        "X: a\0b",
        "X\0: a",
        "X Y: a",
        ": a",
        "no colon",
        "Host: another",
        " X: a",
    ] {
        is_refused(&server, head(&format!("{post}\n{lines}")));
    }
    // The space that may hide a header line in front of the first one.
    is_refused(
        &server,
        head("POST /v1/key/encrypt/my-key HTTP/1.1\n Content-Length: 2\nHost: kes"),
    );
    assert_eq!(1, server.key_files().len());
}

#[test]
fn line_feeds_alone_are_refused() {
    let server = start();
    for bytes in [
        "GET /version HTTP/1.1\nHost: kes\n\n",
        "GET /version HTTP/1.1\r\nHost: kes\n\r\n",
        "GET /version HTTP/1.1\r\nHost: kes\r\n\n",
        "GET /version HTTP/1.1\nHost: kes\r\n\r\n",
        "GET /version HTTP/1.1\r\nHost: kes\r\nX: a\nContent-Length: 3\r\n\r\n",
        "\nGET /version HTTP/1.1\r\nHost: kes\r\n\r\n",
    ] {
        assert_eq!(400, is_refused(&server, bytes), "{bytes:?}");
    }
}

#[test]
fn request_lines_that_are_none_are_refused() {
    let server = start();
    for line in [
        "GET /version",
        "GET  /version HTTP/1.1",
        "GET /version  HTTP/1.1",
        "GET /version HTTP/1.1 ",
        " GET /version HTTP/1.1",
        "GET\t/version\tHTTP/1.1",
        "GET /version HTTP/2.0",
        "GET /version HTTP/1.2",
        "GET /version HTTP/0.9",
        "GET /version http/1.1",
        "GET /version HTTP/1.1x",
        "GET version HTTP/1.1",
        "GET /v\u{1}ersion HTTP/1.1",
        "GET /a%zz HTTP/1.1",
        "GET /a% HTTP/1.1",
        "GET /a%f HTTP/1.1",
        "GET /%ff HTTP/1.1",
        "GET kes:443 HTTP/1.1",
        "CONNECT kes:443 HTTP/1.1",
        "G(T /version HTTP/1.1",
        "PRI * HTTP/2.0",
        "/version",
    ] {
        is_refused(&server, head(&format!("{line}\nHost: kes")));
    }
    is_refused(&server, head("GET /version HTTP/1.1"));
    is_refused(&server, head("POST /v1/key/encrypt/my-key HTTP/1.0\nTransfer-Encoding: chunked"));
    is_refused(&server, [&[0; 100][..], b"\r\n\r\n"].concat());
}

#[test]
fn heads_up_to_64_kib_are_read() {
    let server = start();
    let sized = |size: usize| {
        let rest = head("GET /version HTTP/1.1\nHost: kes\nX: ");
        head(&format!("GET /version HTTP/1.1\nHost: kes\nX: {}", "a".repeat(size - rest.len())))
    };
    assert_eq!(64 * 1024, sized(64 * 1024).len());
    let mut connection = server.root().connect();
    for _ in 0..2 {
        connection.send(sized(64 * 1024));
        connection.response().is_json_success();
    }
    assert_eq!(431, is_refused(&server, sized(64 * 1024 + 1)));
    assert_eq!(431, is_refused(&server, sized(200 * 1024)));
    let endless = format!("GET /{} HTTP/1.1\r\n", "a".repeat(500 * 1024));
    assert_eq!(431, is_refused(&server, endless));
    let lines =
        |count| head(&format!("GET /version HTTP/1.1\nHost: kes{}", "\nX: a".repeat(count)));
    connection.send(lines(99));
    connection.response().is_json_success();
    assert_eq!(431, is_refused(&server, lines(100)));
}

#[test]
fn broken_chunks_end_the_connection() {
    let server = start();
    for body in [
        "x\r\n{}\r\n0\r\n\r\n",
        "\r\n{}\r\n0\r\n\r\n",
        "-2\r\n{}\r\n0\r\n\r\n",
        "+2\r\n{}\r\n0\r\n\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
        " 2\r\n{}\r\n0\r\n\r\n",
        "2\n{}\r\n0\r\n\r\n",
        "2\r\n{}\n0\r\n\r\n",
        "2\r\n{}0\r\n\r\n",
        "2\r\n{}x\r\n0\r\n\r\n",
        "2\r\n{}\r\n0\n\n",
        "2\r\n{}\r\n0\r\n\n",
        "2;a\rb\r\n{}\r\n0\r\n\r\n",
        "ffffffffffffffff2\r\n{}\r\n0\r\n\r\n",
        "8000000000000000\r\n{}\r\n0\r\n\r\n",
        &format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "a".repeat(5000)),
        &format!("2\r\n{{}}\r\n0\r\n{}\r\n", "T: a\r\n".repeat(1000)),
    ] {
        let bytes = |path| {
            head(&format!("POST {path} HTTP/1.1\nHost: kes\nTransfer-Encoding: chunked")) + body
        };
        assert_eq!(400, is_refused(&server, bytes("/v1/key/encrypt/my-key")), "{body:?}");
        // An unread body must not hide a request either.
        let mut connection = server.root().connect();
        connection.send([bytes("/v1/key/create/my-key").as_bytes(), SMUGGLED].concat());
        assert_eq!(400, connection.response().status);
        assert!(connection.is_closed(), "{body:?}");
        assert!(!server.keys().join("smuggled").exists(), "{body:?}");
    }
}

#[test]
fn a_broken_body_does_not_take_back_answers_that_were_given() {
    let server = start();
    let broken =
        head("POST /v1/key/create/new HTTP/1.1\nHost: kes\nTransfer-Encoding: chunked") + "x\r\n";
    let mut connection = server.root().connect();
    connection.send([request("GET", "/version", b""), broken.into_bytes()].concat());
    connection.response().is_json_success();
    connection.response().is_empty_success();
    assert!(connection.is_closed());
}

/// Sends all of `bytes`, a request with a large unwanted body, and gets the answer. A
/// connection that is reset while the client is still sending may take the answer along.
fn is_answered_after_all_is_sent(bytes: &[u8]) {
    let server = start();
    for _ in 0..10 {
        let mut connection = server.root().connect();
        connection.send(bytes);
        connection.response().is_json_success();
        assert!(connection.is_closed());
    }
}

#[test]
fn a_large_body_that_nobody_wants_does_not_cost_the_answer() {
    is_answered_after_all_is_sent(&request("GET", "/version", &vec![b'x'; 3 << 20]));
}

#[test]
fn a_large_body_in_chunks_that_nobody_wants_does_not_cost_the_answer() {
    is_answered_after_all_is_sent(&chunked("GET", "/version", &vec![b'x'; 3 << 20], 9999));
}

#[test]
fn a_body_that_nobody_wants_is_not_read_for_ever() {
    let server = start();
    for size in [300_000, 3 << 20] {
        let mut bytes = chunked("GET", "/version", &vec![b'x'; size], 9999);
        bytes.extend(request("GET", "/version", b""));
        let mut connection = server.root().connect();
        connection.send(&bytes);
        connection.response().is_json_success();
        assert!(connection.is_closed(), "nothing behind {size} bytes is read");
    }
}

#[test]
fn what_a_body_contains_is_no_request() {
    let server = start();
    let mut connection = server.root().connect();
    for path in
        ["/v1/key/create/my-key", "/v1/key/encrypt/my-key", "/version", "/nowhere", "/v1//a"]
    {
        connection.send(request("POST", path, SMUGGLED));
        connection.send(chunked("POST", path, SMUGGLED, 10));
        for _ in 0..2 {
            assert!(connection.response().status >= 300, "{path}");
        }
    }
    connection.request("GET", "/version", "").is_json_success();
    assert_eq!(["my-key"], *server.key_files());
}

#[test]
fn requests_damaged_at_random_harm_nobody() {
    let server = start();
    let mut good = server.root().connect();
    let body = json!({ "plaintext": base64("a") }).to_string();
    let seeds = [
        request("POST", "/v1/key/encrypt/my-key?a=b", body.as_bytes()),
        chunked("POST", "/v1/key/encrypt/my-key", body.as_bytes(), 9),
        request("GET", "/v1/key/list/[a-z]*?%41", b""),
        head("GET https://kes/version HTTP/1.0\nConnection: keep-alive\nExpect: 100-continue")
            .into(),
    ];
    // The same damage in every run (xorshift).
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % limit as u64).unwrap()
    };
    let special = b"\r\n\0 :;,/?%*[]\\+-09aAfF\x7f\x80\xff";
    for number in 0..400 {
        let mut bytes = seeds[number % seeds.len()].clone();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            match random(4) {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, special[random(special.len())]),
                2 => bytes[at] ^= 1 << random(8),
                _ => bytes[at] = special[random(special.len())],
            }
        }
        let mut connection = server.root().connect();
        let _ = connection.try_send(&bytes);
        connection.half_close();
        let answers = connection.rest();
        assert!(answers.is_empty() || answers.starts_with(b"HTTP/1."), "{:?}", answers);
        if number % 20 == 0 {
            good.request("POST", "/v1/key/generate/my-key", "{}").is_json_success();
        }
    }
    assert_eq!("", server.stderr());
    assert_eq!(["my-key"], *server.key_files());
}

#[test]
fn a_few_empty_lines_before_a_request_are_no_part_of_it() {
    let server = start();
    let mut connection = server.root().connect();
    let request = String::from_utf8(request("GET", "/version", b"")).unwrap();
    let with_lines = "\r\n".repeat(4) + &request;
    connection.send(with_lines.repeat(3));
    for byte in with_lines.as_bytes() {
        connection.send([*byte]);
    }
    for _ in 0..4 {
        connection.response().is_json_success();
    }
    assert_eq!(4, server.audit(4).len());
}

#[test]
fn more_empty_lines_are_no_request() {
    let server = start();
    for count in [5, 6, 512 * 1024] {
        assert_eq!(400, is_refused(&server, "\r\n".repeat(count)), "{count}");
    }
    let mut connection = server.root().connect();
    connection.request("GET", "/version", "").is_json_success();
    for _ in 0..4 {
        connection.send("\r");
        connection.send("\n");
    }
    connection.send("\r");
    assert!(connection.receive_available(), "four are allowed");
    connection.send("\n");
    assert_eq!(400, connection.response().status);
    assert!(connection.is_closed());
}

// TLS

#[test]
fn tls_1_2_is_refused() {
    let server = start();
    assert!(server.outdated().try_connect().is_err());
    server.logs_error("http: TLS handshake error from 127.0.0.1:");
    server.root().get("/version").is_json_success();
}

#[test]
fn a_client_without_certificate_is_refused_and_named_in_the_error_log() {
    let server = start();
    let mut connection = server.anonymous().connect();
    let port = connection.socket().local_addr().unwrap().port();
    let _ = connection.try_send(&request("POST", "/v1/key/create/a", b""));
    assert!(connection.try_response(false).is_err());
    server.logs_error(&format!(
        "http: TLS handshake error from 127.0.0.1:{port}: tls: client didn't provide a certificate"
    ));
    assert_eq!(["my-key"], *server.key_files());
    assert!(server.audit(0).is_empty());
}

#[test]
fn garbage_instead_of_a_handshake_harms_nothing() {
    let server = start();
    let mut good = server.root().connect();
    let hello = client_hello(&server.root());
    let mut broken = hello.clone();
    broken[60..].fill(0xff);
    for garbage in [
        b"GET /version HTTP/1.1\r\nHost: kes\r\n\r\n".to_vec(),
        vec![0; 1000],
        vec![0xff; 100_000],
        vec![22, 3, 1, 0xff, 0xff],
        vec![22, 3, 1, 0, 0],
        vec![21, 3, 3, 0, 2, 2, 40],
        [&hello[..], &[23, 3, 3, 0, 5, 1, 2, 3, 4, 5]].concat(),
        [&hello[..], &hello[..]].concat(),
        hello[..hello.len() / 2].to_vec(),
        broken,
        b"\r\n".to_vec(),
    ] {
        let mut socket = TcpStream::connect(server.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = socket.write_all(&garbage);
        let _ = socket.shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        if let Err(e) = socket.read_to_end(&mut rest) {
            assert_eq!(std::io::ErrorKind::ConnectionReset, e.kind());
        }
        good.request("GET", "/version", "").is_json_success();
    }
    server.logs_error("http: TLS handshake error from 127.0.0.1:");
    assert!(!server.stderr().contains("panic"), "{}", server.stderr());
}

fn client_hello(client: &Client) -> Vec<u8> {
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let mut tls = ClientConnection::new(client.config(), name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    hello
}

// how many

/// A server that takes `limit` connections, and as many, each of which was answered.
fn full(limit: usize) -> (Server, Vec<Connection>) {
    let server = Server::start(|config| {
        config.more = format!("limits: {{ connections: {limit} }}\n");
    });
    let root = server.root();
    let connect = || {
        let mut connection = root.try_connect().ok()?;
        connection.try_request("GET", "/version", b"").ok()?;
        Some(connection)
    };
    // The one that has looked whether the server is up may not be gone yet.
    let all = (0..limit).map(|_| wait_for(PATIENCE, connect).unwrap());
    let all = all.collect();
    (server, all)
}

#[test]
fn a_full_server_refuses_more_connections_and_serves_those_it_has() {
    let (server, mut all) = full(8);
    let begin = Instant::now();
    let metrics = |all: &mut Vec<Connection>| all[0].request("GET", "/v1/metrics", "");
    let before = metrics(&mut all).sample("kes_connections_refused");
    for _ in 0..50 {
        assert!(server.root().try_request("GET", "/version", b"").is_err());
    }
    for connection in &mut all {
        connection.request("GET", "/version", "").is_json_success();
    }
    let page = metrics(&mut all);
    let refused = page.sample("kes_connections_refused");
    assert_eq!(50, refused - before);
    assert_eq!(8, page.sample("kes_connections_limit"));
    assert_eq!(8, page.sample("kes_connections_open"));
    let text = "refused a connection: all 8 connections (limits.connections) are in use";
    let what = "connections were refused or failed";
    server.limits_errors(refused, text, what, 1, begin);
    // Nobody knocks, so there is nothing to do.
    server.comes_to_rest();
    drop(all.pop());
    let taken = wait_for(PATIENCE, || server.root().try_request("GET", "/version", b"").ok());
    taken.expect("there is room again").is_json_success();
}

#[test]
fn a_reload_changes_how_many_connections_there_may_be() {
    let (server, mut all) = full(4);
    let set = |from: &str, to: &str, all: &mut Vec<Connection>| {
        let file = server.file("config.yml");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&file, text.replace(from, to)).unwrap();
        server.signal(rustix::process::Signal::HUP);
        let limit: u64 = to.split(' ').nth(1).unwrap().parse().unwrap();
        let is_set = wait_for(PATIENCE, || {
            let page = all[0].request("GET", "/v1/metrics", "");
            (page.sample("kes_connections_limit") == limit).then_some(())
        });
        assert!(is_set.is_some(), "{}", server.stderr());
    };
    set("connections: 4 ", "connections: 5 ", &mut all);
    let mut fifth = server.root().connect();
    fifth.request("GET", "/version", "").is_json_success();
    // Those that are there stay.
    set("connections: 5 ", "connections: 2 ", &mut all);
    for connection in &mut all {
        connection.request("GET", "/version", "").is_json_success();
    }
    // Three, even when two have left.
    drop(all.split_off(2));
    wait_until("two connections have left", || {
        let page = all[0].request("GET", "/v1/metrics", "");
        page.sample("kes_connections_open") == 3
    });
    assert!(server.root().try_connect().is_err(), "there are three still");
}

#[test]
fn the_kernel_looks_whether_a_client_is_still_there() {
    const KEEPALIVE: u8 = 2;
    let server = start();
    let mut follower = Follower::start(&server.root(), "/v1/log/error/trace");
    let connections = [server.root().connect(), server.root().speaking_http2().connect()];
    let sockets = connections.iter().map(Connection::socket);
    for socket in sockets.chain([follower.connection().socket()]) {
        let mut seen = None;
        let is_on = wait_for(PATIENCE, || {
            seen = server.socket_of(socket);
            let (kind, when) = seen.as_ref()?.timer;
            let soon = Duration::from_secs(30)..=Duration::from_secs(60);
            (kind == KEEPALIVE && soon.contains(&when)).then_some(())
        });
        assert!(is_on.is_some(), "{seen:?}");
    }
}

// slow and absent clients

#[test]
fn a_handshake_that_never_ends_is_cut_at_5_seconds() {
    let server = start();
    let hello = client_hello(&server.root());
    let began = Instant::now();
    let sockets: Vec<_> = [&hello[..0], &hello[..1], &hello[..100], &hello]
        .into_iter()
        .map(|bytes| {
            let mut socket = TcpStream::connect(server.address).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.write_all(bytes).unwrap();
            socket
        })
        .collect();
    closes_between(began, AT_5_SECONDS, || {
        sockets.into_iter().all(|mut socket| socket.read_to_end(&mut Vec::new()).is_ok())
    });
    server.logs_error("tls: handshake timed out");
}

#[test]
fn a_head_that_never_ends_is_cut_at_5_seconds() {
    let server = start();
    let mut first = server.root().connect();
    let mut second = server.root().connect();
    second.request("GET", "/version", "").is_json_success();
    let began = Instant::now();
    first.send("GET /ver");
    second.send(head("GET /version HTTP/1.1\nHost: kes") + "GET /version HTTP/1.1\r\n");
    second.response().is_json_success();
    closes_between(began, AT_5_SECONDS, || first.is_closed() && second.is_closed());
    assert_eq!(2, server.audit(2).len());
}

#[test]
fn a_body_that_never_ends_is_cut_at_5_seconds() {
    let server = start();
    let [mut first, mut second, mut third] = [(); 3].map(|()| server.root().connect());
    let began = Instant::now();
    let bytes = request("POST", "/v1/key/import/a", &[b' '; 1000]);
    first.send(&bytes[..bytes.len() - 1]);
    let bytes = chunked("POST", "/v1/key/encrypt/my-key", b"{}", 1);
    second.send(&bytes[..bytes.len() - 1]);
    // Nobody reads this one.
    let bytes = request("POST", "/v1/key/create/b", &[b' '; 1000]);
    third.send(&bytes[..bytes.len() - 1]);
    third.response().is_empty_success();
    closes_between(began, AT_5_SECONDS, || {
        for connection in [&mut first, &mut second] {
            connection.response().is_failure(400, "invalid json");
        }
        [&mut first, &mut second, &mut third].into_iter().all(|connection| connection.is_closed())
    });
    assert_eq!(["b", "my-key"], *server.key_files());
    assert_eq!(3, server.audit(3).len());
}

/// Whether the server has closed this socket, without waiting for it.
fn is_gone(socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    let mut bytes = [0; 4096];
    loop {
        match (&mut &*socket).read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return e.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn two_hundred_slow_clients_disturb_nobody_and_are_closed_at_their_deadline() {
    let server = start();
    let root = server.root();
    let hello = client_hello(&root);
    let request = request("POST", "/v1/key/generate/my-key", b"{}");
    let mut heads: Vec<Connection> = (0..100).map(|_| root.connect()).collect();
    let crowd = Crowd::start(&server, 8);
    let start = Instant::now();
    let mut hellos: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    for second in 0.. {
        for socket in &mut hellos {
            let _ = socket.write_all(&hello[second..=second]);
        }
        for connection in &mut heads {
            let _ = connection.try_send(&request[second..=second]);
        }
        let gone = hellos.iter().filter(|socket| is_gone(socket)).count()
            + heads.iter().filter(|connection| is_gone(connection.socket())).count();
        let since = start.elapsed();
        if since < AT_5_SECONDS.0 {
            assert_eq!(0, gone, "closed after {since:?}");
        }
        if gone == 200 {
            break;
        }
        assert!(since < Duration::from_secs(30), "{gone} are closed after {since:?}");
        for socket in hellos.iter().chain(heads.iter().map(Connection::socket)) {
            socket.set_nonblocking(false).unwrap();
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(crowd.stop() > 50);
}

#[test]
fn idle_connections_take_no_threads() {
    let server = start();
    let root = server.root();
    root.get("/version").is_json_success();
    let before = server.threads();
    let mut idle: Vec<_> = (0..500).map(|_| root.connect()).collect();
    for connection in &mut idle {
        connection.request("GET", "/version", "").is_json_success();
    }
    assert_eq!(before, server.threads());
    for connection in idle.iter_mut().step_by(50) {
        connection.request("POST", "/v1/key/generate/my-key", "{}").is_json_success();
    }
}

#[test]
fn a_client_that_says_it_is_done_still_gets_its_answers() {
    let server = start();
    for number in 0..20 {
        let mut connection = server.root().connect();
        let mut bytes = request("POST", &format!("/v1/key/create/key-{number}"), b"");
        bytes.extend(request("POST", &format!("/v1/key/generate/key-{number}"), b"{}"));
        bytes.extend(request("GET", "/version", b""));
        connection.send(bytes);
        connection.half_close();
        connection.response().is_empty_success();
        connection.response().is_json_success();
        connection.response().is_json_success();
        assert!(connection.is_closed());
    }
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let server = start();
    let mut good = server.root().connect();
    for number in 0..50 {
        let mut connection = server.root().connect();
        connection.send(request("POST", &format!("/v1/key/create/key-{number}"), b""));
        drop(connection);
        let mut connection = server.root().connect();
        connection.send(
            b"POST /v1/key/encrypt/my-key HTTP/1.1\r\nHost: kes\r\nContent-Length: 10\r\n\r\n",
        );
        drop(connection);
    }
    good.request("GET", "/version", "").is_json_success();
    let audit = server.audit(101);
    assert_eq!(101, audit.len());
    // The creates were complete, so they are carried out.
    let created = wait_for(PATIENCE, || (server.key_files().len() == 51).then_some(()));
    assert!(created.is_some(), "{:?}", server.key_files());
}

#[test]
fn a_client_that_reads_no_answers_is_dropped() {
    let server = start();
    let crowd = Crowd::start(&server, 2);
    let mut connection = server.root().connect();
    rustix::net::sockopt::set_socket_recv_buffer_size(connection.socket(), 4096).unwrap();
    connection.socket().set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    let block = request("GET", "/version", b"").repeat(300);
    let mut sent = 0;
    while connection.try_send(&block).is_ok() {
        sent += 300;
        assert!(sent < 10_000_000, "the server takes everything");
    }
    // It has stopped to take requests; now it gives up.
    server.drops(&connection);
    let answers = connection.rest().len();
    assert!(answers < sent * 100, "{answers} bytes of answers to {sent} requests");
    assert!(crowd.stop() > 50);
}
