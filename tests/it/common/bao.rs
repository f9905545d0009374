//! A real OpenBao in its development mode, with the engines and the role that the tests of `scripts/it` have.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use super::{PATIENCE, TempDir, free_ports, wait_for};

const POLICY: &str = r#"
path "kv/*"           { capabilities = ["create", "read", "delete", "list"] }
path "kv"             { capabilities = ["list"] }
path "kv2/data/*"     { capabilities = ["create", "read"] }
path "kv2/metadata/*" { capabilities = ["read", "delete", "list"] }
path "kv2/metadata"   { capabilities = ["list"] }
path "transit/encrypt/kes" { capabilities = ["update"] }
path "transit/decrypt/kes" { capabilities = ["update"] }
"#;

/// A server whose data are in memory; it is killed when it is dropped.
pub struct Bao {
    pub address: String,
    pub role_id: String,
    pub secret_id: String,
    program: PathBuf,
    child: Child,
    directory: TempDir,
}

impl Bao {
    /// Whether `BAO` names its binary, which it must in CI.
    pub fn is_there() -> bool {
        let is_there = std::env::var_os("BAO").is_some();
        assert!(is_there || std::env::var_os("CI").is_none(), "BAO names no binary of OpenBao");
        is_there
    }

    /// Starts it, if [there is one](Self::is_there).
    pub fn start() -> Option<Self> {
        let program = PathBuf::from(std::env::var_os("BAO")?);
        let directory = TempDir::new();
        // It takes the next one for a cluster.
        let listen = format!("127.0.0.1:{}", free_ports(2));
        let log = || fs::File::create(directory.path().join("bao.log")).unwrap();
        let child = Command::new(&program)
            .args(["server", "-dev", "-dev-tls", "-dev-no-store-token", "-dev-root-token-id=root"])
            .arg(format!("-dev-tls-cert-dir={}", directory.path().display()))
            .arg(format!("-dev-listen-address={listen}"))
            .env("HOME", directory.path())
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .spawn()
            .unwrap();
        let address = format!("https://{listen}");
        let (role_id, secret_id) = (String::new(), String::new());
        let mut bao = Self { address, role_id, secret_id, program, child, directory };
        bao.set_up();
        Some(bao)
    }

    /// The certificate of its authority.
    pub fn ca(&self) -> PathBuf {
        let files = fs::read_dir(self.directory.path()).unwrap();
        let mut paths = files.map(|entry| entry.unwrap().path());
        let is_ca = |path: &PathBuf| path.to_string_lossy().ends_with("ca.pem");
        paths.find(is_ca).unwrap_or_default()
    }

    fn set_up(&mut self) {
        let is_there = wait_for(PATIENCE, || self.run(&["status"]).ok());
        assert!(is_there.is_some(), "OpenBao does not start: {}", self.log());
        let policy = self.directory.path().join("kes.hcl");
        fs::write(&policy, POLICY).unwrap();
        for line in [
            "secrets enable -path=kv -version=1 kv",
            "secrets enable -path=kv2 -version=2 kv",
            "secrets enable transit",
            "write -f transit/keys/kes",
            "auth enable approle",
            &format!("policy write kes {}", policy.display()),
            "write auth/approle/role/kes token_policies=kes token_ttl=1h",
        ] {
            self.command(line);
        }
        // It upgrades itself after it has been mounted, and refuses requests meanwhile.
        let is_ready = wait_for(PATIENCE, || self.run(&["read", "kv2/config"]).ok());
        assert!(is_ready.is_some(), "KV version 2 is not ready: {}", self.log());
        self.role_id = self.command("read -field=role_id auth/approle/role/kes/role-id");
        self.secret_id = self.command("write -f -field=secret_id auth/approle/role/kes/secret-id");
    }

    fn command(&self, line: &str) -> String {
        let words: Vec<_> = line.split(' ').collect();
        self.run(&words).unwrap_or_else(|said| panic!("bao {line}: {said}"))
    }

    /// Runs a command of the client, as root.
    fn run(&self, words: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.program)
            .args(words)
            .env("HOME", self.directory.path())
            .env("BAO_ADDR", &self.address)
            .env("BAO_CACERT", self.ca())
            .env("BAO_TOKEN", "root")
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("bao.log")).unwrap()
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
