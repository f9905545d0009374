//! What the server is done with is gone from its memory: after keys, data keys and plaintexts went
//! through it in every way that succeeds or fails, all of its writable memory is searched for them.
//!
//! Reading the memory of a process that forbids it takes root. `scripts/it/22-memory.sh` runs these
//! tests against the release, on a directory and on Vault: `KES` names the binary, and
//! `KES_TEST_KEYS` holds what stands under `keys` in its configuration.

use std::{
    collections::HashMap,
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    time::{Duration, Instant},
};

use crate::common::{
    Appliance, Authority, Client, Config, Connection, Identity, PATIENCE, Profile, Response,
    Server, base64,
    client::request,
    from_base64,
    http2::{self, CANCEL, END_STREAM, Http2, INITIAL_WINDOW_SIZE, PREFACE, kind},
    wait_for, wait_until,
};
use rcgen::{KeyPair, PKCS_ED25519};
use rustix::process::Signal;
use sha2::{Digest as _, Sha256, Sha512};

/// Random bytes never have so many in common by chance.
const WINDOW: usize = 8;
const PAGE: usize = 4096;
const ZEROS: [u8; PAGE + WINDOW] = [0; PAGE + WINDOW];

/// The secrets to look for.
#[derive(Default)]
pub struct Secrets {
    names: Vec<String>,
    /// Each part of a secret, raw and in base64: whose it is, and which.
    parts: HashMap<[u8; WINDOW], (usize, &'static str, usize)>,
}

impl Secrets {
    pub fn add(&mut self, name: impl Into<String>, secret: &[u8]) {
        assert!(secret.len() >= 32, "too short to be known again");
        let index = self.names.len();
        self.names.push(name.into());
        let mut add = |form, bytes: &[u8]| {
            for (at, part) in bytes.windows(WINDOW).enumerate() {
                let part = part.try_into().unwrap();
                self.parts.insert(part, (index, form, at));
            }
        };
        add("raw", secret);
        // In base64 of every alignment, without the characters that depend on what is around.
        for skip in 0..3 {
            let whole = (secret.len() - skip) / 3 * 3;
            add("base64", base64(&secret[skip..skip + whole]).as_bytes());
        }
    }

    /// A key, and what HMAC-SHA-256 makes of it before the first byte of a message, which is as good.
    pub fn add_master_key(&mut self, name: impl Into<String>, key: &[u8]) {
        let name = name.into();
        for padding in [0x36, 0x5c] {
            let mut block = [padding; 64];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            // FIPS 180-4 5.3.3
            let mut state = [
                0x6a09_e667,
                0xbb67_ae85,
                0x3c6e_f372,
                0xa54f_f53a,
                0x510e_527f,
                0x9b05_688c,
                0x1f83_d9ab,
                0x5be0_cd19_u32,
            ];
            sha2::block_api::compress256(&mut state, &[block]);
            self.add(
                format!("HMAC state {padding:x} of {name}"),
                state.map(u32::to_be_bytes).as_flattened(),
            );
            let words = state.map(u32::to_ne_bytes);
            self.parts.extend(
                words.as_flattened().windows(WINDOW).enumerate().map(|(at, part)| {
                    (part.try_into().unwrap(), (self.names.len() - 1, "words", at))
                }),
            );
        }
        self.add(format!("master key {name}"), key);
    }

    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// The names of the secrets that have a part in `memory`, with where that is.
    pub fn found_in(&self, memory: &[(String, Vec<u8>)]) -> Vec<String> {
        let mut begins = vec![false; 1 << 16];
        for part in self.parts.keys() {
            begins[usize::from(u16::from_le_bytes([part[0], part[1]]))] = true;
        }
        let mut found = HashMap::new();
        for (mapping, bytes) in memory {
            for start in (0..bytes.len()).step_by(PAGE) {
                let page = &bytes[start..bytes.len().min(start + PAGE + WINDOW - 1)];
                // A core file has a gigabyte of them.
                if *page == ZEROS[..page.len()] {
                    continue;
                }
                for (at, part) in page.windows(WINDOW).enumerate() {
                    if begins[usize::from(u16::from_le_bytes([part[0], part[1]]))]
                        && let Some((index, form, byte)) = self.parts.get(part)
                    {
                        let name = &self.names[*index];
                        found.entry(*index).or_insert_with(|| {
                            let at = start + at;
                            format!("{name}, {form} from byte {byte} on, at {at:#x} of {mapping}")
                        });
                    }
                }
            }
        }
        found.into_values().collect()
    }
}

/// The writable mappings of the server, with their content.
pub fn memory(server: &Server) -> Vec<(String, Vec<u8>)> {
    /// The most that is in front of a stack, in bytes.
    const GUARD: u64 = 64 << 10;
    let maps = fs::read_to_string(format!("/proc/{}/maps", server.pid())).unwrap();
    let mut file = fs::File::open(format!("/proc/{}/mem", server.pid()))
        .expect("the memory of a process that forbids it can be read by root only");
    // A program that is not optimised keeps on the stacks of its threads, which lie behind guard pages, what
    // is in registers otherwise, until it is written over.
    let is_release = std::env::var_os("KES").is_some();
    let mut guard = 0;
    let mut read = Vec::new();
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        // What else has no rights is what the heap of a thread has not grown into.
        if rest.starts_with("---p") && end - start <= GUARD {
            guard = end;
        }
        let is_left_out = start == guard && !is_release;
        if !rest[..4].contains('w') || is_left_out {
            continue;
        }
        let mut bytes = vec![0; (end - start) as usize];
        file.seek(SeekFrom::Start(start)).unwrap();
        // The guard page of a stack has no content.
        if file.read_exact(&mut bytes).is_ok() {
            read.push((line.to_owned(), bytes));
        }
    }
    let size: usize = read.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(size > 1 << 17, "no server has only {size} bytes of memory");
    read
}

