//! What the fields mean, and what is said about wrong values.

use std::{net::SocketAddr, path::Path, time::Duration};

use super::*;
use crate::{
    cache::Expiry,
    config::{
        expand::Expansion,
        types::{Format, Proxy},
    },
    keystore::KeyName,
    log::{AuditMode, Settings},
    tls::Group,
};

#[test]
fn without_a_file_flags_and_defaults_are_all() {
    let config = load_flags(&flags()).unwrap();
    assert_eq!("0.0.0.0:7373", config.address.to_string());
    assert_eq!("disabled", config.root);
    assert_eq!(Path::new("server.key"), config.tls_key);
    assert_eq!(Path::new("server.crt"), config.tls_cert);
    assert_eq!(Group::ALL, *config.tls_groups);
    assert_eq!(Auth::On, config.auth);
    assert_eq!(Proxy::default(), config.proxy);
    assert_eq!(0, config.policies.iter().count());
    assert_eq!(Expiry::default(), config.cache);
    let (error, audit) = (true, AuditMode::Off);
    assert_eq!(Settings { audit, error }, config.log);
    assert!(config.keys.is_empty());
    assert_eq!(*in_memory(), *config.key_store);
}

#[test]
fn a_file_without_values_is_like_no_file() {
    for text in [
        "",
        "\n",
        "# nothing\n",
        "---\n",
        "---\n...\n",
        "~",
        "{}",
        "\u{feff}",
        "tls:\npolicy: ~\nlog:\n",
    ] {
        assert_eq!(*in_memory(), *key_store(text), "{text:?}");
    }
}

#[test]
fn the_format_with_a_key_store_under_keys_is_read() {
    let config = load_with(&older("proxies"), &Flags::default()).unwrap();
    assert_eq!("127.0.0.1:7000", config.address.to_string());
    assert_eq!("boss", config.root);
    assert_eq!(Path::new("a.key"), config.tls_key);
    assert_eq!(Path::new("a.crt"), config.tls_cert);
    assert_eq!(vec!["gate"], config.proxy.identities);
    assert_eq!(Some("X-Tls-Client-Cert"), config.proxy.header_cert.as_deref());
    assert!(config.policies.allows("app-1", "/v1/key/create/my-x"));
    assert!(!config.policies.allows("app-1", "/v1/key/delete/my-x"));
    assert!(config.policies.allows("boss", "/v1/key/delete/my-x"));
    assert!(config.policies.is_proxy("gate"));
    assert!(config.policies.get("empty").is_some());
    assert_eq!(Some(Duration::from_secs(300)), config.cache.any);
    assert_eq!(Some(Duration::from_secs(30)), config.cache.unused);
    let (error, audit) = (false, AuditMode::On);
    assert_eq!(Settings { audit, error }, config.log);
    assert_eq!(*in_files("/keys"), *config.key_store);
}

#[test]
fn the_format_with_key_names_under_keys_is_read() {
    let config = load("keys:\n- name: a\n- name: b\nkeystore:\n  fs: { path: /keys }\n");
    let names: Vec<_> = config.keys.iter().map(KeyName::as_str).collect();
    assert_eq!(vec!["a", "b"], names);
    assert_eq!(*in_files("/keys"), *config.key_store);
    assert_eq!(*in_memory(), *key_store("keys:\n- name: a\n"));
}

#[test]
fn a_flag_wins_over_the_file_and_an_empty_flag_does_not() {
    let text = "address: 1.1.1.1:1\nroot: file\ntls: { key: file.key, cert: file.crt }\n";
    let mut flags = Flags {
        addr: Some("2.2.2.2:2".into()),
        root: Some("flag".into()),
        key: Some("flag.key".into()),
        cert: Some("flag.crt".into()),
        auth: Some(Auth::Off),
    };
    let config = load_with(text, &flags).unwrap();
    assert_eq!("2.2.2.2:2", config.address.to_string());
    assert_eq!("flag", config.root);
    assert_eq!(Path::new("flag.key"), config.tls_key);
    assert_eq!(Path::new("flag.crt"), config.tls_cert);
    assert_eq!(Auth::Off, config.auth);

    flags.addr = Some(String::new());
    flags.root = Some(String::new());
    flags.key = Some(String::new());
    flags.cert = None;
    let config = load_with(text, &flags).unwrap();
    assert_eq!("1.1.1.1:1", config.address.to_string());
    assert_eq!("file", config.root);
    assert_eq!(Path::new("file.key"), config.tls_key);
    assert_eq!(Path::new("file.crt"), config.tls_cert);
}

