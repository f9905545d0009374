//! Defects that were found and mended stay mended.
use std::{fs, time::Duration};

use crate::common::{Server, WHILE_IT_ENDS, base64, client::request, quickly, wait_until};
use rustix::process::Signal;

/// A key that another server deleted stayed in the cache; after a new create of the same name, data
/// was sealed under the old key, which was gone.
#[test]
fn a_created_key_takes_the_place_of_a_cached_one() {
    let server = Server::start(|_| {});
    let root = server.root();
    root.post("/v1/key/create/a", "").is_empty_success();
    root.post("/v1/key/generate/a", "{}").is_json_success();
    fs::remove_file(server.keys().join("a")).unwrap();
    root.post("/v1/key/create/a", "").is_empty_success();
    let sealed = root.post("/v1/key/generate/a", "{}").bytes("ciphertext");

    let stored = fs::read_to_string(server.keys().join("a")).unwrap();
    let other = Server::start(|_| {});
    other.root().post("/v1/key/import/a", stored).is_empty_success();
    let body = format!("{{\"ciphertext\":\"{}\"}}", base64(sealed));
    other.root().post("/v1/key/decrypt/a", body).is_json_success();
}

/// A server that was told to end took a connection for idle whose last answer was partly still
/// inside TLS, since its client did not read fast enough, and cut it off.
#[test]
fn a_signal_does_not_cut_off_answers_that_a_slow_reader_is_owed() {
    quickly(WHILE_IT_ENDS, |clock| {
        let mut server = Server::start(|_| {});
        server.root().post("/v1/key/create/a", "").is_empty_success();
        let mut connection = server.root().connect();
        let body = format!("{{\"plaintext\":\"{}\"}}", base64([7; 16 * 1024]));
        let encrypt = request("POST", "/v1/key/encrypt/a", body.as_bytes());
        // One request at a time, until the socket of the server takes no more: what it holds has not
        // grown by an answer, so the rest of the last one is inside TLS.
        let (mut sent, mut before) = (0, 0);
        loop {
            connection.send(&encrypt);
            sent += 1;
            wait_until("the answer", || server.stdout().lines().count() > sent);
            std::thread::sleep(Duration::from_millis(10));
            let socket = server.socket_of(connection.socket());
            let unsent = socket.expect("the connection is in the table").unsent;
            if unsent > 0 && unsent < before + 16 * 1024 {
                break;
            }
            before = unsent;
            assert!(sent < 2000, "the socket takes everything");
        }
        clock.start();
        server.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(200));
        for number in 0..sent {
            let answer = connection.try_response(false);
            let answer = answer.unwrap_or_else(|e| panic!("answer {number} of {sent}: {e}"));
            answer.is_json_success();
        }
        assert_eq!(Some(0), server.wait_for_exit().code());
    });
}

/// A stalled connection with a request at the key store was looked at again and again, never closed.
#[test]
fn a_client_that_never_reads_is_dropped_also_while_the_key_store_works_for_it() {
    let server = Server::start(|_| {});
    server.root().post("/v1/key/create/a", "").is_empty_success();
    let mut connection = server.root().connect();
    connection.socket().set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut batch = request("POST", "/v1/key/generate/a", b"{}").repeat(90);
    batch.extend(request("POST", "/v1/key/create/a", b""));
    for _ in 0..200 {
        if connection.try_send(&batch).is_err() {
            break;
        }
    }
    // The limit for a stalled write is 10 seconds.
    server.drops(&connection);
}

/// A 64 KiB pattern was parsed anew for every key.
#[test]
fn a_pattern_that_no_name_can_need_matches_nothing() {
    let server = Server::start(|_| {});
    server.root().post("/v1/key/create/a", "").is_empty_success();
    let pattern = format!("/v1/key/list/{}", "*".repeat(5000));
    let answer = server.root().get(&pattern);
    assert_eq!((200, ""), (answer.status, answer.text()));
}

/// A key store section with an empty path was taken for the in-memory store.
#[test]
fn a_key_store_without_its_place_is_refused() {
    for section in [
        "keystore: {fs: {path: }}",
        "keystore: {fs: {}}",
        "keys: {fs: {path: ''}}",
        "keystore: {vault: {approle: {id: a, secret: b}}}",
    ] {
        let folder = crate::common::TempDir::new();
        let file = folder.path().join("kes.yml");
        fs::write(&file, format!("root: _\ntls: {{key: k, cert: c}}\n{section}\n")).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_kes"))
            .args(["server", "--addr", "127.0.0.1:1", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(Some(1), output.status.code());
        assert!(text.contains("no key store") && text.contains("field key"), "{section}: {text}");
    }
}
