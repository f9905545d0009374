//! `kes identity`: API keys, files that hold the same, and clients with them.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Output};

use serde_json::Value;

use crate::common::{Identity, Server, TempDir};

struct Scene(TempDir);

impl Scene {
    /// The output of a command that succeeds.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        self.ok_with(args, "")
    }

    #[track_caller]
    fn ok_with(&self, args: &[&str], stdin: &str) -> String {
        let output = self.0.kes(args, &[], stdin);
        assert_eq!((Some(0), ""), (output.status.code(), &*stderr(&output)), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn fails(&self, args: &[&str], text: &str) {
        let output = self.0.kes(args, &[], "");
        assert_eq!(
            (Some(1), format!("Error: {text}\n")),
            (output.status.code(), stderr(&output)),
            "{args:?}"
        );
        assert!(output.stdout.is_empty(), "{args:?}");
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../testdata/identities.json")).unwrap()
}

/// The API key and the identity in what `kes identity new` prints.
fn printed(text: &str) -> (String, String) {
    let line = |after: &str| {
        let mut lines = text.lines().skip_while(|line| *line != after).skip(2);
        lines.next().unwrap_or_else(|| panic!("{text}")).trim().to_owned()
    };
    (line("Your API key:"), line("Your Identity:"))
}

#[test]
fn identities_of_api_keys_and_of_files_are_those_of_the_vectors() {
    let scene = Scene(TempDir::new());
    let vectors = vectors();
    for case in vectors["api_keys"].as_array().unwrap() {
        let text = |name: &str| case[name].as_str().unwrap();
        let (key, identity, pem) = (text("api_key"), text("identity"), text("private_key_pem"));
        scene.write("a.key", pem);
        for args in [&["identity", "of", key][..], &["identity", "of", "a.key"], &["identity", key]]
        {
            assert_eq!(identity, scene.ok(args), "{args:?}");
        }
        assert_eq!(identity, scene.ok_with(&["identity", "of"], &format!("{key}\n")));
        assert_eq!(identity, scene.ok_with(&["identity", "of", "-"], pem));
        assert_eq!(key, scene.ok(&["identity", "a.key"]));
        let json: Value =
            serde_json::from_str(&scene.ok(&["identity", "./a.key", "--json"])).unwrap();
        assert_eq!((&case["api_key"], &case["identity"]), (&json["api_key"], &json["identity"]));
    }
    for case in vectors["certificates"].as_array().unwrap() {
        scene.write("a.crt", case["certificate_pem"].as_str().unwrap());
        for args in [&["identity", "of", "a.crt"][..], &["identity", "a.crt"]] {
            assert_eq!(case["identity"], scene.ok(args), "{args:?}");
        }
        assert_eq!(case["sha512"], scene.ok(&["identity", "of", "--hash", "sha-512", "a.crt"]));
    }
    // A key of another kind is no API key, but has an identity.
    let other = Identity::new("other");
    scene.write("other.key", &other.key_pem());
    assert_eq!(other.id, scene.ok(&["identity", "of", "other.key"]));
    assert_eq!(other.id, scene.ok(&["identity", "other.key"]));
}

#[test]
fn what_is_no_api_key_is_refused_without_being_shown() {
    let scene = Scene(TempDir::new());
    for case in vectors()["invalid_api_keys"].as_array().unwrap() {
        let key = case["api_key"].as_str().unwrap();
        let output = scene.0.kes(&["key", "ls"], &[("KES_API_KEY", key)], "");
        let text = stderr(&output);
        let is_accepted = case["reason"].as_str().unwrap().contains("accepted");
        if is_accepted || key.is_empty() {
            continue;
        }
        assert!(text.starts_with("Error: kes: invalid API key: "), "{case}: {text}");
        assert!(text.ends_with(": check KES_API_KEY\n") && !text.contains(key), "{case}: {text}");
    }
    let key = &vectors()["api_keys"][1]["api_key"];
    let key = key.as_str().unwrap();
    let both = scene.0.kes(
        &["key", "ls"],
        &[("MINIO_KES_API_KEY", key), ("KES_CLIENT_KEY", "a"), ("KES_CLIENT_CERT", "b")],
        "",
    );
    assert_eq!(
        "Error: API key and private key file cannot be used at the same time: unset MINIO_KES_API_KEY or \
         KES_CLIENT_KEY\n",
        stderr(&both)
    );
    let both = scene.0.kes(&["key", "ls"], &[("KES_API_KEY", key), ("KES_CLIENT_CERT", "b")], "");
    assert!(stderr(&both).contains("API key and certificate file cannot be used at"));
}

#[test]
fn a_new_api_key_is_printed_once() {
    let scene = Scene(TempDir::new());
    let key = scene.ok(&["identity"]);
    assert!(key.starts_with("kes:v1:") && !key.ends_with('\n'), "{key}");
    let (key, identity) = printed(&scene.ok(&["identity", "new"]));
    assert_eq!(identity, scene.ok(&["identity", "of", &key]));
    let json: Value = serde_json::from_str(&scene.ok(&["identity", "new", "--json"])).unwrap();
    let key = json["api_key"].as_str().unwrap();
    assert_eq!(json["identity"], scene.ok(&["identity", "of", key]));
    assert_eq!(0, fs::read_dir(scene.0.path()).unwrap().count());
}

#[test]
fn the_files_of_a_new_identity_are_its_api_key() {
    let scene = Scene(TempDir::new());
    let new = ["identity", "new", "--key", "a.key", "--cert", "a.crt", "--dns", "localhost", "app"];
    let (key, identity) = printed(&scene.ok(&new));
    assert_eq!(key, scene.ok(&["identity", "a.key"]));
    assert_eq!(identity, scene.ok(&["identity", "of", "a.key"]));
    assert_eq!(identity, scene.ok(&["tool", "identity", "of", "a.crt"]));
    for (file, wanted) in [("a.key", 0o600), ("a.crt", 0o644)] {
        let mode = fs::metadata(scene.0.path().join(file)).unwrap().permissions().mode();
        assert_eq!(wanted, mode & wanted, "{file}");
        assert_eq!(0, mode & 0o777 & !wanted, "{file}");
    }
    scene.fails(&new, "private key \"a.key\" already exists: Use --force to overwrite it");
    let (other, _) = printed(&scene.ok(&[&new[..], &["-f"]].concat()));
    assert_eq!(other, scene.ok(&["identity", "a.key"]));
    assert_ne!(key, other);

    let new = ["identity", "new"];
    for (flags, text) in [
        (&["--key", "b"][..], "no certificate file specified: use --cert too"),
        (&["--cert", "b"], "no private key file specified: use --key too"),
        (&["--key", "b", "--cert", "b"], "private key and certificate can't be the same file"),
        (&["--ip", "127.0.0.1"], "--ip goes with --key and --cert"),
        (&["--expiry", "1h"], "--expiry goes with --key and --cert"),
        (&["--ip", "1.2.3"], "\"1.2.3\" is not a valid IP address"),
        (
            &["--expiry", "0s", "--key", "b", "--cert", "c"],
            "invalid value for --expiry: the certificate would expire at once",
        ),
    ] {
        scene.fails(&[&new[..], flags].concat(), text);
    }
}

#[test]
fn private_keys_with_a_password_are_read_and_made() {
    let scene = Scene(TempDir::new());
    let case = &vectors()["encrypted_private_key"];
    let text = |name: &str| case[name].as_str().unwrap();
    scene.write("a.key", text("pem"));
    let password = [("KES_CLIENT_KEY_PASSWORD", text("password"))];
    let run = |args: &[&str], environment: &[(&str, &str)]| {
        let output = scene.0.kes(args, environment, "");
        (String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output))
    };
    let of = ["identity", "of", "a.key"];
    assert_eq!((text("identity").to_owned(), String::new()), run(&of, &password));
    assert_eq!(text("corresponding_api_key"), run(&["identity", "a.key"], &password).0);
    let wrong = run(&of, &[("KES_CLIENT_KEY_PASSWORD", "wrong")]).1;
    assert_eq!("Error: failed to read private key from \"a.key\": incorrect password\n", wrong);

    let new = ["identity", "new", "--encrypt", "--key", "b.key", "--cert", "b.crt"];
    let password = [("MINIO_KMS_KES_KEY_PASSWORD", "a long one")];
    let (_, identity) = printed(&run(&new, &password).0);
    let pem = fs::read_to_string(scene.0.path().join("b.key")).unwrap();
    assert!(pem.contains("Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,"), "{pem}");
    assert_eq!(identity, run(&["identity", "of", "b.key"], &password).0);
    let server = Server::start(|config| {
        config.root = identity;
        config.auth = "off";
    });
    let address = server.address.to_string();
    let mut environment = vec![
        ("KES_SERVER", &*address),
        ("KES_SERVER_IDENTITY", &*server.certificate.id),
        ("KES_CLIENT_KEY", "b.key"),
        ("KES_CLIENT_CERT", "b.crt"),
        password[0],
    ];
    assert_eq!("", run(&["key", "create", "a"], &environment).1);
    environment[4].1 = "wrong";
    let text = run(&["key", "create", "b"], &environment).1;
    assert!(text.ends_with("\"b.key\": incorrect password\n"), "{text}");
    // Completion asks nobody.
    let names = run(&["completion", "words", "--", "key", "derive", ""], &environment[..4]);
    assert_eq!((String::new(), String::new()), names);
}

#[test]
fn a_mistyped_word_after_identity_is_no_file() {
    let scene = Scene(TempDir::new());
    scene.fails(
        &["identity", "lst"],
        "\"lst\" is not a kes identity command. See 'kes identity --help'\nDid you mean 'kes identity list'?",
    );
    let output = scene.0.kes(&["identity", "none.crt"], &[], "");
    assert!(stderr(&output).starts_with("Error: failed to open \"none.crt\": "));
}

#[test]
fn a_client_with_an_api_key_is_served() {
    let scene = Scene(TempDir::new());
    let (key, identity) = printed(&scene.ok(&["identity", "new"]));
    let server = Server::start(|config| {
        config.root = identity.clone();
        config.auth = "off";
    });
    let address = server.address.to_string();
    let environment = |name| {
        [("KES_SERVER", &*address), ("KES_SERVER_IDENTITY", &*server.certificate.id), (name, &*key)]
    };
    for name in ["MINIO_KES_API_KEY", "KES_API_KEY", "MINIO_KMS_KES_API_KEY"] {
        let output = scene.0.kes(&["key", "create", name], &environment(name), "");
        assert_eq!((Some(0), ""), (output.status.code(), &*stderr(&output)), "{name}");
    }
    // A flag wins over the files of the environment.
    let output = scene.0.kes(
        &["key", "create", "flag", "--api-key", &key, "--enclave", "x"],
        &[
            ("KES_SERVER", &*address),
            ("KES_SERVER_IDENTITY", &*server.certificate.id),
            ("KES_CLIENT_KEY", "none.key"),
            ("KES_CLIENT_CERT", "none.crt"),
        ],
        "",
    );
    assert_eq!((Some(0), ""), (output.status.code(), &*stderr(&output)));
    assert_eq!(4, server.key_files().len());
    let (other, _) = printed(&scene.ok(&["identity", "new"]));
    let output = scene.0.kes(&["key", "create", "-a", &other, "no"], &environment("X"), "");
    assert!(stderr(&output).ends_with(": prohibited by policy\n"), "{}", stderr(&output));
}

#[test]
fn an_api_key_in_the_place_of_an_identity_stays_here() {
    let scene = Scene(TempDir::new());
    let (key, identity) = printed(&scene.ok(&["identity", "new"]));
    let server = Server::start(|config| {
        config.root = identity.clone();
        config.auth = "off";
        config.audit = "on";
    });
    let address = server.address.to_string();
    let environment = [
        ("KES_SERVER", &*address),
        ("KES_SERVER_IDENTITY", &*server.certificate.id),
        ("KES_API_KEY", &*key),
    ];
    let (other, other_identity) = printed(&scene.ok(&["identity", "new"]));
    for args in [
        &["identity", "info", &other][..],
        &["identity", "assign", &other, "my-app"],
        &["identity", "forget", &other],
        &["policy", "why", &other, "/v1/key/create/a"],
    ] {
        let output = scene.0.kes(args, &environment, "");
        let text = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
        assert!(!text.contains(&other) && !text.contains("contains '/'"), "{args:?}: {text}");
    }
    let output = scene.0.kes(&["identity", "info", &other], &environment, "");
    let expected = format!("failed to describe identity \"{other_identity}\": ");
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    let output = scene.0.kes(&["identity", "info", "kes:v1:none"], &environment, "");
    assert!(stderr(&output).starts_with("Error: kes: invalid API key: "), "{}", stderr(&output));
    for (args, what) in [
        (&["identity", "ls", &*other][..], "pattern"),
        (&["identity", "assign", "my-app", &other], "policy"),
    ] {
        scene.fails(args, &format!("an API key, which is a secret, is no {what}"));
    }
}

#[test]
fn an_api_key_in_the_place_of_an_identity_in_a_file_is_an_error_that_does_not_show_it() {
    let scene = Scene(TempDir::new());
    let (key, identity) = printed(&scene.ok(&["identity", "new"]));
    let newest = |admin: &str, app: &str| {
        let policy = format!("p: {{allow: [/version], identities: ['{app}']}}");
        format!("admin: {{identity: '{admin}'}}\npolicy: {{{policy}}}\n")
    };
    for text in [
        newest(&key, "app"),
        newest("disabled", &key),
        format!("root: '{key}'\ntls: {{proxy: {{identities: ['{key}']}}}}\n"),
        format!("root: _\npolicy: {{p: {{paths: [/version], identities: ['{key}']}}}}\n"),
    ] {
        scene.write("kes.yml", &text);
        for args in [&["config", "check", "kes.yml"][..], &["server", "--config", "kes.yml"]] {
            let output = scene.0.kes(args, &[], "");
            let shown = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
            assert!(!output.status.success() && !shown.contains(&key), "{text}{shown}");
        }
        let output = scene.0.kes(&["config", "check", "kes.yml"], &[], "");
        let shown = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
        let is_error = |line: &str| {
            line.contains("an API key is no identity")
                && line.contains("error: ")
                && line.contains(&identity)
        };
        assert!(shown.lines().any(is_error), "{text}{shown}");
    }
}
