//! Requests of HTTP/2 that share what a connection may hold: all of them come to their end, and
//! nobody is taken for an attacker because others are served.

use std::time::{Duration, Instant};

use crate::common::{
    Appliance, Config, Http2, Identity, Server, base64,
    http2::{
        END_HEADERS, END_STREAM, INITIAL_WINDOW_SIZE, PREFACE, PROTOCOL_ERROR, REFUSED_STREAM,
        block, frame, kind, settings, window_update,
    },
    quickly, stored_key, wait_until,
};
use serde_json::json;

const GENERATE: &str = "/v1/key/generate/my-key";
const ENCRYPT: &str = "/v1/key/encrypt/my-key";
const AUDIT: &str = "/v1/log/audit/trace";
const LARGE: &str = "/v1/policy/read/large";

fn start(change: impl FnOnce(&mut Config)) -> Server {
    Server::start(|config| {
        std::fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
        change(config);
    })
}

/// A body for [`ENCRYPT`] of at least so many bytes.
fn body(size: usize) -> Vec<u8> {
    json!({ "plaintext": base64(vec![5; size / 4 * 3]) }).to_string().into_bytes()
}

/// The frame that announces a body of `length` bytes.
fn announcement(stream: u32, path: &str, length: usize) -> Vec<u8> {
    let length = length.to_string();
    let block = block("POST", path, &[("content-length", &length)]);
    frame(kind::HEADERS, END_HEADERS, stream, block)
}

/// Makes [`LARGE`] about 900 KB.
fn make_large(server: &Server) {
    let paths: Vec<_> = (0..8000).map(|at| format!("/{at:0>100}")).collect();
    let policy = json!({ "paths": paths }).to_string();
    let mut http2 = Http2::open(&server.root());
    let stream = http2.send_body("POST", "/v1/policy/write/large", policy.as_bytes());
    assert_eq!(200, http2.answer(stream).status);
}

#[test]
fn many_long_bodies_at_once_come_in_beside_a_log_stream() {
    quickly(Duration::from_secs(5), |clock| {
        let server = start(|_| {});
        let mut http2 = Http2::open(&server.root());
        let log = http2.ask("GET", AUDIT, "");
        assert_eq!(200, http2.status(log).unwrap());
        // Together more than a connection may hold, and more than its window.
        let body = body(260_000);
        clock.start();
        let mut bodies: Vec<_> = (0..17).map(|_| (http2.stream(), &body[..])).collect();
        for (stream, body) in &bodies {
            http2.send(announcement(*stream, ENCRYPT, body.len()));
        }
        let streams: Vec<_> = bodies.iter().map(|(stream, _)| *stream).collect();
        // The youngest first, as far as there is room.
        while !bodies.is_empty() {
            let mut has_sent = false;
            for (stream, rest) in bodies.iter_mut().rev() {
                let room = usize::try_from(http2.room(*stream)).unwrap_or(0);
                let count = room.min(rest.len()).min(16_384);
                if count > 0 {
                    let (part, more) = rest.split_at(count);
                    let flags = if more.is_empty() { END_STREAM } else { 0 };
                    http2.send(frame(kind::DATA, flags, *stream, part));
                    *rest = more;
                    has_sent = true;
                }
            }
            bodies.retain(|(_, rest)| !rest.is_empty());
            if !has_sent {
                http2.read().unwrap();
            }
        }
        for stream in streams {
            http2.answer(stream).is_json_success();
        }
    });
}

#[test]
fn bodies_that_are_announced_count_at_once() {
    let server = start(|_| {});
    let mut http2 = Http2::open(&server.root());
    let streams: Vec<_> = (0..200).map(|_| http2.stream()).collect();
    let heads = streams.iter().flat_map(|stream| announcement(*stream, GENERATE, 1 << 20));
    http2.send(heads.collect::<Vec<_>>());
    let refused = |http2: &Http2| {
        let codes = streams.iter().filter_map(|stream| http2.was_reset(*stream));
        codes.filter(|code| *code == REFUSED_STREAM).count()
    };
    wait_until("most are refused", || {
        assert!(http2.catch_up());
        refused(&http2) >= 196
    });
    http2.read_for(Duration::from_millis(300));
    assert_eq!(196, refused(&http2));
}

#[test]
fn bodies_count_until_their_requests_are_answered() {
    quickly(Duration::from_secs(15), |clock| {
        let appliance = Appliance::start();
        let server = appliance.server();
        for key in ["my-key", "cold"] {
            let path = format!("/v1/key/create/{key}");
            server.root().post(&path, "").is_empty_success();
        }
        let mut http2 = Http2::open(&server.root());
        http2.request("POST", GENERATE, "{}").is_json_success();
        appliance.pause();
        clock.start();
        // Each fits into the window of its stream, and a request keeps what it decodes to.
        let body = body(60_000);
        let streams: Vec<_> = (0..130).map(|_| http2.stream()).collect();
        for stream in &streams {
            http2.send(announcement(*stream, "/v1/key/encrypt/cold", body.len()));
            for part in body.chunks(16_000) {
                let is_last = part.len() < 16_000;
                let flags = if is_last { END_STREAM } else { 0 };
                http2.send(frame(kind::DATA, flags, *stream, part));
            }
            http2.catch_up();
        }
        let mut refused = 0;
        wait_until("some are refused", || {
            assert!(http2.catch_up());
            let codes = streams.iter().filter_map(|stream| http2.was_reset(*stream));
            refused = codes.filter(|code| *code == REFUSED_STREAM).count();
            refused >= 20
        });
        http2.read_for(Duration::from_millis(500));
        let codes = streams.iter().filter_map(|stream| http2.was_reset(*stream));
        refused = codes.filter(|code| *code == REFUSED_STREAM).count();
        assert!((20..50).contains(&refused), "{refused} were refused");
        appliance.go_on();
        let answered = streams.iter().filter(|stream| http2.was_reset(**stream).is_none());
        for stream in answered.copied().collect::<Vec<_>>() {
            http2.answer(stream).is_json_success();
        }
        http2.request("POST", GENERATE, "{}").is_json_success();
    });
}

