//! The API of the newest generation, and the part of it that a server of 0.14 has too.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kes::inside::{
    ApiOptions, Deadline, Generation, KeyName, KeyStore, KeyStoreError, Mem, Policies, Policy,
    Rule, Secret,
};
use serde_json::{Value, json};

use crate::common::{Client, Follower, Identity, Inside, Response, Server, base64, wait_until};

const OLD: Generation = Generation::V0_14;
const NEWEST: Generation = Generation::Newest;
const NOT_AUTHENTIC: &str = "decryption failed: ciphertext is not authentic";
const FORBIDDEN: &str = "not authorized: insufficient permissions";

/// A server with its keys, and a client that may do everything with keys whose names begin with `app-`, but
/// not delete `app-0`.
struct Scene {
    server: Inside,
    root: Client,
    app: Identity,
    store: Arc<Store>,
}

impl Scene {
    fn new(generation: Generation) -> Self {
        Self::with(generation, &[])
    }

    fn with(generation: Generation, apis: &[(&str, ApiOptions)]) -> Self {
        let app = Identity::new("app");
        let store = Arc::new(Store::default());
        let apis = apis.iter().map(|(path, options)| ((*path).to_owned(), *options));
        let policy = |name: &str, rules: [&str; 2]| {
            let mut policies = Policies::builder(name, &[]);
            let rule = |text: &str| match generation {
                Generation::V0_14 => Rule::glob(text).unwrap(),
                Generation::Newest => Rule::prefix(text),
            };
            let deny = vec![Rule::prefix("/v1/key/delete/app-0")];
            let policy = Policy { allow: rules.map(rule).to_vec(), deny };
            policies.define(&"apps".into(), policy.into());
            policies.assign(&"apps".into(), &app.id).unwrap();
            policies.build()
        };
        let rules = ["/v1/key/bulk/decrypt/*", "/v1/key/*/app-*"];
        let newest = ["/v1/key/bulk/decrypt/*", "/v1/key/*"];
        let server = Inside::with(store.clone(), generation, apis.collect(), |root| {
            policy(root, if generation == OLD { rules } else { newest })
        });
        Self { root: server.root(), server, app, store }
    }

    fn app(&self) -> Client {
        self.server.client(Some(&self.app))
    }
}

/// Keys in memory that can be out of reach.
#[derive(Default)]
struct Store {
    keys: Mem,
    is_sealed: AtomicBool,
    is_gone: AtomicBool,
}

impl Store {
    fn check(&self) -> Result<(), KeyStoreError> {
        if self.is_sealed.load(Ordering::SeqCst) {
            return Err(KeyStoreError::Sealed);
        }
        if self.is_gone.load(Ordering::SeqCst) {
            let source = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            return Err(KeyStoreError::Unavailable { during: "ask".into(), source: source.into() });
        }
        Ok(())
    }
}

impl KeyStore for Store {
    fn create(&self, name: &KeyName, value: &Secret, by: Deadline) -> Result<(), KeyStoreError> {
        self.check()?;
        self.keys.create(name, value, by)
    }

    fn get(&self, name: &KeyName, by: Deadline) -> Result<Secret, KeyStoreError> {
        self.check()?;
        self.keys.get(name, by)
    }

    fn delete(&self, name: &KeyName, by: Deadline) -> Result<(), KeyStoreError> {
        self.check()?;
        self.keys.delete(name, by)
    }

    fn list(&self, by: Deadline) -> Result<Vec<String>, KeyStoreError> {
        self.check()?;
        self.keys.list(by)
    }

    fn status(&self, _: Deadline) -> Result<(), KeyStoreError> {
        self.check()
    }

    fn describe(&self) -> String {
        "Store".to_owned()
    }
}

#[track_caller]
fn fails(answer: &Response, status: u16, message: &str) {
    let text = format!("{{\"message\":{}\n}}", json!(message));
    assert_eq!((status, text.as_str()), (answer.status, answer.text()));
    assert_eq!(Some("application/json"), answer.header("Content-Type"));
    assert_eq!(Some(text.len().to_string().as_str()), answer.header("Content-Length"));
    for header in ["X-Content-Type-Options", "Trailer"] {
        assert_eq!(None, answer.header(header), "{header}");
    }
}

#[track_caller]
fn succeeds(answer: &Response) {
    assert_eq!((200, ""), (answer.status, answer.text()));
    assert_eq!(Some("0"), answer.header("Content-Length"));
    assert_eq!(None, answer.header("Trailer"));
}

#[track_caller]
fn gives(answer: &Response) -> Value {
    assert_eq!(200, answer.status, "{}", answer.text());
    assert_eq!(Some("application/json"), answer.header("Content-Type"));
    assert!(answer.text().ends_with('\n'), "{:?}", answer.text());
    answer.json()
}

