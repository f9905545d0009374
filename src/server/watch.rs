//! The files that the settings come from: what they looked like and contained when they were read, and
//! whether they are still the same.
//!
//! Metadata shows that a file has changed, or is still being written; the contents show whether there is
//! anything new in it: Kubernetes replaces all files of a folder when one of them changes.

use std::{
    fs::{self, Metadata},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::options::{Error, Options};
use crate::config::{Config, Loaded};

/// More than this of a file is not looked at, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// The files of settings when these were read.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    pub files: Files,
    pub contents: Contents,
}

/// Reads the settings. The snapshot is older than what is read of the files, so that a later change to them
/// is noticed.
///
/// # Errors
/// [`Error::Config`]
pub fn load(options: &Options) -> Result<(Loaded, Snapshot), Error> {
    let path = options.config.as_deref();
    let (before, file) = (path.and_then(look), path.and_then(digest));
    let loaded = options.load()?;
    let config = loaded.config();
    let mut files = Files::of(options, config);
    files.settings[0] = before;
    let contents = Contents { file, authorities: config.tls_ca.as_deref().and_then(digest) };
    Ok((loaded, Snapshot { files, contents }))
}

/// Refuses pipes and devices: a running server would wait for their writers for ever, and take up nothing
/// afterwards.
///
/// # Errors
/// [`Error::Pipe`]
pub fn check<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), Error> {
    let is_file = |path: &PathBuf| {
        fs::metadata(path).map_or(true, |metadata| metadata.is_file() || metadata.is_dir())
    };
    match paths.into_iter().find(|path| !is_file(path)) {
        Some(path) => Err(Error::Pipe(path.clone())),
        None => Ok(()),
    }
}

/// Metadata that shows changes of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate and its key.
    pub pair: [Look; 2],
    /// The configuration file, and the authorities of clients.
    pub settings: [Look; 2],
}

type Look = Option<[i64; 7]>;

impl Files {
    /// The files of `config` as they are now.
    pub fn of(options: &Options, config: &Config) -> Self {
        let Config { tls_cert, tls_key, tls_ca, .. } = config;
        Self {
            pair: [look(tls_cert), look(tls_key)],
            settings: [&options.config, tls_ca].map(|path| path.as_deref().and_then(look)),
        }
    }
}

/// The metadata of a file; of a directory, with the sums of those of its files, as it does not change itself when one
/// of them is written.
fn look(path: &Path) -> Look {
    let file = fs::metadata(path).ok()?;
    let mut all = facts(&file);
    if file.is_dir() {
        for file in fs::read_dir(path).ok()?.flatten().flat_map(|entry| fs::metadata(entry.path()))
        {
            for (sum, fact) in all.iter_mut().zip(facts(&file)) {
                *sum = sum.wrapping_add(fact);
            }
        }
    }
    Some(all)
}

fn facts(file: &Metadata) -> [i64; 7] {
    [
        file.dev() as i64,
        file.ino() as i64,
        file.size() as i64,
        file.mtime(),
        file.mtime_nsec(),
        file.ctime(),
        file.ctime_nsec(),
    ]
}

/// What is in the configuration file, and in that or those of the authorities of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    file: Option<[u8; 32]>,
    authorities: Option<[u8; 32]>,
}

impl Contents {
    /// The contents of the files of `config` as they are now.
    pub fn of(options: &Options, config: &Config) -> Self {
        let [file, authorities] =
            [&options.config, &config.tls_ca].map(|path| path.as_deref().and_then(digest));
        Self { file, authorities }
    }
}

/// The SHA-256 of a file, or of the files of a directory.
fn digest(path: &Path) -> Option<[u8; 32]> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).ok()?;
        files = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort_by_cached_key(|file| file.to_string_lossy().into_owned());
    }
    // A pipe can be read once only.
    files.retain(|file: &PathBuf| file.is_file());
    let (mut sha256, mut part) = (Sha256::new(), [0; 8192]);
    for file in &files {
        let mut file = fs::File::open(file).ok()?.take(MAX_FILE);
        loop {
            match file.read(&mut part).ok()? {
                0 => break,
                size => sha256.update(&part[..size]),
            }
        }
    }
    (!files.is_empty()).then(|| sha256.finalize().into())
}

/// Whether the settings are read again when the contents of their files change.
pub fn is_on(options: &Options, config: &Config) -> bool {
    let path = options.config.as_deref();
    path.is_some_and(|path| config.watch.unwrap_or_else(|| is_mounted(path)))
}

/// Whether `path` is in a folder that Kubernetes mounts: there, `..data` leads to a folder with the files
/// of the moment, and is turned to the next one at once.
fn is_mounted(path: &Path) -> bool {
    let is_current = |folder: &Path| {
        let link = folder.parent().map(|above| above.join("..data"));
        let target = link.and_then(|link| fs::read_link(link).ok());
        target.is_some_and(|target| target.file_name() == folder.file_name())
    };
    fs::canonicalize(path).is_ok_and(|file| file.ancestors().any(is_current))
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, thread};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_file_that_is_replaced_while_it_is_read_is_not_taken_for_the_one_that_was_read() {
        let folder = std::env::temp_dir().join(format!("kes-replaced-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (path, new) = (folder.join("config.yaml"), folder.join("new.yaml"));
        // A reader of a pipe waits for the writer.
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let pipe = path.clone();
        let writer = thread::spawn(move || {
            let mut opened = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
            fs::write(&new, "version: v1\n").unwrap();
            fs::rename(&new, &pipe).unwrap();
            let identity = "0".repeat(64);
            let text = format!(
                "version: v1\nadmin:\n  identity: {identity}\ntls:\n  key: a\n  cert: b\nkeystore:\n  fs:\n    path: c\n"
            );
            opened.write_all(text.as_bytes()).unwrap();
        });
        let options = Options { config: Some(path), ..Options::default() };
        let (loaded, read) = load(&options).unwrap();
        writer.join().unwrap();
        assert_ne!(read.files, Files::of(&options, loaded.config()));
        fs::remove_dir_all(folder).unwrap();
    }
}
