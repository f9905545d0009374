//! Settings that are taken up without a signal: in the folders that Kubernetes mounts, and where the file
//! asks for it.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use crate::common::{
    Authority, Client, Config, Connection, Identity, PATIENCE, Profile, Server, quickly,
    stored_key, wait_for,
};

const DONE: &str = "the configuration is reloaded";
const FAILED: &str = "failed to reload the configuration, everything stays as it was: ";

/// A folder as Kubernetes mounts it: its files are links through `..data`, which leads to those of the
/// moment.
struct Mount {
    folder: PathBuf,
    version: usize,
}

impl Mount {
    /// Makes `folder` one with these files, which are still to be written.
    fn new(folder: &Path, files: &[&str]) -> Self {
        fs::create_dir_all(folder.join("..0")).unwrap();
        symlink("..0", folder.join("..data")).unwrap();
        for file in files {
            symlink(Path::new("..data").join(file), folder.join(file)).unwrap();
        }
        Self { folder: folder.to_owned(), version: 0 }
    }

    /// Puts new files in the place of all, at once. Those that are not in `changed` stay as they were.
    fn swap(&mut self, changed: &[(&str, &str)]) {
        let old = self.folder.join(format!("..{}", self.version));
        self.version += 1;
        let name = format!("..{}", self.version);
        let new = self.folder.join(&name);
        fs::create_dir(&new).unwrap();
        for file in fs::read_dir(&old).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), new.join(file.file_name())).unwrap();
        }
        for (file, text) in changed {
            fs::write(new.join(file), text).unwrap();
        }
        symlink(name, self.folder.join("..data_tmp")).unwrap();
        fs::rename(self.folder.join("..data_tmp"), self.folder.join("..data")).unwrap();
        fs::remove_dir_all(old).unwrap();
    }
}

/// A server whose files are in a folder that Kubernetes mounts, with `my-key`, which `app` may use.
fn mounted(app: &Identity, change: impl FnOnce(&mut Config)) -> (Server, Mount) {
    let mut mount = None;
    let server = start(app, |config| {
        let keys = config.keys();
        let files = ["config.yml", "server.key", "server.crt"];
        mount = Some(Mount::new(keys.parent().unwrap(), &files));
        change(config);
    });
    (server, mount.unwrap())
}

fn start(app: &Identity, change: impl FnOnce(&mut Config)) -> Server {
    Server::start(|config| {
        fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
        config.policy("apps", &["/v1/key/generate/*"], &[app]);
        change(config);
    })
}

fn text(server: &Server) -> String {
    fs::read_to_string(server.file("config.yml")).unwrap()
}

fn count(server: &Server, text: &str) -> usize {
    server.stderr().matches(text).count()
}

#[track_caller]
fn waits_for(server: &Server, text: &str, times: usize) {
    let found = wait_for(PATIENCE, || (count(server, text) >= times).then_some(()));
    assert!(found.is_some(), "{text:?} is not there {times} times: {}", server.stderr());
}

fn generate(connection: &mut Connection) -> u16 {
    connection.request("POST", "/v1/key/generate/my-key", "{}").status
}

