//! Keys as files of one directory: file name = key name, content = stored value.
//!
//! A key appears under its name at once and whole: it is written to a temporary file, which is then
//! linked to the name. The name of a temporary file starts with a backslash, which no key name may
//! contain. Its maker holds a lock (`flock`) on it, so that one without a lock is known to be left
//! over from a crash and goes when the directory is opened next.
//!
//! A key is on the disk, under its name, before it is reported as created or used: it keeps its
//! temporary name until its own is synced, so that a key with two names is synced by its readers.
//! `scripts/it/19-power-loss.sh` checks that against every order in which a disk may write.

use std::{
    fmt,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use rustix::{
    fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat},
    io::Errno,
};

use super::{Error, KeyName, KeyStore, MAX_VALUE};
use crate::base::{deadline::Deadline, secret::Secret};

/// How the names of temporary files start.
const TEMP_PREFIX: &str = "\\tmp-";

/// A directory of keys. Other servers may use the same one at the same time.
///
/// Deadlines are not kept: what the operating system does to local files can't be interrupted.
#[derive(Debug)]
pub struct Fs {
    path: PathBuf,
    /// Whether the way from the root of the file system to the directory is durable.
    is_anchored: AtomicBool,
    /// Whether a file can have two names, and so a key show that it may not be durable yet.
    has_links: bool,
}

/// What is wrong where the operating system sees no error.
#[derive(Debug)]
enum Unfit {
    NotADirectory(PathBuf),
    NotAFile,
    TooLarge,
    Changed,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADirectory(path) => write!(f, "{path:?} is not a directory"),
            Self::NotAFile => f.write_str("not a regular file"),
            Self::TooLarge => write!(f, "larger than {MAX_VALUE} bytes"),
            Self::Changed => f.write_str("the file does not contain what was written"),
        }
    }
}

impl std::error::Error for Unfit {}

impl From<Unfit> for io::Error {
    fn from(unfit: Unfit) -> Self {
        Self::other(unfit)
    }
}

impl Fs {
    /// Opens the directory `path`, which is created with its parents (mode 0700) if missing, and
    /// removes what a crash has left in it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it can't be created, is not a directory, or if files in it can't
    /// be created, listed and removed.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let given = path.as_ref();
        let during = || format!("open key store {given:?}");
        let path = std::path::absolute(given).map_err(Error::during(during()))?;
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(Error::during("open key store")(Unfit::NotADirectory(path))),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&path)
                    .map_err(Error::during(format!("create directory {given:?}")))?;
            }
            Err(err) => return Err(Error::during(during())(err)),
        }

        let mut store = Self::at(path);
        let directory = store.directory().map_err(Error::during(during()))?;
        // A disk that can't sync takes no new keys, but there may be some to read.
        let _ = store.anchor(&directory);
        store.remove_leftovers(&directory).map_err(Error::during(during()))?;
        // Tells at the start, not at the first key, that there are no rights or no space.
        store.has_links = Temp::create(&directory)
            .and_then(|temp| temp.can_be_linked())
            .map_err(Error::during(format!("create a file in {given:?}")))?;
        Ok(store)
    }

    /// Opens the directory `path`, which must be there, to read from it: nothing in it is changed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it is not there or not a directory.
    pub fn open_for_reading(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let during = format!("open key store {path:?}");
        let path = std::path::absolute(path).map_err(Error::during(during.clone()))?;
        let store = Self::at(path);
        store.directory().map_err(Error::during(during))?;
        Ok(store)
    }

    fn at(path: PathBuf) -> Self {
        Self { path, is_anchored: AtomicBool::new(false), has_links: true }
    }

    /// Makes the way to the directory durable, once: if a part of it is lost, so is every key.
    fn anchor(&self, directory: &OwnedFd) -> io::Result<()> {
        if !self.is_anchored.load(Relaxed) {
            sync_way_to(directory)?;
            self.is_anchored.store(true, Relaxed);
        }
        Ok(())
    }

    /// Opens the directory anew for one operation, which then can't be led astray by renames, while
    /// the next one finds what has been mounted since.
    fn directory(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&self.path, flags, Mode::empty())?)
    }

    /// `verb` and the path of a key: what an error says was being done.
    fn during(&self, verb: &str, name: &KeyName) -> String {
        format!("{verb} {:?}", self.path.join(name.as_str()))
    }

    fn remove_leftovers(&self, directory: &OwnedFd) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if !name.as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes()) {
                continue;
            }
            // Whatever goes wrong with one leftover is no reason not to start: it is in nobody's
            // way, and only its maker may have the rights.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(file) = rustix::fs::openat(directory, &name, flags, Mode::empty()) else {
                continue;
            };
            let is_file = rustix::fs::fstat(&file).is_ok_and(|stat| is_file(&stat));
            let lock = FlockOperation::NonBlockingLockExclusive;
            let is_left = is_file && rustix::fs::flock(&file, lock).is_ok();
            // It may have got as far as to another name, that of a key, which is not durable yet.
            if is_left && sync_directory(directory).is_ok() {
                let _ = rustix::fs::unlinkat(directory, &name, AtFlags::empty());
            }
        }
        Ok(())
    }
}

