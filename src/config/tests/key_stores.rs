//! Which key store is configured, and its settings.

use std::{any::Any, time::Duration};

use super::*;
use crate::{
    base::secret::Secret,
    keystore::{
        ClientCert, Start, keysecure,
        vault::{self, Jwt, Login, Transit, Version},
    },
};

#[test]
fn a_key_store_behind_an_unset_variable_is_not_silently_the_one_in_memory() {
    assert_starts(
        &error("keystore:\n  fs:\n    path: ${UNSET}\n"),
        "environment variable ${UNSET} is empty or not set \
         (kes.yml line 3 column 11, field keystore.fs.path: ",
    );
}

#[test]
fn an_empty_section_is_not_silently_the_one_in_memory() {
    for (text, place) in [
        ("root: x\nkeystore:\n", "line 2 column 10, field keystore.fs.path"),
        ("keystore: {}\n", "line 1 column 11, field keystore.fs.path"),
        ("keystore:\n  fs:\n", "line 2 column 6, field keystore.fs.path"),
        ("keystore:\n  fs: {}\n", "line 2 column 7, field keystore.fs.path"),
        ("keystore:\n  fs:\n    path:\n", "line 3 column 10, field keystore.fs.path"),
        ("keystore:\n  fs: ~\nkeys: []\n", "line 2 column 7, field keystore.fs.path"),
        ("keystore:\n  vault:\n", "line 2 column 9, field keystore.vault.endpoint"),
        ("keystore:\n  aws:\n", "line 2 column 3, field keystore.fs.path"),
        (
            "keystore: { gemalto: { keysecure: } }\n",
            "line 1 column 34, field keystore.gemalto.keysecure.endpoint",
        ),
        ("keys:\n", "line 1 column 6, field keys.fs.path"),
        ("keys: {}\n", "line 1 column 7, field keys.fs.path"),
        ("keys:\n  fs:\n", "line 2 column 6, field keys.fs.path"),
        ("keys:\n  vault:\n", "line 2 column 9, field keys.vault.endpoint"),
        ("keys:\nkeystore:\n", "line 2 column 10, field keystore.fs.path"),
    ] {
        assert_eq!(
            format!(
                "no key store: a section is there but does not say where (kes.yml {place}: fill in the \
                 field, or that of another key store, or leave out the section for an in-memory \
                 key store)"
            ),
            error(text),
            "{text}"
        );
    }
}

#[test]
fn without_a_section_keys_are_in_memory() {
    for text in ["", "root: x\n", "keys: []\n", "keys: [{ name: a }]\n"] {
        assert_eq!(*in_memory(), *key_store(text), "{text}");
    }
    for text in [
        "keys:\nkeystore: { fs: { path: /a } }\n",
        "keystore:\nkeys: { fs: { path: /a } }\n",
        "keystore: { vault: , fs: { path: /a } }\n",
    ] {
        assert_eq!(*in_files("/a"), *key_store(text), "{text}");
    }
}

/// The settings of Vault in `text`.
fn vault_in(text: &str) -> vault::Settings {
    let store: &dyn Any = &*key_store(text);
    store.downcast_ref::<vault::Settings>().expect("Vault").clone()
}

#[test]
fn vault_is_read_with_its_defaults() {
    let text = r#"
keystore:
  vault:
    endpoint: https://127.0.0.1:8200/
    approle: { id: me, secret: "${SECRET}", retry: 0s }
"#;
    let vault = vault_in(text);
    let expected = vault::Settings {
        endpoint: "https://127.0.0.1:8200".into(),
        engine: "kv".into(),
        version: Version::V1,
        namespace: String::new(),
        prefix: String::new(),
        transit: None,
        login: Login::AppRole {
            engine: "approle".into(),
            id: "me".into(),
            secret: Secret::new(b"hush".to_vec()),
        },
        login_namespace: None,
        retry: Duration::from_secs(5),
        client_cert: None,
        ca: None,
        ping: Duration::from_secs(10),
    };
    assert_eq!(expected, vault);
    assert!(!format!("{vault:?}").contains("hush"));
}

#[test]
fn vault_is_read_with_all_its_fields() {
    let text = r#"
keys:
  vault:
    endpoint: http://vault
    engine: secrets
    version: v2
    namespace: ns
    prefix: my/keys
    transit: { key: kes }
    kubernetes: { engine: k8s, namespace: /, role: kes, jwt: ey.J.x, retry: 1s }
    tls: { key: v.key, cert: v.crt, ca: v.ca }
    status: { ping: 1m }
"#;
    let vault = vault_in(text);
    let expected = vault::Settings {
        endpoint: "http://vault".into(),
        engine: "secrets".into(),
        version: Version::V2,
        namespace: "ns".into(),
        prefix: "my/keys".into(),
        transit: Some(Transit { engine: "transit".into(), key: "kes".into() }),
        login: Login::Kubernetes {
            engine: "k8s".into(),
            role: "kes".into(),
            jwt: Jwt::Token(Secret::new(b"ey.J.x".to_vec())),
        },
        login_namespace: Some("/".into()),
        retry: Duration::from_secs(1),
        client_cert: Some(ClientCert { key: "v.key".into(), cert: "v.crt".into() }),
        ca: Some("v.ca".into()),
        ping: Duration::from_secs(60),
    };
    assert_eq!(expected, vault);
}

