//! `kes tool identity new` and `kes tool identity of`

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use crate::{
    base::duration,
    cli::{
        args::{Args, Argument, Command, Flag, JSON, Kind, Takes, flag, value},
        certificate::identity_in,
        output::{Failure, Result, is_terminal, print},
    },
    identity::Hash,
    keystore::fs::sync_directory,
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
    if key_file == cert_file {
        return Err("private key and certificate can't be the same file".into());
    }
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

    let force = args.is_set("force");
    let mut key = Draft::new(&key_file, "private key", key.as_bytes(), force)?;
    let mut cert = Draft::new(&cert_file, "certificate", cert.as_bytes(), force)?;
    key.place(force)?;
    cert.place(force).inspect_err(|_| key.take_back())
}

/// A file that is complete, but not in its place yet. Dropped, only the file in its place is left.
struct Draft<'a> {
    path: &'a Path,
    what: &'static str,
    /// The draft or, after it took the place of a file, that file.
    temp: PathBuf,
    has_replaced: bool,
}

impl<'a> Draft<'a> {
    /// Writes a file of mode 0600 beside `path`, where no file may be unless `force` is set.
    fn new(path: &'a Path, what: &'static str, content: &[u8], force: bool) -> Result<Self> {
        let mut temp = path.as_os_str().to_owned();
        temp.push(format!(".{}.new", std::process::id()));
        let draft = Self { path, what, temp: temp.into(), has_replaced: false };
        if !force && path.symlink_metadata().is_ok() {
            return Err(draft.failed(&io::ErrorKind::AlreadyExists.into()));
        }
        let written = new_file(&draft.temp).and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        });
        written.map_err(|e| draft.failed(&e))?;
        Ok(draft)
    }

    fn place(&mut self, force: bool) -> Result<()> {
        self.has_replaced = force && self.rename(RenameFlags::EXCHANGE).is_ok();
        let placed = match (self.has_replaced, force) {
            (true, _) => Ok(()),
            (false, true) => fs::rename(&self.temp, self.path),
            (false, false) => match self.rename(RenameFlags::NOREPLACE) {
                // Some file systems can't: there, a crash may leave an empty file.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    new_file(self.path).and_then(|_| fs::rename(&self.temp, self.path))
                }
                renamed => renamed.map_err(io::Error::from),
            },
        };
        placed.map_err(|e| self.failed(&e))?;
        sync_folder(self.path).map_err(|e| {
            self.take_back();
            self.failed(&e)
        })
    }

    /// Undoes [`Self::place`].
    fn take_back(&mut self) {
        let _ = match self.has_replaced {
            true => self.rename(RenameFlags::EXCHANGE).map_err(io::Error::from),
            false => fs::remove_file(self.path),
        };
    }

    fn rename(&self, flags: RenameFlags) -> rustix::io::Result<()> {
        renameat_with(CWD, &self.temp, CWD, self.path, flags)
    }

    fn failed(&self, e: &io::Error) -> Failure {
        let Self { path, what, .. } = self;
        match e.kind() {
            io::ErrorKind::AlreadyExists => {
                format!("{what} {path:?} already exists: Use --force to overwrite it").into()
            }
            _ => format!("failed to create {what} {path:?}: {e}").into(),
        }
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // A private key that was replaced does not come back after a power failure.
        let _ = fs::remove_file(&self.temp).and_then(|()| sync_folder(self.path));
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
