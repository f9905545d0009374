//! Keys in KeySecure: the real server with an appliance that
//! `common/keysecure.rs` simulates, over TLS.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::DirBuilderExt as _,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use crate::common::{
    Appliance, Authority, Identity, OpenSsl, PATIENCE, Profile, Server, appliance::TOKEN, base64,
    server::Refusal, stored_key, wait_for, wait_until,
};
use rustix::process::Signal;
use serde_json::{Value, json};

const SECRETS: &str = "/api/v1/vault/secrets";
fn create(server: &Server, name: &str) -> (u16, String) {
    let answer = server.root().post(&format!("/v1/key/create/{name}"), "");
    (answer.status, answer.text().to_owned())
}

fn generate(server: &Server, name: &str) -> (u16, String) {
    let answer = server.root().post(&format!("/v1/key/generate/{name}"), "{}");
    (answer.status, answer.text().to_owned())
}

#[track_caller]
fn is(status: u16, answer: (u16, String)) {
    assert_eq!(status, answer.0, "{}", answer.1);
}

fn list(server: &Server) -> Vec<String> {
    let answer = server.root().get("/v1/key/list/*");
    assert_eq!(200, answer.status, "{}", answer.text());
    let lines = answer.text().lines();
    lines
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["Name"].as_str().unwrap().into())
        .collect()
}

#[test]
fn keys_live_on_the_appliance() {
    let appliance = Appliance::start();
    let server = Server::start(|config| {
        config.key_store = appliance.settings_with("tenant", TOKEN, "ca.crt");
    });
    let root = server.root();
    is(404, generate(&server, "a"));
    root.post("/v1/key/create/a", "").is_empty_success();
    root.post("/v1/key/create/a", "").is_failure(400, "key does already exist");
    let odd = "b%20%C3%A9%20%252F";
    is(200, create(&server, odd));
    let import = json!({ "bytes": base64([7; 32]) }).to_string();
    root.post("/v1/key/import/c", &import).is_empty_success();
    let data_key = root.post("/v1/key/generate/a", "{}");
    let sealed = json!({ "ciphertext": base64(data_key.bytes("ciphertext")) }).to_string();
    assert_eq!(vec!["a", "b \u{e9} %2F", "c"], list(&server));
    assert_eq!(3, appliance.simulator.secrets("tenant"));
    assert_eq!(0, appliance.count("not_json_type"));
    assert_eq!(1, appliance.count("calls/token"));
    drop(server);

    let server = Server::start(|config| {
        config.key_store = appliance.settings_with("tenant", TOKEN, "ca.crt");
    });
    let root = server.root();
    let opened = root.post("/v1/key/decrypt/a", &sealed);
    assert_eq!(data_key.bytes("plaintext"), opened.bytes("plaintext"));
    is(200, generate(&server, odd));
    for _ in 0..2 {
        root.delete("/v1/key/delete/a").is_empty_success();
    }
    root.post("/v1/key/decrypt/a", &sealed).is_failure(404, "key does not exist");
    assert_eq!(vec!["b \u{e9} %2F", "c"], list(&server));
    let statuses = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8).map(|_| scope.spawn(|| create(&server, "raced").0)).collect();
        let mut statuses: Vec<_> = racers.into_iter().map(|r| r.join().unwrap()).collect();
        statuses.sort_unstable();
        statuses
    });
    assert_eq!([200, 400, 400, 400, 400, 400, 400, 400], *statuses);
    assert!(!server.stderr().contains("panic"), "{}", server.stderr());
}