/// Bytes that are like no others.
pub fn bytes(text: &str, count: usize) -> Vec<u8> {
    let blocks = 0..count.div_ceil(32) as u32;
    let mut bytes: Vec<u8> =
        blocks.flat_map(|block| Sha256::digest(format!("{text} {block}"))).collect();
    bytes.truncate(count);
    bytes
}

/// A JSON object with one member whose text has as many escapes as it can.
fn escaped(member: &str, value: &[u8]) -> String {
    let text: String = base64(value)
        .chars()
        .map(|c| match c {
            '/' => "\\/".to_owned(),
            c if c.is_lowercase() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    format!("{{\"{member}\":\"{text}\"}}")
}

/// Either protocol, one request after the other.
enum Ask {
    One(Box<Connection>),
    Two(Box<Http2>),
}

impl Ask {
    fn post(&mut self, path: &str, body: impl AsRef<[u8]>) -> Response {
        let path = format!("/v1/key/{path}");
        match self {
            Self::One(connection) => connection.request("POST", &path, body),
            Self::Two(http2) => http2.request("POST", &path, body),
        }
    }
}

/// Whether this test can be run. In CI it has to be.
pub fn may_read_memory() -> bool {
    let may = rustix::process::geteuid().is_root();
    assert!(
        may || std::env::var("CI").as_deref() != Ok("true"),
        "only root may read the memory of the server"
    );
    may
}

fn scene(change: impl FnOnce(&mut Config)) -> Server {
    Server::start(|config| {
        config.expiry = "{any: 3s, unused: 2s}";
        config.key_store = std::env::var("KES_TEST_KEYS").unwrap_or_default();
        change(config);
    })
}

/// Uses keys named `<way>-...` in every way that succeeds or fails.
fn use_keys(way: &str, ask: &mut Ask, stranger: &Client, secrets: &mut Secrets) {
    let name = |what: &str| format!("{way}-{what}");
    let context = r#","context":"Y29udGV4dA==""#;
    assert_eq!(200, ask.post(&format!("create/{}", name("created")), "").status);
    assert_eq!(400, ask.post(&format!("create/{}", name("created")), "").status);
    for (what, escapes) in [("imported", false), ("escaped", true)] {
        let key = bytes(&name(what), 32);
        secrets.add_master_key(name(what), &key);
        let body = match escapes {
            true => escaped("bytes", &key),
            false => format!("{{\"bytes\":\"{}\"}}", base64(&key)),
        };
        let path = format!("import/{}", name(what));
        assert_eq!(200, ask.post(&path, &body).status);
        assert_eq!(400, ask.post(&path, &body).status, "it is there already");
        assert_eq!(
            400,
            ask.post(&format!("import/{}", name("cut")), &body[..body.len() - 3]).status
        );
    }
    let long = bytes(&name("long"), 48);
    secrets.add(format!("refused key {}", name("long")), &long);
    let body = escaped("bytes", &long);
    assert_eq!(400, ask.post(&format!("import/{}", name("long")), body).status);

    for key in ["created", "imported", "escaped"].map(name) {
        for round in 0..3 {
            let answer = ask.post(&format!("generate/{key}"), "{\"context\":\"Y29udGV4dA==\"}");
            let data_key = answer.bytes("plaintext");
            secrets.add(format!("data key {round} of {key}"), &data_key);
            let sealed = base64(answer.bytes("ciphertext"));
            let body = format!("{{\"ciphertext\":\"{sealed}\"{context}}}");
            let opened = ask.post(&format!("decrypt/{key}"), body);
            assert_eq!(data_key, opened.bytes("plaintext"));
            // Another context, another key, no key.
            let body = format!("{{\"ciphertext\":\"{sealed}\"}}");
            assert_eq!(400, ask.post(&format!("decrypt/{key}"), &body).status);
            assert_eq!(404, ask.post("decrypt/missing", &body).status);

            for (size, escapes) in [(48, false), (100, true), (20_000, true)] {
                let plaintext = bytes(&format!("{key} {round} {size}"), size);
                secrets.add(format!("plaintext of {size} bytes, {key}"), &plaintext);
                let body = match escapes {
                    true => escaped("plaintext", &plaintext),
                    false => format!("{{\"plaintext\":\"{}\"}}", base64(&plaintext)),
                };
                let answer = ask.post(&format!("encrypt/{key}"), &body);
                let sealed = base64(answer.bytes("ciphertext"));
                let sealed = format!("{{\"ciphertext\":\"{}\"}}", sealed.replace('/', "\\/"));
                let opened = ask.post(&format!("decrypt/{key}"), sealed);
                assert_eq!(plaintext, opened.bytes("plaintext"));
                assert_eq!(404, ask.post("encrypt/missing", &body).status);
                assert_eq!(
                    400,
                    ask.post(&format!("encrypt/{key}"), &body[..body.len() - 1]).status
                );
                let twice = format!("{},\"plaintext\":1}}", &body[..body.len() - 1]);
                assert_eq!(400, ask.post(&format!("encrypt/{key}"), twice).status);
                let refused = stranger.post(&format!("/v1/key/encrypt/{key}"), &body);
                assert_eq!(403, refused.status);
            }
        }
    }
}

/// Answers that the client takes in pieces, and requests that it breaks off.
fn interrupt(root: &Client, secrets: &mut Secrets) {
    let key = "pieces";
    root.post(&format!("/v1/key/create/{key}"), "").is_empty_success();
    let path = |api: &str| format!("/v1/key/{api}/{key}");

    // Many requests at once, whose answers back up in the server.
    let mut connection = root.connect();
    for _ in 0..300 {
        connection.send(request("POST", &path("generate"), b"{}"));
    }
    for number in 0..300 {
        let answer = connection.response();
        secrets.add(format!("pipelined data key {number}"), &answer.bytes("plaintext"));
    }

    // Several streams with windows of a few bytes.
    let mut http2 = Http2::silent(root).unwrap();
    http2.send([PREFACE, &http2::settings(&[(INITIAL_WINDOW_SIZE, 20)])].concat());
    http2.opens_windows = false;
    let streams: Vec<_> = (0..20).map(|_| http2.ask("POST", &path("generate"), "{}")).collect();
    for _ in 0..20 {
        for stream in &streams {
            http2.send(http2::window_update(*stream, 20));
        }
        http2.read_for(Duration::from_millis(10));
    }
    for (number, stream) in streams.iter().enumerate() {
        let answer = http2.answer(*stream);
        secrets.add(format!("data key in pieces {number}"), &answer.bytes("plaintext"));
    }

    // Bodies in two pieces, each of which fits into a frame, which are then cut off, or reset while the key
    // is fetched or the answer sent.
    for (number, plaintext) in
        (0..20).map(|number| (number, bytes(&format!("broken {number}"), 6_000)))
    {
        secrets.add(format!("plaintext that was broken off {number}"), &plaintext);
        let body = escaped("plaintext", &plaintext);
        let (first, second) = body.split_at(body.len() / 2);
        let stream = http2.stream();
        http2.send(http2::head(stream, "POST", &path("encrypt"), false));
        let is_whole = number % 2 == 0;
        let second = if is_whole { second } else { "" };
        for part in [first, second].into_iter().flat_map(|half| half.as_bytes().chunks(16_000)) {
            while http2.room(stream) < part.len() as i64 {
                http2.read().unwrap();
            }
            http2.send(http2::frame(kind::DATA, 0, stream, part));
        }
        if is_whole {
            http2.send(http2::frame(kind::DATA, END_STREAM, stream, ""));
        }
        http2.send(http2::reset(stream, CANCEL));
        let mut connection = root.connect();
        let bytes = request("POST", &path("encrypt"), body.as_bytes());
        connection.send(&bytes[..bytes.len() - 1 - number]);
    }
    // None of that was a reason to end the connection.
    let stream = http2.ask("GET", "/version", "");
    http2.send(http2::window_update(stream, 1 << 16));
    http2.answer(stream).is_json_success();
}

#[test]
fn memory_of_the_past_holds_no_secret() {
    if !may_read_memory() {
        return;
    }
    let stranger = Identity::new("stranger");
    let mut secrets = Secrets::default();
    let stored = bytes("stored", 32);
    let server = scene(|config| {
        if config.key_store.is_empty() {
            fs::write(config.keys().join("stored"), escaped("bytes", &stored)).unwrap();
        }
    });
    let root = server.root();
    if server.keys().join("stored").exists() {
        secrets.add("master key in a file with escapes", &stored);
        let answer = root.post("/v1/key/generate/stored", "{}");
        secrets.add("data key of it", &answer.bytes("plaintext"));
    }
    let stranger = server.client(&stranger);
    let mut one = Ask::One(Box::new(root.connect()));
    use_keys("one", &mut one, &stranger, &mut secrets);
    let mut two = Ask::Two(Box::new(Http2::open(&root)));
    use_keys("two", &mut two, &stranger, &mut secrets);
    interrupt(&root, &mut secrets);
    for name in server.key_files() {
        let text = fs::read_to_string(server.keys().join(&name)).unwrap();
        let text = text.replace("\\", "");
        if name.ends_with("-created") || name == "pieces" {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let key = from_base64(value["bytes"].as_str().unwrap());
            secrets.add_master_key(name, &key);
        }
    }
    // It holds keys for a few seconds, which the search should find.
    wait_until("a key is in the cache", || {
        one.post("generate/one-imported", "{}");
        !secrets.found_in(&memory(&server)).is_empty()
    });

    drop((one, two));
    // The cache drops its keys by itself, and everything else comes to rest.
    let mut found = Vec::new();
    wait_for(PATIENCE, || {
        std::thread::sleep(Duration::from_secs(1));
        found = secrets.found_in(&memory(&server));
        found.is_empty().then_some(())
    });
    let all = secrets.names.len();
    assert!(found.is_empty(), "{} of {all} secrets: {found:#?}", found.len());
}

/// The server goes on to look at the key store, and keeps a connection for that. Nothing comes after the
/// second key that would write over the last block of its TLS record, which is all of the key's end with
/// a name of six letters.
#[test]
fn connections_to_a_key_store_keep_no_key() {
    if !may_read_memory() || std::env::var_os("KES_TEST_KEYS").is_some() {
        return;
    }
    let appliance = Appliance::start();
    let server = Server::start(|config| {
        config.expiry = "{any: 1s, unused: 1s}";
        config.probe();
        appliance.configure(config);
    });
    let root = server.root();
    let mut secrets = Secrets::default();
    for name in ["first", "second"] {
        let key = bytes(name, 32);
        secrets.add_master_key(name, &key);
        let body = format!("{{\"bytes\":\"{}\"}}", base64(&key));
        root.post(&format!("/v1/key/import/{name}"), &body).is_empty_success();
        if name == "first" {
            // The cache forgets it after a second.
            wait_until("it is in the cache", || {
                root.post(&format!("/v1/key/generate/{name}"), "{}").is_json_success();
                !secrets.found_in(&memory(&server)).is_empty()
            });
        }
    }
    let mut found = Vec::new();
    wait_for(PATIENCE, || {
        std::thread::sleep(Duration::from_secs(1));
        found = secrets.found_in(&memory(&server));
        found.is_empty().then_some(())
    });
    assert_eq!(Vec::<String>::new(), found);
}

#[test]
fn memory_of_now_does_not_tell_the_next_data_keys() {
    if !may_read_memory() {
        return;
    }
    let server = scene(|_| {});
    let root = server.root();
    let name = format!("next-{}", std::process::id());
    root.post(&format!("/v1/key/create/{name}"), "").is_empty_success();
    let generate = format!("/v1/key/generate/{name}");
    // Each worker has made some.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(500) {
        root.post(&generate, "{}");
    }
    let earlier = memory(&server);
    let mut secrets = Secrets::default();
    for number in 0..4 {
        let answer = root.post(&generate, "{}");
        secrets.add(format!("data key {number}"), &answer.bytes("plaintext"));
        let sealed: serde_json::Value =
            serde_json::from_slice(&answer.bytes("ciphertext")).unwrap();
        let random =
            ["iv", "nonce", "bytes"].map(|member| from_base64(sealed[member].as_str().unwrap()));
        secrets.add(format!("IV, nonce and sealed key {number}"), &random.concat());
    }
    assert_eq!(Vec::<String>::new(), secrets.found_in(&earlier));
}

#[test]
fn a_private_key_that_a_reload_replaced_is_gone() {
    if !may_read_memory() {
        return;
    }
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    // PKCS #8 has the seed behind 16 bytes. Ed25519 signs with its hash (RFC 8032 5.1.5); the first half
    // of that is changed, the second is kept as it is.
    let hash = Sha512::digest(&key.serialize_der()[16..48]);
    let mut secrets = Secrets::default();
    secrets.add("seed of the private key", &key.serialize_der()[16..48]);
    secrets.add("private key", &hash[32..]);
    let old = Authority::new("authority").issue_for(key, "server", &Profile::server());
    let server = scene(|config| {
        config.key = old.key_pem();
        config.certificate = old.certificate_pem();
        config.server_identity = old;
    });
    // Each thread has seen the state, and a connection stays open.
    let mut connection = server.root().connect();
    for _ in 0..50 {
        connection.request("GET", "/version", "");
        server.root().get("/version");
    }
    assert!(
        !secrets.found_in(&memory(&server)).is_empty(),
        "the key is in use, so the search should find it"
    );

    let fresh = Identity::self_signed("server", &Profile::server());
    fs::write(server.file("server.key"), fresh.key_pem()).unwrap();
    fs::write(server.file("server.crt"), fresh.certificate_pem()).unwrap();
    server.signal(Signal::HUP);
    let shows_fresh = || {
        let client =
            Client::new(server.address, fresh.chain[0].clone(), Some(&server.root_identity));
        client.try_connect().ok()
    };
    wait_for(PATIENCE, shows_fresh).expect("the new certificate is in use");
    let mut found = Vec::new();
    wait_for(Duration::from_secs(20), || {
        std::thread::sleep(Duration::from_millis(500));
        found = secrets.found_in(&memory(&server));
        found.is_empty().then_some(())
    });
    assert_eq!(Vec::<String>::new(), found);
    assert_eq!(200, connection.request("GET", "/version", "").status);
}
