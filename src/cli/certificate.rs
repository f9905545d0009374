//! The identity that an argument is, or that the certificate in a file or in standard input has.

use std::{
    fmt::Display,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject as _},
};

use super::{
    args::{Args, Flag, value},
    output::{Result, is_terminal, print, stdin},
    password,
};
pub(crate) use crate::identity::is_identity;
use crate::{
    identity::{self, Hash},
    tls::{self, API_KEY_PREFIX, ApiKey},
};

/// The identity that `argument` is, or that of this API key, which no server should see.
pub(crate) fn identity_or_key(argument: &str) -> Result<String> {
    match argument.starts_with(API_KEY_PREFIX) {
        true => Ok(ApiKey::parse(argument)?.identity()),
        false => Ok(argument.to_owned()),
    }
}

/// The identity that `argument` is, or that of this API key, or of the certificate in the file of this name.
pub(crate) fn identity_or_file(argument: &str) -> Result<String> {
    if argument.starts_with(API_KEY_PREFIX) {
        return identity_or_key(argument);
    }
    let is_file = argument.contains(['.', '/']) || Path::new(argument).is_file();
    match is_file && !is_identity(argument) {
        true => identity_in(Some(argument), Hash::SHA256),
        false => Ok(argument.to_owned()),
    }
}

pub(crate) const HASH: Flag = value(&["hash"], "name", "SHA-256 (default), SHA-384 or SHA-512");

/// The hash function that a flag names.
pub(crate) fn hash(args: &Args) -> Result<Hash> {
    match args.value("hash") {
        None => Ok(Hash::SHA256),
        Some(name) => Hash::parse(name).ok_or_else(|| {
            format!("invalid --hash: {name:?}: use SHA-256, SHA-384 or SHA-512").into()
        }),
    }
}

pub(crate) fn print_identity(args: &Args, identity: String) -> Result<()> {
    print(&if args.is_set("json") {
        format!("{}\n", serde_json::json!({ "identity": identity }))
    } else if is_terminal() {
        format!("\n  Identity:  {identity}\n")
    } else {
        identity
    })
}

/// Where an identity comes from.
pub(crate) enum Source {
    /// A file with a private key that is an API key, too.
    KeyFile(ApiKey),
    Other,
}

/// The identity of an API key, or of the first certificate or the private key in a file or, without one or
/// with `-`, in standard input.
pub(crate) fn identity_in_any(argument: Option<&str>, hash: Hash) -> Result<(String, Source)> {
    let text = match argument {
        Some(key) if key.starts_with(API_KEY_PREFIX) => key.as_bytes().to_vec(),
        Some(file) if file != "-" => {
            std::fs::read(file).map_err(|e| format!("failed to open {file:?}: {e}"))?
        }
        _ => {
            let mut text = Vec::new();
            let read = stdin("API key or certificate").read_to_end(&mut text);
            read.map_err(|e| format!("failed to read from standard input: {e}"))?;
            text
        }
    };
    let of_key = |key: PrivateKeyDer<'static>| {
        let key = tls::provider().key_provider.load_private_key(key).ok()?;
        Some(identity::of_public_key(&key.public_key()?, hash))
    };
    let of_api_key = |key: &ApiKey| {
        let pkcs8 = key.pkcs8();
        let der = PrivateKeyDer::Pkcs8(pkcs8.expose().into());
        of_key(der.clone_key()).ok_or("it is no key for TLS")
    };
    let trimmed = text.trim_ascii();
    if trimmed.starts_with(API_KEY_PREFIX.as_bytes()) {
        let key = ApiKey::parse(&String::from_utf8_lossy(trimmed))?;
        return Ok((of_api_key(&key)?, Source::Other));
    }
    let file = argument.filter(|file| *file != "-");
    const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";
    // Not all keys with a password are PEM that the reader of certificates knows.
    if !text.windows(CERTIFICATE.len()).any(|part| part == CERTIFICATE) {
        let key = match tls::is_encrypted(&text) {
            true => {
                let password = password::of_key(Path::new(file.unwrap_or("-")), true)?;
                let key = tls::decrypt(&text, &password);
                let source = source_of(file);
                Some(key.map_err(|e| format!("failed to read private key from {source}: {e}"))?)
            }
            false => PrivateKeyDer::from_pem_slice(&text).ok(),
        };
        if let Some(PrivateKeyDer::Pkcs8(der)) = &key {
            let text = tls::pem::write("PRIVATE KEY", der.secret_pkcs8_der());
            if let Some(key) = ApiKey::from_pkcs8_pem(text.as_bytes()) {
                return Ok((of_api_key(&key)?, Source::KeyFile(key)));
            }
        }
        if let Some(identity) = key.and_then(of_key) {
            return Ok((identity, Source::Other));
        }
    }
    Ok((identity_of_text(&text, file, hash)?, Source::Other))
}

