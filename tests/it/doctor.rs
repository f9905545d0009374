//! `kes doctor`: on a set-up that is broken in one way, the first thing that failed is that.

use std::{
    fs,
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _, symlink},
        process::CommandExt as _,
    },
    path::PathBuf,
    process::{Command, Output},
};

use crate::common::{
    Appliance, Identity, PATIENCE, Profile, Server, Site, TempDir, appliance::TOKEN, free_port,
    stored_key, wait_for,
};
use serde_json::{Value, json};

/// A folder with a server's certificate for 127.0.0.1, and `kes.yml`.
struct Scene {
    folder: TempDir,
    port: u16,
    environment: Vec<(&'static str, String)>,
    /// The user that runs it, if another one.
    user: Option<u32>,
}

impl Scene {
    fn new() -> Self {
        let (folder, port) = (TempDir::new(), free_port());
        let scene = Self { folder, port, environment: Vec::new(), user: None };
        let certificate = Identity::self_signed("server", &Profile::server());
        scene.write("server.crt", &certificate.certificate_pem(), 0o644);
        scene.write("server.key", &certificate.key_pem(), 0o600);
        fs::DirBuilder::new().mode(0o700).create(scene.file("keys")).unwrap();
        scene.configure("fs: {path: keys}", "");
        scene
    }