#[test]
fn a_key_lives_and_moves_by_the_commands() {
    let appliance = Appliance::start();
    let server = Server::start(|config| {
        config.key_store = appliance.settings_with("tenant", "\"${REFRESH_TOKEN}\"", "ca.crt");
        config.environment.push(("REFRESH_TOKEN".to_owned(), TOKEN.to_owned()));
        config.is_quiet = false;
    });
    let endpoint = format!("https://127.0.0.1:{}", appliance.port);
    for text in [
        format!("Authenticating to Gemalto KeySecure '{endpoint}'"),
        format!("Gemalto KeySecure: {endpoint}"),
    ] {
        assert!(server.stderr().contains(&text), "not {text:?}: {}", server.stderr());
    }
    let run = |arguments: &[&str]| {
        let output = server.kes(arguments);
        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert_eq!(Some(0), output.status.code(), "{arguments:?}: {err}");
        out
    };
    run(&["key", "create", "-k", "my-key"]);
    let again = server.kes(&["key", "create", "-k", "my-key"]);
    assert_eq!(Some(1), again.status.code());
    assert!(String::from_utf8_lossy(&again.stderr).contains("key does already exist"));
    let sealed: Value = serde_json::from_str(&run(&["key", "derive", "-k", "my-key"])).unwrap();
    let sealed = sealed["ciphertext"].as_str().unwrap();
    assert!(run(&["key", "decrypt", "-k", "my-key", sealed]).contains("plaintext"));
    is(200, create(&server, "other"));
    assert!(run(&["key", "list", "-k"]).contains("my-key"));
    assert_eq!(2, appliance.simulator.secrets("tenant"));
    for _ in 0..2 {
        run(&["key", "delete", "-k", "other"]);
    }

    // Keys of a directory move to the appliance, and back.
    let old = server.file("old");
    fs::DirBuilder::new().mode(0o700).create(&old).unwrap();
    for (name, byte) in [("old-1", 1), ("old-2", 2)] {
        fs::write(old.join(name), stored_key(&[byte; 32])).unwrap();
    }
    let [fs_yml, config_yml] = ["fs.yml", "config.yml"].map(|name| server.file(name));
    fs::write(&fs_yml, format!("keystore: {{fs: {{path: {old:?}}}}}")).unwrap();
    let [fs_yml, config_yml] = [&fs_yml, &config_yml].map(|path| path.to_str().unwrap());
    let told = run(&["tool", "migrate", "--from", fs_yml, "--to", config_yml]);
    assert!(told.contains("Migrated keys: 2"), "{told}");
    assert_eq!(stored_key(&[1; 32]), appliance.simulator.material("tenant", "old-1"));
    run(&["key", "derive", "-k", "old-2"]);
    let told = run(&["tool", "migrate", "--from", config_yml, "--to", fs_yml]);
    assert!(told.contains("2 there already"), "{told}");
    let mut names: Vec<_> =
        fs::read_dir(&old).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(["my-key", "old-1", "old-2"], *names);

    let logs = server.stdout() + &server.stderr();
    assert!(!logs.contains(TOKEN) && !logs.contains("panic"), "{logs}");
    for jwt in appliance.simulator.jwts() {
        assert!(!logs.contains(jwt.rsplit('.').next().unwrap()), "{logs}");
    }
}

#[test]
fn lists_of_any_length_are_complete() {
    let mut appliance = Appliance::start();
    let mut expected = Vec::new();
    let server = appliance.server();
    for (count, pages) in [(0, 1), (1, 1), (200, 1), (201, 2), (450, 3)] {
        appliance.kill();
        for number in expected.len()..count {
            expected.push(format!("key-{number}"));
            appliance.simulator.add(&format!("key-{number}"));
        }
        appliance.spawn();
        assert_eq!(expected, list(&server));
        assert_eq!(pages, appliance.count("calls/list"), "{count}");
    }
    // Names that no key has are those of others.
    for name in ["../etc", "a\nb", ".."] {
        appliance.simulator.add(name);
    }
    assert_eq!(expected, list(&server));

    appliance.turn(json!({ "wrong_skip": 1 }));
    let failed = "bad gateway: failed to list keys";
    server.root().get("/v1/key/list/*").is_failure(502, failed);
    server.logs_error("pagination is out-of-sync");
    appliance.turn(json!({ "wrong_skip": 0 }));
    let empty = r#"{"skip":200,"total":450,"resources":null}"#;
    for (fault, why) in [
        (
            json!({ "path": format!("{SECRETS}?limit=200&skip=200"), "status": 200, "body": empty }),
            "the page is empty, but there are 450 secrets",
        ),
        (
            json!({ "path": SECRETS, "status": 403 }),
            "status 403: NCERRForbidden: simulated failure (5): may the user of the refresh token list \
             secrets in the root domain?",
        ),
        (
            json!({ "path": SECRETS, "status": 200, "body": "<html>secret</html>" }),
            "the answer is a web page, and not JSON: check the endpoint",
        ),
    ] {
        appliance.fault(fault);
        server.root().get("/v1/key/list/*").is_failure(502, failed);
        server.logs_error(why);
    }
    assert!(!server.stderr().contains("<html>"));
}