#[test]
fn an_address_needs_no_ip_or_no_port() {
    for (text, address) in [
        ("10.1.2.3", "10.1.2.3:7373"),
        ("10.1.2.3:80", "10.1.2.3:80"),
        (":80", "0.0.0.0:80"),
        ("[::1]:80", "[::1]:80"),
        ("[::1]", "[::1]:7373"),
        ("::1", "[::1]:7373"),
        ("${PORT}", ""),
        (" ${ROOT}:$PORT ", ""),
        ("localhost:7373", ""),
        ("7373", ""),
        (":+80", ""),
        (":", ""),
        (":70000", ""),
        ("1.2.3.4:", ""),
        ("[1.2.3.4]:80", ""),
        ("1.2.3.4:80:80", ""),
    ] {
        let flags = Flags { addr: Some(text.into()), ..flags() };
        let parsed = load_with("", &flags).map(|config| config.address);
        match address.parse::<SocketAddr>() {
            Ok(address) => assert_eq!(address, parsed.unwrap(), "{text}"),
            Err(_) => assert_eq!(
                format!(
                    "invalid server address: \"{text}\" (flag --addr: write IP, IP:PORT, :PORT or \
                     [IPv6]:PORT, such as 0.0.0.0:7373)"
                ),
                parsed.unwrap_err().to_string()
            ),
        }
    }
}

#[test]
fn a_wrong_address_in_the_file_is_named_with_its_place() {
    assert_starts(
        &error("# first\naddress:   localhost:7373\n"),
        "invalid server address: \"localhost:7373\" (kes.yml line 2 column 12, field address: ",
    );
}

#[test]
fn root_key_and_certificate_are_required() {
    let require = |flags: Flags, text: &str| load_with(text, &flags).unwrap_err().to_string();
    assert_eq!(
        "no root identity has been specified (kes.yml, field root: set \"root\" in the file or use \
         --root; \"disabled\" means no root)",
        require(Flags { root: None, ..flags() }, "")
    );
    assert_starts(
        &require(Flags { root: None, ..flags() }, "root: ${UNSET}"),
        "environment variable ${UNSET} is empty or not set (kes.yml line 1 column 7, field root: ",
    );
    assert_starts(
        &require(Flags { key: None, ..flags() }, "tls: { cert: x }"),
        "no private key file has been specified (kes.yml, field tls.key: ",
    );
    assert_starts(
        &require(Flags { cert: None, ..flags() }, "tls: { key: x }"),
        "no certificate file has been specified (kes.yml, field tls.cert: ",
    );
    assert_starts(
        &load_flags(&Flags::default()).unwrap_err().to_string(),
        "no root identity has been specified (flag --root: ",
    );
}

#[test]
fn environment_variables_are_expanded_where_they_always_were() {
    let flags = Flags { root: None, ..flags() };
    let config = load_with(&older("texts-of-variables"), &flags).unwrap();
    assert_eq!(7000, config.address.port());
    assert_eq!("boss", config.root);
    assert_eq!(vec![Group::P256], config.tls_groups);
    assert_eq!(vec!["app-1"], config.proxy.identities);
    assert_eq!(Some("${ID}"), config.policies.policy_name_of("boss-app-1"));
    assert_eq!("${ROOT}", config.policies.get("${ID}").unwrap().allow[0].as_str());
    assert_eq!(Some(Duration::from_secs(90)), config.cache.any);
    let (error, audit) = (false, AuditMode::On);
    assert_eq!(Settings { audit, error }, config.log);
    assert_eq!("app-1", config.keys[0].as_str());
    assert_eq!(*in_files("/keys"), *config.key_store);
}

