//! Many requests on one connection of HTTP/2: what one of them waits for, or how one of them ends,
//! is nothing to the others.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    time::Duration,
};

use crate::common::{
    Appliance, Config, Http2, PATIENCE, Server, WHILE_IT_ENDS, base64,
    http2::{
        CANCEL, INITIAL_WINDOW_SIZE, NO_ERROR, PREFACE, PROTOCOL_ERROR, head, request, reset,
        settings,
    },
    quickly, stored_key, wait_for,
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat},
    net::sockopt::set_socket_linger,
    process::Signal,
};
use serde_json::{Value, json};

const GENERATE: &str = "/v1/key/generate/my-key";
const AUDIT: &str = "/v1/log/audit/trace";

fn start(change: impl FnOnce(&mut Config)) -> Server {
    Server::start(|config| {
        std::fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
        change(config);
    })
}

/// How many of these events tell of `path`, and with which status.
fn told(events: &[Value], path: &str) -> Vec<u64> {
    let of_path = events.iter().filter(|event| event["request"]["path"] == path);
    of_path.map(|event| event["response"]["code"].as_u64().unwrap()).collect()
}

#[test]
fn a_hundred_requests_at_once_are_all_answered() {
    let server = start(|_| {});
    let mut http2 = Http2::open(&server.root());
    let streams: Vec<_> = (0..100).map(|_| http2.stream()).collect();
    let bytes: Vec<_> =
        streams.iter().flat_map(|&stream| request(stream, "POST", GENERATE, b"{}")).collect();
    http2.send(bytes);
    // The last one requested.
    for &stream in streams.iter().rev() {
        http2.answer(stream).is_json_success();
    }
    // All heads first, then all bodies.
    let streams: Vec<_> = (0..100).map(|_| http2.stream()).collect();
    for &stream in &streams {
        http2.send(head(stream, "POST", GENERATE, false));
    }
    http2.request("GET", "/version", "").is_json_success();
    for &stream in streams.iter().rev() {
        http2.send(crate::common::http2::frame(0, 1, stream, b"{}"));
    }
    for stream in streams {
        http2.answer(stream).is_json_success();
    }
    assert_eq!(200, told(&server.audit(201), GENERATE).len());
}

#[test]
fn a_key_store_that_hangs_holds_up_nobody_else() {
    let appliance = Appliance::start();
    let server = appliance.server();
    let create = |key: &str| server.root().post(&format!("/v1/key/create/{key}"), "");
    for key in ["my-key", "cold", "colder", "coldest"] {
        create(key).is_empty_success();
    }
    let mut http2 = Http2::open(&server.root());
    http2.request("POST", GENERATE, "{}").is_json_success();

    appliance.pause();
    let blocked = http2.ask("POST", "/v1/key/generate/cold", "{}");
    let mut cut = Http2::open(&server.root());
    cut.ask("POST", "/v1/key/generate/colder", "{}");
    let given_up = http2.ask("POST", "/v1/key/generate/coldest", "{}");
    let streams: Vec<_> = (0..100).map(|_| http2.ask("POST", GENERATE, "{}")).collect();
    for stream in streams {
        http2.answer(stream).is_json_success();
    }
    assert!(!http2.is_answered(blocked) && !http2.is_answered(given_up));

    // One is given up, and another connection is cut.
    http2.send(reset(given_up, CANCEL));
    drop(cut);
    for _ in 0..20 {
        http2.request("POST", GENERATE, "{}").is_json_success();
    }
    assert!(!http2.is_answered(blocked));

    appliance.go_on();
    http2.answer(blocked).is_json_success();
    http2.request("POST", "/v1/key/generate/coldest", "{}").is_json_success();
    assert!(!http2.is_answered(given_up), "nobody wants it any more");

    // 4 creates, 121 of the warm key, 1 of the cold one, 2 whose clients left, 1 of those again.
    let events = server.audit(129);
    assert_eq!(129, events.len());
    assert_eq!([200], *told(&events, "/v1/key/generate/cold"));
    assert_eq!(1, told(&events, "/v1/key/generate/colder").len());
    assert_eq!(2, told(&events, "/v1/key/generate/coldest").len());
    assert!(!server.stderr().contains("panic"), "{}", server.stderr());
}

