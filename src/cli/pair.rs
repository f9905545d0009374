//! Files that belong together, such as a private key and its certificate: all are there, or none is, and none
//! is overwritten by accident.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::SanType;
use rustix::{
    fs::{CWD, Gid, Mode, RenameFlags, Uid, fchmod, fchown, renameat_with},
    io::Errno,
};

use super::{
    args::Args,
    output::{Failure, Result},
};
use crate::{base::duration, keystore::fs::sync_way_to, tls::self_signed};

/// A file to write.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) path: &'a Path,
    pub(crate) content: &'a str,
    pub(crate) mode: u32,
}

/// Writes both, each in place of an older one if `force` is set.
pub(crate) fn write(key: Wanted<'_>, cert: Wanted<'_>, force: bool) -> Result<()> {
    if real(key.path) == real(cert.path) {
        return Err("private key and certificate can't be the same file".into());
    }
    write_all(&[(key, "private key"), (cert, "certificate")], None, force).map(drop)
}

/// Writes one file, in place of an older one if `force` is set. Errors call it `what`.
pub(crate) fn write_one(file: Wanted<'_>, what: &'static str, force: bool) -> Result<()> {
    write_all(&[(file, what)], None, force).map(drop)
}

/// Writes files, each with the word that errors call it, in this order; each in place of an older one, with its
/// owners and its mode, if `force` is set. With a `group`, new ones belong to it, and have their mode whatever the
/// umask is.
pub(crate) fn write_all(
    files: &[(Wanted<'_>, &'static str)],
    group: Option<u32>,
    force: bool,
) -> Result<Written> {
    let drafts = files.iter().map(|(wanted, what)| Draft::new(*wanted, what, group, force));
    let mut written = Written(Vec::new());
    for mut draft in drafts.collect::<Result<Vec<_>>>()? {
        if let Err(failure) = draft.place(force) {
            written.take_back();
            return Err(failure);
        }
        written.0.push(draft);
    }
    Ok(written)
}

/// Files that are in their places.
pub(crate) struct Written(Vec<Draft>);

impl Written {
    /// Undoes the writing, the last file first.
    pub(crate) fn take_back(&mut self) {
        self.0.iter_mut().rev().for_each(Draft::take_back);
    }
}

/// The length of time that the flag `name` has for a certificate.
pub(crate) fn validity(args: &Args, name: &str) -> Result<Duration> {
    let validity = args.value(name).unwrap_or("720h");
    let validity = duration::parse_non_negative(validity)
        .map_err(|e| format!("invalid value {validity:?} for --{name}: {e}"))?;
    match validity.is_zero() {
        true => {
            Err(format!("invalid value for --{name}: the certificate would expire at once").into())
        }
        false => Ok(validity),
    }
}

/// The addresses that `--ip` and `--dns` name.
pub(crate) fn addresses(args: &Args) -> Result<Vec<SanType>> {
    let mut addresses = Vec::new();
    for ip in args.values("ip") {
        let address = self_signed::ip(ip);
        addresses.push(address.ok_or_else(|| format!("{ip:?} is not a valid IP address"))?);
    }
    for dns in args.values("dns") {
        let address = self_signed::dns(dns);
        addresses.push(address.ok_or_else(|| format!("{dns:?} is not a valid host name"))?);
    }
    Ok(addresses)
}

/// A file that is complete, but not in its place yet. Dropped, only the file in its place is left.
struct Draft {
    path: PathBuf,
    what: &'static str,
    mode: u32,
    /// The draft or, after it took the place of a file, that file.
    temp: PathBuf,
    has_replaced: bool,
}