    /// Writes `kes.yml` with this key store, and these lines more.
    fn configure(&self, store: &str, more: &str) {
        let text = format!(
            "version: v1\naddress: 127.0.0.1:{}\nadmin: {{identity: {}}}\n\
             tls: {{key: server.key, cert: server.crt}}\ncache: {{expiry: {{any: 5m}}}}\n\
             keystore: {{{store}}}\n{more}",
            self.port,
            "01".repeat(32)
        );
        self.write("kes.yml", &text, 0o600);
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.file(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn kes(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kes"));
        command.args(arguments).current_dir(self.folder.path());
        command.env_clear().envs(self.environment.iter().cloned());
        if let Some(user) = self.user {
            command.uid(user);
        }
        command.output().unwrap()
    }

    /// What `kes doctor` finds with these flags.
    fn doctor(&self, flags: &[&str]) -> Found {
        let output = self.kes(&[&["doctor", "--json"], flags].concat());
        assert_eq!("", String::from_utf8_lossy(&output.stderr));
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = Found(json);
        let is_bad = found.0["failed"] != 0;
        assert_eq!(Some(i32::from(is_bad)), output.status.code(), "{found:?}");
        found
    }

    /// The set-up of the server.
    fn server(&self, flags: &[&str]) -> Found {
        self.doctor(&[&["--config", "kes.yml"], flags].concat())
    }
}

#[derive(Debug)]
struct Found(Value);

impl Found {
    /// `about: text (advice)` of all with this outcome.
    fn all(&self, outcome: &str) -> Vec<String> {
        let lines = self.0["checks"].as_array().unwrap().iter();
        let lines = lines.filter(|line| line["outcome"] == outcome);
        let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
        lines
            .map(|line| {
                let [about, what, advice] =
                    ["about", "text", "advice"].map(|name| text(line, name));
                format!("{about}: {what} ({advice})")
            })
            .collect()
    }

    /// One thing alone failed, which reads so.
    #[track_caller]
    fn fails(&self, about: &str, words: &[&str]) {
        let failed = self.all("failed");
        assert_eq!(1, failed.len(), "{self:#?}");
        let starts = failed[0].starts_with(&format!("{about}: "));
        assert!(starts && words.iter().all(|word| failed[0].contains(word)), "{failed:#?}");
    }

    #[track_caller]
    fn warns(&self, text: &str) {
        let warnings = self.all("warning");
        assert!(warnings.iter().any(|line| line.contains(text)), "{self:#?}");
        assert_eq!(0, self.0["failed"]);
    }

    #[track_caller]
    fn has(&self, text: &str) {
        assert!(self.all("ok").iter().any(|line| line.contains(text)), "{self:#?}");
    }
}

// a server

#[test]
fn a_sound_server_has_nothing_that_failed_and_nothing_is_changed() {
    let scene = Scene::new();
    scene.write("keys/my-key", &stored_key(&[7; 32]), 0o600);
    let found = scene.server(&["--server", "127.0.0.1"]);
    assert_eq!(0, found.0["failed"], "{found:#?}");
    found.has("the settings in kes.yml are right");
    found.has("it is for \"127.0.0.1\"");
    found.has(&format!("127.0.0.1:{} is free", scene.port));
    found.has(" MiB of free space, keys: 1");
    found.has("no core dumps");
    assert_eq!(1, fs::read_dir(scene.file("keys")).unwrap().count());
    let text = scene.kes(&["doctor", "--config", "kes.yml"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.starts_with("ok       configuration: the settings in kes.yml are right\n"),
        "{text}"
    );
    assert!(text.contains("\n0 failed, "), "{text}");
    assert!(!text.contains(&stored_key(&[7; 32])[10..]));
}

#[test]
fn with_write_a_key_is_made_and_deleted() {
    let scene = Scene::new();
    let found = scene.server(&["--write"]);
    found.has("was created, read and deleted");
    assert_eq!(0, fs::read_dir(scene.file("keys")).unwrap().count());
    fs::remove_dir(scene.file("keys")).unwrap();
    let found = scene.server(&["--write"]);
    found.warns("none was written: there is no key store yet");
}

#[test]
fn a_field_that_does_not_exist_is_named_with_its_line() {
    let scene = Scene::new();
    scene.configure("fs: {path: keys}", "cahce: {}\n");
    let found = scene.server(&["--write"]);
    found.fails("configuration", &["kes.yml line 7", "cahce", "kes config check kes.yml"]);
}

#[test]
fn a_private_key_of_another_certificate_is_the_cause() {
    let scene = Scene::new();
    scene.write("server.key", &Identity::new("other").key_pem(), 0o600);
    let found = scene.server(&[]);
    found.fails("configuration", &["\"server.key\" does not belong to certificate \"server.crt\""]);
}

#[test]
fn a_certificate_that_has_expired_is_the_cause() {
    let scene = Scene::new();
    let expired = Identity::self_signed("server", &Profile::server().valid_for(-60));
    scene.write("server.crt", &expired.certificate_pem(), 0o644);
    scene.write("server.key", &expired.key_pem(), 0o600);
    scene.server(&[]).fails("configuration", &["certificate \"server.crt\" has expired"]);
}

#[test]
fn a_certificate_must_name_the_host_that_clients_ask() {
    let scene = Scene::new();
    let server = "kes.example.com,127.0.0.1";
    let found = scene.server(&["--server", server]);
    found.fails("certificate", &["it is not for \"kes.example.com\"", "kes identity new --dns"]);
    found.has("it is for \"127.0.0.1\"");
    // Its identity is all that clients compare if they have it.
    let identity = scene.kes(&["identity", "of", "server.crt"]).stdout;
    let identity = String::from_utf8(identity).unwrap();
    let flags = ["--server", server, "--server-identity", identity.trim()];
    assert_eq!(0, scene.server(&flags).0["failed"]);
}

#[test]
fn a_port_that_another_program_has_is_told_from_one_that_the_server_has() {
    let mut scene = Scene::new();
    scene.port = Site::saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").port;
    scene.configure("fs: {path: keys}", "");
    let taken = format!("127.0.0.1:{} is taken: what is there speaks HTTP without TLS", scene.port);
    let advice = format!("ss -ltnp sport = :{}", scene.port);
    scene.server(&[]).fails("port", &[&taken, &advice]);
    let elsewhere = scene.server(&["--addr", "192.0.2.1:7373"]);
    elsewhere.fails("port", &["192.0.2.1:7373", "this machine has no such address"]);

    let other = Identity::self_signed("other", &Profile::server());
    scene.port = Site::tls(&other, None).port;
    scene.configure("fs: {path: keys}", "");
    let found = scene.server(&[]);
    found.fails("port", &["a TLS server with another identity", &other.id]);

    let server = Server::start(|config| {
        config.probe();
    });
    let config = server.file("config.yml");
    let found = scene.doctor(&["--config", config.to_str().unwrap(), "--auth", "off"]);
    found.has(&format!("this server listens on {} already", server.address));
    found.has("(its probe)");
    assert_eq!(0, found.0["failed"], "{found:#?}");
}

#[test]
fn a_directory_of_another_user_is_the_cause() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can be somebody else
    }
    let mut scene = Scene::new();
    for file in ["kes.yml", "server.key"] {
        fs::set_permissions(scene.file(file), fs::Permissions::from_mode(0o644)).unwrap();
    }
    scene.user = Some(4242);
    let found = scene.server(&["--write"]);
    found.fails("key directory", &["user 4242 may not ", "user 0 (mode 0700)", "chown"]);
    scene.configure("fs: {path: others/keys}", "");
    fs::set_permissions(scene.file("kes.yml"), fs::Permissions::from_mode(0o644)).unwrap();
    let found = scene.server(&["--write"]);
    found.fails("key directory", &["others/keys\" is not there, and user 4242 may not make it"]);
}

#[test]
fn a_path_on_which_no_directory_can_be_made_is_the_cause() {
    let scene = Scene::new();
    symlink("nowhere", scene.file("link")).unwrap();
    symlink("loop", scene.file("loop")).unwrap();
    let long = "n".repeat(300);
    for (path, words) in [
        ("link", "leads nowhere"),
        ("loop", "leads nowhere"),
        ("server.crt/keys", "server.crt\" is not a directory"),
        (&long, "too long"),
    ] {
        scene.configure(&format!("fs: {{path: {path}}}"), "");
        scene.server(&[]).fails("configuration", &["keystore.fs.path", words]);
    }
}

#[test]
fn what_answers_in_the_place_of_a_vault_is_repeated() {
    let site = Site::saying(
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
    );
    let scene = Scene::new();
    let url = format!("http://127.0.0.1:{}", site.port);
    scene.configure(&format!("vault: {{endpoint: '{url}', approle: {{id: a, secret: b}}}}"), "");
    let words =
        ["status 400: Client sent an HTTP request to an HTTPS server.: this is no answer of Vault"];
    scene.server(&[]).fails("Vault", &words);
    let init = scene.kes(&["init", "--json", "--vault", &url]);
    let told: Value = serde_json::from_slice(&init.stdout).unwrap();
    let told = told["vault"][0].as_str().unwrap();
    assert!(
        told.ends_with("status 400: Client sent an HTTP request to an HTTPS server."),
        "{told}"
    );
}

#[test]
fn keys_of_another_user_are_lost_to_the_owner_of_the_directory() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can make one
    }
    let scene = Scene::new();
    scene.write("keys/made-by-root", &stored_key(&[1; 32]), 0o600);
    std::os::unix::fs::chown(scene.file("keys"), Some(4242), None).unwrap();
    let found = scene.server(&[]);
    found.fails("key directory", &["do not belong to user 4242", ": 1, such as \"made-by-root\""]);
}