#[test]
fn reads_are_repeated_and_changes_are_not() {
    let appliance = Appliance::start();
    let server = appliance.server();
    let mut number = 0;
    let mut fresh = || {
        number += 1;
        format!("k{number}")
    };
    is(200, create(&server, "there"));
    // A create that comes late would bring back a key that others have deleted meanwhile.
    for status in [500, 501, 503] {
        let name = fresh();
        appliance.fault(json!({ "method": "POST", "path": SECRETS, "status": status }));
        server
            .root()
            .post(&format!("/v1/key/create/{name}"), "")
            .is_failure(502, "bad gateway: failed to create key");
        server.logs_error(&format!("status {status}: "));
        is(404, generate(&server, &name));
        is(200, create(&server, &name));
    }
    server.logs_error("simulated failure (2): look at the state and the logs of the appliance");
    appliance.fault(json!({ "path": SECRETS, "status": 500 }));
    is(502, create(&server, "there"));
    is(400, create(&server, "there"));
    // If it took effect, and the answer was lost, our value is there.
    for (fault, status) in [
        (json!({ "path": SECRETS, "drop": true, "when": "before" }), 502),
        (json!({ "path": SECRETS, "drop": true, "when": "after" }), 200),
        (json!({ "path": SECRETS, "drop": true, "when": "within" }), 200),
        (json!({ "path": SECRETS, "method": "POST", "status": 500, "when": "after" }), 200),
    ] {
        let name = fresh();
        appliance.fault(fault.clone());
        is(status, create(&server, &name));
        is(if status == 200 { 400 } else { 200 }, create(&server, &name));
        is(200, generate(&server, &name));
    }
    // A delete that comes late would delete a key that others have created meanwhile.
    for when in ["before", "after", "within"] {
        let name = fresh();
        is(200, create(&server, &name));
        appliance.fault(json!({ "count": 2, "drop": true, "when": when }));
        is(200, generate(&server, &name));
        appliance.fault(json!({ "method": "DELETE", "drop": true, "when": when }));
        let delete = || server.root().delete(&format!("/v1/key/delete/{name}"));
        delete().is_failure(502, "bad gateway: failed to delete key");
        is(if when == "before" { 200 } else { 404 }, generate(&server, &name));
        assert_eq!(200, delete().status, "{when}");
        is(404, generate(&server, &name));
    }
    appliance.turn(json!({ "ignore_writes": true }));
    is(502, create(&server, "lost"));
    server.logs_error("KeySecure has accepted the key but does not have it");
    appliance.turn(json!({ "ignore_writes": false }));

    // An answer that repeats what it was asked to store is not quoted.
    is(200, create(&server, "quoted"));
    appliance.fault(json!({ "path": SECRETS, "status": 400, "body": "bad \u{7}\nrequest\r\n" }));
    is(502, create(&server, "refused"));
    server.logs_error("status 400: bad request: is it a KeySecure or CipherTrust appliance?");
    let secret = base64([9; 32]);
    let body = format!("can't store {secret}");
    appliance.fault(json!({ "path": SECRETS, "status": 422, "body": body }));
    let import = json!({ "bytes": secret }).to_string();
    let answer = server.root().post("/v1/key/import/repeated", &import);
    assert_eq!(502, answer.status);
    server.logs_error("status 422: a text that repeats what is secret");
    // Its own words are no secret, though what it was sent has them as well.
    appliance.fault(
        json!({ "path": SECRETS, "status": 422, "body": "material of my-other-key is too long" }),
    );
    is(502, create(&server, "my-other-key"));
    server.logs_error("status 422: material of my-other-key is too long: does the appliance limit");
    assert!(!server.stderr().contains(&secret[..8]));
    assert!(!server.stderr().contains(TOKEN));
    // An answer with a key that is no JSON is not quoted either.
    let body = "{\"material\":\"not-to-be-seen\"";
    appliance.fault(json!({ "path": SECRETS, "status": 200, "body": body }));
    is(502, generate(&server, "quoted"));
    server.logs_error("the answer is not the JSON that is expected");
    assert!(!server.stderr().contains("not-to-be-seen"));
}

