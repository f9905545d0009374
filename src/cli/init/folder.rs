//! Folders that are made and can be taken back, and the user of a server that systemd runs.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, open};

/// User and group of the server.
#[derive(Clone, Copy)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// The user `name` with the group of the same name, if both are in the files of this machine.
    pub(crate) fn find(name: &str) -> Option<Self> {
        let number = |file: &str| {
            let text = fs::read_to_string(file).ok()?;
            let mut lines = text.lines().map(|line| line.split(':'));
            let mut found =
                lines.find_map(|mut line| (line.next() == Some(name)).then_some(line))?;
            found.nth(1)?.parse().ok()
        };
        Some(Self { uid: number("/etc/passwd")?, gid: number("/etc/group")? })
    }
}

/// Folders that did not exist, in the order in which they were made.
#[derive(Default)]
pub(crate) struct Made(Vec<PathBuf>);

impl Made {
    /// Makes `path`, with this mode and of these owners, and what leads to it, as the umask says; nothing if it
    /// is there.
    ///
    /// # Errors
    /// What can't be made, and why.
    pub(crate) fn make(
        &mut self,
        path: &Path,
        mode: u32,
        (uid, gid): (Option<u32>, Option<u32>),
    ) -> Result<(), String> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
            self.make(above, 0o755, (None, None))?;
        }
        if path.exists() {
            return Err(format!("{path:?} is no folder"));
        }
        let failed = |e| format!("failed to make the folder {path:?}: {e}");
        DirBuilder::new().mode(mode).create(path).map_err(failed)?;
        self.0.push(path.to_owned());
        if uid.is_some() || gid.is_some() {
            own(path, mode, (uid, gid)).map_err(failed)?;
        }
        Ok(())
    }

    /// Removes them, but those that others have put something into.
    pub(crate) fn take_back(&self) {
        for path in self.0.iter().rev() {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Gives `path` to these owners; never what a link leads to, as the folder above may belong to a user who puts
/// one there.
fn own(path: &Path, mode: u32, (uid, gid): (Option<u32>, Option<u32>)) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = open(path, flags, Mode::empty())?;
    fchown(&folder, uid.map(Uid::from_raw), gid.map(Gid::from_raw))?;
    Ok(fchmod(&folder, Mode::from_raw_mode(mode))?)
}

/// Removes from `folder` what a run that was interrupted has left beside `names`: files that no other process
/// is about to put in their places.
pub(crate) fn remove_leftovers(folder: &Path, names: &[&str]) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let process = file.to_str().and_then(|file| {
            let rest = names.iter().find_map(|name| file.strip_prefix(name))?;
            rest.strip_prefix('.')?.strip_suffix(".new")?.split('-').next()?.parse::<u32>().ok()
        });
        let is_running = |process: u32| Path::new("/proc").join(process.to_string()).exists();
        if process.is_some_and(|process| process == std::process::id() || !is_running(process)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn what_a_link_leads_to_keeps_its_owner_and_its_mode() {
        let above = std::env::temp_dir().join(format!("kes-link-{}", std::process::id()));
        let (target, link) = (above.join("target"), above.join("link"));
        fs::create_dir_all(&target).unwrap();
        symlink(&target, &link).unwrap();
        let metadata = fs::metadata(&target).unwrap();
        assert!(own(&link, 0o700 ^ metadata.mode() & 0o777, (Some(metadata.uid()), None)).is_err());
        assert_eq!(metadata.mode(), fs::metadata(&target).unwrap().mode());
        own(&target, 0o700, (Some(metadata.uid()), None)).unwrap();
        fs::remove_dir_all(above).unwrap();
    }
}
