//! What changes without a restart: SIGHUP and renewed certificate files, with requests running.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant, SystemTime},
};

use crate::common::{
    Authority, Client, Config, Connection, Identity, OpenSsl, PATIENCE, Profile, Server, quickly,
    stored_key, wait_for,
};
use rustix::process::Signal;
use rustls::HandshakeKind;
use serde_json::{Value, json};

const DONE: &str = "the configuration is reloaded";
const DISTRUSTED: &str = "client certificate has expired or is no longer trusted";
const FAILED: &str = "failed to reload the configuration, everything stays as it was: ";

/// A server with `my-key`, which `app` may use.
fn start(app: &Identity, change: impl FnOnce(&mut Config)) -> Server {
    Server::start(|config| {
        fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
        config.policy("apps", &["/v1/key/generate/*"], &[app]);
        change(config);
    })
}

/// Error events so far that contain `text`.
fn count(server: &Server, text: &str) -> usize {
    server.stderr().matches(text).count()
}

/// Asks for a reload and waits until it has `text` as its outcome.
#[track_caller]
fn reload(server: &Server, outcome: &str) {
    let before = count(server, outcome);
    server.signal(Signal::HUP);
    let done = wait_for(PATIENCE, || (count(server, outcome) > before).then_some(()));
    assert!(done.is_some(), "no {outcome:?}: {}", server.stderr());
}

/// Replaces a part of the configuration file.
#[track_caller]
fn edit(server: &Server, from: &str, to: &str) {
    let file = server.file("config.yml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{from:?} is not in {text}");
    fs::write(file, text.replace(from, to)).unwrap();
}

fn generate(connection: &mut Connection) -> u16 {
    connection.request("POST", "/v1/key/generate/my-key", "{}").status
}

fn assign(client: &Client, policy: &str, identity: &str) {
    client.post(&format!("/v1/identity/assign/{policy}/{identity}"), "").is_empty_success();
}

// what is taken up

#[test]
fn policies_and_identities_are_taken_up_by_open_connections() {
    let (app, other) = (Identity::new("app"), Identity::new("other"));
    let server = start(&app, |_| {});
    let mut connections = [&app, &other].map(|identity| server.client(identity).connect());
    assert_eq!([200, 403], connections.each_mut().map(generate));
    edit(&server, &app.id, &other.id);
    assert_eq!([200, 403], connections.each_mut().map(generate));
    reload(&server, DONE);
    assert_eq!([403, 200], connections.each_mut().map(generate));
    edit(&server, "/v1/key/generate/*", "/v1/key/encrypt/*");
    reload(&server, DONE);
    assert_eq!([403, 403], connections.each_mut().map(generate));
}

#[test]
fn root_changes_with_the_file_unless_a_flag_says_who_it_is() {
    let app = Identity::new("app");
    let new_root = Identity::new("new root");
    for is_flag in [false, true] {
        let server = start(&app, |config| {
            let root = config.root.clone();
            if is_flag {
                config.arguments = vec!["--root".to_owned(), root];
            }
        });
        let old_root = server.root_identity.id.clone();
        let mut connections = [server.root(), server.client(&new_root)].map(|c| c.connect());
        edit(&server, &old_root, &new_root.id);
        reload(&server, DONE);
        let status =
            connections.each_mut().map(|c| c.request("GET", "/v1/policy/list/*", "").status);
        let wanted = if is_flag { [200, 403] } else { [403, 200] };
        assert_eq!(wanted, status);
    }
}

#[test]
fn proxies_are_taken_up() {
    let app = Identity::new("app");
    let server = start(&app, |_| {});
    let proxy = Identity::new("proxy");
    let mut connection = server.client(&proxy).connect();
    let ask = |connection: &mut Connection| {
        let certificate: String =
            app.certificate_pem().bytes().map(|byte| format!("%{byte:02X}")).collect();
        connection.send(format!(
            "POST /v1/key/generate/my-key HTTP/1.1\r\nHost: kes\r\nX-Cert: {certificate}\r\n\
             Content-Length: 2\r\n\r\n{{}}"
        ));
        connection.response().status
    };
    assert_eq!(403, ask(&mut connection));
    let proxies = format!("proxy: {{identities: [{}], header: {{cert: X-Cert}}}}", proxy.id);
    edit(&server, "proxy: {}", &proxies);
    reload(&server, DONE);
    assert_eq!(200, ask(&mut connection));
    edit(&server, &proxies, "proxy: {}");
    reload(&server, DONE);
    assert_eq!(403, ask(&mut connection));
}

