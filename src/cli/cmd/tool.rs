//! `kes tool identity new` and `kes tool identity of`

use std::path::PathBuf;

use crate::{
    cli::{
        args::{Args, Argument, Command, Flag, JSON, Kind, Takes, flag, value},
        certificate::{HASH, hash, identity_in, print_identity},
        output::Result,
        pair::{self, Wanted, addresses, validity},
    },
    tls::self_signed::{self, Holder, KeyKind, Usage},
};

pub(crate) const NEW: Command = Command {
    path: &["tool", "identity", "new"],
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
    arguments: &[Argument::new("certificate file", "certificate file", Kind::File).optional()],
    summary: "Print the identity of a certificate",
    details: "Without a file, or with '-', the certificate is read from standard input.",
    flags: &[HASH, JSON],
    examples: &["kes tool identity of app.crt"],
    run: of,
    ..Command::NEW
};

fn of(args: &Args) -> Result<()> {
    let file = args.optional(0).filter(|file| *file != "-");
    print_identity(args, identity_in(file, hash(args)?)?)
}

fn new(args: &Args) -> Result<()> {
    let file = |flag, default| PathBuf::from(args.value(flag).unwrap_or(default));
    let (key_file, cert_file) = (file("key", "./private.key"), file("cert", "./public.crt"));
    let validity = validity(args, "time")?;
    let addresses = addresses(args)?;
    let usage = if args.is_set("server") { Usage::Server } else { Usage::Client };
    let holder = Holder { name: args.get(0), usage, addresses, validity };
    let (key, cert) = self_signed::generate(holder, KeyKind::Ed25519)
        .map_err(|e| format!("failed to make a certificate: {e}"))?;

    let key = Wanted { path: &key_file, content: &key, mode: 0o600 };
    let cert = Wanted { path: &cert_file, content: &cert, mode: 0o600 };
    pair::write(key, cert, args.is_set("force"))
}