/// A file with `value` in each field that takes a text with variables, and the field.
fn one_text_each(value: &str) -> Vec<(String, String)> {
    let fields = table().documented().map(|(_, field)| field);
    let fields = fields.filter(|field| field.expansion != Expansion::Never);
    let fields = fields.filter(|field| field.is_in(Format::KeyStore));
    let paths = fields.map(|field| field.path.replace('*', "p"));
    let file = |field: String| {
        let text =
            field.rsplit('.').fold(value.to_owned(), |inner, step| match step.strip_suffix("[]") {
                Some(name) => format!("{{ {name}: [ {inner} ] }}"),
                None => format!("{{ {step}: {inner} }}"),
            });
        (text, field.replace("[]", "[0]"))
    };
    let older = ["keys.fs.path", "keys.vault.prefix"].map(String::from);
    paths.chain(older).map(file).collect()
}

#[test]
fn no_field_is_empty_because_a_variable_is_not_set() {
    for value in ["'${UNSET}'", "' ${UNSET} '", "'${UNSET}$MISSING${UNSET}'"] {
        for (text, field) in one_text_each(value) {
            let message = load_with(&text, &Flags::default()).unwrap_err().to_string();
            let start = match value.contains("MISSING") {
                true => "environment variables ${MISSING} and ${UNSET} are empty or not set",
                false => "environment variable ${UNSET} is empty or not set",
            };
            assert_starts(&message, start);
            assert!(message.contains("(kes.yml line 1 column "), "{message}");
            assert!(message.contains(&format!(", field {field}: ")), "{message}");
        }
    }
    // One that is set to nothing is as good as none.
    let env = |name: &str| (name == "EMPTY").then(String::new);
    let text = "keystore: { fs: { path: '${EMPTY}' } }";
    let loaded = load_text(Some(Path::new("kes.yml")), text, &flags(), &[], env);
    assert_starts(
        &loaded.accept().unwrap_err().to_string(),
        "environment variable ${EMPTY} is empty or not set (kes.yml line 1 column 25, field \
         keystore.fs.path: ",
    );
}

#[test]
fn a_text_without_content_and_a_field_behind_a_flag_are_not_empty_by_mistake() {
    for (text, field) in one_text_each("''") {
        let is_never_empty = |field: &str| ["keys[0].name", "tls.groups[0]"].contains(&field);
        if is_never_empty(&field) {
            continue;
        }
        let message = load_with(&text, &flags()).map_err(|e| e.to_string());
        match message {
            Ok(_) => {}
            Err(e) => assert!(
                field.starts_with("key") && e.starts_with("no key store: a section is there"),
                "{field}: {e}"
            ),
        }
    }
    let text = "{ address: '${NO}', root: '${NO}', tls: { key: '${NO}', cert: '${NO}' } }";
    let given = Flags { addr: Some("127.0.0.1:7373".into()), ..flags() };
    assert_eq!("disabled", load_with(text, &given).unwrap().root);
}

#[test]
fn on_and_off_are_words_with_and_without_quotes() {
    for (text, audit) in [
        ("on", AuditMode::On),
        ("off", AuditMode::Off),
        ("\"on\"", AuditMode::On),
        ("'OFF'", AuditMode::Off),
        ("On", AuditMode::On),
        ("", AuditMode::Off),
        ("\"\"", AuditMode::Off),
        ("required", AuditMode::Required),
        ("Required", AuditMode::Required),
    ] {
        assert_eq!(audit, load(&format!("log:\n  audit: {text}\n")).log.audit, "{text}");
    }
    assert_eq!(
        "\"true\" is an invalid audit log configuration (kes.yml line 2 column 10, field \
         log.audit: write on, off, changes or required)",
        error("log:\n  audit: true\n")
    );
    assert_starts(
        &error("log: { error: yes }"),
        "\"yes\" is an invalid error log configuration (kes.yml line 1 column 15, field log.error: ",
    );
}

