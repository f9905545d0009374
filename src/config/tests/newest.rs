//! Files with an `admin`, and those that mix their fields with those of older ones.

use std::{path::Path, time::Duration};

use super::*;
use crate::{
    base::generation::Generation,
    keystore::{
        KeyName,
        vault::{self, Jwt, Login},
    },
    log::AuditMode,
};

/// What must not be missing.
const HEAD: &str = "admin: { identity: boss }\ntls: { key: a.key, cert: a.crt }\n";

/// What all files of this format need, and `text`.
fn file(text: &str) -> String {
    let head = match text.contains("tls:") {
        true => "admin: { identity: boss }\n",
        false => HEAD,
    };
    let store = match text.contains("keystore:") {
        true => "",
        false => "keystore: { fs: { path: /keys } }\n",
    };
    format!("{head}{store}{text}\n")
}

fn newest(text: &str) -> Config {
    let text = file(text);
    load_with(&text, &Flags::default()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn refused(text: &str) -> String {
    let text = file(text);
    load_with(&text, &Flags::default()).expect_err(&text).to_string()
}

/// The warnings about `text` beside `flags`.
fn warnings(text: &str, flags: &Flags) -> Vec<String> {
    let endpoints =
        ["/version", "/v1/status", "/v1/key/create/*", "/v1/key/delete/*", "/v1/key/list/*"];
    let loaded = load_text(Some(Path::new("kes.yml")), text, flags, &endpoints, env);
    let warnings = loaded.findings().into_iter().filter(|found| {
        found.severity == Severity::Warning && !found.message.contains("is no identity")
    });
    warnings.map(|found| found.sentence(None)).collect()
}

#[track_caller]
fn assert_warns(text: &str, start: &str) {
    let warnings = warnings(&file(text), &Flags::default());
    assert!(warnings.iter().any(|warning| warning.starts_with(start)), "{text}: {warnings:#?}");
}

#[test]
fn a_file_with_an_admin_has_all_its_fields() {
    let config = load_with(
        r#"
version: v1
address: 127.0.0.1:7000
admin:
  identity: ${ROOT}
tls:
  key: a.key
  cert: a.crt
  password: ${SECRET}
  auth: "on"
  ca: /authorities
  proxy:
    identities: []
    header: { cert: X-Tls-Client-Cert }
api:
  /v1/status: { skip_auth: true, timeout: 7s }
  /v1/key/create/: { skip_auth: false }
  texts: 0.14
policy:
  my-app:
    allow:
    - /v1/key/create/*
    - /version
    deny: [ "/v1/key/create/internal*" ]
    identities: [ "${ID}" ]
cache:
  expiry: { any: 10m, unused: 1m, offline: 1h }
log: { error: on, audit: off }
keys:
- name: first
- name: ${ID}
keystore:
  fs: { path: /keys }
"#,
        &Flags::default(),
    )
    .unwrap();
    assert_eq!(Generation::Newest, config.generation);
    assert_eq!(Generation::V0_14, config.texts);
    assert_eq!("127.0.0.1:7000", config.address.to_string());
    assert_eq!("boss", config.root);
    assert_eq!(Path::new("a.key"), config.tls_key);
    assert_eq!(b"hush", config.tls_password.as_ref().unwrap().expose());
    assert_eq!(
        (Auth::On, Some(Path::new("/authorities"))),
        (config.auth, config.tls_ca.as_deref())
    );
    let timeout = Some(Duration::from_secs(7));
    let options = [ApiOptions { skip_auth: true, timeout }, ApiOptions::default()];
    let paths = ["/v1/status", "/v1/key/create/"].map(str::to_owned);
    assert_eq!(paths.into_iter().zip(options).collect::<Vec<_>>(), config.apis);
    for (path, is_allowed) in [
        ("/v1/key/create/a", true),
        ("/v1/key/create/a/b", true),
        ("/version", true),
        ("/versions", false),
        ("/v1/key/create/internal-1", false),
        ("/v1/key/delete/a", false),
    ] {
        assert_eq!(is_allowed, config.policies.allows("app-1", path), "{path}");
    }
    assert!(config.policies.allows("boss", "/v1/key/delete/a"));
    let times = [config.cache.any, config.cache.unused, config.cache.offline];
    assert_eq!([600, 60, 3600].map(|s| Some(Duration::from_secs(s))), times);
    assert_eq!((true, AuditMode::Off), (config.log.error, config.log.audit));
    let keys: Vec<_> = config.keys.iter().map(KeyName::as_str).collect();
    assert_eq!(vec!["first", "app-1"], keys);
    assert_eq!(*in_files("/keys"), *config.key_store);
}

#[test]
fn its_defaults_are_those_of_the_newest_kes() {
    let config = newest("");
    assert_eq!(Generation::Newest, config.texts);
    assert_eq!("0.0.0.0:7373", config.address.to_string());
    assert_eq!(Auth::Off, config.auth);
    let times = [config.cache.any, config.cache.unused, config.cache.offline];
    assert_eq!([Some(Duration::from_secs(300)), Some(Duration::from_secs(30)), None], times);
    assert_eq!((true, AuditMode::Changes), (config.log.error, config.log.audit));
    assert!(config.apis.is_empty() && config.tls_ca.is_none() && config.tls_password.is_none());
    let zero = "cache: { expiry: { any: 0, unused: 0s } }";
    assert_eq!(config.cache, newest(zero).cache);
    assert_warns(zero, "Warning: 0 is as good as no value: the default, 300s, counts: ");
    assert_warns(zero, "Warning: 0 is as good as no value: the default, 30s, counts: ");
}

#[test]
fn files_with_a_version_or_in_json_are_of_this_format() {
    let text = "version: v1\ntls: { key: k, cert: c }\nkeystore: { fs: { path: /k } }\n";
    let error = load_with(text, &Flags::default()).unwrap_err().to_string();
    assert_eq!(
        "no admin identity has been specified (kes.yml, field admin.identity: set \
         \"admin.identity\"; \"disabled\" means no admin)",
        error
    );
    let text = "{\n\t\"version\": \"v1\",\n\t\"admin\": { \"identity\": \"a\\/b\" },\n\t\"tls\": \
                { \"key\": \"k\", \"cert\": \"c\" },\n\t\"api\": { \"\\/v1\\/status\": { \
                \"skip_auth\": true } },\n\t\"keystore\": { \"fs\": { \"path\": \"/k\" } }\n}\n";
    let config = load_with(text, &Flags::default()).unwrap();
    assert_eq!("a/b", config.root);
    assert!(config.apis[0].1.skip_auth);
}

#[test]
fn values_that_are_wrong_are_named_with_their_place() {
    for (text, start) in [
        (
            "version: v2",
            "unknown version of the format: \"v2\" (kes.yml line 4 column 10, field version: ",
        ),
        (
            "tls: { key: a }",
            "no certificate file has been specified (kes.yml, field tls.cert: set \"tls.cert\")",
        ),
        (
            "tls: { key: a, cert: b, auth: maybe }",
            "\"maybe\" is an invalid setting of TLS authentication (kes.yml line 3 column 31, field tls.auth: ",
        ),
        (
            "api: { texts: 0.15 }",
            "unknown texts: \"0.15\" (kes.yml line 4 column 15, field api.texts: ",
        ),
        (
            "api: { /v1/status: { skip_auth: 1 } }",
            "skip_auth is neither true nor false: \"1\" (kes.yml line 4 column 33, field api./v1/status.skip_auth: ",
        ),
        (
            "api: { /v1/status: { timeout: -1s } }",
            "failed to read config file: time: negative duration \"-1s\" (kes.yml line 4 column 31, field api./v1/status.timeout: ",
        ),
        (
            "api: { /v1/status: { skip_aut: true } }",
            "failed to read config file: kes.yml line 4 column 22: api./v1/status: unknown field `skip_aut`, expected `skip_auth` or `timeout` (did you mean `skip_auth`?)",
        ),
        (
            "policy: { a.b: { allow: [/version] } }",
            "invalid policy name \"a.b\" (kes.yml line 4 column 11, field policy.a.b: use 1 to 80 ",
        ),
        (
            "policy: { a: { allow: [/version], identities: [a/b] } }",
            "invalid identity \"a/b\" (kes.yml line 4 column 48, field policy.a.identities[0]: ",
        ),
        (
            "policy: { a: { allow: [/version], identities: [boss] } }",
            "cannot assign policy \"a\" to identity \"boss\": this identity is already admin (",
        ),
        (
            "policy: { a: { identities: [x] }, b: { identities: [x] } }",
            "cannot assign policy \"b\" to identity \"x\": this identity already has a policy (",
        ),
        (
            "tls: { key: a, cert: b, proxy: { identities: [p] } }\npolicy: { a: { identities: [p] } }",
            "cannot assign policy \"a\" to TLS proxy \"p\" (",
        ),
        (
            "tls: { key: a, cert: b, proxy: { identities: [boss] } }",
            "The 0-th TLS proxy identity is equal to the root identity \"boss\". ",
        ),
        (
            "cache: { expiry: { offline: 1d } }",
            "failed to read config file: time: unknown unit \"d\" in duration \"1d\" (",
        ),
        (
            "log: { audit: loud }",
            "\"loud\" is an invalid audit log configuration (kes.yml line 4 column 15, field log.audit: write on, off, changes, required, a number, or DEBUG, ",
        ),
        ("log: { error: required }", "\"required\" is an invalid error log configuration ("),
        (
            "keys: [ name: a, name: a ]",
            "key \"a\" is listed twice (kes.yml line 4 column 24, field keys[1].name: ",
        ),
        (
            "keys: [ name: a.b ]",
            "failed to create key \"a.b\": invalid key name (kes.yml line 4 column 15, field keys[0].name: use 1 to 80 ",
        ),
        (
            "keystore: {}",
            "no key store specified (kes.yml line 3 column 11, field keystore.fs.path: ",
        ),
        (
            "keystore: { fs: { path: '' } }",
            "no key store specified (kes.yml line 3 column 25, field keystore.fs.path: ",
        ),
        (
            "keystore: { fs: { path: /a }, gemalto: { keysecure: { endpoint: https://b } } }",
            "ambiguous configuration: FS and Gemalto KeySecure endpoint are specified at the same time (",
        ),
        (
            "keystore: { azure: { keyvault: { endpoint: https://a, credentials: { tenant_id: x } } } }",
            "Azure Key Vault is not supported as key store (",
        ),
        (
            "keystore: { vault: { endpoint: https://b } }",
            "failed to connect to Vault: vault: no or empty authentication credentials specified (",
        ),
    ] {
        assert_starts(&refused(text), start);
    }
    let error = load_with(HEAD, &Flags::default()).unwrap_err().to_string();
    assert_starts(
        &error,
        "no key store specified (kes.yml, field keystore.fs.path: fill in the field",
    );
}

#[test]
fn a_variable_is_one_name_and_must_be_set() {
    assert_eq!("boss", newest("keys: [ name: ' ${ ROOT } ' ]").keys[0].as_str());
    for (value, name) in
        [("${UNSET}", "${UNSET}"), ("${ROOT}/${ID}", "${ROOT}/${ID}"), ("${}", "${}")]
    {
        assert_starts(
            &refused(&format!("keys: [ name: '{value}' ]")),
            &format!(
                "environment variable {name} is empty or not set (kes.yml line 4 column 15, field keys[0].name: "
            ),
        );
    }
    // Neither names nor rules of policies, nor paths of APIs.
    let text = "policy: { a: { allow: ['${ROOT}'] } }\napi: { '${ROOT}': { timeout: 1s } }";
    let config = newest(text);
    assert_eq!("${ROOT}", config.policies.get("a").unwrap().allow[0].as_str());
    assert_eq!("${ROOT}", config.apis[0].0);
    assert!(refused("policy: { '${ROOT}': {} }").starts_with("invalid policy name \"${ROOT}\""));
    let store = newest("keystore: { fs: { path: /a$ROOT } }").key_store;
    assert_eq!(*in_files("/a$ROOT"), *store);
}

#[test]
fn the_log_has_levels() {
    for (text, error, audit) in [
        ("on", true, AuditMode::On),
        ("OFF", false, AuditMode::Off),
        ("debug", true, AuditMode::On),
        ("INFO", true, AuditMode::On),
        ("info+1", true, AuditMode::Off),
        ("Warn", true, AuditMode::Off),
        ("WARN-4", true, AuditMode::On),
        ("ERROR", true, AuditMode::Off),
        ("ERROR+1", false, AuditMode::Off),
        ("-4", true, AuditMode::On),
        ("0", true, AuditMode::On),
        ("9", false, AuditMode::Off),
        ("''", true, AuditMode::Changes),
    ] {
        let log = newest(&format!("log: {{ error: {text}, audit: {text} }}")).log;
        assert_eq!((error, audit), (log.error, log.audit), "{text}");
    }
    assert_eq!(AuditMode::Required, newest("log: { audit: required }").log.audit);
    assert_eq!(AuditMode::Changes, newest("log: { audit: Changes }").log.audit);
    for text in ["on+1", "INFO+", "INFO+x", "+", "1.5", "true"] {
        assert!(
            refused(&format!("log: {{ audit: {text} }}")).contains("invalid audit log"),
            "{text}"
        );
    }
}

#[test]
fn vault_has_its_own_defaults() {
    let text =
        "keystore: { vault: { endpoint: https://v, approle: { namespace: /, id: a, secret: b } } }";
    let store = newest(text).key_store;
    let store: &vault::Settings = (&*store as &dyn std::any::Any).downcast_ref().unwrap();
    assert_eq!(Duration::from_secs(15), store.ping);
    assert_eq!(Duration::from_secs(5), store.retry);
    assert_eq!(Some("/"), store.login_namespace.as_deref());
    let text =
        "keystore: { vault: { endpoint: https://v, kubernetes: { role: a, jwt: var/run/token } } }";
    let store = newest(text).key_store;
    let store: &vault::Settings = (&*store as &dyn std::any::Any).downcast_ref().unwrap();
    let Login::Kubernetes { jwt: Jwt::File(path), .. } = &store.login else { panic!() };
    assert_eq!(Path::new("var/run/token"), path);
}

#[test]
fn what_looks_wrong_is_a_warning() {
    for (text, start) in [
        (
            "tls: { key: a, cert: b, ca: c }",
            "Warning: \"tls.auth\" is not on, so client certificates are not verified ",
        ),
        (
            "tls: { key: a, cert: b, proxy: { identities: [p] } }",
            "Warning: the newest KES has no TLS proxies, ",
        ),
        (
            "tls: { key: a, cert: b, proxy: { header: { ip: X-Real-IP } } }",
            "Warning: without TLS proxies this header means nothing: ",
        ),
        (
            "api: { /v1/statu: { skip_auth: true } }",
            "Warning: there is no API \"/v1/statu\", so this means nothing: did you mean \"/v1/status\"?",
        ),
        (
            "api: { /v1/key/create/x: { timeout: 1s } }",
            "Warning: there is no API \"/v1/key/create/x\", so this means nothing: did you mean \"/v1/key/create/\", ",
        ),
        (
            "api: { /v1/key/create: { skip_auth: true } }",
            "Warning: anyone can call this API, without a certificate: ",
        ),
        (
            "policy: { a: { deny: [/version] } }",
            "Warning: policy \"a\" allows nothing: list what it allows in \"allow\"",
        ),
        (
            "policy: { a: { allow: [/v1/key/*/x] } }",
            "Warning: \"*\" in \"/v1/key/*/x\" stands for itself, so no request matches: ",
        ),
        (
            "policy: { a: { allow: ['/v1/key/create/[ab]*'] } }",
            "Warning: \"[\" in \"/v1/key/create/[ab]*\" stands for itself, ",
        ),
        (
            "policy: { a: { allow: [/version], deny: [/v1/key/creat/*] } }",
            "Warning: \"/v1/key/creat/*\" matches no API: did you mean ",
        ),
        ("policy: { a: { allow: [/v1/key/list] } }", "Warning: \"/v1/key/list\" matches no API: "),
        ("policy: { a: { allow: [/version, /version] } }", "Warning: \"/version\" is listed twice"),
    ] {
        assert_warns(text, start);
    }
    let fine = "policy: { a: { allow: ['*', /v1/*, /v1/key/create/a, /v1/key/create/a*, /v1/key/delete/], deny: [/v1/key/list] } }\n\
                api: { /v1/key/create/: { timeout: 1s }, /v1/status: { skip_auth: true } }";
    assert_eq!(Vec::<String>::new(), warnings(&file(fine), &Flags::default()));
}