#[test]
fn only_the_appliance_itself_says_that_a_key_is_not_there_or_is_there_already() {
    let appliance = Appliance::start();
    let server = appliance.server();
    let restart = || Server::start(|config| appliance.configure(config));
    is(200, create(&server, "kept"));
    for body in ["<html>404 Not Found</html>", "", "{}", r#"{"code":404,"message":"no route"}"#] {
        let fault = |method: &str, path: String, status: u16| {
            appliance
                .fault(json!({ "method": method, "path": path, "status": status, "body": body }));
        };
        fault("DELETE", format!("{SECRETS}/kept"), 404);
        let deleted = server.root().delete("/v1/key/delete/kept");
        deleted.is_failure(502, "bad gateway: failed to delete key");
        // A server that has nothing cached.
        let other = restart();
        fault("POST", format!("{SECRETS}/kept/export"), 404);
        let failed = other.root().post("/v1/key/generate/kept", "{}");
        failed.is_failure(502, "bad gateway: failed to access key");
        other.logs_error("the API is not there: check gemalto.keysecure.endpoint");
        is(200, generate(&other, "kept"));
        fault("POST", SECRETS.to_owned(), 409);
        let failed = other.root().post("/v1/key/create/new", "");
        failed.is_failure(502, "bad gateway: failed to create key");
        other.logs_error("this is no answer of an appliance: check gemalto.keysecure.endpoint");
        is(404, generate(&other, "new"));
        fault("GET", SECRETS.to_owned(), 404);
        let failed = other.root().get("/v1/key/list/*");
        failed.is_failure(502, "bad gateway: failed to list keys");
    }
    // Neither is it said by one that was asked to look at what a create has left behind.
    appliance.turn(json!({ "faults": [
        { "path": SECRETS, "drop": true, "when": "after" },
        { "path": format!("{SECRETS}/new/export"), "status": 404, "body": "404 page not found" },
    ] }));
    is(502, create(&server, "new"));
    is(400, create(&server, "new"));
    is(200, generate(&server, "new"));
    server.root().delete("/v1/key/delete/kept").is_empty_success();
    is(404, generate(&server, "kept"));
}

#[test]
fn no_redirect_of_the_appliance_is_followed() {
    let appliance = Appliance::start();
    let server = appliance.server();
    is(200, create(&server, "a"));
    let server = Server::start(|config| appliance.configure(config));
    let there = format!("https://localhost:{}", appliance.port);
    let calls =
        || ["create", "export", "other"].map(|kind| appliance.count(&format!("calls/{kind}")));
    let login = || json!({ "Location": format!("{there}/login?next={SECRETS}") });
    for status in [301, 302, 307, 308] {
        let [creates, exports, others] = calls();
        appliance.fault(json!({ "path": SECRETS, "status": status, "headers": login() }));
        is(502, create(&server, "b"));
        let location = json!({ "Location": format!("{there}{SECRETS}/a/export?type=name") });
        appliance.fault(json!({ "path": SECRETS, "status": status, "headers": location }));
        is(502, generate(&server, "a"));
        assert_eq!([creates + 1, exports + 1, others], calls(), "{status}");
    }
    server.logs_error(
        "/login\\\", which is not followed: the key store itself does not redirect; check",
    );
    assert!(!server.stderr().contains("?next="), "{}", server.stderr());
    is(200, generate(&server, "a"));
    appliance.fault(json!({ "path": "/api/v1/auth/tokens", "status": 307, "headers": login() }));
    let refusal = appliance.refusal();
    assert!(refusal.stderr.contains("which is not followed"), "{refusal:?}");
}

