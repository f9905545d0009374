//! The command line without a server: usage, exit codes, identities.
use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
        process::CommandExt as _,
    },
    path::PathBuf,
    process::{Command, Output},
};

use crate::common::{Site, TempDir, stored_key};

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new())
    }

    fn kes(&self, args: &[&str]) -> Output {
        self.0.kes(args, &[], "")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Commands, and other names for them.
const COMMANDS: &[&str] = &[
    "init",
    "server",
    "key create",
    "key import",
    "key delete",
    "key rm",
    "key list",
    "key ls",
    "key derive",
    "key dek",
    "key encrypt",
    "key decrypt",
    "tool identity new",
    "tool identity of",
    "identity new",
    "identity of",
    "config check",
    "policy add",
    "policy create",
    "policy show",
    "policy list",
    "policy ls",
    "policy delete",
    "policy rm",
    "policy why",
    "identity info",
    "identity assign",
    "identity list",
    "identity ls",
    "identity forget",
    "identity rm",
    "healthcheck",
    "doctor",
    "log trace",
    "completion",
    "man",
    "tool man",
    "help",
    "version",
    "update",
];

const ALIASES: &[&str] = &[
    "key rm",
    "key ls",
    "key dek",
    "policy create",
    "policy ls",
    "policy rm",
    "identity ls",
    "identity rm",
    "tool man",
];

#[test]
fn every_command_has_help_and_the_list_names_them_all() {
    let folder = Folder::new();
    let list = out(&folder.kes(&["--help"]));
    assert!(list.starts_with("kes is a key encryption server"), "{list}");
    for command in COMMANDS {
        let is_listed = list.lines().any(|line| line.starts_with(&format!("  {command} ")));
        assert_eq!(!ALIASES.contains(command), is_listed, "{command}");
        for flag in ["-h", "--help", "-help"] {
            let args: Vec<&str> = command.split(' ').chain([flag]).collect();
            let output = folder.kes(&args);
            assert_eq!(Some(0), output.status.code(), "{command} {flag}");
            assert!(out(&output).contains(&format!("kes {command}")), "{command} {flag}");
        }
    }
}

#[test]
fn json_is_listed_where_something_is_printed_and_accepted_everywhere() {
    let folder = Folder::new();
    for (command, is_listed) in [
        ("key create", false),
        ("key import", false),
        ("key delete", false),
        ("key list", true),
        ("key derive", true),
        ("policy add", false),
        ("policy delete", false),
        ("policy show", true),
        ("identity assign", false),
        ("identity forget", false),
        ("identity list", true),
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let help = folder.kes(&[&words[..], &["--json", "--help"]].concat());
        assert_eq!(Some(0), help.status.code(), "{command}");
        assert_eq!(is_listed, out(&help).contains("--json"), "{command}");
        let completion = [&["completion", "words", "--"], &words[..], &["--j"]].concat();
        let offered = out(&folder.kes(&completion));
        assert_eq!(is_listed, offered.contains("--json"), "{command}");
    }
}

#[test]
fn the_version_is_printed() {
    let folder = Folder::new();
    for word in ["-v", "--version", "version"] {
        let output = folder.kes(&[word]);
        let version = concat!("kes version ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!((Some(0), version), (output.status.code(), out(&output).as_str()));
    }
}

#[test]
fn wrong_usage_is_told_with_the_documented_exit_code() {
    let folder = Folder::new();
    let cases: &[(&[&str], i32, &str)] = &[
        (&[], 1, "kes is a key encryption server"),
        (&["tool"], 1, "Usage:"),
        (&["tool", "identity"], 1, "Usage:"),
        (&["key"], 2, "Usage:"),
        (&["kye"], 1, "Error: \"kye\" is not a kes command. See 'kes --help'"),
        (&["key", "x"], 1, "Error: \"x\" is not a kes key command. See 'kes key --help'"),
        (&["server", "extra"], 1, "Error: too many arguments"),
        (&["version", "extra"], 1, "Error: too many arguments"),
        (
            &["server", "--auth", "maybe"],
            1,
            "Error: invalid option for --auth: \"maybe\": use on or off\n",
        ),
        (
            &["log", "trace", "--type", "all"],
            1,
            "Error: invalid log type --type: \"all\": use audit, error or metric\n",
        ),
        (
            &["help", "kye"],
            1,
            "Error: \"kye\" is not a kes command. See 'kes --help'\nDid you mean 'kes key'?\n",
        ),
        (
            &["help", "key", "crate"],
            1,
            "Error: \"crate\" is not a kes key command. See 'kes key --help'\n",
        ),
        (&["config", "convert", "none.yml"], 78, "none.yml: error: No such file or directory"),
        (
            &["server"],
            1,
            "Error: no root identity has been specified: name a configuration file with --config",
        ),
        (&["server", "--root", "_"], 1, "Error: no private key file has been specified"),
        (
            &["server", "--root", "_", "--key", "k"],
            1,
            "Error: no certificate file has been specified",
        ),
        (&["key", "create"], 1, "Error: no key name specified"),
        (&["key", "import", "a", "b", "c"], 1, "Error: too many arguments"),
        (&["key", "create", "a", "%"], 1, "Error: invalid key: "),
        (&["key", "decrypt", "a"], 1, "Error: no ciphertext specified"),
        (&["key", "decrypt", "a", "%"], 1, "Error: invalid ciphertext: "),
        (&["key", "derive", "a", "%"], 1, "Error: invalid context: "),
        (&["--update"], 1, "Error: kes does not update itself"),
        (&["update"], 1, "Error: kes does not update itself"),
    ];
    for (args, code, text) in cases {
        let output = folder.kes(args);
        assert_eq!(Some(*code), output.status.code(), "{args:?}: {}", err(&output));
        assert!(err(&output).starts_with(text), "{args:?}: {}", err(&output));
        assert_eq!("", out(&output), "{args:?}");
    }
}

#[test]
fn a_wrong_flag_is_one_line_that_says_what_would_be_right() {
    let folder = Folder::new();
    let undefined = "flag provided but not defined";
    for (args, text) in [
        (&["--wrong"][..], format!("{undefined}: -wrong. See 'kes --help'")),
        (
            &["--json", "key", "list"],
            format!("{undefined}: -json. Flags stand after all words of the command. See 'kes --help'"),
        ),
        (
            &["key", "-k", "list"],
            format!("{undefined}: -k. Flags stand after all words of the command. See 'kes key --help'"),
        ),
        (
            &["key", "list", "--colour"],
            format!("{undefined}: -colour. Did you mean --color? See 'kes key list --help'"),
        ),
        (
            &["key", "ls", "--insecur=true"],
            format!("{undefined}: -insecur. Did you mean --insecure? See 'kes key ls --help'"),
        ),
        (
            &["server", "--conf", "kes.yml"],
            format!("{undefined}: -conf. Did you mean --config? See 'kes server --help'"),
        ),
        (
            &["tool", "identity", "new", "-ft", "1h"],
            format!("{undefined}: -ft. Did you mean -f -t? See 'kes tool identity new --help'"),
        ),
        (
            &["key", "create", "-k=x", "a"],
            "invalid value \"x\" for flag -k: use true or false. See 'kes key create --help'".to_owned(),
        ),
        (
            &["tool", "identity", "new", "--time", "30"],
            "invalid value \"30\" for flag -time: missing unit in duration \"30\"; use a number with a \
             unit, such as 90s, 30m or 720h, at most 2562047h. See 'kes tool identity new --help'"
                .to_owned(),
        ),
        (
            &["log", "trace", "--rate=-1s"],
            "invalid value \"-1s\" for flag -rate: negative duration \"-1s\"; use a number with a \
             unit, such as 90s, 30m or 720h, at most 2562047h. See 'kes log trace --help'"
                .to_owned(),
        ),
        (
            &["server", "--addr"],
            "flag needs an argument: -addr <IP:port>. See 'kes server --help'".to_owned(),
        ),
    ] {
        let output = folder.kes(args);
        assert_eq!(
            (Some(2), format!("Error: {text}\n"), String::new()),
            (output.status.code(), err(&output), out(&output)),
            "{args:?}"
        );
    }
}

#[test]
fn help_is_what_the_flag_prints() {
    let folder = Folder::new();
    for words in
        [&[][..], &["key"], &["tool", "identity"], &["key", "derive"], &["key", "dek"], &["help"]]
    {
        let help = folder.kes(&[&["help"], words].concat());
        assert_eq!(Some(0), help.status.code(), "{words:?}");
        let flag = folder.kes(&[words, &["--help"]].concat());
        assert_eq!(out(&flag), out(&help), "{words:?}");
    }
    let group = folder.kes(&["key", "help"]);
    assert_eq!((Some(0), out(&folder.kes(&["key", "--help"]))), (group.status.code(), out(&group)));
    let off = folder.kes(&["version", "--help=false"]);
    assert!(out(&off).starts_with("kes version "), "{}", out(&off));
}

/// No variable names a certificate, so these errors are reported before a server could be asked.
#[test]
fn impossible_names_and_patterns_are_refused_with_the_reason() {
    let folder = Folder::new();
    let long = "a".repeat(256);
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let commands: &[(&[&str], &[&str], &str)] = &[
        (&["key", "create"], &[], "key"),
        (&["key", "create"], &[key], "key"),
        (&["key", "import"], &[key], "key"),
        (&["key", "delete"], &[], "key"),
        (&["key", "derive"], &[], "key"),
        (&["key", "encrypt"], &["AAAA"], "key"),
        (&["key", "decrypt"], &["AAAA"], "key"),
        (&["policy", "add"], &[], "policy"),
        (&["policy", "show"], &[], "policy"),
        (&["policy", "delete"], &[], "policy"),
        (&["identity", "assign", "x"], &[], "policy"),
    ];
    for (command, more, what) in commands {
        for (name, why) in [
            ("", "is empty"),
            ("a/b", "contains '/'"),
            ("a\\b", "contains '\\'"),
            ("..", "means a directory"),
            ("a\nb", "contains a control character"),
            (&long, "is longer than 255 bytes"),
        ] {
            let args = [command, &[name][..], more].concat();
            let output = folder.kes(&args);
            let text = format!("Error: invalid {what} name {name:?}: it {why}\n");
            assert_eq!((Some(1), text), (output.status.code(), err(&output)), "{args:?}");
        }
    }
    for (identity, why) in [("", "is empty"), ("a/b", "contains '/'")] {
        for args in [&["identity", "assign", identity, "p"][..], &["identity", "forget", identity]]
        {
            let text = format!("Error: invalid identity {identity:?}: it {why}\n");
            assert_eq!(text, err(&folder.kes(args)), "{args:?}");
        }
    }
    for group in ["key", "policy", "identity"] {
        for (pattern, why) in [
            ("my-[", "syntax error in pattern: a '[' has no ']'; write '[[]' for the character"),
            ("my-[]", "syntax error in pattern: a character is missing before ']' in '[...]'"),
            ("a\\", "syntax error in pattern: nothing follows the last '\\'"),
            ("a/*", "no name contains '/'"),
        ] {
            let output = folder.kes(&[group, "list", pattern]);
            let text = format!("Error: invalid pattern {pattern:?}: {why}\n");
            assert_eq!((Some(1), text), (output.status.code(), err(&output)), "{group}");
        }
        let text = err(&folder.kes(&[group, "list", "a", "b"]));
        assert!(text.starts_with("Error: too many arguments: is the pattern in quotes"), "{text}");
    }
    for (key, why) in [
        ("AAAA", "it has 3 bytes, and must have 32"),
        ("AAA", "not padded standard base64, as the command 'base64' prints it"),
    ] {
        let text = err(&folder.kes(&["key", "import", "a", key]));
        assert_eq!(format!("Error: invalid key: {why}\n"), text);
    }
}

#[test]
fn what_is_no_certificate_is_told_what_it_is() {
    let folder = Folder::new();
    folder.kes(&["tool", "identity", "new", "--key", "root.key", "--cert", "root.crt"]);
    fs::create_dir(folder.path("other")).unwrap();
    fs::copy(folder.path("root.key"), folder.path("other/alone.key")).unwrap();
    let block = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
    fs::write(folder.path("app.csr"), block("CERTIFICATE REQUEST")).unwrap();
    fs::write(folder.path("app.pub"), block("PUBLIC KEY")).unwrap();
    fs::write(folder.path("app.enc"), block("ENCRYPTED PRIVATE KEY")).unwrap();
    fs::write(folder.path("app.crl"), block("X509 CRL")).unwrap();
    fs::write(folder.path("empty"), "").unwrap();
    fs::write(folder.path("text"), "text").unwrap();
    for (file, what) in [
        ("root.key", "is a private key: give its certificate, such as \"root.crt\""),
        ("other/alone.key", "is a private key: give the certificate that belongs to it"),
        ("app.csr", "is a request for a certificate: give the certificate that was issued for it"),
        ("app.pub", "is a public key: give the certificate that holds it"),
        ("app.enc", "is a private key: give the certificate that belongs to it"),
        ("app.crl", "is a PEM file of the type \"X509 CRL\": give a certificate"),
        ("empty", "is empty: give a certificate as PEM text"),
        ("text", "is no PEM text, which begins with -----BEGIN CERTIFICATE-----"),
    ] {
        let found = "found no (non-CA) certificate in any PEM block";
        let text = format!("Error: {found}: {file:?} {what}\n");
        let output = folder.kes(&["tool", "identity", "of", file]);
        assert_eq!((Some(1), text), (output.status.code(), err(&output)));
        let output = folder.0.kes(&["tool", "identity", "of"], &[], &folder.read(file));
        let (what, _) = what.split_once(" such as").unwrap_or((what, ""));
        let what = what.replace("its certificate,", "the certificate that belongs to it");
        assert_eq!(format!("Error: {found}: standard input {what}\n"), err(&output));
    }
    let key = folder.read("root.key");
    let secret = key.lines().nth(1).unwrap();
    assert!(!err(&folder.kes(&["tool", "identity", "of", "root.key"])).contains(secret));
}

#[test]
fn why_takes_the_file_of_a_certificate() {
    let folder = Folder::new();
    folder.kes(&["tool", "identity", "new", "--key", "app.key", "--cert", "app.crt"]);
    let identity = out(&folder.kes(&["identity", "of", "app.crt"]));
    let policy = format!("policy: {{p: {{paths: [/v1/key/list/*], identities: [{identity}]}}}}\n");
    fs::write(folder.path("kes.yml"), policy).unwrap();
    let why = |who: &str, path: &str| {
        folder.kes(&["policy", "why", "--json", "--config", "kes.yml", "--root", "_", who, path])
    };
    for path in ["/v1/key/list/*", "/v1/key/list", "/v1/key/create/a"] {
        let (by_file, by_identity) = (why("app.crt", path), why(&identity, path));
        assert_eq!(out(&by_identity), out(&by_file));
        let code = if path.contains("list") { 0 } else { 3 };
        assert_eq!(Some(code), by_file.status.code(), "{path}: {}", err(&by_file));
    }
    assert_eq!(
        "Error: found no (non-CA) certificate in any PEM block: \"app.key\" is a private key: give its \
         certificate, such as \"app.crt\"\n",
        err(&why("app.key", "/v1/key/list/*"))
    );
    let text = err(&why("none.crt", "/v1/key/list/*"));
    assert!(text.starts_with("Error: failed to open \"none.crt\": "), "{text}");
}

/// Runs `kes policy why` with a policy of these `paths`, which are YAML.
fn why(folder: &Folder, paths: &str, path: &str, more: &[&str]) -> Output {
    let file = format!("policy:\n  p:\n    identities: [app]\n    paths:{paths}\n");
    fs::write(folder.path("why.yml"), file).unwrap();
    let args = ["policy", "why", "--config", "why.yml", "--root", "_", "app", path];
    folder.kes(&[&args[..], more].concat())
}

#[test]
fn the_path_that_why_advises_allows_the_call_as_it_is_shown() {
    let folder = Folder::new();
    for name in [
        "a",
        "*",
        "my-*",
        "?",
        "[a-z]",
        "my-[",
        "a]",
        "a: b",
        "a #b",
        "a,b",
        "{a}",
        "\"a\"",
        "'a'",
        "${HOME}",
        "\u{e9}",
        "e\u{301}",
        "\u{1f511}",
        "\u{202e}a",
        "\u{2028}",
        "\u{feff}",
        "%41",
        "- a",
    ] {
        for api in [
            "key/create",
            "key/list",
            "policy/write",
            "policy/list",
            "identity/assign/p",
            "identity/forget",
        ] {
            let path = format!("/v1/{api}/{name}");
            let refused = why(&folder, " []", &path, &[]);
            assert_eq!(Some(3), refused.status.code(), "{path}: {}", err(&refused));
            let text = out(&refused);
            let advised = text.lines().find_map(|line| line.strip_prefix("    - "));
            let advised = advised.unwrap_or_else(|| panic!("{path}: {text}"));
            // In both styles of YAML, and as the JSON of the command says it.
            let json = out(&why(&folder, " []", &path, &["--json"]));
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            for paths in [
                format!("\n    - {advised}"),
                format!(" [{advised}, /x]"),
                format!(" [{}]", json["add"]),
            ] {
                let allowed = why(&folder, &paths, &path, &[]);
                assert_eq!(Some(0), allowed.status.code(), "{path}: {paths}: {}", err(&allowed));
            }
        }
    }
}

#[test]
fn why_says_that_a_call_fails_in_any_case() {
    let folder = Folder::new();
    for (path, note) in [
        ("/v1/key/create/", "the request names no key"),
        ("/v1/key/generate", "the request names no key"),
        ("/v1/policy/read/", "the request names no policy"),
        ("/v1/identity/assign/p/", "the request names no identity"),
        ("/v1/key/delete/a\\b", "the name of the key contains '\\'"),
        ("/v1/key/crate/a", "no API has this path"),
    ] {
        for paths in [" []", " ['/v1/*/*/*']"] {
            let text = out(&why(&folder, paths, path, &[]));
            let note = format!("Note: {note}, so the call fails in any case.\n");
            assert!(text.ends_with(&note), "{path}: {text}");
            assert!(!text.contains("To allow it"), "{path}: {text}");
            let json = out(&why(&folder, paths, path, &["--json"]));
            assert!(json.contains("\"add\":null"), "{path}: {json}");
        }
    }
}

#[test]
fn flags_without_value_take_true_and_false_and_the_last_one_counts() {
    let folder = Folder::new();
    let why = |json: &str| out(&why(&folder, " []", "/v1/key/create/a", &[json]));
    assert!(why("--json=true").starts_with('{'));
    assert!(why("--json=false").starts_with("refused: "));
    assert!(why("--help=false").starts_with("refused: "));
    folder.kes(&["tool", "identity", "new"]);
    let of = |args: &[&str]| out(&folder.kes(&[&["identity", "of", "public.crt"], args].concat()));
    assert_eq!(64, of(&["--json", "--json=false"]).len());
    assert!(of(&["--json=false", "--json"]).starts_with('{'));
    for (forced, code) in [("--force=false", 1), ("--force=true", 0), ("--force=1", 0)] {
        let output = folder.kes(&["tool", "identity", "new", forced]);
        assert_eq!(Some(code), output.status.code(), "{forced}");
    }
}

#[test]
fn the_client_says_which_variable_or_file_is_wrong() {
    let folder = Folder::new();
    folder.kes(&["tool", "identity", "new", "--key", "a.key", "--cert", "a.crt", "a"]);
    folder.kes(&["tool", "identity", "new", "--key", "b.key", "--cert", "b.crt", "b"]);
    let run = |env: &[(&str, &str)]| err(&folder.0.kes(&["key", "list"], env, ""));
    let cert = ("KES_CLIENT_CERT", "a.crt");
    let key = ("KES_CLIENT_KEY", "a.key");
    let both = |cert: &str, key: &str| {
        format!(
            "Error: no TLS client certificate. Environment variable 'KES_CLIENT_CERT' is {cert}, and \
             'KES_CLIENT_KEY' for the private key is {key}: they name two files, which 'kes tool \
             identity new' makes\nOr set KES_API_KEY to an API key, which 'kes identity new' makes\n"
        )
    };
    assert_eq!(both("not set", "not set"), run(&[]));
    let empty = [("KES_CLIENT_CERT", ""), ("KES_CLIENT_KEY", "")];
    assert_eq!(both("empty", "not set"), run(&empty[..1]));
    assert_eq!(both("empty", "empty"), run(&empty));
    assert_eq!(
        "Error: no TLS client certificate. Environment variable 'KES_CLIENT_CERT' is not set\n",
        run(&[key])
    );
    assert_eq!(
        "Error: no TLS private key. Environment variable 'KES_CLIENT_KEY' is not set\n",
        run(&[cert])
    );
    let mismatch = run(&[cert, ("KES_CLIENT_KEY", "b.key")]);
    assert!(mismatch.contains("does not belong to certificate"), "{mismatch}");
    let missing = run(&[cert, ("KES_CLIENT_KEY", "no.key")]);
    assert!(missing.contains("\"no.key\": No such file"), "{missing}");
    let server = run(&[cert, key, ("KES_SERVER", "ftp://127.0.0.1:7373")]);
    assert!(server.contains("must start with https://"), "{server}");
    let refused = run(&[cert, key, ("KES_SERVER", "https://127.0.0.1:1")]);
    assert_eq!(
        "Error: failed to list keys matching \"*\": https://127.0.0.1:1: connection refused: \
         nothing listens on host 127.0.0.1, port 1: is the server running, and is KES_SERVER \
         right?\n",
        refused
    );
    for (address, text) in [
        (
            "127.77.0.1",
            "port 443 (KES_SERVER names none; the usual one is 7373): is the server running",
        ),
        ("127.77.0.1:7373", "nothing listens on host 127.77.0.1, port 7373: is the server running"),
        ("kes.invalid", "https://kes.invalid: no such host: check KES_SERVER"),
    ] {
        let refused = run(&[cert, key, ("KES_SERVER", address)]);
        assert!(refused.contains(text), "{refused}");
    }
    let far = ("KES_SERVER", "https://kes.invalid:7373");
    let proxy = ("HTTPS_PROXY", "http://me:secret@127.0.0.1:1");
    let refused = run(&[cert, key, far, proxy]);
    assert!(
        refused.contains(
            "https://kes.invalid:7373 through proxy 127.0.0.1:1 (HTTPS_PROXY): connection refused"
        ),
        "{refused}"
    );
    assert!(refused.contains("is HTTPS_PROXY right?"), "{refused}");
    assert!(!refused.contains("secret"), "{refused}");
}

#[test]
fn a_proxy_that_refuses_says_how() {
    let folder = Folder::new();
    folder.kes(&["tool", "identity", "new", "me"]);
    for (answer, text) in [
        (&b"HTTP/1.1 403 Forbidden\r\n\r\n"[..], "does not connect us to it (status 403)\n"),
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            "does not connect us to it (status 407): write user and password into HTTPS_PROXY\n",
        ),
    ] {
        let proxy = format!("http://127.0.0.1:{}", Site::saying(answer).port);
        let environment = [
            ("KES_CLIENT_KEY", "private.key"),
            ("KES_CLIENT_CERT", "public.crt"),
            ("KES_SERVER", "https://kes.invalid:7373"),
            ("HTTPS_PROXY", &proxy),
        ];
        let refused = err(&folder.0.kes(&["key", "list"], &environment, ""));
        assert!(refused.ends_with(text), "{refused}");
    }
}

#[test]
fn a_migration_leaves_a_file_that_is_too_large_for_a_key() {
    let folder = Folder::new();
    fs::create_dir(folder.path("from")).unwrap();
    fs::write(folder.path("from/my-key"), stored_key(&[1; 32])).unwrap();
    fs::write(folder.path("from/keys-backup"), vec![0; 2 << 20]).unwrap();
    for store in ["from", "to"] {
        let text = format!("root: _\nkeystore: {{ fs: {{ path: {store} }} }}\n");
        fs::write(folder.path(&format!("{store}.yml")), text).unwrap();
    }
    let output = folder.kes(&["migrate", "--json", "--from", "from.yml", "--to", "to.yml"]);
    assert_eq!(Some(1), output.status.code());
    let text = err(&output);
    assert!(text.contains("\"keys-backup\" is left where it is: larger than "), "{text}");
    assert!(
        out(&output).contains("\"migrated\":1,\"not_copied\":1,\"ok\":false"),
        "{}",
        out(&output)
    );
    assert_eq!(folder.read("from/my-key"), folder.read("to/my-key"));
}

#[test]
fn a_migration_names_a_key_that_no_client_of_the_target_can_name() {
    let folder = Folder::new();
    fs::create_dir(folder.path("from")).unwrap();
    for (name, text) in [("my.key", stored_key(&[1; 32])), ("README.md", "no key".to_owned())] {
        fs::write(folder.path(&format!("from/{name}")), text).unwrap();
    }
    for (store, start) in [("from", "root: _"), ("to", "version: v1\nadmin: { identity: a }")] {
        let text = format!("{start}\nkeystore: {{ fs: {{ path: {store} }} }}\n");
        fs::write(folder.path(&format!("{store}.yml")), text).unwrap();
    }
    let migrate = ["migrate", "--from", "from.yml", "--to", "to.yml"];
    let told = err(&folder.kes(&migrate));
    assert!(
        told.contains("1 of the keys have names, such as \"my.key\", that clients can't use"),
        "{told}"
    );
    let told = err(&folder.kes(&[&migrate[..], &["--quiet"]].concat()));
    assert!(
        !told.contains("clients can't use") && told.contains("\"README.md\" is left"),
        "{told}"
    );
}

/// Within the limit, it would start and then get no threads.
#[test]
fn a_server_that_may_not_lock_its_memory_says_what_it_needs() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -l 64; exec \"$0\" server --dev --addr 127.0.0.1:0 --mlock"]);
    command.arg(env!("CARGO_BIN_EXE_kes")).env_clear();
    if rustix::process::geteuid().is_root() {
        command.uid(65534);
    }
    let output = command.output().unwrap();
    assert_eq!(Some(1), output.status.code());
    assert!(err(&output).contains("--mlock needs LimitMEMLOCK=infinity"), "{}", err(&output));
}

