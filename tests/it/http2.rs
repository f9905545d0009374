//! The API over HTTP/2: the same answers as over HTTP/1.1, however a client cuts its requests into
//! frames, and the same rules about who is answered.

use std::time::Duration;

use crate::common::{
    Authority, Client, Config, Http2, Identity, PATIENCE, Profile, Response, Server, base64,
    certificates::pem,
    hpack::literal,
    http2::{
        CANCEL, END_HEADERS, END_STREAM, NO_ERROR, PADDED, PROTOCOL_ERROR, block, frame, head,
        kind, reset, window_update,
    },
    stored_key, wait_for,
};
use serde_json::json;

const GENERATE: &str = "/v1/key/generate/my-key";
const ENCRYPT: &str = "/v1/key/encrypt/my-key";
const IMPORT: &str = "/v1/key/import/new";
/// The longest body of [`ENCRYPT`], in bytes.
const MAX_BODY: usize = 1 << 19;

fn start(change: impl FnOnce(&mut Config)) -> Server {
    Server::start(|config| {
        std::fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
        change(config);
    })
}

/// What makes an answer the same in both protocols.
#[derive(Debug, PartialEq, Eq)]
struct Essence {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
    trailers: Vec<(String, String)>,
}

impl Essence {
    /// Without what only one of the protocols has, and without the random `hidden` members.
    fn of(answer: &Response) -> Self {
        let is_in_chunks = answer.header("Transfer-Encoding").is_some();
        let sorted = |headers: &[(String, String)]| {
            let mut headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (name.to_lowercase(), value.clone()))
                .filter(|(name, _)| {
                    !["date", "connection", "transfer-encoding"].contains(&&name[..])
                })
                .collect();
            headers.sort();
            headers
        };
        assert!(!(is_in_chunks && answer.header("Content-Length").is_some()));
        let mut body = answer.text().to_owned();
        if body.contains("\"ciphertext\"") {
            // Random, but always as long.
            let members = answer.json();
            let members = members.as_object().unwrap().iter();
            let lengths = members.map(|(name, value)| (name, value.as_str().unwrap().len()));
            body = format!("{:?}", lengths.collect::<Vec<_>>());
        }
        Self {
            status: answer.status,
            headers: sorted(&answer.headers),
            body,
            trailers: sorted(&answer.trailers),
        }
    }
}