#[test]
fn a_server_that_can_not_log_in_does_not_start() {
    let appliance = Appliance::start();
    let begin = "Error: failed to connect to Gemalto KeySecure: ";
    let says = |refusal: Refusal, text: &str| {
        assert_eq!(Some(1), refusal.code, "{refusal:?}");
        let is_said = refusal.stderr.contains(begin) && refusal.stderr.contains(text);
        assert!(is_said, "not {text:?}: {refusal:?}");
        assert!(!refusal.stderr.contains(TOKEN), "{refusal:?}");
    };
    let credentials = "check gemalto.keysecure.credentials.token and \
                       gemalto.keysecure.credentials.domain";
    for (knobs, text) in [
        (json!({ "refuse_token": true }), credentials),
        (
            json!({ "refuse_token": true }),
            "/api/v1/auth/tokens: status 401: NCERRAuthFailure: invalid refresh token (1): check",
        ),
        (json!({ "token_type": "MAC" }), "unexpected auth token type 'MAC'"),
        (json!({ "duration": 0 }), "invalid auth token expiry '0'"),
        (json!({ "duration": -1 }), "invalid auth token expiry '-1'"),
        (json!({ "jwt": "" }), "server response does not contain an auth token"),
        (
            json!({ "faults": [{ "status": 200, "body": "<html>" }] }),
            "the answer is a web page, and not JSON: check the endpoint",
        ),
        (
            json!({ "faults": [{ "status": 400, "body": "invalid refresh_token" }] }),
            "status 400: invalid refresh_token: check gemalto.keysecure.credentials.token",
        ),
        (
            json!({ "faults": [{ "status": 404, "body": "404 page not found" }] }),
            "status 404: 404 page not found: the API is not there: check gemalto.keysecure.endpoint",
        ),
        (
            json!({ "faults": [{ "status": 400, "body": format!("unknown: {TOKEN}") }] }),
            "status 400: a text that repeats what is secret",
        ),
        (
            json!({ "faults": [{ "status": 500, "count": 3 }] }),
            "status 500: NCERRInternalServerError",
        ),
        (
            json!({ "faults": [{ "drop": true, "count": 3 }] }),
            "the connection was closed without an answer",
        ),
    ] {
        appliance.turn(json!({ "reset": true }));
        appliance.turn(knobs);
        says(appliance.refusal(), text);
    }
    appliance.turn(json!({ "reset": true, "faults": [{ "status": 500, "count": 2 }] }));
    drop(appliance.server());

    let start = |settings: String| {
        let started = Server::try_start(|config| config.key_store = settings);
        started.err().expect("the server starts")
    };
    let unknown_domain = appliance.settings_with("nowhere", TOKEN, "ca.crt");
    says(start(unknown_domain), credentials);
    let other = Authority::new("other").identity.certificate_pem();
    fs::write(appliance.file("other.crt"), other).unwrap();
    says(
        start(appliance.settings_with("", TOKEN, "other.crt")),
        "its certificate is not trusted: set gemalto.keysecure.tls.ca to its authority",
    );
    says(
        start(appliance.settings_with("", TOKEN, "server.key")),
        "no PEM block of type CERTIFICATE",
    );
}

#[test]
fn an_appliance_whose_certificate_is_itself_trusted_is_used() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let mut appliance = Appliance::start();
    const SUBJECT: &str = "-subj /CN=appliance -addext subjectAltName=IP:127.0.0.1";
    let mut show = |own: &Identity, trusted: &Identity| {
        appliance.kill();
        fs::write(appliance.file("server.crt"), own.certificate_pem()).unwrap();
        fs::write(appliance.file("server.key"), own.key_pem()).unwrap();
        fs::write(appliance.file("ca.crt"), trusted.certificate_pem()).unwrap();
        appliance.spawn();
        Server::try_start(|config| appliance.configure(config))
    };
    let own = openssl.self_signed("own", SUBJECT);
    let server = show(&own, &own).expect("it starts");
    is(200, create(&server, "a"));
    drop(server);

    let mut refuses = |own: &Identity, trusted: &Identity, why: &str| {
        let refusal = show(own, trusted).err().expect("it does not start");
        assert!(refusal.stderr.contains(why), "{}", refusal.stderr);
        refusal.stderr
    };
    let is_authority = "its certificate is not trusted: it is one of a certificate authority \
                        (CA:TRUE, as openssl req -x509 makes it) that is not itself in \
                        gemalto.keysecure.tls.ca";
    let double = openssl.self_signed("double", SUBJECT);
    let text = refuses(&own, &double, is_authority);
    refuses(&own, &Authority::new("other").identity, is_authority);
    let elsewhere = "-subj /CN=127.0.0.1 -addext subjectAltName=DNS:appliance.example.com";
    let elsewhere = openssl.self_signed("elsewhere", elsewhere);
    refuses(
        &elsewhere,
        &elsewhere,
        "it is for appliance.example.com, not for 127.0.0.1: check the endpoint",
    );
    let nowhere = openssl.self_signed("nowhere", "-subj /CN=127.0.0.1");
    refuses(&nowhere, &nowhere, "names no host: make one with subjectAltName=IP:127.0.0.1");
    for (profile, why) in [
        (Profile::server().valid_for(-60), "its certificate has expired"),
        (Profile::client(), "its certificate is not for servers"),
    ] {
        let profile = Profile { is_ca: true, ..profile };
        let own = Identity::self_signed("appliance", &profile);
        refuses(&own, &own, why);
    }
    // What the message advises.
    openssl.run(&OpenSsl::command_in(&text, "openssl req -x509 -newkey"));
    let made = openssl.identity("server");
    assert!(show(&made, &made).is_ok());
}

