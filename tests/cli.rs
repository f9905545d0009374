//! The command line without a server: usage, exit codes, identities.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kes-cli-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn kes(&self, args: &[&str]) -> Output {
        self.kes_with(args, &[], "")
    }

    fn kes_with(&self, args: &[&str], env: &[(&str, &str)], stdin: &str) -> Output {
        use std::io::Write as _;
        let mut child = Command::new(env!("CARGO_BIN_EXE_kes"))
            .args(args)
            .current_dir(&self.0)
            .env_clear()
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read may be gone already.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
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
    "identity assign",
    "identity list",
    "identity ls",
    "identity forget",
    "identity rm",
    "healthcheck",
    "log trace",
    "completion",
    "man",
    "tool man",
];

const ALIASES: &[&str] = &[
    "key rm",
    "key ls",
    "key dek",
    "identity new",
    "identity of",
    "policy create",
    "policy ls",
    "policy rm",
    "identity ls",
    "identity rm",
    "tool man",
];

#[test]
fn every_command_has_help_and_the_list_names_them_all() {
    let folder = Folder::new("help");
    let list = out(&folder.kes(&["--help"]));
    assert!(list.starts_with("kes is a key encryption server"), "{list}");
    for command in COMMANDS {
        let is_listed = list
            .lines()
            .any(|line| line.starts_with(&format!("  {command} ")));
        assert_eq!(!ALIASES.contains(command), is_listed, "{command}");
        for flag in ["-h", "--help", "-help"] {
            let args: Vec<&str> = command.split(' ').chain([flag]).collect();
            let output = folder.kes(&args);
            assert_eq!(Some(0), output.status.code(), "{command} {flag}");
            assert!(
                out(&output).contains(&format!("kes {command}")),
                "{command} {flag}"
            );
        }
    }
}

#[test]
fn json_is_listed_where_something_is_printed_and_accepted_everywhere() {
    let folder = Folder::new("json");
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
    let folder = Folder::new("version");
    for flag in ["-v", "--version"] {
        let output = folder.kes(&[flag]);
        let version = concat!("kes version ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(
            (Some(0), version),
            (output.status.code(), out(&output).as_str())
        );
    }
}

#[test]
fn wrong_usage_is_told_with_the_documented_exit_code() {
    let folder = Folder::new("usage");
    let cases: &[(&[&str], i32, &str)] = &[
        (&[], 1, "kes is a key encryption server"),
        (&["tool"], 1, "Usage:"),
        (&["tool", "identity"], 1, "Usage:"),
        (&["key"], 2, "Usage:"),
        (
            &["kye"],
            1,
            "Error: \"kye\" is not a kes command. See 'kes --help'",
        ),
        (
            &["key", "x"],
            1,
            "Error: \"x\" is not a kes key command. See 'kes key --help'",
        ),
        (&["--wrong"], 2, "flag provided but not defined: -wrong"),
        (
            &["key", "create", "--wrong"],
            2,
            "flag provided but not defined: -wrong",
        ),
        (
            &["key", "create", "-k=x", "a"],
            2,
            "invalid value \"x\" for flag -k: parse error",
        ),
        (&["server", "--addr"], 2, "flag needs an argument: -addr"),
        (&["server", "extra"], 1, "Error: too many arguments"),
        (
            &["server", "--auth", "maybe"],
            1,
            "Error: invalid option for --auth: \"maybe\"",
        ),
        (&["server"], 1, "Error: no root identity has been specified"),
        (
            &["server", "--root", "_"],
            1,
            "Error: no private key file has been specified",
        ),
        (
            &["server", "--root", "_", "--key", "k"],
            1,
            "Error: no certificate file has been specified",
        ),
        (&["key", "create"], 1, "Error: no key name specified"),
        (
            &["key", "create", "a", "b", "c"],
            1,
            "Error: too many arguments",
        ),
        (&["key", "create", "a", "%"], 1, "Error: invalid key: "),
        (
            &["key", "decrypt", "a"],
            1,
            "Error: no ciphertext specified",
        ),
        (
            &["key", "decrypt", "a", "%"],
            1,
            "Error: invalid ciphertext: ",
        ),
        (&["key", "derive", "a", "%"], 1, "Error: invalid context: "),
        (&["--update"], 1, "Error: kes does not update itself"),
    ];
    for (args, code, text) in cases {
        let output = folder.kes(args);
        assert_eq!(
            Some(*code),
            output.status.code(),
            "{args:?}: {}",
            err(&output)
        );
        assert!(err(&output).starts_with(text), "{args:?}: {}", err(&output));
        assert_eq!("", out(&output), "{args:?}");
    }
}