#[test]
fn answers_are_the_same_in_both_protocols() {
    let app = Identity::new("app");
    let sealed = {
        let server = start(|_| {});
        server.root().post(ENCRYPT, r#"{"plaintext":"AAAA"}"#)
    };
    let sealed = json!({ "ciphertext": base64(sealed.bytes("ciphertext")) }).to_string();
    let imported = json!({ "bytes": base64([7; 32]) }).to_string();
    let long_name = format!("/v1/key/create/{}", "a".repeat(256));
    let long_plaintext = json!({ "plaintext": base64(vec![1; 100_000]) }).to_string();
    let too_long = format!("{{\"plaintext\":\"{}\"}}", "A".repeat(MAX_BODY));
    #[rustfmt::skip]
    let requests: &[(&str, &str, &str)] = &[
        ("GET", "/version", ""),
        ("GET", "/version?a=b", ""),
        ("HEAD", "/version", ""),
        ("POST", "/version", "{}"),
        ("GET", "/nowhere", ""),
        ("HEAD", "/nowhere", ""),
        ("POST", "/nowhere", "some body"),
        ("OPTIONS", "/version", ""),
        ("PATCH", "/v1/key/create/new", ""),
        ("GET", "/v1//key", ""),
        ("HEAD", "/v1//key", ""),
        ("POST", "/v1/key/./create/a%20b", "body"),
        ("GET", "/v1/key/list", ""),
        ("POST", "/v1/key/create", ""),
        ("POST", "/v1/key/create/new", ""),
        ("POST", "/v1/key/create/new", "ignored"),
        ("POST", "/v1/key/create/a/b", ""),
        ("POST", "/v1/key/create/%2e%2e", ""),
        ("POST", &long_name, ""),
        ("PUT", "/v1/key/create/newer", ""),
        ("POST", "/v1/key/import/imported", &imported),
        ("POST", "/v1/key/import/imported", &imported),
        ("POST", "/v1/key/import/other", "{\"bytes\":\"AAAA\"}"),
        ("POST", "/v1/key/import/other", "no JSON"),
        ("POST", GENERATE, ""),
        ("POST", GENERATE, "{}"),
        ("POST", GENERATE, "{\"context\":\"AAAA\"}"),
        ("GET", GENERATE, ""),
        ("POST", "/v1/key/generate/absent", "{}"),
        ("POST", ENCRYPT, "{\"plaintext\":\"AAAA\"}"),
        ("POST", ENCRYPT, &long_plaintext),
        ("POST", ENCRYPT, &too_long),
        ("POST", ENCRYPT, "[]"),
        ("POST", "/v1/key/decrypt/my-key", &sealed),
        ("POST", "/v1/key/decrypt/new", &sealed),
        ("POST", "/v1/key/decrypt/my-key", "{\"ciphertext\":\"AAAA\"}"),
        ("GET", "/v1/key/list/*", ""),
        ("GET", "/v1/key/list/none*", ""),
        ("HEAD", "/v1/key/list/*", ""),
        ("DELETE", "/v1/key/delete/new", ""),
        ("DELETE", "/v1/key/delete/new", ""),
        ("GET", "/v1/policy/list/*", ""),
        ("GET", "/v1/policy/read/app", ""),
        ("GET", "/v1/policy/read/absent", ""),
        ("GET", "/v1/identity/list/*", ""),
        ("DELETE", "/v1/policy/delete/absent", ""),
    ];
    // Each protocol has a server of its own, as alike as two can be.
    let root = Identity::new("root");
    let servers = [false, true].map(|_| {
        start(|config| {
            config.root = root.id.clone();
            config.root_identity = root.clone();
            config.policy("app", &["/v1/key/generate/*", "/v1/key/list/*"], &[&app]);
        })
    });
    let identities = [&root, &app, &Identity::new("stranger")];
    let mut statuses = Vec::new();
    for identity in identities {
        let mut http1 = servers[0].client(identity).connect();
        let mut http2 = Http2::open(&servers[1].client(identity));
        for &(method, path, body) in requests {
            let what = format!("{method} {path}");
            let expected = match http1.try_request(method, path, body.as_bytes()) {
                Ok(answer) => answer,
                Err(e) => panic!("{what}: {e}"),
            };
            if expected.header("Connection") == Some("close") {
                http1 = servers[0].client(identity).connect();
            }
            let answer = http2.request(method, path, body);
            assert_eq!(Essence::of(&expected), Essence::of(&answer), "{what}");
            assert!(answer.header("Date").is_some(), "{what}: {answer:?}");
            assert_eq!(None, answer.header("Connection"), "{what}");
            assert_eq!(None, answer.header("Transfer-Encoding"), "{what}");
            assert!(
                answer.headers.iter().all(|(name, _)| *name == name.to_lowercase()),
                "{what}: {answer:?}"
            );
            statuses.push(answer.status);
        }
    }
    for status in [200, 301, 400, 403, 404, 405] {
        assert!(statuses.contains(&status), "{status} is not among {statuses:?}");
    }
    // And so are the audit logs.
    let [first, second] = servers.each_ref().map(|server| {
        let lines = server.audit(3 * requests.len() - 9);
        let essence = lines.into_iter().map(|mut event| {
            event["time"].take();
            event["response"]["time"].take();
            event
        });
        essence.collect::<Vec<_>>()
    });
    assert_eq!(first, second);
}

#[test]
fn a_list_of_keys_ends_with_trailers() {
    let server = start(|_| {});
    let mut http2 = Http2::open(&server.root());
    let answer = http2.request("GET", "/v1/key/list/*", "");
    assert_eq!((200, "{\"Name\":\"my-key\"}\n"), (answer.status, answer.text()));
    assert_eq!(Some("200"), answer.trailer("status"));
    assert_eq!(Some(""), answer.trailer("error"));
    assert_eq!(None, answer.header("Content-Length"));
    // HEAD has neither body nor trailers, whatever the method of the route.
    let answer = http2.request("HEAD", "/v1/key/list/*", "");
    assert!(answer.body.is_empty() && answer.trailers.is_empty(), "{answer:?}");
}

// Frames

/// A body for [`IMPORT`].
fn good_body() -> Vec<u8> {
    json!({ "bytes": base64([7; 32]) }).to_string().into_bytes()
}

#[test]
fn a_body_may_come_in_frames_of_any_size() {
    let server = start(|_| {});
    let mut http2 = Http2::open(&server.root());
    let plaintext = json!({ "plaintext": base64(vec![5; 30_000]) }).to_string();
    for size in [1, 7, 100, 16_384] {
        let body: &[u8] = if size == 1 { b"{}" } else { plaintext.as_bytes() };
        let stream = http2.stream();
        http2.send(head(stream, "POST", ENCRYPT, false));
        for part in body.chunks(size) {
            http2.send(frame(kind::DATA, 0, stream, part));
        }
        // An empty frame ends it.
        http2.send(frame(kind::DATA, END_STREAM, stream, []));
        http2.answer(stream).is_json_success();
    }
    // Trailers end it too.
    let stream = http2.stream();
    http2.send(head(stream, "POST", ENCRYPT, false));
    http2.send(frame(kind::DATA, 0, stream, b"{}"));
    let trailers = literal("x-checksum", "1");
    http2.send(frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, trailers));
    http2.answer(stream).is_json_success();
}