#[test]
fn a_server_may_start_before_the_appliance_does() {
    let mut appliance = Appliance::start();
    appliance.kill();
    let server = Server::start(|config| {
        config.key_store = format!("required: off, {}", appliance.settings());
    });
    is(502, create(&server, "a"));
    server.logs_error("gemalto: started without the key store, which is used as soon as it can be");
    server.logs_error("failed to get an auth token: failed to renew auth token: POST https://");
    appliance.spawn();
    let created = wait_for(PATIENCE, || (create(&server, "a").0 == 200).then_some(()));
    assert!(created.is_some(), "{}", server.stderr());
    server.logs_error("gemalto: logged in to the key store again");
}

#[test]
fn a_key_that_can_not_be_created_yet_is_told_of_once_and_holds_up_no_look_at_the_appliance() {
    let appliance = Appliance::start();
    let fault = |mut what: Value| {
        what["count"] = Value::Null;
        what["method"] = json!("POST");
        what["path"] = json!(SECRETS);
        appliance.fault(what);
    };
    fault(json!({ "status": 403 }));
    let server = Server::start(|config| {
        config.key_store = format!("required: off, {}", appliance.settings());
        config.wanted_key = "wanted";
        config.probe();
    });
    let creates = || appliance.count("calls/create");
    let refused = "failed to create key \"wanted\": failed to create key \"wanted\" in KeySecure";
    let refused = refused.replace('"', "\\\"");
    server.logs_error(&refused);
    // Each try is another call.
    let before = creates();
    wait_until("two more tries", || creates() >= before + 2);
    assert_eq!(1, server.stderr().matches(&refused).count());
    fault(json!({ "status": 422 }));
    server.logs_error("does the appliance limit the size or the names of secrets?");
    // A create that hangs.
    let before = creates();
    fault(json!({ "delay": 30 }));
    let mut hanging = before;
    let mut first_look = 0;
    wait_until("four looks while a create hangs", || {
        let looks = appliance.count("calls/look");
        if creates() > hanging {
            (hanging, first_look) = (creates(), looks);
        }
        hanging > before && looks >= first_look + 4
    });
    appliance.turn(json!({ "faults": [] }));
    server.logs_error("key \\\"wanted\\\", which was missing, is there now");
    is(200, generate(&server, "wanted"));
}

/// What clients do while something happens.
struct Load {
    is_over: AtomicBool,
    requests: AtomicUsize,
}

impl Load {
    /// 8 clients create, use, list and delete keys while `happen` runs; none may fail.
    fn run(server: &Server, happen: impl FnOnce()) -> usize {
        let load = Self { is_over: AtomicBool::new(false), requests: AtomicUsize::new(0) };
        std::thread::scope(|scope| {
            for client in 0..8 {
                let load = &load;
                scope.spawn(move || load.client(server, client));
            }
            happen();
            load.is_over.store(true, Ordering::Relaxed);
        });
        load.requests.into_inner()
    }

