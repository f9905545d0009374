//! The real binary on a free port in a directory of its own.

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{
    Client, Connection, Identity, PATIENCE, Profile, Socket, TempDir, free_port, wait_for,
    wait_until,
};

/// What a test may change before its server starts.
pub struct Config {
    /// Whose client [`Server::root`] is, and unless `root` says otherwise, who is root.
    pub root_identity: Identity,
    /// The text after `root:`, or `admin.identity` in the newest generation.
    pub root: String,
    /// Whether the file is one of the newest generation.
    pub is_newest: bool,
    /// Whether the server prints nothing at its start.
    pub is_quiet: bool,
    /// Arguments after `server --config <file> -q`.
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// Sockets that it gets as a service manager passes them, two at most.
    pub passed: Vec<OwnedFd>,
    /// PEM texts of the server's files; an empty one is not written.
    pub certificate: String,
    pub key: String,
    /// What clients expect the server to show.
    pub server_identity: Identity,
    /// The whole file, with `@ADDRESS@` where the server is to listen; without it, the fields here make one.
    pub text: String,
    /// Lines at the end of the file.
    pub more: String,
    /// `on`, `off` or `required`.
    pub audit: &'static str,
    /// The flag; none if empty.
    pub auth: &'static str,
    /// What stands under `keys`; the directory of keys if empty.
    pub key_store: String,
    /// The name of a key that the server creates at its start; none if empty.
    pub wanted_key: &'static str,
    /// The address to listen on; a free port of 127.0.0.1 if empty.
    pub address: String,
    policies: Vec<(String, Vec<String>, Vec<String>)>,
    /// What stands after `tls.groups`; nothing if empty.
    pub groups: String,
    /// What stands after `cache.expiry`.
    pub expiry: &'static str,
    /// What stands under `tls.proxy`.
    proxy: String,
    directory: PathBuf,
}

impl Config {
    fn new(directory: &Path, server: &Identity) -> Self {
        let root_identity = Identity::new("root");
        Self {
            root: root_identity.id.clone(),
            root_identity,
            is_newest: false,
            is_quiet: true,
            arguments: Vec::new(),
            environment: Vec::new(),
            passed: Vec::new(),
            certificate: server.certificate_pem(),
            key: server.key_pem(),
            server_identity: server.clone(),
            text: String::new(),
            more: String::new(),
            audit: "on",
            auth: "off",
            key_store: String::new(),
            wanted_key: "",
            address: String::new(),
            policies: Vec::new(),
            groups: String::new(),
            expiry: "{any: 5m0s, unused: 30s}",
            proxy: String::new(),
            directory: directory.to_owned(),
        }
    }

    /// Gives `identities` a policy that allows `paths`.
    pub fn policy(&mut self, name: &str, paths: &[&str], identities: &[&Identity]) {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let identities = identities.iter().map(|identity| identity.id.clone()).collect();
        self.policies.push((name.to_owned(), paths, identities));
    }

    /// Makes `identities` TLS proxies that forward certificates in this header; in the newest generation,
    /// addresses.
    pub fn proxies(&mut self, identities: &[&Identity], header: Option<&str>) {
        let identities: Vec<_> = identities.iter().map(|identity| &identity.id).collect();
        self.proxy = format!("identities: {identities:?}");
        if let Some(header) = header {
            let what = if self.is_newest { "ip" } else { "cert" };
            let _ = write!(self.proxy, ", header: {{{what}: {header}}}");
        }
    }

    /// Adds a probe listener, on an address of its own.
    pub fn probe(&mut self) -> SocketAddr {
        let address = probe_address();
        let _ = writeln!(self.more, "probe: {{address: {address}}}");
        address
    }

    /// The directory of the key store. It exists already, so that a test may put files there.
    pub fn keys(&self) -> PathBuf {
        self.directory.join("keys")
    }

