//! A KeySecure appliance that `tests/tools/keysecure.py` simulates, over TLS.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{Authority, Config, Profile, Server, TempDir, server::Refusal, wait_for};

pub const TOKEN: &str = "refresh-token-of-the-tests";

/// A simulated appliance; it ends with the test.
pub struct Appliance {
    child: Child,
    pub port: u16,
    pub control_port: u16,
    /// The newest TLS that it speaks.
    pub tls: &'static str,
    directory: TempDir,
}

impl Appliance {
    /// `None`, after saying so, where there is no Python.
    pub fn start() -> Option<Self> {
        let python = Command::new("python3")
            .args(["-c", "import sys; sys.exit(sys.version_info < (3, 10))"])
            .status();
        if !python.is_ok_and(|status| status.success()) {
            assert_ne!(Ok("true"), std::env::var("CI").as_deref(), "python3 is missing");
            eprintln!("skipped: python3 is missing, or older than 3.10");
            return None;
        }
        let directory = TempDir::new();
        let authority = Authority::new("appliance");
        let server = authority.issue("appliance", &Profile::server());
        let write = |name: &str, text: String| fs::write(directory.path().join(name), text);
        write("ca.crt", authority.identity.certificate_pem()).unwrap();
        write("server.crt", server.certificate_pem()).unwrap();
        write("server.key", server.key_pem()).unwrap();
        let mut appliance = Self {
            child: Command::new("true").spawn().unwrap(),
            port: 0,
            control_port: 0,
            tls: "1.3",
            directory,
        };
        appliance.spawn();
        Some(appliance)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the process, on the ports that it had.
    pub fn spawn(&mut self) {
        let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/keysecure.py");
        let token = format!("{TOKEN}=tenant");
        self.child = Command::new("python3")
            .arg(tool)
            .arg("--until-eof")
            .args(["--token", TOKEN, "--token", &token, "--tls", self.tls])
            .args(["--port", &self.port.to_string()])
            .args(["--control-port", &self.control_port.to_string()])
            .arg("--cert")
            .arg(self.file("server.crt"))
            .arg("--key")
            .arg(self.file("server.key"))
            .arg("--state")
            .arg(self.file("state"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = self.child.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let ports: Value = serde_json::from_str(&line).unwrap();
        let port = |name: &str| u16::try_from(ports[name].as_u64().unwrap()).unwrap();
        (self.port, self.control_port) = (port("port"), port("control_port"));
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Lets it do nothing until it is told to go on: whoever asks it waits.
    pub fn pause(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
        // A thread may still be in the middle of an answer.
        let stopped = wait_for(Duration::from_secs(10), || self.is_stopped().then_some(()));
        assert!(stopped.is_some(), "the appliance does not stop");
    }

    /// Whether each of its threads has stopped.
    fn is_stopped(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let state = |task: fs::DirEntry| fs::read_to_string(task.path().join("stat"));
        tasks
            .filter_map(|task| state(task.unwrap()).ok())
            .all(|state| state.rsplit(") ").next().is_some_and(|state| state.starts_with('T')))
    }

    pub fn go_on(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    pub fn control(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut socket = TcpStream::connect(("127.0.0.1", self.control_port)).unwrap();
        let body = body.to_string();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        write!(socket, "{head}Content-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
        serde_json::from_str(body).unwrap()
    }

    pub fn turn(&self, knobs: Value) {
        self.control("POST", "/", &knobs);
    }

    /// Lets `fault` happen to the next calls.
    pub fn fault(&self, fault: Value) {
        self.turn(json!({ "faults": [fault] }));
    }

    /// A counter, such as `calls/token`.
    pub fn count(&self, pointer: &str) -> u64 {
        let report = self.control("GET", "/", &json!({}));
        let found = report.pointer(&format!("/{pointer}")).unwrap().as_u64();
        found.unwrap()
    }

    /// What stands under `keys` in the configuration.
    pub fn settings(&self) -> String {
        self.settings_with("", TOKEN, "ca.crt")
    }

    pub fn settings_with(&self, domain: &str, token: &str, ca: &str) -> String {
        let (port, ca) = (self.port, self.file(ca).display().to_string());
        format!(
            "gemalto: {{keysecure: {{endpoint: \"https://127.0.0.1:{port}\", \
             credentials: {{token: {token}, domain: {domain:?}, retry: 1s}}, tls: {{ca: {ca:?}}}}}}}"
        )
    }

    pub fn server(&self) -> Server {
        Server::start(|config| self.configure(config))
    }

    pub fn configure(&self, config: &mut Config) {
        config.key_store = self.settings();
    }

    /// A server that does not start.
    pub fn refusal(&self) -> Refusal {
        let started = Server::try_start(|config| self.configure(config));
        started.err().expect("the server starts")
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
