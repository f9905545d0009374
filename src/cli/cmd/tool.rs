//! `kes tool identity new` and `kes tool identity of`

use std::path::PathBuf;

use crate::{
    base::duration,
    cli::{
        args::{Args, Argument, Command, Flag, JSON, Kind, Takes, flag, value},
        certificate::identity_in,
        output::{Result, is_terminal, print},
        pair::{self, Wanted},
    },
    identity::Hash,
    tls::self_signed::{self, Holder, KeyKind, Usage},
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
    let validity = args.value("time").unwrap_or("720h");
    let validity = duration::parse_non_negative(validity)
        .map_err(|e| format!("invalid value {validity:?} for --time: {e}"))?;
    if validity.is_zero() {
        return Err("invalid value for --time: the certificate would expire at once".into());
    }
    let mut addresses = Vec::new();
    for ip in args.values("ip") {
        let address = self_signed::ip(ip);
        addresses.push(address.ok_or_else(|| format!("{ip:?} is not a valid IP address"))?);
    }
    for dns in args.values("dns") {
        let address = self_signed::dns(dns);
        addresses.push(address.ok_or_else(|| format!("{dns:?} is not a valid host name"))?);
    }
    let usage = if args.is_set("server") { Usage::Server } else { Usage::Client };
    let holder = Holder { name: args.get(0), usage, addresses, validity };
    let (key, cert) = self_signed::generate(holder, KeyKind::Ed25519)
        .map_err(|e| format!("failed to make a certificate: {e}"))?;

    let key = Wanted { path: &key_file, content: &key, mode: 0o600 };
    let cert = Wanted { path: &cert_file, content: &cert, mode: 0o600 };
    pair::write(key, cert, args.is_set("force"))
}
