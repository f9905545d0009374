//! What handles secrets, or compares with them, each with two kinds of input that must take as long.

use std::{hint::black_box, rc::Rc};

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use kes::inside::{
    Algorithm, ApiKey, MasterKey, Policies, Secret, ciphertext, decrypt, encrypt_pem, json,
};

use crate::welch::Case;

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    bytes
}

fn case(
    name: &'static str,
    batch: u32,
    input: impl FnMut(usize) -> Vec<u8> + 'static,
    run: impl FnMut(&[u8]) + 'static,
) -> Case {
    Case { name, input: Box::new(input), run: Box::new(run), batch, is_leak: false }
}

/// Zeros, or random bytes.
fn zeros_or_random(kind: usize) -> Vec<u8> {
    if kind == 0 { vec![0; 32] } else { random::<32>().to_vec() }
}

/// `bytes` with another byte at the place `at`.
fn changed(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 0x55;
    bytes
}

/// All of them, after two that show what this machine lets see.
pub fn all() -> Vec<Case> {
    let mut all = vec![
        case(
            "control: nothing differs",
            8,
            |_| random::<32>().to_vec(),
            |input| drop(black_box(Secret::new(input.to_vec()))),
        ),
        leak(),
    ];
    secrets(&mut all);
    ciphertexts(&mut all);
    identities(&mut all);
    private_keys(&mut all);
    all
}

/// Has to be found.
fn leak() -> Case {
    let known = random::<32>();
    let found = case(
        "control: bytes are compared until one differs, the first or the last",
        8,
        move |kind| changed(&known, [0, 31][kind]),
        move |input| assert!(!known.iter().zip(input).all(|(a, b)| black_box(a) == b)),
    );
    Case { is_leak: true, ..found }
}

fn secrets(all: &mut Vec<Case>) {
    let secret = random::<32>();
    let known = Secret::new(secret.to_vec());
    all.push(case(
        "a secret is compared: the first byte is wrong, or the last",
        8,
        move |kind| changed(&secret, [0, 31][kind]),
        move |input| {
            let other = Secret::new(input.to_vec());
            assert!(black_box(&known) != black_box(&other));
        },
    ));
    let api_key = ApiKey::generate().expect("the system has randomness");
    let text = api_key.text();
    let seed = BASE64.decode(text.trim_start_matches("kes:v1:")).expect("it is base64");
    all.push(case(
        "an API key is read and compared: the first byte is wrong, or the last",
        4,
        move |kind| format!("kes:v1:{}", BASE64.encode(changed(&seed, [1, 32][kind]))).into_bytes(),
        move |text| {
            let text = str::from_utf8(text).expect("it is text");
            assert!(ApiKey::parse(text).expect("it is one") != api_key);
        },
    ));
}

