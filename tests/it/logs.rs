//! Log streams and audit that can be relied on, over real TLS.

use std::{
    io::Write as _,
    net::TcpStream,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use crate::common::{
    Authority, Client, Config, Follower, Identity, PATIENCE, Profile, Server, WHILE_IT_ENDS,
    quickly, stored_key, wait_for,
};
use rustix::process::Signal;
use serde_json::{Value, json};

const AUDIT: &str = "/v1/log/audit/trace";
const ERROR: &str = "/v1/log/error/trace";
const ERROR_ALIAS: &str = "/v1/log/log/error/trace";

/// A server with the key `my-key`.
fn start(change: impl FnOnce(&mut Config)) -> Server {
    Server::start(|config| {
        std::fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
        change(config);
    })
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?}: {e}"))
}

fn path_of(event: &Value) -> String {
    event["request"]["path"].as_str().unwrap().to_owned()
}

/// Sends `count` requests over each of `clients` connections at the same time.
fn work(client: &Client, clients: usize, count: usize) {
    std::thread::scope(|scope| {
        for number in 0..clients {
            scope.spawn(move || {
                let mut connection = client.connect();
                for at in 0..count {
                    let answer = match at % 3 {
                        0 => connection.request("POST", "/v1/key/generate/my-key", "{}"),
                        1 => connection.request("GET", "/version", ""),
                        _ => connection.request("GET", &format!("/nothing/{number}/{at}"), ""),
                    };
                    assert!([200, 404].contains(&answer.status), "{answer:?}");
                }
            });
        }
    });
}

// Streams

#[test]
fn a_stream_begins_with_its_own_request() {
    let server = start(|_| {});
    server.root().get("/version").is_json_success();
    let mut follower = Follower::start(&server.root(), AUDIT);
    let head = &follower.head;
    assert_eq!(Some("application/x-ndjson"), head.header("Content-Type"));
    assert_eq!(Some("chunked"), head.header("Transfer-Encoding"));
    assert_eq!(None, head.header("Trailer"));
    let event = follower.event();
    assert_eq!(json!({"path": AUDIT, "identity": server.root_identity.id}), event["request"]);
    assert_eq!(200, event["response"]["code"]);
    assert!(event["response"]["time"].is_u64() && event["time"].is_string());
    server.root().get("/v1/key/list/a%22b");
    assert_eq!(json!("/v1/key/list/a\"b"), follower.event()["request"]["path"]);
}

#[test]
fn all_subscribers_see_what_stdout_sees_in_the_same_order() {
    let server = start(|_| {});
    let mut followers: Vec<_> = (0..12).map(|_| Follower::start(&server.root(), AUDIT)).collect();
    work(&server.root(), 4, 150);
    server.root().get("/last");
    let seen: Vec<_> = followers.iter_mut().map(|follower| follower.until("\"/last\"")).collect();
    let in_stdout: Vec<_> = server.audit(613);
    for (number, lines) in seen.iter().enumerate() {
        let events: Vec<_> = lines.iter().map(|line| parse(line)).collect();
        // Those that subscribed earlier saw the others come.
        assert_eq!(613 - number, events.len(), "subscriber {number}");
        assert_eq!(in_stdout[number..], events, "subscriber {number}");
        assert_eq!(AUDIT, path_of(&events[0]));
    }
}

#[test]
fn a_stream_needs_no_audit_log() {
    let server = start(|config| config.audit = "off");
    let mut follower = Follower::start(&server.root(), AUDIT);
    server.root().get("/version").is_json_success();
    assert_eq!(AUDIT, follower.event()["request"]["path"]);
    assert_eq!("/version", follower.event()["request"]["path"]);
    assert_eq!("", server.stdout());
}

