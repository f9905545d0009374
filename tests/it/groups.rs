//! The key exchange: which group clients get, with and without X25519MLKEM768, and what becomes of
//! shares that are no shares.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
};

use crate::common::{Authority, Client, PATIENCE, Profile, Server, TempDir, wait_for};
use rustix::process::Signal;
use rustls::{
    ClientConnection, HandshakeKind,
    NamedGroup::{self, X25519, X25519MLKEM768 as HYBRID, secp256r1 as P256, secp384r1 as P384},
    ServerConfig, ServerConnection, StreamOwned,
    client::{ClientSessionMemoryCache, ClientSessionStore as _, Resumption},
    crypto::{CryptoProvider, ring},
};
use rustls_pki_types::ServerName;

/// Cryptography with these groups, the favourite first.
fn provider(groups: &[NamedGroup]) -> Arc<CryptoProvider> {
    let all = kes::inside::provider();
    let find = |wanted: &NamedGroup| {
        let mut known = all.kx_groups.iter();
        *known.find(|group| group.name() == *wanted).unwrap()
    };
    Arc::new(CryptoProvider {
        kx_groups: groups.iter().map(find).collect(),
        ..ring::default_provider()
    })
}

/// A client of `server` that knows these groups.
fn client(server: &Server, groups: &[NamedGroup]) -> Client {
    Client::with_provider(
        server.address,
        server.certificate.chain[0].clone(),
        Some(&server.root_identity),
        &[&rustls::version::TLS13],
        provider(groups),
    )
}

/// A sample of the metrics page.
fn metric(server: &Server, name: &str) -> u64 {
    let page = server.root().get("/v1/metrics");
    let sample = page.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    sample.unwrap().parse().unwrap()
}

#[test]
fn clients_get_the_group_that_they_prefer_in_one_round_trip() {
    let server = Server::start(|_| {});
    for (groups, wanted) in [
        (&[HYBRID, X25519, P256, P384][..], HYBRID),
        (&[HYBRID], HYBRID),
        (&[X25519, P256, P384], X25519),
        (&[P256], P256),
        (&[P384, HYBRID], P384),
    ] {
        let client = client(&server, groups).resuming();
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut connection = client.connect();
            assert_eq!(200, connection.request("GET", "/version", "").status);
            assert_eq!(Some(kind), connection.handshake_kind(), "{groups:?}");
            assert_eq!(Some(wanted), connection.group(), "{groups:?}");
        }
    }
}

#[test]
fn a_client_that_prefers_the_hybrid_but_sent_another_share_is_asked_for_it() {
    let server = Server::start(|_| {});
    let sessions = Arc::new(ClientSessionMemoryCache::new(8));
    sessions.set_kx_hint(ServerName::from(server.address.ip()), X25519);
    let client = client(&server, &[HYBRID, X25519]).remembering(Resumption::store(sessions));
    let mut connection = client.connect();
    assert_eq!(200, connection.request("GET", "/version", "").status);
    let kind = connection.handshake_kind();
    assert_eq!(Some(HandshakeKind::FullWithHelloRetryRequest), kind);
    assert_eq!(Some(HYBRID), connection.group());
}

#[test]
fn full_and_resumed_handshakes_are_counted_by_group() {
    let server = Server::start(|_| {});
    let names = [
        (HYBRID, "kes_tls_handshake_x25519mlkem768"),
        (P256, "kes_tls_handshake_p256"),
        (P384, "kes_tls_handshake_p384"),
    ];
    for (times, (group, _)) in names.iter().enumerate() {
        let client = client(&server, &[*group]).resuming();
        for _ in 0..=times {
            assert_eq!(200, client.get("/version").status);
        }
    }
    for (times, (group, name)) in names.iter().enumerate() {
        assert_eq!(1 + times as u64, metric(&server, name), "{group:?}");
    }
    // The page is asked for by a client of its own, which has no other group.
    let before = metric(&server, "kes_tls_handshake_x25519");
    assert_eq!(before + 1, metric(&server, "kes_tls_handshake_x25519"));
}

// what the configuration says