#[test]
fn flags_of_a_log_that_contradict_each_other_are_refused() {
    let folder = Folder::new();
    for args in [
        &["log", "--audit", "--error"][..],
        &["log", "trace", "--type", "audit", "--error"],
        &["log", "trace", "--type", "metric", "--audit"],
    ] {
        let output = folder.kes(args);
        assert_eq!(Some(1), output.status.code(), "{args:?}");
        assert_eq!("Error: --type, --audit and --error can't be used together\n", err(&output));
    }
}

#[test]
fn why_has_the_same_for_programs_and_doubts_what_no_client_can_have() {
    let folder = Folder::new();
    fs::write(folder.path("kes.yml"), "root: _\n").unwrap();
    let why =
        |args: &[&str]| folder.kes(&[&["policy", "why", "--config", "kes.yml"], args].concat());
    let output = why(&["--json", "app", "/v1/foo"]);
    let note = "\"note\":\"no API has this path, so the call fails in any case\"";
    assert!(out(&output).contains(note), "{}", out(&output));
    let output = why(&["--json", "app", "/v1/key/create/a"]);
    assert!(
        out(&output).contains("\"note\":\"what is asked about is no identity"),
        "{}",
        out(&output)
    );
    let output = why(&["--json", &"0a".repeat(32), "/v1/key/create/a"]);
    assert!(out(&output).contains("\"note\":null"), "{}", out(&output));
    let output = why(&["app", "/v1/key/create/a"]);
    assert!(err(&output).contains("no client has the identity \"app\": "), "{}", err(&output));
    assert!(!out(&output).contains("To give it one"), "{}", out(&output));
    let output = why(&[&"0a".repeat(32), "/v1/key/create/a"]);
    assert!(out(&output).contains("To give it one"), "{}", out(&output));
}