#[test]
fn flags_are_ignored_and_said_to_be_but_for_the_address() {
    let given = Flags { addr: Some("1.1.1.1:1".into()), auth: Some(Auth::On), ..flags() };
    let config = load_with(&file("address: 2.2.2.2:2"), &given).unwrap();
    assert_eq!("1.1.1.1:1", config.address.to_string());
    assert_eq!(("boss", Auth::Off), (&*config.root, config.auth));
    assert_eq!(Path::new("a.key"), config.tls_key);
    assert_eq!(
        [
            "Warning: --root is ignored beside a file with \"admin\" or \"version\": set \"admin.identity\" in the file",
            "Warning: --key is ignored beside a file with \"admin\" or \"version\": set \"tls.key\" in the file",
            "Warning: --cert is ignored beside a file with \"admin\" or \"version\": set \"tls.cert\" in the file",
            "Warning: --auth is ignored beside a file with \"admin\" or \"version\", and client certificates are not verified: set \"tls.auth\" in the file",
        ],
        *warnings(&file(""), &given)
    );
}

#[test]
fn a_file_that_mixes_formats_is_told_in_one_table() {
    assert_eq!(
        "failed to read config file: kes.yml mixes two formats: it is read as a file of KES since 0.18, \
         which has no field of KES up to 0.14. Write all fields as in one column:\n  \
         KES up to 0.14               KES since 0.18\n  \
         -                            version (line 1)\n  \
         root (line 2)                admin.identity\n  \
         policy.a.paths (line 4)      policy.a.allow          NOTE: a \"*\" at the end also matches \
         \"/\" there, and \"?\" and \"[\" stand for themselves\n  \
         -                            policy.b.deny (line 5)  NOTE: without it the policy allows more\n  \
         keys (line 6)                keystore\n  \
         the flag --auth, default on  tls.auth, default off   NOTE: without \"tls.auth: on\", \
         certificates of clients are not verified there",
        load_with(
            "version: v1\nroot: x\npolicy:\n  a: { paths: [/a] }\n  b: { deny: [/b] }\nkeys: { fs: { path: /k } }\n",
            &Flags::default()
        )
        .unwrap_err()
        .to_string()
    );
    let error = error(
        "root: x\npolicy:\n  a: { allow: [/a] }\ntls: { auth: on, ca: x }\napi: { /v1/status: { skip_auth: true } }\n\
",
    );
    for row in [
        "kes.yml mixes two formats: it is read as a file of KES up to 0.14, which has no field of KES since 0.18. ",
        "\n  root (line 1) ",
        "\n  policy.a.paths ",
        "  policy.a.allow (line 3) ",
        "\n  the flag --auth ",
        "  tls.auth (line 4)  ",
        "NOTE: without it, certificates of clients are not verified",
        "  tls.ca (line 4)\n",
        "  api./v1/status (line 5)",
    ] {
        assert!(error.contains(row), "{row}\n{error}");
    }
}