#[test]
fn a_server_has_only_the_groups_of_its_configuration_and_a_reload_changes_them() {
    let server = Server::start(|config| config.groups = "[x25519, P-256]".to_owned());
    let group = |groups| {
        let connected = client(&server, groups).try_connect();
        connected.map(|connection| connection.group().unwrap())
    };
    assert_eq!(X25519, group(&[HYBRID, X25519]).unwrap());
    assert_eq!(P256, group(&[P384, P256]).unwrap());
    assert!(group(&[HYBRID]).is_err());
    server.logs_error(
        "tls: client is not compatible: it has none of the key exchange groups in tls.groups",
    );

    // The client of `server.root()` knows no hybrid.
    let mut open = server.root().connect();
    let reload = |from, to, outcome: &str| {
        let file = server.file("config.yml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(file, text.replace(from, to)).unwrap();
        let count = || server.stderr().matches(outcome).count();
        let before = count();
        server.signal(Signal::HUP);
        assert!(wait_for(PATIENCE, || (count() > before).then_some(())).is_some());
    };
    let done = "the configuration is reloaded";
    reload("[x25519, P-256]", "[X25519MLKEM768]", done);
    assert_eq!(HYBRID, group(&[HYBRID]).unwrap());
    assert!(group(&[X25519, P256]).is_err());
    assert_eq!(200, open.request("GET", "/version", "").status);

    reload("[X25519MLKEM768]", "[X25519MLKEM1024]", "everything stays as it was");
    server.logs_error("unknown key exchange group: \\\"X25519MLKEM1024\\\" (");
    assert_eq!(HYBRID, group(&[HYBRID]).unwrap());
}

// shares that are none

/// The bytes of a ClientHello: what is before the key shares, the shares by group, and the rest.
struct Hello {
    before: Vec<u8>,
    shares: Vec<([u8; 2], Vec<u8>)>,
    after: Vec<u8>,
}

/// Takes a part off the front of `bytes` whose length stands before it in `size` bytes.
fn part<'a>(bytes: &mut &'a [u8], size: usize) -> &'a [u8] {
    let (length, rest) = bytes.split_at(size);
    let length = length.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
    let (part, rest) = rest.split_at(length);
    *bytes = rest;
    part
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length, bytes].concat()
}

impl Hello {
    const KEY_SHARE: [u8; 2] = [0, 51];

    /// What `client` says first.
    fn of(client: &Client, server: SocketAddr) -> Self {
        let name = ServerName::from(server.ip());
        let mut connection = ClientConnection::new(client.config(), name).unwrap();
        let mut record = Vec::new();
        connection.write_tls(&mut record).unwrap();
        // Record and handshake header, version and random; session, suites and compression.
        let mut rest = &record[5 + 4 + 2 + 32..];
        for size in [1, 2, 1] {
            part(&mut rest, size);
        }
        let before = record[5 + 4..record.len() - rest.len()].to_vec();
        let mut extensions = part(&mut rest, 2);
        assert!(rest.is_empty());
        let mut hello = Self { before, shares: Vec::new(), after: Vec::new() };
        while let Some((kind, content)) = extensions.split_first_chunk() {
            extensions = content;
            let content = part(&mut extensions, 2);
            if *kind != Self::KEY_SHARE {
                hello.after.extend(kind);
                hello.after.extend(with_length(content));
                continue;
            }
            let mut shares = part(&mut &*content, 2);
            while let Some((group, share)) = shares.split_first_chunk() {
                shares = share;
                let share = part(&mut shares, 2).to_vec();
                hello.shares.push((*group, share));
            }
        }
        hello
    }

    /// The share of `group`.
    fn share(&mut self, group: NamedGroup) -> &mut Vec<u8> {
        let group = u16::from(group).to_be_bytes();
        let mut shares = self.shares.iter_mut();
        &mut shares.find(|(own, _)| *own == group).unwrap().1
    }

    fn record(&self) -> Vec<u8> {
        let shares: Vec<u8> = self
            .shares
            .iter()
            .flat_map(|(group, share)| [group, &with_length(share)[..]].concat())
            .collect();
        let shares = with_length(&with_length(&shares));
        let extensions = [&Self::KEY_SHARE, &shares[..], &self.after].concat();
        let body = [&self.before[..], &with_length(&extensions)].concat();
        let message = [&[1, 0][..], &with_length(&body)].concat();
        [&[22, 3, 1][..], &with_length(&message)].concat()
    }