    fn client(&self, server: &Server, client: usize) {
        let mut connection = server.root().connect();
        let mut round = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            round += 1;
            for (method, path, body) in [
                ("POST", "create", ""),
                ("POST", "generate", "{}"),
                ("GET", "list", ""),
                ("DELETE", "delete", ""),
            ] {
                let path = format!("/v1/key/{path}/c{client}-{round}");
                let answer = connection.request(method, &path, body);
                if answer.status != 200 {
                    self.is_over.store(true, Ordering::Relaxed);
                    panic!("{path}: {} {}", answer.text(), server.stderr());
                }
                self.requests.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[test]
fn tokens_are_renewed_before_they_expire() {
    let appliance = Appliance::start();
    // A token of a busy machine may be on its way for a while.
    appliance.turn(json!({ "duration": 2, "lifetime": 5 }));
    let server = appliance.server();
    let began = Instant::now();
    let logins = || appliance.count("calls/token");
    let requests = Load::run(&server, || {
        std::thread::sleep(Duration::from_secs(8));
        wait_until("renewals", || logins() >= 6);
    });
    let seconds = began.elapsed().as_secs();
    assert!(requests > 50, "{requests}");
    assert_eq!(0, appliance.count("expired_jwt"));
    assert!(logins() <= seconds + 4, "{} in {seconds} s", logins());

    // The old one is used as long as it can be.
    appliance.turn(json!({ "duration": 10, "lifetime": null }));
    let issued = appliance.count("tokens_issued");
    let is_issued = || (appliance.count("tokens_issued") > issued).then_some(());
    assert!(wait_for(PATIENCE, is_issued).is_some());
    appliance.turn(json!({ "refuse_token": true }));
    server.logs_error("gemalto: failed to renew auth token: POST https://");
    is(200, create(&server, "a"));
    let mut number = 0;
    let refused = wait_for(PATIENCE, || {
        number += 1;
        (create(&server, &format!("b{number}")).0 == 502).then_some(())
    });
    assert!(refused.is_some(), "an expired token is used");
    server.logs_error("failed to get an auth token: failed to renew auth token: ");
    // Each refusal doubles the pause.
    server.logs_error("gemalto.keysecure.credentials.domain; next attempt in 2 s");
    appliance.turn(json!({ "refuse_token": false }));
    server.logs_error("gemalto: logged in to the key store again");
    is(200, create(&server, "b"));
    assert!(!server.stderr().contains(TOKEN));
}

#[test]
fn a_reload_lets_a_login_that_was_refused_come_at_once() {
    let appliance = Appliance::start();
    let settings = appliance.settings().replace("retry: 1s", "retry: 2m");
    appliance.turn(json!({ "refuse_token": true }));
    let server = Server::start(|config| config.key_store = format!("required: off, {settings}"));
    server.logs_error("check gemalto.keysecure.credentials.token");
    is(502, create(&server, "a"));
    server.logs_error("failed to get an auth token: failed to renew auth token: ");
    server.logs_error("gemalto: the next login is tried in 2 min");
    server.signal(Signal::HUP);
    let refused = || (appliance.count("tokens_refused") == 2).then_some(());
    assert!(wait_for(PATIENCE, refused).is_some(), "{}", server.stderr());
    appliance.turn(json!({ "refuse_token": false }));
    is(502, create(&server, "a"));
    server.signal(Signal::HUP);
    server.logs_error("gemalto: logged in to the key store again");
    is(200, create(&server, "a"));
    assert_eq!(2, appliance.count("tokens_refused"));
}

#[test]
fn revoked_tokens_are_replaced_under_load() {
    let appliance = Appliance::start();
    let server = appliance.server();
    let requests = Load::run(&server, || {
        for round in 1..=3 {
            std::thread::sleep(Duration::from_millis(1500));
            appliance.turn(json!({ "revoke": true }));
            wait_until("a new token", || appliance.count("tokens_issued") > round);
        }
        std::thread::sleep(Duration::from_millis(1500));
    });
    assert!(requests > 50, "{requests}");
    assert_eq!(4, appliance.count("calls/token"));
    assert!(appliance.count("unknown_jwt") >= 3);
    // A refusal that stays is believed, without login after login.
    appliance.turn(json!({ "lifetime": 0, "revoke": true }));
    std::thread::sleep(Duration::from_millis(1100));
    is(502, create(&server, "a"));
    server.logs_error("status 401: NCERRAuthFailure: token is expired (1): is the user of");
    appliance.turn(json!({ "lifetime": null }));
    let created = wait_for(PATIENCE, || (create(&server, "a").0 == 200).then_some(()));
    assert!(created.is_some(), "{}", server.stderr());
}

#[test]
fn no_key_is_lost_when_both_sides_are_killed() {
    let mut appliance = Appliance::start();
    let mut acknowledged = Vec::new();
    let count = AtomicUsize::new(0);
    for round in 0..4 {
        let mut server = appliance.server();
        let created = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|client| {
                    let (root, count) = (server.root(), &count);
                    scope.spawn(move || {
                        let mut names = Vec::new();
                        for number in 0.. {
                            let name = format!("r{round}-c{client}-{number}");
                            let path = format!("/v1/key/create/{name}");
                            match root.try_request("POST", &path, b"") {
                                Ok(answer) if answer.status == 200 => {
                                    count.fetch_add(1, Ordering::Relaxed);
                                    names.push(name);
                                }
                                Ok(answer) => assert_eq!(502, answer.status, "{}", answer.text()),
                                Err(_) => break,
                            }
                        }
                        names
                    })
                })
                .collect();
            let pause = |millis| {
                let before = count.load(Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(millis));
                wait_until("keys are created", || count.load(Ordering::Relaxed) >= before + 3);
            };
            pause(600 + 97 * round);
            appliance.kill();
            appliance.spawn();
            pause(900);
            server.signal(Signal::KILL);
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
        });
        server.wait_for_exit();
        acknowledged.extend(created);
    }
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());
    appliance.kill();
    appliance.spawn();
    let server = appliance.server();
    let mut connection = server.root().connect();
    for name in &acknowledged {
        let answer = connection.request("POST", &format!("/v1/key/generate/{name}"), "{}");
        assert_eq!(200, answer.status, "{name}: {}", answer.text());
    }
}

