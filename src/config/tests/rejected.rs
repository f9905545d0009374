//! Files that can't be read or parsed, and formats that don't fit.

use std::{fs, path::Path};

use super::*;

#[test]
fn a_key_store_in_both_places_is_refused() {
    assert_eq!(
        "the file mixes two formats (kes.yml line 4 column 3, field keys: beside \"keystore\", \
         \"keys\" is a list of key names such as \"- name: my-key\")",
        error("keystore:\n  fs: { path: /a }\nkeys:\n  fs: { path: /b }\n")
    );
}

#[test]
fn unknown_and_repeated_fields_are_named_with_their_place() {
    assert_eq!(
        "failed to read config file: kes.yml line 3 column 3: tls: unknown field `kee`, expected \
         one of `key`, `cert`, `groups`, `proxy` (did you mean `key`?)",
        error("tls:\n  cert: x\n  kee: y\n")
    );
    assert_starts(
        &error("root: x\nkeystor:\n  fs: { path: /keys }\n"),
        "failed to read config file: kes.yml line 2 column 1: unknown field `keystor`, expected ",
    );
    assert_eq!(
        "failed to read config file: kes.yml line 3 column 1: field `root` appears twice; keep one \
         of them",
        error("root: x\nlog: ~\nroot: y\n")
    );
    assert_eq!(
        "failed to read config file: kes.yml line 3 column 3: policy: field `a` appears twice; keep \
         one of them",
        error("policy:\n  a: { paths: [/x] }\n  a: { paths: [/y] }\n")
    );
}

#[test]
fn values_of_the_wrong_type_are_named_but_not_repeated() {
    assert_eq!(
        "failed to read config file: kes.yml line 3 column 14: keystore.vault.approle: expected a \
         map of fields, found a string",
        error("keystore:\n  vault:\n    approle: 'hush, expected x'\n")
    );
    for (text, message) in [
        ("hush", "kes.yml line 1 column 1: expected a map of fields such as \"root: disabled\""),
        ("- hush", "kes.yml line 1 column 1: expected a map of fields such as \"root: disabled\""),
        ("root: [hush]", "kes.yml line 1 column 7: root: expected a string, found a list"),
        (
            "policy: { a: { paths: hush } }",
            "kes.yml line 1 column 23: policy.a.paths: expected a list, found a string",
        ),
        (
            "keys: 12345",
            "kes.yml line 1 column 7: keys: expected a list of key names or a key store, found a \
             number",
        ),
        (
            "keys: [ hush ]",
            "kes.yml line 1 column 9: keys[0]: expected a map of fields, found a string",
        ),
    ] {
        assert_eq!(format!("failed to read config file: {message}"), error(text));
    }
}

#[test]
fn text_that_is_not_yaml_is_named_with_its_place() {
    let deep = |open: &str| open.repeat(100_000);
    for (text, start) in [
        ("tls:\n\tkey: x\n", "kes.yml line 2 column 2: a tab; indent with spaces, not with tabs"),
        ("root: 'x\n", "kes.yml line 1 column 7: the quote that opens here is never closed"),
        (
            "root: x\n  tls: y\n",
            "kes.yml line 2 column 6: \": \" is not allowed here; start each field on a line of its own",
        ),
        (
            "tls:\n   key: x\n  cert: y\n",
            "kes.yml line 3 column 3: the indentation is wrong; the fields of a map",
        ),
        ("log: { error: on\n", "kes.yml line 1 column 6: the \"{\" that opens here"),
        ("root\nlog: ~\n", "kes.yml line 2 column 4: \": \" is not allowed here"),
        ("root: x\nlog\ntls: ~\n", "kes.yml line 2 column 1: a field without \": \""),
        ("root: @x\n", "kes.yml line 1 column 7: no value starts with \"@\""),
        ("root: *nothing\n", "kes.yml line 1 column 7: unknown anchor; put quotes around a value"),
        ("root: \u{1}\n", "kes.yml line 1 column 7: a control character"),
        ("root: !!binary x\n", "kes.yml line 1 column 16: a tag such as"),
        ("root: [!x, y]\n", "kes.yml line 1 column "),
        ("root: x\n---\nroot: y\n", "kes.yml line 3 column 1: more than one YAML document"),
        ("root: &a [*a]\n", "kes.yml line 1 column 11: the value refers to itself"),
        (&deep("["), "kes.yml line 1 column 65: values are nested too deeply"),
        (&deep("{a: "), "kes.yml line 1 column "),
        (&deep("- "), "kes.yml line 1 column "),
        (&deep("? "), "kes.yml line 1 column "),
        ("? [a]\n: x\n", "kes.yml line 1 column 3: expected the name of a field, found a list"),
    ] {
        assert_starts(&error(text), &format!("failed to read config file: {start}"));
    }
}

