//! The commands of clients against servers of other generations: each works, or says that it does not. An
//! answer of an unknown form never looks like an empty list.

use std::{
    fs,
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::common::{Identity, Profile, Site, TempDir};

const ADMIN: &str = "948059b9ae45e1e957b3fdf749393afa764d473c2ca6caf94f0bd67032af369b";
const APP: &str = "3a983cbc6490fb5d48db7a99b58b843be3e8b5d839e332cf2123eacacb658d41";

/// Requests, content types and answers.
type Answers = &'static [(&'static str, &'static str, &'static str)];

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const NDJSON: &str = "application/x-ndjson";

/// Recorded from KES 0.14.0.
const V0_14: Answers = &[
    ("GET /version", TEXT, r#"{"version":"0.14.0"}"#),
    ("GET /v1/key/list/%2A", NDJSON, "{\"Name\":\"bench-t1\"}\n{\"Name\":\"a_b-c\"}\n"),
    ("GET /v1/key/list/bench%2A", NDJSON, "{\"Name\":\"bench-t1\"}\n"),
    ("GET /v1/key/list/none%2A", NDJSON, ""),
    ("GET /v1/policy/list/%2A", TEXT, "[\"pol1\",\"bench\"]\n"),
    ("GET /v1/policy/list/none%2A", TEXT, "[]\n"),
    ("GET /v1/policy/read/bench", TEXT, "{\"paths\":[\"/v1/key/create/x*\",\"/v1/key/list/*\"]}\n"),
    (
        "GET /v1/identity/list/%2A",
        TEXT,
        "{\"948059b9ae45e1e957b3fdf749393afa764d473c2ca6caf94f0bd67032af369b\":\"pol1\",\
         \"3a983cbc6490fb5d48db7a99b58b843be3e8b5d839e332cf2123eacacb658d41\":\"bench\"}\n",
    ),
    ("GET /v1/identity/list/none%2A", TEXT, "{}\n"),
    (
        "GET /v1/identity/list/3a983cbc6490fb5d48db7a99b58b843be3e8b5d839e332cf2123eacacb658d41",
        TEXT,
        "{\"3a983cbc6490fb5d48db7a99b58b843be3e8b5d839e332cf2123eacacb658d41\":\"bench\"}\n",
    ),
];

/// In the form of KES 0.18 to 2023-10-03.
const OF_2022: Answers = &[
    ("GET /version", JSON, r#"{"version":"0.22.0"}"#),
    (
        "GET /v1/key/list/%2A",
        NDJSON,
        "{\"name\":\"bench-t1\",\"id\":\"1\",\"created_by\":\"x\"}\n{\"name\":\"a_b-c\"}\n",
    ),
    ("GET /v1/key/list/bench%2A", NDJSON, "{\"name\":\"bench-t1\"}\n"),
    ("GET /v1/key/list/none%2A", NDJSON, ""),
    ("GET /v1/key/list/broken%2A", NDJSON, "{\"name\":\"a\"}\n{\"error\":\"it broke\"}\n"),
    ("GET /v1/policy/list/%2A", NDJSON, "{\"name\":\"pol1\"}\n{\"name\":\"bench\"}\n"),
    ("GET /v1/policy/list/none%2A", NDJSON, ""),
    (
        "GET /v1/policy/read/bench",
        JSON,
        "{\"allow\":[\"/v1/key/create/x*\",\"/v1/key/list/*\"],\"created_by\":\"x\"}\n",
    ),
    (
        "GET /v1/identity/list/%2A",
        NDJSON,
        "{\"identity\":\"948059b9ae45e1e957b3fdf749393afa764d473c2ca6caf94f0bd67032af369b\",\
         \"policy\":\"pol1\"}\n\
         {\"identity\":\"3a983cbc6490fb5d48db7a99b58b843be3e8b5d839e332cf2123eacacb658d41\",\
         \"policy\":\"bench\",\"created_by\":\"x\"}\n",
    ),
    ("GET /v1/identity/list/none%2A", NDJSON, ""),
];

/// Recorded from KES 2025-05-27T18-49-52Z. Keys are listed by prefix; a `*` in one stands for itself.
const NEWEST: Answers = &[
    (
        "GET /version",
        JSON,
        r#"{"version":"2025-05-27T18-49-52Z","commit":"63649d0ea9be882887631cf315c4655f3c090d8f"}"#,
    ),
    ("GET /v1/key/list/%2A", JSON, "{\"names\":[\"a_b-c\",\"bench-t1\"]}\n"),
    ("GET /v1/key/list/bench%2A", JSON, "{\"names\":[]}\n"),
    ("GET /v1/key/list/none%2A", JSON, "{\"names\":[]}\n"),
    ("GET /v1/key/list/bench", JSON, "{\"names\":[\"bench-t1\"]}\n"),
    ("GET /v1/key/list/none", JSON, "{\"names\":[]}\n"),
    ("GET /v1/policy/list/%2A", JSON, "{\"names\":[\"bench\",\"pol1\"],\"continue_at\":\"\"}\n"),
    ("GET /v1/policy/list/none%2A", JSON, "{\"names\":[],\"continue_at\":\"\"}\n"),
    ("GET /v1/policy/list/none", JSON, "{\"names\":[],\"continue_at\":\"\"}\n"),
    (
        "GET /v1/policy/read/bench",
        JSON,
        "{\"name\":\"bench\",\"allow\":{\"/v1/key/create/x*\":{},\"/v1/key/list/*\":{}},\
         \"created_at\":\"2026-11-23T07:26:44.866244507Z\",\
         \"created_by\":\"948059b9ae45e1e957b3fdf749393afa764d473c2ca6caf94f0bd67032af369b\"}\n",
    ),
    (
        "GET /v1/identity/list/%2A",
        JSON,
        "{\"identities\":[\"3a983cbc6490fb5d48db7a99b58b843be3e8b5d839e332cf2123eacacb658d41\",\
         \"948059b9ae45e1e957b3fdf749393afa764d473c2ca6caf94f0bd67032af369b\"],\"continue_at\":\"\"}\n",
    ),
    ("GET /v1/identity/list/none%2A", JSON, "{\"identities\":[],\"continue_at\":\"\"}\n"),
    ("GET /v1/identity/list/none", JSON, "{\"identities\":[],\"continue_at\":\"\"}\n"),
    (
        "GET /v1/identity/self/describe",
        JSON,
        "{\"identity\":\"948059b9ae45e1e957b3fdf749393afa764d473c2ca6caf94f0bd67032af369b\",\
         \"admin\":true,\"created_at\":\"2026-11-23T07:26:44.866244507Z\"}\n",
    ),
    (
        "GET /v1/identity/describe/3a983cbc6490fb5d48db7a99b58b843be3e8b5d839e332cf2123eacacb658d41",
        JSON,
        "{\"policy\":\"bench\",\"created_at\":\"2026-11-23T07:26:44.866244507Z\",\
         \"created_by\":\"948059b9ae45e1e957b3fdf749393afa764d473c2ca6caf94f0bd67032af369b\"}\n",
    ),
];

fn http(status: &str, kind: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// A client, and a folder for its files.
struct Scene {
    folder: TempDir,
    server: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Scene {
    /// Beside a server with these answers; of other paths it knows nothing.
    fn new(answers: Answers) -> Self {
        Self::answering(move |request| {
            let known = answers.iter().find(|(known, ..)| *known == request);
            known.map_or_else(
                || http("404 Not Found", TEXT, "404 page not found\n"),
                |(_, kind, body)| http("200 OK", kind, body),
            )
        })
    }

    fn answering(answer: impl Fn(&str) -> String + Send + 'static) -> Self {
        let folder = TempDir::new();
        let server = Identity::self_signed("server", &Profile::server());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let site = Site::answering(&server, None, move |line| {
            let request = line.trim_end_matches(" HTTP/1.1");
            seen.lock().unwrap().push(request.to_owned());
            answer(request)
        });
        let me = Identity::new("me");
        fs::write(folder.path().join("me.key"), me.key_pem()).unwrap();
        fs::write(folder.path().join("me.crt"), me.certificate_pem()).unwrap();
        fs::write(folder.path().join("server.crt"), server.certificate_pem()).unwrap();
        Self { folder, server: format!("https://127.0.0.1:{}", site.port), requests }
    }

    fn kes(&self, args: &[&str]) -> Output {
        self.kes_with(args, &[])
    }

    fn kes_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_kes"))
            .args(args)
            .current_dir(self.folder.path())
            .env_clear()
            .env("KES_SERVER", &self.server)
            .env("KES_CLIENT_KEY", "me.key")
            .env("KES_CLIENT_CERT", "me.crt")
            .env("KES_CA_FILE", "server.crt")
            .envs(environment.iter().copied())
            .output()
            .unwrap()
    }

    /// The output of a command that succeeds.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.kes(args);
        assert_eq!((Some(0), ""), (output.status.code(), &*stderr(&output)), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The error of a command that fails and prints nothing else.
    #[track_caller]
    fn error(&self, args: &[&str]) -> String {
        let output = self.kes(args);
        assert_eq!((Some(1), 0), (output.status.code(), output.stdout.len()), "{args:?}");
        stderr(&output)
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn lists_of_every_generation_are_printed() {
    for answers in [V0_14, OF_2022, NEWEST] {
        let scene = Scene::new(answers);
        assert_eq!("a_b-c\nbench-t1\n", scene.ok(&["key", "list", "--json=false"]));
        assert_eq!("bench-t1\n", scene.ok(&["key", "list", "bench*", "--json=false"]));
        assert_eq!("", scene.ok(&["key", "list", "none*", "--json=false"]));
        assert_eq!("[\"bench\",\"pol1\"]\n", scene.ok(&["policy", "list", "--json"]));
        assert_eq!("[]\n", scene.ok(&["policy", "list", "none*", "--json"]));
        let identities = scene.ok(&["identity", "list", "--json"]);
        assert!(identities.contains(ADMIN) && identities.contains(APP), "{identities}");
        let policy = scene.ok(&["policy", "show", "--json", "bench"]);
        assert!(policy.contains("/v1/key/create/x*"), "{policy}");
    }
    let policies = format!("{{\"{APP}\":\"bench\",\"{ADMIN}\":\"pol1\"}}");
    for answers in [V0_14, OF_2022] {
        assert_eq!(policies, Scene::new(answers).ok(&["identity", "list"]));
    }
    let newest = Scene::new(NEWEST);
    assert_eq!(format!("Identity\n{APP}\n{ADMIN}\n"), newest.ok(&["identity", "ls"]));
    assert_eq!(format!("[\"{APP}\",\"{ADMIN}\"]\n"), newest.ok(&["identity", "ls", "--json"]));
    assert!(Scene::new(OF_2022).error(&["key", "list", "broken*"]).ends_with("it broke\n"));
}

#[test]
fn an_identity_is_described_by_every_generation() {
    for answers in [V0_14, NEWEST] {
        let text = Scene::new(answers).ok(&["identity", "info", APP]);
        assert!(text.starts_with(&format!("Identity    {APP}\n")), "{text}");
        let end = "Policy      bench\nAllow       /v1/key/create/x*\n            /v1/key/list/*\n";
        assert!(text.ends_with(end), "{text}");
    }
    let newest = Scene::new(NEWEST);
    let text = newest.ok(&["identity", "info"]);
    assert!(
        text.contains("\nCreated At  2026-11-23T07:26:44.866244507Z\nRole        Admin\n"),
        "{text}"
    );
    assert!(newest.ok(&["identity", "info", "--json"]).starts_with("{\"identity\":\"9480"));
    assert!(Scene::new(V0_14).error(&["identity", "info"]).contains("failed to describe identity"));
}

#[test]
fn an_answer_that_is_none_is_an_error_for_every_command() {
    for body in ["", "null", "{\"a\":1}", "[{}]", "{\"names\":null,\"identities\":null}"] {
        let scene = Scene::answering(move |_| http("200 OK", JSON, body));
        for args in [
            &["key", "list"][..],
            &["policy", "list"],
            &["policy", "show", "a"],
            &["identity", "list"],
            &["identity", "info"],
            &["policy", "why", APP, "/v1/key/create/a"],
            &["key", "derive", "a"],
        ] {
            let text = scene.error(args);
            assert!(text.starts_with("Error: failed to "), "{body}: {args:?}: {text}");
        }
    }
}

#[test]
fn what_the_newest_generation_no_longer_does_is_told() {
    let scene = Scene::new(NEWEST);
    for args in [&["identity", "assign", APP, "bench"][..], &["identity", "forget", APP]] {
        let text = scene.error(args);
        assert!(text.contains("can't do that while it runs: edit policy.<name>."), "{text}");
    }
}

#[test]
fn a_list_in_pages_is_read_to_its_end() {
    fn page(names: std::ops::Range<u32>, next: &str) -> String {
        let names: Vec<_> = names.map(|number| format!("\"key-{number:04}\"")).collect();
        let body = format!("{{\"names\":[{}],\"continue_at\":\"{next}\"}}\n", names.join(","));
        http("200 OK", JSON, &body)
    }
    let scene = Scene::answering(|request| match request {
        "GET /v1/key/list/%2A" | "GET /v1/key/list/key-" => page(0..1024, "key-1024"),
        "GET /v1/key/list/key-1024" => page(1024..2048, "key-2048"),
        "GET /v1/key/list/key-2048" => page(2048..2050, ""),
        _ => page(0..0, ""),
    });
    assert_eq!(2050, scene.ok(&["key", "list"]).lines().count());
    let some = scene.ok(&["key", "list", "key-*5", "--json=false"]);
    assert_eq!(205, some.lines().count());
    // What was left may be deleted meanwhile.
    let scene = Scene::answering(|request| match request {
        "GET /v1/key/list/%2A" => page(0..1024, "**key-1024"),
        _ => page(0..0, ""),
    });
    assert_eq!(1024, scene.ok(&["key", "list"]).lines().count());
    // One that takes where the list goes on for a prefix would end it too early.
    let scene = Scene::answering(|request| match request {
        "GET /v1/key/list/%2A" => page(0..1024, "key-1024"),
        "GET /v1/key/list/key-1024" => page(1024..1025, ""),
        _ => page(0..0, ""),
    });
    let text = scene.error(&["key", "list"]);
    assert!(text.contains("the server does not go on after 1024 names"), "{text}");
}

#[test]
fn another_server_is_asked_when_one_fails() {
    let scene = Scene::new(NEWEST);
    let broken =
        Scene::answering(|_| http("500 Internal Server Error", JSON, "{\"message\":\"no\"}"));
    let refusing =
        Scene::answering(|_| http("501 Not Implemented", JSON, "{\"message\":\"not here\"}"));
    let list = |servers: &str| scene.kes_with(&["key", "list"], &[("KES_SERVER", servers)]);
    for first in ["127.0.0.1:1", &broken.server] {
        let servers = format!("{first}, {}", scene.server);
        let ca = format!("{}{}", read(&scene, "server.crt"), read(&broken, "server.crt"));
        fs::write(scene.folder.path().join("server.crt"), ca).unwrap();
        let output = list(&servers);
        assert_eq!(Some(0), output.status.code(), "{}", stderr(&output));
        assert_eq!(2, String::from_utf8_lossy(&output.stdout).lines().count());
    }
    assert_eq!(1, broken.requests.lock().unwrap().len());
    let ca = format!("{}{}", read(&scene, "server.crt"), read(&refusing, "server.crt"));
    fs::write(scene.folder.path().join("server.crt"), ca).unwrap();
    let output = list(&format!("{},{}", refusing.server, scene.server));
    assert!(stderr(&output).ends_with("not here\n"), "{}", stderr(&output));
    // Every one that fails is named.
    let output = list("127.0.0.1:1,127.0.0.1:2");
    let text = stderr(&output);
    assert!(text.contains("https://127.0.0.1:1: connection refused"), "{text}");
    assert!(text.contains("; and https://127.0.0.1:2: connection refused"), "{text}");
    // A flag wins.
    let output =
        scene.kes_with(&["key", "list", "-s", &scene.server], &[("KES_SERVER", "127.0.0.1:1")]);
    assert_eq!(Some(0), output.status.code(), "{}", stderr(&output));
}

fn read(scene: &Scene, name: &str) -> String {
    fs::read_to_string(scene.folder.path().join(name)).unwrap()
}

#[test]
fn variables_of_newer_versions_and_object_servers_are_read() {
    let scene = Scene::new(NEWEST);
    let run = |names: [&str; 3]| {
        Command::new(env!("CARGO_BIN_EXE_kes"))
            .args(["key", "list", "--ca", "server.crt"])
            .current_dir(scene.folder.path())
            .env_clear()
            .env(names[0], scene.server.replace("https://", "http://"))
            .env(names[1], "me.key")
            .env(names[2], "me.crt")
            .output()
            .unwrap()
    };
    for names in [
        ["MINIO_KES_SERVER", "MINIO_KES_KEY_FILE", "MINIO_KES_CERT_FILE"],
        ["MINIO_KMS_KES_ENDPOINT", "MINIO_KES_CLIENT_KEY", "MINIO_KES_CLIENT_CERT"],
    ] {
        let output = run(names);
        assert_eq!(Some(0), output.status.code(), "{}", stderr(&output));
    }
    for (names, text) in [
        (
            ["MINIO_KES_SERVER", "X", "Y"],
            "no API key specified. Consider setting MINIO_KES_API_KEY",
        ),
        (
            ["MINIO_KES_SERVER", "MINIO_KES_KEY_FILE", "Y"],
            "no certificate file specified. Consider setting MINIO_KES_CERT_FILE",
        ),
        (
            ["MINIO_KES_SERVER", "X", "MINIO_KES_CERT_FILE"],
            "no private key file specified. Consider setting MINIO_KES_KEY_FILE",
        ),
    ] {
        assert_eq!(format!("Error: {text}\n"), stderr(&run(names)));
    }
    for (flags, text) in [
        (&["-k", "--ca", "server.crt"][..], "-k trusts every server: leave out"),
        (
            &["--server-identity", "abc"],
            "invalid --server-identity \"abc\": it must be the 64 digits",
        ),
        (&["-s", "ftp://a"], "invalid --server \"ftp://a\": it must start with https://"),
        (&["-s", "a:99999"], "invalid --server \"a:99999\": the port must be a number from 1 to"),
        (&["-s", "a:x"], "invalid --server \"a:x\": the port must be"),
        (&["-s", "a:0"], "invalid --server \"a:0\": the port must be"),
        (&["-s", ","], "invalid --server \",\": it must look like https://host:7373"),
    ] {
        let text_of = stderr(&scene.kes(&[&["key", "list"], flags].concat()));
        assert!(text_of.starts_with(&format!("Error: {text}")), "{text_of}");
    }
}

#[test]
fn the_message_about_an_untrusted_server_has_the_identity_that_makes_it_trusted() {
    let scene = Scene::new(NEWEST);
    fs::write(scene.folder.path().join("other.crt"), Identity::new("other").certificate_pem())
        .unwrap();
    let output = scene.kes(&["key", "list", "--ca", "other.crt"]);
    let text = stderr(&output);
    assert_eq!(Some(1), output.status.code(), "{text}");
    assert!(text.contains("set KES_CA_FILE to its authority"), "{text}");
    assert!(text.contains("Compare it with the one that the server prints"), "{text}");
    let by_system = scene.kes_with(&["key", "list"], &[("KES_CA_FILE", "")]);
    assert!(stderr(&by_system).contains("set KES_CA_FILE to"), "{}", stderr(&by_system));
    // As object servers call it.
    let capath = [("KES_CA_FILE", ""), ("MINIO_KMS_KES_CAPATH", "server.crt")];
    let output = scene.kes_with(&["key", "list"], &capath);
    assert!(output.status.success(), "{}", stderr(&output));
    let (_, identity) = text.trim_end().split_once("export KES_SERVER_IDENTITY=").unwrap();
    let own = scene.ok(&["tool", "identity", "of", "server.crt"]);
    assert_eq!(own, identity);

    let list = |args: &[&str], environment: &[(&str, &str)]| {
        scene.kes_with(&[&["key", "list"], args].concat(), environment)
    };
    for output in [
        list(&[], &[("KES_SERVER_IDENTITY", identity), ("KES_CA_FILE", "other.crt")]),
        list(&["--server-identity", identity], &[("KES_CA_FILE", "other.crt")]),
        // There is no connection without TLS.
        list(&[], &[("KES_SERVER", &*scene.server.replace("https:", "http:"))]),
        // Whatever the host is called.
        list(
            &["--server-identity", identity, "-s", &scene.server.replace("127.0.0.1", "localhost")],
            &[],
        ),
    ] {
        assert_eq!(Some(0), output.status.code(), "{}", stderr(&output));
    }
    let text = stderr(&list(&["--server-identity", ADMIN], &[]));
    assert!(text.contains(&format!("its identity is {identity}, not {ADMIN} as set")), "{text}");
    assert!(!text.contains("export"), "{text}");
}

#[test]
fn newer_commands_ask_servers_of_every_generation_or_say_that_they_are_too_old() {
    for answers in [V0_14, OF_2022, NEWEST] {
        let scene = Scene::new(answers);
        assert_eq!("Key\na_b-c\nbench-t1\n", scene.ok(&["ls"]));
        assert_eq!("[\"bench\",\"pol1\"]\n", scene.ok(&["ls", "-p", "--json"]));
        assert_eq!(format!("Identity\n{APP}\n{ADMIN}\n"), scene.ok(&["ls", "-i"]));
        // None of them says more than its version here.
        let status = scene.ok(&["status"]);
        assert!(status.starts_with(&format!("● {}\n  Version     ", scene.server)), "{status}");
        for args in [&["key", "info", "a"][..], &["policy", "info", "a"], &["status", "--api"]] {
            let error = scene.error(args);
            assert!(error.starts_with("Error: failed to "), "{error}");
            assert!(error.ends_with(" is too old for this: it has no such API\n"), "{error}");
        }
        for args in [&["log"][..], &["log", "--error"], &["metric"], &["log", "trace"]] {
            assert!(scene.error(args).contains("404 page not found"), "{args:?}");
        }
    }
    let why = ["policy", "why", APP, "/v1/key/list/a"];
    let text = Scene::new(NEWEST).ok(&why);
    assert_eq!("allowed: policy \"bench\" has the path \"/v1/key/list/*\"\n", text);
}

#[test]
fn a_policy_for_a_server_of_2022_has_its_form() {
    const WHOLE: &str = r#"{"allow":["/v1/key/create/x*"],"deny":[],"created_at":"t"}"#;
    const EMPTY: &str = r#"{"allow":[],"deny":[],"created_at":"t"}"#;
    for (is_understood, answers) in [(true, [EMPTY, WHOLE]), (false, [EMPTY, EMPTY])] {
        let writes = AtomicUsize::new(0);
        let scene = Scene::answering(move |request| match request {
            "POST /v1/policy/write/p" => {
                writes.fetch_add(1, Ordering::Relaxed);
                http("200 OK", JSON, "")
            }
            "GET /v1/policy/read/p" => {
                http("200 OK", JSON, answers[writes.load(Ordering::Relaxed) - 1])
            }
            _ => http("404 Not Found", TEXT, "404 page not found\n"),
        });
        fs::write(scene.folder.path().join("p.json"), r#"{"paths":["/v1/key/create/x*"]}"#)
            .unwrap();
        let add = ["policy", "add", "p", "p.json"];
        match is_understood {
            true => assert_eq!("", scene.ok(&add)),
            false => assert!(scene.error(&add).ends_with("has made another policy of it\n")),
        }
    }
}
