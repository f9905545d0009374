//! `kes config convert` as a command, and files of the newest format as they are published: a real server with
//! each. What becomes of older files is in `converted.rs`.

use std::{
    fs,
    process::{Command, Output},
};

use crate::common::{
    Authority, Identity, PATIENCE, Profile, Server, TempDir, stored_key, wait_for,
};
use rustix::process::Signal;

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

fn kes(directory: &std::path::Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kes"))
        .args(args)
        .current_dir(directory)
        .env_clear()
        .output()
        .unwrap()
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
fn a_slip_in_a_section_of_the_page_is_named_and_the_rest_of_it_is_right() {
    let path =
        format!("{}/testdata/configurations/page-2021-keysecure.yml", env!("CARGO_MANIFEST_DIR"));
    let server = Server::start(|_| {});
    let text = Clients::new().filled_in(&fs::read_to_string(path).unwrap(), &server);
    let directory = server.file("config.yml").parent().unwrap().to_owned();
    let check = |text: &str| {
        fs::write(directory.join("page.yml"), text).unwrap();
        let output = kes(&directory, &["config", "check", "page.yml"]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = check(&text);
    assert_eq!(Some(78), code, "{said}");
    assert!(said.starts_with("page.yml:13:20: error: \": \" is not allowed here"), "{said}");
    assert_eq!(
        (Some(0), "page.yml: ok\n".to_owned()),
        check(&text.replace("endpoint: :", "endpoint:"))
    );
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