    /// Sends it; the first record of the answer.
    fn send(&self, server: SocketAddr) -> Vec<u8> {
        let mut socket = TcpStream::connect(server).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(&self.record()).unwrap();
        let mut record = vec![0; 5];
        socket.read_exact(&mut record).unwrap();
        let length = usize::from(record[3]) << 8 | usize::from(record[4]);
        record.resize(5 + length, 0);
        socket.read_exact(&mut record[5..]).unwrap();
        record
    }
}

/// An alert that ends the connection: illegal_parameter.
const ILLEGAL_PARAMETER: [u8; 7] = [21, 3, 3, 0, 2, 2, 47];
/// Bytes of the coefficients, of all of ML-KEM's part, and of the whole share of a client.
const COEFFICIENTS: usize = 1152;
const POST_QUANTUM: usize = COEFFICIENTS + 32;
const SHARE: usize = POST_QUANTUM + 32;

#[test]
fn broken_shares_are_answered_with_illegal_parameter_and_harm_nothing() {
    let server = Server::start(|_| {});
    let modern = client(&server, &[HYBRID, X25519]);
    let hello = || Hello::of(&modern, server.address);
    // The bytes are put together as they were: what is refused below is refused for its share.
    let mut untouched = hello();
    assert_eq!(SHARE, untouched.share(HYBRID).len());
    assert_eq!(32, untouched.share(X25519).len());
    let answer = untouched.send(server.address);
    assert_eq!([22, 3, 3], answer[..3], "no ServerHello");

    type Damage = Box<dyn Fn(&mut Vec<u8>)>;
    let mut damages: Vec<(String, Damage)> = Vec::new();
    for length in [1, 32, POST_QUANTUM, SHARE - 1, SHARE + 1, 2 * SHARE] {
        let cut = move |share: &mut Vec<u8>| share.resize(length, 7);
        damages.push((format!("{length} bytes"), Box::new(cut)));
    }
    // q = 3329, and the largest number that a coefficient has room for.
    for value in [3329_u16, 3330, 4095] {
        let [high, low] = value.to_be_bytes();
        let first = move |share: &mut Vec<u8>| {
            share[0] = low;
            share[1] = share[1] & 0xf0 | high;
        };
        damages.push((format!("first coefficient {value}"), Box::new(first)));
        let last = move |share: &mut Vec<u8>| {
            share[COEFFICIENTS - 2] = share[COEFFICIENTS - 2] & 0x0f | low << 4;
            share[COEFFICIENTS - 1] = high << 4 | low >> 4;
        };
        damages.push((format!("last coefficient {value}"), Box::new(last)));
    }
    // Points of a small order: the result is zero.
    for value in [0, 1] {
        let point = move |share: &mut Vec<u8>| {
            share[POST_QUANTUM..].fill(0);
            share[POST_QUANTUM] = value;
        };
        damages.push((format!("point {value}"), Box::new(point)));
    }

    // The one above fails as well, since it went away.
    let before = wait_for(PATIENCE, || {
        let failed = metric(&server, "kes_tls_handshake_failed");
        (failed > 0).then_some(failed)
    });
    let before = before.expect("it is counted");
    for (what, damage) in &damages {
        let mut hello = hello();
        damage(hello.share(HYBRID));
        let answer = hello.send(server.address);
        assert_eq!(ILLEGAL_PARAMETER, *answer, "{what}");
        assert_eq!(200, modern.get("/version").status, "after {what}");
    }
    let failed = metric(&server, "kes_tls_handshake_failed") - before;
    assert_eq!(damages.len() as u64, failed);
    server.logs_error("tls: client breaks the rules of TLS: its key share is invalid");

    // The largest coefficient there is.
    let mut hello = hello();
    let share = hello.share(HYBRID);
    (share[0], share[1]) = (0, share[1] & 0xf0 | 0x0d);
    assert_eq!([22, 3, 3], hello.send(server.address)[..3]);
}

// the client's end

/// A TLS server that answers one request per connection, and tells of each its first line, the group
/// and how the handshake went.
struct Site {
    port: u16,
    authority: Authority,
    seen: Receiver<(String, NamedGroup, HandshakeKind)>,
}