#[test]
fn frames_may_be_padded_and_have_priorities() {
    let server = start(|_| {});
    let mut http2 = Http2::open(&server.root());
    for padding in [0, 1, 255] {
        let stream = http2.stream();
        let padded = |content: &[u8]| {
            let zeros = vec![0; usize::from(padding)];
            [&[padding], content, &zeros].concat()
        };
        let with_priority = [&[0, 0, 0, 0, 15], &block("POST", ENCRYPT, &[])[..]].concat();
        let flags = PADDED | END_HEADERS | 0x20;
        http2.send(frame(kind::HEADERS, flags, stream, padded(&with_priority)));
        http2.send(frame(kind::DATA, PADDED, stream, padded(b"{")));
        http2.send(frame(kind::DATA, PADDED, stream, padded(b"")));
        http2.send(frame(kind::DATA, PADDED | END_STREAM, stream, padded(b"}")));
        http2.answer(stream).is_json_success();
    }
    // Padding counts as data: with a window of 64 KiB for each stream and 1 MiB for all, it goes on.
    for _ in 0..40 {
        let stream = http2.stream();
        http2.send(head(stream, "POST", ENCRYPT, false));
        for _ in 0..100 {
            let padding = [&[255, b' '][..], &[0; 255]].concat();
            http2.send(frame(kind::DATA, PADDED, stream, padding));
        }
        http2.send(frame(kind::DATA, END_STREAM, stream, b"{}"));
        http2.answer(stream).is_json_success();
    }
}

#[test]
fn a_header_block_may_come_in_many_frames() {
    let server = start(|_| {});
    let mut http2 = Http2::open(&server.root());
    let long = "v".repeat(20_000);
    for (size, more) in [(30, None), (50, None), (16_384, Some(("x-long", &long[..])))] {
        let stream = http2.stream();
        let block = block("POST", GENERATE, more.as_slice());
        let (first, rest) = block.split_at(size.min(block.len()));
        http2.send(frame(kind::HEADERS, 0, stream, first));
        for part in rest.chunks(size) {
            http2.send(frame(kind::CONTINUATION, 0, stream, part));
        }
        http2.send(frame(kind::CONTINUATION, END_HEADERS, stream, []));
        http2.send(frame(kind::DATA, END_STREAM, stream, b"{}"));
        http2.answer(stream).is_json_success();
    }
}

#[test]
fn a_body_over_the_limit_is_refused_while_it_is_still_being_sent() {
    let server = start(|_| {});
    let mut http2 = Http2::open(&server.root());
    let too_long = (MAX_BODY + 1).to_string();
    // It says so.
    let stream = http2.stream();
    let block = block("POST", ENCRYPT, &[("content-length", &too_long)]);
    http2.send(frame(kind::HEADERS, END_HEADERS, stream, block));
    assert_eq!(400, http2.status(stream).unwrap());
    http2.request("POST", GENERATE, "{}").is_json_success();
    // It does not, and the window opens as long as it may still be good.
    let stream = http2.stream();
    http2.send(head(stream, "POST", ENCRYPT, false));
    let mut sent = 0;
    while !http2.has_status(stream) {
        match sent <= 16 * MAX_BODY && http2.room(stream) >= 10_000 {
            true => {
                http2.send(frame(kind::DATA, 0, stream, [b' '; 10_000]));
                sent += 10_000;
                http2.catch_up();
            }
            false => http2.read().unwrap(),
        }
    }
    assert!(sent > MAX_BODY, "refused after {sent} bytes");
    assert!(sent < 2 * MAX_BODY, "refused after {sent} bytes");
    assert_eq!(400, http2.status(stream).unwrap());
    http2.request("POST", GENERATE, "{}").is_json_success();
    http2.send(crate::common::http2::reset(stream, CANCEL));
    http2.request("POST", GENERATE, "{}").is_json_success();
    assert_eq!(5, server.audit(5).len());
}

