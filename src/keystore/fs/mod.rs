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

mod examine;
mod file;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Write as _},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
};

use rustix::{
    fs::{AtFlags, Mode, Stat, fstat, statat},
    io::Errno,
};

use super::store::{Error, KeyName, KeyStore, MAX_VALUE, Notices, Settings, Start};
use crate::base::{checkup::Checkup, deadline::Deadline, secret::Secret, sync::Mutex};
pub(crate) use file::sync_way_to;
use file::{DIRECTORY, Temp, read, remove_if_left, sync_directory, way_to};
pub(crate) use file::{Unfit, is_unfit};

/// A directory of keys. Other servers may use the same one at the same time.
///
/// Deadlines are not kept: what the operating system does to local files can't be interrupted.
#[derive(Debug)]
pub struct Fs {
    path: PathBuf,
    /// The directories on the way to the root of the file system that were made durable last.
    anchored: Mutex<Vec<(u64, u64)>>,
    /// Whether a file can have two names, and so a key show that it may not be durable yet.
    has_links: bool,
    /// The file system that the directory was on when it was opened.
    device: Option<u64>,
    notices: Notices,
}

impl Fs {
    /// Opens the directory `path`, which is created with its parents (mode 0700) if missing, and
    /// removes what a crash has left in it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it can't be created, is not a directory, or if files in it can't
    /// be listed and removed, or be created: with [`Start::Optional`] there may still be keys to read.
    pub fn open(path: impl AsRef<Path>, start: Start) -> Result<Self, Error> {
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
        // Assume none until it was tried: then reads sync.
        store.has_links = false;
        store.device = fstat(&directory).map(|stat| stat.st_dev).ok();
        // A disk that can't sync takes no new keys, but there may be some to read.
        let anchored = store.anchor(&directory);
        store.remove_leftovers(&directory).map_err(Error::during(during()))?;
        // Tells at the start, not at the first key, that there are no rights or no space.
        let links = Temp::create(&directory).and_then(|temp| temp.can_be_linked());
        match links.map_err(Error::during(format!("create a file in {given:?}"))) {
            Ok(has_links) => store.has_links = has_links,
            Err(e) if start == Start::Required => return Err(e),
            Err(e) => {
                // A disk that failed since it was mounted syncs nothing any more. Those that say so in this way have
                // hard links, so keys show that they are durable.
                let is_failed = |e| Errno::from_io_error(e) == Some(Errno::ROFS);
                store.has_links = anchored.as_ref().is_err_and(is_failed);
                store.notices.add(format!("keys can be read, but none created: {e}"));
            }
        }
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
        Self {
            path,
            anchored: Mutex::default(),
            has_links: true,
            device: None,
            notices: Notices::default(),
        }
    }

    /// Makes the way to the directory durable, unless it is: if a part of it is lost, so is every key. While the
    /// server runs, the directory may be moved, and another one be made in its place.
    fn anchor(&self, directory: &OwnedFd) -> io::Result<()> {
        let way = way_to(directory);
        let anchored = || self.anchored.lock().unwrap_or_else(PoisonError::into_inner);
        let is_anchored = *anchored() == way;
        if !is_anchored {
            sync_way_to(directory)?;
            *anchored() = way;
        }
        Ok(())
    }

    /// Opens the directory anew for one operation, which then can't be led astray by renames, while
    /// the next one finds what has been mounted since.
    fn directory(&self) -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(&self.path, DIRECTORY, Mode::empty())?)
    }

    /// If another file system is mounted there now, or none any more, a new key would be hidden when that changes again,
    /// and a deleted one come back.
    fn check_device(&self, directory: &OwnedFd) -> io::Result<()> {
        let device = fstat(directory)?.st_dev;
        match self.device {
            Some(known) if known != device => Err(Unfit::Moved.into()),
            _ => Ok(()),
        }
    }

    /// `verb` and the path of a key: what an error says was being done.
    fn during(&self, verb: &str, name: &KeyName) -> String {
        format!("{verb} {:?}", self.path.join(name.as_str()))
    }

    /// Whether a power failure may take away the key in this file: its maker has not synced it yet, or could
    /// not.
    fn may_vanish(&self, stat: &Stat) -> bool {
        stat.st_nlink > 1 || !self.has_links
    }

    fn remove_leftovers(&self, directory: &OwnedFd) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            remove_if_left(directory, &entry?.file_name());
        }
        Ok(())
    }
}

