//! Files and directories on a disk that may lose its power: temporary files, reading and syncing.

use std::{
    ffi::OsStr,
    fmt,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::PathBuf,
};

use rustix::{
    fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat},
    io::{Errno, retry_on_intr},
    process::{Gid, Uid, geteuid},
};

use crate::{
    base::secret::Secret,
    keystore::store::{KeyName, MAX_VALUE},
};

/// How the names of temporary files start.
pub(crate) const TEMP_PREFIX: &str = "\\tmp-";

/// How a directory is opened.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// How an entry that may be anything is opened. That must neither leave the directory (symbolic links) nor
/// wait (named pipes).
const ENTRY: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// How a file is made, which must not be there.
const NEW: OFlags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC);

/// What is wrong where the operating system sees no error.
#[derive(Debug)]
pub(crate) enum Unfit {
    NotADirectory(PathBuf),
    NotAFile,
    TooLarge,
    Changed,
    Moved,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADirectory(path) => write!(f, "{path:?} is not a directory"),
            Self::NotAFile => f.write_str("not a regular file"),
            Self::TooLarge => write!(f, "larger than {MAX_VALUE} bytes"),
            Self::Changed => f.write_str("the file does not contain what was written"),
            Self::Moved => f.write_str(
                "the directory is on another file system than at the start of the server: mount the right one, or \
                 restart the server",
            ),
        }
    }
}

impl std::error::Error for Unfit {}

/// Whether this is the error of a file that can't be a key.
pub(crate) fn is_unfit(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let error = error.downcast_ref().and_then(io::Error::get_ref);
    error.is_some_and(|error| error.is::<Unfit>())
}

impl From<Unfit> for io::Error {
    fn from(unfit: Unfit) -> Self {
        Self::other(unfit)
    }
}

/// A temporary file, locked while it exists. Its name goes when it is dropped.
pub(crate) struct Temp<'a> {
    directory: &'a OwnedFd,
    pub(crate) name: String,
    pub(crate) file: File,
    /// Whether the directory has no entry under `name` any more, or is to keep it.
    removed: bool,
}

impl<'a> Temp<'a> {
    pub(crate) fn create(directory: &'a OwnedFd) -> io::Result<Self> {
        loop {
            let mut random = [0; 8];
            getrandom::fill(&mut random)?;
            let random = u64::from_ne_bytes(random);
            let name = format!("{TEMP_PREFIX}{}-{random:016x}", std::process::id());
            let file = match rustix::fs::openat(directory, &name, NEW, Mode::from(0o600)) {
                Err(Errno::EXIST) => continue,
                file => File::from(file?),
            };
            let temp = Self { directory, name, file, removed: false };
            temp.give_away()?;
            // A server that starts right now may take the file for a leftover before it is locked.
            // Without support for locks nobody can, so nobody will remove it.
            let lock = FlockOperation::NonBlockingLockExclusive;
            let lost = rustix::fs::flock(&temp.file, lock) == Err(Errno::WOULDBLOCK);
            if !lost && temp.file.metadata()?.nlink() > 0 {
                return Ok(temp);
            }
        }
    }

    /// Gives the file to the owner of the directory if root has made it: commands of root's must not leave keys that a
    /// server of that user can't read.
    fn give_away(&self) -> io::Result<()> {
        let owner = rustix::fs::fstat(self.directory)?;
        if geteuid().is_root() && owner.st_uid != 0 {
            let (uid, gid) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
            // A root without this right, as in many containers, is the user of the server itself.
            let _ = rustix::fs::fchown(&self.file, Some(uid), Some(gid));
        }
        Ok(())
    }

    /// Makes the file the value of `name`, unless there is one.
    pub(crate) fn link(&mut self, name: &KeyName) -> Result<(), Errno> {
        let (directory, flags) = (self.directory, AtFlags::empty());
        let linked = rustix::fs::linkat(directory, &self.name, directory, name.as_str(), flags);
        match linked {
            // A file system without hard links.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => self.rename(name),
            linked => linked,
        }
    }

    /// As [`link`](Self::link), for file systems without hard links.
    pub(crate) fn rename(&mut self, name: &KeyName) -> Result<(), Errno> {
        let (directory, flags) = (self.directory, RenameFlags::NOREPLACE);
        rustix::fs::renameat_with(directory, &self.name, directory, name.as_str(), flags)?;
        self.removed = true;
        Ok(())
    }

    /// Makes the new entry `name` durable, and checks that `value` can be read through it.
    pub(crate) fn finish(&mut self, name: &KeyName, value: &Secret) -> io::Result<()> {
        if let Err(err) = sync_directory(self.directory) {
            self.removed = true; // with two names it is synced before it is used
            return Err(err);
        }
        self.unlink()?;
        let (found, stat) = read(self.directory, name)?;
        let written = rustix::fs::fstat(&self.file)?;
        if found != *value || !is_same(&stat, &written) {
            self.take_back(name);
            return Err(Unfit::Changed.into());
        }
        Ok(())
    }

