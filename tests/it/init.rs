//! `kes init`: what it writes, prints, and leaves alone. `scripts/it/51-init.sh` runs the commands that it
//! prints, on a terminal, in the middle of faults and with a real OpenBao.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, chown},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::common::TempDir;

struct Scene(TempDir);

impl Scene {
    fn new() -> Self {
        Self(TempDir::new())
    }

    fn kes(&self, args: &[&str]) -> Output {
        self.0.kes(args, &[], "")
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.kes(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The answer to `kes init --json` with these arguments.
    #[track_caller]
    fn init(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[&["init", "--json"], args].concat())).unwrap()
    }

    #[track_caller]
    fn fails(&self, args: &[&str], text: &str) {
        let before = self.files();
        let output = self.kes(args);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(Some(1), output.status.code(), "{args:?}: {error}");
        assert!(error.contains(text), "{args:?}: {error}");
        assert!(output.stdout.is_empty(), "{args:?}");
        assert_eq!(before, self.files(), "{args:?}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }

    /// All files with their contents; folders are empty.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut folders = vec![self.0.path().to_owned()];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                files.push((path.clone(), fs::read(&path).unwrap_or_default()));
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        files.sort();
        files
    }
}

#[test]
fn a_server_is_made_whose_configuration_has_nothing_to_complain_about() {
    let scene = Scene::new();
    let made = scene.init(&[]);
    assert_eq!(
        "kes/config.yaml: ok\n",
        scene.ok(&["config", "check", "--strict", "kes/config.yaml"])
    );
    let modes = ["kes", "kes/config.yaml", "kes/private.key", "kes/public.crt"]
        .map(|name| scene.mode(name));
    assert_eq!([0o700, 0o600, 0o600, 0o644], modes);
    let identity = |argument: &str| scene.ok(&["identity", "of", argument]);
    assert_eq!(made["environment"]["KES_SERVER_IDENTITY"], *identity("kes/public.crt"));
    let config = scene.read("kes/config.yaml");
    for (client, environment, name) in [
        ("admin", "environment", "KES_API_KEY"),
        ("minio", "minio_environment", "MINIO_KMS_KES_API_KEY"),
    ] {
        let (key, known) = (made[environment][name].as_str().unwrap(), &made[client]);
        assert_eq!(*known, *identity(key));
        assert!(config.contains(known.as_str().unwrap()) && !config.contains(key));
    }
    assert_ne!(made["admin"], made["minio"]);
    let names = made["certificate"]["names"].to_string();
    assert!(names.contains(r#""localhost","127.0.0.1","::1""#), "{names}");
    for file in made["written"].as_array().unwrap() {
        assert!(scene.path(file.as_str().unwrap()).is_file(), "{file}");
    }
}

/// The fields in the comments, switched on.
#[test]
fn fields_in_the_comments_of_the_configuration_are_accepted() {
    let scene = Scene::new();
    scene.init(&[]);
    fs::copy(scene.path("kes/public.crt"), scene.path("clients.crt")).unwrap();
    let is_field = |line: &&str| {
        let text = line.trim_start().trim_start_matches("# ").trim_start();
        let fields = ["ca: ", "offline: ", "probe:", "address: 127.0.0.1:7374"];
        line.trim_start().starts_with("# ") && fields.iter().any(|field| text.starts_with(field))
    };
    let config = scene.read("kes/config.yaml");
    assert_eq!(4, config.lines().filter(is_field).count());
    let on = config.lines().map(|line| match is_field(&line) {
        true => line.replacen("# ", "", 1) + "\n",
        false => format!("{line}\n"),
    });
    let on = on
        .collect::<String>()
        .replace("/etc/kes/clients.crt", "clients.crt")
        .replace("auth: off", "auth: on");
    fs::write(scene.path("on.yaml"), on).unwrap();
    assert_eq!("on.yaml: ok\n", scene.ok(&["config", "check", "--strict", "on.yaml"]));
}

#[test]
fn clients_get_files_if_they_want_them() {
    let scene = Scene::new();
    let made = scene.init(&["--cert", "a server"]);
    for client in ["admin", "minio"] {
        let (key, cert) = (format!("a server/{client}.key"), format!("a server/{client}.crt"));
        assert_eq!([0o600, 0o644], [scene.mode(&key), scene.mode(&cert)]);
        for file in [key, cert] {
            assert_eq!(made[client], *scene.ok(&["identity", "of", &file]));
        }
    }
    let file =
        |environment: &str, name: &str| PathBuf::from(made[environment][name].as_str().unwrap());
    assert_eq!(scene.path("a server/admin.key"), file("environment", "KES_CLIENT_KEY"));
    let cert = file("minio_environment", "MINIO_KMS_KES_CERT_FILE");
    assert_eq!(scene.path("a server/minio.crt"), cert);
    assert!(!made.to_string().contains("kes:v1:"));
    let start = made["start"][0].as_str().unwrap();
    assert!(start.ends_with("/a server/config.yaml'"), "{start}");
    scene.ok(&["config", "check", "--strict", "a server/config.yaml"]);
}

#[test]
fn the_certificate_and_the_endpoint_for_others_are_as_they_are_wanted() {
    let scene = Scene::new();
    let endpoint = |args: &[&str]| {
        let made = scene.init(args);
        let names = made["certificate"]["names"].to_string();
        (made["minio_environment"]["MINIO_KMS_KES_ENDPOINT"].as_str().unwrap().to_owned(), names)
    };
    let (other, names) =
        endpoint(&["--dns", "*.example.com", "--dns", "KES.example.com", "--ip", "192.0.2.9", "a"]);
    assert_eq!("https://kes.example.com:7373", other.to_lowercase());
    for name in ["*.example.com", "kes.example.com", "192.0.2.9"] {
        assert!(names.contains(name), "{names}");
    }
    let (other, names) = endpoint(&["--address", "[2001:db8::1]:7374", "b"]);
    assert_eq!("https://[2001:db8::1]:7374", other);
    assert!(names.contains("2001:db8::1"), "{names}");
    assert!(scene.read("b/config.yaml").contains("\naddress: \"[2001:db8::1]:7374\"\n"));
    let (other, _) = endpoint(&["--address", "127.0.0.1:1", "--expiry", "48h", "c"]);
    assert_eq!("https://127.0.0.1:1", other);
}

#[test]
fn wrong_arguments_leave_nothing() {
    let scene = Scene::new();
    fs::write(scene.path("file"), "").unwrap();
    for (args, text) in [
        (&["--dns", "a b"][..], "\"a b\" is not a valid host name"),
        (&["--dns", "https://kes"], "\"https://kes\" is not a valid host name"),
        (&["--dns", ""], "\"\" is not a valid host name"),
        (&["--dns", "10.0.0.5"], "\"10.0.0.5\" is not a valid host name"),
        (&["--ip", "10.0.0.256"], "\"10.0.0.256\" is not a valid IP address"),
        (&["--address", "kes:7373"], "invalid address \"kes:7373\": write IP:port"),
        (&["--address", ":0"], "invalid address \":0\""),
        (&["--vault", "vault:8200"], "\"vault:8200\" is not the URL of a Vault or OpenBao"),
        (&["--vault-engine", "kv"], "--vault-engine goes with --vault"),
        (
            &["--vault", "https://127.0.0.1:1", "--vault-ca", "no"],
            "failed to find the authorities of Vault \"no\"",
        ),
        (&["--expiry", "0s"], "the certificate would expire at once"),
        (&["file"], "is no folder: name one, as in 'kes init my-server'"),
        (&["file/below"], "/file\" is no folder"),
        (&["/proc/none"], "failed to make the folder \"/proc/none\": No such file or directory"),
        (&["a\nb"], "has characters that a configuration file can't have"),
        (&["a", "b"], "too many arguments"),
    ] {
        scene.fails(&[&["init"], args].concat(), text);
    }
}

#[test]
fn a_second_run_changes_nothing_and_names_what_is_there() {
    let scene = Scene::new();
    scene.init(&["--cert"]);
    let text = "kes has config.yaml, private.key, public.crt, admin.key, admin.crt, minio.key, minio.crt already. \
                To start the server that is there: kes server --config /";
    scene.fails(&["init"], text);
    scene.fails(&["init", "--yes", "--json", "--cert"], text);
    if rustix::process::geteuid().is_root() {
        let text = "To start the server that is there: systemctl enable --now kes. To make another";
        scene.fails(&["init", "--systemd", "kes"], text);
    }
}

#[test]
fn a_key_and_a_certificate_that_are_there_are_used() {
    let scene = Scene::new();
    fs::create_dir(scene.path("kes")).unwrap();
    scene.ok(&[
        "identity",
        "new",
        "--key",
        "kes/private.key",
        "--cert",
        "kes/public.crt",
        "--dns",
        "own.example.com",
    ]);
    let [key, cert] = ["kes/private.key", "kes/public.crt"].map(|name| scene.read(name));
    let text = scene.ok(&["init"]);
    assert!(text.contains("/kes/private.key, which was there\n"), "{text}");
    assert!(text.contains(", for own.example.com\n"), "{text}");
    assert_eq!([&key, &cert], [&scene.read("kes/private.key"), &scene.read("kes/public.crt")]);

    // They are for a certificate, and none is made.
    fs::remove_file(scene.path("kes/config.yaml")).unwrap();
    for (flag, value, why) in [
        ("dns", "other.example.com", "is for own.example.com: move it away, or leave out --dns"),
        ("ip", "192.0.2.9", "is for own.example.com: "),
        ("expiry", "48h", "expires on 20"),
    ] {
        let text = format!(
            "--{flag} is for a new certificate, and the one that is there, {:?}, {why}",
            scene.path("kes/public.crt")
        );
        scene.fails(&["init", &format!("--{flag}"), value], &text);
    }
    for more in [&[][..], &["--dns", "Own.example.com"]] {
        let made = scene.init(&[&["--address", "127.0.0.1:7373"], more].concat());
        let endpoint = &made["minio_environment"]["MINIO_KMS_KES_ENDPOINT"];
        assert_eq!("https://own.example.com:7373", endpoint);
        fs::remove_file(scene.path("kes/config.yaml")).unwrap();
    }
    scene.init(&["--cert", "--expiry", "48h"]);

    // As after a power failure in the middle.
    fs::remove_file(scene.path("kes/config.yaml")).unwrap();
    fs::remove_file(scene.path("kes/public.crt")).unwrap();
    fs::write(scene.path("kes/config.yaml.4194305.new"), "left").unwrap();
    scene.init(&[]);
    assert_eq!(key, scene.read("kes/private.key"));
    assert_eq!(
        "kes/config.yaml: ok\n",
        scene.ok(&["config", "check", "--strict", "kes/config.yaml"])
    );
    assert!(!scene.path("kes/config.yaml.4194305.new").exists());
}

#[test]
fn files_that_do_not_fit_are_named() {
    let scene = Scene::new();
    for folder in ["a", "b", "c"] {
        fs::create_dir(scene.path(folder)).unwrap();
    }
    let new = |folder: &str, name: &str| {
        let (key, cert) = (format!("{folder}/{name}.key"), format!("{folder}/{name}.crt"));
        scene.ok(&["identity", "new", "--key", &key, "--cert", &cert, "--dns", "a"]);
    };
    new("a", "private");
    fs::rename(scene.path("a/private.crt"), scene.path("a/public.crt")).unwrap();
    fs::remove_file(scene.path("a/private.key")).unwrap();
    scene.fails(&["init", "a"], "public.crt\" is there, but not its private key");
    new("a", "private");
    scene.fails(&["init", "a"], "their public keys differ");
    fs::write(scene.path("b/private.key"), "no key").unwrap();
    scene.fails(&["init", "b"], "private.key\" is there, but not its certificate");
    fs::write(scene.path("c/vault-policy.hcl"), "mine").unwrap();
    let vault = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", vault.local_addr().unwrap());
    drop(vault);
    scene.fails(&["init", "--vault", &url, "c"], "c has vault-policy.hcl already");
}

/// Its maker knows it.
#[test]
fn a_key_of_another_user_is_not_used() {
    let scene = Scene::new();
    fs::create_dir(scene.path("kes")).unwrap();
    for [key, cert, name] in [["private", "public", "kes"], ["admin", "admin", "admin"]] {
        let [key, cert] = [format!("kes/{key}.key"), format!("kes/{cert}.crt")];
        scene.ok(&["identity", "new", "--key", &key, "--cert", &cert, "--dns", "a", name]);
        if chown(scene.path(&key), Some(12345), None).is_err() {
            return; // only root can
        }
        let text = format!("{key}\" is there and belongs to user 12345");
        scene.fails(&["init", "--cert"], &text);
        chown(scene.path(&key), Some(0), None).unwrap();
    }
    scene.init(&["--cert"]);
}

/// The keys that it prints are nowhere else.
#[test]
fn without_a_reader_nothing_is_kept() {
    let scene = Scene::new();
    fs::create_dir(scene.path("there")).unwrap();
    let before = scene.files();
    let full = || Stdio::from(File::create("/dev/full").unwrap());
    for folder in ["new/folder", "there"] {
        let mut kes = Command::new(env!("CARGO_BIN_EXE_kes"));
        let output =
            kes.args(["init", "--yes"]).arg(scene.path(folder)).stdout(full()).output().unwrap();
        assert_eq!(Some(1), output.status.code());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("so nothing is kept: No space left on device"), "{error}");
        assert_eq!(before, scene.files());
    }
}

/// Nobody listens.
#[test]
fn a_vault_that_does_not_answer_leads_to_assumptions() {
    let scene = Scene::new();
    let made = scene.init(&["--vault", "http://127.0.0.1:1/"]);
    let notes = made["vault"].to_string();
    assert!(notes.contains("http://127.0.0.1:1 does not answer: "), "{notes}");
    assert!(
        notes.contains("without a token in BAO_TOKEN or VAULT_TOKEN it does not tell"),
        "{notes}"
    );
    let commands: Vec<_> =
        made["vault_commands"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    assert_eq!(6, commands.len(), "{commands:?}");
    assert_eq!(
        ["export BAO_ADDR=http://127.0.0.1:1", "bao secrets enable -path=kes -version=2 kv"],
        commands[..2]
    );
    let id = [("KES_VAULT_ROLE_ID", "id"), ("KES_VAULT_SECRET_ID", "secret")];
    let output = scene.0.kes(&["config", "check", "--strict", "kes/config.yaml"], &id, "");
    assert_eq!("kes/config.yaml: ok\n", String::from_utf8(output.stdout).unwrap());
}

#[test]
fn an_api_key_becomes_files() {
    let scene = Scene::new();
    let key = scene.ok(&["identity"]);
    let text =
        scene.ok(&["identity", "new", "--api-key", &key, "--key", "a.key", "--cert", "a.crt"]);
    assert!(text.contains("a.key") && !text.contains("kes:v1:"), "{text}");
    assert_eq!(key, scene.ok(&["identity", "a.key"]));
    assert_eq!(scene.ok(&["identity", "of", &key]), scene.ok(&["identity", "of", "a.crt"]));
    scene.fails(&["identity", "new", "--api-key", &key], "--api-key goes with --key and --cert");
    scene.fails(
        &["identity", "new", "--api-key", "kes:v1:x", "--key", "b.key", "--cert", "b.crt"],
        "invalid API key",
    );
}