#[test]
fn numbers_are_identities_and_names_as_they_are_written() {
    let config = load("root: x\nkeys:\n- name: 0012\n- name: 1e3\n- name: true\n- name: 0x1F\n");
    let names: Vec<_> = config.keys.iter().map(KeyName::as_str).collect();
    assert_eq!(vec!["0012", "1e3", "true", "0x1F"], names);
}

#[test]
fn wrong_durations_are_named_with_their_place() {
    assert_eq!(
        "failed to read config file: time: missing unit in duration \"30\" (kes.yml line 3 column \
         12, field cache.expiry.any: write numbers with units, such as 30s, 5m or 1h30m)",
        error("cache:\n  expiry:\n      any: 30\n")
    );
    assert_starts(
        &error("cache: { expiry: { unused: -5s } }"),
        "failed to read config file: time: negative duration \"-5s\" (kes.yml line 1 column 28, ",
    );
    assert_eq!(Expiry::default(), load("cache: { expiry: { any: 0, unused: 0s } }").cache);
}

#[test]
fn refused_policies_are_named_with_their_place() {
    let text = "policy:\n  a:\n    identities: [x, y]\n  b.c:\n    identities:\n    - z\n    - x\n";
    assert_starts(
        &error(text),
        "cannot assign policy \"b.c\" to identity \"x\": this identity already has a policy \
         (kes.yml line 7 column 7, field policy.b.c.identities[1]: ",
    );
    assert_starts(
        &error("policy: { a: { paths: [/a, '/[b'] } }"),
        "policy \"a\" contains invalid glob patterns: syntax error in pattern: a '[' has no \
         ']'; write '[[]' for the character (kes.yml line 1 column 28, field policy.a.paths[1]: ",
    );
    assert_starts(
        &error("policy: { a: { identities: [disabled] } }"),
        "cannot assign policy \"a\" to identity \"disabled\": this identity already has a policy (",
    );
    assert_starts(
        &error("policy: { a: { identities: [p] } }\ntls: { proxy: { identities: [p] } }"),
        "cannot assign policy \"a\" to TLS proxy \"p\" (kes.yml line 1 column 29, ",
    );
}

#[test]
fn there_are_probes_only_where_the_file_says_so() {
    assert_eq!(None, load("").probe);
    assert_eq!(None, load("probe: { address: }").probe);
    for (text, address) in [
        ("127.0.0.1:7374", "127.0.0.1:7374"),
        ("':7374'", "0.0.0.0:7374"),
        ("'[::1]:7374'", "[::1]:7374"),
        ("\"127.0.0.1:0\"", "127.0.0.1:0"),
        ("10.0.0.1:7373", "10.0.0.1:7373"),
    ] {
        let text = format!("address: 127.0.0.1:7373\nprobe: {{ address: {text} }}");
        assert_eq!(Some(address.parse().unwrap()), load(&text).probe, "{text}");
    }
    let text = "address: ':0'\nprobe: { address: ':0' }";
    assert_eq!(Some("0.0.0.0:0".parse().unwrap()), load(text).probe);
}

#[test]
fn connections_are_limited_by_a_number_or_by_memory() {
    assert_eq!(None, load("").limits.connections);
    assert_eq!(None, load("limits: { connections: }").limits.connections);
    for (text, number) in [("10000", 10_000), ("'1'", 1), ("'${PORT}'", 7000)] {
        let text = format!("limits: {{ connections: {text} }}");
        assert_eq!(Some(number), load(&text).limits.connections, "{text}");
    }
    assert_starts(
        &error("limits:\n  connections: none"),
        "invalid number of connections: \"none\" (kes.yml line 2 column 16, field limits.connections: ",
    );
}