#[test]
fn a_length_that_is_not_that_of_the_data_is_refused() {
    let server = start(|_| {});
    let mut http2 = Http2::open(&server.root());
    let body = good_body();
    for length in [0, 1, body.len() - 1, body.len() + 1, 1 << 40] {
        let stream = http2.stream();
        let block = block("POST", IMPORT, &[("content-length", &length.to_string())]);
        http2.send(frame(kind::HEADERS, END_HEADERS, stream, block));
        // The server may have reset the stream meanwhile.
        let _ = http2.try_send(&frame(kind::DATA, END_STREAM, stream, &body));
        match http2.try_answer(stream) {
            Ok(answer) => assert_eq!(400, answer.status, "{length}: {answer:?}"),
            Err(e) => assert_eq!("reset with 1", e.to_string(), "{length}"),
        }
    }
    assert_eq!(["my-key"], *server.key_files());
    let length = body.len().to_string();
    let stream = http2.ask_with("POST", IMPORT, &[("content-length", &length)], &body);
    http2.answer(stream).is_empty_success();
}

#[test]
fn requests_that_are_none_are_refused() {
    let server = start(|_| {});
    let mut http2 = Http2::open(&server.root());
    let good = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "kes"),
        (":path", "/v1/key/create/smuggled"),
    ];
    let with = |more: (&'static str, &'static str)| [&good[..], &[more]].concat();
    let without = |name: &str| good.iter().copied().filter(|(n, _)| *n != name).collect();
    let mut swapped = good.to_vec();
    swapped.insert(0, ("x", "a"));
    for headers in [
        with(("connection", "close")),
        with(("transfer-encoding", "chunked")),
        with(("keep-alive", "1")),
        with(("upgrade", "h2c")),
        with(("te", "gzip")),
        with(("X-Upper", "a")),
        with((":path", "/other")),
        with((":status", "200")),
        with((":unknown", "a")),
        with(("x y", "a")),
        with(("x", "a\r\nb: c")),
        with(("x", "a\0b")),
        with(("content-length", "-1")),
        with(("content-length", "a")),
        with(("host", "other")),
        without(":method"),
        without(":scheme"),
        without(":path"),
        swapped,
        [&[(":method", "PO ST")], &good[1..]].concat(),
    ] {
        let stream = http2.stream();
        let block: Vec<u8> =
            headers.iter().flat_map(|(name, value)| literal(name, value)).collect();
        http2.send(frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, block));
        match http2.try_answer(stream) {
            Ok(answer) => assert_eq!(400, answer.status, "{headers:?}: {answer:?}"),
            Err(_) if http2.was_reset(stream).is_some() => {}
            // RFC 9113 5.4.2 lets a server end the whole connection as well.
            Err(e) => {
                assert_eq!(Some(PROTOCOL_ERROR), http2.goaway, "{headers:?}: {e}");
                http2 = Http2::open(&server.root());
            }
        }
    }
    http2.request("GET", "/version", "").is_json_success();
    assert_eq!(["my-key"], *server.key_files());
}

#[test]
fn a_client_that_waits_for_it_gets_the_go_ahead() {
    let server = start(|_| {});
    let mut http2 = Http2::open(&server.root());
    let expect = [("expect", "100-continue")];
    let stream = http2.stream();
    let block = |path| block("POST", path, &expect);
    http2.send(frame(kind::HEADERS, END_HEADERS, stream, block(ENCRYPT)));
    while http2.informed(stream) != Some(100) {
        http2.read().unwrap();
    }
    http2.send(frame(kind::DATA, END_STREAM, stream, b"{}"));
    http2.answer(stream).is_json_success();
    // A refused request gets none.
    let stream = http2.stream();
    http2.send(frame(kind::HEADERS, END_HEADERS, stream, block("/nowhere")));
    assert_eq!(404, http2.status(stream).unwrap());
    assert_eq!(None, http2.informed(stream));
}

