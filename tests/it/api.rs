//! The API over real TLS against the real binary: every success and every failure with its status,
//! text and content type (`api.md` part 1).

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::common::{
    Authority, Client, Config, Http2, Identity, Profile, Response, Server, base64,
    client::{chunked, request},
    from_base64, stored_key,
};
use serde_json::json;

/// Every route with a name, and its method.
const KEY_ROUTES: [(&str, &str); 6] = [
    ("POST", "create"),
    ("POST", "import"),
    ("DELETE", "delete"),
    ("POST", "generate"),
    ("POST", "encrypt"),
    ("POST", "decrypt"),
];

const KEY: [u8; 32] = [0x5a; 32];

fn start() -> Server {
    Server::start(|_| {})
}

/// A server whose key store holds `my-key`.
fn start_with_key() -> Server {
    Server::start(|config| put_key(config, "my-key", &stored_key(&KEY)))
}

fn put_key(config: &Config, name: &str, value: &str) {
    fs::write(config.keys().join(name), value).unwrap();
}

fn encrypt(client: &Client, key: &str, plaintext: &[u8], context: &[u8]) -> Response {
    let body = json!({ "plaintext": base64(plaintext), "context": base64(context) });
    client.post(&format!("/v1/key/encrypt/{key}"), body.to_string())
}

fn decrypt(client: &Client, key: &str, ciphertext: &[u8], context: &[u8]) -> Response {
    let body = json!({ "ciphertext": base64(ciphertext), "context": base64(context) });
    client.post(&format!("/v1/key/decrypt/{key}"), body.to_string())
}

fn not_found(answer: &Response) {
    assert_eq!((404, "404 page not found\n"), (answer.status, answer.text()));
    assert_eq!(Some("text/plain; charset=utf-8"), answer.header("Content-Type"));
    assert_eq!(Some("nosniff"), answer.header("X-Content-Type-Options"));
    assert_eq!(Some("Status, Error"), answer.header("Trailer"));
}

// version

#[test]
fn the_version_is_told_to_anyone() {
    let server = start();
    for client in [server.root(), server.client(&Identity::new("stranger"))] {
        let answer = client.get("/version");
        answer.is_json_success();
        let text = concat!("{\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}");
        assert_eq!(text, answer.text());
    }
}

#[test]
fn a_body_that_nobody_wants_is_ignored() {
    let server = start();
    let mut connection = server.root().connect();
    connection.request("GET", "/version", "{ what?").is_json_success();
    connection.request("POST", "/v1/key/create/a", "[1, 2").is_empty_success();
    connection.send(chunked("DELETE", "/v1/key/delete/a", &[b'x'; 5000], 700));
    connection.response().is_empty_success();
    connection.request("GET", "/version", "").is_json_success();
}

// create, import, delete

#[test]
fn a_created_key_is_a_file_with_32_random_bytes() {
    let server = start();
    let root = server.root();
    root.post("/v1/key/create/a", "").is_empty_success();
    root.post("/v1/key/create/b", "").is_empty_success();
    assert_eq!(["a", "b"], *server.key_files());
    let read = |name| fs::read_to_string(server.keys().join(name)).unwrap();
    for name in ["a", "b"] {
        let value: serde_json::Value = serde_json::from_str(&read(name)).unwrap();
        let bytes = from_base64(value["bytes"].as_str().unwrap());
        assert_eq!((32, stored_key(&bytes)), (bytes.len(), read(name)));
        let mode = fs::metadata(server.keys().join(name)).unwrap().permissions().mode();
        assert_eq!(0o600, mode & 0o777);
    }
    assert_ne!(read("a"), read("b"));
}

#[test]
fn a_key_is_created_once_only() {
    let server = start();
    let root = server.root();
    root.post("/v1/key/create/a", "").is_empty_success();
    let before = fs::read(server.keys().join("a")).unwrap();
    let import = json!({ "bytes": base64(KEY) }).to_string();
    root.post("/v1/key/create/a", "").is_failure(400, "key does already exist");
    root.post("/v1/key/import/a", &import).is_failure(400, "key does already exist");
    assert_eq!(before, fs::read(server.keys().join("a")).unwrap());
    assert_eq!(["a"], *server.key_files());
}

#[test]
fn of_many_who_create_the_same_key_one_succeeds() {
    let server = start();
    let clients: Vec<_> = (0..8).map(|_| server.root()).collect();
    let threads: Vec<_> = clients
        .into_iter()
        .map(|client| std::thread::spawn(move || client.post("/v1/key/create/a", "").status))
        .collect();
    let mut statuses: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    statuses.sort_unstable();
    assert_eq!([200, 400, 400, 400, 400, 400, 400, 400], *statuses);
    assert_eq!(["a"], *server.key_files());
}

#[test]
fn an_imported_key_is_stored_as_it_is() {
    let server = start();
    let import = json!({ "bytes": base64(KEY) }).to_string();
    server.root().post("/v1/key/import/a", import).is_empty_success();
    assert_eq!(stored_key(&KEY), fs::read_to_string(server.keys().join("a")).unwrap());
}