#[test]
fn the_client_says_which_variable_or_file_is_wrong() {
    let folder = Folder::new("env");
    folder.kes(&[
        "tool", "identity", "new", "--key", "a.key", "--cert", "a.crt", "a",
    ]);
    folder.kes(&[
        "tool", "identity", "new", "--key", "b.key", "--cert", "b.crt", "b",
    ]);
    let run = |env: &[(&str, &str)]| err(&folder.kes_with(&["key", "list"], env, ""));
    let cert = ("KES_CLIENT_CERT", "a.crt");
    let key = ("KES_CLIENT_KEY", "a.key");
    assert_eq!(
        "Error: no TLS client certificate. Environment variable 'KES_CLIENT_CERT' is not set\n",
        run(&[])
    );
    assert_eq!(
        "Error: no TLS client certificate. Environment variable 'KES_CLIENT_CERT' is empty\n",
        run(&[("KES_CLIENT_CERT", "")])
    );
    assert_eq!(
        "Error: no TLS private key. Environment variable 'KES_CLIENT_KEY' is not set\n",
        run(&[cert])
    );
    let mismatch = run(&[cert, ("KES_CLIENT_KEY", "b.key")]);
    assert!(
        mismatch.contains("does not belong to certificate"),
        "{mismatch}"
    );
    let missing = run(&[cert, ("KES_CLIENT_KEY", "no.key")]);
    assert!(missing.contains("\"no.key\": No such file"), "{missing}");
    let server = run(&[cert, key, ("KES_SERVER", "http://127.0.0.1:7373")]);
    assert!(server.contains("must start with https://"), "{server}");
    let refused = run(&[cert, key, ("KES_SERVER", "https://127.0.0.1:1")]);
    assert!(
        refused.contains("connection refused: is it running, and is KES_SERVER right?"),
        "{refused}"
    );
    assert!(!refused.contains("proxy"), "{refused}");
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
fn an_identity_is_made_and_never_overwritten_by_accident() {
    let folder = Folder::new("identity");
    let new = [
        "tool",
        "identity",
        "new",
        "--ip",
        "127.0.0.1",
        "--dns",
        "localhost",
        "me",
    ];
    let output = folder.kes(&new);
    assert_eq!(
        (Some(0), String::new()),
        (output.status.code(), out(&output) + &err(&output))
    );
    for file in ["private.key", "public.crt"] {
        let mode = fs::metadata(folder.0.join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(0o600, mode & 0o777, "{file}");
    }
    let (key, cert) = (folder.read("private.key"), folder.read("public.crt"));

    let text = err(&folder.kes(&new));
    assert_eq!(
        "Error: private key \"./private.key\" already exists: Use --force to overwrite it\n",
        text
    );
    fs::remove_file(folder.0.join("private.key")).unwrap();
    let text = err(&folder.kes(&new));
    assert_eq!(
        "Error: certificate \"./public.crt\" already exists: Use --force to overwrite it\n",
        text
    );
    assert!(
        !folder.0.join("private.key").exists(),
        "the key without certificate stays behind"
    );
    assert_eq!(cert, folder.read("public.crt"));

    let forced: Vec<&str> = new.iter().copied().chain(["--force"]).collect();
    assert_eq!(Some(0), folder.kes(&forced).status.code());
    assert_ne!(key, folder.read("private.key"));
    assert_eq!(
        2,
        fs::read_dir(&folder.0).unwrap().count(),
        "files are left over"
    );
}

#[test]
fn a_failed_force_leaves_the_old_pair() {
    let folder = Folder::new("force");
    folder.kes(&["tool", "identity", "new", "me"]);
    let key = folder.read("private.key");
    let args = [
        "tool",
        "identity",
        "new",
        "-f",
        "--cert",
        "no/such/dir.crt",
        "me",
    ];
    assert_eq!(Some(1), folder.kes(&args).status.code());
    assert_eq!(key, folder.read("private.key"));
}

#[test]
fn the_identity_of_a_certificate_is_that_of_the_vectors() {
    let folder = Folder::new("of");
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/identities.json");
    let vectors: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(vectors).unwrap()).unwrap();
    for case in vectors["certificates"].as_array().unwrap() {
        let pem = case["certificate_pem"].as_str().unwrap();
        fs::write(folder.0.join("a.crt"), pem).unwrap();
        let of = |args: &[&str], stdin: &str| {
            let args: Vec<&str> = ["tool", "identity", "of"]
                .iter()
                .chain(args)
                .copied()
                .collect();
            out(&folder.kes_with(&args, &[], stdin))
        };
        assert_eq!(case["identity"], of(&["a.crt"], ""));
        assert_eq!(case["identity"], of(&[], pem));
        assert_eq!(case["identity"], of(&["-"], pem));
        assert_eq!(case["sha384"], of(&["--hash", "sha384", "a.crt"], ""));
        assert_eq!(case["sha512"], of(&["a.crt", "--hash=SHA-512"], ""));
    }
    let first = &vectors["certificates"][0];
    let pem = first["certificate_pem"].as_str().unwrap();
    let output = folder.kes_with(&["identity", "of", "--json"], &[], pem);
    assert_eq!(
        format!("{{\"identity\":{}}}\n", first["identity"]),
        out(&output)
    );
    let output = folder.kes(&["tool", "identity", "of", "--hash", "md5"]);
    assert_eq!("Error: invalid --hash: \"md5\"\n", err(&output));
    let output = folder.kes_with(&["tool", "identity", "of"], &[], "nothing");
    assert_eq!(
        "Error: found no (non-CA) certificate in any PEM block\n",
        err(&output)
    );
    let output = folder.kes(&["tool", "identity", "of", "no.crt"]);
    assert!(
        err(&output).starts_with("Error: failed to open \"no.crt\": "),
        "{}",
        err(&output)
    );
}
