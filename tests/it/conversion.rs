//! `kes config convert`, and files of the newest format as they are published: a real server with each.

use std::{
    fs,
    process::{Command, Output},
};

use crate::common::{
    Authority, Identity, PATIENCE, Profile, Server, TempDir, stored_key, wait_for,
};
use rustix::process::Signal;
use serde_json::Value;

/// Clients, in the order of the names in files.
struct Clients([Identity; 3]);

impl Clients {
    fn new() -> Self {
        Self(["app", "ops", "stranger"].map(Identity::new))
    }

    /// `text` with identities in the place of their names.
    fn filled_in(&self, text: &str, server: &Server) -> String {
        let path = |name| server.file(name).display().to_string();
        let names = ["@APP@", "@OPS@", "@STRANGER@"].into_iter().zip(&self.0);
        let text =
            names.fold(text.to_owned(), |text, (name, client)| text.replace(name, &client.id));
        text.replace("@ADDRESS@", &server.address.to_string())
            .replace("@ADMIN@", &server.root_identity.id)
            .replace("@KEY@", &path("server.key"))
            .replace("@CERT@", &path("server.crt"))
            .replace("@KEYS@", &path("keys"))
    }
}

/// Has the server take up `text`.
#[track_caller]
fn take_up(server: &Server, text: &str) {
    fs::write(server.file("config.yml"), text).unwrap();
    let done = || server.stderr().matches("the configuration is reloaded").count();
    let before = done();
    server.signal(Signal::HUP);
    let is_done = wait_for(PATIENCE, || (done() > before).then_some(()));
    assert!(is_done.is_some(), "{text}\n{}", server.stderr());
    assert!(!server.stderr().contains("not in use before a restart"), "{}", server.stderr());
}

/// Whether each client may do each thing, and the text where it may not.
fn answers(server: &Server, clients: &Clients) -> Vec<String> {
    let mut all = Vec::new();
    let root = server.root();
    let connections = clients.0.iter().map(|client| server.client(client));
    for (who, client) in
        ["app", "ops", "stranger", "root"].into_iter().zip(connections.chain([root]))
    {
        let mut connection = client.connect();
        for (method, path) in [
            ("GET", "/version"),
            ("POST", "/v1/key/create/my-app"),
            ("POST", "/v1/key/create/my-app-1"),
            ("POST", "/v1/key/create/other"),
            ("POST", "/v1/key/generate/my-key"),
            ("POST", "/v1/key/generate/my-app-1"),
            ("POST", "/v1/key/generate/a"),
            ("POST", "/v1/key/generate/none"),
            ("POST", "/v1/key/bulk/decrypt/my-key"),
            ("GET", "/v1/key/describe/my-key"),
            ("GET", "/v1/key/list/*"),
            ("GET", "/v1/key/list/my-*"),
            ("DELETE", "/v1/key/delete/other"),
            ("DELETE", "/v1/key/delete/my-app"),
            ("GET", "/v1/status"),
            ("GET", "/v1/metrics"),
            ("GET", "/v1/policy/read/app"),
            ("GET", "/v1/identity/list/*"),
        ] {
            let body = if method == "POST" && !path.contains("create") { "{}" } else { "" };
            let response = connection.request(method, path, body);
            let what = match response.status {
                // The shapes of answers are those of the generation; what fails has the same text.
                200 => "ok".to_owned(),
                status => {
                    let body: Value = serde_json::from_str(response.text()).unwrap_or_default();
                    format!("{status} {}", body["message"])
                }
            };
            // What a create leaves behind must not be there next time.
            let _ = fs::remove_file(server.keys().join("my-app"));
            let _ = fs::remove_file(server.keys().join("my-app-1"));
            let _ = fs::remove_file(server.keys().join("other"));
            all.push(format!("{who} {method} {path}: {what}"));
        }
    }
    all
}

fn kes(directory: &std::path::Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kes"))
        .args(args)
        .current_dir(directory)
        .env_clear()
        .output()
        .unwrap()
}