#[test]
fn error_streams_carry_the_lines_of_stderr() {
    let server = start(|config| {
        std::fs::write(config.keys().join("bad"), "no key").unwrap();
    });
    let mut followers = [ERROR, ERROR_ALIAS].map(|path| Follower::start(&server.root(), path));
    for _ in 0..3 {
        let answer = server.root().post("/v1/key/generate/bad", "{}");
        answer.is_failure(502, "bad gateway: failed to access key");
    }
    assert!(server.anonymous().try_request("GET", "/version", b"").is_err());
    server.logs_error("certificate");
    let stderr = server.stderr();
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(4, lines.len(), "{stderr}");
    for follower in &mut followers {
        assert_eq!(lines, follower.until("certificate"));
    }
    let message = parse(lines[0])["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with("is no key: it is not valid JSON") || message.contains("\"bad\""));
}

#[test]
fn the_policy_is_asked_for_the_path_as_requested() {
    let (one, other) = (Identity::new("one"), Identity::new("other"));
    let nobody = Identity::new("nobody");
    let server = start(|config| {
        config.policy("one", &[ERROR, AUDIT], &[&one]);
        config.policy("other", &[ERROR_ALIAS], &[&other]);
    });
    for (identity, path, status) in [
        (&one, AUDIT, 200),
        (&one, ERROR, 200),
        (&one, ERROR_ALIAS, 403),
        (&other, ERROR_ALIAS, 200),
        (&other, ERROR, 403),
        (&other, AUDIT, 403),
        (&nobody, AUDIT, 403),
    ] {
        let client = server.client(identity);
        match status {
            200 => drop(Follower::start(&client, path)),
            _ => client.get(path).is_failure(403, "prohibited by policy"),
        }
    }
    let post = server.root().post(AUDIT, "{}");
    post.is_failure(405, "Method Not Allowed");
    assert_eq!(Some("GET"), post.header("Accept"));
    let mut connection = server.root().connect();
    let head = connection.try_request("HEAD", ERROR, b"").unwrap();
    assert_eq!(405, head.status);
    connection.request("GET", "/version", "").is_json_success();
}

#[test]
fn an_old_client_gets_lines_until_the_connection_closes() {
    let mut server = start(|_| {});
    let mut connection = server.root().connect();
    connection.send(format!("GET {AUDIT} HTTP/1.0\r\n\r\n"));
    let head = connection.try_response(true).unwrap();
    assert_eq!((200, "HTTP/1.0"), (head.status, head.version.as_str()));
    assert_eq!(None, head.header("Transfer-Encoding"));
    assert_eq!(Some("close"), head.header("Connection"));
    server.root().get("/version").is_json_success();
    server.signal(Signal::TERM);
    let text = String::from_utf8(connection.rest()).unwrap();
    let paths: Vec<_> = text.lines().map(|line| path_of(&parse(line))).collect();
    assert_eq!(vec![AUDIT, "/version"], paths);
    assert_eq!(Some(0), server.wait_for_exit().code());
}

#[test]
fn what_a_subscriber_sends_is_ignored_until_it_leaves() {
    let server = start(|_| {});
    let before = server.descriptors();
    for _ in 0..20 {
        let mut follower = Follower::start(&server.root(), AUDIT);
        let noise = "GET /noise HTTP/1.1\r\nHost: kes\r\n\r\n".repeat(100);
        follower.connection().send(noise);
        follower.event();
        follower.connection().half_close();
        assert!(follower.connection().is_closed());
    }
    for _ in 0..20 {
        drop(Follower::start(&server.root(), AUDIT));
    }
    let gone = wait_for(PATIENCE, || (server.descriptors() <= before).then_some(()));
    assert!(gone.is_some(), "{} descriptors", server.descriptors());
    let audit = server.audit(40);
    assert!(audit.iter().all(|event| event["request"]["path"] == AUDIT));
}