#[test]
fn certificate_and_policies_of_kubernetes_are_taken_up_at_once_and_no_request_fails() {
    let (app, other) = (Identity::new("app"), Identity::new("other"));
    let (server, mut mount) = mounted(&app, |_| {});
    let next = Identity::self_signed("server", &Profile::server());
    let renewed = Client::new(server.address, next.chain[0].clone(), Some(&app));
    let is_over = AtomicBool::new(false);
    let requests = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (old, new) = (server.client(&app), renewed.clone());
            let (is_over, requests) = (&is_over, &requests);
            // Half of them connect anew for each request, with whichever certificate is there.
            let connect = move || old.try_connect().or_else(|_| new.try_connect()).unwrap();
            scope.spawn(move || {
                let mut connection = connect();
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(200, generate(&mut connection));
                    requests.fetch_add(1, Ordering::Relaxed);
                    if number % 2 == 0 {
                        connection = connect();
                    }
                }
            });
        }
        let mut stranger = server.client(&other).connect();
        assert_eq!(403, generate(&mut stranger));
        let allowed = format!("\"{}\", \"{}\"", app.id, other.id);
        let config = text(&server).replace(&format!("\"{}\"", app.id), &allowed);
        mount.swap(&[
            ("config.yml", &config),
            ("server.crt", &next.certificate_pem()),
            ("server.key", &next.key_pem()),
        ]);
        let is_taken = wait_for(PATIENCE, || (generate(&mut stranger) == 200).then_some(()));
        let is_served = wait_for(PATIENCE, || renewed.try_connect().ok());
        let before = requests.load(Ordering::Relaxed);
        wait_for(PATIENCE, || (requests.load(Ordering::Relaxed) > before + 100).then_some(()));
        is_over.store(true, Ordering::Relaxed);
        assert!(is_taken.is_some() && is_served.is_some(), "{}", server.stderr());
    });
    assert!(server.client(&app).try_connect().is_err(), "the old certificate is still served");
    assert_eq!(1, count(&server, DONE), "{}", server.stderr());
}

#[test]
fn a_bad_file_is_told_once_and_the_same_contents_are_no_change() {
    let (app, other) = (Identity::new("app"), Identity::new("other"));
    let (mut server, mut mount) = mounted(&app, |_| {});
    let good = text(&server);
    let changed = good.replace(&app.id, &other.id);
    // Only a reload would bring it back.
    server.root().delete("/v1/policy/delete/apps").is_empty_success();
    let bad = changed.replace("/v1/key/generate/*", "/v1/key/generate/[");
    for (number, config) in [&bad, &bad, &good].into_iter().enumerate() {
        // The certificate is renewed whatever is wrong elsewhere, and after the configuration was looked at.
        let next = Identity::self_signed("server", &Profile::server());
        mount.swap(&[
            ("config.yml", config),
            ("server.crt", &next.certificate_pem()),
            ("server.key", &next.key_pem()),
        ]);
        waits_for(&server, "the certificate has changed: the new one is in use", number + 1);
        server.certificate = next;
        assert_eq!((1, 0), (count(&server, FAILED), count(&server, DONE)), "{}", server.stderr());
        for client in [&app, &other] {
            assert_eq!(403, generate(&mut server.client(client).connect()));
        }
    }
    assert!(server.stderr().contains("field policy.apps.paths[0]"), "{}", server.stderr());
    mount.swap(&[("config.yml", &changed)]);
    waits_for(&server, DONE, 1);
    assert_eq!(200, generate(&mut server.client(&other).connect()));
}

#[test]
fn a_pipe_in_the_place_of_a_file_holds_nothing_up() {
    let (app, other) = (Identity::new("app"), Identity::new("other"));
    let (server, mut mount) = mounted(&app, |_| {});
    let good = text(&server);
    for (number, file) in ["config.yml", "server.crt", "server.key"].into_iter().enumerate() {
        let path =
            server.file("config.yml").with_file_name(format!("..{}", mount.version)).join(file);
        let is_kept = path.with_extension("kept");
        fs::rename(&path, &is_kept).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        waits_for(&server, "is a pipe or a device: only a file can be read again", number + 1);
        fs::rename(&is_kept, &path).unwrap();
    }
    mount.swap(&[("config.yml", &good.replace(&app.id, &other.id))]);
    waits_for(&server, DONE, 1);
    assert_eq!(200, generate(&mut server.client(&other).connect()));
    assert_eq!(403, generate(&mut server.client(&app).connect()));
}

