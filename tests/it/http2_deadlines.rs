//! Clients of HTTP/2 that are slow or gone: each is waited for as long as it may take, and no longer,
//! while others are served.

use std::time::{Duration, Instant};

use crate::common::{
    AT_5_SECONDS, Client, Crowd, Http2, Server, base64,
    hpack::literal,
    http2::{
        CANCEL, END_STREAM, ENHANCE_YOUR_CALM, INITIAL_WINDOW_SIZE, NO_ERROR, PREFACE, block,
        frame, head, kind, settings, window_update,
    },
    stored_key,
};
use serde_json::json;

const GENERATE: &str = "/v1/key/generate/my-key";
const ENCRYPT: &str = "/v1/key/encrypt/my-key";

/// A client, and how long it is waited for.
type Case = (&'static str, fn(&Client), (Duration, Duration));

const AT_10_SECONDS: (Duration, Duration) = (Duration::from_millis(9300), Duration::from_secs(30));

/// Longer than any deadline but the one of idle connections.
const IN_USE: (Duration, Duration) = (Duration::from_secs(12), Duration::from_secs(60));

/// Sends `bytes`, then one of `more` each second, until the server closes.
fn sends(client: &Client, bytes: &[u8], more: &[u8]) {
    let mut http2 = Http2::silent(client).unwrap();
    http2.is_quiet = true;
    http2.send(bytes);
    for byte in more.iter().chain(&[0; 30]).take(20) {
        http2.read_for(Duration::from_secs(1));
        if !http2.catch_up() {
            return;
        }
        if !more.is_empty() {
            let _ = http2.try_send(&[*byte]);
        }
    }
    panic!("it is still open");
}

fn after_hello(bytes: &[u8]) -> Vec<u8> {
    [PREFACE, &settings(&[]), bytes].concat()
}

/// The head of a frame with a header block that does not end, and the block.
fn open_block() -> Vec<u8> {
    frame(kind::HEADERS, END_STREAM, 1, block("GET", "/version", &[]))
}

#[test]
fn slow_clients_are_closed_at_their_deadlines_and_disturb_nobody() {
    let cases: [Case; 14] = [
        ("no preface", |client| sends(client, &[], &[]), AT_5_SECONDS),
        (
            "a preface that takes too long",
            |client| sends(client, &PREFACE[..10], &PREFACE[10..]),
            AT_5_SECONDS,
        ),
        (
            "half of a frame's header",
            |client| sends(client, &after_hello(&head(1, "GET", "/version", true)[..4]), &[]),
            AT_5_SECONDS,
        ),
        (
            "half of a frame",
            |client| sends(client, &after_hello(&head(1, "GET", "/version", true)[..20]), &[]),
            AT_5_SECONDS,
        ),
        (
            "a frame byte for byte",
            |client| {
                let head = head(1, "GET", "/version", true);
                sends(client, &after_hello(&head[..20]), &head[20..]);
            },
            AT_5_SECONDS,
        ),
        (
            "a header block without end",
            |client| sends(client, &after_hello(&open_block()), &[]),
            AT_5_SECONDS,
        ),
        (
            "a header block that goes on and on",
            |client| {
                let more = frame(kind::CONTINUATION, 0, 1, literal("a", "b"));
                let mut http2 = Http2::open(client);
                http2.is_quiet = true;
                http2.send(open_block());
                while http2.catch_up() {
                    let _ = http2.try_send(&more);
                    http2.read_for(Duration::from_millis(1500));
                }
            },
            AT_5_SECONDS,
        ),
        ("a body that stops", |client| stalled_body(client, b""), AT_5_SECONDS),
        ("a body that takes too long", |client| stalled_body(client, b" "), AT_5_SECONDS),
        ("a window that stays closed", closed_window, AT_10_SECONDS),
        ("a neighbour of an answer that is not read", neighbour, AT_10_SECONDS),
        ("too many windows that stay closed", closed_windows, AT_10_SECONDS),
        ("a connection whose window stays closed", closed_connection_window, AT_10_SECONDS),
        ("a connection that is in use", in_use, IN_USE),
    ];
    let server = Server::start(|config| {
        std::fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
    });
    let crowd = Crowd::start_http2(&server, 4);
    std::thread::scope(|scope| {
        for (what, act, (from, to)) in cases {
            let client = server.root();
            scope.spawn(move || {
                let start = Instant::now();
                act(&client);
                let took = start.elapsed();
                assert!((from..to).contains(&took), "{what}: after {took:?}");
            });
        }
    });
    assert!(crowd.stop() > 50);
    assert_eq!(2, server.metric("kes_http2_flood"));
    assert_eq!("", server.stderr());
}

/// A request whose body does not end is answered, and the others on its connection go on.
fn stalled_body(client: &Client, more: &[u8]) {
    let mut http2 = Http2::open(client);
    let stream = http2.stream();
    http2.send(head(stream, "POST", ENCRYPT, false));
    http2.send(frame(kind::DATA, 0, stream, b"{"));
    while !http2.is_answered(stream) {
        http2.request("POST", GENERATE, "{}").is_json_success();
        if !http2.is_answered(stream) && !more.is_empty() {
            http2.send(frame(kind::DATA, 0, stream, more));
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    http2.answer(stream).is_failure(400, "invalid json");
    http2.request("POST", GENERATE, "{}").is_json_success();
}

/// Opens a connection whose streams have no window at all, and sends so many requests.
fn without_windows(client: &Client, count: usize) -> (Http2, Vec<u32>) {
    let mut http2 = Http2::silent(client).unwrap();
    http2.opens_windows = false;
    http2.send([PREFACE, &settings(&[(INITIAL_WINDOW_SIZE, 0)])].concat());
    let ask = |_| http2.ask("POST", GENERATE, "{}");
    let streams: Vec<_> = (0..count).map(ask).collect();
    for stream in &streams {
        assert_eq!(200, http2.status(*stream).unwrap());
    }
    (http2, streams)
}

/// An answer that is not read ends alone.
fn closed_window(client: &Client) {
    let (mut http2, streams) = without_windows(client, 1);
    while http2.was_reset(streams[0]).is_none() {
        // The others on the connection get their answers.
        let stream = http2.ask("POST", GENERATE, "{}");
        http2.send(window_update(stream, 1 << 16));
        http2.answer(stream).is_json_success();
        http2.read_for(Duration::from_millis(250));
    }
    assert_eq!(Some(CANCEL), http2.was_reset(streams[0]));
    assert!(!http2.is_answered(streams[0]));
    let stream = http2.ask("POST", GENERATE, "{}");
    http2.send(window_update(stream, 1 << 16));
    http2.answer(stream).is_json_success();
    assert_eq!(None, http2.goaway);
}

/// An answer that is not read takes so much of the connection's window that another has to wait, until
/// the one is reset.
fn neighbour(client: &Client) {
    let mut http2 = Http2::silent(client).unwrap();
    http2.opens_windows = false;
    http2.send([PREFACE, &settings(&[(INITIAL_WINDOW_SIZE, 33_000)])].concat());
    let plaintext = json!({ "plaintext": base64(vec![5; 40_000]) }).to_string();
    let mut ask = || http2.send_body("POST", ENCRYPT, plaintext.as_bytes());
    let (unread, waiting) = (ask(), ask());
    while http2.was_reset(unread).is_none() {
        http2.read().unwrap();
    }
    assert_eq!(Some(CANCEL), http2.was_reset(unread));
    assert!(!http2.is_answered(waiting));
    http2.send([window_update(0, 1 << 20), window_update(waiting, 1 << 20)].concat());
    http2.answer(waiting).is_json_success();
    assert_eq!(None, http2.goaway);
}

/// A client that reads none of its many answers loses the connection.
fn closed_windows(client: &Client) {
    let (mut http2, streams) = without_windows(client, 200);
    assert_eq!(Some(ENHANCE_YOUR_CALM), http2.end().unwrap());
    assert!(streams.iter().all(|stream| !http2.is_answered(*stream)));
}

/// The streams have windows, but the connection has not enough.
fn closed_connection_window(client: &Client) {
    let mut http2 = Http2::open(client);
    http2.opens_windows = false;
    let plaintext = json!({ "plaintext": base64(vec![5; 100_000]) }).to_string();
    let stream = http2.send_body("POST", ENCRYPT, plaintext.as_bytes());
    http2.send(window_update(stream, 1 << 20));
    assert_eq!(Some(ENHANCE_YOUR_CALM), http2.end().unwrap());
    assert!(!http2.is_answered(stream));
}

/// A connection that has requests now and then stays open.
fn in_use(client: &Client) {
    let mut http2 = Http2::open(client);
    for _ in 0..4 {
        http2.request("POST", GENERATE, "{}").is_json_success();
        http2.read_for(Duration::from_secs(3));
    }
    http2.request("POST", GENERATE, "{}").is_json_success();
    // Its client says that it is done.
    http2.send(frame(kind::GOAWAY, 0, 0, [0; 8]));
    http2.connection.half_close();
    assert!([None, Some(NO_ERROR)].contains(&http2.end().unwrap()));
}

#[test]
fn a_client_that_takes_no_bytes_is_dropped() {
    let server = Server::start(|config| {
        std::fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
        config.audit = "off";
    });
    let crowd = Crowd::start_http2(&server, 2);
    let before = server.memory();
    let mut http2 = Http2::silent(&server.root()).unwrap();
    http2.send([PREFACE, &settings(&[(INITIAL_WINDOW_SIZE, 1 << 30)])].concat());
    http2.send(window_update(0, 1 << 30));
    let socket = http2.connection.socket();
    rustix::net::sockopt::set_socket_recv_buffer_size(socket, 4096).unwrap();
    socket.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    let body = json!({ "plaintext": base64(vec![5; 12_000]) }).to_string();
    let mut sent = 0;
    loop {
        let stream = http2.stream();
        let request = crate::common::http2::request(stream, "POST", ENCRYPT, body.as_bytes());
        if http2.try_send(&request).is_err() {
            break;
        }
        sent += 1;
        assert!(sent < 20_000, "the server takes everything");
    }
    let memory = server.peak_memory();
    eprintln!("{sent} requests whose answers nobody takes: {before} KiB, at most {memory} KiB");
    assert!(memory < before + 32 * 1024, "{memory} KiB");
    // It has stopped to take requests; now it gives up.
    server.drops(&http2.connection);
    assert!(crowd.stop() > 50);
}
