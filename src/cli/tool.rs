//! `kes tool identity new` and `kes tool identity of`

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{
    CertificateDer, PrivatePkcs8KeyDer,
    pem::{self, PemObject as _},
};

use super::{
    Args, Failure,
    args::{Flag, Takes},
    commands::JSON,
    identity::is_identity,
    is_terminal, print, stdin,
};
use crate::{
    base::{duration, secret::Secret},
    identity::{self, Hash},
    keystore::fs::sync_directory,
};

type Result<T> = std::result::Result<T, Failure>;

#[rustfmt::skip]
pub(super) const NEW_FLAGS: &[Flag] = &[
    Flag { names: &["key"], takes: Takes::Value("file"), help: "private key to write (default ./private.key)" },
    Flag { names: &["cert"], takes: Takes::Value("file"), help: "certificate to write (default ./public.crt)" },
    Flag { names: &["time", "t"], takes: Takes::Duration, help: "how long it is valid (default 720h)" },
    Flag { names: &["ip"], takes: Takes::Value("IP"), help: "IP address of the holder; may be repeated" },
    Flag { names: &["dns"], takes: Takes::Value("name"), help: "host name of the holder; may be repeated" },
    Flag { names: &["server"], takes: Takes::Bool, help: "for a server, not for a client" },
    Flag { names: &["force", "f"], takes: Takes::Bool, help: "overwrite existing files" },
];

#[rustfmt::skip]
pub(super) const OF_FLAGS: &[Flag] = &[
    Flag { names: &["hash"], takes: Takes::Value("name"), help: "SHA-256 (default), SHA-384 or SHA-512" },
    JSON,
];

/// A PKCS#8 private key of version 1 with an Ed25519 seed (RFC 8410 7) up to the seed. OpenSSL 3.0
/// does not read version 2, which ring and rcgen would write.
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// `kes tool identity of [<file>]`
pub(super) fn of(args: &Args) -> Result<()> {
    let hash = match args.value("hash") {
        None => Hash::Sha256,
        Some(name) => Hash::parse(name)
            .ok_or_else(|| format!("invalid --hash: {name:?}: use SHA-256, SHA-384 or SHA-512"))?,
    };
    let identity = match args.positional.as_slice() {
        [] => identity_in(None, hash)?,
        [file] if file == "-" => identity_in(None, hash)?,
        [file] => identity_in(Some(file), hash)?,
        _ => return Err("too many arguments".into()),
    };
    print(&if args.is_set("json") {
        format!("{}\n", serde_json::json!({ "identity": identity }))
    } else if is_terminal() {
        format!("\n  Identity:  {identity}\n")
    } else {
        identity
    })
}

/// The identity that `argument` is, or that of the certificate in the file of this name.
pub(super) fn identity_or_file(argument: &str) -> Result<String> {
    let is_file = argument.contains(['.', '/']) || Path::new(argument).is_file();
    match is_file && !is_identity(argument) {
        true => identity_in(Some(argument), Hash::Sha256),
        false => Ok(argument.to_owned()),
    }
}

/// The identity of the first certificate in a file or, without one, in standard input.
fn identity_in(file: Option<&str>, hash: Hash) -> Result<String> {
    let source = file.map_or("standard input".to_owned(), |file| format!("{file:?}"));
    let failed =
        |e: &dyn std::fmt::Display| format!("failed to read certificate from {source}: {e}");
    // It may be a private key, by mistake.
    let mut text = Vec::new();
    match file {
        Some(file) => File::open(file)
            .map_err(|e| format!("failed to open {file:?}: {e}"))?
            .read_to_end(&mut text),
        None => stdin("certificate").read_to_end(&mut text),
    }
    .map_err(|e| failed(&e))?;
    match CertificateDer::from_pem_slice(&text) {
        Ok(der) => Ok(identity::with_hash(&der, hash).map_err(|e| failed(&e))?),
        Err(pem::Error::NoItemsFound) => Err(format!(
            "found no (non-CA) certificate in any PEM block: {source} {}",
            instead_of_certificate(&text, file)
        )
        .into()),
        Err(e) => Err(failed(&e).into()),
    }
}