#[test]
fn an_appliance_that_comes_back_is_used_again() {
    let mut appliance = Appliance::start();
    let mut probe = None;
    let server = Server::start(|config| {
        appliance.configure(config);
        probe = Some(config.probe());
    });
    let ready = || {
        let mut socket = TcpStream::connect(probe.unwrap()).unwrap();
        let mut text = String::new();
        write!(socket, "GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        socket.read_to_string(&mut text).unwrap();
        text.split(' ').nth(1).unwrap() == "200"
    };
    let becomes = |wanted: bool| {
        let found = wait_for(PATIENCE, || (ready() == wanted).then_some(()));
        assert!(found.is_some(), "not {wanted}: {}", server.stderr());
    };
    becomes(true);
    is(200, create(&server, "a"));
    appliance.kill();
    becomes(false);
    let began = Instant::now();
    is(502, create(&server, "b"));
    assert!(began.elapsed() < Duration::from_secs(12), "as if it were silent");
    server.logs_error("connection refused: is it running, and is the endpoint right?");
    let ready = server.root().get("/v1/ready");
    assert_eq!(504, ready.status, "{}", ready.text());
    appliance.tls = "1.2";
    appliance.spawn();
    becomes(true);
    is(200, create(&server, "b"));
    is(200, generate(&server, "a"));
}

#[test]
fn a_silent_appliance_holds_up_nothing_else() {
    let appliance = Appliance::start();
    let server = appliance.server();
    for name in ["cached", "slow", "other"] {
        is(200, create(&server, name));
    }
    is(200, generate(&server, "cached"));
    appliance.fault(json!({ "path": format!("{SECRETS}/slow/"), "count": null, "delay": 30 }));
    let began = Instant::now();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| generate(&server, "slow"));
        let mut served = 0;
        while !slow.is_finished() {
            let began = Instant::now();
            is(200, generate(&server, "cached"));
            assert!(began.elapsed() < Duration::from_secs(7), "it waits, too");
            served += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(served >= 5, "{served}");
        let (status, text) = slow.join().unwrap();
        assert!([502, 503].contains(&status), "{status} {text}");
    });
    // After 15 seconds, not 30.
    assert!((14..28).contains(&began.elapsed().as_secs()));
    appliance.turn(json!({ "faults": [] }));
    is(200, generate(&server, "slow"));
    is(200, generate(&server, "other"));
}