#[test]
fn what_else_a_client_expects_is_refused_in_both_protocols() {
    let server = start(|_| {});
    let expect = [("expect", "a-miracle")];
    let mut http1 = server.root().connect();
    http1.send("POST /v1/key/create/new HTTP/1.1\r\nHost: kes\r\nExpect: a-miracle\r\n\r\n");
    let expected = Essence::of(&http1.response());
    assert_eq!(417, expected.status);
    let mut http2 = Http2::open(&server.root());
    let stream = http2.ask_with("POST", "/v1/key/create/new", &expect, "");
    assert_eq!(expected, Essence::of(&http2.answer(stream)));
    // The connection goes on.
    http2.request("GET", "/version", "").is_json_success();
    assert_eq!(["my-key"], *server.key_files());
}

#[test]
fn an_answer_larger_than_the_window_comes_as_room_is_made() {
    let server = start(|_| {});
    let mut http2 = Http2::open(&server.root());
    http2.opens_windows = false;
    let plaintext = json!({ "plaintext": base64(vec![5; 300_000]) }).to_string();
    let stream = http2.send_body("POST", ENCRYPT, plaintext.as_bytes());
    http2.read_for(Duration::from_millis(500));
    assert!(!http2.is_answered(stream));
    // Others have answers without content, which need no room.
    http2.request("POST", "/v1/key/create/new", "").is_empty_success();
    for step in [1, 10, 1000, 1 << 20] {
        http2.send([window_update(0, step), window_update(stream, step)].concat());
    }
    http2.answer(stream).is_json_success();
}

// Who is answered

fn assign(client: &Client, policy: &str, identity: &Identity) {
    let path = format!("/v1/identity/assign/{policy}/{}", identity.id);
    client.post(&path, "").is_empty_success();
}

#[test]
fn policies_hold_from_the_next_request_on() {
    let app = Identity::new("app");
    let server = start(|config| {
        config.policy("one", &["/v1/key/generate/*"], &[&app]);
        config.policy("two", &["/v1/key/encrypt/*"], &[]);
    });
    let mut http2 = Http2::open(&server.client(&app));
    let mut statuses = |root: Option<&str>| {
        if let Some(policy) = root {
            assign(&server.root(), policy, &app);
        }
        [GENERATE, ENCRYPT].map(|path| http2.request("POST", path, "{}").status)
    };
    assert_eq!([200, 403], statuses(None));
    assert_eq!([403, 200], statuses(Some("two")));
    assert_eq!([200, 403], statuses(Some("one")));
    let path = "/v1/policy/delete/one";
    server.root().delete(path).is_empty_success();
    assert_eq!([403, 403], statuses(None));
}

#[test]
fn a_certificate_that_expires_ends_the_connection_at_the_next_request() {
    let authority = Authority::new("authority");
    let app = authority.issue("app", &Profile::client());
    let server = start(|config| {
        let path = config.file("authority.crt", &authority.identity.certificate_pem());
        let path = path.display().to_string();
        config.environment.push(("SSL_CERT_FILE".to_owned(), path));
        config.root_identity = authority.issue("root", &Profile::client());
        config.root = config.root_identity.id.clone();
        config.auth = "on";
        config.policy("app", &["/v1/key/generate/*"], &[&app]);
    });
    let short = authority.issue_again(&app, &Profile::client().short());
    let mut http2 = Http2::open(&server.client(&short));
    http2.request("POST", GENERATE, "{}").is_json_success();
    let refused = wait_for(PATIENCE, || {
        let answer = http2.request("POST", GENERATE, "{}");
        std::thread::sleep(Duration::from_millis(100));
        (answer.status != 200).then_some(answer)
    });
    let mut http1 = server.root().connect();
    http1.request("GET", "/version", "").is_json_success();
    assert_eq!(403, refused.expect("it is answered for ever").status);
    assert_eq!(Some(NO_ERROR), http2.end().unwrap());
}