#[test]
fn settings_that_only_had_to_wait_are_taken_up_later() {
    let (app, other) = (Identity::new("app"), Identity::new("other"));
    let (server, mut mount) = mounted(&app, |config| {
        config.wanted_key = "wanted";
        config.key_store = format!("fs: {{path: {}}}", config.keys().display());
    });
    fs::rename(server.keys(), server.file("moved")).unwrap();
    let changed = text(&server).replace(&app.id, &other.id).replace("wanted", "newer");
    mount.swap(&[("config.yml", &changed)]);
    waits_for(&server, "failed to create key \\\"newer\\\"", 1);
    fs::rename(server.file("moved"), server.keys()).unwrap();
    waits_for(&server, DONE, 1);
    assert_eq!(200, generate(&mut server.client(&other).connect()));
    assert_eq!(1, count(&server, FAILED), "{}", server.stderr());
}

#[test]
fn authorities_of_clients_are_taken_up_from_a_folder_too() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let app = old.issue("app", &Profile::client());
    let renewed = new.issue("renewed", &Profile::client());
    let mut authorities = None;
    let mut folder = PathBuf::new();
    let server = start(&app, |config| {
        config.is_newest = true;
        config.policy("renewed", &["/v1/key/generate/*"], &[&renewed]);
        config.root_identity = old.issue("root", &Profile::client());
        config.root = config.root_identity.id.clone();
        folder = config.keys().parent().unwrap().join("authorities");
        authorities = Some(Mount::new(&folder, &["ca.crt"]));
        fs::write(folder.join("ca.crt"), old.identity.certificate_pem()).unwrap();
        config.more = "reload: {watch: on}\n".to_owned();
        config.groups = format!("[X25519], auth: on, ca: {}", folder.display());
    });
    assert_eq!(200, generate(&mut server.client(&app).connect()));
    let refused = server.client(&renewed);
    assert!(refused.try_request("POST", "/v1/key/generate/my-key", b"{}").is_err());
    let both = old.identity.certificate_pem() + &new.identity.certificate_pem();
    authorities.unwrap().swap(&[("ca.crt", &both)]);
    waits_for(&server, DONE, 1);
    assert_eq!(200, generate(&mut server.client(&renewed).connect()));
    // A file that is written in its place changes nothing about the folder.
    fs::write(folder.join("ca.crt"), new.identity.certificate_pem()).unwrap();
    waits_for(&server, DONE, 2);
    assert!(server.client(&app).try_request("POST", "/v1/key/generate/my-key", b"{}").is_err());
    assert_eq!(200, generate(&mut server.client(&renewed).connect()));
}

#[test]
fn elsewhere_a_file_is_watched_if_it_asks_for_that_and_taken_once_it_rests() {
    quickly(Duration::from_secs(6), |clock| {
        let (app, other) = (Identity::new("app"), Identity::new("other"));
        let server = start(&app, |config| {
            config.more = "reload: {watch: on}\n".to_owned();
        });
        let all = text(&server).replace(&app.id, &other.id);
        // Each beginning is a valid file, in which `app` has no policy any more.
        let mut file = fs::File::create(server.file("config.yml")).unwrap();
        clock.start();
        file.write_all(all.as_bytes()).unwrap();
        for number in 0..20 {
            std::thread::sleep(Duration::from_millis(250));
            writeln!(file, "# {number}").unwrap();
            assert_eq!(200, generate(&mut server.client(&app).connect()));
        }
        assert_eq!(0, count(&server, DONE));
        clock.stop();
        waits_for(&server, DONE, 1);
        assert_eq!(200, generate(&mut server.client(&other).connect()));
    });
}

#[test]
fn a_file_is_not_watched_on_a_plain_disk_or_if_it_says_so() {
    let (app, other) = (Identity::new("app"), Identity::new("other"));
    let plain = start(&app, |_| {});
    let (off, mut mount) = mounted(&app, |config| {
        config.more = "reload: {watch: off}\n".to_owned();
    });
    let changed = |server: &Server| text(server).replace(&app.id, &other.id);
    fs::write(plain.file("config.yml"), changed(&plain)).unwrap();
    mount.swap(&[("config.yml", &changed(&off))]);
    std::thread::sleep(Duration::from_secs(5));
    for server in [&plain, &off] {
        assert_eq!(0, count(server, DONE), "{}", server.stderr());
        assert_eq!(200, generate(&mut server.client(&app).connect()));
    }
}