#[test]
fn a_file_that_mixes_formats_behind_too_many_errors_to_show_is_no_less_wrong() {
    let more: String = (0..200).map(|number| format!("field-{number}: x\n")).collect();
    let error = error(&format!("root: x\ntls: {{ auth: on }}\n{more}"));
    assert!(error.contains("kes.yml mixes two formats: "), "{error}");
}

#[test]
fn each_field_of_another_format_is_a_finding() {
    let text =
        "admin: { identity: x }\nroot: y\npolicy: { a: { paths: [/a] } }\nlog: { eror: on }\n";
    let loaded = load_text(Some(Path::new("kes.yml")), text, &Flags::default(), &[], env);
    let found: Vec<_> = loaded
        .findings()
        .into_iter()
        .map(|found| (found.field, found.message, found.advice))
        .collect();
    let message = "a field of KES up to 0.14, but the file is one of KES since 0.18";
    for (field, message, advice) in [
        ("root", message, "write admin.identity"),
        (
            "policy.a.paths",
            message,
            "write policy.a.allow: a \"*\" at the end also matches \"/\" there, and \"?\" and \"[\" stand for themselves",
        ),
        ("", "log: unknown field `eror`, expected `error` or `audit`", "did you mean `error`?"),
    ] {
        let expected = (field.to_owned(), message.to_owned(), advice.to_owned());
        assert!(found.contains(&expected), "{expected:?}\n{found:#?}");
    }
    assert_eq!(3, found.iter().filter(|(_, message, _)| !message.contains("no identity")).count());
}