/// The identity of the first certificate in a file or, without one, in standard input.
pub(crate) fn identity_in(file: Option<&str>, hash: Hash) -> Result<String> {
    let source = source_of(file);
    let failed = |e: &dyn Display| format!("failed to read certificate from {source}: {e}");
    // It may be a private key, by mistake.
    let mut text = Vec::new();
    match file {
        Some(file) => File::open(file)
            .map_err(|e| format!("failed to open {file:?}: {e}"))?
            .read_to_end(&mut text),
        None => stdin("certificate").read_to_end(&mut text),
    }
    .map_err(|e| failed(&e))?;
    identity_of_text(&text, file, hash)
}

/// The identity of the first certificate in `text`, which `file` or standard input has.
fn identity_of_text(text: &[u8], file: Option<&str>, hash: Hash) -> Result<String> {
    let source = source_of(file);
    let failed = |e: &dyn Display| format!("failed to read certificate from {source}: {e}");
    match CertificateDer::from_pem_slice(text) {
        Ok(der) => Ok(identity::with_hash(&der, hash).map_err(|e| failed(&e))?),
        Err(pem::Error::NoItemsFound) => Err(format!(
            "found no (non-CA) certificate in any PEM block: {source} {}",
            instead_of_certificate(text, file)
        )
        .into()),
        Err(e) => Err(failed(&e).into()),
    }
}

fn source_of(file: Option<&str>) -> String {
    file.map_or("standard input".to_owned(), |file| format!("{file:?}"))
}

/// What `text`, which `file` has and which is no certificate, is instead, and what to give.
fn instead_of_certificate(text: &[u8], file: Option<&str>) -> String {
    let text = String::from_utf8_lossy(text);
    let labels: Vec<_> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .collect();
    let beside = || match file.and_then(certificate_beside) {
        Some(beside) => format!("is a private key: give its certificate, such as {beside:?}"),
        None => "is a private key: give the certificate that belongs to it".to_owned(),
    };
    let label = ["PRIVATE KEY", "CERTIFICATE REQUEST", "PUBLIC KEY"]
        .into_iter()
        .find(|what| labels.iter().any(|label| label.ends_with(what)));
    match label.or(labels.first().copied()) {
        Some("PRIVATE KEY") => beside(),
        Some("CERTIFICATE REQUEST") => {
            "is a request for a certificate: give the certificate that was issued for it".to_owned()
        }
        Some("PUBLIC KEY") => "is a public key: give the certificate that holds it".to_owned(),
        Some(label) => format!("is a PEM file of the type {label:?}: give a certificate"),
        None if text.trim().is_empty() => "is empty: give a certificate as PEM text".to_owned(),
        None => "is no PEM text, which begins with -----BEGIN CERTIFICATE-----".to_owned(),
    }
}

/// The file beside that of a private key that has a certificate, by its name.
fn certificate_beside(key: &str) -> Option<PathBuf> {
    let key = Path::new(key);
    let named = ["crt", "cert", "pem"].map(|extension| key.with_extension(extension));
    let mut candidates = named.into_iter().chain([key.with_file_name("public.crt")]);
    candidates.find(|file| CertificateDer::from_pem_file(file).is_ok())
}
