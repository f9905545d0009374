//! Handshakes that break off, crawl, flood or come from another time: each is closed, costs no descriptor after that, and
//! the next client is served. Records and messages out of order are in `scripts/it/66-tls.sh`, the deadline itself in
//! `src/io/tests.rs`.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use rustls::{ClientConnection, HandshakeKind};
use rustls_pki_types::ServerName;

use crate::common::{
    Authority, Config, Identity, PATIENCE, Profile, Server, client::request, wait_until,
};

/// The first record of a client.
fn hello(server: &Server) -> Vec<u8> {
    let name = ServerName::from(server.address.ip());
    let mut connection = ClientConnection::new(server.root().config(), name).unwrap();
    let mut record = Vec::new();
    connection.write_tls(&mut record).unwrap();
    record
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[kind, 3, 3], &length[..], content].concat()
}

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const CHANGE_CIPHER_SPEC: u8 = 20;

/// Sends `bytes`, and `forever` again and again, until the server has closed the connection.
fn is_closed_on(server: &Server, what: &str, bytes: &[u8], forever: Option<&[u8]>) {
    let began = Instant::now();
    let mut socket = TcpStream::connect(server.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = socket.write_all(bytes);
    if let Some(more) = forever {
        socket.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        // A server that reads no more lets the client's buffers fill up.
        while began.elapsed() < PATIENCE {
            match socket.write_all(more) {
                Err(e) if e.kind() != ErrorKind::WouldBlock => break,
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
    let mut answer = Vec::new();
    let end = socket.read_to_end(&mut answer);
    let is_timeout = end.is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
    assert!(!is_timeout && began.elapsed() < PATIENCE, "{what}: still open");
    assert!(!answer.windows(5).any(|part| part == b" 200 "), "{what}: {answer:?}");
}

#[test]
fn a_handshake_that_is_none_is_closed_and_the_next_client_is_served() {
    let server = Server::start(|_| {});
    let before = server.descriptors();
    let memory = server.memory();
    let hello = hello(&server);
    let body = &hello[5..];
    let split = |size: usize| -> Vec<u8> {
        body.chunks(size).flat_map(|part| record(HANDSHAKE, part)).collect()
    };
    let large = |length: usize| {
        let length = (length as u32).to_be_bytes();
        record(HANDSHAKE, &[&[1], &length[1..], &[3, 3], &[0; 16_000][..]].concat())
    };
    let change = record(CHANGE_CIPHER_SPEC, &[1]);
    let warning = record(ALERT, &[1, 90]);
    let mut cases: Vec<(String, Vec<u8>, Option<Vec<u8>>)> = vec![
        ("one byte at a time, and no more".to_owned(), split(1), None),
        ("two greetings".to_owned(), [&hello[..], &hello].concat(), None),
        ("two greetings in one record".to_owned(), record(HANDSHAKE, &[body, body].concat()), None),
        (
            "data in place of a handshake".to_owned(),
            [&hello[..], &record(DATA, &[0; 64])].concat(),
            None,
        ),
        ("data first".to_owned(), record(DATA, b"GET / HTTP/1.1\r\n\r\n"), None),
        ("an unknown kind of record".to_owned(), record(99, &[0; 64]), None),
        ("an unknown version".to_owned(), [&[22, 9, 9], &hello[3..]].concat(), None),
        ("a record that is too long".to_owned(), record(HANDSHAKE, &[0; 0x4801]), None),
        ("a record of 64 KB".to_owned(), record(HANDSHAKE, &[1; 0xffff]), None),
        ("a finish first".to_owned(), record(HANDSHAKE, &[20, 0, 0, 4, 1, 2, 3, 4]), None),
        ("a key update first".to_owned(), record(HANDSHAKE, &[24, 0, 0, 1, 1]), None),
        ("a greeting of 64 KB".to_owned(), large(0xffff).repeat(5), None),
        ("a greeting of 16 MB".to_owned(), large(0xff_ffff), Some(record(HANDSHAKE, &[0; 16_000]))),
        ("half of an alert".to_owned(), record(ALERT, &[2]), None),
        ("a flood of warnings".to_owned(), Vec::new(), Some(warning.repeat(100))),
        (
            "a flood of empty records".to_owned(),
            Vec::new(),
            Some(record(HANDSHAKE, &[]).repeat(100)),
        ),
        ("a flood of changes of keys".to_owned(), hello.clone(), Some(change.repeat(100))),
        ("a flood of data".to_owned(), hello.clone(), Some(record(DATA, &[0; 1000]))),
        ("a greeting that crawls".to_owned(), hello[..20].to_vec(), Some(vec![0])),
    ];
    for at in (1..hello.len()).step_by(hello.len() / 12) {
        cases.push((format!("the first {at} bytes"), hello[..at].to_vec(), None));
    }
    std::thread::scope(|scope| {
        for (what, bytes, forever) in &cases {
            scope.spawn(|| is_closed_on(&server, what, bytes, forever.as_deref()));
        }
        server.root().get("/version").is_json_success();
    });
    server.root().get("/version").is_json_success();
    wait_until("all of them are closed", || server.descriptors() <= before);
    assert!(server.memory() < memory + 32 * 1024, "{} KiB", server.memory());
    assert!(!server.stderr().contains("panic"), "{}", server.stderr());
}

#[test]
fn a_request_that_is_cut_off_is_not_carried_out() {
    let server = Server::start(|_| {});
    let cut_off = |close: bool| {
        let mut connection = server.root().connect();
        let bytes = request("POST", "/v1/key/import/cut-off", &[b'x'; 100]);
        connection.send(&bytes[..bytes.len() - 1]);
        // With a goodbye of TLS, and without one.
        match close {
            true => connection.half_close(),
            false => connection.socket().shutdown(std::net::Shutdown::Write).unwrap(),
        }
        let answer = connection.try_response(false);
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 400));
    };
    cut_off(true);
    cut_off(false);
    assert!(server.key_files().is_empty());
    server.root().get("/version").is_json_success();
}

// tickets of other times and servers; those of clients that lost their trust are in reload.rs

fn trusting(authority: &Authority, change: impl FnOnce(&mut Config)) -> Server {
    Server::start(|config| {
        config.root_identity = authority.issue("root", &Profile::client());
        config.root = config.root_identity.id.clone();
        config.auth = "on";
        let text = authority.identity.certificate_pem();
        let file = config.file("authorities.pem", &text);
        config.environment.push(("SSL_CERT_FILE".to_owned(), file.display().to_string()));
        change(config);
    })
}

fn reload(server: &Server) {
    let done = "the configuration is reloaded";
    let before = server.stderr().matches(done).count();
    server.signal(Signal::HUP);
    wait_until("it reloads", || server.stderr().matches(done).count() > before);
}

#[test]
fn a_ticket_of_another_server_starts_a_full_handshake() {
    let authority = Authority::new("authority");
    let own = Identity::self_signed("server", &Profile::server());
    let same = |config: &mut Config| {
        (config.certificate, config.key) = (own.certificate_pem(), own.key_pem());
        config.server_identity = own.clone();
    };
    let [first, second] = [trusting(&authority, same), trusting(&authority, same)];
    let stranger = Authority::new("stranger").issue("client", &Profile::client());
    let client = first.root().resuming();
    for _ in 0..2 {
        client.connect().request("GET", "/version", "").is_json_success();
    }
    let elsewhere = client.at(second.address);
    let mut connection = elsewhere.connect();
    assert_eq!(Some(HandshakeKind::Full), connection.handshake_kind());
    // Who it is there, the certificate says.
    connection.request("GET", "/v1/key/list/*", "").is_failure(403, "prohibited by policy");
    assert!(second.client(&stranger).try_request("GET", "/version", b"").is_err());
}

#[test]
fn a_reload_ends_all_tickets() {
    let server = Server::start(|_| {});
    let client = server.root().resuming();
    for _ in 0..2 {
        client.connect().request("GET", "/version", "").is_json_success();
    }
    reload(&server);
    let mut connection = client.connect();
    assert_eq!(Some(HandshakeKind::Full), connection.handshake_kind());
    assert_eq!(200, connection.request("GET", "/v1/key/list/*", "").status);
}

#[test]
fn a_client_may_change_its_keys_often() {
    let server = Server::start(|_| {});
    let mut connection = server.root().connect();
    for _ in 0..200 {
        connection.refresh_keys();
        connection.request("GET", "/version", "").is_json_success();
    }
}