/// The directory is all there is to set.
impl Settings for PathBuf {
    fn open(&self, start: Start) -> Result<Arc<dyn KeyStore>, Error> {
        Ok(Arc::new(Fs::open(self, start)?))
    }

    fn open_for_reading(&self) -> Result<Arc<dyn KeyStore>, Error> {
        Ok(Arc::new(Fs::open_for_reading(self)?))
    }

    fn opening(&self) -> Option<String> {
        (!self.exists()).then(|| format!("Creating directory '{}'", self.display()))
    }

    fn place(&self) -> Option<String> {
        let real = std::fs::canonicalize(self).unwrap_or_else(|_| self.clone());
        Some(format!("directory {real:?}"))
    }

    fn is_remote(&self) -> bool {
        false
    }

    fn examine(&self, found: &mut Checkup, is_running: bool) -> Option<Arc<dyn KeyStore>> {
        let store = examine::examine(self, found, is_running)?;
        Some(Arc::new(store))
    }
}

impl KeyStore for Fs {
    fn create(&self, name: &KeyName, value: &Secret, _: Deadline) -> Result<(), Error> {
        let during = |err| Error::during(self.during("create", name))(err);
        if value.len() > MAX_VALUE {
            return Err(during(Unfit::TooLarge.into()));
        }
        let directory = self.directory().map_err(during)?;
        // Where no file can be made, the answer about a name that is taken is the same.
        if let Ok(taken) = statat(&directory, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            if self.may_vanish(&taken) {
                sync_directory(&directory).map_err(during)?;
            }
            return Err(Error::Exists);
        }
        self.check_device(&directory).map_err(during)?;
        self.anchor(&directory).map_err(during)?;
        let mut temp = Temp::create(&directory).map_err(during)?;
        temp.file.write_all(value.expose()).map_err(during)?;
        temp.file.sync_all().map_err(during)?;

        match temp.link(name) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                // Its create may be in progress, or have crashed before the key was durable.
                sync_directory(&directory).map_err(during)?;
                return Err(Error::Exists);
            }
            Err(err) => return Err(during(err.into())),
        }
        temp.finish(name, value).map_err(during)
    }

    fn get(&self, name: &KeyName, _: Deadline) -> Result<Secret, Error> {
        let during = |err| Error::during(self.during("read", name))(err);
        // A directory that is gone, or another one in its place, must not look like a key that is not there.
        let directory = self.directory().map_err(during)?;
        let (value, stat) = match read(&directory, name) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                self.check_device(&directory).map_err(during)?;
                return Err(Error::NotFound);
            }
            read => read.map_err(during)?,
        };
        if self.may_vanish(&stat) {
            // What is sealed with it now must not outlive it.
            sync_directory(&directory).map_err(during)?;
        }
        Ok(value)
    }

    fn delete(&self, name: &KeyName, _: Deadline) -> Result<(), Error> {
        let during = |err| Error::during(self.during("delete", name))(err);
        let directory = self.directory().map_err(during)?;
        self.check_device(&directory).map_err(during)?;
        let result = match rustix::fs::unlinkat(&directory, name.as_str(), AtFlags::empty()) {
            Ok(()) => Ok(()),
            // A delete that found the key may have crashed before it was durable.
            Err(Errno::NOENT) => Err(Error::NotFound),
            Err(err) => return Err(during(err.into())),
        };
        sync_directory(&directory).map_err(during)?;
        result
    }

    fn list(&self, _: Deadline) -> Result<Vec<String>, Error> {
        let during = |err| Error::during(format!("list {:?}", self.path))(err);
        let mut names = Vec::new();
        self.directory().and_then(|directory| self.check_device(&directory)).map_err(during)?;
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
        let directory = self.directory();
        directory
            .and_then(|directory| self.check_device(&directory))
            .map_err(Error::during(format!("open {:?}", self.path)))
    }

    fn describe(&self) -> String {
        format!("Filesystem: {}", self.path.display())
    }

    fn notices(&self) -> Vec<String> {
        self.notices.take()
    }
}
