//! A client of Go, which SDKs are built on: `tests/tools/ask.go`.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::OnceLock,
};

use serde_json::{Value, json};

use super::{Identity, Response, Server};

/// The built program; `None`, after saying so, where there is no Go.
fn program() -> Option<&'static PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM
        .get_or_init(|| {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stand-in");
            // Nothing is downloaded, no other version of Go either.
            let built = Command::new("go")
                .args(["build", "-o"])
                .arg(&path)
                .arg(".")
                .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools"))
                .envs([("GOPROXY", "off"), ("GOTOOLCHAIN", "local")])
                .status();
            let Ok(status) = built else {
                assert_ne!(Ok("true"), std::env::var("CI").as_deref(), "Go is missing");
                eprintln!("skipped: Go is missing");
                return None;
            };
            assert!(status.success(), "tests/tools does not build");
            Some(path)
        })
        .as_ref()
}

/// A running client, which keeps its connections.
pub struct Go {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Go {
    pub fn is_there() -> bool {
        program().is_some()
    }

    pub fn start(server: &Server, identity: &Identity) -> Self {
        let file = |name: String, text: String| {
            let path = server.file(&name);
            fs::write(&path, text).unwrap();
            path
        };
        let id = &identity.id;
        let mut child = Command::new(program().unwrap())
            .arg("ask")
            .args(["-to", &server.address.to_string()])
            .arg("-ca")
            .arg(server.file("server.crt"))
            .arg("-cert")
            .arg(file(format!("{id}.crt"), identity.certificate_pem()))
            .arg("-key")
            .arg(file(format!("{id}.key"), identity.key_pem()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let requests = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, requests, answers }
    }

    pub fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: &str,
    ) -> Response {
        let headers: BTreeMap<_, _> = headers.iter().cloned().collect();
        let request = json!({ "method": method, "path": path, "headers": headers, "body": body });
        writeln!(self.requests, "{request}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert!(answer["error"].is_null(), "{method} {path}: {answer}");
        assert_eq!("HTTP/2.0", answer["protocol"], "a client of Go chooses HTTP/2");
        let pairs = |member: &str| {
            let object = answer[member].as_object().cloned().unwrap_or_default();
            let text = |value: Value| value.as_str().unwrap().to_owned();
            object.into_iter().map(|(name, value)| (name, text(value))).collect()
        };
        Response {
            version: "HTTP/2".to_owned(),
            status: answer["status"].as_u64().unwrap() as u16,
            phrase: String::new(),
            headers: pairs("headers"),
            body: answer["body"].as_str().unwrap().as_bytes().to_vec(),
            trailers: pairs("trailers"),
        }
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