#[test]
fn an_identity_is_made_and_never_overwritten_by_accident() {
    let folder = Folder::new();
    let new = ["tool", "identity", "new", "--ip", "127.0.0.1", "--dns", "localhost", "me"];
    let output = folder.kes(&new);
    assert_eq!((Some(0), String::new()), (output.status.code(), out(&output) + &err(&output)));
    for file in ["private.key", "public.crt"] {
        let mode = fs::metadata(folder.path(file)).unwrap().permissions().mode();
        assert_eq!(0o600, mode & 0o777, "{file}");
    }
    let (key, cert) = (folder.read("private.key"), folder.read("public.crt"));

    let text = err(&folder.kes(&new));
    assert_eq!(
        "Error: private key \"./private.key\" already exists: Use --force to overwrite it\n",
        text
    );
    fs::remove_file(folder.path("private.key")).unwrap();
    let text = err(&folder.kes(&new));
    assert_eq!(
        "Error: certificate \"./public.crt\" already exists: Use --force to overwrite it\n",
        text
    );
    assert!(!folder.path("private.key").exists(), "the key without certificate stays behind");
    assert_eq!(cert, folder.read("public.crt"));

    let forced: Vec<&str> = new.iter().copied().chain(["--force"]).collect();
    assert_eq!(Some(0), folder.kes(&forced).status.code());
    assert_ne!(key, folder.read("private.key"));
    assert_eq!(2, fs::read_dir(folder.0.path()).unwrap().count(), "files are left over");
}

