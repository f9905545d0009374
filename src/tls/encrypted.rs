//! Private keys with a password, as PEM text in two forms: that of RFC 1423, which KES and OpenSSL up to 0.9
//! write, and PKCS#8 with PBES2 (RFC 8018), which OpenSSL writes today.

use std::num::NonZeroU32;

use aes::{
    Aes128, Aes192, Aes256,
    cipher::{Block as CipherBlock, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit},
};
use des::TdesEde3;
use md5::{Digest as _, Md5};
use ring::pbkdf2;
use rustls_pki_types::PrivateKeyDer;
use x509_cert::{
    der::{
        self, Decode as _, ErrorKind, Reader, SliceReader, Tag,
        asn1::{AnyRef, OctetStringRef},
        oid::ObjectIdentifier,
    },
    spki::AlgorithmIdentifierRef,
};
use zeroize::Zeroizing;

use super::pem::{self, Block};
use crate::{
    base::secret::{self, Secret},
    identity,
};

/// The largest number of iterations: some seconds.
const MAX_ITERATIONS: u32 = 10_000_000;

/// A private key that can't be decrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undecrypted {
    /// The password is another one.
    WrongPassword,
    /// The text is malformed.
    Malformed,
    /// It is encrypted in a way that is unknown here.
    Unsupported(String),
}

impl std::fmt::Display for Undecrypted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::WrongPassword => f.write_str("incorrect password"),
            Self::Malformed => f.write_str("the encrypted key is malformed"),
            Self::Unsupported(what) => write!(
                f,
                "the key is encrypted with {what}, which is not supported: encrypt it anew, as \
                 'openssl pkcs8 -topk8 -v2 aes-256-cbc' does"
            ),
        }
    }
}

impl From<der::Error> for Undecrypted {
    fn from(_: der::Error) -> Self {
        Self::Malformed
    }
}

/// Whether the private key in PEM text has a password.
pub fn is_encrypted(text: &[u8]) -> bool {
    let has = |word: &[u8]| text.windows(word.len()).any(|part| part == word);
    has(b"BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED")
}

/// The private key in PEM text, which has this password.
pub fn decrypt(text: &[u8], password: &Secret) -> Result<PrivateKeyDer<'static>, Undecrypted> {
    let block = Block::find(text, "PRIVATE KEY").ok_or(Undecrypted::Malformed)?;
    let der = secret::on_wiped_stack(|| match block.label {
        "ENCRYPTED PRIVATE KEY" => decrypt_pkcs8(&block.body, password),
        _ => decrypt_rfc1423(&block, password),
    })?;
    // A wrong password leaves noise, whose end may look like padding.
    if identity::content(der.expose(), Tag::Sequence).is_err() {
        return Err(Undecrypted::WrongPassword);
    }
    let der = der.expose().to_vec();
    match block.label {
        "RSA PRIVATE KEY" => Ok(PrivateKeyDer::Pkcs1(der.into())),
        "EC PRIVATE KEY" => Ok(PrivateKeyDer::Sec1(der.into())),
        _ => Ok(PrivateKeyDer::Pkcs8(der.into())),
    }
}

/// Encrypts a private key in PEM text as KES does, so that object servers can read it: in the form of RFC 1423,
/// with AES-256. Its key derivation is one round of MD5, so only a long random password protects it. `None` if
/// there is no key in the text, or it has a password already.
pub fn encrypt_pem(
    text: &[u8],
    password: &Secret,
) -> Result<Option<Zeroizing<String>>, getrandom::Error> {
    if is_encrypted(text) {
        return Ok(None);
    }
    let Some(block) = Block::find(text, "PRIVATE KEY") else {
        return Ok(None);
    };
    let mut iv = [0; 16];
    getrandom::fill(&mut iv)?;
    Ok(Some(Zeroizing::new(encrypt_rfc1423(block, &iv, password))))
}

/// A cipher in CBC mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cipher {
    TripleDes,
    Aes128,
    Aes192,
    Aes256,
}