#[test]
fn requests_of_an_identity_are_not_limited_unless_the_file_says_so() {
    let Limits { requests_per_second, concurrent, .. } = load("").limits;
    assert_eq!((None, None), (requests_per_second, concurrent));
    let text = "limits: { requests_per_second: 100, concurrent: '${PORT}' }";
    let Limits { requests_per_second, concurrent, connections } = load(text).limits;
    assert_eq!((Some(100), Some(7000), None), (requests_per_second, concurrent, connections));
    assert_starts(
        &error("limits:\n  requests_per_second: 0"),
        "invalid number of requests a second: \"0\" (kes.yml line 2 column 24, field \
         limits.requests_per_second: write a whole number of at least 1",
    );
    assert_starts(
        &error("limits: { concurrent: many }"),
        "invalid number of concurrent requests: \"many\" (kes.yml line 1 column 23, field limits.concurrent: ",
    );
}

#[test]
fn probes_and_clients_have_addresses_of_their_own() {
    assert_starts(
        &error("probe:\n  address: somewhere"),
        "invalid probe address: \"somewhere\" (kes.yml line 2 column 12, field probe.address: ",
    );
    for (api, probe) in [
        ("127.0.0.1:7374", "127.0.0.1:7374"),
        ("0.0.0.0:7374", "127.0.0.1:7374"),
        ("127.0.0.1:7374", "'[::]:7374'"),
        ("", "127.0.0.1"),
    ] {
        let text = format!("address: {api}\nprobe: {{ address: {probe} }}");
        assert_starts(
            &error(&text),
            "the server can't listen for probes where it listens for clients: ",
        );
    }
    assert_starts(&error("probe: { addr: 127.0.0.1:7374 }"), "failed to read config file: ");
}

#[test]
fn a_proxy_is_not_root_and_its_header_is_a_header() {
    assert_starts(
        &error("tls:\n  proxy:\n    identities:\n    - a\n    - disabled\n"),
        "The 1-th TLS proxy identity is equal to the root identity \"disabled\". The root identity \
         cannot be used as TLS proxy (kes.yml line 5 column 7, field tls.proxy.identities[1]: ",
    );
    assert_starts(
        &error("tls: { proxy: { header: { cert: 'X Cert:' } } }"),
        "invalid TLS proxy header name: \"X Cert:\" (kes.yml line 1 column 33, ",
    );
}

#[test]
fn groups_are_read_by_all_their_names_and_each_counts_once() {
    let groups = |list: &str| load(&format!("tls: {{ groups: {list} }}")).tls_groups;
    assert_eq!(vec![Group::P384, Group::X25519], groups("[P-384, x25519]"));
    assert_eq!(
        vec![Group::P256, Group::X25519MlKem768],
        groups("[CurveP256, X25519MLKEM768, prime256v1]")
    );
    assert_eq!(Group::ALL, *groups("~"));
}

#[test]
fn what_is_no_group_and_a_list_without_any_are_refused() {
    assert_eq!(
        "unknown key exchange group: \"X448\" (kes.yml line 4 column 5, field tls.groups[1]: use \
         X25519MLKEM768, X25519, P-256 and P-384)",
        error("tls:\n  groups:\n  - X25519\n  - X448\n")
    );
    for item in ["''", "~"] {
        assert_starts(
            &error(&format!("tls: {{ groups: [{item}] }}")),
            "unknown key exchange group: \"\" (kes.yml line 1 column 17, field tls.groups[0]: ",
        );
    }
    assert_eq!(
        "no key exchange group, so no client could connect (kes.yml line 1 column 16, field \
         tls.groups: list some of X25519MLKEM768, X25519, P-256 and P-384, or leave out the field for \
         all of them)",
        error("tls: { groups: [] }")
    );
    assert_starts(
        &error("tls: { groups: X25519 }"),
        "failed to read config file: kes.yml line 1 column 16: tls.groups: expected a list, found a \
         string",
    );
}

#[test]
fn key_names_that_are_unsafe_are_refused() {
    for name in ["''", "a/b", "..", "~"] {
        let message = error(&format!("keys:\n- name: ok\n- name: {name}\n"));
        assert!(message.contains("invalid key name (kes.yml line 3 column 9, field keys[1].name"));
    }
}