#[test]
fn one_field_of_the_cache_alone_is_no_contradiction() {
    let found = warnings(&file("cache: { expiry: { any: 5s } }"), &Flags::default());
    assert_eq!(Vec::<String>::new(), found);
    assert_warns(
        "cache: { expiry: { any: 5s, unused: 30s } }",
        "Warning: longer than \"cache.expiry.any\", so it means nothing",
    );
}

#[test]
fn a_map_takes_fields_from_others() {
    let merged = "policy:\n  a: &a { allow: [/v1/key/create/*], deny: [/v1/key/create/x] }\n  b: &b { allow: [/v1/log/*], identities: [i] }\n";
    let rules = |text: &str| {
        let config = newest(&format!("{merged}{text}"));
        format!("{:?}", config.policies.get("c").unwrap())
    };
    let written = rules("  c: { allow: [/v1/log/*], deny: [/v1/key/create/x] }");
    assert_eq!(written, rules("  c:\n    <<: *a\n    allow: [/v1/log/*]"), "its own fields count");
    assert_eq!(written, rules("  c: { allow: [/v1/log/*], <<: *a }"));
    let both = "policy:\n  a: &a { deny: [/v1/key/create/x] }\n  b: &b { allow: [/v1/log/*] }\n  d: &d { allow: [/version] }\n";
    for list in ["[*a, *b, *d]", "[*b, *a, *d]"] {
        let config = newest(&format!("{both}  c:\n    <<: {list}\n"));
        assert_eq!(written, format!("{:?}", config.policies.get("c").unwrap()), "{list}");
    }
    let refusal = refused("policy: { c: { <<: [/version] } }");
    assert!(refusal.contains("expected a map after \"<<\", found a string"), "{refusal}");
    let refusal = refused("policy: { c: { '<<': { allow: [/version] } } }");
    assert!(refusal.contains("unknown field `<<`"), "{refusal}");
}