#[test]
fn one_large_answer_does_not_keep_others_out() {
    let server = start(|config| {
        for at in 0..20_000 {
            let name = format!("{at:0>230}");
            std::fs::write(config.keys().join(name), "").unwrap();
        }
    });
    let mut http2 = Http2::open(&server.root());
    http2.opens_windows = false;
    let list = http2.ask("GET", "/v1/key/list/*", "");
    assert_eq!(200, http2.status(list).unwrap());
    http2.send(window_update(0, 1 << 20));
    for _ in 0..3 {
        http2.request("POST", GENERATE, "{}").is_json_success();
    }
    http2.opens_windows = true;
    http2.send(window_update(list, 1 << 20));
    assert!(http2.answer(list).body.len() > 4 << 20);
}

#[test]
fn answers_take_turns_and_whoever_waits_for_its_turn_is_not_stalled() {
    let server = start(|_| {});
    make_large(&server);
    let mut http2 = Http2::silent(&server.root()).unwrap();
    http2.opens_windows = false;
    http2.send([PREFACE, &settings(&[(INITIAL_WINDOW_SIZE, 1 << 30)])].concat());
    let streams = [(); 3].map(|()| http2.ask("GET", LARGE, ""));
    // The connection takes a little each second, for longer than a client may take nothing at all.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(13) {
        http2.send(window_update(0, 5000));
        http2.read_for(Duration::from_secs(1));
        assert_eq!(None, http2.goaway);
    }
    http2.send(window_update(0, 1 << 30));
    for stream in streams {
        assert!(http2.answer(stream).body.len() > 800_000);
    }
    assert_eq!(0, server.metric("kes_http2_flood"));
}

/// Lets `app` follow the audit log on a connection that does not take all that there is, as
/// `hold_back` makes it, and takes its right away. What happens afterwards it must not see.
#[track_caller]
fn follower_is_cut_off(hold_back: fn(&mut Http2), let_go: fn(&mut Http2, u32)) {
    // What is not taken within 10 seconds is given up.
    quickly(Duration::from_secs(10), |clock| {
        let app = Identity::new("app");
        let server = start(|config| {
            config.policy("app", &[AUDIT, LARGE], &[&app]);
            config.policy("none", &[], &[]);
        });
        make_large(&server);
        let mut http2 = Http2::silent(&server.client(&app)).unwrap();
        http2.opens_windows = false;
        http2.send([PREFACE, &settings(&[(INITIAL_WINDOW_SIZE, 300)])].concat());
        let log = http2.ask("GET", AUDIT, "");
        assert_eq!(200, http2.status(log).unwrap());
        hold_back(&mut http2);
        clock.start();
        let root = server.root();
        for _ in 0..10 {
            root.get("/before");
        }
        let path = format!("/v1/identity/assign/none/{}", app.id);
        root.post(&path, "").is_empty_success();
        std::thread::sleep(Duration::from_millis(3500));
        for _ in 0..10 {
            root.get("/after");
        }
        let_go(&mut http2, log);
        let seen = http2.answer(log);
        assert!(seen.text().contains("/before"), "{}", seen.text());
        assert!(!seen.text().contains("/after"), "{}", seen.text());
    });
}

#[test]
fn a_subscriber_without_right_sees_no_more_when_its_window_opens() {
    follower_is_cut_off(|_| {}, |http2, log| http2.send(window_update(log, 1 << 20)));
}

#[test]
fn a_subscriber_without_right_sees_no_more_when_it_reads_on() {
    follower_is_cut_off(
        |http2| {
            let socket = http2.connection.socket();
            rustix::net::sockopt::set_socket_recv_buffer_size(socket, 64 * 1024).unwrap();
            http2.send(settings(&[(INITIAL_WINDOW_SIZE, 1 << 30)]));
            http2.send(window_update(0, 1 << 30));
            // More than the sockets hold.
            for _ in 0..60 {
                http2.ask("GET", LARGE, "");
                std::thread::sleep(Duration::from_millis(20));
            }
        },
        |_, _| {},
    );
}

#[test]
fn requests_that_a_broken_connection_ends_are_audited_as_what_they_were() {
    let server = start(|_| {});
    let mut http2 = Http2::open(&server.root());
    let stream = http2.stream();
    http2.send(announcement(stream, ENCRYPT, 100));
    http2.send(frame(kind::DATA, 0, 0, b"on no stream"));
    assert_eq!(Some(PROTOCOL_ERROR), http2.end().unwrap());
    let events = server.audit(1);
    assert_eq!(ENCRYPT, events[0]["request"]["path"]);
    assert_eq!(400, events[0]["response"]["code"]);
}