#[test]
fn a_failed_force_leaves_the_old_pair() {
    let folder = Folder::new();
    folder.kes(&["tool", "identity", "new", "me"]);
    let key = folder.read("private.key");
    let args = ["tool", "identity", "new", "-f", "--cert", "no/such/dir.crt", "me"];
    assert_eq!(Some(1), folder.kes(&args).status.code());
    assert_eq!(key, folder.read("private.key"));
}

/// The service that reads it can read the new one.
#[test]
fn a_file_that_is_replaced_keeps_owners_and_mode() {
    const TEXT: &str = "root: _\nkeystore: {fs: {path: keys}}\n";
    let folder = Folder::new();
    let files = ["app.key", "app.crt", "tool.key", "tool.crt", "kes.yml"];
    for file in files {
        let path = folder.path(&format!("real-{file}"));
        fs::write(&path, TEXT).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let _ = chown(&path, Some(12345), Some(54321)); // only root can
        symlink(&path, folder.path(file)).unwrap();
    }
    let owners = |file: &str| {
        let there = fs::metadata(folder.path(file)).unwrap();
        (there.uid(), there.gid(), there.mode() & 0o7777)
    };
    let before = files.map(owners);
    for args in [
        &["identity", "new", "-f", "--key", "app.key", "--cert", "app.crt", "app"][..],
        &["tool", "identity", "new", "-f", "--key", "tool.key", "--cert", "tool.crt", "app"],
        &[
            "config", "convert", "kes.yml", "-f", "-o", "kes.yml", "--auth", "off", "--key",
            "app.key", "--cert", "app.crt",
        ],
    ] {
        let output = folder.kes(args);
        assert_eq!(Some(0), output.status.code(), "{args:?}: {}", err(&output));
    }
    for ((file, (uid, gid, mode)), expected) in
        files.iter().zip(files.map(owners)).zip([0o640, 0o644, 0o640, 0o644, 0o644])
    {
        assert_eq!((before[0].0, before[0].1, expected), (uid, gid, mode), "{file}");
        assert!(folder.path(file).is_symlink(), "{file}");
        assert_ne!(TEXT, folder.read(file));
    }
    let before = fs::read_dir(folder.0.path()).unwrap().count();
    fs::create_dir(folder.path("folder")).unwrap();
    for path in ["folder", "/dev/null"] {
        let text = err(&folder.kes(&["identity", "new", "-f", "--key", path, "--cert", "app.crt"]));
        assert!(text.contains(": it is no plain file\n"), "{text}");
    }
    assert_eq!(before + 1, fs::read_dir(folder.0.path()).unwrap().count());
    let text =
        err(&folder.kes(&["identity", "new", "-f", "--key", "app.key", "--cert", "real-app.key"]));
    assert_eq!("Error: private key and certificate can't be the same file\n", text);
}