#[test]
fn texts_can_be_chosen_in_all_formats() {
    assert_eq!(Generation::V0_14, load("").texts);
    let config = load("api: { texts: newest }");
    assert_eq!((Generation::V0_14, Generation::Newest), (config.generation, config.texts));
    assert_eq!(Generation::Newest, newest("api: { texts: newest }").texts);
}

#[test]
fn an_api_key_in_the_place_of_an_identity_is_not_shown() {
    let key = crate::tls::ApiKey::generate().unwrap();
    let text = key.text();
    let bare = text.strip_prefix("kes:v1:").unwrap();
    for file in [
        format!("root: {}", *text),
        format!("root: {bare}"),
        format!("root: x\npolicy: {{ a: {{ identities: [\"{}\"] }} }}", *text),
        format!("admin: {{ identity: {} }}", *text),
        format!("admin: {{ identity: x }}\npolicy: {{ a: {{ identities: [\"{}\"] }} }}", *text),
    ] {
        let path = Some(Path::new("kes.yml"));
        let loaded = load_text(path, &file, &Flags::default(), &[], env);
        let findings = loaded.findings();
        let advice = format!("write {}, the identity of this API key", key.identity());
        assert!(findings.iter().any(|found| found.advice.starts_with(&advice)), "{findings:#?}");
        assert!(!format!("{findings:?}").contains(&bare[2..]), "{findings:#?}");
    }
}

#[test]
fn a_key_that_is_no_map_is_one_mistake() {
    let text = file("keys: [ name: a, b ]");
    let loaded = load_text(Some(Path::new("kes.yml")), &text, &Flags::default(), &[], env);
    let found = loaded.findings();
    let errors: Vec<_> = found.iter().filter(|found| found.severity == Severity::Error).collect();
    assert_eq!(
        ["keys[1]: expected a map of fields, found a string"],
        *errors.iter().map(|e| &e.message[..]).collect::<Vec<_>>()
    );
}

#[test]
fn a_proxy_that_forwards_addresses_has_a_policy_like_others() {
    let text = "policy: { a: { allow: [/version], identities: [p] } }\n\
                tls: { key: a, cert: b, proxy: { identities: [p], header: { ip: X-Forwarded-For } } }";
    let config = newest(text);
    assert_eq!(Some("X-Forwarded-For"), config.proxy.header_ip.as_deref());
    assert!(config.policies.allows("p", "/version") && !config.policies.is_proxy("p"));
    let warnings = warnings(&file(text), &Flags::default());
    assert!(!warnings.iter().any(|warning| warning.contains("proxies")), "{warnings:#?}");
}