#[test]
fn only_32_bytes_are_a_key() {
    let server = start();
    let root = server.root();
    for size in [0, 1, 16, 31, 33, 64, 1000] {
        let import = json!({ "bytes": base64(vec![1; size]) }).to_string();
        root.post("/v1/key/import/a", import).is_failure(400, "invalid key");
    }
    for body in ["{}", "null", r#"{"bytes":null}"#] {
        root.post("/v1/key/import/a", body).is_failure(400, "invalid key");
    }
    assert!(server.key_files().is_empty());
}

#[test]
fn deleting_a_key_ends_its_use_at_once_and_succeeds_again() {
    let server = start_with_key();
    let root = server.root();
    root.post("/v1/key/generate/my-key", "{}").is_json_success();
    for _ in 0..2 {
        root.delete("/v1/key/delete/my-key").is_empty_success();
        assert!(server.key_files().is_empty());
    }
    root.post("/v1/key/generate/my-key", "{}").is_failure(404, "key does not exist");
    root.post("/v1/key/create/my-key", "").is_empty_success();
    root.post("/v1/key/generate/my-key", "{}").is_json_success();
}

#[test]
fn a_deleted_key_is_gone_even_if_it_was_in_use_that_moment() {
    let server = start();
    let mut connection = server.root().connect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut connection = server.root().connect();
                while !stop.load(Ordering::Relaxed) {
                    let answer = connection.request("POST", "/v1/key/generate/a", "{}");
                    assert!([200, 404].contains(&answer.status), "{}", answer.text());
                }
            });
        }
        let mut statuses = |_| {
            [("POST", "create"), ("DELETE", "delete"), ("POST", "generate")].map(|(method, api)| {
                connection.request(method, &format!("/v1/key/{api}/a"), "{}").status
            })
        };
        let wrong = (0..150).map(&mut statuses).find(|statuses| *statuses != [200, 200, 404]);
        // Before anything is asserted, so that the others end.
        stop.store(true, Ordering::Relaxed);
        assert_eq!(None, wrong);
    });
}

// generate, encrypt, decrypt