/// What `text`, which `file` has and which is no certificate, is instead, and what to give.
fn instead_of_certificate(text: &[u8], file: Option<&str>) -> String {
    let text = String::from_utf8_lossy(text);
    let labels = text.lines().filter_map(|line| {
        let label = line.trim().strip_prefix("-----BEGIN ")?;
        label.strip_suffix("-----")
    });
    let labels: Vec<_> = labels.collect();
    let has = |what: &str| labels.iter().any(|label| label.ends_with(what));
    if has("PRIVATE KEY") {
        let beside = file.and_then(certificate_beside).map_or_else(
            || "the certificate that belongs to it".to_owned(),
            |beside| format!("its certificate, such as {beside:?}"),
        );
        return format!("is a private key: give {beside}");
    }
    if has("CERTIFICATE REQUEST") {
        return "is a request for a certificate: give the certificate that was issued for it"
            .to_owned();
    }
    if has("PUBLIC KEY") {
        return "is a public key: give the certificate that holds it".to_owned();
    }
    match labels.first() {
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

/// `kes tool identity new [<name>]`
pub(super) fn new(args: &Args) -> Result<()> {
    let name = match args.positional.as_slice() {
        [] => "",
        [name] => name,
        _ => return Err("too many arguments".into()),
    };
    let key_file = PathBuf::from(args.value("key").unwrap_or("./private.key"));
    let cert_file = PathBuf::from(args.value("cert").unwrap_or("./public.crt"));
    if key_file == cert_file {
        return Err("private key and certificate can't be the same file".into());
    }
    let validity = args.value("time").unwrap_or("720h");
    let validity = duration::parse_non_negative(validity)
        .map_err(|e| format!("invalid value {validity:?} for --time: {e}"))?;
    if validity.is_zero() {
        return Err("invalid value for --time: the certificate would expire at once".into());
    }
    let mut names = Vec::new();
    for ip in args.values("ip") {
        let ip: IpAddr = ip.parse().map_err(|_| format!("{ip:?} is not a valid IP address"))?;
        names.push(SanType::IpAddress(ip));
    }
    for dns in args.values("dns") {
        let dns = dns.try_into().map_err(|_| format!("{dns:?} is not a valid host name"))?;
        names.push(SanType::DnsName(dns));
    }
    let (key, cert) = generate(name, validity, names, args.is_set("server"))
        .map_err(|e| format!("failed to make a certificate: {e}"))?;

    let force = args.is_set("force");
    let key_written = write(&key_file, "private key", key.as_bytes(), force)?;
    match write(&cert_file, "certificate", cert.as_bytes(), force) {
        Ok(cert_written) => cert_written.keep(),
        Err(failure) => {
            key_written.take_back();
            return Err(failure);
        }
    }
    key_written.keep();
    Ok(())
}

/// A private key and a self-signed certificate, both PEM.
fn generate(
    name: &str,
    validity: Duration,
    names: Vec<SanType>,
    is_server: bool,
) -> std::result::Result<(String, String), Box<dyn std::error::Error>> {
    let seed = Secret::random(32)?;
    let pkcs8 = [&ED25519_PKCS8[..], seed.expose()].concat();
    let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()))?;

    let mut serial = [0; 16];
    getrandom::fill(&mut serial)?;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    if !name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    // Certificates count in whole seconds.
    let now = Duration::from_secs(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
    params.not_before = (UNIX_EPOCH + now).into();
    let end = UNIX_EPOCH.checked_add(now + validity).ok_or("the validity is too long")?;
    // The last moment that an X.509 certificate can name is in the year 9999.
    if now + validity > Duration::from_secs(253_402_300_799) {
        return Err("the validity is too long".into());
    }
    params.not_after = end.into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match is_server {
        true => ExtendedKeyUsagePurpose::ServerAuth,
        false => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.subject_alt_names = names;
    let cert = params.self_signed(&key)?;

    let key_pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        STANDARD.encode(&pkcs8)
    );
    let mut cert_pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let base64 = STANDARD.encode(cert.der());
    for line in base64.as_bytes().chunks(64) {
        cert_pem.push_str(&String::from_utf8_lossy(line));
        cert_pem.push('\n');
    }
    cert_pem.push_str("-----END CERTIFICATE-----\n");
    Ok((key_pem, cert_pem))
}

/// A file that was written and can still be undone.
struct Written {
    path: PathBuf,
    /// What stood there before.
    backup: Option<PathBuf>,
}

impl Written {
    fn keep(self) {
        if let Some(backup) = self.backup {
            // A private key that was replaced does not come back after a power failure.
            let _ = fs::remove_file(backup).and_then(|()| sync_folder(&self.path));
        }
    }

    fn take_back(self) {
        let _ = match self.backup {
            Some(backup) => fs::rename(backup, self.path),
            None => fs::remove_file(self.path),
        };
    }
}

/// Writes a file of mode 0600 as a whole or not at all.
fn write(path: &Path, what: &str, content: &[u8], force: bool) -> Result<Written> {
    let failed = |e: io::Error| format!("failed to create {what} {path:?}: {e}");
    let exists = || format!("{what} {path:?} already exists: Use --force to overwrite it");
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.{suffix}", std::process::id()));
        PathBuf::from(name)
    };
    if !force && path.symlink_metadata().is_ok() {
        return Err(exists().into());
    }
    let temp = beside("new");
    let result = new_file(&temp).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()?;
        let mut backup = None;
        if force && path.is_file() {
            let saved = beside("old");
            // Some file systems know no hard links.
            fs::hard_link(path, &saved).or_else(|_| {
                io::copy(&mut File::open(path)?, &mut new_file(&saved)?).map(|_| ())
            })?;
            backup = Some(saved);
        }
        match force {
            true => fs::rename(&temp, path)
                .inspect_err(|_| drop(backup.as_ref().map(fs::remove_file)))?,
            false => match fs::hard_link(&temp, path) {
                // Without hard links, a crash may leave an empty file: a rename alone would replace
                // a file that came into being meanwhile.
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    new_file(path)?;
                    fs::rename(&temp, path).inspect_err(|_| drop(fs::remove_file(path)))?;
                }
                linked => linked.and_then(|()| fs::remove_file(&temp))?,
            },
        }
        let written = Written { path: path.to_owned(), backup };
        match sync_folder(path) {
            Ok(()) => Ok(written),
            Err(e) => {
                written.take_back();
                Err(e)
            }
        }
    });
    let _ = fs::remove_file(&temp);
    match result {
        Ok(written) => Ok(written),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(exists().into()),
        Err(e) => Err(failed(e).into()),
    }
}

/// Creates a file that only its owner may read, and that did not exist.
fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Makes the entry of `path` in its folder durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|path| !path.as_os_str().is_empty());
    sync_directory(&File::open(folder.unwrap_or(Path::new(".")))?.into())
}