#[test]
fn subscribers_that_do_not_read_are_dropped_and_nobody_else_notices() {
    let server = start(|config| config.audit = "off");
    let mut readers: Vec<_> = (0..4).map(|_| Follower::start(&server.root(), AUDIT)).collect();
    let mut sleepers: Vec<_> = (0..3).map(|_| Follower::start(&server.root(), AUDIT)).collect();
    let with_all = server.descriptors();
    // More than the socket and the queue of a subscriber hold.
    let path = |at: usize| format!("/{at}/{}", "x".repeat(4000));
    let total = 1200;
    let progress: Vec<_> = readers.iter().map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        for (reader, count) in readers.iter_mut().zip(&progress) {
            scope.spawn(move || {
                // The requests of those that subscribed.
                while path_of(&reader.event()) == AUDIT {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                for at in 1..total {
                    assert!(path_of(&reader.event()) == path(at), "event {at} is out of order");
                    count.store(at, Ordering::Relaxed);
                }
            });
        }
        let mut connection = server.root().connect();
        for at in 0..total {
            assert_eq!(404, connection.request("GET", &path(at), "").status);
            // On a slow machine the readers of this test would be dropped, too.
            wait_for(PATIENCE, || {
                let seen = |count: &AtomicUsize| count.load(Ordering::Relaxed) + 100 > at;
                progress.iter().all(seen).then_some(())
            });
        }
    });
    let dropped =
        wait_for(PATIENCE, || (server.descriptors() <= with_all - sleepers.len()).then_some(()));
    assert!(dropped.is_some(), "they are still connected");
    for sleeper in &mut sleepers {
        assert!(sleeper.rest().is_err(), "the stream seems to be complete");
    }
    let page = server.root().get("/v1/metrics");
    let counted = page.text().contains("\nkes_log_subscribers_dropped 3\n");
    assert!(counted, "{}", page.text());
}

#[test]
fn a_drain_brings_the_last_events_and_ends_streams_properly() {
    quickly(WHILE_IT_ENDS, |clock| {
        let mut server = start(|_| {});
        let mut audit: Vec<_> = (0..5).map(|_| Follower::start(&server.root(), AUDIT)).collect();
        let mut error = Follower::start(&server.root(), ERROR);
        let mut busy = server.root().connect();
        let body = stored_key(&[1; 32]);
        let bytes = crate::common::client::request("POST", "/v1/key/import/late", body.as_bytes());
        busy.send(&bytes[..bytes.len() - 5]);
        work(&server.root(), 2, 50);
        server.reads_all_of(&busy);
        clock.start();
        server.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(100));
        busy.send(&bytes[bytes.len() - 5..]);
        busy.response().is_empty_success();
        drop(busy);
        for follower in &mut audit {
            let lines = follower.rest().unwrap();
            assert_eq!("/v1/key/import/late", path_of(&parse(lines.last().unwrap())));
            assert!(lines.len() > 100 && follower.connection().is_closed());
        }
        assert!(error.rest().unwrap().is_empty());
        assert_eq!(Some(0), server.wait_for_exit().code());
    });
}

#[test]
fn a_stream_ends_with_the_certificate_of_its_client() {
    let authority = Authority::new("authority");
    let file = authority.identity.certificate_pem();
    let app = authority.issue("app", &Profile::client());
    let server = start(|config| {
        let path = config.file("authority.crt", &file).display().to_string();
        config.environment.push(("SSL_CERT_FILE".to_owned(), path));
        config.root_identity = authority.issue("root", &Profile::client());
        config.root = config.root_identity.id.clone();
        config.auth = "on";
        config.policy("logs", &[AUDIT], &[&app]);
    });
    let mut long = Follower::start(&server.root(), AUDIT);
    let short = authority.issue_again(&app, &Profile::client().short());
    let mut follower = Follower::start(&server.client(&short), AUDIT);
    let lines = follower.rest().unwrap();
    assert_eq!(short.id, parse(&lines[0])["request"]["identity"]);
    assert!(follower.connection().is_closed());
    server.root().get("/version").is_json_success();
    long.until("\"/version\"");
}

#[test]
fn a_stream_ends_with_the_policy_that_allows_it() {
    let client = Identity::new("client");
    let server = start(|config| config.policy("logs", &[ERROR], &[&client]));
    let mut follower = Follower::start(&server.client(&client), ERROR);
    let mut other = Follower::start(&server.root(), ERROR);
    server.root().delete("/v1/policy/delete/logs").is_empty_success();
    assert!(follower.rest().unwrap().is_empty());
    assert!(follower.connection().is_closed());
    let answer = server.client(&client).get(ERROR);
    answer.is_failure(403, "prohibited by policy");
    other.until(&client.id);
}