#[test]
fn logs_are_switched_on_and_off() {
    let server = start(&Identity::new("app"), |config| config.audit = "off");
    let root = server.root();
    let events = || server.stdout().lines().count();
    root.get("/version").is_json_success();
    edit(&server, "audit: off", "audit: on");
    reload(&server, DONE);
    root.get("/version").is_json_success();
    assert_eq!(1, server.audit(1).len());
    edit(&server, "audit: on", "audit: required");
    reload(&server, DONE);
    root.get("/version").is_json_success();
    assert_eq!(2, server.audit(2).len());
    // Without an error log nothing announces the end of the reload, but its effect shows.
    edit(&server, "error: on, audit: required", "error: off, audit: off");
    server.signal(Signal::HUP);
    let is_off = wait_for(PATIENCE, || {
        let before = events();
        root.get("/version").is_json_success();
        std::thread::sleep(Duration::from_millis(100));
        (before == events()).then_some(())
    });
    assert!(is_off.is_some());
}

#[test]
fn cache_times_are_taken_up() {
    let app = Identity::new("app");
    let server = start(&app, |_| {});
    let mut connection = server.client(&app).connect();
    assert_eq!(200, generate(&mut connection));
    fs::remove_file(server.keys().join("my-key")).unwrap();
    assert_eq!(200, generate(&mut connection));
    edit(&server, "any: 5m0s", "any: 1s");
    reload(&server, DONE);
    let is_expired = wait_for(PATIENCE, || (generate(&mut connection) == 404).then_some(()));
    assert!(is_expired.is_some());
}