/// Requests to decrypt, as far as they depend on the key.
fn ciphertexts(all: &mut Vec<Case>) {
    use Algorithm::{Aes256, ChaCha20};
    use ciphertext::Format::{Binary, Json};
    const CONTEXT: &[u8] = b"context";

    let body = |sealed: &[u8]| {
        let [sealed, context] = [sealed, CONTEXT].map(|bytes| BASE64.encode(bytes));
        format!(r#"{{"ciphertext":"{sealed}","context":"{context}"}}"#).into_bytes()
    };
    let open = |key: &MasterKey, body: &[u8]| {
        let parts = json::secrets(body, ["ciphertext", "context"]).expect("it is JSON");
        ciphertext::open(key, parts[0].expose(), parts[1].expose())
    };
    let new_key = |algorithm| {
        let key = MasterKey::from_bytes(&random::<32>()).expect("it has 32 bytes");
        Rc::new(key.with_algorithm(algorithm))
    };

    // Places in 32 bytes of content and the tag. Another first byte could make C4 look like another format.
    const CONTENT: [usize; 2] = [1, 31];
    const TAG: [usize; 2] = [32, 47];
    const ALL: usize = 48;
    let wrong = [
        ("C1, AES-256-GCM: a byte of the tag is wrong, the first or the last", Aes256, Json, TAG),
        ("C4, AES-256-GCM: a byte of the tag is wrong, the first or the last", Aes256, Binary, TAG),
        ("C1, ChaCha20: a byte of the tag is wrong, the first or the last", ChaCha20, Json, TAG),
        ("C4, ChaCha20: a byte of the tag is wrong, the first or the last", ChaCha20, Binary, TAG),
        ("C4, AES-256-GCM: the content is wrong, or the tag", Aes256, Binary, [1, 47]),
        ("C1, ChaCha20: a byte of the content is wrong", ChaCha20, Json, CONTENT),
        ("C4, AES-256-GCM: the tag is wrong, or the nonce", Aes256, Binary, [47, 75]),
    ];
    all.extend(wrong.map(|(name, algorithm, format, places)| {
        let key = new_key(algorithm);
        let sealer = key.clone();
        let input = move |kind: usize| {
            let sealed = ciphertext::seal(&sealer, &random::<32>(), CONTEXT, format);
            let sealed = sealed.expect("it is short");
            match format {
                // IV and nonce stand behind.
                Binary => body(&changed(&sealed, places[kind])),
                Json => {
                    // Base64 without padding, at the end of the last member.
                    let (start, end) = (sealed.len() - 2 - ALL / 3 * 4, sealed.len() - 2);
                    let bytes = BASE64.decode(&sealed[start..end]).expect("it is base64");
                    let bytes = BASE64.encode(changed(&bytes, places[kind]));
                    body(&[&sealed[..start], bytes.as_bytes(), &sealed[end..]].concat())
                }
            }
        };
        case(name, 1, input, move |input| assert!(open(&key, input).is_err()))
    }));

    let key = new_key(Aes256);
    let sealer = key.clone();
    all.push(case(
        "C1 is opened: the plaintext is zeros, or random",
        1,
        move |kind| {
            let plaintext = zeros_or_random(kind);
            body(&ciphertext::seal(&sealer, &plaintext, CONTEXT, Json).expect("it is short"))
        },
        move |input| drop(black_box(open(&key, input).expect("it is authentic"))),
    ));
    all.push(case(
        "a master key is made ready and seals: it is zeros, or random",
        1,
        zeros_or_random,
        |key| {
            let key = MasterKey::from_bytes(key).expect("it has 32 bytes");
            black_box(ciphertext::seal(&key, &[7; 32], b"", Binary).expect("it is short"));
        },
    ));
}

/// Identities are no secrets, yet a client should not learn in parts which the server knows.
fn identities(all: &mut Vec<Case>) {
    let hex = || random::<32>().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let root = hex();
    let known: Vec<_> = (0..64).map(|_| hex()).collect();
    let mut builder = Policies::builder(&root, &[]);
    builder.define(&"app".into(), Default::default());
    for identity in &known {
        builder.assign(&"app".into(), identity).expect("it is free");
    }
    let policies: &'static Policies = Box::leak(Box::new(builder.build()));
    let ask = |text: &[u8]| {
        let identity = str::from_utf8(text).expect("it is text");
        assert!(!policies.is_root(identity));
        assert!(!policies.allows(identity, "/v1/key/create/a"));
    };
    // Of other digits there must be many: a few would differ in where their hashes lead to.
    let near = |known: Vec<String>| {
        move |kind: usize| {
            let known = &known[usize::from(random::<1>()[0]) % known.len()];
            let other = hex();
            let text = match kind {
                0 => [&other[..16], &known[16..]].concat(),
                _ => [&known[..48], &other[48..]].concat(),
            };
            text.into_bytes()
        }
    };
    all.push(case(
        "an identity is looked up: the first quarter of a known one is wrong, or the last",
        4,
        near(known),
        ask,
    ));
    all.push(case(
        "an identity is looked up: the first quarter of root is wrong, or the last",
        4,
        near(vec![root]),
        ask,
    ));
}

/// Private keys with a password.
fn private_keys(all: &mut Vec<Case>) {
    let pem = ApiKey::generate().expect("the system has randomness").pkcs8_pem();
    let right = random::<32>();
    let password = Secret::new(right.to_vec());
    let encrypted = encrypt_pem(pem.as_bytes(), &password)
        .expect("the system has randomness")
        .expect("it has no password yet");
    all.push(case(
        "a password of a private key is wrong: all of it, or its second half",
        1,
        move |kind| {
            let wrong = random::<32>();
            let start = [&wrong[..16], &right[..16]][kind];
            [start, &wrong[16..]].concat()
        },
        move |password| {
            let password = Secret::new(password.to_vec());
            assert!(decrypt(encrypted.as_bytes(), &password).is_err());
        },
    ));
}
