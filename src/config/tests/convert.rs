//! Older files in the newest format: what they look like, and that they mean the same.

use super::*;
use crate::config::convert::{Converted, Weight, convert_with};

const APIS: &[(&str, bool)] = &[
    ("/version", true),
    ("/v1/key/create/*", true),
    ("/v1/key/delete/*", true),
    ("/v1/key/list/*", true),
    ("/v1/key/bulk/decrypt/*", true),
    ("/v1/policy/write/*", false),
    ("/v1/identity/assign/*/*", false),
    ("/v1/log/audit", true),
    ("/v1/metrics", true),
];

fn converted(text: &str, flags: &Flags) -> Converted {
    convert_with(text, flags, APIS, env).unwrap_or_else(|notes| panic!("{notes:#?}\n{text}"))
}

/// Asserts that a right file can be converted, and then means the same: each file of these tests is tried. Those
/// that can't be converted have a known reason.
pub(super) fn assert_converts(text: &str, flags: &Flags) {
    let known =
        ["the file is empty", "a value is at most one variable", "is a path in the newest format"];
    match convert_with(text, flags, APIS, env) {
        Ok(Converted { text, .. }) => {
            let after = load_text(Some(Path::new("kes.yml")), &text, &Flags::default(), &[], env);
            after.accept().unwrap_or_else(|e| panic!("{e}\n{}", *text));
        }
        Err(notes) if notes.iter().any(|note| note.text.contains("were in memory")) => {
            // With a key store behind what is there, if it can be behind it.
            let more = format!("{text}\nkeystore: {{ fs: {{ path: /k }} }}\n");
            let loaded = load_text(Some(Path::new("kes.yml")), &more, flags, &[], env);
            if loaded.accept().is_ok() {
                assert_converts(&more, flags);
            }
        }
        Err(notes) => {
            for note in notes {
                assert!(
                    known.iter().any(|known| note.text.contains(known)),
                    "{}\n{text}",
                    note.text
                );
            }
        }
    }
}

/// The file that `text` becomes beside these flags.
#[track_caller]
fn assert_becomes(text: &str, flags: &Flags, after: &str) {
    let Converted { text, .. } = converted(text, flags);
    assert!(*text == *after, "{}\n--- but not:\n{after}", *text);
    load_with(&text, &Flags::default()).unwrap();
}

fn refusal(text: &str) -> String {
    let notes = convert_with(text, &Flags::default(), APIS, env).expect_err(text);
    assert!(notes.iter().all(|note| note.weight == Weight::Refusal));
    notes.iter().map(|note| format!("{}\n", note.text)).collect()
}

fn off() -> Flags {
    Flags { auth: Some(Auth::Off), ..Flags::default() }
}

#[test]
fn a_file_that_merges_maps_is_left_to_its_author() {
    let text = "root: disabled\ntls: &tls { key: a.key, cert: a.crt }\npolicy:\n  a: &a { paths: [/version] }\n  b: { <<: *a }\n";
    let notes = convert_with(text, &Flags::default(), &[], env).unwrap_err();
    let [note] = &notes[..] else { panic!("{notes:?}") };
    assert_eq!("\"<<\" adds fields of another map: write them out", note.text);
    assert_eq!(Some(Position { line: 5, column: 8 }), note.position);
}

#[test]
fn comments_and_variables_stay_where_they_are() {
    assert_becomes(
        &older("comments"),
        &Flags::default(),
        "\
version: v1
# The server of the shop.
address: 127.0.0.1:7000   # not for all

# The boss
admin:
  identity: ${ROOT}
tls:
  # the flag --auth, which was on by default
  auth: on
  # by the ops
  key: a.key
  cert: a.crt
policy:
  app:   # the app
    allow:
    - /v1/key/create/app-*   # its keys
    # - /v1/key/*              # nothing  # matched no request
    - /v1/key/create/my*
    - /v1/key/delete/my*
    - /v1/key/list/my*
    identities:
    - ${ID}
cache:
  expiry:
    # as \"any\", so that only that counts; the default of this format is 30s
    unused: \"${TIME}\"
    any: ${TIME}   # long
log:
  # on by default in this format
  audit: off
  error: on
keys:
- name: ${ID}
keystore:
  fs:
    path: ${DIR}
# error texts of KES 0.14, for object servers of 2021 and early 2022
api:
  texts: 0.14
",
    );
}