#[test]
fn a_kubernetes_token_with_a_path_is_a_file() {
    let jwt = |jwt: &str| {
        let text = format!(
            "keystore: {{ vault: {{ endpoint: 'https://v', kubernetes: {{ role: r, jwt: {jwt} }} }} }}"
        );
        let vault = vault_in(&text);
        let Login::Kubernetes { jwt, .. } = vault.login else {
            panic!("not Kubernetes");
        };
        jwt
    };
    for path in ["/var/run/secrets/token", "./token", "../token", "Cargo.toml", "src/lib.rs"] {
        assert_eq!(Jwt::File(path.into()), jwt(path));
    }
    for token in ["ey.J.x", "opaque/token+with==slashes"] {
        assert_eq!(Jwt::Token(Secret::new(token.into())), jwt(token));
    }
}

#[test]
fn the_server_may_start_without_its_key_store_only_if_told_so() {
    let start = |text: &str| load_with(text, &flags()).unwrap().key_store_start;
    assert_eq!(Start::Required, start("keystore: { fs: { path: /a } }"));
    for text in [
        "keystore: { required: off, fs: { path: /a } }",
        "keys: { required: OFF, fs: { path: /a } }",
        "keystore: { fs: { path: /a } }\ncache: { expiry: { offline: 1m } }",
    ] {
        assert_eq!(Start::Optional, start(text), "{text}");
    }
    assert_starts(
        &error("keystore: { required: maybe, fs: { path: /a } }"),
        "whether the key store is required is neither on nor off (kes.yml line 1 column 23, field \
         keystore.required: write on or off)",
    );
}

#[test]
fn the_engines_of_vault_are_checked() {
    let vault = |fields: &str| {
        error(&format!(
            "keystore:\n  vault:\n    endpoint: https://v\n    approle: {{ id: x, secret: y }}\n    {fields}\n"
        ))
    };
    assert_starts(
        &vault("version: v3"),
        "invalid version of the Vault engine (kes.yml line 5 column 14, field keystore.vault.version: \
         write v1 or v2",
    );
    assert_starts(
        &vault("transit: { engine: t }"),
        "invalid vault keystore: invalid transit config: no key name specified (",
    );
    assert_starts(
        &vault("transit: { engine: '', key: '' }"),
        "invalid vault keystore: invalid transit config: no key name specified (",
    );
    assert_starts(
        &vault("transit: { key: '${UNSET}' }"),
        "environment variable ${UNSET} is empty or not set (",
    );
    for (fields, field) in [
        ("namespace: \"a\\nb\"", "vault.namespace"),
        ("approle: { id: x, secret: y, namespace: \"a\\r\" }", "vault.approle.namespace"),
    ] {
        let message = match fields.starts_with("approle") {
            true => error(&format!("keystore:\n  vault:\n    endpoint: https://v\n    {fields}\n")),
            false => vault(fields),
        };
        assert_starts(&message, "invalid namespace of Vault (kes.yml line ");
        assert!(
            message.ends_with(&format!(
                "field keystore.{field}: write one line without control characters, such as team/kes)"
            )),
            "{message}"
        );
    }
}

#[test]
fn vault_needs_one_complete_login() {
    let vault = |fields: &str| {
        error(&format!("keystore:\n  vault:\n    endpoint: https://v\n    {fields}\n"))
    };
    for fields in ["engine: kv", "approle: { id: x }", "kubernetes: { jwt: hush }"] {
        let message = vault(fields);
        assert_starts(
            &message,
            "failed to connect to Vault: vault: no or empty authentication credentials specified \
             (kes.yml line 3 column 5, field keystore.vault: ",
        );
        assert!(!message.contains("hush"));
    }
    for (fields, place) in [
        (
            "approle: { id: x, secret: '${UNSET}' }",
            "kes.yml line 4 column 31, field keystore.vault.approle.secret",
        ),
        (
            "kubernetes: { role: x, jwt: ' ${UNSET} ' }",
            "kes.yml line 4 column 33, field keystore.vault.kubernetes.jwt",
        ),
    ] {
        assert_eq!(
            format!(
                "environment variable ${{UNSET}} is empty or not set ({place}: set the variable in the \
                 environment of the server, or write \"\" for nothing)"
            ),
            vault(fields)
        );
    }
    // A template that is filled in for the other login leaves this one empty.
    let text = "keystore: { vault: { endpoint: 'https://v', approle: { id: '', secret: \"\" }, \
                kubernetes: { role: r, jwt: t } } }";
    vault_in(text);
    assert_starts(
        &vault("approle: { id: x }\n    kubernetes: { role: y }"),
        "invalid configuration: Vault AppRole and Kubernetes credentials are specified at the same \
         time (kes.yml line 3 column 5, field keystore.vault: ",
    );
    assert_starts(
        &vault("approle: { id: x, secret: y }\n    tls: { key: z }"),
        "invalid configuration: Vault TLS private key and certificate are not specified together (",
    );
    assert_starts(
        &vault("approle: { id: x, secret: y, retry: 5 }"),
        "failed to read config file: time: missing unit in duration \"5\" (kes.yml line 4 column 41, \
         field keystore.vault.approle.retry: ",
    );
}