    /// A file for the server to read.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn yaml(&self, address: SocketAddr) -> String {
        if !self.text.is_empty() {
            return self.text.replace("@ADDRESS@", &address.to_string());
        }
        let quoted = |texts: &[String]| {
            texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ")
        };
        let root = &self.root;
        let (root, allow, store) = match self.is_newest {
            false => (format!("root: {root}"), "paths", "keys"),
            true => (format!("version: v1\nadmin: {{identity: {root}}}"), "allow", "keystore"),
        };
        let mut yaml = format!("address: {address}\n{root}\n");
        let path = |name| self.directory.join(name).display().to_string();
        let _ = writeln!(
            yaml,
            "tls: {{key: {}, cert: {}, groups: {}, proxy: {{{}}}}}",
            path("server.key"),
            path("server.crt"),
            self.groups,
            self.proxy
        );
        if !self.policies.is_empty() {
            yaml.push_str("policy:\n");
        }
        for (name, paths, identities) in &self.policies {
            let (paths, identities) = (quoted(paths), quoted(identities));
            let _ = writeln!(yaml, "  {name}: {{{allow}: [{paths}], identities: [{identities}]}}");
        }
        let audit = self.audit;
        let _ = writeln!(yaml, "cache: {{expiry: {}}}", self.expiry);
        let _ = writeln!(yaml, "log: {{error: on, audit: {audit}}}");
        let _ = match self.key_store.as_str() {
            "" => writeln!(yaml, "{store}: {{fs: {{path: {}}}}}", path("keys")),
            key_store if self.wanted_key.is_empty() => writeln!(yaml, "{store}: {{{key_store}}}"),
            key_store => {
                let key = self.wanted_key;
                writeln!(yaml, "keystore: {{{key_store}}}\nkeys: [{{name: {key}}}]")
            }
        };
        yaml + &self.more
    }
}

/// An address for probes that no other server has.
pub fn probe_address() -> SocketAddr {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from(([127, high, low, number], 7374))
}

/// A server that did not start.
#[derive(Debug)]
pub struct Refusal {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A running server; it is killed when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    pub certificate: Identity,
    pub root_identity: Identity,
    environment: Vec<(String, String)>,
    child: Child,
    directory: TempDir,
}

impl Server {
    /// Starts a server with what `change` makes of the usual configuration, and waits until it
    /// answers.
    pub fn start(change: impl FnOnce(&mut Config)) -> Self {
        Self::try_start(change).unwrap_or_else(|refusal| panic!("no start: {refusal:?}"))
    }

    pub fn try_start(change: impl FnOnce(&mut Config)) -> Result<Self, Refusal> {
        let mut directory = TempDir::new();
        let keys = directory.path().join("keys");
        fs::DirBuilder::new().mode(0o700).create(keys).unwrap();
        let certificate = Identity::self_signed("server", &Profile::server());
        let mut config = Config::new(directory.path(), &certificate);
        change(&mut config);
        write_private(&directory.path().join("server.key"), &config.key);
        if !config.certificate.is_empty() {
            fs::write(directory.path().join("server.crt"), &config.certificate).unwrap();
        }
        loop {
            let address = match config.address.as_str() {
                "" => SocketAddr::from(([127, 0, 0, 1], free_port())),
                address => address.parse().unwrap(),
            };
            let child = spawn(&config, address);
            let root_identity = config.root_identity.clone();
            let certificate = config.server_identity.clone();
            let environment = config.environment.clone();
            let mut server =
                Self { address, certificate, root_identity, environment, child, directory };
            match server.wait() {
                Ok(()) => return Ok(server),
                // Another process took the port between our look and the server's bind.
                Err(refusal) if config.address.is_empty() && refusal.stderr.contains("in use") => {}
                Err(refusal) => return Err(refusal),
            }
            directory = std::mem::replace(&mut server.directory, TempDir::new());
        }
    }

    /// Ends it, and waits until it has.
    pub fn end(&mut self) {
        self.signal(Signal::TERM);
        self.wait_for_exit();
    }

    /// Starts another in the place of one that has ended, with these arguments and the file that is there now.
    pub fn start_again(&mut self, arguments: &[&str]) {
        self.child = run(self.directory.path(), &self.environment, &[], arguments);
        self.wait().unwrap_or_else(|refusal| panic!("no start: {refusal:?}"));
    }