impl KeyStore for Fs {
    fn create(&self, name: &KeyName, value: &Secret, _: Deadline) -> Result<(), Error> {
        let during = |err| Error::during(self.during("create", name))(err);
        if value.len() > MAX_VALUE {
            return Err(during(Unfit::TooLarge.into()));
        }
        let directory = self.directory().map_err(during)?;
        self.anchor(&directory).map_err(during)?;
        let mut temp = Temp::create(&directory).map_err(during)?;
        temp.file.write_all(value.expose()).map_err(during)?;
        temp.file.sync_all().map_err(during)?;

        match temp.link(name) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(Error::Exists),
            Err(err) => return Err(during(err.into())),
        }
        temp.finish(name, value).map_err(during)
    }

    fn get(&self, name: &KeyName, _: Deadline) -> Result<Secret, Error> {
        let during = |err: io::Error| match err.kind() {
            io::ErrorKind::NotFound => Error::NotFound,
            _ => Error::during(self.during("read", name))(err),
        };
        // A directory that is gone must not look like a key that is not there.
        let directory = self.directory().map_err(Error::during(self.during("read", name)))?;
        let (value, stat) = read(&directory, name).map_err(during)?;
        // If its maker has not synced it, or could not, a power failure would take the key away from
        // what is sealed with it now.
        if stat.st_nlink > 1 || !self.has_links {
            sync_directory(&directory).map_err(during)?;
        }
        Ok(value)
    }

    fn delete(&self, name: &KeyName, _: Deadline) -> Result<(), Error> {
        let during = |err| Error::during(self.during("delete", name))(err);
        let directory = self.directory().map_err(during)?;
        match rustix::fs::unlinkat(&directory, name.as_str(), AtFlags::empty()) {
            // A delete that found the key may have crashed before it was durable.
            Ok(()) | Err(Errno::NOENT) => sync_directory(&directory).map_err(during),
            Err(err) => Err(during(err.into())),
        }
    }

    fn list(&self, _: Deadline) -> Result<Vec<String>, Error> {
        let during = |err| Error::during(format!("list {:?}", self.path))(err);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(during)? {
            let entry = entry.map_err(during)?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if KeyName::parse(&name).is_none() {
                continue;
            }
            match entry.file_type() {
                Ok(file_type) if file_type.is_file() => names.push(name),
                Ok(_) => {}
                // Deleted since the directory was read.
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Err(during(err)),
            }
        }
        Ok(names)
    }

    fn status(&self, _: Deadline) -> Result<(), Error> {
        self.directory().map(drop).map_err(Error::during(format!("open {:?}", self.path)))
    }

    fn describe(&self) -> String {
        format!("Filesystem: {}", self.path.display())
    }
}

/// A temporary file, locked while it exists. Its name goes when it is dropped.
struct Temp<'a> {
    directory: &'a OwnedFd,
    name: String,
    file: File,
    /// Whether the directory has no entry under `name` any more, or is to keep it.
    removed: bool,
}

impl<'a> Temp<'a> {
    fn create(directory: &'a OwnedFd) -> io::Result<Self> {
        loop {
            let mut random = [0; 8];
            getrandom::fill(&mut random)?;
            let random = u64::from_ne_bytes(random);
            let name = format!("{TEMP_PREFIX}{}-{random:016x}", std::process::id());
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let file = match rustix::fs::openat(directory, &name, flags, mode) {
                Err(Errno::EXIST) => continue,
                file => File::from(file?),
            };
            let temp = Self { directory, name, file, removed: false };
            // A server that starts right now may take the file for a leftover before it is locked.
            // Without support for locks nobody can, so nobody will remove it.
            let lock = FlockOperation::NonBlockingLockExclusive;
            let lost = rustix::fs::flock(&temp.file, lock) == Err(Errno::WOULDBLOCK);
            if !lost && temp.file.metadata()?.nlink() > 0 {
                return Ok(temp);
            }
        }
    }