#[test]
fn the_oldest_format_and_files_in_brackets_are_converted() {
    assert_becomes(
        &older("windows"),
        &off(),
        "---\r\nversion: v1\naddress: 127.0.0.1:7000\r\nadmin:\n  identity: boss\r\n\
         tls: { auth: off, key: a.key, cert: a.crt }\r\nkeystore:\r\n  fs: { path: /keys }\r\n# on by default in this format\nlog:\n  audit: off\n\
         # error texts of KES 0.14, for object servers of 2021 and early 2022\napi:\n  texts: 0.14\n\
         # never, as before; the default of this format is 5m and 30s\n\
         cache:\n  expiry: { any: 87600h, unused: 87600h }\n...\r\n",
    );
    assert_becomes(
        &older("brackets"),
        &off(),
        r#"{
  "version": "v1", "api": { "texts": "0.14" }, "address": "127.0.0.1:7000", "admin": { "identity": "boss" }, "tls": { "auth": "off", "key": "a.key", "cert": "a.crt" },
  "policy": { "p": { "allow": [ "/version",  "/v1/log/audit" ], "identities": [ "app-1",  ] } },
  "log": { "audit": "off" }, "cache": { "expiry": { "unused": "87600h", "any": "87600h", "offline": "1h" } },
  "keystore": { "vault": { "status": { "ping": "10s" }, "endpoint": "https://v", "tls": { "ca": "/v.ca" }, "approle": { "retry": "9s", "id": "i", "secret": "s" } } }
}
"#,
    );
}

#[test]
fn flags_of_the_older_server_become_fields() {
    let given = Flags {
        addr: Some("127.0.0.1:7373".into()),
        root: Some("other".into()),
        key: Some("k.key".into()),
        cert: Some("c.crt".into()),
        auth: Some(Auth::On),
    };
    assert_becomes(
        "root: boss\nlog: { error: off, audit: on }\napi: { texts: newest }\ncache: { expiry: { any: 5m, unused: 9s } }\n\
         keystore: { fs: { path: /k } }\n",
        &given,
        "version: v1\nadmin:\n  identity: other\nlog: { error: off, audit: on }\napi: { texts: newest }\n\
         cache: { expiry: { any: 5m, unused: 9s } }\nkeystore: { fs: { path: /k } }\n\
         tls: { \"key\": \"k.key\", \"cert\": \"c.crt\", \"auth\": \"on\" }\naddress: \"127.0.0.1:7373\"\n",
    );
    let Converted { text, .. } =
        converted("tls:\nkeystore: { fs: { path: /k } }\ncache: ~\nlog:\n  error:\n", &given);
    let config = load_with(&text, &Flags::default()).unwrap();
    assert_eq!(("other", Auth::On), (&*config.root, config.auth));
    assert_eq!(Some(std::time::Duration::from_secs(87_600 * 3600)), config.cache.any);
    assert_eq!(crate::log::AuditMode::Off, config.log.audit);
}

#[test]
fn what_cannot_be_said_is_refused_or_announced() {
    const HEAD: &str = "root: x\ntls: { key: a, cert: b }\n";
    for (text, message) in [
        ("version: v1\n", "the file has the newest format already\n"),
        ("", "root: no root identity has been specified"),
        ("tls: { key: a, cert: b }\n", "no root identity"),
        ("root: x\nlog: { eror: on }\n", "unknown field `eror`"),
        (
            &format!("{HEAD}address: '${{PORT}}:${{ID}}'\nkeystore: {{ fs: {{ path: /k }} }}\n"),
            "invalid server address",
        ),
        (
            &format!("{HEAD}keystore: {{ fs: {{ path: '${{DIR}}${{ID}}' }} }}\n"),
            "keystore.fs.path: in the newest format a value is at most one variable: ",
        ),
        (HEAD, "no key store: keys were in memory, "),
        (
            &format!("{HEAD}keystore: {{ aws: {{ secretsmanager: {{ endpoint: x }} }} }}\n"),
            "AWS Secrets Manager is not supported",
        ),
    ] {
        let found = refusal(text);
        assert!(found.contains(message), "{text}\n{found}");
    }
    let text = format!(
        "{HEAD}policy:\n  a.b: {{ paths: ['/v1/key/create/*-x', /v1/policy/write/a, /version] }}\n  a-b: {{}}\n  \
         c:\n    identities:\n    - not/one\n    - fine\n    paths: [/version]\n  \
         d: {{ paths: [/v1/key/create/my.app-*, /v1/key/create/my-*, '/v1/key/*', /v1/key/create/my_] }}\n\
         keys:\n- name: a.b\n- name: a\n- name: a\nkeystore: {{ fs: {{ path: /k }} }}\n"
    );
    let Converted { text, notes } = converted(&text, &off());
    for (weight, message) in [
        (
            Weight::Loss,
            "policy \"a.b\": \"/v1/key/create/*-x\" can't be said by a prefix, so /v1/key/create/ is left out",
        ),
        (
            Weight::Loss,
            "policy \"a.b\": \"/v1/policy/write/a\" is left out: the newest generation has no /v1/policy/write/",
        ),
        (
            Weight::Loss,
            "policy \"d\": \"/v1/key/create/my.app-*\" is for names that can't be used in the newest generation",
        ),
        (Weight::Loss, "key \"a.b\" can't be used in the newest generation"),
        (Weight::Change, "key \"a\" is listed twice"),
        (Weight::Change, "policy \"a.b\" is called \"a-b-2\""),
        (Weight::Change, "\"not/one\" is no identity"),
    ] {
        let is_it =
            |note: &&crate::config::Note| note.weight == weight && note.text.starts_with(message);
        assert!(
            notes.iter().any(|note| is_it(&note) && note.position.is_some()),
            "{message}\n{notes:#?}"
        );
    }
    let config = load_with(&text, &Flags::default()).unwrap();
    assert_eq!(vec![("fine", "c")], config.policies.assigned().collect::<Vec<_>>());
    assert_eq!(1, config.keys.len());
}