#[test]
fn the_identity_of_a_certificate_is_that_of_the_vectors() {
    let folder = Folder::new();
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/identities.json");
    let vectors: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(vectors).unwrap()).unwrap();
    for case in vectors["certificates"].as_array().unwrap() {
        let pem = case["certificate_pem"].as_str().unwrap();
        fs::write(folder.path("a.crt"), pem).unwrap();
        let of = |args: &[&str], stdin: &str| {
            let args: Vec<&str> = ["tool", "identity", "of"].iter().chain(args).copied().collect();
            out(&folder.0.kes(&args, &[], stdin))
        };
        assert_eq!(case["identity"], of(&["a.crt"], ""));
        assert_eq!(case["identity"], of(&[], pem));
        assert_eq!(case["identity"], of(&["-"], pem));
        assert_eq!(case["sha384"], of(&["--hash", "sha384", "a.crt"], ""));
        assert_eq!(case["sha512"], of(&["a.crt", "--hash=SHA-512"], ""));
    }
    let first = &vectors["certificates"][0];
    let pem = first["certificate_pem"].as_str().unwrap();
    let output = folder.0.kes(&["identity", "of", "--json"], &[], pem);
    assert_eq!(format!("{{\"identity\":{}}}\n", first["identity"]), out(&output));
    let output = folder.kes(&["tool", "identity", "of", "--hash", "md5"]);
    assert_eq!("Error: invalid --hash: \"md5\": use SHA-256, SHA-384 or SHA-512\n", err(&output));
    let output = folder.0.kes(&["tool", "identity", "of"], &[], "nothing");
    assert_eq!(
        "Error: found no (non-CA) certificate in any PEM block: standard input is no PEM text, which begins \
         with -----BEGIN CERTIFICATE-----\n",
        err(&output)
    );
    let output = folder.kes(&["tool", "identity", "of", "no.crt"]);
    assert!(err(&output).starts_with("Error: failed to open \"no.crt\": "), "{}", err(&output));
}