impl Site {
    fn start(
        groups: &[NamedGroup],
        answer: impl Fn(&str) -> (u16, &'static str) + Send + 'static,
    ) -> Self {
        let authority = Authority::new("site");
        let own = authority.issue("site", &Profile::server());
        let config = ServerConfig::builder_with_provider(provider(groups))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(own.chain.clone(), own.key())
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, seen) = channel();
        // Lives as long as the test program.
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let socket = socket.unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let tls = ServerConnection::new(config.clone()).unwrap();
                let mut stream = StreamOwned::new(tls, socket);
                let mut request = Vec::new();
                let mut bytes = [0; 4096];
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut bytes) {
                        Ok(0) | Err(_) => break,
                        Ok(count) => request.extend_from_slice(&bytes[..count]),
                    }
                }
                let request = String::from_utf8_lossy(&request);
                let request = request.lines().next().unwrap_or_default();
                let group = stream.conn.negotiated_key_exchange_group();
                if let (Some(group), Some(kind)) = (group, stream.conn.handshake_kind()) {
                    let _ = tell.send((request.to_owned(), group.name(), kind));
                }
                let (status, body) = answer(request);
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n\
                     Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
                stream.conn.send_close_notify();
                let _ = stream.flush();
                crate::common::site::drain(stream.sock);
            }
        });
        Self { port, authority, seen }
    }

    /// The group and the kind of the handshake before the next request with `text` in its first line.
    fn next(&self, text: &str) -> (NamedGroup, HandshakeKind) {
        loop {
            let (request, group, kind) = self.seen.recv_timeout(PATIENCE).unwrap();
            if request.contains(text) {
                return (group, kind);
            }
        }
    }
}

/// What a site knows, what is agreed on with it, and how.
const SITES: [(&[NamedGroup], NamedGroup, HandshakeKind); 3] = [
    (&[HYBRID, X25519], HYBRID, HandshakeKind::Full),
    (&[X25519, P256], X25519, HandshakeKind::Full),
    (&[P384], P384, HandshakeKind::FullWithHelloRetryRequest),
];

#[test]
fn the_command_line_offers_the_hybrid_and_needs_no_retry_for_x25519() {
    for (groups, group, kind) in SITES {
        let site = Site::start(groups, |_| (200, ""));
        let directory = TempDir::new();
        let own = crate::common::Identity::new("client");
        let file = |name: &str, text: String| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let done = Command::new(env!("CARGO_BIN_EXE_kes"))
            .args(["key", "create", "my-key"])
            .env("KES_SERVER", format!("https://127.0.0.1:{}", site.port))
            .env("KES_CLIENT_CERT", file("client.crt", own.certificate_pem()))
            .env("KES_CLIENT_KEY", file("client.key", own.key_pem()))
            .env("SSL_CERT_FILE", file("ca.crt", site.authority.identity.certificate_pem()))
            .env_remove("HTTPS_PROXY")
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        assert_eq!((group, kind), site.next("/v1/key/create/my-key"));
    }
}

#[test]
fn connections_to_a_key_store_offer_the_hybrid_on_all_threads() {
    const HEALTH: &str = r#"{"initialized":true,"sealed":false,"standby":false}"#;
    const TOKEN: &str = r#"{"auth":{"client_token":"t","lease_duration":3600,"renewable":false}}"#;
    for (groups, group, kind) in SITES {
        let site = Site::start(groups, |request| {
            match ["/health", "/login"].map(|path| request.contains(path)) {
                [true, _] => (200, HEALTH),
                [_, true] => (200, TOKEN),
                _ => (404, r#"{"errors":[]}"#),
            }
        });
        let server = Server::start(|config| {
            let ca = config.file("ca.crt", &site.authority.identity.certificate_pem());
            config.key_store = format!(
                "vault: {{endpoint: 'https://127.0.0.1:{}', approle: {{id: i, secret: s}}, \
                 tls: {{ca: {}}}}}",
                site.port,
                ca.display()
            );
        });
        // The thread that starts the server logs in first; those of the key store resume its session.
        assert_eq!((group, kind), site.next("/login"));
        for key in ["one", "two"] {
            let client = server.root();
            let answer = client.post(&format!("/v1/key/generate/{key}"), "{}");
            answer.is_failure(404, "key does not exist");
            assert_eq!(group, site.next(key).0);
        }
    }
}
