//! Credentials, which are files that systemd makes for a service.

use super::*;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/credentials");

fn with_credentials(name: &str) -> Option<String> {
    (name == "CREDENTIALS_DIRECTORY").then(|| FOLDER.to_owned())
}

/// A file in each format; `key` is the one of the server, `secret` the one for Vault.
fn texts(key: &str, secret: &str) -> [String; 3] {
    let store =
        format!("vault: {{endpoint: 'https://v', approle: {{id: me, secret: {secret:?}}}}}");
    let tls = format!("tls: {{key: {key:?}, cert: a.crt}}");
    [
        format!("root: disabled\n{tls}\nkeys: {{{store}}}\n"),
        format!("root: disabled\n{tls}\nkeystore: {{{store}}}\n"),
        format!("version: v1\nadmin: {{identity: disabled}}\n{tls}\nkeystore: {{{store}}}\n"),
    ]
}

fn load(text: &str, env: Env) -> Result<Config, Error> {
    load_text(Some(Path::new("kes.yml")), text, &Flags::default(), &[], env).accept()
}

#[test]
fn a_file_may_be_a_credential_and_a_secret_what_is_in_it() {
    let [mut expected, literal] = [texts("a.key", "hush"), texts("a.key", "${DIRECTORY}/x")]
        .map(|texts| texts.map(|text| load(&text, with_credentials).unwrap()));
    for (number, text) in
        texts("${CREDENTIALS_DIRECTORY}/tls-key", "${CREDENTIALS_DIRECTORY}/vault-secret")
            .iter()
            .enumerate()
    {
        let config = load(text, with_credentials).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!(PathBuf::from(FOLDER).join("tls-key"), config.tls_key);
        assert_eq!(*expected[number].key_store, *config.key_store);
        assert_ne!(*literal[number].key_store, *config.key_store);
        expected[number].tls_key = config.tls_key;
    }
}

#[test]
fn a_credential_that_is_not_there_is_an_error_that_says_what_is_missing() {
    for (name, env, parts) in [
        ("vault-secret", (|_| None) as Env, ["${CREDENTIALS_DIRECTORY} is", "LoadCredential="]),
        (
            "empty",
            with_credentials,
            ["/testdata/credentials/empty: it is empty", "LoadCredential="],
        ),
        ("nothing", with_credentials, ["/credentials/nothing: No such file", "LoadCredential="]),
    ] {
        for text in texts("a.key", &format!("${{CREDENTIALS_DIRECTORY}}/{name}")) {
            let message = load(&text, env).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}\n{text}");
            assert!(message.contains("approle.secret"), "{message}");
        }
    }
}

#[test]
fn a_path_in_the_folder_of_credentials_stays_what_it_is() {
    for secret in ["${CREDENTIALS_DIRECTORY}", "${CREDENTIALS_DIRECTORY}/a/b"] {
        for text in texts("a.key", secret) {
            let literal = text.replace("${CREDENTIALS_DIRECTORY}", FOLDER);
            let settings = |text: &str| load(text, with_credentials).unwrap().key_store;
            let is_whole = !secret.contains('/');
            assert_eq!(is_whole, *settings(&literal) == *settings(&text), "{text}");
        }
    }
}