/// A time as text: `2026-11-23T07:26:44.866244507Z`.
fn is_time(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.len() >= 20 && text.starts_with("20") && text.ends_with('Z')
}

#[test]
fn keys_are_created_with_their_origin_and_described() {
    let Scene { server, root, store, .. } = &Scene::new(NEWEST);
    succeeds(&root.post("/v1/key/create/app-1", ""));
    fails(&root.put("/v1/key/create/app-1", ""), 400, "key already exists");
    let described = gives(&root.get("/v1/key/describe/app-1"));
    assert_eq!("app-1", described["name"]);
    assert_eq!("AES256", described["algorithm"]);
    assert_eq!(server.root_id(), described["created_by"]);
    assert!(is_time(&described["created_at"]), "{described}");
    fails(&root.get("/v1/key/describe/none"), 404, "key does not exist");

    // A key that 0.14 has made says nothing of its origin.
    let name = KeyName::parse("old").unwrap();
    let value = Secret::new(crate::common::stored_key(&[7; 32]).into_bytes());
    store.keys.create(&name, &value, deadline()).unwrap();
    let wanted =
        json!({"name": "old", "algorithm": "AES256", "created_at": "0001-01-01T00:00:00Z"});
    assert_eq!(wanted, gives(&root.get("/v1/key/describe/old")));

    succeeds(&root.delete("/v1/key/delete/app-1"));
    fails(&root.delete("/v1/key/delete/app-1"), 404, "key does not exist");
}

fn deadline() -> Deadline {
    Deadline::after(std::time::Instant::now(), Duration::from_secs(10))
}

