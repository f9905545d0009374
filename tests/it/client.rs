//! The commands of clients against a running server, and what they check before they ask it.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::common::{Authority, Identity, OpenSsl, PATIENCE, Profile, Site, free_port};

/// A folder of its own for a test, with the environment of the commands run in it.
struct Scene {
    dir: PathBuf,
    env: Vec<(&'static str, String)>,
}

impl Scene {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("kes-client-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let env = Vec::new();
        Self { dir, env }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kes"));
        command
            .args(args)
            .current_dir(&self.dir)
            .env_clear()
            .envs(self.env.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_with(args, "")
    }

    fn run_with(&self, args: &[&str], stdin: &str) -> Output {
        let mut child = self.command(args).spawn().unwrap();
        // A command that reads no input may be gone already.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Runs a command that succeeds without a word on stderr.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!((Some(0), ""), (output.status.code(), &*stderr(&output)), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that fails with exit code 1 and nothing but `Error: ` and this text.
    fn fails(&self, args: &[&str], text: &str) {
        let output = self.run(args);
        assert_eq!(
            (Some(1), format!("Error: {text}\n")),
            (output.status.code(), stderr(&output)),
            "{args:?}"
        );
        assert!(output.stdout.is_empty(), "{args:?}");
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&self.dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn vectors() -> serde_json::Value {
    serde_json::from_str(include_str!("../../testdata/identities.json")).unwrap()
}

#[test]
fn arguments_are_checked_before_the_environment() {
    let scene = Scene::new("arguments");
    for command in ["create", "delete", "derive", "encrypt", "decrypt", "import"] {
        scene.fails(&["key", command], "no key name specified");
        if ["create", "delete"].contains(&command) {
            continue;
        }
        scene.fails(&["key", command, "1", "2", "3", "4"], "too many arguments");
    }
    scene
        .fails(
            &["key", "create", "name", "%"],
            "invalid key: illegal base64 data at input byte 0; a second word that is long, or has other \
             characters than a-z, A-Z, 0-9, - and _, is taken for a key to import: create such keys one by one",
        );
    scene.fails(&["key", "decrypt", "name"], "no ciphertext specified");
    scene.fails(&["key", "encrypt", "name"], "no message specified");
    scene.fails(
        &["key", "encrypt", "name", "-", "-"],
        "only one value can be read from standard input",
    );
    scene.fails(
        &["server", "--auth", "maybe"],
        "invalid option for --auth: \"maybe\": use on or off",
    );
    scene.fails(&["server", "now"], "too many arguments");
}

#[test]
fn a_full_disk_is_an_error() {
    let scene = Scene::new("full");
    let new = ["identity", "new", "--key", "new.key", "--cert", "new.crt", "me"];
    for (args, end) in [(&["--help"][..], "(os error 28)"), (&new, "certificate are written)")] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = scene.command(args).stdout(full).output().unwrap();
        assert_eq!(Some(1), output.status.code());
        let text = stderr(&output);
        assert!(text.contains("failed to write to standard output"), "{text}");
        assert!(text.trim_end().ends_with(end), "{text}");
    }
}

#[test]
fn the_first_certificate_of_a_file_counts() {
    let scene = Scene::new("first");
    scene.ok(&["tool", "identity", "new"]);
    let vectors = vectors();
    let first = vectors["certificates"][0]["certificate_pem"].as_str().unwrap();
    let text = scene.file("private.key") + first + &scene.file("public.crt");
    let output = scene.run_with(&["identity", "of"], &text);
    assert_eq!(
        vectors["multi_block_pem"]["expected_identity"],
        &*String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn names_of_new_identities_are_checked() {
    let scene = Scene::new("names");
    let new = |arg: &'static str| ["tool", "identity", "new", arg];
    scene.fails(&new("--ip=1.2.3"), "\"1.2.3\" is not a valid IP address");
    scene.fails(&new("--dns=\u{e9}"), "\"\u{e9}\" is not a valid host name");
    assert!(scene.files().is_empty());
}

/// A server with a volatile key store, ended when dropped.
struct Server(Child);

impl Server {
    /// Starts a server whose root is the client of `scene`.
    fn start(scene: &mut Scene) -> Self {
        let new = ["tool", "identity", "new"];
        scene
            .ok(&[&new[..], &["--server", "--ip=127.0.0.1", "--key=s.key", "--cert=s.crt"]]
                .concat());
        scene.ok(&[&new[..], &["me"]].concat());
        Self::start_with_files(scene)
    }

    /// Starts a server with `s.key` and `s.crt`, whose root is in `private.key` and `public.crt`.
    fn start_with_files(scene: &mut Scene) -> Self {
        let root = scene.ok(&["tool", "identity", "of", "public.crt"]);
        let address = format!("127.0.0.1:{}", free_port());
        let args = ["server", "--auth=off", "--key=s.key", "--cert=s.crt", "-q"];
        let child = scene
            .command(&[&args[..], &["--root", &root, "--addr", &address]].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while TcpStream::connect(&address).is_err() {
            assert!(started.elapsed() < PATIENCE);
            thread::sleep(Duration::from_millis(20));
        }
        let path = |name: &str| Path::join(&scene.dir, name).to_str().unwrap().to_owned();
        scene.env = vec![
            ("KES_SERVER", format!("https://{address}")),
            ("KES_CLIENT_KEY", path("private.key")),
            ("KES_CLIENT_CERT", path("public.crt")),
            ("SSL_CERT_FILE", path("s.crt")),
            // Never used on the way to this machine itself.
            ("HTTPS_PROXY", "http://127.0.0.1:1".to_owned()),
        ];
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn keys_live_from_creation_to_deletion() {
    let mut scene = Scene::new("keys");
    let _server = Server::start(&mut scene);
    assert_eq!("", scene.ok(&["key", "create", "my-key"]));
    let output = scene.run(&["key", "create", "my-key"]);
    assert_eq!("Failed to create key \"my-key\": key does already exist\n", stderr(&output));
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let output = scene.run_with(&["key", "import", "given", "-"], &format!("{key}\n"));
    assert_eq!((Some(0), ""), (output.status.code(), &*stderr(&output)));
    scene.fails(
        &["key", "create", "given", key],
        "failed to import key \"given\": key does already exist",
    );
    assert_eq!("{\"name\":\"given\"}\n{\"name\":\"my-key\"}\n", scene.ok(&["key", "list"]));
    assert_eq!("{\"name\":\"my-key\"}\n", scene.ok(&["key", "list", "my-*", "--json"]));
    assert_eq!("[\"my-key\"]\n", scene.ok(&["key", "ls", "my-*", "--json"]));

    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let text = scene.ok(&["key", "derive", "my-key", "Y29udGV4dA=="]);
    assert!(!text.ends_with('\n'));
    let derived = json(text);
    let ciphertext = derived["ciphertext"].as_str().unwrap();
    let decrypt = ["key", "decrypt", "my-key", ciphertext];
    let opened = scene.ok(&[&decrypt[..], &["Y29udGV4dA=="]].concat());
    assert_eq!(format!("{{\"plaintext\":{}}}", derived["plaintext"]), opened);
    scene.fails(
        &decrypt,
        "failed to decrypt ciphertext: decryption failed: ciphertext is not authentic",
    );
    let sealed = json(scene.ok(&["key", "encrypt", "given", "hello"]));
    let sealed = sealed["ciphertext"].as_str().unwrap();
    let output = scene.run_with(&["key", "decrypt", "given", "-"], sealed);
    assert_eq!(b"{\"plaintext\":\"aGVsbG8=\"}", &*output.stdout);

    scene.ok(&["key", "delete", "my-key"]);
    scene.fails(&["key", "dek", "my-key"], "failed to derive key: key does not exist");
}

#[test]
fn several_keys_are_deleted_whatever_becomes_of_the_others() {
    let mut scene = Scene::new("several");
    let server = Server::start(&mut scene);
    let list = |scene: &Scene| scene.ok(&["key", "list", "--json=false"]);
    scene.ok(&["key", "create", "a", "b", "c", "d"]);
    assert_eq!("a\nb\nc\nd\n", list(&scene));
    scene.ok(&["key", "rm", "a", "b"]);
    scene.fails(
        &["key", "rm", "x/y", "c", "", "--", "-k"],
        "invalid key name \"x/y\": it contains '/'\nError: invalid key name \"\": it is empty",
    );
    assert_eq!("d\n", list(&scene));
    let output = scene.run(&["key", "rm", "d*"]);
    assert_eq!(
        (Some(0), "Warning: \"d*\" is taken for a name, not for a pattern\n".to_owned()),
        (output.status.code(), stderr(&output))
    );
    assert_eq!("d\n", list(&scene));

    // A client that may delete only one of them.
    let root = scene.env.clone();
    let new = ["tool", "identity", "new", "--key=app.key", "--cert=app.crt"];
    scene.ok(&new);
    let app = scene.ok(&["tool", "identity", "of", "app.crt"]);
    let policy = scene.dir.join("app.json");
    fs::write(&policy, r#"{"paths":["/v1/key/delete/d"]}"#).unwrap();
    scene.ok(&["policy", "add", "app", "app.json"]);
    scene.ok(&["identity", "assign", &app, "app"]);
    for (name, value) in &mut scene.env {
        *value = value.replace("private.key", "app.key");
        if *name == "KES_CLIENT_CERT" {
            *value = value.replace("public.crt", "app.crt");
        }
    }
    scene.fails(
        &["key", "rm", "e", "d", "f"],
        "failed to delete key \"e\": prohibited by policy\n\
         Error: failed to delete key \"f\": prohibited by policy",
    );
    scene.env = root;
    assert_eq!("", list(&scene));

    drop(server);
    let output = scene.run(&["key", "rm", "a", "b"]);
    assert_eq!(Some(1), output.status.code());
    let text = stderr(&output);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("Error: failed to delete key \"a\": https://"), "{text}");
    assert_eq!(["Error: failed to delete key \"b\": not tried without a server"], lines[1..]);
}

/// Listens as something that is no kes server; each connection is handled by `serve`.
fn stranger(serve: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for socket in listener.incoming() {
            serve(socket.unwrap());
        }
    });
    format!("https://{address}")
}

/// Answers over TLS with `answer`.
fn stranger_with_tls(answer: &'static str) -> String {
    let identity = Identity::self_signed("stranger", &Profile::server());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth();
    let config = config.with_single_cert(identity.chain.clone(), identity.key());
    let config = Arc::new(config.unwrap());
    stranger(move |socket| {
        let connection = rustls::ServerConnection::new(config.clone()).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, socket);
        // Of a client that has had enough, nothing more comes.
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(answer.as_bytes());
        stream.conn.send_close_notify();
        let _ = stream.flush();
    })
}

#[test]
fn what_is_no_kes_server_is_described() {
    let mut scene = Scene::new("strangers");
    scene.ok(&["tool", "identity", "new"]);
    let path = |name: &str| Path::join(&scene.dir, name).to_str().unwrap().to_owned();
    let files = [("KES_CLIENT_KEY", path("private.key")), ("KES_CLIENT_CERT", path("public.crt"))];
    let mut tell = |server: String, what: &str| {
        scene.env = files.to_vec();
        scene.env.push(("KES_SERVER", server.clone()));
        let asked = Instant::now();
        let wanted = format!(": {server}: {what}; is KES_SERVER right?\n");
        for command in
            [&["key", "create", "-k", "a"][..], &["key", "list", "-k"], &["log", "trace", "-k"]]
        {
            // A second look gives what is there one second to say what it is.
            let mut output = scene.run(command);
            for _ in 0..4 {
                if stderr(&output).ends_with(&wanted) {
                    break;
                }
                output = scene.run(command);
            }
            let text = stderr(&output);
            assert_eq!(Some(1), output.status.code(), "{command:?}: {text}");
            assert!(text.ends_with(&wanted), "{command:?}: {text}");
            assert!(output.stdout.is_empty(), "{command:?}");
        }
        // Less than the time after which a command gives up.
        assert!(asked.elapsed() < Duration::from_secs(29), "{what} takes long");
    };

    let http = stranger(|mut socket| {
        let _ = socket.read(&mut [0; 4096]);
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    tell(http, "what is there speaks HTTP without TLS, so it is no kes server");
    let ssh = stranger(|mut socket| {
        let _ = socket.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n");
        let _ = socket.read(&mut [0; 4096]);
    });
    tell(ssh, "an SSH server is there, and no kes server: it says \"SSH-2.0-OpenSSH_9.2p1\"");
    let redis = stranger(|mut socket| {
        let _ = socket.read(&mut [0; 4096]);
        let _ = socket.write_all(b"-ERR unknown \x1b[31m command\r\n");
    });
    tell(
        redis,
        "what is there speaks no TLS, so it is no kes server: it says \"-ERR unknown \\u{1b}[31m command\"",
    );
    let imap = stranger_with_tls("* OK IMAP4rev1 ready\r\n");
    tell(imap, "what answers there speaks TLS, but no HTTP");
    let begin = "no kes server answers there: the answer";
    for (answer, what) in [
        (
            "HTTP/1.1 404 Not Found\r\nServer: nginx\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
            "by \"nginx\" with status 404 has the type \"text/html\"",
        ),
        // Not a success, whatever the status says.
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 6\r\n\r\n<html>",
            "with status 200 has the type \"text/html\"",
        ),
        (
            "HTTP/1.1 301 Moved\r\nLocation: https://other.test/\r\nContent-Length: 0\r\n\r\n",
            "with status 301 leads to \"https://other.test/\"",
        ),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"errors\":[\"\"]}",
            "with status 404 says \"{\\\"errors\\\":[\\\"\\\"]}\"",
        ),
    ] {
        tell(stranger_with_tls(answer), &format!("{begin} {what}"));
    }
}

#[test]
fn a_service_without_this_api_is_doubted() {
    let mut scene = Scene::new("no-api");
    scene.ok(&["tool", "identity", "new"]);
    let server = stranger_with_tls(
        "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 19\r\n\r\n\
         404 page not found\n",
    );
    let path = |name: &str| Path::join(&scene.dir, name).to_str().unwrap().to_owned();
    scene.env = vec![
        ("KES_SERVER", server),
        ("KES_CLIENT_KEY", path("private.key")),
        ("KES_CLIENT_CERT", path("public.crt")),
    ];
    scene.fails(
        &["key", "delete", "-k", "a"],
        "failed to delete key \"a\": 404 page not found: it has no such API; is it a kes server?",
    );
}

#[test]
fn a_server_that_is_not_trusted_is_used_only_with_the_flag() {
    let mut scene = Scene::new("trust");
    let _server = Server::start(&mut scene);
    scene.env.retain(|(name, _)| *name != "SSL_CERT_FILE");
    let trust = scene.dir.join("public.crt").to_str().unwrap().to_owned();
    scene.env.push(("SSL_CERT_FILE", trust));
    let output = scene.run(&["key", "list"]);
    assert_eq!(Some(1), output.status.code());
    let text = stderr(&output);
    assert!(text.contains("its certificate is not trusted"), "{text}");
    assert_eq!("", scene.ok(&["key", "list", "-k"]));
    assert_eq!("", scene.ok(&["key", "list", "-insecure"]));
}

#[test]
fn trusted_certificates_that_are_not_there_are_told_apart() {
    let mut scene = Scene::new("no-trust");
    let _server = Server::start(&mut scene);
    let none = scene.write("none.pem", "no certificate");
    for (file, why) in [
        ("missing.pem", "not trusted, as none is (failed to read"),
        ("missing.pem", "'missing.pem'): set SSL_CERT_FILE"),
        (&none, "not trusted, as none is: set SSL_CERT_FILE"),
    ] {
        scene.env.retain(|(name, _)| *name != "SSL_CERT_FILE");
        scene.env.push(("SSL_CERT_FILE", file.to_owned()));
        scene.is_refused(why);
    }
}

impl Scene {
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn write_identity(&self, (key, cert): (&str, &str), identity: &Identity) {
        self.write(key, &identity.key_pem());
        self.write(cert, &identity.certificate_pem());
    }

    /// Sets `SSL_CERT_FILE` to these.
    fn trust(&mut self, identities: &[&Identity]) {
        let text: String = identities.iter().map(|identity| identity.certificate_pem()).collect();
        let path = self.write("trusted.pem", &text);
        self.env.retain(|(name, _)| *name != "SSL_CERT_FILE");
        self.env.push(("SSL_CERT_FILE", path));
    }

    /// With a client of its own for what listens at `port`.
    fn asking(name: &str, port: u16) -> Self {
        let mut scene = Self::new(name);
        scene.write_identity(("private.key", "public.crt"), &Identity::new("me"));
        scene.env = vec![
            ("KES_SERVER", format!("https://127.0.0.1:{port}")),
            ("KES_CLIENT_KEY", "private.key".to_owned()),
            ("KES_CLIENT_CERT", "public.crt".to_owned()),
        ];
        scene
    }

    /// Asserts that nothing is asked because of the server's certificate, unless that is not checked.
    #[track_caller]
    fn is_refused(&self, why: &str) {
        let output = self.run(&["key", "list"]);
        let text = stderr(&output);
        assert_eq!(Some(1), output.status.code(), "{text}");
        assert!(text.contains(why), "{why:?} is not in {text:?}");
        assert_eq!("", self.ok(&["key", "list", "-k"]));
    }
}

#[test]
fn a_proxy_of_a_kind_that_is_not_supported_is_refused() {
    let mut scene = Scene::asking("socks", 1);
    scene.env[0].1 = "https://kes.example.com".to_owned();
    scene.env.push(("HTTPS_PROXY", String::new()));
    for (proxy, why) in [
        ("socks5://127.0.0.1:1", "invalid HTTPS_PROXY: it must start with http://"),
        ("https://127.0.0.1:1", "invalid HTTPS_PROXY: a proxy is reached without TLS"),
    ] {
        scene.env.last_mut().unwrap().1 = proxy.to_owned();
        for command in [&["key", "list"][..], &["healthcheck"]] {
            let output = scene.run(command);
            let text = stderr(&output);
            assert_eq!(Some(1), output.status.code(), "{text}");
            assert!(text.contains(why), "{text}");
        }
    }
}

const SELF_SIGNED: &str = "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1";

#[test]
fn a_server_whose_certificate_is_itself_trusted_is_used() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let mut scene = Scene::new("itself");
    scene.write_identity(("private.key", "public.crt"), &Identity::new("me"));
    let own = openssl.self_signed("own", SELF_SIGNED);
    scene.write_identity(("s.key", "s.crt"), &own);
    let _server = Server::start_with_files(&mut scene);
    scene.ok(&["key", "create", "my-key"]);
    let root = scene.env[0].1.replace("127.0.0.1", "localhost");
    scene.env[0].1 = root;
    assert_eq!("{\"name\":\"my-key\"}\n", scene.ok(&["key", "list"]));
}

#[test]
fn a_server_with_the_certificate_of_an_unknown_authority_is_refused_with_advice_that_helps() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let mut scene = Scene::new("advice");
    scene.write_identity(("private.key", "public.crt"), &Identity::new("me"));
    let own = openssl.self_signed("own", SELF_SIGNED);
    scene.write_identity(("s.key", "s.crt"), &own);
    let server = Server::start_with_files(&mut scene);
    const IS_AUTHORITY: &str =
        "its certificate is not trusted: it is one of a certificate authority";
    // Nobody of that name, the same name with another key, the same key again.
    let double = openssl.self_signed("double", SELF_SIGNED);
    openssl.run(&format!("req -x509 -new -key own.key -out own.crt -days 3 {SELF_SIGNED}"));
    let again = openssl.identity("own");
    for other in [&Identity::new("other"), &double, &again] {
        scene.trust(&[other]);
        scene.is_refused(IS_AUTHORITY);
    }
    let text = stderr(&scene.run(&["key", "list"]));
    drop(server);
    openssl.run(&OpenSsl::command_in(&text, "openssl req -x509 -newkey"));
    let made = openssl.identity("server");
    scene.write_identity(("s.key", "s.crt"), &made);
    let _server = Server::start_with_files(&mut scene);
    scene.ok(&["key", "create", "my-key"]);
}

#[test]
fn a_trusted_certificate_of_a_server_must_be_for_its_host() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    const MAKE_ONE: &str =
        "its certificate names no host: make one with subjectAltName=IP:127.0.0.1";
    const OTHER: &str =
        "-subj /CN=127.0.0.1 -addext subjectAltName=DNS:kes.example.com,IP:192.0.2.1";
    for (name, more, why) in [
        ("none", "-subj /CN=127.0.0.1", MAKE_ONE),
        (
            "other",
            OTHER,
            "its certificate is for another host: it is for kes.example.com, 192.0.2.1, not for \
             127.0.0.1: check KES_SERVER",
        ),
    ] {
        let own = openssl.self_signed(name, more);
        let site = Site::tls(&own, None);
        let mut scene = Scene::asking(name, site.port);
        scene.trust(&[&own]);
        scene.is_refused(why);
    }
    let own = openssl.version_1("v1", "-signkey v1.key");
    let site = Site::tls(&own, None);
    let mut scene = Scene::asking("v1", site.port);
    scene.trust(&[&own]);
    scene.is_refused(
        "its certificate is not of X.509 version 3, so it names no host: make one with \
         subjectAltName=IP:127.0.0.1 (openssl x509 -req with -extfile)",
    );
}

#[test]
fn a_trusted_certificate_of_a_server_must_be_valid_and_for_servers() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let authority = |profile: Profile| {
        let profile = Profile { is_ca: true, ..profile };
        Identity::self_signed("own", &profile)
    };
    let early = Profile { valid_since: -600, ..Profile::server() };
    let signs = format!("{SELF_SIGNED} -addext keyUsage=critical,keyCertSign");
    for (name, own, why) in [
        ("late", authority(Profile::server().valid_for(-60)), "its certificate has expired"),
        ("early", authority(early), "its certificate is not valid yet"),
        ("usage", authority(Profile::client()), "its certificate is not for servers"),
        ("signs", openssl.self_signed("signs", &signs), "it needs the key usage digitalSignature"),
    ] {
        let site = Site::tls(&own, None);
        let mut scene = Scene::asking(name, site.port);
        scene.trust(&[&own]);
        scene.is_refused(why);
    }
    for (name, own) in
        [("fine", authority(Profile::server())), ("no_usage", authority(Profile::without_usage()))]
    {
        let site = Site::tls(&own, None);
        let mut scene = Scene::asking(name, site.port);
        scene.trust(&[&own]);
        scene.ok(&["key", "list"]);
    }
}

#[test]
fn servers_of_a_trusted_authority_are_checked_as_before() {
    let authority = Authority::new("authority");
    let double = Authority::new("authority");
    let issue = |profile: Profile| authority.issue("server", &profile);
    let is_ca = Profile { is_ca: true, ..Profile::server() };
    let leaf = issue(Profile::server());
    for (name, own, why) in [
        ("late", issue(Profile::server().valid_for(-60)), "its certificate has expired"),
        ("usage", issue(Profile::client()), "its certificate is not for servers"),
        (
            "double",
            double.issue("server", &Profile::server()),
            "its certificate is not trusted: set SSL_CERT_FILE",
        ),
        ("ca", issue(is_ca), "it is one of a certificate authority"),
        ("leaf", leaf.clone(), ""),
    ] {
        let site = Site::tls(&own, None);
        let mut scene = Scene::asking(&format!("issued-{name}"), site.port);
        scene.trust(&[&authority.identity]);
        match why {
            "" => drop(scene.ok(&["key", "list"])),
            why => scene.is_refused(why),
        }
    }
}

#[test]
fn a_client_with_a_certificate_of_version_1_is_served() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let mut scene = Scene::new("version-1");
    openssl.self_signed("ca", "-subj /CN=ca");
    let own = openssl.version_1("me", "-CA ca.crt -CAkey ca.key");
    scene.write_identity(("private.key", "public.crt"), &own);
    scene.write_identity(("s.key", "s.crt"), &openssl.self_signed("own", SELF_SIGNED));
    let _server = Server::start_with_files(&mut scene);
    scene.ok(&["key", "create", "my-key"]);
}
