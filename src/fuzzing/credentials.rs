//! API keys, private keys with passwords, certificates, and those that proxies forward.

use md5::{Digest as _, Md5};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::{
    certificates,
    cursor::Cursor,
    plain::{self, der, sha256},
};
use crate::{base::secret::Secret, tls};

/// Each is read as it was written.
pub fn credentials(data: &[u8]) {
    let mut cursor = Cursor(data);
    match cursor.byte() % 8 {
        0 => api_key(&String::from_utf8_lossy(cursor.0)),
        1 => own_password(cursor),
        2 => {
            let password = Secret::new(b"password".to_vec());
            let _ = tls::decrypt(cursor.0, &password);
            let _ = tls::ApiKey::from_pkcs8_pem(cursor.0);
        }
        3 => certificates::any(cursor.0),
        4 => password_of_others(cursor),
        5 => certificates::made(cursor),
        6 => certificates::forwarded(cursor),
        _ => certificates::header(cursor.0),
    }
}

/// A key is one byte, which is zero, and a seed; its identity is that of the public key (RFC 8032, RFC 8410).
fn api_key(text: &str) {
    let base64 = text.trim();
    let base64 = base64.strip_prefix("kes:v1:").unwrap_or(base64);
    let bytes = plain::base64(base64).unwrap_or_default();
    let seed = bytes.strip_prefix(&[0]).filter(|seed| seed.len() == 32);
    let found = tls::ApiKey::parse(text);
    assert_eq!(seed.is_some(), found.is_ok(), "{text:?}");
    let (Some(seed), Ok(key)) = (seed, found) else { return };
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("32 bytes");
    let public_key = [
        &[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0][..],
        pair.public_key().as_ref(),
    ];
    assert_eq!(sha256(&public_key.concat()), key.identity(), "the identity");
    assert_eq!(format!("kes:v1:{base64}"), *key.text());
    let pem = key.pkcs8_pem();
    assert_eq!(Some(&key), tls::ApiKey::from_pkcs8_pem(pem.as_bytes()).as_ref());
    let again = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.pkcs8().expose());
    let again = again.expect("it is PKCS#8");
    assert_eq!(pair.public_key().as_ref(), again.public_key().as_ref());
}