/// Older files, and what is said about requests that are refused afterwards.
const OLDER: &[(&str, &[&str])] = &[
    (
        "# As in the README.\naddress: @ADDRESS@\nroot: @ADMIN@\ntls:\n  key: @KEY@\n  cert: @CERT@\n\
         policy:\n  my-app:\n    paths:\n    - /v1/key/generate/my-*\n    - /v1/key/decrypt/my-*\n    identities:\n    \
         - @APP@   # kes tool identity of my-app.crt\nkeys:\n  fs:\n    path: @KEYS@\n",
        &[],
    ),
    (
        // Each trap of globs that are prefixes, and of names.
        "address: @ADDRESS@\nroot: @ADMIN@\ntls: { key: @KEY@, cert: @CERT@ }\npolicy:\n  my.app:\n    paths:\n    \
         - /v1/key/*\n    - /v1/*/*\n    - /v1/key/*/my-app\n    - '/v1/key/list/*'\n    identities: [ @APP@ ]\n  ops:\n    \
         paths: [ '/v1/key/*/*', /v1/metrics, '/v1/policy/*/*', '/v1/key/generate/' ]\n    identities: [ @OPS@ ]\n\
         log: { error: on, audit: on }\ncache: { expiry: { any: 5m, unused: 20s } }\nkeystore: { fs: { path: @KEYS@ } }\n",
        &[],
    ),
    (
        "{\n\t\"address\": \"@ADDRESS@\", \"root\": \"@ADMIN@\", \"tls\": { \"key\": \"@KEY@\", \"cert\": \"@CERT@\" },\n\t\
         \"policy\": { \"app\": { \"paths\": [ \"/v1/key/*/my-app-1\", \"/v1/k?y/list/*\", \"/v[0-9]/key/delete/*\", \"/v1/[sm]*\" ], \
         \"identities\": [ \"@APP@\", \"@STRANGER@\" ] } },\n\t\"keystore\": { \"fs\": { \"path\": \"@KEYS@\" } }\n}\n",
        &[],
    ),
    (
        "address: @ADDRESS@\nroot: @ADMIN@\ntls: { key: @KEY@, cert: @CERT@ }\npolicy:\n  app:\n    paths:\n    \
         - /v1/key/create/*-1\n    - /v1/key/generate/?\n    identities: [ @APP@ ]\nkeystore: { fs: { path: @KEYS@ } }\n",
        &["app POST /v1/key/create/my-app-1: 403", "app POST /v1/key/generate/a: 403"],
    ),
];

#[test]
fn a_converted_file_answers_the_same_requests_the_same_way() {
    let clients = Clients::new();
    let server = Server::start(|config| {
        for name in ["my-key", "a"] {
            fs::write(config.keys().join(name), stored_key(&[1; 32])).unwrap();
        }
    });
    for (text, lost) in OLDER {
        let text = clients.filled_in(text, &server);
        take_up(&server, &text);
        let before = answers(&server, &clients);
        let _ = fs::remove_file(server.file("new.yml"));
        let directory = server.file("config.yml").parent().unwrap().to_owned();
        let output =
            kes(&directory, &["config", "convert", "config.yml", "--auth", "off", "-o", "new.yml"]);
        let said = String::from_utf8(output.stderr).unwrap();
        let is_incomplete = said.contains("WARNING");
        assert_eq!(Some(if is_incomplete { 3 } else { 0 }), output.status.code(), "{said}");
        assert!(is_incomplete || lost.is_empty(), "{said}");
        let new = fs::read_to_string(server.file("new.yml")).unwrap();
        take_up(&server, &new);
        let after = answers(&server, &clients);
        assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(&after) {
            let is_404 = after.contains("DELETE") && after.ends_with("404 \"key does not exist\"");
            let is_announced = is_404 || lost.iter().any(|lost| after.starts_with(lost));
            assert!(before == after || is_announced, "{before}\n{after}\n{text}\n{new}\n{said}");
        }
        for lost in *lost {
            assert!(after.iter().any(|after| after.starts_with(lost)), "{lost}");
            assert!(said.contains("can't be said by a prefix"), "{said}");
        }
    }
}

#[test]
fn the_sections_of_the_page_of_2021_start_as_they_are() {
    let clients = Clients::new();
    let path = format!("{}/testdata/configurations/page-2021.yml", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).unwrap();
    let server = Server::start(|_| {});
    take_up(&server, &clients.filled_in(&text, &server));
    let [app, _, stranger] = &clients.0;
    let ask = |client, path| server.client(client).post(path, "{}").status;
    assert_eq!(200, server.client(app).post("/v1/key/create/my-key", "").status);
    assert_eq!(200, ask(app, "/v1/key/generate/my-key"));
    assert_eq!(403, ask(app, "/v1/key/encrypt/my-key"));
    assert_eq!(403, ask(stranger, "/v1/key/generate/my-key"));
    assert_eq!(["my-key"], *server.key_files());
    let directory = server.file("config.yml").parent().unwrap().to_owned();
    assert!(kes(&directory, &["config", "check", "config.yml"]).status.success());
}