    /// Frees `name` if it still stands for this file. Only for a file that is no key: a whole one may
    /// be in use by another server already, even if this one has to report a failure.
    pub(crate) fn take_back(&self, name: &KeyName) {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let found = rustix::fs::statat(self.directory, name.as_str(), flags);
        let written = rustix::fs::fstat(&self.file);
        let is_ours =
            matches!((found, written), (Ok(found), Ok(written)) if is_same(&found, &written));
        if is_ours {
            let _ = rustix::fs::unlinkat(self.directory, name.as_str(), AtFlags::empty());
            let _ = sync_directory(self.directory);
        }
    }

    /// Removes the temporary name.
    fn unlink(&mut self) -> io::Result<()> {
        if !self.removed {
            rustix::fs::unlinkat(self.directory, &self.name, AtFlags::empty())?;
            self.removed = true;
        }
        Ok(())
    }

    /// Removes the file; whether it could have had another name.
    pub(crate) fn can_be_linked(mut self) -> io::Result<bool> {
        let (directory, other) = (self.directory, format!("{}-2", self.name));
        let linked = rustix::fs::linkat(directory, &self.name, directory, &other, AtFlags::empty());
        if linked.is_ok() {
            rustix::fs::unlinkat(directory, &other, AtFlags::empty())?;
        }
        self.unlink()?;
        Ok(linked.is_ok())
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        // If this fails, the file goes when the directory is opened next.
        let _ = self.unlink();
    }
}

/// Removes the entry `name` if it is a temporary file that a crash has left. Errors are no reason not to
/// start: a leftover does no harm, and perhaps only its maker has the rights.
pub(crate) fn remove_if_left(directory: &OwnedFd, name: &OsStr) {
    if !name.as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes()) {
        return;
    }
    let Ok(file) = rustix::fs::openat(directory, name, ENTRY, Mode::empty()) else {
        return;
    };
    let is_file = rustix::fs::fstat(&file).is_ok_and(|stat| is_file(&stat));
    let lock = FlockOperation::NonBlockingLockExclusive;
    let is_left = is_file && rustix::fs::flock(&file, lock).is_ok();
    // It may also have the name of a key already, which is not durable yet.
    if is_left && sync_directory(directory).is_ok() {
        let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
    }
}

/// Reads a regular file of at most [`MAX_VALUE`] bytes, and tells which file it was.
pub(crate) fn read(directory: &OwnedFd, name: &KeyName) -> io::Result<(Secret, Stat)> {
    let file = match rustix::fs::openat(directory, name.as_str(), ENTRY, Mode::empty()) {
        Err(Errno::LOOP | Errno::NXIO) => return Err(Unfit::NotAFile.into()),
        file => file?,
    };
    let stat = rustix::fs::fstat(&file)?;
    if !is_file(&stat) {
        return Err(Unfit::NotAFile.into());
    }
    let size = usize::try_from(stat.st_size)
        .ok()
        .filter(|size| *size <= MAX_VALUE)
        .ok_or(Unfit::TooLarge)?;

    // The byte more than there should be tells whether the file grows while it is read.
    let mut value = vec![0; size + 1];
    let mut len = 0;
    loop {
        match retry_on_intr(|| rustix::io::read(&file, &mut value[len..]))? {
            0 => break,
            read => len += read,
        }
    }
    if len > size {
        return Err(io::Error::other("the file grew while it was read"));
    }
    value.truncate(len);
    Ok((Secret::new(value), stat))
}

/// Makes new and removed entries durable.
pub(crate) fn sync_directory(directory: &OwnedFd) -> io::Result<()> {
    match rustix::fs::fsync(directory) {
        // Some file systems have nothing to do for directories and say so. One that was mounted read-only has no
        // error; `ROFS` comes from one that failed, on which the last changes are in memory only.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(err) => return Err(err.into()),
    }
    // XFS that shut down, as it does when it can't write its journal, reports no error here, although
    // nothing is synced any more. It opens nothing either.
    rustix::fs::openat(directory, ".", DIRECTORY, Mode::empty())?;
    Ok(())
}

/// Makes the entries in `directory` durable, and those that lead to it from the root of its file
/// system, even if another process made them.
pub(crate) fn sync_way_to(directory: &OwnedFd) -> io::Result<()> {
    sync_directory(directory)?;
    let mut below = directory.try_clone()?;
    loop {
        let above = match rustix::fs::openat(&below, "..", DIRECTORY, Mode::empty()) {
            // What may be passed but not read can't be synced alone.
            Err(Errno::ACCESS | Errno::PERM) => return Ok(rustix::fs::syncfs(directory)?),
            above => above?,
        };
        let (from, to) = (rustix::fs::fstat(&below)?, rustix::fs::fstat(&above)?);
        if from.st_dev != to.st_dev || is_same(&from, &to) {
            return Ok(()); // the root, of the file system or of all
        }
        sync_directory(&above)?;
        below = above;
    }
}

/// The directories from `directory` to the root of its file system, as far as they can be looked at, each by its
/// device and number.
pub(crate) fn way_to(directory: &OwnedFd) -> Vec<(u64, u64)> {
    let (mut path, mut way) = (".".to_owned(), Vec::new());
    while let Ok(stat) = rustix::fs::statat(directory, &path, AtFlags::empty()) {
        let this = (stat.st_dev, stat.st_ino);
        if way.last().is_some_and(|below: &(u64, u64)| below.0 != this.0 || *below == this) {
            break; // the root, of the file system or of all
        }
        way.push(this);
        path.push_str("/..");
    }
    way
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn is_same(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}
