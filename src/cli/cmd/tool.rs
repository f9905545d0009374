//! `kes tool identity new` and `kes tool identity of`

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
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
use rustls_pki_types::PrivatePkcs8KeyDer;

use crate::{
    base::{duration, secret::Secret},
    cli::{
        args::{Args, Argument, Command, Flag, JSON, Kind, Takes, flag, value},
        certificate::identity_in,
        output::{Result, is_terminal, print},
    },
    identity::Hash,
    keystore::fs::sync_directory,
};

pub(crate) const NEW: Command = Command {
    path: &["tool", "identity", "new"],
    aliases: &[&["identity", "new"]],
    arguments: &[Argument::new("name", "name", Kind::Text).optional()],
    summary: "Make a private key and a certificate",
    flags: &[
        value(&["key"], "file", "private key to write (default ./private.key)"),
        value(&["cert"], "file", "certificate to write (default ./public.crt)"),
        Flag {
            names: &["time", "t"],
            takes: Takes::Duration,
            help: "how long it is valid (default 720h)",
        },
        value(&["ip"], "IP", "IP address of the holder; may be repeated"),
        value(&["dns"], "name", "host name of the holder; may be repeated"),
        flag(&["server"], "for a server, not for a client"),
        flag(&["force", "f"], "overwrite existing files"),
    ],
    examples: &[
        "kes tool identity new --key app.key --cert app.crt app",
        "kes tool identity new --server --ip 10.0.0.5 --dns kes.example.com --key server.key --cert server.crt",
    ],
    run: new,
    ..Command::NEW
};

pub(crate) const OF: Command = Command {
    path: &["tool", "identity", "of"],
    aliases: &[&["identity", "of"]],
    arguments: &[Argument::new("certificate file", "certificate file", Kind::File).optional()],
    summary: "Print the identity of a certificate",
    details: "Without a file, or with '-', the certificate is read from standard input.",
    flags: &[value(&["hash"], "name", "SHA-256 (default), SHA-384 or SHA-512"), JSON],
    examples: &["kes tool identity of app.crt"],
    run: of,
    ..Command::NEW
};

/// A PKCS#8 private key of version 1 with an Ed25519 seed (RFC 8410 7) up to the seed. OpenSSL 3.0
/// does not read version 2, which ring and rcgen would write.
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

fn of(args: &Args) -> Result<()> {
    let hash = match args.value("hash") {
        None => Hash::SHA256,
        Some(name) => Hash::parse(name)
            .ok_or_else(|| format!("invalid --hash: {name:?}: use SHA-256, SHA-384 or SHA-512"))?,
    };
    let identity = identity_in(args.optional(0).filter(|file| *file != "-"), hash)?;
    print(&if args.is_set("json") {
        format!("{}\n", serde_json::json!({ "identity": identity }))
    } else if is_terminal() {
        format!("\n  Identity:  {identity}\n")
    } else {
        identity
    })
}

fn new(args: &Args) -> Result<()> {
    let file = |flag, default| PathBuf::from(args.value(flag).unwrap_or(default));
    let (key_file, cert_file) = (file("key", "./private.key"), file("cert", "./public.crt"));
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
    let (key, cert) = generate(args.get(0), validity, names, args.is_set("server"))
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

    Ok((pem("PRIVATE KEY", &pkcs8), pem("CERTIFICATE", cert.der())))
}

/// `der` as PEM text (RFC 7468).
fn pem(label: &str, der: &[u8]) -> String {
    let lines = der.chunks(48).map(|line| STANDARD.encode(line) + "\n");
    format!("-----BEGIN {label}-----\n{}-----END {label}-----\n", lines.collect::<String>())
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
