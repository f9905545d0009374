//! Keys in temporary directories.

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt, chown, symlink},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::fs::{FileType, OFlags, StatVfs, statvfs};

use super::{
    examine::{at_room, packaged_user},
    file::TEMP_PREFIX,
    *,
};
use crate::{
    base::checkup::Outcome,
    crypto::{MasterKey, stored},
    keystore::store::tests::contract,
};

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

    fn write(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) {
        std::fs::write(self.0.join(name), content).unwrap();
        self.permit(name, mode);
    }

    fn permit(&self, name: &str, mode: u32) {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.0.join(name), mode).unwrap();
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

fn open(path: impl AsRef<Path>) -> Result<Fs, Error> {
    Fs::open(path, Start::Required)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_contract_of_a_key_store_holds() {
    let dir = TempDir::new();
    contract(&open(&dir.0).unwrap());
    assert_eq!(3, dir.names().len(), "no temporary file is left");
}

#[test]
fn a_missing_directory_is_created_for_the_owner_only() {
    let dir = TempDir::new();
    let path = dir.0.join("a/b");
    let store = open(&path).unwrap();
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
    let err = open(&path).unwrap_err().to_string();
    assert!(err.ends_with(&format!("{path:?} is not a directory")), "{err}");
    let below = path.join("keys");
    let err = open(&below).unwrap_err().to_string();
    assert!(err.starts_with(&format!("failed to open key store {below:?}: ")), "{err}");
}

#[test]
fn a_directory_without_rights_is_refused() {
    // Root has all rights, but `/proc` takes no files from anyone.
    let err = open("/proc").unwrap_err().to_string();
    assert!(err.starts_with("failed to create a file in \"/proc\": "), "{err}");
    // With `required: off` there may be keys to read: a disk that failed is read-only.
    let store = Fs::open("/proc", Start::Optional).unwrap();
    assert_eq!(vec![format!("keys can be read, but none created: {err}")], store.notices());
    let create = |key| store.create(&name(key), &Secret::new(vec![1]), soon());
    assert!(matches!(create("version"), Err(Error::Exists)));
    assert!(matches!(create("key"), Err(Error::Unavailable { .. })));
}

#[test]
fn keys_in_a_directory_that_is_on_another_file_system_are_not_changed() {
    let dir = TempDir::new();
    let mut store = open(&dir.0).unwrap();
    let key = Secret::new(vec![1]);
    store.create(&name("before"), &key, soon()).unwrap();
    // Something is mounted there, or not any more.
    store.device = store.device.map(|device| device + 1);
    let err = store.create(&name("after"), &key, soon()).unwrap_err().to_string();
    assert!(err.contains("on another file system than at the start"), "{err}");
    assert_eq!(key, store.get(&name("before"), soon()).unwrap());
    // A key that is not there may be on the other one.
    assert!(matches!(store.get(&name("other"), soon()), Err(Error::Unavailable { .. })));
    assert!(store.list(soon()).is_err() && store.status(soon()).is_err());
    assert!(store.delete(&name("before"), soon()).is_err());
    assert!(matches!(store.create(&name("before"), &key, soon()), Err(Error::Exists)));
    // It is back.
    store.device = store.device.map(|device| device - 1);
    assert_eq!(vec!["before"], store.list(soon()).unwrap());
    store.delete(&name("before"), soon()).unwrap();
}

#[test]
fn leftovers_of_a_crash_go_but_files_in_the_making_stay() {
    let dir = TempDir::new();
    let store = open(&dir.0).unwrap();
    std::fs::write(dir.0.join(format!("{TEMP_PREFIX}1-0123")), "half").unwrap();
    std::fs::create_dir(dir.0.join(format!("{TEMP_PREFIX}directory"))).unwrap();
    std::fs::write(dir.0.join("other"), "value").unwrap();
    let directory = store.directory().unwrap();
    let live = Temp::create(&directory).unwrap();

    assert_eq!(vec!["other"], store.list(soon()).unwrap());
    open(&dir.0).unwrap();
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
    let store = open(&dir.0).unwrap();
    std::thread::scope(|scope| {
        let store = &store;
        let starter = scope.spawn(|| {
            for _ in 0..100 {
                open(&dir.0).unwrap();
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
    let store = open(&dir.0).unwrap();
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
    let store = open(&dir.0).unwrap();
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
    let store = open(&dir.0).unwrap();
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
    let store = open(&dir.0).unwrap();
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
    let store = open(&dir.0).unwrap();
    std::fs::remove_dir(&dir.0).unwrap();
    assert!(store.status(soon()).is_err());
    assert!(matches!(store.get(&name("key"), soon()), Err(Error::Unavailable { .. })));
    assert!(store.delete(&name("key"), soon()).is_err());
    assert!(store.list(soon()).is_err());
}

#[test]
fn two_paths_of_one_directory_are_one_place_which_is_not_remote() {
    let dir = TempDir::new();
    symlink(&dir.0, dir.0.join("again")).unwrap();
    let place = dir.0.place().unwrap();
    assert_eq!(format!("directory {:?}", dir.0.canonicalize().unwrap()), place);
    assert_eq!(Some(place), dir.0.join("again").place());
    let missing = dir.0.join("missing");
    assert_eq!(Some(format!("directory {missing:?}")), missing.place());
    assert!(!dir.0.is_remote());
}

#[test]
fn only_a_directory_that_is_made_is_announced() {
    let dir = TempDir::new();
    assert_eq!(None, dir.0.opening());
    let missing = dir.0.join("missing");
    let text = format!("Creating directory '{}'", missing.display());
    assert_eq!(Some(text), missing.opening());
}

#[test]
fn a_key_that_a_power_failure_may_take_away_is_known() {
    let dir = TempDir::new();
    let mut store = open(&dir.0).unwrap();
    store.create(&name("key"), &Secret::new(vec![1]), soon()).unwrap();
    let directory = store.directory().unwrap();
    let stat = || read(&directory, &name("key")).unwrap().1;
    assert!(!store.may_vanish(&stat()));
    let temporary = dir.0.join(format!("{TEMP_PREFIX}1"));
    std::fs::hard_link(dir.0.join("key"), &temporary).unwrap();
    assert!(store.may_vanish(&stat()), "its maker is not done");
    std::fs::remove_file(temporary).unwrap();
    store.has_links = false;
    assert!(store.may_vanish(&stat()), "nothing shows whether its maker is done");
}

#[test]
fn whether_a_file_can_have_two_names_is_tried() {
    let dir = TempDir::new();
    let directory = open(&dir.0).unwrap().directory().unwrap();
    let temp = Temp::create(&directory).unwrap();
    assert_eq!(
        std::fs::hard_link(dir.0.join(&temp.name), dir.0.join("other")).is_ok(),
        temp.can_be_linked().unwrap()
    );
    let temp = Temp::create(&directory).unwrap();
    std::fs::write(dir.0.join(format!("{}-2", temp.name)), "in the way").unwrap();
    assert!(!temp.can_be_linked().unwrap());
}

#[test]
fn a_create_that_finds_something_else_under_the_name_fails() {
    let dir = TempDir::new();
    let store = open(&dir.0).unwrap();
    let directory = store.directory().unwrap();
    let value = Secret::new(vec![1; 56]);
    let linked = || {
        let mut temp = Temp::create(&directory).unwrap();
        temp.file.write_all(value.expose()).unwrap();
        temp.link(&name("key")).unwrap();
        temp
    };
    let fails = |mut temp: Temp<'_>| {
        let err = temp.finish(&name("key"), &value).unwrap_err().to_string();
        assert_eq!("the file does not contain what was written", err);
    };
    let temp = linked();
    std::fs::write(dir.0.join("key"), [2; 56]).unwrap();
    fails(temp);
    assert!(dir.names().is_empty(), "it is taken back");

    let temp = linked();
    std::fs::remove_file(dir.0.join("key")).unwrap();
    std::fs::write(dir.0.join("key"), value.expose()).unwrap();
    fails(temp);
    assert_eq!(vec!["key"], dir.names(), "another one's stays");
}

#[test]
fn a_file_that_grows_while_it_is_read_is_no_value() {
    // The files there have a size of 0, and more content.
    let store = Fs::open_for_reading("/proc/self").unwrap();
    let err = store.get(&name("status"), soon()).unwrap_err().to_string();
    assert!(err.ends_with("/status\": the file grew while it was read"), "{err}");
}

#[test]
fn a_directory_that_can_not_be_synced_is_an_error_which_keeps_both_names() {
    let dir = TempDir::new();
    let store = Fs::open_for_reading(&dir.0).unwrap();
    // Opened so, it can only be passed.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(&dir.0, flags, Mode::empty()).unwrap();
    assert!(sync_directory(&directory).is_err());
    assert!(store.anchor(&directory).is_err());
    let mut temp = Temp::create(&directory).unwrap();
    temp.link(&name("key")).unwrap();
    assert!(temp.finish(&name("key"), &Secret::new(Vec::new())).is_err());
    drop(temp);
    assert_eq!(2, dir.names().len(), "so that those who read it sync it");
}

#[test]
fn a_way_to_the_root_is_another_one_if_a_directory_in_it_is() {
    let dir = TempDir::new();
    let path = dir.0.join("a/keys");
    let store = open(&path).unwrap();
    let way = || way_to(&store.directory().unwrap());
    let at_first = way();
    let again = (1..at_first.len()).find(|at| at_first[..*at].contains(&at_first[*at]));
    assert_eq!(None, again, "each directory is there once");
    store.create(&name("key"), &Secret::new(vec![1]), soon()).unwrap();
    assert_eq!(at_first, way(), "keys change nothing above");
    std::fs::rename(dir.0.join("a"), dir.0.join("old")).unwrap();
    std::fs::create_dir_all(&path).unwrap();
    let anew = way();
    assert_ne!(at_first, anew);
    std::fs::rename(dir.0.join("a"), dir.0.join("a2")).unwrap();
    std::fs::create_dir(dir.0.join("a")).unwrap();
    std::fs::rename(dir.0.join("a2/keys"), &path).unwrap();
    assert_ne!(anew, way(), "the directory itself is the same");
}

#[test]
fn a_key_that_root_makes_belongs_to_the_owner_of_the_directory() {
    if !rustix::process::geteuid().is_root() {
        return; // others make files of their own only
    }
    let dir = TempDir::new();
    chown(&dir.0, Some(4242), Some(4343)).unwrap();
    open(&dir.0).unwrap().create(&name("key"), &Secret::new(vec![1]), soon()).unwrap();
    let key = std::fs::metadata(dir.0.join("key")).unwrap();
    assert_eq!((4242, 4343, 0o600), (key.uid(), key.gid(), key.mode() & 0o777));
}

// examination

/// What is found about the directory, as `outcome: text (advice)`.
fn examined(path: &Path) -> (bool, Vec<String>) {
    let mut found = Checkup::default();
    let store = path.to_owned().examine(&mut found, false);
    (store.is_some(), lines(found))
}

fn lines(found: Checkup) -> Vec<String> {
    let line = |line: crate::base::checkup::Line| {
        assert_eq!("key directory", line.about);
        format!("{:?}: {} ({})", line.outcome, line.text, line.advice)
    };
    found.lines.into_iter().map(line).collect()
}

#[track_caller]
fn refused(path: &Path, start: &str) {
    let (is_usable, lines) = examined(path);
    assert!(!is_usable);
    assert!(lines.len() == 1 && lines[0].starts_with(start), "{start:?}: {lines:?}");
}

fn key() -> Vec<u8> {
    let key = MasterKey::generate().unwrap();
    stored::encode(&key).expose().to_vec()
}

#[test]
fn an_examination_counts_keys_and_what_is_wrong_with_them() {
    let dir = TempDir::new();
    let path = &dir.0;
    dir.write("closed", key(), 0o600);
    dir.write("open", key(), 0o640);
    dir.write("too-open", key(), 0o604);
    let (is_usable, lines) = examined(path);
    assert!(is_usable);
    let opened = format!("Warning: keys in {path:?} that are open to other users: 2, such as ");
    assert!(lines.len() == 2 && lines[0].starts_with(&opened), "{lines:?}");
    assert!(lines[1].contains(" MiB of free space, keys: 3 ("), "{lines:?}");

    for name in ["open", "too-open"] {
        dir.permit(name, 0o600);
    }
    dir.write("README", "keys of the company", 0o644);
    dir.write("\\tmp-1-0123", "half", 0o600);
    std::fs::create_dir(path.join("directory")).unwrap();
    symlink("closed", path.join("link")).unwrap();
    let (is_usable, lines) = examined(path);
    assert!(is_usable);
    let foreign = format!("Warning: entries of {path:?} that are no keys: 3, such as ");
    assert!(lines.len() == 2 && lines[0].starts_with(&foreign), "{lines:?}");
    assert!(lines[1].contains(", keys: 3 ("), "{lines:?}");
}

#[test]
fn an_examination_tells_what_is_no_directory() {
    let dir = TempDir::new();
    let file = dir.0.join("file");
    dir.write("file", "", 0o600);
    refused(&file, &format!("Failed: {file:?} is not a directory ("));
    let below = file.join("keys");
    refused(
        &below,
        &format!("Failed: user {} can't look at {below:?}: ", rustix::process::geteuid()),
    );
    let missing = dir.0.join("missing/keys");
    refused(&missing, &format!("Ok: {missing:?} is not there yet: the server makes it ("));
    assert!(!dir.0.join("missing").exists());
}

/// Runs `act` as another user, as only root can.
fn as_user_4242(act: impl FnOnce() + Send) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let act = || {
        let user = rustix::thread::Uid::from_raw(4242);
        rustix::thread::set_thread_res_uid(user, user, user).unwrap(); // of this thread alone
        act();
    };
    std::thread::scope(|scope| scope.spawn(act).join().unwrap());
}

#[test]
fn an_examination_asks_for_all_rights() {
    let dir = TempDir::new();
    let path = dir.0.join("keys");
    std::fs::create_dir(&path).unwrap();
    let missing = path.join("missing");
    for mode in [0o700, 0o755, 0o766, 0o733] {
        dir.permit("keys", mode);
        as_user_4242(|| {
            let text = format!(
                "Failed: user 4242 may not read and write {path:?}, which belongs to user 0 (mode {mode:04o}): "
            );
            refused(&path, &text);
        });
    }
    dir.permit("keys", 0o755);
    as_user_4242(|| {
        let text = format!("Failed: {missing:?} is not there, and user 4242 may not make it: ");
        refused(&missing, &text);
    });
    dir.permit("keys", 0o777);
    as_user_4242(|| assert!(examined(&path).0));
}

#[test]
fn an_examination_finds_the_keys_that_the_owner_of_the_directory_can_not_read() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can make one
    }
    let dir = TempDir::new();
    chown(&dir.0, Some(4242), None).unwrap();
    for (name, mode) in [("lost", 0o600), ("lost-too", 0o600), ("open", 0o644)] {
        dir.write(name, key(), mode);
    }
    dir.write("its-own", key(), 0o600);
    chown(dir.0.join("its-own"), Some(4242), None).unwrap();
    let (_, lines) = examined(&dir.0);
    let lost = lines.iter().find(|line| line.starts_with("Failed: ")).unwrap();
    assert!(lost.contains("keys that do not belong to user 4242 "), "{lost}");
    assert!(lost.contains(" can't read them: 2, such as \"lost"), "{lost}");
}

#[test]
fn an_examination_warns_of_little_room_and_refuses_none() {
    let full = StatVfs {
        f_frsize: 4096,
        f_bavail: 25_600,
        f_files: 0,
        f_favail: 0,
        ..statvfs("/").unwrap()
    };
    let of = |blocks, files, free_files| {
        let mut found = Checkup::default();
        let room = StatVfs { f_bavail: blocks, f_files: files, f_favail: free_files, ..full };
        let has_room = at_room(Path::new("/keys"), 7, 3, &room, &mut found);
        assert_eq!(has_room, found.count(Outcome::Failed) == 0);
        lines(found).concat()
    };
    let free = |outcome: &str, mib: u64, advice: &str| {
        format!("{outcome}: \"/keys\" of user 7: {mib} MiB of free space, keys: 3 ({advice})")
    };
    assert_eq!(free("Ok", 100, ""), of(25_600, 0, 0), "no fixed number of files");
    assert_eq!(free("Ok", 100, ""), of(25_600, 1000, 1));
    assert_eq!(free("Ok", 64, ""), of(16_384, 1000, 1));
    let little = "free some, or new keys fail soon";
    assert_eq!(free("Warning", 63, little), of(16_383, 1000, 1));
    let none = "Failed: no room is left for another key in \"/keys\"";
    assert!(of(25_600, 1000, 0).starts_with(none));
    assert!(of(0, 1000, 1).starts_with(none));
}

#[test]
fn the_user_of_the_packaged_service_is_known_by_its_name() {
    let dir = TempDir::new();
    let of = |text: &str| {
        dir.write("passwd", text, 0o600);
        packaged_user(dir.0.join("passwd").to_str().unwrap())
    };
    let root = "root:x:0:0::/root:/bin/sh\n";
    assert_eq!(None, of(root));
    let kes = "kes:x:998:997:KES:/nonexistent:/usr/sbin/nologin\n";
    assert_eq!(Some("998".into()), of(&[root, kes].concat()));
    assert_eq!(None, packaged_user("/nonexistent"));
}