#[test]
fn a_data_key_comes_with_its_ciphertext() {
    let server = start_with_key();
    let root = server.root();
    for body in [r#"{"context":"Y29udGV4dA=="}"#, "{}", "null", r#"{"context":null}"#] {
        let context: &[u8] = if body.contains("Y29") { b"context" } else { b"" };
        let answer = root.post("/v1/key/generate/my-key", body);
        answer.is_json_success();
        assert!(answer.text().ends_with("\"}\n"), "{}", answer.text());
        let (data_key, sealed) = (answer.bytes("plaintext"), answer.bytes("ciphertext"));
        assert_eq!(32, data_key.len());
        assert!(sealed.starts_with(br#"{"aead":"AES-256-GCM-HMAC-SHA-256","iv":""#));
        let opened = decrypt(&root, "my-key", &sealed, context);
        opened.is_json_success();
        assert_eq!(data_key, opened.bytes("plaintext"));
        decrypt(&root, "my-key", &sealed, b"another").is_failure(400, NOT_AUTHENTIC);
    }
}

const NOT_AUTHENTIC: &str = "decryption failed: ciphertext is not authentic";

#[test]
fn what_is_encrypted_is_decrypted() {
    let server = start_with_key();
    let root = server.root();
    for plaintext in [&b""[..], b"a", &[0; 70_000]] {
        let answer = encrypt(&root, "my-key", plaintext, b"context");
        answer.is_json_success();
        let opened = decrypt(&root, "my-key", &answer.bytes("ciphertext"), b"context");
        opened.is_json_success();
        assert_eq!(plaintext, opened.bytes("plaintext"));
    }
}

#[test]
fn what_another_key_has_sealed_is_not_authentic() {
    let server = start_with_key();
    let root = server.root();
    root.post("/v1/key/create/another", "").is_empty_success();
    let sealed = encrypt(&root, "another", b"secret", b"").bytes("ciphertext");
    decrypt(&root, "my-key", &sealed, b"").is_failure(400, NOT_AUTHENTIC);
}

#[test]
fn ciphertexts_that_are_none_are_refused() {
    let server = start_with_key();
    let root = server.root();
    let sealed = |member: &str, value: &str| {
        let sealed = encrypt(&root, "my-key", b"secret", b"").bytes("ciphertext");
        let mut json: serde_json::Value = serde_json::from_slice(&sealed).unwrap();
        json[member] = value.into();
        decrypt(&root, "my-key", json.to_string().as_bytes(), b"")
    };
    sealed("iv", &base64([0; 15])).is_failure(400, "invalid iv size 15");
    sealed("nonce", &base64([0; 13])).is_failure(400, "invalid nonce size 13");
    sealed("aead", "ROT13").is_failure(422, "unsupported cryptographic algorithm");
    sealed("bytes", &base64([0; 40])).is_failure(400, NOT_AUTHENTIC);
    for ciphertext in [&b""[..], b"{", b"text", b"[]", b"null", &[0x95; 100]] {
        decrypt(&root, "my-key", ciphertext, b"").is_failure(400, NOT_AUTHENTIC);
    }
}

#[test]
fn a_key_that_is_not_there_is_not_found() {
    let server = start();
    let root = server.root();
    for api in ["generate", "encrypt", "decrypt"] {
        let path = format!("/v1/key/{api}/missing");
        root.post(&path, "{}").is_failure(404, "key does not exist");
        // The body is looked at first.
        root.post(&path, "{").is_failure(400, "invalid json");
    }
}

#[test]
fn bodies_that_are_not_the_right_json_are_refused() {
    let server = start_with_key();
    let mut connection = server.root().connect();
    for (api, member) in [
        ("import/new", "bytes"),
        ("generate/my-key", "context"),
        ("encrypt/my-key", "plaintext"),
        ("encrypt/my-key", "context"),
        ("decrypt/my-key", "ciphertext"),
        ("decrypt/my-key", "context"),
    ] {
        let path = format!("/v1/key/{api}");
        for body in ["", "{", "[]", "1", "\"\"", "text", "{\"a\":", "\u{feff}{}"] {
            connection.request("POST", &path, body).is_failure(400, "invalid json");
        }
        for value in
            ["1", "true", "[]", "{}", r#""YQ""#, r#""YQ=""#, r#""!""#, r#""Y Q=""#, r#""_-8=""#]
        {
            let body = format!("{{\"{member}\":{value}}}");
            connection.request("POST", &path, body).is_failure(400, "invalid json");
        }
    }
    assert_eq!(["my-key"], *server.key_files());
}

#[test]
fn json_is_read_as_the_clients_write_it() {
    let server = start_with_key();
    let mut connection = server.root().connect();
    for body in [
        r#"{"plaintext":"c2VjcmV0","context":"Yw=="}"#,
        r#"{"Plaintext":"c2VjcmV0","CONTEXT":"Yw==","more":{"a":[1]}} and more"#,
        "\n {\"plaintext\":\"c2Vj\\r\\ncmV0\",\"context\":\"Yw==\"}",
    ] {
        let answer = connection.request("POST", "/v1/key/encrypt/my-key", body);
        answer.is_json_success();
        let opened = decrypt(&server.root(), "my-key", &answer.bytes("ciphertext"), b"c");
        assert_eq!(b"secret", opened.bytes("plaintext").as_slice());
    }
}

// list

#[test]
fn keys_are_listed_as_lines_with_trailers() {
    let server = start();
    let mut connection = server.root().connect();
    for name in ["key-1", "key-2", "other", "b\u{e4}r"] {
        let path = name.replace('\u{e4}', "%C3%A4");
        connection.request("POST", &format!("/v1/key/create/{path}"), "").is_empty_success();
    }
    let all = ["b\u{e4}r", "key-1", "key-2", "other"];
    for (pattern, wanted) in [
        ("*", &all[..]),
        ("", &all),
        ("key-*", &["key-1", "key-2"]),
        ("key-%3F", &["key-1", "key-2"]),
        ("key-[2-9]", &["key-2"]),
        ("b%3Fr", &["b\u{e4}r"]),
        ("other", &["other"]),
        ("%5Cother", &["other"]),
        ("key", &[]),
        ("[", &[]),
        ("key-[", &[]),
        ("[]a]", &[]),
    ] {
        let answer = connection.request("GET", &format!("/v1/key/list/{pattern}"), "");
        assert_eq!(200, answer.status, "{pattern}: {}", answer.text());
        assert_eq!(Some("application/x-ndjson"), answer.header("Content-Type"));
        assert_eq!(Some("chunked"), answer.header("Transfer-Encoding"));
        assert_eq!(Some("Status, Error"), answer.header("Trailer"));
        assert_eq!(Some("200"), answer.trailer("Status"), "{pattern}");
        assert_eq!(Some(""), answer.trailer("Error"), "{pattern}");
        let mut names: Vec<_> = answer.text().lines().collect();
        names.sort_unstable();
        let wanted: Vec<_> =
            wanted.iter().map(|name| json!({ "Name": name }).to_string()).collect();
        assert_eq!(wanted, names, "{pattern}");
    }
    // The same without the slash.
    assert_eq!(4, connection.request("GET", "/v1/key/list", "").text().lines().count());
}

#[test]
fn what_is_no_key_file_is_not_listed() {
    let server = start_with_key();
    fs::create_dir(server.keys().join("directory")).unwrap();
    // No key can have this name, so the key store uses such ones for what is not finished.
    let unfinished = format!("{}/\\tmp-1", server.keys().display());
    fs::write(unfinished, "").unwrap();
    let answer = server.root().get("/v1/key/list/*");
    assert_eq!("{\"Name\":\"my-key\"}\n", answer.text());
}

#[test]
fn patterns_full_of_stars_take_no_time() {
    let app = Identity::new("app");
    let stars = "*a".repeat(50) + "b";
    let server = Server::start(|config| {
        put_key(config, &"a".repeat(255), &stored_key(&KEY));
        config.policy("app", &[&format!("/v1/key/create/{stars}")], &[&app]);
    });
    let start = std::time::Instant::now();
    assert_eq!("", server.root().get(&format!("/v1/key/list/{stars}")).text());
    let path = format!("/v1/key/create/{}", "a".repeat(60_000));
    server.client(&app).post(&path, "").is_failure(403, "prohibited by policy");
    let many = "*a".repeat(30_000) + "b";
    assert_eq!("", server.root().get(&format!("/v1/key/list/{many}")).text());
    assert!(start.elapsed() < std::time::Duration::from_secs(30), "{:?}", start.elapsed());
}

// routing

#[test]
fn a_wrong_method_is_told_the_right_one() {
    let server = start();
    let mut connection = server.root().connect();
    let mut routes: Vec<_> =
        KEY_ROUTES.iter().map(|(method, api)| (*method, format!("/v1/key/{api}/a"))).collect();
    routes.push(("GET", "/v1/key/list/*".to_owned()));
    routes.push(("GET", "/version".to_owned()));
    for (expected, path) in routes {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW", "post"] {
            if method == expected || (expected, method) == ("POST", "PUT") {
                continue;
            }
            let answer = connection.request(method, &path, "");
            assert_eq!(405, answer.status, "{method} {path}");
            assert_eq!(Some(expected), answer.header("Accept"), "{method} {path}");
            assert_eq!(None, answer.header("Allow"));
            if method != "HEAD" {
                answer.is_failure(405, "Method Not Allowed");
            }
        }
    }
    assert!(server.key_files().is_empty());
}

#[test]
fn put_does_what_post_does() {
    let server = start();
    let root = server.root();
    root.put("/v1/key/create/a", "").is_empty_success();
    let import = json!({ "bytes": base64(KEY) }).to_string();
    root.put("/v1/key/import/b", import).is_empty_success();
    let answer = root.put("/v1/key/generate/a", "{}");
    answer.is_json_success();
    let body = json!({ "ciphertext": base64(answer.bytes("ciphertext")) }).to_string();
    root.put("/v1/key/decrypt/a", body).is_json_success();
    root.put("/v1/key/encrypt/a", "{}").is_json_success();
}

#[test]
fn unknown_paths_are_not_found() {
    let server = start();
    let mut connection = server.root().connect();
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/key",
        "/v1/key/",
        "/v1/key/creat",
        "/v1/key/created/a",
        "/Version",
        "/version/",
        "/versions",
        "/v2/key/create/a",
        "/v1/KEY/create/a",
    ] {
        for method in ["GET", "POST", "DELETE", "OPTIONS"] {
            let answer = connection.request(method, path, "");
            assert_eq!(404, answer.status, "{method} {path}");
            not_found(&answer);
        }
    }
    assert!(server.key_files().is_empty());
}

#[test]
fn paths_that_are_not_clean_are_redirected_and_not_audited() {
    let server = start();
    let mut connection = server.root().connect();
    for (path, location) in [
        ("//version", "/version"),
        ("/./version", "/version"),
        ("/v1/../version", "/version"),
        ("/../version?a=b&c=%20", "/version?a=b&c=%20"),
        ("/v1//key/list/a*", "/v1/key/list/a*"),
        ("/v1/key//create/a", "/v1/key/create/a"),
        ("/v1/key/create/./a", "/v1/key/create/a"),
        ("/v1/key/create/x/../a/", "/v1/key/create/a/"),
        ("/v1/key/create//", "/v1/key/create/"),
        ("/v1/key/create/x/..", "/v1/key/create"),
        ("//%E4%BD%A0%20%25", "/%E4%BD%A0%20%25"),
    ] {
        let answer = connection.request("POST", path, "");
        assert_eq!((301, ""), (answer.status, answer.text()), "{path}");
        assert_eq!(Some(location), answer.header("Location"), "{path}");
        assert_eq!(Some("Status, Error"), answer.header("Trailer"));
    }
    connection.request("GET", "/version", "");
    let audit = server.audit(1);
    assert_eq!(1, audit.len(), "{audit:?}");
    assert!(server.key_files().is_empty());
}

#[test]
fn a_location_can_not_carry_more_headers() {
    let server = start();
    let answer = server.root().get("//a%0d%0aSet-Cookie:%20b=c");
    assert_eq!(301, answer.status);
    assert_eq!(Some("/a%0D%0ASet-Cookie:%20b=c"), answer.header("Location"));
    assert_eq!(None, answer.header("Set-Cookie"));
    // Nor may it lead to another machine.
    for path in ["//evil.example/version", "/%2Fevil.example", "/\\evil.example", "///evil.example"]
    {
        let answer = server.root().get(path);
        let location = answer.header("Location").unwrap_or("/");
        assert!(!location.starts_with("//") && !location.starts_with("/\\"), "{path}: {location}");
    }
}

#[test]
fn a_missing_slash_is_a_missing_name() {
    let server = start();
    let mut connection = server.root().connect();
    for (method, api) in KEY_ROUTES {
        for path in [format!("/v1/key/{api}"), format!("/v1/key/{api}/")] {
            connection.request(method, &path, "{}").is_failure(400, "invalid key name");
        }
    }
    assert!(server.key_files().is_empty());
}

#[test]
fn a_path_with_more_elements_does_not_match() {
    let server = start();
    let mut connection = server.root().connect();
    for (method, api) in KEY_ROUTES {
        for name in ["a/b", "a%2Fb", "a/", "a%2f"] {
            let pattern = format!("/v1/key/{api}/*");
            connection.request(method, &format!("/v1/key/{api}/{name}"), "{}").is_failure(
                400,
                &format!("request URL path does not match API pattern: {pattern}"),
            );
        }
    }
    assert!(server.key_files().is_empty());
}

#[test]
fn names_that_no_key_may_have_are_refused_before_the_key_store() {
    let server = start();
    let mut connection = server.root().connect();
    let long = "a".repeat(256);
    let wide = "%C3%A4".repeat(128);
    for (method, api) in KEY_ROUTES {
        for name in [
            "",
            ".",
            "..",
            "%2e",
            "%2E%2e",
            "%5C",
            "a%5Cb",
            "..%5C..%5Cetc",
            "%00",
            "a%00",
            "%0a",
            "%0D",
            "%09",
            "%1b",
            "%7F",
            "%C2%80",
            "%C2%9F",
            &long,
            &wide,
        ] {
            let path = format!("/v1/key/{api}/{name}");
            let answer = connection.request(method, &path, r#"{"bytes":""}"#);
            assert_eq!(400, answer.status, "{path}");
            answer.is_failure(400, "invalid key name");
        }
        // These are more than one path element, or none.
        for name in ["%2F", "..%2F..%2Fetc%2Fpasswd", "a%2F..", "%2Fetc%2Fpasswd", "%2E%2E%2Fa"] {
            let answer = connection.request(method, &format!("/v1/key/{api}/{name}"), "{}");
            assert!([301, 400].contains(&answer.status), "{api} {name}: {answer:?}");
        }
    }
    assert!(server.key_files().is_empty());
    assert_eq!("", server.stderr());
}

#[test]
fn names_may_be_odd_and_up_to_255_bytes_long() {
    let server = start();
    let mut connection = server.root().connect();
    let long = "a".repeat(255);
    let mut wanted = Vec::new();
    for (path, name) in [
        (long.as_str(), long.as_str()),
        ("...", "..."),
        (".hidden", ".hidden"),
        ("a%20b", "a b"),
        ("-rf", "-rf"),
        ("%22quotes%22", "\"quotes\""),
        ("a%3Fb%23c%25d", "a?b#c%d"),
        ("%E2%82%AC", "\u{20ac}"),
        ("a+b", "a+b"),
        ("*", "*"),
    ] {
        connection.request("POST", &format!("/v1/key/create/{path}"), "").is_empty_success();
        connection.request("POST", &format!("/v1/key/generate/{path}"), "{}").is_json_success();
        wanted.push(name.to_owned());
    }
    wanted.sort();
    assert_eq!(wanted, server.key_files());
}

#[test]
fn the_query_is_ignored() {
    let server = start();
    server.root().post("/v1/key/create/a?b=/../c", "").is_empty_success();
    assert_eq!(["a"], *server.key_files());
}

// limits

/// The limits of bodies: import, generate, decrypt, encrypt.
const LIMITS: [(&str, usize); 4] =
    [("import", 1 << 20), ("generate", 1 << 20), ("decrypt", 1 << 20), ("encrypt", 1 << 19)];

#[test]
fn bodies_up_to_the_limit_are_read() {
    let server = start_with_key();
    for (api, limit) in LIMITS {
        // Valid with white space up to the limit: whether all was read shows in the next answer.
        let (path, json) = match api {
            "import" => ("/v1/key/import/new", json!({ "bytes": base64(KEY) }).to_string()),
            "decrypt" => {
                let sealed = encrypt(&server.root(), "my-key", b"secret", b"");
                ("/v1/key/decrypt/my-key", sealed.text().trim().to_owned())
            }
            "generate" => ("/v1/key/generate/my-key", "{}".to_owned()),
            _ => ("/v1/key/encrypt/my-key", "{}".to_owned()),
        };
        let body = format!("{}{json}", " ".repeat(limit - json.len())).into_bytes();
        assert_eq!(limit, body.len());
        for bytes in [request("POST", path, &body), chunked("POST", path, &body, 50_000)] {
            let mut connection = server.root().connect();
            connection.send(bytes);
            let answer = connection.response();
            assert_eq!(200, answer.status, "{api}: {}", answer.text());
            connection.request("GET", "/version", "").is_json_success();
            server.root().delete("/v1/key/delete/new").is_empty_success();
        }
    }
}

#[test]
fn bodies_over_the_limit_are_invalid_and_end_the_connection() {
    let server = start_with_key();
    for (api, limit) in LIMITS {
        let path = format!("/v1/key/{api}/my-key");
        for size in [limit + 1, limit + 100_000, 3 << 20] {
            let body = format!("{}{{}}", " ".repeat(size - 2)).into_bytes();
            for bytes in [request("POST", &path, &body), chunked("POST", &path, &body, 60_000)] {
                let mut connection = server.root().connect();
                // The server may close before it has got all of it.
                let _ = connection.try_send(&bytes);
                let answer = connection.response();
                answer.is_failure(400, "invalid json");
                assert_eq!(Some("close"), answer.header("Connection"));
                assert!(connection.is_closed());
            }
        }
        // The announced length is enough to know.
        let mut connection = server.root().connect();
        let length = u64::MAX;
        connection
            .send(format!("POST {path} HTTP/1.1\r\nHost: kes\r\nContent-Length: {length}\r\n\r\n"));
        connection.response().is_failure(400, "invalid json");
        assert!(connection.is_closed());
    }
}

#[test]
fn the_largest_plaintext_can_be_decrypted_again() {
    let server = start_with_key();
    let root = server.root();
    // As much as fits into a request of 512 KiB.
    let plaintext = vec![9; (512 * 1024 - 40) / 4 * 3];
    let answer =
        root.post("/v1/key/encrypt/my-key", json!({ "plaintext": base64(&plaintext) }).to_string());
    answer.is_json_success();
    let opened = root.post("/v1/key/decrypt/my-key", answer.text());
    opened.is_json_success();
    assert_eq!(plaintext, opened.bytes("plaintext"));
}

#[test]
fn a_body_that_is_cut_off_is_invalid_and_nothing_is_stored() {
    let server = start();
    let body = json!({ "bytes": base64(KEY) }).to_string();
    for bytes in [
        request("POST", "/v1/key/import/a", body.as_bytes()),
        chunked("POST", "/v1/key/import/a", body.as_bytes(), 20),
    ] {
        let mut connection = server.root().connect();
        connection.send(&bytes[..bytes.len() - 3]);
        connection.half_close();
        connection.response().is_failure(400, "invalid json");
        assert!(connection.is_closed());
    }
    assert!(server.key_files().is_empty());
}

// key store failures

#[test]
fn a_stored_file_that_is_no_key_harms_nobody_else() {
    let flawed = [
        ("empty", ""),
        ("text", "this is no key"),
        ("half", "{\"bytes\":\"AAAA"),
        ("short", "{\"bytes\":\"AAAA\"}"),
        ("null", "null"),
        ("array", "[]"),
        ("unknown-algorithm", &stored_key(&KEY).replace('}', ",\"algorithm\":\"ROT13\"}")),
    ];
    let server = Server::start(|config| {
        put_key(config, "good", &stored_key(&KEY));
        for (name, value) in flawed {
            put_key(config, name, value);
        }
        put_key(config, "huge", &" ".repeat((1 << 20) + 1));
        fs::write(config.keys().join("binary"), [0xff; 56]).unwrap();
        fs::create_dir(config.keys().join("directory")).unwrap();
        std::os::unix::fs::symlink("good", config.keys().join("link")).unwrap();
    });
    let root = server.root();
    let names = flawed.iter().map(|(name, _)| *name);
    for name in names.chain(["huge", "binary", "directory", "link"]) {
        for api in ["generate", "encrypt", "decrypt"] {
            root.post(&format!("/v1/key/{api}/{name}"), "{}")
                .is_failure(502, "bad gateway: failed to access key");
        }
        server.logs_error(name);
        // It is there, so it is not overwritten.
        root.post(&format!("/v1/key/create/{name}"), "").is_failure(400, "key does already exist");
        root.post("/v1/key/generate/good", "{}").is_json_success();
    }
    for line in server.stderr().lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(event["message"].is_string(), "{line}");
    }
}

#[test]
fn a_key_store_that_is_gone_is_a_bad_gateway_until_it_is_back() {
    let server = start_with_key();
    let root = server.root();
    let aside = server.keys().with_extension("aside");
    fs::rename(server.keys(), &aside).unwrap();
    let fails = |answer: Response, task: &str| {
        answer.is_failure(502, &format!("bad gateway: failed to {task}"));
    };
    let import = json!({ "bytes": base64(KEY) }).to_string();
    fails(root.post("/v1/key/create/new", ""), "create key");
    fails(root.post("/v1/key/import/new", import), "create key");
    fails(root.post("/v1/key/generate/my-key", "{}"), "access key");
    fails(root.post("/v1/key/encrypt/my-key", "{}"), "access key");
    fails(root.post("/v1/key/decrypt/my-key", "{}"), "access key");
    fails(root.delete("/v1/key/delete/my-key"), "delete key");
    fails(root.get("/v1/key/list/*"), "list keys");
    root.get("/version").is_json_success();
    server.logs_error("my-key");
    fs::rename(&aside, server.keys()).unwrap();
    root.post("/v1/key/create/new", "").is_empty_success();
    root.post("/v1/key/generate/my-key", "{}").is_json_success();
}

#[test]
fn a_cached_key_outlives_its_store_for_a_while() {
    let server = start_with_key();
    let root = server.root();
    root.post("/v1/key/generate/my-key", "{}").is_json_success();
    fs::rename(server.keys(), server.keys().with_extension("aside")).unwrap();
    root.post("/v1/key/generate/my-key", "{}").is_json_success();
}

// policies

#[test]
fn policies_say_who_may_do_what() {
    let [app, reader, nobody, stranger] =
        ["app", "reader", "nobody", "stranger"].map(Identity::new);
    let server = Server::start(|config| {
        config.policy("app", &["/v1/key/create/app-*", "/v1/key/generate/app-?"], &[&app]);
        config.policy("reader", &["/v1/key/*/[a-z]", "/v1/key/list/*"], &[&reader]);
        config.policy("nobody", &[], &[&nobody]);
        put_key(config, "app-1", &stored_key(&KEY));
        put_key(config, "app-10", &stored_key(&KEY));
        put_key(config, "k", &stored_key(&KEY));
    });
    const DENIED: &str = "prohibited by policy";
    let client = server.client(&app);
    client.post("/v1/key/create/app-2", "").is_empty_success();
    client.post("/v1/key/generate/app-1", "{}").is_json_success();
    // The path is judged decoded.
    client.post("/v1/key/generate/%61pp-1", "{}").is_json_success();
    client.post("/v1/key/generate/app-10", "{}").is_failure(403, DENIED);
    client.post("/v1/key/create/other", "").is_failure(403, DENIED);
    client.post("/v1/key/encrypt/app-1", "{}").is_failure(403, DENIED);
    client.delete("/v1/key/delete/app-1").is_failure(403, DENIED);
    client.get("/v1/key/list/*").is_failure(403, DENIED);
    client.get("/v1/key/list").is_failure(403, DENIED);
    // An identity without rights does not learn which keys there are, or what is wrong with a body.
    client.post("/v1/key/encrypt/missing", "{").is_failure(403, DENIED);

    let client = server.client(&reader);
    client.post("/v1/key/generate/k", "{}").is_json_success();
    assert_eq!(200, client.get("/v1/key/list/k*").status);
    assert_eq!(200, client.get("/v1/key/list/").status);
    assert_eq!(200, client.get("/v1/key/list").status);
    client.post("/v1/key/generate/app-1", "{}").is_failure(403, DENIED);

    for identity in [&nobody, &stranger] {
        let client = server.client(identity);
        for (method, api) in KEY_ROUTES {
            client.request(method, &format!("/v1/key/{api}/k"), "{}").is_failure(403, DENIED);
        }
        client.get("/v1/key/list/*").is_failure(403, DENIED);
        client.get("/version").is_json_success();
        not_found(&client.get("/nowhere"));
    }
    let root = server.root();
    root.post("/v1/key/generate/app-10", "{}").is_json_success();
    assert_eq!(["app-1", "app-10", "app-2", "k"], *server.key_files());
}

#[test]
fn a_disabled_root_may_do_nothing() {
    for disabled in ["disabled", "_"] {
        let app = Identity::new("app");
        let server = Server::start(|config| {
            config.root = disabled.to_owned();
            config.policy("app", &["/v1/key/create/*"], &[&app]);
        });
        server.root().post("/v1/key/create/a", "").is_failure(403, "prohibited by policy");
        server.root().get("/version").is_json_success();
        server.client(&app).post("/v1/key/create/b", "").is_empty_success();
        assert_eq!(["b"], *server.key_files());
    }
}

#[test]
fn the_root_of_the_command_line_wins_over_the_file() {
    let other = Identity::new("other");
    let server =
        Server::start(|config| config.arguments = vec!["--root".to_owned(), other.id.clone()]);
    server.root().post("/v1/key/create/a", "").is_failure(403, "prohibited by policy");
    server.client(&other).post("/v1/key/create/a", "").is_empty_success();

    let server = Server::start(|config| config.arguments = vec!["--root=disabled".to_owned()]);
    server.root().post("/v1/key/create/a", "").is_failure(403, "prohibited by policy");
}

// several certificates

#[test]
fn two_leaf_certificates_are_too_many_identities() {
    let server = start();
    let two = server.root_identity.clone().followed_by(&Identity::new("another"));
    let client = server.client(&two);
    let message = "too many identities: more than one certificate is present";
    client.get("/version").is_json_success();
    for (method, api) in KEY_ROUTES {
        client.request(method, &format!("/v1/key/{api}/a"), "{}").is_failure(400, message);
    }
    client.get("/v1/key/list/*").is_failure(400, message);
    // The other way round nothing is gained either.
    let two = Identity::new("another").followed_by(&server.root_identity);
    server.client(&two).post("/v1/key/create/a", "").is_failure(400, message);
    assert!(server.key_files().is_empty());
    let audit = server.audit(9);
    assert!(audit.iter().all(|event| event["request"]["identity"] == ""), "{audit:?}");
}

#[test]
fn authorities_in_the_chain_are_ignored() {
    let authority = Authority::new("authority");
    let intermediate = authority.intermediate("intermediate");
    let server = Server::start(|config| {
        config.root_identity = intermediate.issue("root", &Profile::client());
        config.root = config.root_identity.id.clone();
    });
    let chain = server
        .root_identity
        .clone()
        .followed_by(&intermediate.identity)
        .followed_by(&authority.identity);
    for identity in [&server.root_identity, &chain] {
        let path = format!("/v1/key/create/key-{}", identity.chain.len());
        server.client(identity).post(&path, "").is_empty_success();
    }
    // Only the key that is proven identifies: a stolen certificate behind one's own does not.
    let thief = Identity::new("thief").followed_by(&authority.identity);
    server.client(&thief).post("/v1/key/create/a", "").is_failure(403, "prohibited by policy");
}

// audit

#[test]
fn every_request_is_audited_once_with_its_path_identity_and_status() {
    let stranger = Identity::new("stranger");
    let server = Server::start(|config| {
        put_key(config, "my-key", &stored_key(&KEY));
        put_key(config, "no-key", "");
    });
    let root = &server.root_identity;
    let two = root.clone().followed_by(&stranger);
    let mut wanted = Vec::new();
    for (identity, method, path, body, status) in [
        (root, "GET", "/version", "", 200),
        (root, "POST", "/v1/key/create/a%20%22b%22", "", 200),
        (root, "POST", "/v1/key/create/my-key", "", 400),
        (root, "POST", "/v1/key/create/", "", 400),
        (root, "POST", "/v1/key/create/a/b", "", 400),
        (root, "POST", "/v1/key/import/a", "{", 400),
        (root, "POST", "/v1/key/generate/my-key", "{}", 200),
        (root, "POST", "/v1/key/encrypt/my-key", "{}", 200),
        (root, "POST", "/v1/key/decrypt/my-key", "{}", 400),
        (root, "POST", "/v1/key/generate/missing", "{}", 404),
        (root, "POST", "/v1/key/generate/no-key", "{}", 502),
        (root, "DELETE", "/v1/key/delete/my-key", "", 200),
        (root, "GET", "/v1/key/list/a*?query", "", 200),
        (root, "GET", "/v1/key/create/a", "", 405),
        (root, "GET", "/no%0Awhere", "", 404),
        (&stranger, "POST", "/v1/key/create/a", "", 403),
        (&stranger, "GET", "/nowhere", "", 404),
        (&two, "POST", "/v1/key/create/a", "", 400),
        (&two, "GET", "/version", "", 200),
    ] {
        let answer = server.client(identity).request(method, path, body);
        assert_eq!(status, answer.status, "{method} {path}: {}", answer.text());
        let id = if identity.chain.len() > 1 { "" } else { &identity.id };
        let path = path.replace("%20", " ").replace("%22", "\"").replace("%0A", "\n");
        wanted.push((path.replace("?query", ""), id.to_owned(), status));
    }
    let events = server.audit(wanted.len());
    let found: Vec<_> = events
        .iter()
        .map(|event| {
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            let status = event["response"]["code"].as_u64().unwrap().try_into().unwrap();
            (text(&event["request"]["path"]), text(&event["request"]["identity"]), status)
        })
        .collect();
    assert_eq!(wanted, found);
    for event in &events {
        let time = event["time"].as_str().unwrap();
        assert!(time.len() >= 20 && time.as_bytes()[10] == b'T', "{time}");
        let nanoseconds = event["response"]["time"].as_u64().unwrap();
        assert!((1..20_000_000_000).contains(&nanoseconds), "{event}");
        let members = |name: &str| event[name].as_object().unwrap().len();
        assert_eq!(
            (3, 2, 2),
            (event.as_object().unwrap().len(), members("request"), members("response"))
        );
    }
}

#[test]
fn requests_that_cannot_be_understood_are_audited_too() {
    let server = Server::start(|_| {});
    let long = format!("/{}", "a".repeat(3000));
    let mut wanted = Vec::new();
    for (line, more, path, status) in [
        ("GET /v1/key/%ff?a=b", "", "/v1/key/%ff", 400),
        ("GET /%zz", "", "/%zz", 400),
        ("GET /two", "Host: a\r\n", "/two", 400),
        ("GET /b c", "", "/b", 505),
        ("nonsense", "", "HTTP/1.1", 400),
        ("POST /expects", "Expect: a-miracle\r\n", "/expects", 417),
        ("GET /folded", "A: b\n\r\n", "/folded", 400),
        (&format!("GET {long}%f"), "", &long[..2048], 400),
    ] {
        let mut connection = server.root().connect();
        connection.send(format!("{line} HTTP/1.1\r\nHost: kes\r\n{more}\r\n"));
        assert_eq!(status, connection.response().status, "{line}");
        wanted.push((path.to_owned(), status));
    }
    let mut http2 = Http2::open(&server.root());
    for (path, seen, status) in [
        ("/v1/key/%ff?a=b", "/v1/key/%ff", Some(400)),
        ("/%zz", "/%zz", Some(400)),
        // These are reset.
        ("no-path", "no-path", None),
        ("/a\nb", "/a%0Ab", None),
    ] {
        let stream = http2.ask("GET", path, "");
        let answer = http2.try_answer(stream);
        assert_eq!(status, answer.ok().map(|answer| answer.status), "{path}");
        wanted.push((seen.to_owned(), 400));
    }
    let fields = [(":method", &b"GET"[..]), (":scheme", b"https"), (":path", b"/v1/\xff")];
    let block: Vec<_> = fields
        .iter()
        .flat_map(|(name, value)| crate::common::hpack::literal(name, value))
        .collect();
    let stream = http2.stream();
    http2.send(crate::common::http2::frame(1, 5, stream, block));
    assert!(http2.try_answer(stream).is_err());
    wanted.push(("/v1/%FF".to_owned(), 400));

    let events = server.audit(wanted.len());
    let found: Vec<_> = events
        .iter()
        .map(|event| {
            assert_eq!(server.root_identity.id, event["request"]["identity"]);
            let path = event["request"]["path"].as_str().unwrap().to_owned();
            let status = event["response"]["code"].as_u64().unwrap();
            (path, status.try_into().unwrap())
        })
        .collect();
    assert_eq!(wanted, found);
}

#[test]
fn a_request_whose_client_is_gone_is_audited_too() {
    let server = start();
    let mut connection = server.root().connect();
    let bytes = request("POST", "/v1/key/import/a", &[b' '; 100]);
    connection.send(&bytes[..bytes.len() - 50]);
    server.reads_all_of(&connection);
    drop(connection);
    let audit = server.audit(1);
    assert_eq!(1, audit.len(), "{audit:?}");
    assert_eq!("/v1/key/import/a", audit[0]["request"]["path"]);
    assert_eq!(400, audit[0]["response"]["code"]);
}

#[test]
fn without_audit_log_stdout_stays_empty() {
    let server = Server::start(|config| config.audit = "off");
    server.root().get("/version").is_json_success();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!("", server.stdout());
}