#[test]
fn the_template_starts_as_it_is() {
    let clients = Clients::new();
    for name in ["template.yml", "template.json"] {
        let path = format!("{}/testdata/configurations/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(path).unwrap();
        let server = Server::start(|config| {
            config.environment.push(("MY_APP_IDENTITY".into(), clients.0[1].id.clone()));
        });
        take_up(&server, &clients.filled_in(&text, &server));
        for client in [&clients.0[0], &clients.0[1]] {
            let client = server.client(client);
            assert_eq!(404, client.post("/v1/key/generate/my-app-none", "{}").status, "{name}");
            assert_eq!(403, client.post("/v1/key/generate/my-app-internal", "{}").status, "{name}");
        }
        assert_eq!(403, server.client(&clients.0[2]).get("/v1/metrics").status, "{name}");
        assert_eq!(200, server.anonymous().get("/v1/status").status, "{name}");
        assert_eq!(400, server.anonymous().get("/v1/metrics").status, "{name}");
        assert_eq!(["another-key-name", "some-key-name"], *server.key_files(), "{name}");
        // Also a server that starts with it, not only one that is running.
        let directory = server.file("config.yml").parent().unwrap().to_owned();
        let check = kes(&directory, &["config", "check", "config.yml"]);
        let said = String::from_utf8(check.stdout).unwrap();
        let others = said.lines().filter(|line| line.contains("error:"));
        assert_eq!(
            Vec::<&str>::new(),
            others.filter(|line| !line.contains("MY_APP_IDENTITY")).collect::<Vec<_>>(),
            "{said}"
        );
    }
}

#[test]
fn a_reload_changes_the_generation_and_all_that_goes_with_it_or_nothing() {
    let clients = Clients::new();
    let authority = Authority::new("authority");
    let trusted = authority.issue("trusted", &Profile::client());
    let server = Server::start(|config| {
        fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
    });
    let older = fs::read_to_string(server.file("config.yml")).unwrap();
    let generates =
        |client: &Identity| server.client(client).post("/v1/key/generate/my-key", "{}").status;
    let text = format!(
        "version: v1\naddress: @ADDRESS@\nadmin: {{ identity: {} }}\ntls:\n  key: @KEY@\n  cert: @CERT@\n  \
         auth: on\n  ca: {}\napi:\n  /v1/status: {{ skip_auth: true }}\nkeystore: {{ fs: {{ path: @KEYS@ }} }}\n",
        trusted.id,
        server.file("authorities").display()
    );
    let newer = clients.filled_in(&text, &server);

    // The authorities are not there yet: nothing changes, neither the generation nor the admin.
    fs::write(server.file("config.yml"), &newer).unwrap();
    server.signal(Signal::HUP);
    server.logs_error("failed to reload the configuration, everything stays as it was: ");
    server.logs_error("field tls.ca");
    assert_eq!(200, server.root().post("/v1/key/generate/my-key", "{}").status);
    assert!(server.anonymous().try_request("GET", "/v1/status", b"").is_err());
    assert!(server.outdated().try_connect().is_err());

    fs::write(server.file("authorities"), authority.identity.certificate_pem()).unwrap();
    take_up(&server, &newer);
    assert_eq!(200, generates(&trusted));
    assert!(server.root().try_request("GET", "/version", b"").is_err());
    assert_eq!(200, server.anonymous().get("/v1/status").status);

    take_up(&server, &older);
    assert_eq!(200, server.root().post("/v1/key/generate/my-key", "{}").status);
    assert_eq!(403, generates(&trusted));
    assert!(server.anonymous().try_request("GET", "/v1/status", b"").is_err());
}

#[test]
fn no_file_is_overwritten_unless_it_may_be() {
    let directory = TempDir::new();
    let file = |name: &str| directory.path().join(name);
    let text = "root: disabled\ntls: { key: a, cert: b }\nkeystore: { fs: { path: /k } }\n";
    fs::write(file("old.yml"), text).unwrap();
    let convert = |more: &[&str]| {
        let output = kes(
            directory.path(),
            &[&["config", "convert", "old.yml", "--auth", "off"], more].concat(),
        );
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    fs::write(file("new.yml"), "mine").unwrap();
    let (code, said) = convert(&["-o", "new.yml"]);
    assert!(code == 1 && said.contains("configuration \"new.yml\" already exists"), "{said}");
    assert_eq!("mine", fs::read_to_string(file("new.yml")).unwrap());
    let (code, said) = convert(&["-o", "new.yml", "-f"]);
    assert_eq!(0, code, "{said}");
    assert!(
        fs::read_to_string(file("new.yml"))
            .unwrap()
            .starts_with("version: v1\nadmin:\n  identity: disabled\n")
    );
    // What is new already, and what is wrong.
    fs::write(file("old.yml"), "version: v1\n").unwrap();
    assert_eq!(
        (78, "old.yml: error: the file has the newest format already\n".to_owned()),
        convert(&[])
    );
    fs::write(file("old.yml"), format!("{text}log: {{ eror: on }}\n")).unwrap();
    let (code, said) = convert(&[]);
    assert!(
        code == 78 && said.starts_with("old.yml:4:8: error: log: unknown field `eror`"),
        "{said}"
    );
}
