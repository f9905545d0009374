//! No key and no plaintext is ever written anywhere but into the key store and the answer: after
//! every operation and every failure of each, the logs are searched for all of them.

use std::fs;

use crate::common::{
    Identity, Server, base64,
    client::{chunked, request},
    from_base64, hex, stored_key,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// What must not be found, and what it is.
#[derive(Default)]
struct Needles(Vec<(String, Vec<u8>)>);

impl Needles {
    /// Every part of `secret` that is long enough not to occur by chance, raw, in base64 of every
    /// alignment, in hex of both cases and as Rust and Go print bytes.
    fn add(&mut self, what: &str, secret: &[u8]) {
        let mut push = |needle: &[u8]| self.0.push((what.to_owned(), needle.to_vec()));
        for part in secret.windows(8).step_by(4) {
            push(part);
            push(hex(part).as_bytes());
            push(hex(part).to_uppercase().as_bytes());
            for separator in [", ", " ", ","] {
                let numbers: Vec<_> = part.iter().map(u8::to_string).collect();
                push(numbers.join(separator).as_bytes());
            }
        }
        for skip in 0..3 {
            // Whole groups of three bytes, so that the text does not depend on what is around them.
            let bytes = secret.get(skip..).unwrap_or_default();
            let text = base64(&bytes[..bytes.len() / 3 * 3]);
            let url_safe = text.replace('+', "-").replace('/', "_");
            for part in text.as_bytes().windows(12).chain(url_safe.as_bytes().windows(12)) {
                push(part);
            }
        }
    }

    #[track_caller]
    fn are_not_in(&self, place: &str, text: &[u8]) {
        for (what, needle) in &self.0 {
            let found = text.windows(needle.len()).any(|part| part == needle);
            let needle = String::from_utf8_lossy(needle);
            let text = String::from_utf8_lossy(text);
            assert!(!found, "{what} ({needle:?}) is in {place}:\n{text}");
        }
    }
}

/// 32 bytes that are like no others.
fn secret(number: u8) -> Vec<u8> {
    use sha2::Digest as _;
    sha2::Sha256::digest([number]).to_vec()
}

#[test]
fn the_search_finds_what_it_looks_for() {
    let mut needles = Needles::default();
    needles.add("secret", &secret(1));
    for text in [
        hex(&secret(1)),
        hex(&secret(1)).to_uppercase(),
        base64(secret(1)),
        base64([b"a".to_vec(), secret(1)].concat()),
        format!("{:?}", secret(1)),
    ] {
        let found = needles.0.iter().any(|(_, needle)| {
            text.as_bytes().windows(needle.len()).any(|part| part == needle.as_slice())
        });
        assert!(found, "{text}");
    }
    needles.are_not_in("another", base64(secret(2)).as_bytes());
}

#[test]
fn no_secret_is_ever_logged() {
    let stranger = Identity::new("stranger");
    let [imported, stored, damaged, truncated, refused] = [1, 2, 3, 4, 5].map(secret);
    let [plaintext, malformed, cut_off] = [6, 7, 8].map(secret);
    let mut needles = Needles::default();
    for (what, secret) in [
        ("imported key", &imported),
        ("stored key", &stored),
        ("stored key of the wrong size", &damaged),
        ("stored key that is cut off", &truncated),
        ("key that was refused", &refused),
        ("plaintext", &plaintext),
        ("plaintext in malformed JSON", &malformed),
        ("plaintext that was cut off", &cut_off),
    ] {
        needles.add(what, secret);
    }
    let mut server = Server::start(|config| {
        let write = |name: &str, value: &str| fs::write(config.keys().join(name), value).unwrap();
        write("stored", &stored_key(&stored));
        write("damaged", &stored_key(&[&damaged[..], b"x"].concat()));
        write("truncated", &stored_key(&truncated)[..50]);
        write("text", &base64(&truncated));
        write("strange", &stored_key(&damaged).replace('}', ",\"algorithm\":\"ROT13\"}"));
        needles.add("server key", &pem_bytes(&config.key)[30..]);
    });

    // Everything that succeeds.
    let mut connection = server.root().connect();
    let import = |key: &[u8]| json!({ "bytes": base64(key) }).to_string();
    let mut post = |path: &str, body: &str| {
        let answer = connection.request("POST", &format!("/v1/key/{path}"), body);
        (answer.status, serde_json::from_slice::<Value>(&answer.body).unwrap_or_default())
    };
    assert_eq!(200, post("create/created", "").0);
    let value: Value =
        serde_json::from_slice(&fs::read(server.keys().join("created")).unwrap()).unwrap();
    needles.add("created key", &from_base64(value["bytes"].as_str().unwrap()));
    assert_eq!(200, post("import/imported", &import(&imported)).0);
    let mut ciphertexts = Vec::new();
    for key in ["created", "imported", "stored"] {
        let (status, answer) = post(&format!("generate/{key}"), r#"{"context":"Yw=="}"#);
        assert_eq!(200, status);
        needles.add("data key", &from_base64(answer["plaintext"].as_str().unwrap()));
        ciphertexts.push((key, answer["ciphertext"].clone(), "Yw=="));
        let body = json!({ "plaintext": base64(&plaintext) }).to_string();
        let (status, answer) = post(&format!("encrypt/{key}"), &body);
        assert_eq!(200, status);
        ciphertexts.push((key, answer["ciphertext"].clone(), ""));
    }
    for (key, ciphertext, context) in &ciphertexts {
        let body = json!({ "ciphertext": ciphertext, "context": context }).to_string();
        assert_eq!(200, post(&format!("decrypt/{key}"), &body).0);
        // And everything that fails.
        let body = json!({ "ciphertext": ciphertext, "context": "YWJj" }).to_string();
        assert_eq!(400, post(&format!("decrypt/{key}"), &body).0);
        assert_eq!(400, post("decrypt/stored", &body[..body.len() - 2]).0);
        assert_eq!(404, post("decrypt/missing", &body).0);
    }
    assert_eq!(400, post("import/imported", &import(&refused)).0);
    assert_eq!(400, post("import/short", &import(&refused[1..])).0);
    assert_eq!(400, post("import/unnamed/key", &import(&refused)).0);
    assert_eq!(400, post("import/malformed", &import(&refused)[..40]).0);
    let text = base64(&malformed);
    for body in [
        format!("{{\"plaintext\":\"{text}"),
        format!("{{\"plaintext\":\"{text}!\"}}"),
        format!("{{\"plaintext\":[\"{text}\"]}}"),
        format!("{{\"{text}\":}}"),
        text.clone(),
        hex(&malformed),
    ] {
        assert_eq!(400, post("encrypt/stored", &body).0, "{body}");
    }
    let body = json!({ "plaintext": text }).to_string();
    assert_eq!(404, post("encrypt/missing", &body).0);
    for key in ["damaged", "truncated", "text", "strange"] {
        for api in ["generate", "encrypt", "decrypt"] {
            assert_eq!(502, post(&format!("{api}/{key}"), "{}").0, "{api} {key}");
        }
    }
    let client = server.client(&stranger);
    client.post("/v1/key/import/new", import(&refused)).is_failure(403, "prohibited by policy");
    client.post("/v1/key/encrypt/stored", &body).is_failure(403, "prohibited by policy");
    let body = json!({ "plaintext": base64(&cut_off) }).to_string();
    for bytes in [
        request("POST", "/v1/key/encrypt/stored", body.as_bytes()),
        chunked("POST", "/v1/key/encrypt/stored", body.as_bytes(), 40),
    ] {
        let mut connection = server.root().connect();
        connection.send(&bytes[..bytes.len() - 4]);
        connection.half_close();
        connection.response().is_failure(400, "invalid json");
        let mut connection = server.root().connect();
        connection.send(&bytes[..bytes.len() - 4]);
        drop(connection);
    }
    // A body where a request should be.
    let mut connection = server.root().connect();
    connection.send(format!("{body}\r\n\r\n"));
    let answer = connection.response();
    assert_eq!(400, answer.status);
    needles.are_not_in("the answer", &answer.body);
    // A key store that fails in the middle of everything.
    fs::rename(server.keys(), server.keys().with_extension("aside")).unwrap();
    let root = server.root();
    root.post("/v1/key/import/new", import(&refused))
        .is_failure(502, "bad gateway: failed to create key");
    root.post("/v1/key/create/new", "").is_failure(502, "bad gateway: failed to create key");
    root.post("/v1/key/generate/other", "{}").is_failure(502, "bad gateway: failed to access key");
    for key in ["created", "imported", "stored"] {
        root.delete(&format!("/v1/key/delete/{key}"))
            .is_failure(502, "bad gateway: failed to delete key");
    }
    server.signal(Signal::TERM);
    assert_eq!(Some(0), server.wait_for_exit().code());
    let (stdout, stderr) = (server.stdout(), server.stderr());
    assert!(stdout.lines().count() > 50 && stderr.lines().count() > 10, "{stdout}{stderr}");
    needles.are_not_in("stdout", stdout.as_bytes());
    needles.are_not_in("stderr", stderr.as_bytes());
}

fn pem_bytes(pem: &str) -> Vec<u8> {
    from_base64(&pem.lines().filter(|line| !line.starts_with('-')).collect::<String>())
}
