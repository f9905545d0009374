//! Known answers of the original, through the running server.

use crate::common::{Connection, Response, Server, cases, from_base64, hex, stored_key};
use serde_json::{Value, json};

/// A key file that holds `key` for `algorithm` only: the protobuf of 2024 for every second key, the
/// JSON of 2022 for the others.
fn typed_key(key: &[u8], algorithm: &str, as_protobuf: bool) -> String {
    if !as_protobuf {
        let mut value: Value = serde_json::from_str(&stored_key(key)).unwrap();
        value["algorithm"] = algorithm.into();
        return value.to_string();
    }
    let kind = if algorithm == "AES256" { 1 } else { 2 };
    let mut message = vec![0x0a, 36, 0x0a, 32];
    message.extend(key);
    message.extend([0x10, kind, 0x12, 36, 0x0a, 32]);
    message.extend([7; 32]);
    message.extend([0x10, 1]);
    crate::common::base64(message)
}

fn text<'a>(case: &'a Value, member: &str) -> &'a str {
    case[member].as_str().unwrap_or_default()
}

fn decrypt(connection: &mut Connection, name: &str, case: &Value) -> Response {
    let body = json!({ "ciphertext": case["ciphertext"], "context": case["context"] });
    connection.request("POST", &format!("/v1/key/decrypt/{name}"), body.to_string())
}

#[test]
fn what_any_kes_has_sealed_opens_after_the_key_is_imported() {
    let server = Server::start(|_| {});
    let mut connection = server.root().connect();
    let cases = cases("ciphertexts.json");
    assert_eq!(64, cases.len());
    for case in &cases {
        let name = text(case, "id");
        let import = json!({ "bytes": case["master_key"] }).to_string();
        connection.request("POST", &format!("/v1/key/import/{name}"), import).is_empty_success();
        let answer = decrypt(&mut connection, name, case);
        assert_eq!(200, answer.status, "{name}: {}", answer.text());
        assert_eq!(from_base64(text(case, "plaintext")), answer.bytes("plaintext"), "{name}");
    }
}

#[test]
fn what_any_kes_has_sealed_opens_with_a_stored_key_of_its_algorithm_and_no_other() {
    let cases = cases("ciphertexts.json");
    let server = Server::start(|config| {
        for (number, case) in cases.iter().enumerate() {
            let (key, algorithm) = (from_base64(text(case, "master_key")), text(case, "algorithm"));
            let other = if algorithm == "AES256" { "ChaCha20" } else { "AES256" };
            for (name, algorithm) in [("right", algorithm), ("wrong", other)] {
                let file = config.keys().join(format!("{name}-{number}"));
                std::fs::write(file, typed_key(&key, algorithm, number % 2 == 0)).unwrap();
            }
        }
    });
    let mut connection = server.root().connect();
    for (number, case) in cases.iter().enumerate() {
        let id = text(case, "id");
        let answer = decrypt(&mut connection, &format!("right-{number}"), case);
        assert_eq!(200, answer.status, "{id}: {}", answer.text());
        assert_eq!(from_base64(text(case, "plaintext")), answer.bytes("plaintext"), "{id}");
        decrypt(&mut connection, &format!("wrong-{number}"), case)
            .is_failure(400, "decryption failed: ciphertext is not authentic");
    }
}

/// What a reader of all formats makes of a damaged ciphertext: the JSON of KES 0.14 is refused with
/// the texts of KES 0.14, and what that could not read at all is judged as the newest KES does.
fn expected(case: &Value) -> Result<Vec<u8>, (u16, String)> {
    let (old, new) = (&case["expect_v014"], &case["expect_new"]);
    let decider = if old["status"] == 500 { new } else { old };
    if decider["ok"] == true {
        return Ok(from_base64(text(decider, "plaintext")));
    }
    if old["status"] == 500 {
        return Err((400, "decryption failed: ciphertext is not authentic".to_owned()));
    }
    let status = old["status"].as_u64().and_then(|status| status.try_into().ok()).unwrap();
    // One text for all generations, the newest one's.
    let message = match text(old, "message") {
        "ciphertext is not authentic" => "decryption failed: ciphertext is not authentic",
        message => message,
    };
    Err((status, message.to_owned()))
}