#[test]
fn what_another_rule_allows_is_not_lost() {
    let converted = |paths: &str| {
        let file = format!(
            "root: x\ntls: {{ key: a, cert: b }}\nkeystore: {{ fs: {{ path: /k }} }}\npolicy: {{ p: {{ paths: {paths} }} }}\n"
        );
        let Converted { text, notes } = converted(&file, &off());
        let lost: Vec<_> = notes
            .into_iter()
            .filter(|note| note.weight == Weight::Loss)
            .map(|note| note.text)
            .collect();
        let config = load_with(&text, &Flags::default()).unwrap();
        let (_, policy) = config.policies.iter().next().unwrap();
        (policy.allow.iter().map(|rule| rule.as_str().to_owned()).collect::<Vec<_>>(), lost)
    };
    let all = "[/v1/key/list/my-key, '/v1/key/create/a?', /v1/key/list/*, /v1/key/create/a*]";
    let (rules, lost) = converted(all);
    assert_eq!(
        (vec!["/v1/key/list/*".to_owned(), "/v1/key/create/a*".to_owned()], vec![]),
        (rules, lost)
    );
    // Others of a list are not those that begin so.
    let (rules, lost) = converted("[/v1/key/list/my-key, /v1/key/list/my-key-*]");
    assert_eq!(vec!["/v1/key/list/my-key-*".to_owned()], rules);
    let [lost] = &*lost else { panic!("{lost:?}") };
    assert!(lost.ends_with("/v1/key/list/ is left out: allow what they begin with, such as \"/v1/key/list/my-app*\""), "{lost}");
}

#[test]
fn variables_need_not_be_set_where_a_file_is_converted() {
    let text = "root: ${UNSET}\ntls: { key: '${NO_KEY}', cert: b }\nkeystore: { fs: { path: '${NO_PATH}' } }\n";
    let Converted { text, .. } = converted(text, &off());
    assert!(text.contains("admin:\n  identity: ${UNSET}\n"), "{}", *text);
    assert!(text.contains("key: '${NO_KEY}'") && text.contains("path: '${NO_PATH}'"), "{}", *text);
}

/// All patterns of some parts behind each other, and all requests of some others, by the same policy.
#[test]
fn a_converted_policy_allows_the_same_requests() {
    let starts = ["/", "/v1/", "/*/", "/v?/", "/v[1-3]/", "/\\v1/"];
    let middles =
        ["", "key/create/", "key/*/", "*/*/", "k?y/[cd]*/", "policy/write/", "key/bulk/*/", "log/"];
    let ends = [
        "", "*", "a*", "my-app", "*-x", "a?", "[a-c]b", "**", "a*b*", "audit", "metrics", "version",
    ];
    let names = ["", "a", "ab", "bb", "my-app", "my-app-1", "a-x", "audit", "*", "a*"];
    let mut paths = Vec::new();
    for (api, is_newest) in APIS.iter().filter(|(_, is_newest)| *is_newest) {
        assert!(is_newest);
        match api.strip_suffix('*') {
            None => paths.push((*api).to_owned()),
            Some(start) => paths.extend(names.iter().map(|name| format!("{start}{name}"))),
        }
    }
    let (mut same, mut lost) = (0, 0);
    for start in starts {
        for middle in middles {
            let patterns = ends.map(|end| format!("{start}{middle}{end}"));
            for pattern in &patterns {
                let list = serde_json::json!([pattern]);
                let before = format!(
                    "root: x\ntls: {{ key: a, cert: b }}\nkeystore: {{ fs: {{ path: /k }} }}\n\
                     policy: {{ p: {{ paths: {list}, identities: [app] }} }}\n"
                );
                let Converted { text, notes } = converted(&before, &off());
                let is_lost =
                    notes.iter().any(|note| note.text.contains("can't be said by a prefix"));
                let (before, after) = (
                    load_with(&before, &Flags::default()).unwrap(),
                    load_with(&text, &Flags::default()).unwrap(),
                );
                for path in &paths {
                    let allowed =
                        [&before, &after].map(|config| config.policies.allows("app", path));
                    match allowed {
                        [false, true] => panic!("{pattern} allows {path}:\n{}", *text),
                        [true, false] => {
                            assert!(is_lost, "{pattern} allows no {path}:\n{}", *text);
                            lost += 1;
                        }
                        _ => same += 1,
                    }
                }
            }
        }
    }
    assert!(same > 10_000 && lost > 100, "{same} {lost}");
}
