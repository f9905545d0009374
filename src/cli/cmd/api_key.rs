//! `kes identity`, `kes identity new` and `kes identity of`: API keys, and the files that say the same.

use std::{io::Read as _, path::Path};

use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    cli::{
        args::{Args, Argument, Command, Flag, JSON, Kind, Takes, flag, value},
        certificate::{HASH, Source, hash, identity_in_any, print_identity},
        output::{Failure, Result, is_terminal, print, stdin, warn},
        pair::{self, Wanted, addresses, validity},
        password,
    },
    identity::Hash,
    tls::{
        self, ApiKey, pem,
        self_signed::{self, Usage},
    },
};

pub(crate) const ALONE: Command = Command {
    path: &["identity"],
    arguments: &[Argument::new("API key or file", "API key", Kind::File).optional()],
    summary: "Make an API key, or print what belongs to one",
    details: "\
Prints the identity of an API key or a certificate, and the API key of a file with an
Ed25519 private key. Without any of them, makes an API key.",
    flags: &[JSON],
    examples: &["kes identity", "kes identity client.key"],
    run: alone,
    ..Command::NEW
};

pub(crate) const NEW: Command = Command {
    path: &["identity", "new"],
    arguments: &[Argument::new("name", "name", Kind::Text).optional()],
    summary: "Make an API key, and files with its private key and certificate",
    details: "\
An API key stands for both files, so clients need one or the other. The certificate is
for clients and servers. The name is its common name. With --encrypt, the password comes from
KES_CLIENT_KEY_PASSWORD or the terminal; choose a long one, as one round of MD5 protects it.",
    flags: &[
        value(&["api-key", "a"], "key", "write the files of this API key; '-' reads it from stdin"),
        value(&["key"], "file", "write the private key there; goes with --cert"),
        value(&["cert"], "file", "write the certificate there; goes with --key"),
        Flag {
            names: &["expiry"],
            takes: Takes::Duration,
            help: "how long the certificate is valid (default 720h)",
        },
        value(&["ip"], "IP", "IP address in the certificate; may be repeated"),
        value(&["dns"], "name", "host name in the certificate; may be repeated"),
        flag(&["encrypt"], "ask for a password for the private key"),
        flag(&["force", "f"], "overwrite existing files"),
        JSON,
    ],
    examples: &[
        "kes identity new",
        "kes identity new --key server.key --cert server.crt --ip 10.0.0.5 --dns kes.example.com",
    ],
    run: new,
    ..Command::NEW
};

pub(crate) const OF: Command = Command {
    path: &["identity", "of"],
    arguments: &[Argument::new("API key or file", "API key", Kind::File).optional()],
    summary: "Print the identity of an API key, a certificate or a private key",
    details: "Without an argument, or with '-', it is read from standard input.",
    flags: &[HASH, JSON],
    examples: &["kes identity of client.crt"],
    run: of,
    ..Command::NEW
};

fn alone(args: &Args) -> Result<()> {
    let Some(argument) = args.optional(0) else {
        let key = ApiKey::generate()?;
        return match is_terminal() || args.is_set("json") {
            true => introduce(args, &key, ""),
            false => print(&key.text()),
        };
    };
    match identity_in_any(Some(argument), Hash::SHA256)? {
        (_, Source::KeyFile(key)) => print(&if args.is_set("json") {
            format!("{}\n", json!({ "api_key": *key.text(), "identity": key.identity() }))
        } else if is_terminal() {
            format!("\n  API key:  {}\n", *key.text())
        } else {
            key.text().to_string()
        }),
        (identity, Source::Other) => print_identity(args, identity),
    }
}

fn of(args: &Args) -> Result<()> {
    let (identity, _) = identity_in_any(args.optional(0), hash(args)?)?;
    print_identity(args, identity)
}

fn new(args: &Args) -> Result<()> {
    let validity = validity(args, "expiry")?;
    let addresses = addresses(args)?;
    let files = match (args.value("key"), args.value("cert")) {
        (Some(key), Some(cert)) => Some((Path::new(key), Path::new(cert))),
        (None, Some(_)) => return Err("no private key file specified: use --key too".into()),
        (Some(_), None) => return Err("no certificate file specified: use --cert too".into()),
        (None, None) => None,
    };
    let api_key = match args.value("api-key") {
        None => ApiKey::generate()?,
        Some("-") => {
            let mut text = Zeroizing::new(String::new());
            let read = stdin("API key").read_to_string(&mut text);
            read.map_err(|e| format!("failed to read from standard input: {e}"))?;
            ApiKey::parse(&text)?
        }
        Some(text) => ApiKey::parse(text)?,
    };
    let Some((key_file, cert_file)) = files else {
        let vain = ["api-key", "ip", "dns", "expiry", "encrypt", "force"]
            .iter()
            .find(|flag| args.value(flag).is_some());
        if let Some(flag) = vain {
            return Err(format!("--{flag} goes with --key and --cert").into());
        }
        if args.optional(0).is_some() {
            warn("the name is for a certificate, which is made with --key and --cert only");
        }
        return introduce(args, &api_key, "");
    };
    let holder = self_signed::Holder { name: args.get(0), usage: Usage::Both, addresses, validity };
    let cert = self_signed::certify(holder, &api_key.pkcs8())
        .map_err(|e| format!("failed to make a certificate: {e}"))?;
    let (mut key, cert) = (api_key.pkcs8_pem(), pem::write("CERTIFICATE", &cert));
    if args.is_set("encrypt") {
        let password = password::for_new_key()?;
        let encrypted = tls::encrypt_pem(key.as_bytes(), &password)?;
        key = encrypted.expect("it is a private key without a password");
    }
    let key = Wanted { path: key_file, content: &key, mode: 0o600 };
    let cert = Wanted { path: cert_file, content: &cert, mode: 0o644 };
    pair::write(key, cert, args.is_set("force"))?;
    let files = format!(
        "\nThe private key is in {}, the certificate in {}.\n",
        key_file.display(),
        cert_file.display()
    );
    let shown = match args.value("api-key") {
        Some(_) if !args.is_set("json") => print(&files[1..]),
        _ => introduce(args, &api_key, &files),
    };
    shown.map_err(|failure| match failure {
        Failure::Message(why) => format!("{why} (private key and certificate are written)").into(),
        other => other,
    })
}

/// Prints a new key, and what to do with it.
fn introduce(args: &Args, key: &ApiKey, files: &str) -> Result<()> {
    let (text, identity) = (key.text(), key.identity());
    if args.is_set("json") {
        return print(&format!("{}\n", json!({ "api_key": *text, "identity": identity })));
    }
    print(&format!(
        "Your API key:\n\n   {}\n\nIt is not shown again. Keep it secret; KES_API_KEY takes it.\n\n\
         Your Identity:\n\n   {identity}\n\nIt is no secret: servers need it to know the API key, as \
         their admin or in a policy.\n{files}",
        *text
    ))
}