#[test]
fn a_request_that_is_cut_off_is_audited_once() {
    let server = start(|_| {});
    let path = |what: &str| format!("/v1/key/import/{what}");
    let mut http2 = Http2::open(&server.root());
    for what in ["reset", "reset-later"] {
        let stream = http2.stream();
        http2.send(head(stream, "POST", &path(what), false));
        http2.send(crate::common::http2::frame(0, 0, stream, br#"{"bytes":"#));
        if what == "reset-later" {
            http2.request("GET", "/version", "").is_json_success();
        }
        http2.send(reset(stream, CANCEL));
    }
    for what in ["cut", "closed"] {
        let mut other = Http2::open(&server.root());
        let stream = other.stream();
        other.send(head(stream, "POST", &path(what), false));
        other.send(crate::common::http2::frame(0, 0, stream, br#"{"bytes":"#));
        other.request("GET", "/version", "").is_json_success();
        match what {
            "cut" => drop(other),
            _ => {
                other.connection.half_close();
                let _ = other.end();
            }
        }
    }
    let events = server.audit(7);
    assert_eq!(7, events.len(), "{events:?}");
    for what in ["reset", "reset-later", "cut", "closed"] {
        assert_eq!([400], *told(&events, &path(what)), "{what}");
    }
    assert_eq!(["my-key"], *server.key_files());
    http2.request("GET", "/version", "").is_json_success();
}

#[test]
fn requests_that_are_given_up_at_once_are_audited_at_most_once_and_the_connection_goes_on() {
    let server = start(|_| {});
    let mut http2 = Http2::open(&server.root());
    for number in 0..50 {
        let stream = http2.stream();
        let path = format!("/v1/key/create/key-{number}");
        http2.send([request(stream, "POST", &path, b""), reset(stream, CANCEL)].concat());
    }
    http2.request("GET", "/version", "").is_json_success();
    let events = server.audit(51);
    // One that was reset before it was looked at was never there.
    for number in 0..50 {
        assert!(told(&events, &format!("/v1/key/create/key-{number}")).len() <= 1);
    }
    assert_eq!(1, told(&events, "/version").len());
}

#[test]
fn a_change_whose_client_goes_away_at_once_is_audited_as_what_came_of_it() {
    let server = start(|_| {});
    let mut http2 = Http2::open(&server.root());
    let import = json!({ "bytes": base64([7; 32]) }).to_string();
    let calls = [
        ("POST", "/v1/key/create/created", ""),
        ("POST", "/v1/key/import/imported", &import),
        ("DELETE", "/v1/key/delete/my-key", ""),
        ("POST", "/v1/key/create/taken", ""),
    ];
    std::fs::write(server.keys().join("taken"), stored_key(&[2; 32])).unwrap();
    for (method, path, body) in calls {
        let stream = http2.stream();
        let bytes = request(stream, method, path, body.as_bytes());
        http2.send([bytes, reset(stream, CANCEL)].concat());
    }
    let events = server.audit(4);
    let statuses = calls.map(|(_, path, _)| told(&events, path));
    assert_eq!([[200], [200], [200], [400]].map(Vec::from), statuses);
    assert_eq!(["created", "imported", "taken"], *server.key_files());
    assert_eq!(4, events.len());
}

#[test]
fn a_change_whose_connection_breaks_is_audited_as_what_came_of_it() {
    let appliance = Appliance::start();
    let server = appliance.server();
    let names = ["one", "two", "three"];
    let paths = names.map(|name| format!("/v1/key/create/{name}"));
    appliance.pause();
    let mut http1 = server.root().connect();
    http1.send(crate::common::client::request("POST", &paths[0], b""));
    let mut http2 = Http2::open(&server.root());
    let stream = http2.ask("POST", &paths[1], "");
    let mut wrong = Http2::open(&server.root());
    wrong.ask("POST", &paths[2], "");
    for connection in [&http1, &http2.connection, &wrong.connection] {
        server.reads_all_of(connection);
    }
    http2.read_for(Duration::from_millis(300));
    assert!(!http2.is_answered(stream));
    // One closes, one is reset, and one does what ends it.
    set_socket_linger(http2.connection.socket(), Some(Duration::ZERO)).unwrap();
    drop((http1, http2));
    wrong.send(crate::common::http2::frame(0, 0, 0, b"on no stream"));
    assert_eq!(Some(PROTOCOL_ERROR), wrong.end().unwrap());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!("", server.stdout(), "it is not known yet");
    appliance.go_on();
    let events = server.audit(3);
    for path in &paths {
        assert_eq!([200], *told(&events, path));
    }
    for name in names {
        let path = format!("/v1/key/generate/{name}");
        server.root().post(&path, "{}").is_json_success();
    }
}

#[test]
fn a_change_that_is_not_done_when_the_server_ends_has_its_audit_line() {
    let appliance = Appliance::start();
    let mut server = appliance.server();
    appliance.pause();
    // Two of one name: one is under way, one waits. And one whose client leaves.
    let mut http2 = Http2::open(&server.root());
    let path = "/v1/key/create/my-key";
    http2.ask("POST", path, "");
    http2.ask("POST", path, "");
    let given_up = http2.ask("DELETE", "/v1/key/delete/other", "");
    http2.send(reset(given_up, CANCEL));
    server.reads_all_of(&http2.connection);
    http2.read_for(Duration::from_millis(300));
    server.signal(Signal::TERM);
    server.wait_for_exit();
    let events = server.audit(3);
    assert_eq!(3, events.len(), "{events:?}");
    assert_eq!([503, 503], *told(&events, path));
    assert_eq!([503], *told(&events, "/v1/key/delete/other"));
}

#[test]
fn a_request_that_is_given_up_takes_its_body_along() {
    let appliance = Appliance::start();
    let server = appliance.server();
    let create = server.root().post("/v1/key/create/cold", "");
    create.is_empty_success();
    appliance.pause();
    let before = server.memory();
    let body = json!({ "context": base64(vec![5; 780_000]) }).to_string();
    let mut http2 = Http2::open(&server.root());
    for _ in 0..60 {
        let stream = http2.send_body("POST", "/v1/key/generate/cold", body.as_bytes());
        assert!(!http2.is_answered(stream));
        http2.send(reset(stream, CANCEL));
    }
    http2.request("GET", "/version", "").is_json_success();
    let after = server.memory();
    eprintln!("60 requests of 1 MB that were given up: {before} KiB, then {after} KiB");
    assert!(after < before + 16 * 1024, "{before} KiB, then {after} KiB");
    appliance.go_on();
    let events = server.audit(62);
    let told = told(&events, "/v1/key/generate/cold");
    assert_eq!(60, told.len(), "{told:?}");
    // On a busy machine the time of the key store may be over, too.
    assert!(told.iter().all(|status| [502, 503].contains(status)), "{told:?}");
    http2.request("POST", "/v1/key/generate/cold", "{}").is_json_success();
}

/// As curl 7.88 does after an answer without a body.
#[test]
fn streams_that_have_ended_may_be_reset_as_often_as_there_are_requests() {
    let server = start(|config| config.audit = "off");
    let mut http2 = Http2::open(&server.root());
    for number in 0..5000 {
        let stream = http2.ask("GET", "/version", "");
        let answer = http2.try_answer(stream);
        assert_eq!(Some(200), answer.ok().map(|answer| answer.status), "{number}");
        http2.send(reset(stream, CANCEL));
    }
    assert_eq!(0, server.metric("kes_http2_flood"));
}

// Log streams

#[test]
fn subscribers_and_requests_share_a_connection() {
    let server = start(|_| {});
    let mut http2 = Http2::open(&server.root());
    let first = http2.ask("GET", AUDIT, "");
    let second = http2.ask("GET", AUDIT, "");
    let error = http2.ask("GET", "/v1/log/error/trace", "");
    for stream in [first, second, error] {
        assert_eq!(200, http2.status(stream).unwrap());
    }
    for number in 0..50 {
        let path = format!("/nothing/{number}");
        assert_eq!(404, http2.request("GET", &path, "").status);
    }
    let seen = [first, second].map(|stream| http2.lines_until(stream, "/nothing/49").unwrap());
    // Each sees itself and those who came after it.
    assert_eq!([53, 52], seen.each_ref().map(Vec::len));
    assert!(seen[0].ends_with(&seen[1]));
    // A client that leaves is not missed.
    http2.send(reset(second, CANCEL));
    http2.request("POST", GENERATE, "{}").is_json_success();
    http2.lines_until(first, GENERATE).unwrap();
    http2.request("POST", "/v1/key/encrypt/my-key", "").is_failure(400, "invalid json");
    http2.lines_until(first, "/v1/key/encrypt").unwrap();
    let is_gone = wait_for(PATIENCE, || (server.metric("kes_log_subscribers") == 2).then_some(()));
    assert!(is_gone.is_some());
}

#[test]
fn a_subscriber_whose_window_stays_closed_is_dropped_and_nobody_else_notices() {
    let server = start(|_| {});
    let mut closed = Http2::silent(&server.root()).unwrap();
    closed.opens_windows = false;
    closed.send([PREFACE, &settings(&[(INITIAL_WINDOW_SIZE, 100)])].concat());
    let stalled = closed.ask("GET", AUDIT, "");
    assert_eq!(200, closed.status(stalled).unwrap());
    let mut http2 = Http2::open(&server.root());
    let follower = http2.ask("GET", AUDIT, "");
    assert_eq!(200, http2.status(follower).unwrap());
    let mut number = 0;
    let dropped = wait_for(PATIENCE, || {
        // Requests on the connection of the one that is stalled are answered: they need no window.
        assert_eq!(404, closed.request("HEAD", "/nothing", "").status);
        let path = format!("/nothing/{number}");
        assert_eq!(404, http2.request("GET", &path, "").status);
        http2.lines_until(follower, &path).unwrap();
        number += 1;
        closed.catch_up();
        closed.was_reset(stalled)
    });
    assert_eq!(Some(CANCEL), dropped);
    assert_eq!(None, closed.goaway);
    http2.request("GET", "/last", "");
    http2.lines_until(follower, "/last").unwrap();
}

#[test]
fn a_signal_ends_streams_properly_and_answers_what_is_under_way() {
    quickly(WHILE_IT_ENDS, |clock| {
        let appliance = Appliance::start();
        let mut server = appliance.server();
        for key in ["my-key", "cold"] {
            let path = format!("/v1/key/create/{key}");
            server.root().post(&path, "").is_empty_success();
        }
        let mut http2 = Http2::open(&server.root());
        let follower = http2.ask("GET", AUDIT, "");
        assert_eq!(200, http2.status(follower).unwrap());
        appliance.pause();
        let blocked = http2.ask("POST", "/v1/key/generate/cold", "{}");
        let unfinished = http2.stream();
        http2.send(head(unfinished, "POST", GENERATE, false));
        http2.request("GET", "/version", "").is_json_success();
        clock.start();
        server.signal(Signal::TERM);
        // What was begun may be finished.
        http2.send(crate::common::http2::frame(0, 1, unfinished, b"{}"));
        appliance.go_on();
        http2.answer(blocked).is_json_success();
        http2.answer(unfinished).is_json_success();
        http2.answer(follower);
        assert_eq!(Some(NO_ERROR), http2.end().unwrap());
        let status = server.wait_for_exit();
        assert_eq!(Some(0), status.code(), "{status}: {}", server.stderr());
    });
}

#[test]
fn a_drain_brings_the_last_events_to_streams_that_share_a_connection() {
    quickly(WHILE_IT_ENDS, |clock| {
        let mut server = start(|_| {});
        let mut http2 = Http2::open(&server.root());
        let follower = http2.ask("GET", AUDIT, "");
        assert_eq!(200, http2.status(follower).unwrap());
        let last = http2.stream();
        http2.send(head(last, "POST", GENERATE, false));
        http2.request("GET", "/version", "").is_json_success();
        clock.start();
        server.signal(Signal::TERM);
        http2.read_for(Duration::from_millis(300));
        http2.send(crate::common::http2::frame(0, 1, last, b"{}"));
        http2.answer(last).is_json_success();
        let events = http2.answer(follower);
        assert!(events.text().contains(GENERATE), "{}", events.text());
        assert_eq!(Some(0), server.wait_for_exit().code());
    });
}

#[test]
fn a_signal_tells_idle_connections_why_they_end() {
    let mut server = start(|_| {});
    let mut idle = Http2::open(&server.root());
    idle.request("GET", "/version", "").is_json_success();
    server.signal(Signal::TERM);
    assert_eq!(Some(NO_ERROR), idle.end().unwrap());
    assert_eq!(Some(0), server.wait_for_exit().code());
}

// Required audit

#[test]
fn keys_wait_for_their_audit_line_and_others_go_on() {
    let mut pipe = None;
    let server = start(|config| {
        config.audit = "required";
        let path = config.keys().parent().unwrap().join("stdout");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        pipe = Some(File::from(rustix::fs::open(&path, flags, Mode::empty()).unwrap()));
    });
    let mut pipe = pipe.unwrap();
    let mut http2 = Http2::open(&server.root());
    http2.request("POST", GENERATE, "{}").is_json_success();
    // Nobody reads: the pipe gets full.
    for size in [4096, 1] {
        while pipe.write(&vec![b'\n'; size]).is_ok() {}
    }
    let keys: Vec<_> = (0..20).map(|_| http2.ask("POST", GENERATE, "{}")).collect();
    let others: Vec<_> = (0..20).map(|_| http2.ask("GET", "/version", "")).collect();
    for stream in others {
        http2.answer(stream).is_json_success();
    }
    for stream in keys {
        http2.answer(stream).is_failure(503, "audit log is not available");
    }
    http2.request("GET", "/version", "").is_json_success();
    // One that is given up meanwhile, and a whole connection.
    let given_up = http2.ask("POST", GENERATE, "{}");
    http2.send(reset(given_up, CANCEL));
    let mut cut = Http2::open(&server.root());
    cut.ask("POST", GENERATE, "{}");
    drop(cut);
    // The client reads again.
    let mut text = String::new();
    let resumed = wait_for(PATIENCE, || {
        read_available(&mut pipe, &mut text);
        (http2.request("POST", GENERATE, "{}").status == 200).then_some(())
    });
    assert!(resumed.is_some(), "the service does not resume");
    wait_for(PATIENCE, || {
        read_available(&mut pipe, &mut text);
        (text.matches("\"code\":503").count() >= 20).then_some(())
    });
    let refused = text.matches("\"code\":503").count();
    assert!(refused >= 20, "{refused} refusals are told of");
    assert!(!server.stderr().contains("panic"), "{}", server.stderr());
}

fn read_available(pipe: &mut File, text: &mut String) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut bytes) {
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
}

#[test]
fn who_closes_its_own_side_only_hears_what_it_waits_for() {
    let appliance = Appliance::start();
    let server = appliance.server();
    let create = server.root().post("/v1/key/create/cold", "");
    create.is_empty_success();
    let mut http2 = Http2::open(&server.root());
    http2.request("GET", "/version", "").is_json_success();
    appliance.pause();
    let blocked = http2.ask("POST", "/v1/key/generate/cold", "{}");
    http2.connection.half_close();
    http2.read_for(Duration::from_millis(300));
    appliance.go_on();
    http2.answer(blocked).is_json_success();
    http2.end().unwrap();
}
