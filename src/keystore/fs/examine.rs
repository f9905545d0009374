//! What keeps a server from using a directory of keys, and what does not belong into it.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Access, StatVfs, access, statvfs},
    io::Errno,
    process::geteuid,
};

use super::{
    Fs,
    file::{TEMP_PREFIX, Unfit},
};
use crate::{
    base::{checkup::Checkup, deadline::Deadline},
    crypto::stored,
    keystore::store::{KeyName, KeyStore as _},
};

const ABOUT: &str = "key directory";
/// The contents of so many keys are looked at.
const MAX_READ: usize = 1000;
const MIB: u64 = 1 << 20;
/// Less is worth a warning, in MiB.
const LITTLE: u64 = 64;

/// How many entries are so, and one of them.
#[derive(Default)]
struct Few(usize, OsString);

impl Few {
    fn add(&mut self, name: &OsStr) {
        self.0 += 1;
        self.1 = name.to_owned();
    }
}

/// The directory, unless a server can't use it or will only make it. `is_running`: one has it open.
pub(super) fn examine(path: &Path, found: &mut Checkup, is_running: bool) -> Option<Fs> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let may_write =
        |path: &Path| access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK);
    let us = geteuid().as_raw();
    let directory = match fs::metadata(&path) {
        Ok(directory) => directory,
        // An empty one in its place would be a key store without keys.
        Err(e) if e.kind() == io::ErrorKind::NotFound && is_running => {
            let text = format!("{path:?} is not there, but the server runs");
            let advice = "bring it back, or what is mounted there, and make no other one: if the server was started with \
                          this path, it has no keys until then";
            found.fail(ABOUT, &text, advice);
            return None;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let parent = path.ancestors().find(|parent| parent.exists()).unwrap_or(&path);
            match may_write(parent) {
                Ok(()) => {
                    found.ok(ABOUT, &format_args!("{path:?} is not there yet: the server makes it"))
                }
                Err(e) => {
                    let text = format!("{path:?} is not there, and user {us} may not make it: {e}");
                    found.fail(ABOUT, &text, "make it, for the user of the server, with mode 0700");
                }
            }
            return None;
        }
        Err(e) => {
            let text = format!("user {us} can't look at {path:?}: {e}");
            found.fail(ABOUT, &text, "run this as the user of the server, if the path is right");
            return None;
        }
    };
    if !directory.is_dir() {
        found.fail(ABOUT, &Unfit::NotADirectory(path), "set another path, or move that file");
        return None;
    }
    let owner = directory.uid();
    if let Err(e) = may_write(&path) {
        let mode = directory.mode() & 0o7777;
        let (text, advice) = match e {
            Errno::ROFS => {
                (format!("{path:?} is on a file system that is read-only"), "mount it writable")
            }
            _ => (
                format!(
                    "user {us} may not read and write {path:?}, which belongs to user {owner} (mode \
                     {mode:04o}): {e}"
                ),
                match us == owner {
                    true => "'chmod 700' it, and look at the folders above it",
                    false => {
                        "run the server, and this, as its owner, or 'chown' it to the user of the server"
                    }
                },
            ),
        };
        found.fail(ABOUT, &text, advice);
        return None;
    }
    if let (0, 0, Some(user)) = (us, owner, packaged_user("/etc/passwd")) {
        let text = format!("{path:?} belongs to root, but the service runs as user kes");
        found.warn(ABOUT, &text, &format!("run 'chown -R {user} {}'", path.display()));
    }
    let store = Fs::at(path.clone());
    let count = match at_entries(&store, &directory, found) {
        Ok(count) => count,
        Err(e) => {
            found.fail(ABOUT, &format_args!("failed to list {path:?}: {e}"), "");
            return None;
        }
    };
    // Unknown is no reason to refuse it.
    let has_room = statvfs(&path).map_or(true, |room| at_room(&path, owner, count, &room, found));
    has_room.then_some(store)
}

/// The user of the packaged service, if there is one.
pub(super) fn packaged_user(users: &str) -> Option<String> {
    let users = fs::read_to_string(users).ok()?;
    let line = users.lines().find(|line| line.starts_with("kes:"))?;
    line.split(':').nth(2).map(str::to_owned)
}

/// Looks at what is in the directory; returns the number of keys.
fn at_entries(store: &Fs, directory: &Metadata, found: &mut Checkup) -> io::Result<usize> {
    let (mut foreign, mut lost, mut open) = (Few::default(), Few::default(), Few::default());
    let mut count = 0;
    let deadline = Deadline::after(Instant::now(), Duration::ZERO); // not kept
    for entry in fs::read_dir(&store.path)? {
        let entry = entry?;
        let file_name = entry.file_name();
        if file_name.as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes()) {
            continue; // the next start removes it, or its maker
        }
        let name = file_name.to_str().and_then(KeyName::parse);
        // Of links themselves.
        let metadata = entry.metadata().ok().filter(Metadata::is_file);
        let (Some(name), Some(metadata)) = (name, metadata) else {
            foreign.add(&file_name);
            continue;
        };
        if metadata.uid() != directory.uid() && metadata.mode() & 0o044 == 0 {
            lost.add(&file_name);
        } else if count + foreign.0 < MAX_READ {
            let value = store.get(&name, deadline);
            if !value.is_ok_and(|value| stored::decode(value.expose()).is_ok()) {
                foreign.add(&file_name);
                continue;
            }
        }
        count += 1;
        if metadata.mode() & 0o077 != 0 {
            open.add(&file_name);
        }
    }
    let (owner, path) = (directory.uid(), &store.path);
    if let Few(number @ 1.., one) = lost {
        let text = format!(
            "keys that do not belong to user {owner} as {path:?} does, so that a server of that user \
             can't read them: {number}, such as {one:?}"
        );
        found.fail(ABOUT, &text, &format!("run 'chown -R {owner} {}'", path.display()));
    }
    if let Few(number @ 1.., one) = foreign {
        let text = format!("entries of {path:?} that are no keys: {number}, such as {one:?}");
        found.warn(ABOUT, &text, "move them elsewhere: the directory is for keys alone");
    }
    if let Few(number @ 1.., one) = open {
        let text =
            format!("keys in {path:?} that are open to other users: {number}, such as {one:?}");
        found.warn(ABOUT, &text, "run 'chmod 600' on them");
    }
    Ok(count)
}

/// Whether there is room for another key.
pub(super) fn at_room(
    path: &Path,
    owner: u32,
    count: usize,
    room: &StatVfs,
    found: &mut Checkup,
) -> bool {
    let free = room.f_bavail.saturating_mul(room.f_frsize) / MIB;
    // Some file systems have no fixed number.
    let has_files = room.f_files == 0 || room.f_favail > 0;
    let text = format!("{path:?} of user {owner}: {free} MiB of free space, keys: {count}");
    match () {
        () if !has_files || room.f_bavail == 0 => {
            let text = format!("no room is left for another key in {path:?}");
            found.fail(ABOUT, &text, "free some space: 'df -h' and 'df -i' show how much there is");
            return false;
        }
        () if free < LITTLE => found.warn(ABOUT, &text, "free some, or new keys fail soon"),
        () => found.ok(ABOUT, &text),
    }
    true
}