#[test]
fn damaged_ciphertexts_are_refused_with_the_stated_result() {
    let cases = cases("ciphertexts-negative.json");
    assert_eq!(80, cases.len());
    let server = Server::start(|config| {
        for (number, case) in cases.iter().enumerate() {
            let (key, algorithm) = (from_base64(text(case, "master_key")), text(case, "algorithm"));
            let write = |name: &str, value: String| {
                std::fs::write(config.keys().join(format!("{name}-{number}")), value).unwrap();
            };
            write("generic", stored_key(&key));
            write("typed", typed_key(&key, algorithm, number % 2 == 0));
        }
    });
    let mut connection = server.root().connect();
    for (number, case) in cases.iter().enumerate() {
        let mut kinds = vec!["generic"];
        // This one is about a key without algorithm.
        if text(case, "name") != "JSON ChaCha20 ciphertext, key stored without algorithm" {
            kinds.push("typed");
        }
        for kind in kinds {
            let what = format!("{} ({}, {kind} key)", text(case, "name"), text(case, "algorithm"));
            let answer = decrypt(&mut connection, &format!("{kind}-{number}"), case);
            match expected(case) {
                Ok(plaintext) => {
                    assert_eq!(200, answer.status, "{what}: {}", answer.text());
                    assert_eq!(plaintext, answer.bytes("plaintext"), "{what}");
                }
                Err((status, message)) => {
                    let found = (answer.status, answer.json()["message"].clone());
                    assert_eq!((status, Value::from(message.clone())), found, "{what}");
                    answer.is_failure(status, &message);
                }
            }
        }
    }
}

#[test]
fn stored_keys_of_all_eras_are_served_or_refused() {
    let cases = cases("stored-keys.json");
    assert_eq!(27, cases.len());
    let vectors = crate::common::cases("ciphertexts.json");
    let server = Server::start(|config| {
        for (number, case) in cases.iter().enumerate() {
            let file = config.keys().join(format!("key-{number}"));
            std::fs::write(file, text(case, "raw")).unwrap();
        }
    });
    let mut connection = server.root().connect();
    for (number, case) in cases.iter().enumerate() {
        let (name, what) = (format!("key-{number}"), text(case, "name"));
        let answer = connection.request("POST", &format!("/v1/key/generate/{name}"), "{}");
        if case["ok"] == false {
            let found = (answer.status, answer.text().to_owned());
            let wanted = r#"{"message":"bad gateway: failed to access key"}"#;
            assert_eq!((502, wanted.to_owned()), found, "{what}");
            server.logs_error(&format!("\\\"{name}\\\""));
            continue;
        }
        assert_eq!(200, answer.status, "{what}: {}", answer.text());
        let algorithm = text(case, "type").trim_end_matches(" (implied)");
        let sealed: Value = serde_json::from_slice(&answer.bytes("ciphertext")).unwrap();
        let names = [("AES256", "AES-256-GCM-HMAC-SHA-256"), ("ChaCha20", "ChaCha20Poly1305")];
        assert!(names.contains(&(algorithm, text(&sealed, "aead"))), "{what}: {sealed}");
        // It is the right key: it opens what the original has sealed with it.
        let mut opened = 0;
        for vector in &vectors {
            let is_same = vector["master_key"] == case["key"];
            if is_same && vector["algorithm"] == algorithm {
                assert_eq!(200, decrypt(&mut connection, &name, vector).status, "{what}");
                opened += 1;
            }
        }
        assert!(opened > 0, "no vector for {what} ({})", hex(&from_base64(text(case, "key"))));
    }
}