#[test]
fn files_that_are_no_keys_and_files_that_others_can_read_are_warnings() {
    let scene = Scene::new();
    scene.write("keys/open", &stored_key(&[1; 32]), 0o644);
    scene.write("keys/README", "keys of the company", 0o600);
    fs::create_dir(scene.file("keys/lost+found")).unwrap();
    scene.write("keys/\\tmp-1-0123456789abcdef", "", 0o600);
    let found = scene.server(&[]);
    found.warns("that are no keys: 2, such as ");
    found.warns("that are open to other users: 1, such as \"open\"");
    let output = scene.kes(&["doctor", "--config", "kes.yml", "--strict"]);
    assert_eq!(Some(1), output.status.code());
}

#[test]
fn keys_that_no_client_can_name_are_a_warning_and_files_that_are_no_keys_are_not_among_them() {
    let scene = Scene::new();
    scene.write("keys/my.key", &stored_key(&[1; 32]), 0o600);
    scene.write("keys/my-key", &stored_key(&[2; 32]), 0o600);
    scene.write("keys/README.md", "keys of the company", 0o600);
    scene.server(&[]).warns("file of the newest generation: 1, such as \"my.key\"");
}

#[test]
fn a_vault_that_nobody_reaches_is_the_cause() {
    let scene = Scene::new();
    let port = free_port();
    let vault = format!(
        "vault: {{endpoint: \"http://127.0.0.1:{port}\", version: v2, approle: {{id: a, secret: \
         not-for-others}}}}"
    );
    scene.configure(&vault, "");
    let found = scene.server(&["--write"]);
    found.fails("Vault", &["connection refused: is it running, and is the endpoint right?"]);
    assert!(!found.0.to_string().contains("not-for-others"));
}

#[test]
fn an_appliance_that_refuses_the_login_is_the_cause() {
    let appliance = Appliance::start();
    let scene = Scene::new();
    scene.configure(&appliance.settings(), "");
    let found = scene.server(&["--write"]);
    assert_eq!(0, found.0["failed"], "{found:#?}");
    found.has("it gives a token, which may list secrets");
    found.has("was created, read and deleted");
    assert_eq!(0, appliance.simulator.secrets(""));
    scene.configure(&appliance.settings_with("", "another-token", "ca.crt"), "");
    let found = scene.server(&["--write"]);
    found.fails("KeySecure", &["check gemalto.keysecure.credentials.token"]);
    assert!(!found.0.to_string().contains("another-token") && !found.0.to_string().contains(TOKEN));
}