#[test]
fn what_libyaml_reads_is_read() {
    for text in [
        "log: {\n  error: off\n}\n",
        "log: { error: off, }\n",
        "{\"log\": {\n\t\"error\": \"off\"\n}}",
        "log:\r\n  error: off\r\n",
        "log: { error: !!str off }\n",
        "%YAML 1.1\n---\nlog: { error: off }\n...\n",
        "log: { error: \"o\\\n  ff\" }\n",
        "? log\n: error: off\n",
        "policy:\n  p:\n    paths: [\n      /version\n    ]\n    identities:\n    - x\nlog: { error: off }\n",
        "policy:\n  p:\n    paths: [\n      /version\n]\nlog: { error: off }\n",
    ] {
        assert!(!load(text).log.error, "{text}");
    }
    for text in ["log: { error: on }", "log: { error: 'on' }", "log: { error: ~ }"] {
        assert!(load(text).log.error, "{text}");
    }
}

#[test]
fn aliases_work_but_do_not_blow_up_the_file() {
    let config = load(
        "policy:\n  a: { paths: &p [/a, /b], identities: [x] }\n  b: { paths: *p, identities: [y] }\n",
    );
    assert!(config.policies.allows("y", "/b"));

    // A long list that many policies share is longer, written out, than the file.
    let paths = "/version, ".repeat(300);
    let mut shared = format!("policy:\n  p: {{ paths: &p [{paths}] }}\n");
    for number in 0..300 {
        shared += &format!("  p{number}: {{ paths: *p, identities: [i{number}] }}\n");
    }
    assert!(load(&shared).policies.allows("i299", "/version"));

    let mut laughs = String::from("policy:\n  l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..9 {
        let list = vec![format!("*l{}", i - 1); 10].join(", ");
        laughs += &format!("  l{i}: &l{i} [{list}]\n");
    }
    assert!(error(&laughs).contains("aliases repeat too many values"));
    let items = "x, ".repeat(20_000);
    let copies = "*l, ".repeat(20_000);
    let quadratic = format!("policy: {{ a: &l [{items}], b: [{copies}] }}");
    assert!(error(&quadratic).contains("aliases repeat too many values"));
}

fn from_file(path: &Path) -> Result<Config, Error> {
    super::super::load(Origin::File(path), &flags(), &[])?.accept()
}

/// What a file of `bytes` means.
fn from_bytes(name: &str, bytes: &[u8]) -> Result<Config, Error> {
    let path = std::env::temp_dir().join(format!("kes-config-{}-{name}", std::process::id()));
    fs::write(&path, bytes).unwrap();
    let config = from_file(&path);
    fs::remove_file(&path).unwrap();
    config
}

#[test]
fn files_are_read_from_disk() {
    let config = from_bytes("good", b"root: x\naddress: :7000\n").unwrap();
    assert_eq!(7000, config.address.port());
    assert_eq!("disabled", config.root);
}

#[test]
fn unreadable_files_are_named() {
    assert_eq!(
        "failed to read config file: /nowhere/kes.yml: No such file or directory (os error 2)",
        from_file(Path::new("/nowhere/kes.yml")).unwrap_err().to_string()
    );
    assert_starts(
        &from_file(Path::new("/")).unwrap_err().to_string(),
        "failed to read config file: /: Is a directory",
    );
    let large = from_bytes("large", &vec![b'#'; (1 << 20) + 1]).unwrap_err();
    assert!(large.to_string().ends_with(": larger than 1 MiB"));
    assert!(from_bytes("largest", &vec![b'#'; 1 << 20]).is_ok());
    let latin = from_bytes("latin", b"root: x\n# \xc3\xbc gr\xfc\xdf\n").unwrap_err();
    assert!(
        latin.to_string().ends_with(" line 2 column 7: not UTF-8 text; save the file as UTF-8"),
        "{latin}"
    );
}