#[test]
fn a_proxy_speaks_for_another_client_in_each_stream() {
    let (proxy, app, other) =
        (Identity::new("proxy"), Identity::new("app"), Identity::new("other"));
    let server = start(|config| {
        config.policy("app", &["/v1/key/generate/*"], &[&app]);
        config.proxies(&[&proxy], Some("X-Tls-Client-Cert"));
    });
    let escaped = |identity: &Identity| {
        let text = pem("CERTIFICATE", &identity.chain[0]);
        percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let certificates = [&app, &other, &server.root_identity].map(escaped);
    let mut http2 = Http2::open(&server.client(&proxy));
    const HEADER: &str = "x-tls-client-cert";
    // All at once, so that one can't be taken for another.
    let mut streams = Vec::new();
    for round in 0..30 {
        let at = round % 3;
        let headers = [(HEADER, &certificates[at][..])];
        let stream = http2.ask_with("POST", GENERATE, &headers, "{}");
        streams.push((stream, [200, 403, 200][at]));
    }
    for (stream, status) in streams {
        assert_eq!(status, http2.answer(stream).status);
    }
    let twice = [(HEADER, &certificates[0][..]), (HEADER, &certificates[0][..])];
    let too_many = "too many client certificates are present";
    for (headers, text) in [(&twice[..], too_many), (&[], "no client certificate is present")] {
        let stream = http2.ask_with("POST", GENERATE, headers, "{}");
        http2.answer(stream).is_failure(400, text);
    }
    // Nobody else speaks for others.
    let mut http2 = Http2::open(&server.client(&other));
    let stream = http2.ask_with("POST", GENERATE, &[(HEADER, &certificates[0])], "{}");
    http2.answer(stream).is_failure(403, "prohibited by policy");
    let identities: Vec<_> = server
        .audit(33)
        .iter()
        .map(|event| event["request"]["identity"].as_str().unwrap().to_owned())
        .collect();
    let count = |identity: &Identity| identities.iter().filter(|id| **id == identity.id).count();
    let counts = [&app, &server.root_identity, &other, &proxy].map(count);
    assert_eq!([10, 10, 11, 2], counts);
}

/// What came in of bodies that are given up while the connection holds all that it may was never the
/// client's to send again, so that after a megabyte no stream could send anything.
#[test]
fn bodies_that_are_given_up_leave_the_window_of_the_connection_whole() {
    let server = start(|_| {});
    let mut http2 = Http2::open(&server.root());
    let announced = MAX_BODY.to_string();
    let begin = |http2: &mut Http2| {
        let stream = http2.stream();
        let block = block("POST", ENCRYPT, &[("content-length", &announced)]);
        http2.send(frame(kind::HEADERS, END_HEADERS, stream, block));
        http2.send(frame(kind::DATA, 0, stream, [b' '; 10_000]));
        stream
    };
    for _ in 0..20 {
        // Eight bodies of 512 KiB are all that may be held.
        let streams: Vec<_> = (0..8).map(|_| begin(&mut http2)).collect();
        for stream in streams {
            http2.send(reset(stream, CANCEL));
        }
        http2.request("POST", GENERATE, "{}").is_json_success();
    }
    let stream = http2.send_body("POST", ENCRYPT, &vec![b' '; 200_000]);
    assert_eq!(400, http2.answer(stream).status);
}

/// An answer that came before the client had sent its body was lost on some clients: curl 7.88 waited
/// for it for ever.
#[test]
fn answers_come_when_the_request_has_ended() {
    let server = start(|_| {});
    let mut http2 = Http2::open(&server.root());
    let stranger = Identity::new("stranger");
    let mut other = Http2::open(&server.client(&stranger));
    let mut created = 0;
    for (client, path) in
        [(&mut http2, "/v1/key/create/new"), (&mut other, "/v1/key/create/refused")]
    {
        let stream = client.stream();
        client.send(head(stream, "POST", path, false));
        client.read_for(Duration::from_millis(300));
        assert!(!client.has_status(stream), "{path}");
        client.send(frame(kind::DATA, END_STREAM, stream, b"{}"));
        created += u32::from(client.answer(stream).status == 200);
        // Not for ever, and not for those who wait for an answer themselves.
        let stream = client.stream();
        let more = [("expect", "100-continue"), ("content-length", "2")];
        client.send(frame(kind::HEADERS, END_HEADERS, stream, block("POST", path, &more)));
        client.status(stream).unwrap();
        let stream = client.stream();
        client.send(head(stream, "POST", path, false));
        client.status(stream).unwrap();
    }
    assert_eq!(1, created);
}