/// The ciphers by their names in RFC 1423 and OpenSSL, and their identifiers in PKCS#8.
const CIPHERS: [(Cipher, &str, ObjectIdentifier); 4] = [
    (Cipher::TripleDes, "DES-EDE3-CBC", ObjectIdentifier::new_unwrap("1.2.840.113549.3.7")),
    (Cipher::Aes128, "AES-128-CBC", ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.2")),
    (Cipher::Aes192, "AES-192-CBC", ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.22")),
    (Cipher::Aes256, "AES-256-CBC", ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.42")),
];

impl Cipher {
    /// The length of its key, in bytes.
    fn key_size(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::TripleDes | Self::Aes192 => 24,
            Self::Aes256 => 32,
        }
    }

    /// The plaintext of `bytes`, whose padding is dropped. `key` has the right length.
    fn decrypt(self, key: &Secret, iv: &[u8], mut bytes: Vec<u8>) -> Result<Secret, Undecrypted> {
        let size = if self == Self::TripleDes { 8 } else { 16 };
        if iv.len() != size || bytes.is_empty() || !bytes.len().is_multiple_of(size) {
            return Err(Undecrypted::Malformed);
        }
        match self {
            Self::TripleDes => decrypt_cbc::<TdesEde3>(key, iv, &mut bytes),
            Self::Aes128 => decrypt_cbc::<Aes128>(key, iv, &mut bytes),
            Self::Aes192 => decrypt_cbc::<Aes192>(key, iv, &mut bytes),
            Self::Aes256 => decrypt_cbc::<Aes256>(key, iv, &mut bytes),
        }
        let padding = bytes.last().map_or(0, |last| usize::from(*last));
        let is_padding = (1..=size).contains(&padding)
            && bytes.iter().rev().take(padding).all(|byte| usize::from(*byte) == padding);
        if !is_padding {
            return Err(Undecrypted::WrongPassword);
        }
        bytes.truncate(bytes.len() - padding);
        Ok(Secret::new(bytes))
    }
}

fn decrypt_cbc<C: BlockCipherDecrypt + KeyInit>(key: &Secret, iv: &[u8], bytes: &mut [u8]) {
    let cipher = C::new_from_slice(key.expose()).expect("the key has the length of the cipher");
    let mut before = iv.to_vec();
    for chunk in bytes.chunks_exact_mut(iv.len()) {
        let sealed = chunk.to_vec();
        let block: &mut CipherBlock<C> = chunk.try_into().expect("the IV is as long as a block");
        cipher.decrypt_block(block);
        block.iter_mut().zip(&before).for_each(|(byte, before)| *byte ^= before);
        before = sealed;
    }
}

/// The key that RFC 1423 makes of a password and the IV: MD5 of both, chained until there is enough.
fn rfc1423_key(password: &Secret, iv: &[u8], size: usize) -> Secret {
    let mut key = Vec::with_capacity(size + 16);
    let mut last = Vec::new();
    while key.len() < size {
        let mut hash = Md5::new();
        hash.update(&last);
        hash.update(password.expose());
        hash.update(iv.get(..8).unwrap_or(iv));
        last = hash.finalize().to_vec();
        key.extend_from_slice(&last);
    }
    key.truncate(size);
    Secret::new(key)
}

fn decrypt_rfc1423(block: &Block<'_>, password: &Secret) -> Result<Secret, Undecrypted> {
    let info = block.header("DEK-Info").ok_or(Undecrypted::Malformed)?;
    let (name, iv) = info.split_once(',').ok_or(Undecrypted::Malformed)?;
    let iv = unhex(iv.trim()).ok_or(Undecrypted::Malformed)?;
    let cipher = CIPHERS.iter().find(|(_, known, _)| known.eq_ignore_ascii_case(name.trim()));
    let (cipher, ..) = cipher.ok_or_else(|| Undecrypted::Unsupported(format!("{name:?}")))?;
    let key = rfc1423_key(password, &iv, cipher.key_size());
    cipher.decrypt(&key, &iv, block.body.clone())
}

fn encrypt_rfc1423(block: Block<'_>, iv: &[u8; 16], password: &Secret) -> String {
    let Block { label, body: mut bytes, .. } = block;
    let padding = 16 - bytes.len() % 16;
    bytes.resize(bytes.len() + padding, u8::try_from(padding).unwrap_or_default());
    secret::on_wiped_stack(|| {
        let key = rfc1423_key(password, iv, Cipher::Aes256.key_size());
        let cipher = Aes256::new_from_slice(key.expose()).expect("the key has 32 bytes");
        let mut before = *iv;
        for chunk in bytes.chunks_exact_mut(16) {
            chunk.iter_mut().zip(before).for_each(|(byte, before)| *byte ^= before);
            let block: &mut CipherBlock<Aes256> = chunk.try_into().expect("a chunk has 16 bytes");
            cipher.encrypt_block(block);
            before.copy_from_slice(block);
        }
    });
    let iv = identity::hex(iv);
    let headers = format!("Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,{iv}\n\n");
    pem::write_with(label, &headers, &bytes)
}

/// Decrypts an `EncryptedPrivateKeyInfo` (RFC 5958 3).
fn decrypt_pkcs8(body: &[u8], password: &Secret) -> Result<Secret, Undecrypted> {
    const PBES2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.13");
    const PBKDF2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.12");

    let mut reader = SliceReader::new(identity::content(body, Tag::Sequence)?)?;
    let scheme = AlgorithmIdentifierRef::decode(&mut reader)?;
    let bytes = OctetStringRef::decode(&mut reader)?.as_bytes();
    if scheme.oid != PBES2 {
        return Err(Undecrypted::Unsupported(scheme.oid.to_string()));
    }
    let (derivation, encryption) = parameters(&scheme)?.sequence(|reader| {
        let derivation = AlgorithmIdentifierRef::decode(reader)?;
        Ok((derivation, AlgorithmIdentifierRef::decode(reader)?))
    })?;

    let cipher = CIPHERS.iter().find(|(.., oid)| *oid == encryption.oid);
    let (cipher, ..) =
        cipher.ok_or_else(|| Undecrypted::Unsupported(encryption.oid.to_string()))?;
    let iv = parameters(&encryption)?.decode_as::<OctetStringRef<'_>>()?.as_bytes();

    if derivation.oid != PBKDF2 {
        return Err(Undecrypted::Unsupported(derivation.oid.to_string()));
    }
    let (salt, iterations, hash) = parameters(&derivation)?.sequence(|reader| {
        let salt = OctetStringRef::decode(reader)?;
        let iterations = u32::decode(reader)?;
        // The length of the key follows from the cipher.
        if !reader.is_finished() && reader.peek_tag()? == Tag::Integer {
            u32::decode(reader)?;
        }
        let hash = match reader.is_finished() {
            true => None,
            false => Some(AlgorithmIdentifierRef::decode(reader)?.oid),
        };
        Ok((salt.as_bytes(), iterations, hash))
    })?;
    let iterations = NonZeroU32::new(iterations).ok_or(Undecrypted::Malformed)?;
    if iterations.get() > MAX_ITERATIONS {
        return Err(Undecrypted::Unsupported(format!("{iterations} iterations")));
    }
    let algorithm = match hash.map(|oid| oid.to_string()).as_deref() {
        None | Some("1.2.840.113549.2.7") => pbkdf2::PBKDF2_HMAC_SHA1,
        Some("1.2.840.113549.2.9") => pbkdf2::PBKDF2_HMAC_SHA256,
        Some("1.2.840.113549.2.10") => pbkdf2::PBKDF2_HMAC_SHA384,
        Some("1.2.840.113549.2.11") => pbkdf2::PBKDF2_HMAC_SHA512,
        Some(other) => return Err(Undecrypted::Unsupported(other.to_owned())),
    };
    let mut key = vec![0; cipher.key_size()];
    pbkdf2::derive(algorithm, iterations, salt, password.expose(), &mut key);
    cipher.decrypt(&Secret::new(key), iv, bytes.to_vec())
}

fn parameters<'a>(algorithm: &AlgorithmIdentifierRef<'a>) -> der::Result<AnyRef<'a>> {
    algorithm.parameters.ok_or_else(|| ErrorKind::Failed.into())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: &u8| char::from(*c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use std::{path::Path, process::Command};

    use serde_json::Value;

    use super::*;
    use crate::tls::{ApiKey, group::provider};

    fn vector() -> Value {
        let text = include_str!("../../testdata/identities.json");
        serde_json::from_str::<Value>(text).unwrap()["encrypted_private_key"].take()
    }

    fn password(text: &str) -> Secret {
        Secret::new(text.into())
    }

    #[test]
    fn the_key_of_the_vectors_is_read_with_its_password_and_no_other() {
        let vector = vector();
        let text = vector["pem"].as_str().unwrap().as_bytes();
        assert!(is_encrypted(text));
        let right = password(vector["password"].as_str().unwrap());
        let key = decrypt(text, &right).unwrap();
        assert_eq!(vector["decrypted_pkcs8_der_hex"], identity::hex(key.secret_der()));
        for number in 0..1000 {
            let wrong = decrypt(text, &password(&format!("correct horse {number}")));
            assert_eq!(Some(Undecrypted::WrongPassword), wrong.err());
        }
    }

    #[test]
    fn a_key_is_encrypted_as_in_the_vectors() {
        let vector = vector();
        let [text, right] = ["pem", "password"].map(|member| vector[member].as_str().unwrap());
        let key = ApiKey::parse(vector["corresponding_api_key"].as_str().unwrap()).unwrap();
        let block = Block::find(text.as_bytes(), "PRIVATE KEY").unwrap();
        let iv = block.header("DEK-Info").unwrap().split_once(',').unwrap().1;
        let iv = unhex(iv).unwrap().try_into().unwrap();
        let plain = key.pkcs8_pem();
        let block = Block::find(plain.as_bytes(), "PRIVATE KEY").unwrap();
        assert_eq!(text, encrypt_rfc1423(block, &iv, &password(right)));
    }

    #[test]
    fn an_encrypted_key_is_read_again() {
        let key = ApiKey::generate().unwrap();
        let secret = password("a b\u{e9}");
        let encrypt = |text: &str| encrypt_pem(text.as_bytes(), &secret).unwrap();
        let [a, b] = [(); 2].map(|()| encrypt(&key.pkcs8_pem()).unwrap());
        assert_ne!(a, b, "each has its own IV");
        let read = decrypt(a.as_bytes(), &secret).unwrap();
        assert_eq!(key.pkcs8().expose(), read.secret_der());
        assert_eq!([None, None], [encrypt(&a), encrypt("no key")]);
    }

    #[test]
    fn a_malformed_key_is_an_error_and_no_panic() {
        let vector = vector();
        let text = vector["pem"].as_str().unwrap();
        let secret = password("correct horse");
        for length in 0..text.len() {
            assert!(decrypt(&text.as_bytes()[..length], &secret).is_err() || length > 200);
            let mut changed = text.as_bytes().to_vec();
            changed[length] ^= 1;
            let _ = decrypt(&changed, &secret);
        }
        for (from, to, error) in [
            ("AES-256-CBC", "DES-CBC", Undecrypted::Unsupported("\"DES-CBC\"".into())),
            ("AES-256-CBC", "DES-EDE3-CBC", Undecrypted::Malformed),
            ("60c6074b", "60c6074", Undecrypted::Malformed),
            ("60c6074b", "60c6074x", Undecrypted::Malformed),
            ("DEK-Info", "Info", Undecrypted::Malformed),
        ] {
            let result = decrypt(text.replace(from, to).as_bytes(), &secret);
            assert_eq!(Some(error), result.err(), "{to}");
        }
    }

    fn openssl(arguments: &[&str], input: &[u8], directory: &Path) -> Vec<u8> {
        std::fs::write(directory.join("in"), input).unwrap();
        let output =
            Command::new("openssl").args(arguments).current_dir(directory).output().unwrap();
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {why}");
        output.stdout
    }

    #[test]
    fn keys_that_openssl_encrypts_are_read() {
        let directory = crate::tls::tests::Files::new();
        let openssl = |arguments: &str, input: &[u8]| {
            openssl(&arguments.split(' ').collect::<Vec<_>>(), input, &directory.0)
        };
        let ec = openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256", b"");
        let rsa = openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048", b"");
        let ed = openssl("genpkey -algorithm ED25519", b"");
        let (right, wrong) = (password("some password"), password("other"));
        let mut texts = vec![openssl("genpkey -algorithm ED25519 -aes256 -pass file:pass", &{
            std::fs::write(directory.0.join("pass"), "some password\n").unwrap();
            Vec::new()
        })];
        for key in [&ec, &rsa, &ed] {
            for (cipher, hash) in [
                ("aes-128-cbc", "hmacWithSHA1"),
                ("aes-192-cbc", "hmacWithSHA384"),
                ("aes-256-cbc", "hmacWithSHA256"),
                ("des-ede3-cbc", "hmacWithSHA512"),
            ] {
                let command =
                    format!("pkcs8 -topk8 -in in -v2 {cipher} -v2prf {hash} -passout file:pass");
                texts.push(openssl(&command, key));
            }
        }
        for cipher in ["-aes128", "-aes192", "-aes256", "-des3"] {
            let command = |kind| format!("{kind} -in in {cipher} -passout file:pass");
            texts.push(openssl(&command("ec"), &ec));
            texts.push(openssl(&(command("rsa") + " -traditional"), &rsa));
        }
        for text in texts {
            let shown = String::from_utf8_lossy(&text);
            assert!(is_encrypted(&text), "{shown}");
            let key = decrypt(&text, &right).unwrap_or_else(|e| panic!("{e}: {shown}"));
            provider().key_provider.load_private_key(key).unwrap();
            assert_eq!(Some(Undecrypted::WrongPassword), decrypt(&text, &wrong).err(), "{shown}");
        }
        let scrypt = openssl("pkcs8 -topk8 -in in -scrypt -passout file:pass", &ed);
        let Err(Undecrypted::Unsupported(what)) = decrypt(&scrypt, &right) else {
            panic!("scrypt is not supported");
        };
        assert_eq!("1.3.6.1.4.1.11591.4.11", what);

        // The other way round.
        let ours = encrypt_pem(&ed, &right).unwrap().unwrap();
        assert_eq!(ed, openssl("pkey -in in -passin file:pass", ours.as_bytes()));
    }
}