    /// Waits until the server answers or ends.
    fn wait(&mut self) -> Result<(), Refusal> {
        let root = self.root();
        let ended = wait_for(PATIENCE, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(Some(status));
            }
            TcpStream::connect(self.address).ok()?;
            root.try_connect().ok().map(|_| None)
        });
        match ended {
            Some(None) => Ok(()),
            Some(Some(status)) => {
                Err(Refusal { code: status.code(), stdout: self.stdout(), stderr: self.stderr() })
            }
            None => panic!("the server neither answers nor ends: {}", self.stderr()),
        }
    }

    /// A client with the root identity.
    pub fn root(&self) -> Client {
        self.client(&self.root_identity)
    }

    pub fn client(&self, identity: &Identity) -> Client {
        Client::new(self.address, self.certificate.chain[0].clone(), Some(identity))
    }

    /// A client without certificate.
    pub fn anonymous(&self) -> Client {
        Client::new(self.address, self.certificate.chain[0].clone(), None)
    }

    /// A client that speaks TLS 1.2 only.
    pub fn outdated(&self) -> Client {
        let certificate = self.certificate.chain[0].clone();
        let versions = &[&rustls::version::TLS12];
        Client::with_versions(self.address, certificate, Some(&self.root_identity), versions)
    }

    pub fn keys(&self) -> PathBuf {
        self.directory.path().join("keys")
    }

    /// A file in the directory of the server, such as `config.yml` or `server.crt`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a command of root's, in the environment that the server has.
    pub fn kes(&self, arguments: &[&str]) -> Output {
        let [key, certificate] = ["root.key", "root.crt"].map(|name| self.file(name));
        write_private(&key, &self.root_identity.key_pem());
        fs::write(&certificate, self.root_identity.certificate_pem()).unwrap();
        Command::new(program())
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .env("KES_SERVER", format!("https://{}", self.address))
            .env("KES_CLIENT_KEY", key)
            .env("KES_CLIENT_CERT", certificate)
            .output()
            .unwrap()
    }

    /// The names in the key directory, sorted.
    pub fn key_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.keys()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    pub fn stdout(&self) -> String {
        self.read("stdout")
    }

    pub fn stderr(&self) -> String {
        self.read("stderr")
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.path().join(name)).unwrap()).into_owned()
    }

    /// Waits until the error log contains `text`.
    #[track_caller]
    pub fn logs_error(&self, text: &str) {
        let found = wait_for(PATIENCE, || self.stderr().contains(text).then_some(()));
        assert!(found.is_some(), "{text:?} is not in the error log:\n{}", self.stderr());
    }

    /// Asserts that of `total` lines with `text` in the error log, which others caused since `begin`, at
    /// most `per_second` were written each second, and that it tells how many `what` were left out.
    #[track_caller]
    pub fn limits_errors(
        &self,
        total: u64,
        text: &str,
        what: &str,
        per_second: u64,
        begin: Instant,
    ) {
        let more = format!(" more {what} within a second: left out of this log");
        let look = || {
            let stderr = self.stderr();
            let counts = stderr.lines().filter_map(|line| line.split_once(&more));
            let count = |(before, _): (&str, _)| before.rsplit(' ').next()?.parse::<u64>().ok();
            let left_out: u64 = counts.map(|found| count(found).unwrap()).sum();
            (stderr.matches(text).count() as u64, left_out)
        };
        let all = wait_for(PATIENCE, || {
            let (lines, left_out) = look();
            (lines + left_out >= total).then_some((lines, left_out))
        });
        let seconds = begin.elapsed().as_secs();
        let (lines, left_out) = all.unwrap_or_else(|| panic!("of {total}: {:?}", look()));
        assert_eq!(total, lines + left_out, "{lines} lines, {left_out} left out");
        assert!(lines >= per_second.min(total), "{lines} lines");
        assert!(lines <= per_second * (seconds + 2), "{lines} lines in {seconds} s");
    }

    /// Waits until there are `count` audit events, and returns all there are a moment later.
    pub fn audit(&self, count: usize) -> Vec<Value> {
        wait_for(PATIENCE, || (self.stdout().matches('\n').count() >= count).then_some(()));
        std::thread::sleep(Duration::from_millis(100));
        let stdout = self.stdout();
        // The last line may not be all there.
        let (whole, _) = stdout.rsplit_once('\n').unwrap_or_default();
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?}: {e}")))
            .collect()
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().count()
    }

    /// Resident memory in KiB.
    pub fn memory(&self) -> u64 {
        self.kernel_says("VmRSS:")
    }

    /// The most resident memory that there ever was, in KiB.
    pub fn peak_memory(&self) -> u64 {
        self.kernel_says("VmHWM:")
    }

    fn kernel_says(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let value = status.lines().find_map(|line| line.strip_prefix(field));
        let number = value.and_then(|text| text.trim().split(' ').next());
        number.unwrap().parse().unwrap()
    }

    /// A sample of `/v1/metrics`.
    pub fn metric(&self, name: &str) -> u64 {
        self.root().get("/v1/metrics").sample(name)
    }

    /// The time that processors have spent on it.
    pub fn cpu_time(&self) -> Duration {
        // In hundredths of a second on every machine; the name before them may have blanks.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, numbers) = stat.rsplit_once(") ").unwrap();
        let times = numbers.split(' ').skip(11).take(2);
        let ticks: u64 = times.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(10 * ticks)
    }

    /// Asserts that it comes to rest: in some second it takes hardly any time of processors.
    #[track_caller]
    pub fn comes_to_rest(&self) {
        let mut spent = Duration::ZERO;
        for _ in 0..5 {
            let before = self.cpu_time();
            std::thread::sleep(Duration::from_secs(1));
            spent = self.cpu_time() - before;
            if spent < Duration::from_millis(100) {
                return;
            }
        }
        panic!("{spent:?} in a second, for nothing");
    }

    /// The server's end of a connection.
    pub fn socket_of(&self, client: &TcpStream) -> Option<Socket> {
        Socket::find(self.address.port(), client.local_addr().unwrap().port())
    }

    /// Waits until the server has read all that the client has sent.
    #[track_caller]
    pub fn reads_all_of(&self, connection: &Connection) {
        let (client, server) = (connection.socket(), self.address.port());
        let port = client.local_addr().unwrap().port();
        wait_until("the server reads", || {
            let is_sent = Socket::find(port, server).is_none_or(|socket| socket.unsent == 0);
            is_sent && self.socket_of(client).is_none_or(|socket| socket.unread == 0)
        });
    }

    /// Waits until the server has closed its end, while the client reads nothing.
    #[track_caller]
    pub fn drops(&self, connection: &Connection) {
        wait_until("the connection is closed", || {
            !self.socket_of(connection.socket()).is_some_and(|socket| socket.is_established)
        });
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end of the process.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        wait_for(PATIENCE, || self.child.try_wait().unwrap()).expect("the server does not end")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_private(path: &Path, content: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    if !path.exists() && !content.is_empty() {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// The binary under test: that of this profile, or the one that `KES` names.
fn program() -> PathBuf {
    let named = std::env::var_os("KES").map(PathBuf::from);
    named.unwrap_or_else(|| env!("CARGO_BIN_EXE_kes").into())
}

fn spawn(config: &Config, address: SocketAddr) -> Child {
    config.file("config.yml", &config.yaml(address));
    let mut arguments = Vec::new();
    if !config.auth.is_empty() {
        arguments.extend(["--auth", config.auth]);
    }
    if config.is_quiet {
        arguments.push("-q");
    }
    let more = config.arguments.iter().map(|text| text.replace("@ADDRESS@", &address.to_string()));
    let more: Vec<_> = more.collect();
    arguments.extend(more.iter().map(|text| &**text));
    run(&config.directory, &config.environment, &config.passed, &arguments)
}

/// Starts a server with the file in `directory`.
fn run(
    directory: &Path,
    environment: &[(String, String)],
    passed: &[OwnedFd],
    arguments: &[&str],
) -> Child {
    let output = |name| File::create(directory.join(name)).unwrap();
    let mut command = program_with(passed, directory);
    command
        .arg("server")
        .arg("--config")
        .arg(directory.join("config.yml"))
        .args(arguments)
        .env_remove("SSL_CERT_FILE")
        .env_remove("SSL_CERT_DIR")
        .envs(environment.iter().cloned())
        .stderr(output("stderr"));
    if passed.is_empty() {
        command.stdin(Stdio::null()).stdout(output("stdout"));
    }
    command.spawn().unwrap()
}

/// The command that runs the binary, with these sockets as descriptors 3 and 4.
fn program_with(passed: &[OwnedFd], directory: &Path) -> Command {
    let copy = |socket: &OwnedFd| Stdio::from(socket.try_clone().unwrap());
    let [first, rest @ ..] = passed else { return Command::new(program()) };
    let mut command = Command::new("sh");
    // What a shell finds at 0 and 1 it can put at 3 and 4. Only it knows its own number.
    let script = "exec 3<&0 4<&1 0</dev/null 1>\"$STDOUT\"; export LISTEN_PID=${LISTEN_PID:-$$}; exec \"$@\"";
    command.args(["-c", script, "sh"]).arg(program());
    command.stdin(copy(first)).stdout(rest.first().map_or_else(Stdio::null, copy));
    command.env("STDOUT", directory.join("stdout"));
    command.env("LISTEN_FDS", passed.len().to_string());
    command
}