#[test]
fn a_shell_is_set_up_for_completion_once() {
    let folder = Folder::new();
    let home = folder.0.path().to_str().unwrap();
    let run =
        |shell: &str| folder.0.kes(&["--auto-completion"], &[("SHELL", shell), ("HOME", home)], "");
    for (shell, file) in
        [("/bin/bash", ".bashrc"), ("/usr/bin/zsh", ".zshrc"), ("fish", ".config/fish/config.fish")]
    {
        let path = folder.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "alias a=b").unwrap();
        let first = run(shell);
        assert_eq!((Some(0), ""), (first.status.code(), &*err(&first)));
        assert!(out(&first).contains(file), "{}", out(&first));
        let text = folder.read(file);
        assert!(text.starts_with("alias a=b\n") && text.ends_with('\n'), "{text}");
        assert!(out(&run(shell)).contains("already"));
        assert_eq!(text, folder.read(file));
    }
    let path =
        format!("{}:{}", env!("CARGO_BIN_EXE_kes").trim_end_matches("/kes"), "/usr/bin:/bin");
    let bash = Command::new("bash")
        .args(["-c", "source ~/.bashrc; complete -p kes"])
        .env_clear()
        .envs([("PATH", &*path), ("HOME", home)])
        .output()
        .unwrap();
    assert_eq!("complete -F _kes kes\n", out(&bash), "{}", err(&bash));
    for shell in ["/bin/sh", ""] {
        assert!(err(&run(shell)).starts_with("Error: SHELL is "));
    }
}