#[test]
fn imports_take_the_bodies_of_all_generations() {
    let key = base64([9; 32]);
    for (generation, old, new) in [
        (OLD, (400, "invalid key"), (400, "invalid key")),
        (NEWEST, (406, "invalid key size for 'AES256'"), (406, "algorithm '' is not supported")),
    ] {
        let Scene { root, .. } = &Scene::new(generation);
        let import = |name: &str, body: &str| root.post(&format!("/v1/key/import/{name}"), body);
        for (number, body) in [
            json!({"bytes": key}),
            json!({"key": key}),
            json!({"key": key, "cipher": "AES256"}),
            json!({"key": key, "cipher": "ChaCha20"}),
            json!({"KEY": key, "Cipher": "XCHACHA20-POLY1305", "more": 1}),
        ]
        .iter()
        .enumerate()
        {
            let answer = import(&format!("a-{number}"), &body.to_string());
            assert_eq!((200, ""), (answer.status, answer.text()), "{body}");
        }
        let message = |answer: Response| {
            (answer.status, answer.json()["message"].as_str().unwrap_or_default().to_owned())
        };
        let is = |(status, text): (u16, &str), answer| {
            assert_eq!((status, text.to_owned()), message(answer));
        };
        is(old, import("b", r#"{"key":"c2hvcnQ=","cipher":"AES256"}"#));
        is(old, import("b", r#"{"bytes":"c2hvcnQ="}"#));
        is(new, import("b", "{}"));
        let des = json!({"key": key, "cipher": "DES"}).to_string();
        is((406, "algorithm 'DES' is not supported"), import("b", &des));
        let invalid =
            if generation == OLD { "invalid json" } else { "invalid import key request body" };
        for body in ["", "{bad", r#"{"key":"***","cipher":"AES256"}"#, r#"{"cipher":1}"#] {
            is((400, invalid), import("b", body));
        }
    }
    let Scene { root, .. } = &Scene::new(NEWEST);
    let body = json!({"key": key, "cipher": "ChaCha20"}).to_string();
    succeeds(&root.post("/v1/key/import/app-1", &body));
    assert_eq!("ChaCha20", gives(&root.get("/v1/key/describe/app-1"))["algorithm"]);
    let large = format!("{{\"pad\":\"{}\"}}", "x".repeat(1_100_000));
    fails(&root.post("/v1/key/import/b", &large), 400, "invalid import key request body");
}

#[test]
fn a_data_key_is_sealed_in_the_format_of_the_generation_and_opened_in_either() {
    for (generation, size) in [(OLD, 0), (NEWEST, 32 + 44)] {
        let Scene { root, .. } = &Scene::new(generation);
        assert_eq!(200, root.post("/v1/key/create/app-1", "").status);
        let generated = root.post("/v1/key/generate/app-1", r#"{"context":"Y3R4","version":""}"#);
        let (data_key, sealed) = (generated.bytes("plaintext"), generated.bytes("ciphertext"));
        match size {
            0 => assert!(sealed.starts_with(b"{\"aead\":"), "{sealed:?}"),
            size => assert_eq!(size, sealed.len()),
        }
        let body = json!({"ciphertext": base64(&sealed), "context": "Y3R4", "version": "v1"});
        let opened = root.put("/v1/key/decrypt/app-1", body.to_string());
        assert_eq!(data_key, opened.bytes("plaintext"));
        let message =
            root.post("/v1/key/decrypt/app-1", json!({"ciphertext": base64(&sealed)}).to_string());
        assert_eq!(
            (400, NOT_AUTHENTIC),
            (message.status, message.json()["message"].as_str().unwrap())
        );
    }
    let Scene { root, .. } = &Scene::new(NEWEST);
    succeeds(&root.post("/v1/key/create/app-1", ""));
    for body in [
        r#"{"ciphertext":""}"#,
        "{}",
        r#"{"ciphertext":"Z2FyYmFnZQ=="}"#,
        &json!({"ciphertext": base64(br#"{"aead":"?","iv":"","nonce":"","bytes":""}"#)})
            .to_string(),
    ] {
        fails(&root.post("/v1/key/decrypt/app-1", body), 400, NOT_AUTHENTIC);
    }
    let sealed = root.post("/v1/key/encrypt/app-1", r#"{"plaintext":"aGVsbG8="}"#);
    assert_eq!(5 + 44, sealed.bytes("ciphertext").len());
    fails(&root.post("/v1/key/encrypt/app-1", "nope"), 400, "invalid request body");
    fails(&root.post("/v1/key/encrypt/app-1", ""), 400, "invalid request body");
    fails(&root.post("/v1/key/generate/none", "{}"), 404, "key does not exist");
}

#[test]
fn a_data_key_needs_a_body_unless_none_is_announced() {
    let old = Scene::new(OLD);
    assert_eq!(200, old.root.post("/v1/key/create/app-1", "").status);
    old.root.post("/v1/key/generate/app-1", "").is_failure(400, "invalid json");

    let newest = Scene::new(NEWEST);
    succeeds(&newest.root.post("/v1/key/create/app-1", ""));
    gives(&newest.root.post("/v1/key/generate/app-1", ""));
    let raw = |headers: &str| {
        let request = format!("POST /v1/key/generate/app-1 HTTP/1.1\r\nHost: kes\r\n{headers}\r\n");
        let mut connection = newest.root.connect();
        connection.send(request.as_bytes());
        connection.response()
    };
    gives(&raw("Content-Length: 0\r\n"));
    // What an SDK sends whose body was lost on the way to another server.
    for headers in [
        "Content-Type: application/json\r\n",
        "Content-Type: application/json\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\n",
    ] {
        fails(&raw(headers), 400, "invalid request body");
    }
}

#[test]
fn an_hmac_takes_a_key_that_has_a_part_for_it() {
    let newest = Scene::new(NEWEST);
    succeeds(&newest.root.post("/v1/key/create/app-1", ""));
    let hmac = |body: &str| newest.root.put("/v1/key/hmac/app-1", body);
    let first = hmac(r#"{"message":"aGVsbG8="}"#).bytes("hmac");
    assert_eq!(32, first.len());
    assert_eq!(first, hmac(r#"{"message":"aGVsbG8="}"#).bytes("hmac"));
    assert_ne!(first, hmac(r#"{"message":""}"#).bytes("hmac"));
    fails(&hmac("{"), 400, "invalid request body");

    // Object servers take 501 for "not supported" and nothing else.
    let old = Scene::new(OLD);
    assert_eq!(200, old.root.post("/v1/key/create/app-1", "").status);
    old.root
        .post("/v1/key/hmac/app-1", r#"{"message":""}"#)
        .is_failure(501, "key does not support HMAC");
}

#[test]
fn many_ciphertexts_are_decrypted_at_once_or_none() {
    for generation in [OLD, NEWEST] {
        let Scene { root, .. } = &Scene::new(generation);
        assert_eq!(200, root.post("/v1/key/create/app-1", "").status);
        let (mut plain, mut sealed) = (Vec::new(), Vec::new());
        for number in 0..1000 {
            if number < 3 {
                let body =
                    json!({"plaintext": base64(format!("{number}").as_bytes()), "context": "Y3R4"});
                let answer = root.post("/v1/key/encrypt/app-1", body.to_string());
                sealed.push(json!({"ciphertext": answer.json()["ciphertext"], "context": "Y3R4"}));
                plain.push(json!({"plaintext": body["plaintext"]}));
            } else {
                sealed.push(sealed[number % 3].clone());
                plain.push(plain[number % 3].clone());
            }
        }
        let decrypt = |body: &Value| root.post("/v1/key/bulk/decrypt/app-1", body.to_string());
        assert_eq!(json!(plain), decrypt(&json!(sealed)).json());
        assert_eq!(json!([]), decrypt(&json!([])).json());
        let message = |body: &Value| {
            let answer = decrypt(body);
            (answer.status, answer.json()["message"].as_str().unwrap_or_default().to_owned())
        };
        let mut wrong = sealed.clone();
        wrong[500]["context"] = json!("AAAA");
        assert_eq!((400, NOT_AUTHENTIC.to_owned()), message(&json!(wrong)));
        sealed.push(sealed[0].clone());
        assert_eq!((400, "too many ciphertexts".to_owned()), message(&json!(sealed)));
        for body in [json!({}), json!([1]), json!([{"ciphertext": 1}])] {
            assert_eq!(400, message(&body).0, "{body}");
        }
    }
}

#[test]
fn names_follow_the_rule_of_the_generation() {
    let Scene { root, .. } = &Scene::new(NEWEST);
    let long = "k".repeat(80);
    for name in ["a_b-c", "Bench", &long] {
        succeeds(&root.post(&format!("/v1/key/create/{name}"), ""));
    }
    let longer = "k".repeat(81);
    for (path, name) in [
        ("", ""),
        ("a.b", "a.b"),
        (".hidden", ".hidden"),
        ("a%2Fb", "a/b"),
        ("a/b", "a/b"),
        ("a%20b", "a b"),
        ("%C3%A4", "\u{e4}"),
        ("a*", "a*"),
        ("a%00b", "a\0b"),
        ("%5Cx", "\\x"),
        ("..", ".."),
        ("-a", "-a"),
        (&longer, &longer),
    ] {
        let text = format!("key name '{name}' is empty, too long or contains invalid characters");
        fails(&root.post(&format!("/v1/key/create/{path}"), ""), 400, &text);
    }
    let no_key = "key name '' is empty, too long or contains invalid characters";
    fails(&root.post("/v1/key/create", ""), 400, no_key);
    let policy = "policy name 'a*' is empty, too long or contains invalid characters";
    fails(&root.get("/v1/policy/read/a*"), 400, policy);
    let identity = "identity 'a*' is empty, too long or contains invalid characters";
    fails(&root.get("/v1/identity/describe/a*"), 400, identity);
    for list in ["key", "policy", "identity"] {
        let text = "listing pattern '[a' is empty, too long or is invalid";
        fails(&root.get(&format!("/v1/{list}/list/[a")), 400, text);
    }
}

#[test]
fn methods_are_named_and_shorter_paths_are_redirected() {
    let Scene { root, .. } = &Scene::new(NEWEST);
    for (method, path, expected) in [
        ("POST", "/version", "GET"),
        ("GET", "/v1/key/create/a", "PUT"),
        ("POST", "/v1/key/list/*", "GET"),
        ("POST", "/v1/policy/list/*", "GET"),
        ("PATCH", "/v1/key/delete/a", "DELETE"),
        ("OPTIONS", "/v1/status", "GET"),
        ("TRACE", "/version", "GET"),
    ] {
        let answer = root.request(method, path, "");
        fails(&answer, 405, &format!("received method '{method}' expected '{expected}'"));
        assert_eq!(Some(expected), answer.header("Accept"));
    }
    let moved = root.post("/v1/key/create//x", "");
    assert_eq!((307, ""), (moved.status, moved.text()));
    assert_eq!(Some("/v1/key/create/x"), moved.header("Location"));
    for path in [
        "/version/",
        "/v1/nope",
        "/",
        "/v2/key/create/x",
        "/v1/policy/write/a",
        "/v1/identity/assign/a/b",
    ] {
        let answer = root.post(path, "{}");
        assert_eq!((404, "404 page not found\n"), (answer.status, answer.text()), "{path}");
        assert_eq!(Some("text/plain; charset=utf-8"), answer.header("Content-Type"));
        assert_eq!(Some("nosniff"), answer.header("X-Content-Type-Options"));
        assert_eq!(None, answer.header("Trailer"));
    }
    for generation in [OLD, NEWEST] {
        for path in ["/v1/enclave/create/a", "/v1/secret/list/*", "/v1/sys/seal"] {
            assert_eq!(501, Scene::new(generation).root.get(path).status, "{path}");
        }
    }
}

#[test]
fn names_are_listed_in_pages_that_continue_where_the_last_one_ended() {
    let Scene { root, store, .. } = &Scene::new(NEWEST);
    assert_eq!(json!({"names": []}), gives(&root.get("/v1/key/list/*")));
    let value = Secret::new(crate::common::stored_key(&[7; 32]).into_bytes());
    let mut names: Vec<_> = (0..2500).map(|number| format!("app-{number}")).collect();
    names.extend(["app".to_owned(), "b".to_owned(), "zz-1".to_owned()]);
    for name in &names {
        store.keys.create(&KeyName::parse(name).unwrap(), &value, deadline()).unwrap();
    }
    names.sort();
    for (start, prefix) in
        [("", ""), ("*", ""), ("app-*", "app-"), ("app-1", "app-1"), ("zz*", "zz")]
    {
        let (mut found, mut next, mut pages) = (Vec::new(), start.to_owned(), 0);
        loop {
            let page = gives(&root.get(&format!("/v1/key/list/{next}")));
            let listed = page["names"].as_array().unwrap();
            assert!(listed.len() <= 1024, "{}", listed.len());
            found.extend(listed.iter().map(|name| name.as_str().unwrap().to_owned()));
            pages += 1;
            match page["continue_at"].as_str() {
                Some(continue_at) => next = continue_at.replace('*', "%2A"),
                None => break,
            }
        }
        let wanted: Vec<_> = names.iter().filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(wanted, found.iter().collect::<Vec<_>>(), "{start}");
        assert_eq!(wanted.len().div_ceil(1024), pages);
    }
    // A star stands at the end: a list that seems to match a pattern would be taken for what matches it.
    for pattern in ["app-*-1", "*-1", "**", "app-**", "app-***", "b**app-1", "a*1"] {
        let text = format!("listing pattern '{pattern}' is empty, too long or is invalid");
        let answer = root.get(&format!("/v1/key/list/{}", pattern.replace('*', "%2A")));
        fails(&answer, 400, &text);
    }
    // Clients of the newest generation ask for all without a slash.
    assert_eq!(1024, gives(&root.get("/v1/key/list"))["names"].as_array().unwrap().len());
}

#[test]
fn policies_and_identities_are_shown_in_the_shape_of_the_generation() {
    let Scene { server, root, app, .. } = &Scene::new(NEWEST);
    let mut read = gives(&root.get("/v1/policy/read/apps"));
    let created_at = read["created_at"].take();
    assert!(is_time(&created_at), "{created_at}");
    assert_eq!(
        json!({
            "name": "apps",
            "allow": {"/v1/key/*": {}, "/v1/key/bulk/decrypt/*": {}},
            "deny": {"/v1/key/delete/app-0": {}},
            "created_at": null,
            "created_by": server.root_id(),
        }),
        read
    );
    fails(&root.get("/v1/policy/read/none"), 404, "policy does not exist");
    let origin = json!({"name": "apps", "created_at": created_at, "created_by": server.root_id()});
    assert_eq!(origin, gives(&root.get("/v1/policy/describe/apps")));
    for (pattern, names) in [
        ("*", json!(["apps"])),
        ("a*", json!(["apps"])),
        ("", json!(["apps"])),
        ("none*", json!([])),
    ] {
        let wanted = json!({"names": names, "continue_at": ""});
        assert_eq!(wanted, gives(&root.get(&format!("/v1/policy/list/{pattern}"))));
    }
    let mut identities = [server.root_id(), &app.id];
    identities.sort_unstable();
    let wanted = json!({"identities": identities, "continue_at": ""});
    assert_eq!(wanted, gives(&root.get("/v1/identity/list/*")));
    let wanted = json!({"identities": [app.id], "continue_at": ""});
    assert_eq!(wanted, gives(&root.get(&format!("/v1/identity/list/{}*", &app.id[..9]))));

    let described = gives(&root.get(&format!("/v1/identity/describe/{}", app.id)));
    let wanted =
        json!({"policy": "apps", "created_at": created_at, "created_by": server.root_id()});
    assert_eq!(wanted, described);
    let admin = gives(&root.get(&format!("/v1/identity/describe/{}", server.root_id())));
    assert_eq!(json!({"admin": true, "created_at": created_at}), admin);
    let stranger = Identity::new("stranger");
    let path = format!("/v1/identity/describe/{}", stranger.id);
    fails(&root.get(&path), 404, "identity does not exist");
}

#[test]
fn every_client_sees_its_own_rights() {
    let path = "/v1/identity/self/describe";
    let newest = Scene::new(NEWEST);
    let (server, id) = (&newest.server, &newest.app.id);
    let mut own = gives(&newest.app().get(path));
    assert!(is_time(&own["created_at"].take()));
    let wanted = json!({
        "identity": id, "policy": "apps", "created_at": null, "created_by": server.root_id(),
        "allow": {"/v1/key/*": {}, "/v1/key/bulk/decrypt/*": {}},
        "deny": {"/v1/key/delete/app-0": {}},
    });
    assert_eq!(wanted, own);
    let admin = gives(&newest.root.get(path));
    assert_eq!(
        (json!(server.root_id()), json!(true)),
        (admin["identity"].clone(), admin["admin"].clone())
    );
    let stranger = server.client(Some(&Identity::new("stranger")));
    fails(&stranger.get(path), 404, "identity does not exist");

    // Object servers of 2022 and 2023 look for bulk decryption here, in the shape of that time.
    let old = Scene::new(OLD);
    let own = old.app().get(path).json();
    assert_eq!("apps", own["policy_name"]);
    assert_eq!(json!(["/v1/key/bulk/decrypt/*", "/v1/key/*/app-*"]), own["policy"]["allow"]);
    assert_eq!(json!(["/v1/key/delete/app-0"]), own["policy"]["deny"]);
}

#[test]
fn what_is_denied_is_refused_whatever_is_allowed() {
    let scene = Scene::new(NEWEST);
    let app = scene.app();
    succeeds(&app.post("/v1/key/create/app-0", ""));
    fails(&app.delete("/v1/key/delete/app-0"), 403, FORBIDDEN);
    succeeds(&app.post("/v1/key/create/app-01", ""));
    succeeds(&app.delete("/v1/key/delete/app-01"));
    fails(&app.get("/v1/status"), 403, FORBIDDEN);
    let stranger = scene.server.client(Some(&Identity::new("stranger")));
    fails(&stranger.post("/v1/key/create/app-2", ""), 403, FORBIDDEN);
    assert_eq!(200, stranger.get("/version").status);
}

#[test]
fn what_is_denied_is_refused_by_its_other_paths_too() {
    // As in files of KES, which has `/v1/*` but neither many ciphertexts at once nor `trace`.
    let (app, other) = (Identity::new("app"), Identity::new("other"));
    for (generation, rule) in [
        (NEWEST, (|text: &str| Rule::prefix(text)) as fn(&str) -> Rule),
        (OLD, |text: &str| Rule::glob(&text.replace("/v1/key/list", "/v1/key/list*")).unwrap()),
    ] {
        let server = Inside::with(Arc::new(Mem::default()), generation, <_>::default(), |root| {
            let policy = |deny: &[&str]| {
                let deny = deny.iter().map(|text| rule(text)).collect();
                Policy { allow: vec![Rule::prefix("/v1/*")], deny }
            };
            let mut policies = Policies::builder(root, &[]);
            policies.define(
                &"new".into(),
                policy(&["/v1/key/decrypt/app*", "/v1/log/audit", "/v1/key/list"]).into(),
            );
            policies.assign(&"new".into(), &app.id).unwrap();
            let deny = [
                "/v1/key/list/*",
                "/v1/log/error/trace",
                "/v1/identity/forget/*",
                "/v1/identity/assign/new/*",
            ];
            policies.define(&"old".into(), policy(&deny).into());
            policies.assign(&"old".into(), &other.id).unwrap();
            policies.build()
        });
        let forbidden = |answer: Response| {
            assert_eq!(403, answer.status, "{}", answer.text());
        };
        assert_eq!(200, server.root().post("/v1/key/create/app", "").status);
        let client = server.client(Some(&app));
        for path in ["/v1/log/audit", "/v1/log/audit/trace"] {
            forbidden(client.get(path));
        }
        for path in ["/v1/key/list", "/v1/key/list/", "/v1/key/list/%2A"] {
            forbidden(client.get(path));
        }
        if generation == NEWEST {
            // As a client goes on with a list.
            forbidden(client.get("/v1/key/list/**-"));
            forbidden(client.get("/v1/key/list/%2A%2Aapp"));
        }
        forbidden(client.post("/v1/key/decrypt/app", "{}"));
        forbidden(client.post("/v1/key/bulk/decrypt/app", "[]"));
        assert_eq!(404, client.post("/v1/key/bulk/decrypt/b", "[]").status);
        let _ = Follower::start(&client, "/v1/log/error/trace");

        let client = server.client(Some(&other));
        for path in ["/v1/key/list", "/v1/log/error", "/v1/log/log/error/trace"] {
            forbidden(client.get(path));
        }
        if generation == OLD {
            let body = json!({"identity": "somebody"}).to_string();
            forbidden(client.delete("/v1/identity/delete/somebody"));
            forbidden(client.post("/v1/policy/assign/new", &body));
            client.post("/v1/policy/assign/old", &body).is_empty_success();
        }
        // What the administrator may is denied by nothing.
        assert_eq!(200, server.root().post("/v1/key/bulk/decrypt/app", "[]").status);
    }
}

#[test]
fn an_api_without_authentication_takes_clients_without_a_certificate() {
    let skip = ApiOptions { skip_auth: true, ..ApiOptions::default() };
    let apis = [("/v1/ready", skip), ("/v1/key/create/", skip), ("/v1/log/audit", skip)];
    let scene = Scene::with(NEWEST, &apis);
    let nobody = scene.server.client(None);
    succeeds(&nobody.get("/v1/ready"));
    assert_eq!(200, nobody.get("/version").status);
    succeeds(&nobody.post("/v1/key/create/app-1", ""));
    let described = gives(&scene.root.get("/v1/key/describe/app-1"));
    assert_eq!(None, described.get("created_by"), "{described}");
    let required = "tls: client certificate is required";
    fails(&nobody.get("/v1/status"), 400, required);
    fails(&nobody.post("/v1/key/generate/app-1", "{}"), 400, required);
    fails(&nobody.get("/v1/identity/self/describe"), 400, required);
    let mut log = Follower::start(&nobody, "/v1/log/audit");
    assert_eq!("", log.event()["request"]["identity"]);

    // Without such an API there is no connection.
    let scene = Scene::new(NEWEST);
    assert!(scene.server.client(None).try_request("GET", "/version", b"").is_err());
}

#[test]
fn a_path_has_the_timeout_of_its_settings() {
    let timeout = Some(Duration::from_secs(3));
    let apis = [("/v1/key/list/", ApiOptions { timeout, ..ApiOptions::default() })];
    let api = gives(&Scene::with(NEWEST, &apis).root.get("/v1/api"));
    let find = |path: &str| api.as_array().unwrap().iter().find(|row| row["path"] == path).cloned();
    let row = |method: &str, path: &str, max_body: u32, timeout: u32| {
        Some(json!({"method": method, "path": path, "max_body": max_body, "timeout": timeout}))
    };
    assert_eq!(row("GET", "/v1/key/list/", 0, 3), find("/v1/key/list/"));
    assert_eq!(row("PUT", "/v1/key/import/", 1_000_000, 15), find("/v1/key/import/"));
    assert_eq!(row("PUT", "/v1/key/encrypt/", 1_000_000, 15), find("/v1/key/encrypt/"));
    assert_eq!(row("GET", "/v1/log/error", 0, 0), find("/v1/log/error"));
    assert_eq!(row("GET", "/version", 0, 10), find("/version"));
    assert_eq!(row("GET", "/v1/policy/list/", 0, 15), find("/v1/policy/list/"));
    assert_eq!(None, find("/v1/policy/write/"));
    let old = gives(&Scene::new(OLD).root.get("/v1/api"));
    assert!(old.to_string().contains("/v1/policy/write/"), "{old}");
}

#[test]
fn the_status_tells_how_the_key_store_is() {
    for generation in [OLD, NEWEST] {
        let Scene { root, store, .. } = &Scene::new(generation);
        let status = gives(&root.get("/v1/status"));
        for number in ["uptime", "num_cpu", "num_cpu_used", "mem_heap_used", "mem_stack_used"] {
            assert!(status[number].is_u64(), "{number}: {status}");
        }
        assert_eq!("linux", status["os"]);
        assert!(["amd64", "arm64"].contains(&status["arch"].as_str().unwrap()), "{status}");
        assert!(status["keystore_latency"].as_u64().unwrap() > 0, "{status}");
        assert_eq!(None, status.get("keystore_unreachable"));
        assert_eq!(200, root.get("/v1/ready").status);

        let message = || {
            let answer = root.get("/v1/ready");
            (answer.status, answer.json()["message"].as_str().unwrap().to_owned())
        };
        store.is_sealed.store(true, Ordering::SeqCst);
        assert_eq!((502, "key store is unavailable".to_owned()), message());
        store.is_sealed.store(false, Ordering::SeqCst);
        store.is_gone.store(true, Ordering::SeqCst);
        assert_eq!((504, "key store is not reachable".to_owned()), message());
        let status = gives(&root.get("/v1/status"));
        for member in ["keystore_unreachable", "keystore_unavailable"] {
            assert_eq!(json!(true), status[member], "{status}");
        }
        assert_eq!(None, status.get("keystore_latency"));
    }
    let Scene { root, store, .. } = &Scene::new(NEWEST);
    store.is_gone.store(true, Ordering::SeqCst);
    for (method, path, text) in [
        ("PUT", "/v1/key/create/a", "failed to create key"),
        ("PUT", "/v1/key/generate/a", "failed to read key"),
        ("DELETE", "/v1/key/delete/a", "failed to delete key"),
        ("GET", "/v1/key/list/*", "failed to list keys"),
    ] {
        fails(&root.request(method, path, ""), 502, text);
    }
    store.is_gone.store(false, Ordering::SeqCst);
    store.is_sealed.store(true, Ordering::SeqCst);
    fails(&root.post("/v1/key/generate/a", "{}"), 502, "key store is sealed");
}

#[test]
fn a_directory_of_keys_that_is_gone_is_not_reachable() {
    let server = Server::start(|_| {});
    let (root, away) = (server.root(), server.file("away"));
    assert_eq!(200, root.get("/v1/ready").status);
    std::fs::rename(server.keys(), &away).unwrap();
    let answer = root.get("/v1/ready");
    assert_eq!(504, answer.status, "{}", answer.text());
    std::fs::rename(&away, server.keys()).unwrap();
    assert_eq!(200, root.get("/v1/ready").status);
}

#[test]
fn the_version_has_a_commit_in_the_newest_generation() {
    let version = gives(&Scene::new(NEWEST).root.get("/version"));
    assert!(version["commit"].is_string() && version["version"].is_string(), "{version}");
    let version = Scene::new(OLD).root.get("/version");
    assert_eq!(None, version.json().get("commit"));
}

#[test]
fn log_streams_deliver_at_once_with_the_address_of_the_client() {
    for path in ["/v1/log/audit", "/v1/log/audit/trace"] {
        let Scene { root, .. } = &Scene::new(NEWEST);
        let mut log = Follower::start(root, path);
        let event = log.event();
        assert_eq!("127.0.0.1", event["request"]["ip"]);
        assert_eq!(path, event["request"]["path"]);
        fails(&root.post("/v1/key/generate/none", "{}"), 404, "key does not exist");
        let event = log.event();
        assert_eq!(json!(404), event["response"]["code"], "every request has its line");
        assert!(event["response"]["time"].as_u64().unwrap() > 1000, "nanoseconds: {event}");
    }
    let Scene { root, .. } = &Scene::new(OLD);
    let mut log = Follower::start(root, "/v1/log/audit");
    let event = log.event();
    assert_eq!(None, event["request"].get("ip"), "{event}");
    let _ = Follower::start(root, "/v1/log/error");
}

#[test]
fn requests_are_counted_by_status_once_they_are_admitted() {
    let scene = Scene::new(NEWEST);
    let root = &scene.root;
    let page = root.get("/v1/metrics");
    assert!(!page.text().contains("kes_http_request_success"), "{}", page.text());
    succeeds(&root.post("/v1/key/create/app-1", ""));
    fails(&root.post("/v1/key/create/app-1", ""), 400, "key already exists");
    for name in ["a", "b"] {
        assert_eq!(404, root.post(&format!("/v1/key/generate/{name}"), "{}").status);
    }
    // None of these is counted.
    fails(&scene.app().delete("/v1/key/delete/app-0"), 403, FORBIDDEN);
    assert_eq!(405, root.get("/v1/key/create/app-1").status);
    assert_eq!(200, root.get("/version").status);
    let page = root.get("/v1/metrics");
    assert_eq!(1, page.sample("kes_http_request_success{code=\"200\"}"));
    assert_eq!(1, page.sample("kes_http_request_error{code=\"400\"}"));
    assert_eq!(2, page.sample("kes_http_request_error{code=\"404\"}"));
    assert_eq!(0, page.sample("kes_http_request_active"));
    assert_eq!(4, page.sample("kes_http_response_time_count"));
    for absent in ["code=\"403\"", "code=\"405\"", "kes_http_request_failure"] {
        assert!(!page.text().contains(absent), "{absent}: {}", page.text());
    }
}

#[test]
fn a_server_of_0_14_takes_the_calls_between_the_generations() {
    let Scene { root, app, .. } = &Scene::new(OLD);
    root.post("/v1/policy/write/more", r#"{"allow":["/v1/key/*/b*"],"deny":["/v1/key/delete/*"]}"#)
        .is_empty_success();
    let body = json!({"identity": "somebody"}).to_string();
    root.post("/v1/policy/assign/more", &body).is_empty_success();
    let listed = root.get("/v1/identity/list/*").json();
    assert_eq!(json!({"somebody": "more", app.id.as_str(): "apps"}), listed);
    assert_eq!("more", root.get("/v1/identity/describe/somebody").json()["policy"]);
    assert_eq!("more", root.get("/v1/policy/describe/more").json()["name"]);
    root.delete("/v1/identity/delete/somebody").is_empty_success();
    root.get("/v1/identity/describe/somebody").is_failure(404, "identity does not exist");
    root.post("/v1/policy/assign/more", "{").is_failure(400, "invalid json");
    root.post("/v1/policy/assign/none", &body).is_failure(404, "policy does not exist");
    let described = root.get("/v1/key/describe/none");
    described.is_failure(404, "key does not exist");
    root.delete("/v1/key/delete/none").is_empty_success();
}

#[test]
fn an_api_may_have_less_time_than_the_key_store_gets_by_default() {
    let server = Server::start(|config| {
        config.is_newest = true;
        let timeout = "{timeout: 450ms}";
        config.more = format!("api:\n  /v1/key/create: {timeout}\n  /v1/key/generate: {timeout}\n");
    });
    let root = server.root();
    // Some may be too late where the machine is busy.
    let in_time = |path: &str| {
        wait_until(path, || root.post(path, "{}").status != 503);
    };
    in_time("/v1/key/create/short");
    in_time("/v1/key/generate/short");
}

#[test]
fn a_file_may_let_clients_without_a_certificate_in() {
    let server = Server::start(|config| {
        config.is_newest = true;
        config.more =
            "api:\n  /v1/ready: {skip_auth: true}\n  /v1/status: {timeout: 7s}\n".to_owned();
    });
    succeeds(&server.anonymous().get("/v1/ready"));
    let required = "tls: client certificate is required";
    fails(&server.anonymous().get("/v1/status"), 400, required);
    let api = gives(&server.root().get("/v1/api"));
    let status = json!({"method": "GET", "path": "/v1/status", "max_body": 0, "timeout": 7});
    assert!(api.as_array().unwrap().contains(&status), "{api}");
}
