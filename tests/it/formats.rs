//! The newest generation and 0.14, one after the other on the same keys, and what the former alone can: TLS 1.2,
//! private keys with a password.

use std::{fs, process::Command};

use serde_json::json;

use crate::common::{Client, Config, Server, base64, from_base64};

/// A server on the keys of another one, which may still run.
fn start_with_keys_of(server: &Server, change: impl FnOnce(&mut Config)) -> Server {
    Server::start(|config| {
        for name in server.key_files() {
            fs::copy(server.keys().join(&name), config.keys().join(&name)).unwrap();
        }
        change(config);
    })
}

/// A data key and its ciphertext, both in base64.
fn generate(client: &Client, key: &str) -> [String; 2] {
    let body = json!({ "context": base64("context") }).to_string();
    let answer = client.post(&format!("/v1/key/generate/{key}"), body);
    assert_eq!(200, answer.status, "{}", answer.text());
    ["plaintext", "ciphertext"].map(|member| answer.json()[member].as_str().unwrap().to_owned())
}

fn opens(client: &Client, key: &str, [plaintext, ciphertext]: &[String; 2]) {
    let body = json!({ "ciphertext": ciphertext, "context": base64("context") }).to_string();
    let answer = client.post(&format!("/v1/key/decrypt/{key}"), body);
    assert_eq!(200, answer.status, "{}", answer.text());
    assert_eq!(plaintext, answer.json()["plaintext"].as_str().unwrap());
}

#[test]
fn what_either_generation_writes_the_other_reads() {
    let newest = Server::start(|config| config.is_newest = true);
    assert_eq!(200, newest.root().put("/v1/key/create/of-newest", "").status);
    let stored = fs::read_to_string(newest.keys().join("of-newest")).unwrap();
    assert!(from_base64(&stored).starts_with(&[0x0a, 36, 0x0a, 32]), "the protobuf of 2024");
    let sealed_by_newest = generate(&newest.root(), "of-newest");
    assert_eq!(32 + 44, from_base64(&sealed_by_newest[1]).len());

    let old = start_with_keys_of(&newest, |_| {});
    opens(&old.root(), "of-newest", &sealed_by_newest);
    old.root().post("/v1/key/create/of-old", "").is_empty_success();
    let stored = fs::read_to_string(old.keys().join("of-old")).unwrap();
    assert!(stored.starts_with("{\"bytes\":\"") && stored.len() == 56);
    let sealed_by_old = ["of-newest", "of-old"].map(|key| (key, generate(&old.root(), key)));
    for (_, [_, ciphertext]) in &sealed_by_old {
        assert!(from_base64(ciphertext).starts_with(b"{\"aead\":\"AES-256-GCM-HMAC-SHA-256\""));
    }

    let newest = start_with_keys_of(&old, |config| config.is_newest = true);
    for (key, sealed) in sealed_by_old {
        opens(&newest.root(), key, &sealed);
        let sealed = generate(&newest.root(), key);
        opens(&old.root(), key, &sealed);
    }
}

#[test]
fn only_the_newest_generation_speaks_tls_1_2() {
    for is_newest in [true, false] {
        let server = Server::start(|config| config.is_newest = is_newest);
        let client = Client::with_versions(
            server.address,
            server.certificate.chain[0].clone(),
            Some(&server.root_identity),
            &[&rustls::version::TLS12],
        );
        let answer = client.try_request("GET", "/v1/status", b"");
        assert_eq!(is_newest, answer.is_ok_and(|answer| answer.status == 200));
    }
}

#[test]
fn the_private_key_of_the_server_may_have_a_password() {
    let encrypt = |config: &mut Config| {
        config.is_newest = true;
        let plain = config.file("plain.key", &config.key);
        let output = Command::new("openssl")
            .args(["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:hush", "-in"])
            .arg(plain)
            .output()
            .unwrap();
        config.key = String::from_utf8(output.stdout).unwrap();
        assert!(config.key.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    };
    let server = Server::start(|config| {
        encrypt(config);
        config.groups = "[X25519], password: hush".to_owned();
    });
    assert_eq!(200, server.root().get("/version").status);
    for (password, why) in [("", "password required"), (", password: other", "incorrect password")]
    {
        let refusal = Server::try_start(|config| {
            encrypt(config);
            config.groups = format!("[X25519]{password}");
        });
        let text = refusal.err().unwrap().stderr;
        assert!(text.contains(why) && text.contains("server.key"), "{text}");
    }
}