#[test]
fn key_secure_is_read() {
    let text = r#"
keys:
  gemalto:
    keysecure:
      endpoint: https://ks/
      credentials: { token: hush, domain: d, retry: 15s }
      tls: { ca: /etc/ca }
"#;
    let store = key_store(text);
    assert!(!format!("{store:?}").contains("hush"));
    let expected = keysecure::Settings {
        endpoint: "https://ks".into(),
        token: Secret::new(b"hush".to_vec()),
        domain: "d".into(),
        retry: Duration::from_secs(15),
        ca: Some("/etc/ca".into()),
    };
    assert_eq!(&expected as &dyn Settings, &*store);
    assert_starts(
        &error("keys: { gemalto: { keysecure: { endpoint: 'https://ks' } } }"),
        "failed to connect to Gemalto KeySecure: no refresh token has been specified (",
    );
}

#[test]
fn endpoints_are_urls_without_credentials_and_are_not_repeated() {
    for endpoint in [
        "127.0.0.1:8200",
        "ftp://v",
        "https://",
        "https:///v1",
        "https://me:hush@v",
        "https://v?a=hush",
        "https://a b",
        "https://:8200",
        "https://[::1:8200",
        "https://[v]:8200",
    ] {
        let message = error(&format!("keystore:\n  vault:\n    endpoint: \"{endpoint}\"\n"));
        assert_starts(
            &message,
            "invalid Hashicorp Vault endpoint (kes.yml line 3 column 15, field \
             keystore.vault.endpoint: ",
        );
        assert!(!message.contains("hush"));
    }
    for port in ["65536", "82000", "0", "+1", "-1", "", "82x", "1:2"] {
        assert_eq!(
            "invalid port in the Gemalto KeySecure endpoint (kes.yml line 1 column 43, field \
             keys.gemalto.keysecure.endpoint: write a number from 1 to 65535 after the host, such as \
             :8200)",
            error(&format!(
                "keys: {{ gemalto: {{ keysecure: {{ endpoint: 'https://v:{port}/' }} }} }}"
            ))
        );
    }
    for good in ["https://v:1", "http://127.0.0.1:65535/a/b", "https://[::1]", "https://[::1]:8200"]
    {
        let text = format!(
            "keystore: {{ vault: {{ endpoint: '{good}', approle: {{ id: x, secret: y }} }} }}"
        );
        vault_in(&text);
    }
}

#[test]
fn two_key_stores_are_ambiguous() {
    let fs = "fs: { path: /keys }";
    let vault = "vault: { endpoint: 'https://v' }";
    let gemalto = "gemalto: { keysecure: { endpoint: 'https://g' } }";
    for (stores, message) in [
        ([fs, vault], "FS and Hashicorp Vault endpoint specified"),
        ([gemalto, fs], "FS and Gemalto KeySecure endpoint are specified"),
        ([vault, gemalto], "Hashicorp Vault and Gemalto KeySecure endpoint are specified"),
    ] {
        assert_starts(
            &error(&format!("keys:\n  {}\n  {}\n", stores[0], stores[1])),
            &format!("ambiguous configuration: {message} at the same time (kes.yml line "),
        );
    }
}

#[test]
fn key_stores_that_are_left_empty_do_not_count() {
    assert_eq!(*in_files("/keys"), *key_store(&older("other-stores-left-empty")));
}

#[test]
fn other_key_stores_are_not_supported() {
    for (store, name) in [
        ("generic: { endpoint: x, tls: { ca: y } }", "a generic plugin"),
        ("aws: { secretsmanager: { endpoint: x, region: y } }", "AWS Secrets Manager"),
        ("gcp: { secretmanager: { project_id: x } }", "GCP Secret Manager"),
        ("azure: { keyvault: { endpoint: x, credentials: { tenant_id: y } } }", "Azure Key Vault"),
        ("fortanix: { sdkms: { endpoint: x, group_id: y } }", "Fortanix SDKMS"),
        ("entrust: { keycontrol: { endpoint: x, box_id: y } }", "Entrust KeyControl"),
        ("kes: { endpoint: [ x ], tls: { ca: y } }", "another KES server"),
    ] {
        let message = error(&format!("keystore:\n  {store}\n"));
        assert_starts(
            &message,
            &format!("{name} is not supported as key store (kes.yml line 2 column "),
        );
        assert!(
            message.ends_with(
                ": use one of fs, vault, gemalto.keysecure, and copy the keys there with the \
                 'migrate' command of the KES that has used this one)"
            ),
            "{message}"
        );
    }
}