impl Draft {
    /// Writes a file beside the wanted one, which may not be there unless `force` is set.
    fn new(
        wanted: Wanted<'_>,
        what: &'static str,
        group: Option<u32>,
        force: bool,
    ) -> Result<Self> {
        let Wanted { path, content, mut mode } = wanted;
        let path = if force { real(path) } else { path.to_owned() };
        let mut temp = path.clone().into_os_string();
        // In a container, each run may have the number of the one that a power failure ended.
        let random = getrandom::u32().map_err(|e| format!("failed to name a file: {e}"))?;
        temp.push(format!(".{}-{random:08x}.new", std::process::id()));
        let mut draft = Self { path, what, mode, temp: temp.into(), has_replaced: false };
        let mut owners = group.map(|group| (None, group));
        // Through the wanted path, as the system may refuse to follow the links of others.
        match wanted.path.metadata() {
            Ok(there) if force && there.is_file() => {
                owners = Some((Some(there.uid()), there.gid()));
                // Others read a private key no longer.
                mode = there.mode() & if what == "private key" { 0o740 } else { 0o777 };
            }
            Ok(_) if force => return Err(draft.failed(&io::Error::other("it is no plain file"))),
            Err(e) if force && e.kind() != io::ErrorKind::NotFound => return Err(draft.failed(&e)),
            _ if !force && draft.path.symlink_metadata().is_ok() => {
                return Err(draft.failed(&io::ErrorKind::AlreadyExists.into()));
            }
            _ => {}
        }
        draft.mode = mode;
        let written = new_file(&draft.temp, mode).and_then(|mut file| {
            if let Some((user, group)) = owners {
                fchown(&file, user.map(Uid::from_raw), Some(Gid::from_raw(group)))
                    .map_err(|e| io::Error::other(format!("can't set owner and group: {e}")))?;
                fchmod(&file, Mode::from_raw_mode(mode))?;
            }
            file.write_all(content.as_bytes())?;
            file.sync_all()
        });
        written.map_err(|e| draft.failed(&e))?;
        Ok(draft)
    }

    fn place(&mut self, force: bool) -> Result<()> {
        self.has_replaced = force && self.rename(RenameFlags::EXCHANGE).is_ok();
        let placed = match (self.has_replaced, force) {
            (true, _) => Ok(()),
            (false, true) => fs::rename(&self.temp, &self.path),
            (false, false) => match self.rename(RenameFlags::NOREPLACE) {
                // Some file systems can't; a few of them have no hard links either.
                Err(Errno::INVAL | Errno::NOSYS) => match fs::hard_link(&self.temp, &self.path) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                        // There, a crash may leave an empty file.
                        let placed = new_file(&self.path, self.mode);
                        placed.and_then(|_| fs::rename(&self.temp, &self.path))
                    }
                    linked => linked,
                },
                renamed => renamed.map_err(io::Error::from),
            },
        };
        placed.map_err(|e| self.failed(&e))?;
        sync_entry(&self.path).map_err(|e| {
            self.take_back();
            self.failed(&e)
        })
    }

    /// Undoes [`Self::place`], before files that were placed earlier are taken back.
    fn take_back(&mut self) {
        let undone = match self.has_replaced {
            true => self.rename(RenameFlags::EXCHANGE).map_err(io::Error::from),
            false => fs::remove_file(&self.path),
        };
        let _ = undone.and_then(|()| sync_entry(&self.path));
    }

    fn rename(&self, flags: RenameFlags) -> rustix::io::Result<()> {
        renameat_with(CWD, &self.temp, CWD, &self.path, flags)
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

impl Drop for Draft {
    fn drop(&mut self) {
        // A private key that was replaced does not come back after a power failure.
        let _ = fs::remove_file(&self.temp).and_then(|()| sync_entry(&self.path));
    }
}

/// What the link `path` leads to, if that is there.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Creates a file that did not exist.
fn new_file(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

/// Makes the entry of `path` in its folder durable.
pub(crate) fn sync_entry(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|path| !path.as_os_str().is_empty());
    sync_folder(folder.unwrap_or(Path::new(".")))
}

/// Makes what is in `folder` durable, and the way to it, which may be as new.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    sync_way_to(&File::open(folder)?.into())
}