const LABELS: &[&str] = &["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];

/// A password, and any content.
fn own_password(mut cursor: Cursor<'_>) {
    let password = cursor.bytes();
    let (label, content) = (cursor.one_of(LABELS), der(0x30, cursor.0));
    let pem = tls::pem::write(label, &content);
    let sealed = tls::encrypt_pem(pem.as_bytes(), &Secret::new(password.to_vec()));
    let sealed = sealed.expect("random bytes").expect("it has no password yet");
    let body: String = sealed.lines().filter(|line| !line.contains([':', '-'])).collect();
    let body = plain::base64(&body).expect("it is base64");
    let is_shown = memchr::memmem::find(&body, &content).is_some();
    assert!(content.len() < 16 || !is_shown, "it is not encrypted");
    check_password(&sealed, password, &content);
}

/// A private key opens with its password, and with no other.
fn check_password(pem: &str, password: &[u8], content: &[u8]) {
    assert!(tls::is_encrypted(pem.as_bytes()), "{pem}");
    let open = |password: &[u8]| {
        let opened = tls::decrypt(pem.as_bytes(), &Secret::new(password.to_vec()));
        opened.map(|opened| opened.secret_der().to_vec())
    };
    assert_eq!(Ok(content), open(password).as_deref(), "{pem}");
    let mut others = vec![[password, b"x"].concat(), b"another".to_vec(), Vec::new()];
    if let [first, rest @ ..] = password {
        others.push([&[first ^ 1], rest].concat());
        others.push(rest.to_vec());
    }
    // HMAC takes zeros behind a password for none.
    let trimmed =
        |password: &[u8]| password.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    let own = &password[..trimmed(password)];
    others.retain(|other| &other[..trimmed(other)] != own);
    let opened: Vec<_> = others.iter().filter_map(|other| open(other).ok()).collect();
    assert!(!opened.iter().any(|opened| opened == content), "it opens with another password");
    // There is no tag: by chance, noise may look like a key, as once in some millions.
    assert!(opened.len() < 2, "other passwords seem to be right");
}

/// As OpenSSL writes them: RFC 1423 and PBES2 (RFC 8018), with each cipher and hash.
fn password_of_others(mut cursor: Cursor<'_>) {
    use ring::pbkdf2;

    const OPENSSL: &[(&str, usize, usize, &[u8])] = &[
        ("DES-EDE3-CBC", 24, 8, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 3, 7]),
        ("AES-128-CBC", 16, 16, &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 2]),
        ("AES-192-CBC", 24, 16, &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 0x16]),
        ("AES-256-CBC", 32, 16, &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 0x2a]),
    ];
    let hashes = [
        (pbkdf2::PBKDF2_HMAC_SHA1, 7),
        (pbkdf2::PBKDF2_HMAC_SHA256, 9),
        (pbkdf2::PBKDF2_HMAC_SHA384, 10),
        (pbkdf2::PBKDF2_HMAC_SHA512, 11),
    ];
    let (choice, (name, key_size, block, oid)) = (cursor.byte(), cursor.one_of(OPENSSL));
    let mut iv = cursor.take(block).to_vec();
    iv.resize(block, 0);
    let (salt, password, label) = (cursor.bytes(), cursor.bytes(), cursor.one_of(LABELS));
    let content = der(0x30, cursor.0);
    if choice & 1 == 0 {
        let first = Md5::digest([password, &iv[..8]].concat());
        let second = Md5::digest([&first, password, &iv[..8]].concat());
        let key = [first, second].concat();
        let bytes = encrypt(name, &key[..key_size], &iv, &content);
        let iv: String = iv.iter().map(|byte| format!("{byte:02X}")).collect();
        let head = format!("Proc-Type: 4,ENCRYPTED\nDEK-Info: {name},{iv}\n\n");
        let pem = tls::pem::write(label, &bytes).replacen("-----\n", &format!("-----\n{head}"), 1);
        return check_password(&pem, password, &content);
    }
    let (algorithm, number) = hashes[usize::from(choice >> 1 & 3)];
    let iterations = std::num::NonZeroU32::new(u32::from(choice >> 3 & 3) + 1).expect("1 to 4");
    let mut key = vec![0; key_size];
    pbkdf2::derive(algorithm, iterations, salt, password, &mut key);
    let bytes = encrypt(name, &key, &iv, &content);
    let null = [5, 0];
    let object = |oid: &[u8]| der(6, oid);
    let hash =
        der(0x30, &[&object(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, number])[..], &null].concat());
    let mut parameters = vec![der(4, salt), der(2, &[iterations.get() as u8])];
    if choice & 0x20 != 0 {
        parameters.push(der(2, &[key_size as u8]));
    }
    // The default is not written.
    if number != 7 || choice & 0x40 != 0 {
        parameters.push(hash);
    }
    let of = |oid: &[u8], parameters: Vec<u8>| der(0x30, &[object(oid), parameters].concat());
    let pkcs5 = |number| [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, number];
    let derivation = of(&pkcs5(12), der(0x30, &parameters.concat()));
    let scheme = of(&pkcs5(13), der(0x30, &[derivation, of(oid, der(4, &iv))].concat()));
    let body = der(0x30, &[scheme, der(4, &bytes)].concat());
    check_password(&tls::pem::write("ENCRYPTED PRIVATE KEY", &body), password, &content);
}

/// CBC with the padding of PKCS#7.
fn encrypt(name: &str, key: &[u8], iv: &[u8], content: &[u8]) -> Vec<u8> {
    use aes::cipher::{Block, BlockCipherEncrypt, KeyInit};

    fn cbc<C: BlockCipherEncrypt + KeyInit>(key: &[u8], iv: &[u8], content: &[u8]) -> Vec<u8> {
        let cipher = C::new_from_slice(key).expect("the key is as long as the cipher wants");
        let padding = iv.len() - content.len() % iv.len();
        let mut bytes = [content, &vec![padding as u8; padding]].concat();
        let mut last = iv.to_vec();
        for chunk in bytes.chunks_mut(iv.len()) {
            chunk.iter_mut().zip(&last).for_each(|(byte, last)| *byte ^= last);
            let block: &mut Block<C> = (&mut *chunk).try_into().expect("a block");
            cipher.encrypt_block(block);
            last = chunk.to_vec();
        }
        bytes
    }
    match name {
        "DES-EDE3-CBC" => cbc::<des::TdesEde3>(key, iv, content),
        "AES-128-CBC" => cbc::<aes::Aes128>(key, iv, content),
        "AES-192-CBC" => cbc::<aes::Aes192>(key, iv, content),
        _ => cbc::<aes::Aes256>(key, iv, content),
    }
}