// What others can cause

/// A client that speaks no TLS.
fn fail_handshakes(server: &Server, count: u64) {
    for _ in 0..count {
        let mut socket = TcpStream::connect(server.address).unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    }
}

#[test]
fn failed_handshakes_neither_fill_the_log_nor_hide_anything_else() {
    let mut server = start(|_| {});
    let begin = Instant::now();
    fail_handshakes(&server, 2000);
    let stranger = server.client(&Identity::new("stranger"));
    let refused = stranger.post("/v1/key/create/a", "");
    refused.is_failure(403, "prohibited by policy");
    server.logs_error("called \\\"/v1/key/create/a\\\"");
    fail_handshakes(&server, 1000);
    let (text, what) = ("TLS handshake error from 127.0.0.1:", "TLS handshakes failed");
    server.limits_errors(3000, text, what, 10, begin);
    assert_eq!(3000, server.metric("kes_tls_handshake_failed"));
    // The last lines left out are counted at the end.
    fail_handshakes(&server, 500);
    let counted =
        wait_for(PATIENCE, || (server.metric("kes_tls_handshake_failed") == 3500).then_some(()));
    assert!(counted.is_some());
    server.signal(Signal::TERM);
    assert_eq!(Some(0), server.wait_for_exit().code());
    server.limits_errors(3500, text, what, 10, begin);
}

#[test]
fn requests_that_fail_again_and_again_do_not_fill_the_log() {
    let server = start(|config| {
        std::fs::write(config.keys().join("bad"), "no key").unwrap();
    });
    let begin = Instant::now();
    let mut connection = server.root().connect();
    for _ in 0..1000 {
        let answer = connection.request("POST", "/v1/key/generate/bad", "{}");
        answer.is_failure(502, "bad gateway: failed to access key");
    }
    server.limits_errors(1000, "is no key", "requests failed", 100, begin);
}

// Required audit

#[test]
fn a_required_line_is_there_when_the_answer_is() {
    let server = start(|config| {
        config.audit = "required";
        for number in 0..4 {
            let path = config.keys().join(format!("k{number}"));
            std::fs::write(path, stored_key(&[number; 32])).unwrap();
        }
    });
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (server, answered) = (&server, &answered);
            scope.spawn(move || {
                let mut connection = server.root().connect();
                for count in 1..=250 {
                    let path = format!("/v1/key/generate/k{number}");
                    connection.request("POST", &path, "{}").is_json_success();
                    answered.fetch_add(1, Ordering::Relaxed);
                    // What is there now was written before the answer, or a moment ago.
                    let lines = server.stdout().matches(&path).count();
                    assert_eq!(count, lines, "{path}");
                }
            });
        }
    });
    assert_eq!(1000, answered.into_inner());
    let audit = server.audit(1000);
    assert_eq!(1000, audit.len());
    assert!(audit.iter().all(|event| event["response"]["code"] == 200));
}

#[test]
fn required_audit_keeps_the_order_of_pipelined_answers() {
    let server = start(|config| config.audit = "required");
    let mut connection = server.root().connect();
    let mut follower = Follower::start(&server.root(), AUDIT);
    let mut batch = Vec::new();
    for at in 0..30 {
        batch.extend(match at % 3 {
            0 => crate::common::client::request("POST", "/v1/key/generate/my-key", b"{}"),
            1 => crate::common::client::request("GET", "/version", b""),
            _ => crate::common::client::request("GET", "/nothing", b""),
        });
    }
    connection.send(batch);
    for at in 0..30 {
        let answer = connection.response();
        let expected = [("plaintext", 200), ("version", 200), ("not found", 404)][at % 3];
        assert_eq!(expected.1, answer.status);
        assert!(answer.text().contains(expected.0), "{answer:?}");
    }
    let lines = server.audit(31).len();
    assert_eq!(31, lines);
    server.root().get("/last");
    let seen = follower.until("\"/last\"");
    let codes = |code| seen.iter().filter(|line| parse(line)["response"]["code"] == code).count();
    assert_eq!((21, 11), (codes(200), codes(404)));
}