#[test]
fn new_keys_of_the_file_are_made() {
    let server = start(&Identity::new("app"), |_| {});
    edit(&server, "keys: {fs", "keystore: {fs");
    let file = server.file("config.yml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + "keys: [{name: my-key}, {name: new-key}]\n").unwrap();
    reload(&server, DONE);
    assert_eq!(["my-key", "new-key"], *server.key_files());
    // A key that was deleted since is not made again.
    server.root().delete("/v1/key/delete/new-key").is_empty_success();
    reload(&server, DONE);
    assert_eq!(["my-key"], *server.key_files());
}

#[test]
fn what_calls_have_made_stays_unless_the_file_says_otherwise() {
    let app = Identity::new("app");
    let server = start(&app, |_| {});
    let root = server.root();
    for policy in ["mine", "taken", "apps"] {
        root.post(&format!("/v1/policy/write/{policy}"), r#"{"paths":["/call"]}"#)
            .is_empty_success();
    }
    assign(&root, "mine", "a");
    assign(&root, "mine", "b");
    assign(&root, "taken", "c");
    root.delete(&format!("/v1/identity/forget/{}", app.id)).is_empty_success();
    edit(&server, "policy:\n", "policy:\n  taken: {paths: [/file], identities: [b]}\n");
    reload(&server, DONE);
    let read = |policy: &str| root.get(&format!("/v1/policy/read/{policy}")).text().to_owned();
    assert_eq!("{\"paths\":[\"/call\"]}\n", read("mine"));
    assert_eq!("{\"paths\":[\"/file\"]}\n", read("taken"));
    assert_eq!("{\"paths\":[\"/v1/key/generate/*\"]}\n", read("apps"));
    let wanted = serde_json::json!({ "a": "mine", "b": "taken", "c": "taken", &app.id: "apps" });
    assert_eq!(wanted, root.get("/v1/identity/list/*").json());
}

#[test]
fn what_needs_a_restart_is_told_and_everything_else_taken_up() {
    let (app, other) = (Identity::new("app"), Identity::new("other"));
    let server = start(&app, |_| {});
    edit(&server, &server.address.to_string(), "127.0.0.1:1");
    edit(&server, "/keys}}", "/other-keys}}");
    edit(&server, &app.id, &other.id);
    reload(&server, DONE);
    server.logs_error(
        "changed since the start, and not in use before a restart: address, the key store",
    );
    assert_eq!(200, generate(&mut server.client(&other).connect()));
    assert!(!server.file("other-keys").exists());
}

#[test]
fn new_keys_for_another_key_store_are_not_made_in_this_one() {
    let server = start(&Identity::new("app"), |_| {});
    edit(&server, "keys: {fs", "keystore: {fs");
    let file = server.file("config.yml");
    let before = fs::read_to_string(&file).unwrap() + "keys: [{name: my-key}, {name: new-key}]\n";
    fs::write(&file, before.replace("/keys}}", "/other-keys}}")).unwrap();
    reload(&server, DONE);
    server.logs_error(
        "changed since the start, and not in use before a restart: the key store, new names under keys",
    );
    assert_eq!(["my-key"], *server.key_files());
    server.root().post("/v1/key/generate/new-key", "{}").is_failure(404, "key does not exist");
    // In this one they are made once the file names it again.
    fs::write(&file, before).unwrap();
    reload(&server, DONE);
    assert_eq!(["my-key", "new-key"], *server.key_files());
}

// what is not

#[test]
fn a_broken_file_changes_nothing_and_the_error_log_says_where_it_is_wrong() {
    let (app, other) = (Identity::new("app"), Identity::new("other"));
    let mut server = start(&app, |_| {});
    let file = server.file("config.yml");
    let text = fs::read_to_string(&file).unwrap();
    let mut connection = server.client(&app).connect();
    let changed = text.replace(&app.id, &other.id);
    let root = server.root_identity.id.clone();
    let app_twice = format!("identities: [\\\"{0}\\\", \\\"{0}\\\"]", app.id).replace('\\', "");
    // More errors than are shown, and of the newest format.
    let mixed = "no-field: x\n".repeat(200) + "api: { /v1/status: { skip_auth: true } }\n";
    for (broken, reason) in [
        (mixed + &changed, "mixes two formats"),
        (changed.replace("policy:", "policies:"), "unknown field `policies`"),
        (changed.clone() + "x: [", "config.yml line"),
        (changed.replace("generate/*", "generate/["), "field policy.apps.paths[0]"),
        (
            text.replace(&format!("identities: [\"{}\"]", app.id), &app_twice),
            "field policy.apps.identities[1]",
        ),
        (changed.replace("unused: 30s", "unused: soon"), "field cache.expiry.unused"),
        (changed.replace("audit: on", "audit: maybe"), "field log.audit"),
        (changed.replace(&root, "\"\""), "no root identity has been specified"),
        (changed.replace("server.key", "no.key"), "no.key"),
        (changed.replace("server.crt", "server.key"), "no PEM block of type CERTIFICATE"),
        (String::new(), "no root identity has been specified"),
    ] {
        fs::write(&file, &broken).unwrap();
        let before = server.stderr().len();
        reload(&server, FAILED);
        let said = server.stderr()[before..].to_owned();
        assert!(said.contains(reason), "{said} for {broken}");
        assert_eq!(200, generate(&mut connection), "{reason}");
        assert_eq!(200, generate(&mut server.client(&app).connect()));
        assert_eq!(403, generate(&mut server.client(&other).connect()));
    }
    fs::remove_file(&file).unwrap();
    reload(&server, FAILED);
    fs::write(&file, &changed).unwrap();
    reload(&server, DONE);
    assert_eq!(403, generate(&mut connection));
    assert!(server.is_running());
}

#[test]
fn a_key_that_is_made_anew_replaces_the_one_in_the_cache() {
    let server = start(&Identity::new("app"), |_| {});
    let mut root = server.root().connect();
    let mut ask = |path: &str, body: &Value| root.request("POST", path, body.to_string());
    let sealed = |answer: &Value| json!({ "ciphertext": answer["ciphertext"] });
    let old = ask("/v1/key/generate/my-key", &json!({})).json();
    // Another server deletes it.
    fs::remove_file(server.keys().join("my-key")).unwrap();
    edit(&server, "keys: {fs", "keystore: {fs");
    let file = server.file("config.yml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + "keys: [{name: my-key}]\n").unwrap();
    reload(&server, DONE);
    // Ciphertexts of the old one from now on could not be opened once it has left the cache.
    ask("/v1/key/decrypt/my-key", &sealed(&old))
        .is_failure(400, "decryption failed: ciphertext is not authentic");
    let new = ask("/v1/key/generate/my-key", &json!({})).json();
    let opened = ask("/v1/key/decrypt/my-key", &sealed(&new)).json();
    assert_eq!(new["plaintext"], opened["plaintext"]);
}

#[test]
fn a_key_that_can_not_be_made_keeps_the_old_settings() {
    let (app, other) = (Identity::new("app"), Identity::new("other"));
    let server = start(&app, |_| {});
    edit(&server, "keys: {fs", "keystore: {fs");
    edit(&server, &app.id, &other.id);
    let file = server.file("config.yml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + "keys: [{name: new-key}]\n").unwrap();
    fs::rename(server.keys(), server.file("moved")).unwrap();
    reload(&server, FAILED);
    server.logs_error("failed to create key \\\"new-key\\\"");
    fs::rename(server.file("moved"), server.keys()).unwrap();
    assert_eq!(200, generate(&mut server.client(&app).connect()));
    reload(&server, DONE);
    assert_eq!(200, generate(&mut server.client(&other).connect()));
}

#[test]
fn a_key_in_the_cache_stays_if_it_can_not_be_made() {
    let app = Identity::new("app");
    let server = start(&app, |_| {});
    let mut connection = server.client(&app).connect();
    assert_eq!(200, generate(&mut connection));
    edit(&server, "keys: {fs", "keystore: {fs");
    let file = server.file("config.yml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + "keys: [{name: my-key}]\n").unwrap();
    // The key store is away: what is cached is all there is.
    fs::rename(server.keys(), server.file("moved")).unwrap();
    reload(&server, FAILED);
    assert_eq!(200, generate(&mut connection));
}

// the certificate

/// Writes a file as an ACME client does: under another name first.
fn replace(server: &Server, name: &str, text: &str) {
    let new = server.file("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, server.file(name)).unwrap();
}

#[test]
fn a_renewed_certificate_is_served_on_the_next_handshake() {
    let app = Identity::new("app");
    let mut server = start(&app, |_| {});
    let mut open = server.client(&app).connect();
    for is_asked in [false, true] {
        let new = Identity::self_signed("server", &Profile::server());
        replace(&server, "server.crt", &new.certificate_pem());
        replace(&server, "server.key", &new.key_pem());
        match is_asked {
            true => reload(&server, DONE),
            false => server.logs_error("the certificate has changed: the new one is in use"),
        }
        // Clients accept the one certificate that is expected.
        assert!(server.client(&app).try_connect().is_err());
        server.certificate = new;
        assert_eq!(200, generate(&mut server.client(&app).connect()));
        assert_eq!(200, generate(&mut open));
    }
    // A renewal does not read the configuration file.
    edit(&server, &app.id, "nobody");
    let new = Identity::self_signed("server", &Profile::server());
    replace(&server, "server.crt", &new.certificate_pem());
    replace(&server, "server.key", &new.key_pem());
    server.certificate = new;
    let is_served = wait_for(PATIENCE, || server.client(&app).try_connect().ok());
    assert_eq!(200, generate(&mut is_served.unwrap()));
}

#[test]
fn half_of_a_renewed_pair_is_not_taken_and_told_once() {
    let app = Identity::new("app");
    let mut server = start(&app, |_| {});
    let told = "the certificate has changed and can't be used, the old one stays in use: ";
    let new = Identity::self_signed("server", &Profile::server());
    replace(&server, "server.crt", &new.certificate_pem());
    server.logs_error(told);
    server.logs_error("does not belong to certificate");
    // For some looks more nothing is said and nothing changes.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(1, count(&server, told));
    assert_eq!(200, generate(&mut server.client(&app).connect()));
    // Half a file.
    let key = new.key_pem();
    replace(&server, "server.key", &key[..key.len() / 2]);
    server.logs_error("a PEM block has no end line");
    assert_eq!(200, generate(&mut server.client(&app).connect()));
    replace(&server, "server.key", &key);
    server.logs_error("the certificate has changed: the new one is in use");
    server.certificate = new;
    assert_eq!(200, generate(&mut server.client(&app).connect()));
    assert_eq!(2, count(&server, told));
}

#[test]
fn an_expired_certificate_is_not_taken_but_keeps_no_reload_from_happening() {
    let (app, other) = (Identity::new("app"), Identity::new("other"));
    quickly(Duration::from_secs(7), |clock| {
        clock.start();
        let short = Identity::self_signed("server", &Profile::server().valid_for(8));
        let mut server = start(&app, |config| {
            config.certificate = short.certificate_pem();
            config.key = short.key_pem();
            config.server_identity = short.clone();
        });
        let expired = Identity::self_signed("server", &Profile::server().valid_for(-10));
        replace(&server, "server.crt", &expired.certificate_pem());
        replace(&server, "server.key", &expired.key_pem());
        server.logs_error("has expired");
        reload(&server, FAILED);
        replace(&server, "server.crt", &short.certificate_pem());
        replace(&server, "server.key", &short.key_pem());
        std::thread::sleep(Duration::from_secs(10).saturating_sub(clock.elapsed()));
        clock.stop();
        // By now the certificate in use has expired too: to take a right away must still be possible.
        edit(&server, &app.id, &other.id);
        reload(&server, DONE);
        assert_eq!(403, generate(&mut server.client(&app).connect()));
        assert_eq!(200, generate(&mut server.client(&other).connect()));
        assert!(server.is_running());
    });
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_used_when_it_is() {
    let app = Identity::new("app");
    let mut server = start(&app, |_| {});
    let told = "is not valid yet, and used once it is";
    let begins = |in_seconds: i64| {
        let profile = Profile { valid_since: -in_seconds, ..Profile::server() };
        Identity::self_signed("server", &profile)
    };
    let replace_pair = |server: &Server, new: &Identity| {
        replace(server, "server.crt", &new.certificate_pem());
        replace(server, "server.key", &new.key_pem());
    };
    replace_pair(&server, &begins(100_000));
    server.logs_error(told);
    // Neither by itself, nor with a reload.
    reload(&server, DONE);
    assert_eq!(200, generate(&mut server.client(&app).connect()));
    assert_eq!(0, count(&server, "the new one is in use"));

    let begin = SystemTime::now();
    let new = begins(8);
    replace_pair(&server, &new);
    reload(&server, DONE);
    server.logs_error("the certificate has changed: the new one is in use");
    // Certificates count seconds.
    assert!(begin.elapsed().unwrap() > Duration::from_secs(7));
    server.certificate = new;
    assert_eq!(200, generate(&mut server.client(&app).connect()));
}

#[test]
fn a_pair_that_does_not_fit_is_read_once() {
    let Some(openssl) = OpenSsl::find() else { return };
    let old = openssl.self_signed("old", "-subj /CN=old -addext subjectAltName=IP:127.0.0.1");
    // Each attempt to decrypt it takes long.
    openssl.run(
        "pkcs8 -topk8 -in old.key -out slow.key -passout pass:secret -v2 aes-256-cbc -iter 2000000",
    );
    let server = Server::start(|config| {
        let path = |name| config.keys().with_file_name(name).display().to_string();
        let [key, cert, keys] = ["server.key", "server.crt", "keys"].map(path);
        config.is_newest = true;
        config.certificate = old.certificate_pem();
        config.key = fs::read_to_string(openssl.file("slow.key")).unwrap();
        config.server_identity = old.clone();
        config.text = format!(
            "version: v1\naddress: @ADDRESS@\nadmin: {{identity: {}}}\n\
             tls: {{key: {key}, cert: {cert}, password: secret}}\n\
             keystore: {{fs: {{path: {keys}}}}}\n",
            config.root
        );
    });
    let other = Identity::self_signed("server", &Profile::server());
    let before = server.cpu_time();
    replace(&server, "server.crt", &other.certificate_pem());
    server.logs_error("does not belong to certificate");
    let told = server.cpu_time();
    std::thread::sleep(Duration::from_secs(9));
    let (once, more) = (told - before, server.cpu_time() - told);
    assert!(more < once, "{more:?} after {once:?}");
    // Once it has changed, it is read again.
    replace(&server, "server.key", &other.key_pem());
    server.logs_error("the certificate has changed: the new one is in use");
}

// trust

#[test]
fn authorities_are_read_again_and_hold_for_open_connections_and_sessions() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let app = old.issue("app", &Profile::client());
    let renewed = new.issue("app", &Profile::client());
    let server = start(&app, |config| {
        config.policy("renewed", &["/v1/key/generate/*"], &[&renewed]);
        config.auth = "on";
        config.root_identity = old.issue("root", &Profile::client());
        config.root = config.root_identity.id.clone();
        let file = config.file("authorities.pem", &old.identity.certificate_pem());
        config.environment.push(("SSL_CERT_FILE".to_owned(), file.display().to_string()));
    });
    let resuming = server.client(&app).resuming();
    let mut open = resuming.connect();
    assert_eq!(200, generate(&mut open));
    let mut resumed = resuming.connect();
    assert_eq!(200, generate(&mut resumed));
    assert_eq!(Some(HandshakeKind::Resumed), resumed.handshake_kind());
    // No policy allows this one anything, but its certificate is looked at first.
    let stranger = old.issue("stranger", &Profile::client());
    let mut stranger = server.client(&stranger).connect();
    let mut ask_as_stranger = |message| {
        let answer = stranger.request("POST", "/v1/key/generate/my-key", "{}");
        answer.is_failure(403, message);
    };
    ask_as_stranger("prohibited by policy");

    let both = old.identity.certificate_pem() + &new.identity.certificate_pem();
    fs::write(server.file("authorities.pem"), both).unwrap();
    reload(&server, DONE);
    assert_eq!(200, generate(&mut open));
    assert_eq!(200, generate(&mut server.client(&renewed).connect()));

    let only_new = new.identity.certificate_pem();
    fs::write(server.file("authorities.pem"), only_new).unwrap();
    reload(&server, DONE);
    for connection in [&mut open, &mut resumed] {
        connection.request("POST", "/v1/key/generate/my-key", "{}").is_failure(403, DISTRUSTED);
        assert!(connection.is_closed());
    }
    ask_as_stranger(DISTRUSTED);
    server.logs_error("refused: the certificate has expired or is no longer trusted");
    for client in [&resuming, &server.client(&app)] {
        let answer = client.try_request("POST", "/v1/key/generate/my-key", b"{}");
        assert!(answer.is_err(), "{answer:?}");
    }
    assert_eq!(200, generate(&mut server.client(&renewed).connect()));

    fs::write(server.file("authorities.pem"), "").unwrap();
    reload(&server, FAILED);
    server.logs_error("no trusted certificate authority found");
    assert_eq!(200, generate(&mut server.client(&renewed).connect()));
}

// under load

/// What the process holds.
#[derive(Debug)]
struct Footprint {
    threads: usize,
    descriptors: usize,
    /// Resident memory in KiB.
    memory: u64,
}

fn footprint(server: &Server) -> Footprint {
    Footprint {
        threads: server.threads(),
        descriptors: fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count(),
        memory: server.memory(),
    }
}

#[test]
fn a_thousand_reloads_fail_no_request_and_leave_nothing_behind() {
    const RELOADS: usize = 1000;
    const CLIENTS: usize = 16;
    let authority = Authority::new("authority");
    let app = authority.issue("app", &Profile::client());
    let mut server = start(&app, |config| {
        config.auth = "on";
        config.audit = "off";
        config.root_identity = authority.issue("root", &Profile::client());
        config.root = config.root_identity.id.clone();
        let file = config.file("authorities.pem", &authority.identity.certificate_pem());
        config.environment.push(("SSL_CERT_FILE".to_owned(), file.display().to_string()));
    });
    let is_over = AtomicBool::new(false);
    let requests = AtomicUsize::new(0);
    let before = footprint(&server);
    let file = server.file("config.yml");
    let text = fs::read_to_string(&file).unwrap();
    let (mut threads, mut early) = (0, None);
    let late = std::thread::scope(|scope| {
        let end = SetOnDrop(&is_over);
        for number in 0..CLIENTS {
            let client = server.client(&app).resuming();
            let (is_over, requests) = (&is_over, &requests);
            scope.spawn(move || {
                let mut connection = client.connect();
                for round in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let answer = connection
                        .try_request("POST", "/v1/key/generate/my-key", b"{}")
                        .unwrap_or_else(|e| panic!("client {number}, request {round}: {e}"));
                    assert_eq!(200, answer.status, "{}", answer.text());
                    requests.fetch_add(1, Ordering::Relaxed);
                    // Some connect again and again, also with tickets from before a reload.
                    if number % 4 == 0 && round % 8 == 7 {
                        connection = client.connect();
                    }
                }
            });
        }
        for number in 1..=RELOADS {
            // What changes, so that each reload has something to do.
            let policy = format!("policy:\n  p-{}: {{paths: [/version]}}\n", number % 7);
            fs::write(&file, text.replace("policy:\n", &policy)).unwrap();
            server.signal(Signal::HUP);
            let until = Instant::now() + PATIENCE;
            while count(&server, DONE) < number {
                assert!(Instant::now() < until, "{number}: {}", server.stderr());
                std::thread::sleep(Duration::from_millis(1));
            }
            // The thread that reloads starts last.
            if number == 1 {
                threads = server.threads();
            }
            if number == RELOADS / 4 {
                early = Some(footprint(&server));
            }
        }
        let late = footprint(&server);
        drop(end);
        late
    });
    let early = early.unwrap();
    assert_eq!(RELOADS, server.stderr().lines().count(), "{}", server.stderr());
    assert_eq!([threads; 2], [early.threads, late.threads]);
    // Clients that connect anew may be seen twice.
    for load in [&early, &late] {
        let most = before.descriptors + 2 * CLIENTS;
        assert!(load.descriptors <= most, "{load:?}, {before:?}");
    }
    assert!(late.memory < early.memory + 4096, "{early:?}, {late:?}, {before:?}");
    let is_flat =
        wait_for(PATIENCE, || (footprint(&server).descriptors <= before.descriptors).then_some(()));
    assert!(is_flat.is_some(), "{:?}, {before:?}", footprint(&server));
    assert!(requests.into_inner() > RELOADS, "hardly any load");
    let list: Value = server.root().get("/v1/policy/list/p-*").json();
    assert_eq!(serde_json::json!([format!("p-{}", RELOADS % 7)]), list);
    server.signal(Signal::TERM);
    assert_eq!(Some(0), server.wait_for_exit().code());
}

/// Sets the flag when it is dropped, even in a panic: a thread that waits for it must not wait for ever.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_reload_may_change_the_generation() {
    let (app, guest) = (Identity::new("app"), Identity::new("guest"));
    let server = start(&app, |config| {
        config.wanted_key = "wanted";
        config.key_store = format!("fs: {{path: {}}}", config.keys().display());
    });
    let root = server.root();
    root.post("/v1/policy/write/guests", r#"{"paths":["/v1/key/*/my-key"]}"#).is_empty_success();
    assign(&root, "guests", &guest.id);
    let mut kept = server.client(&guest).connect();
    assert_eq!(200, generate(&mut kept));
    let commit = |client: &Client| client.get("/version").json().get("commit").cloned();
    assert_eq!(None, commit(&root));

    let id = root_of(&server);
    edit(&server, &format!("root: {id}"), &format!("version: v1\nadmin: {{identity: {id}}}"));
    edit(&server, "{paths: [", "{allow: [");
    edit(&server, "{name: wanted}", "{name: newer}");
    edit(&server, ", audit: on", "");
    reload(&server, DONE);
    // What calls had changed is gone, on connections of before as well.
    let refused = kept.request("POST", "/v1/key/generate/my-key", "{}");
    let forbidden = "{\"message\":\"not authorized: insufficient permissions\"\n}";
    assert_eq!((403, forbidden), (refused.status, refused.text()));
    assert_eq!(json!({"names": ["my-key", "newer", "wanted"]}), root.get("/v1/key/list/").json());
    assert!(commit(&root).is_some());
    assert_eq!(200, generate(&mut server.client(&app).connect()));
    let described = root.get("/v1/key/describe/newer").json();
    assert_eq!(json!(id), described["created_by"], "{described}");
    assert_eq!(None, root.get("/v1/key/describe/wanted").json().get("created_by"));

    // By default, stdout has the changes of keys alone.
    let lines = server.stdout().lines().count();
    assert_eq!(404, root.post("/v1/key/generate/none", "{}").status);
    assert_eq!(200, root.post("/v1/key/create/one", "").status);
    let audit = server.audit(lines + 1);
    assert_eq!("/v1/key/create/one", audit[lines]["request"]["path"]);
    assert_eq!("127.0.0.1", audit[lines]["request"]["ip"]);

    // Object servers of 2021 know these texts only.
    let file = server.file("config.yml");
    let text = fs::read_to_string(&file).unwrap() + "\napi: {texts: '0.14'}\n";
    fs::write(file, text).unwrap();
    reload(&server, DONE);
    let taken = root.post("/v1/key/create/one", "");
    let exists = "{\"message\":\"key does already exist\"\n}";
    assert_eq!((400, exists), (taken.status, taken.text()));
}

/// The root identity in the configuration file.
fn root_of(server: &Server) -> String {
    let text = fs::read_to_string(server.file("config.yml")).unwrap();
    let root = text.lines().find_map(|line| line.strip_prefix("root: "));
    root.unwrap().to_owned()
}
