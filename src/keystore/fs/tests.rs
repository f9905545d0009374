//! Keys in temporary directories.

use std::{
    os::unix::fs::{PermissionsExt, symlink},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::fs::FileType;

use super::{file::TEMP_PREFIX, *};
use crate::keystore::store::tests::contract;

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
    // Root has all rights, but `/proc` takes no files from anyone.
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