/// What a server answers whose clock is a year behind.
fn late(line: &str) -> String {
    let body = match line.split(' ').nth(1) {
        Some("/version") => json!({ "version": "1.0.0", "commit": "" }),
        _ => json!({ "admin": true }),
    };
    let body = body.to_string();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Date: Mon, 24 Nov 2025 10:00:00 GMT\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn a_clock_that_is_wrong_comes_before_the_certificates_that_seem_so() {
    let mut scene = Scene::new();
    // As a key store: its certificate, and that of the server, seem to have expired.
    let expired = Identity::self_signed("server", &Profile::server().valid_for(-60));
    let site = Site::answering(&expired, None, late);
    scene.write("server.crt", &expired.certificate_pem(), 0o644);
    scene.write("server.key", &expired.key_pem(), 0o600);
    let vault = format!(
        "vault: {{endpoint: \"https://127.0.0.1:{}\", version: v2, approle: {{id: a, secret: b}}, tls: \
         {{ca: server.crt}}}}",
        site.port
    );
    scene.configure(&vault, "");
    let clock = ["ahead of that of 127.0.0.1", "timedatectl set-ntp true"];
    scene.server(&[]).fails("clock", &clock);
    // As a server.
    let key: Value =
        serde_json::from_slice(&scene.kes(&["identity", "new", "--json"]).stdout).unwrap();
    let api_key = key["api_key"].as_str().unwrap();
    scene.environment = vec![
        ("KES_API_KEY", api_key.to_owned()),
        ("KES_SERVER", format!("127.0.0.1:{}", site.port)),
        ("KES_CA_FILE", scene.file("server.crt").display().to_string()),
    ];
    let clock = [&format!("ahead of that of https://127.0.0.1:{}", site.port), clock[1]];
    scene.doctor(&[]).fails("clock", &clock);
}

// a client

/// A client of `server` that trusts it, with the certificate of `identity`.
fn client(server: &Server, identity: &Identity) -> Scene {
    let mut scene = Scene::new();
    scene.write("client.key", &identity.key_pem(), 0o600);
    scene.write("client.crt", &identity.certificate_pem(), 0o644);
    scene.environment = vec![
        ("KES_SERVER", format!("https://{}", server.address)),
        ("KES_SERVER_IDENTITY", server.certificate.id.clone()),
        ("KES_CLIENT_KEY", "client.key".to_owned()),
        ("KES_CLIENT_CERT", "client.crt".to_owned()),
    ];
    scene
}

#[test]
fn a_sound_client_knows_its_servers_and_what_it_may_do() {
    let app = Identity::new("app");
    let server = Server::start(|config| {
        config.policy("app", &["/v1/key/*/app-*"], &[&app]);
    });
    let found = client(&server, &app).doctor(&[]);
    found.has(&format!("its identity is {}", app.id));
    found.has(&format!("like that of https://{}", server.address));
    found.has(&format!(
        "https://{} answers: {}, its identity is {}",
        server.address,
        env!("CARGO_PKG_VERSION"),
        server.certificate.id
    ));
    found.has("policy \"app\" allows /v1/key/*/app-*");
    let found = client(&server, &server.root_identity).doctor(&[]);
    assert_eq!(0, found.0["failed"].as_u64().unwrap() + found.0["warnings"].as_u64().unwrap());
    found.has("all of them, as this client is the admin");
    let mut plain = client(&server, &app);
    plain.environment[0].1 = format!("http://{}", server.address);
    plain.doctor(&[]).warns("the address of the server has http://");
    // Both sides at once.
    let config = server.file("config.yml");
    let found = client(&server, &app).doctor(&["--config", config.to_str().unwrap(), "--auth=off"]);
    found.has("this server listens on ");
    found.has("policy \"app\" allows ");
}

#[test]
fn a_server_that_has_lost_its_directory_of_keys_is_not_sound() {
    let server = Server::start(|config| config.is_newest = true);
    let root = client(&server, &server.root_identity);
    assert_eq!(0, root.doctor(&[]).0["failed"]);
    fs::rename(server.keys(), server.file("moved")).unwrap();
    let gone = ["key directory: ", "server: https://"];
    let config = server.file("config.yml");
    let found = wait_for(PATIENCE, || {
        let found = root.doctor(&["--config", config.to_str().unwrap(), "--write"]);
        (found.0["failed"] == 2).then_some(found)
    });
    let found = found.expect("both sides see it");
    // A server that is started again makes an empty one.
    assert!(!format!("{found:?}").contains("try again"), "{found:#?}");
    let failed = found.all("failed");
    let are_it = failed.iter().zip(gone).all(|(line, start)| line.starts_with(start));
    assert!(are_it && failed[1].contains("key store is not "), "{failed:#?}");
    assert!(failed[0].contains("is not there, but the server runs"), "{failed:#?}");
    assert!(failed[0].contains("make no other one"), "{failed:#?}");
}

#[test]
fn a_server_that_is_not_trusted_is_the_cause_with_the_command_to_trust_it() {
    let server = Server::start(|_| {});
    let mut scene = client(&server, &server.root_identity);
    scene.environment.retain(|(name, _)| *name != "KES_SERVER_IDENTITY");
    let export = format!("trust it: export KES_SERVER_IDENTITY={}", server.certificate.id);
    scene.doctor(&[]).fails("server", &["its certificate is not trusted", &export]);
    let other = "0".repeat(64);
    scene.environment.push(("KES_SERVER_IDENTITY", other.clone()));
    scene.doctor(&[]).fails("server", &[&server.certificate.id, &other]);
}

#[test]
fn of_several_servers_the_one_that_is_not_there_is_named() {
    let server = Server::start(|_| {});
    let scene = client(&server, &server.root_identity);
    let gone = format!("127.0.0.1:{}", free_port());
    let found = scene.doctor(&["--server", &format!("{},{gone}", server.address)]);
    found.fails("server", &[&gone, "connection refused"]);
    found.has(&format!("https://{} answers", server.address));
}

#[test]
fn a_client_without_a_policy_learns_what_the_admin_has_to_do() {
    let stranger = Identity::new("stranger");
    for is_newest in [false, true] {
        let server = Server::start(|config| {
            config.is_newest = is_newest;
            if is_newest {
                config.more = "api: {}\n".to_owned();
            }
        });
        let advice = match is_newest {
            true => format!("add {} to the identities of a policy", stranger.id),
            false => format!("kes identity assign {} POLICY", stranger.id),
        };
        let found = client(&server, &stranger).doctor(&[]);
        found.fails("rights", &["no policy is for this client", &advice]);
    }
}

#[test]
fn a_client_without_or_with_a_wrong_key_is_the_cause() {
    let mut scene = Scene::new();
    scene.doctor(&[]).fails("client", &["no TLS client certificate", "KES_API_KEY"]);
    let output = scene.kes(&["doctor", "--write"]);
    assert_eq!(Some(1), output.status.code());
    assert!(String::from_utf8_lossy(&output.stderr).contains("name its file with --config"));
    scene.environment = vec![("KES_API_KEY", "kes:v1:secret-but-wrong".to_owned())];
    let found = scene.doctor(&[]);
    found.fails("client", &["check KES_API_KEY"]);
    let key: Value =
        serde_json::from_slice(&scene.kes(&["identity", "new", "--json"]).stdout).unwrap();
    scene.environment[0].1 = key["api_key"].as_str().unwrap().to_owned();
    scene.doctor(&["--server", "ftp://kes"]).fails("client", &["it must start with https://"]);
    assert!(!found.0.to_string().contains("secret-but-wrong"));
}

// kes server --check

#[test]
fn a_server_checks_its_settings_as_config_check_does() {
    let scene = Scene::new();
    for more in ["", "cahce: {}\n", "tls: {}\n"] {
        scene.configure("fs: {path: keys}", more);
        let checked = scene.kes(&["config", "check", "kes.yml"]);
        let server = scene.kes(&["server", "--config", "kes.yml", "--check"]);
        assert_eq!(checked.stdout, server.stdout);
        assert_eq!(checked.status.code(), server.status.code());
        assert_eq!(Some(if more.is_empty() { 0 } else { 78 }), server.status.code());
    }
    let flags = ["server", "--check", "--root", "disabled", "--key", "server.key"];
    let output = scene.kes(&flags);
    assert_eq!(Some(78), output.status.code());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("<flags>: error: --cert: "), "{text}");
    let output = scene.kes(&["server", "--check", "--dev"]);
    assert_eq!(Some(1), output.status.code());
}