    /// Makes the file the value of `name`, unless there is one.
    fn link(&mut self, name: &KeyName) -> Result<(), Errno> {
        let (directory, flags) = (self.directory, AtFlags::empty());
        let linked = rustix::fs::linkat(directory, &self.name, directory, name.as_str(), flags);
        match linked {
            // A file system without hard links.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => self.rename(name),
            linked => linked,
        }
    }

    /// As [`link`](Self::link), for file systems without hard links.
    fn rename(&mut self, name: &KeyName) -> Result<(), Errno> {
        let (directory, flags) = (self.directory, RenameFlags::NOREPLACE);
        rustix::fs::renameat_with(directory, &self.name, directory, name.as_str(), flags)?;
        self.removed = true;
        Ok(())
    }

    /// Makes the new entry `name` durable, and checks that `value` can be read through it.
    fn finish(&mut self, name: &KeyName, value: &Secret) -> io::Result<()> {
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
    fn take_back(&self, name: &KeyName) {
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
    fn can_be_linked(mut self) -> io::Result<bool> {
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

/// Reads a regular file of at most [`MAX_VALUE`] bytes, and tells which file it was.
fn read(directory: &OwnedFd, name: &KeyName) -> io::Result<(Secret, Stat)> {
    // Opening must neither leave the directory (symbolic links) nor wait (named pipes).
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(directory, name.as_str(), flags, Mode::empty()) {
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
    let mut file = File::from(file);
    let mut len = 0;
    while len < value.len() {
        match file.read(&mut value[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
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
        // Some network file systems have nothing to do for directories and say so; one that has
        // become read-only has nothing left to do.
        Ok(()) | Err(Errno::INVAL | Errno::ROFS) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

/// Makes the entries in `directory` durable, and those that lead to it from the root of its file
/// system, no matter who made them and when.
fn sync_way_to(directory: &OwnedFd) -> io::Result<()> {
    sync_directory(directory)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut below = directory.try_clone()?;
    loop {
        let above = match rustix::fs::openat(&below, "..", flags, Mode::empty()) {
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

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn is_same(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::{PermissionsExt, symlink},
        sync::atomic::{AtomicU32, Ordering},
        time::{Duration, Instant},
    };

    use super::{super::tests::contract, *};

    /// A directory that goes with the test.
    struct TempDir(PathBuf);

    impl TempDir {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("kes-fs-{}-{count}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            std::fs::read_dir(&self.0)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn soon() -> Deadline {
        Deadline::after(Instant::now(), Duration::from_secs(60))
    }

    fn name(name: &str) -> KeyName {
        KeyName::parse(name).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_contract_of_a_key_store_holds() {
        let dir = TempDir::new();
        contract(&Fs::open(&dir.0).unwrap());
        assert_eq!(3, dir.names().len(), "no temporary file is left");
    }

    #[test]
    fn a_missing_directory_is_created_for_the_owner_only() {
        let dir = TempDir::new();
        let path = dir.0.join("a/b");
        let store = Fs::open(&path).unwrap();
        assert_eq!(0o700, mode(&path));
        assert_eq!(format!("Filesystem: {}", path.display()), store.describe());
        store.create(&name("key"), &Secret::new(vec![1]), soon()).unwrap();
        assert_eq!(0o600, mode(&path.join("key")));
        assert_eq!(vec![1], std::fs::read(path.join("key")).unwrap());
    }

    #[test]
    fn a_file_is_no_key_store() {
        let dir = TempDir::new();
        let path = dir.0.join("file");
        std::fs::write(&path, "").unwrap();
        let err = Fs::open(&path).unwrap_err().to_string();
        assert!(err.ends_with(&format!("{path:?} is not a directory")), "{err}");
    }

    #[test]
    fn a_directory_without_rights_is_refused() {
        // Whoever may do anything has the rights; then `/proc` is a directory that takes no files.
        let err = Fs::open("/proc").unwrap_err().to_string();
        assert!(err.starts_with("failed to create a file in \"/proc\": "), "{err}");
    }

    #[test]
    fn leftovers_of_a_crash_go_but_files_in_the_making_stay() {
        let dir = TempDir::new();
        let store = Fs::open(&dir.0).unwrap();
        std::fs::write(dir.0.join(format!("{TEMP_PREFIX}1-0123")), "half").unwrap();
        std::fs::create_dir(dir.0.join(format!("{TEMP_PREFIX}directory"))).unwrap();
        std::fs::write(dir.0.join("other"), "value").unwrap();
        let directory = store.directory().unwrap();
        let live = Temp::create(&directory).unwrap();

        assert_eq!(vec!["other"], store.list(soon()).unwrap());
        Fs::open(&dir.0).unwrap();
        let mut expected = vec!["\\tmp-directory", &live.name, "other"];
        expected.sort_unstable();
        let mut names = dir.names();
        names.sort_unstable();
        assert_eq!(expected, names);

        drop(live);
        assert_eq!(2, dir.names().len());
    }

    #[test]
    fn creating_keys_while_other_servers_start_loses_none() {
        let dir = TempDir::new();
        let store = Fs::open(&dir.0).unwrap();
        std::thread::scope(|scope| {
            let store = &store;
            let starter = scope.spawn(|| {
                for _ in 0..100 {
                    Fs::open(&dir.0).unwrap();
                }
            });
            scope.spawn(move || {
                for count in 0.. {
                    let value = Secret::new(vec![7; 56]);
                    let key = name(&format!("key-{count}"));
                    store.create(&key, &value, soon()).unwrap();
                    if starter.is_finished() {
                        break;
                    }
                }
            });
        });
    }

    #[test]
    fn only_regular_files_are_keys() {
        let dir = TempDir::new();
        let store = Fs::open(&dir.0).unwrap();
        std::fs::write(dir.0.join("file"), "value").unwrap();
        std::fs::create_dir(dir.0.join("directory")).unwrap();
        symlink(dir.0.join("file"), dir.0.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.0.join("socket")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, dir.0.join("pipe"), FileType::Fifo, Mode::RUSR, 0)
            .unwrap();

        assert_eq!(vec!["file"], store.list(soon()).unwrap());
        for other in ["directory", "link", "socket", "pipe"] {
            let err = store.get(&name(other), soon()).unwrap_err().to_string();
            let path = dir.0.join(other);
            assert_eq!(format!("failed to read {path:?}: not a regular file"), err);
            let taken = store.create(&name(other), &Secret::new(vec![1]), soon());
            assert!(matches!(taken, Err(Error::Exists)), "{other}");
        }
        assert!(store.delete(&name("directory"), soon()).is_err());
    }

    #[test]
    fn a_value_of_more_than_a_mebibyte_is_neither_read_nor_written() {
        let dir = TempDir::new();
        let store = Fs::open(&dir.0).unwrap();
        let largest = Secret::new(vec![5; MAX_VALUE]);
        store.create(&name("largest"), &largest, soon()).unwrap();
        assert_eq!(largest, store.get(&name("largest"), soon()).unwrap());

        let larger = Secret::new(vec![5; MAX_VALUE + 1]);
        assert!(store.create(&name("larger"), &larger, soon()).is_err());
        std::fs::write(dir.0.join("larger"), larger.expose()).unwrap();
        let err = store.get(&name("larger"), soon()).unwrap_err().to_string();
        assert!(err.ends_with("larger\": larger than 1048576 bytes"), "{err}");
    }

    #[test]
    fn a_file_system_without_hard_links_gets_a_rename_that_never_replaces() {
        let dir = TempDir::new();
        let store = Fs::open(&dir.0).unwrap();
        let directory = store.directory().unwrap();
        let value = Secret::new(vec![1; 56]);
        let renamed = |value: &Secret| {
            let mut temp = Temp::create(&directory).unwrap();
            temp.file.write_all(value.expose()).unwrap();
            temp.rename(&name("key"))?;
            temp.finish(&name("key"), value).unwrap();
            Ok(())
        };
        assert_eq!(Ok(()), renamed(&value));
        assert_eq!(Err(Errno::EXIST), renamed(&Secret::new(vec![2; 56])));
        assert_eq!(value, store.get(&name("key"), soon()).unwrap());
        assert_eq!(vec!["key"], dir.names());
    }

    #[test]
    fn only_the_own_file_is_taken_back_after_a_failure() {
        let dir = TempDir::new();
        let store = Fs::open(&dir.0).unwrap();
        let directory = store.directory().unwrap();
        let mut temp = Temp::create(&directory).unwrap();
        temp.link(&name("key")).unwrap();
        std::fs::write(dir.0.join("other"), "value").unwrap();
        temp.take_back(&name("other"));
        temp.take_back(&name("key"));
        drop(temp);
        assert_eq!(vec!["other"], dir.names());
    }

    #[test]
    fn a_directory_that_is_gone_is_not_a_key_that_is_not_there() {
        let dir = TempDir::new();
        let store = Fs::open(&dir.0).unwrap();
        std::fs::remove_dir(&dir.0).unwrap();
        assert!(store.status(soon()).is_err());
        assert!(matches!(store.get(&name("key"), soon()), Err(Error::Unavailable { .. })));
        assert!(store.delete(&name("key"), soon()).is_err());
        assert!(store.list(soon()).is_err());
    }
}
