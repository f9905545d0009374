//! The commands of the command line against servers of both generations, as transcripts in
//! `testdata/cli`: a line with `$` is called, and what it prints follows, lines of standard error behind
//! `! `, a line without an end before `⏎`, an exit code other than 0 behind `? `. With `& kill $!` at its
//! end, the command is ended with SIGTERM when it waits for that; `kill -HUP $!` comes before it. `script` runs
//! a command on a terminal.
//!
//! Values that differ from run to run are shown by their shape, such as `<time>`. API keys and identities
//! have numbers, so that the same one can be seen again; `$KEY1` is the first key. No secret is recorded.
//! With `KES_WRITE_TRANSCRIPTS` in the environment, the files are written anew.

use std::{
    collections::HashMap,
    ffi::OsString,
    fmt::Write as _,
    fs::{self, File, Permissions},
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Identity, Server, TempDir, stored_key, wait_until};

/// A server, a client of it that is root, and the values that have names.
struct Scene {
    server: Server,
    folder: TempDir,
    names: HashMap<String, String>,
}

impl Scene {
    fn new(is_newest: bool) -> Self {
        let mut app = Identity::new("app");
        let server = Server::start(|config| {
            config.is_newest = is_newest;
            // Lists are sorted.
            while app.id < config.root_identity.id {
                app = Identity::new("app");
            }
            config.policy("my-app", &["/v1/key/generate/my-*", "/v1/key/decrypt/my-*"], &[&app]);
        });
        let folder = TempDir::new();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("server.crt"), server.certificate.certificate_pem()).unwrap();
        fs::write(path("root.key"), server.root_identity.key_pem()).unwrap();
        fs::write(path("root.crt"), server.root_identity.certificate_pem()).unwrap();
        fs::write(path("policy.json"), r#"{"paths":["/v1/key/create/my-*"]}"#).unwrap();
        fs::create_dir(path("old-keys")).unwrap();
        let store = |root: &str, store: &str, keys: &Path| {
            format!("{root}\n{store}: {{fs: {{path: {}}}}}\n", keys.display())
        };
        let root = if is_newest { "admin: {identity: disabled}" } else { "root: disabled" };
        let own = if is_newest { "keystore" } else { "keys" };
        fs::write(path("own.yml"), store(root, own, &server.keys())).unwrap();
        let old = store("root: disabled", "keys", &path("old-keys"));
        fs::write(path("old.yml"), old).unwrap();
        fs::create_dir(path("other-keys")).unwrap();
        fs::write(path("other-keys/my-key"), stored_key(&[1; 32])).unwrap();
        let other = store("root: disabled", "keys", &path("other-keys"));
        fs::write(path("other.yml"), other).unwrap();
        fs::write(path("memory.yml"), format!("{root}\n")).unwrap();
        let mode = |name: &str, mode| {
            fs::set_permissions(path(name), Permissions::from_mode(mode)).unwrap();
        };
        fs::write(path("server.key"), server.certificate.key_pem()).unwrap();
        mode("server.key", 0o600);
        mode("old-keys", 0o700);
        let tls =
            format!("{root}\naddress: 127.0.0.1:0\ntls: {{key: server.key, cert: server.crt}}");
        fs::write(path("server.yml"), store(&tls, own, &path("old-keys"))).unwrap();
        let names = [
            ("APP", app.id.clone()),
            ("ROOT", server.root_identity.id.clone()),
            ("SERVER", server.certificate.id.clone()),
            ("ADDRESS", server.address.to_string()),
        ];
        let names = names.map(|(name, value)| (name.to_owned(), value)).into();
        Self { server, folder, names }
    }

    /// The command that `words` are, behind the variables that it gets.
    fn command(&self, words: &[String]) -> Command {
        let is_variable =
            |word: &String| word.split_once('=').is_some_and(|(name, _)| is_name(name));
        let (variables, words) =
            words.split_at(words.iter().position(|word| !is_variable(word)).unwrap());
        let mut path = OsString::from(Path::new(env!("CARGO_BIN_EXE_kes")).parent().unwrap());
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let file = |name: &str| self.folder.path().join(name);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", path)
            .env("KES_SERVER", format!("https://{}", self.server.address))
            .env("KES_CLIENT_KEY", file("root.key"))
            .env("KES_CLIENT_CERT", file("root.crt"))
            .env("SSL_CERT_FILE", file("server.crt"))
            .envs(variables.iter().map(|variable| variable.split_once('=').unwrap()))
            .stdin(Stdio::null());
        command
    }

    /// Runs a line, and returns what it did in the form of a transcript.
    fn run(&mut self, line: &str) -> String {
        let (call, lines) = match line.split_once(" | head -n ") {
            Some((call, count)) => (call, Some(count.parse().unwrap())),
            None => (line, None),
        };
        let (call, is_reloaded, is_ended) = match call.strip_suffix(" & kill $!") {
            Some(call) => (call, false, true),
            None => match call.strip_suffix(" & kill -HUP $! && kill $!") {
                Some(call) => (call, true, true),
                None => (call, false, false),
            },
        };
        let words = words(call, &self.names);
        let output = match lines {
            _ if is_ended => self.until_ended(&words, is_reloaded),
            None => self.command(&words).output().unwrap(),
            Some(count) => self.first_lines(&words, count),
        };
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        for member in ["plaintext", "ciphertext"] {
            let json = serde_json::from_str::<serde_json::Value>(&stdout).unwrap_or_default();
            if let Some(value) = json[member].as_str() {
                self.names.insert(member.to_uppercase(), value.to_owned());
            }
        }
        self.learn(&stdout);
        let mut said = self.shapes(&stdout);
        if !said.is_empty() && !said.ends_with('\n') {
            said += "⏎\n";
        }
        for line in self.shapes(&stderr).lines() {
            let _ = writeln!(said, "! {line}");
        }
        match output.status.code() {
            Some(0) => {}
            _ if lines.is_some() => {}
            code => {
                let _ = writeln!(said, "? {}", code.unwrap());
            }
        }
        said
    }

    /// What a command does that waits for signals: SIGHUP if `is_reloaded`, and SIGTERM.
    fn until_ended(&self, words: &[String], is_reloaded: bool) -> Output {
        let [out, err] = ["stdout", "stderr"].map(|name| self.folder.path().join(name));
        let mut command = self.command(words);
        let command = command.stdout(File::create(&out).unwrap());
        let mut child = command.stderr(File::create(&err).unwrap()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let is_waiting = match words.iter().any(|word| word == "server") {
            true => waits_for_reloads,
            false => catches_signals,
        };
        wait_until("it waits for signals, or has ended", || {
            child.try_wait().unwrap().is_some() || is_waiting(child.id())
        });
        if is_reloaded {
            let said = || fs::metadata(&err).unwrap().len();
            let before = said();
            kill_process(pid, Signal::HUP).unwrap();
            wait_until("it says that it has read its file again", || said() > before);
        }
        // It may have ended with an error, and is not waited for before that is known.
        if child.try_wait().unwrap().is_none() {
            kill_process(pid, Signal::TERM).unwrap();
        }
        let status = child.wait().unwrap();
        Output { status, stdout: fs::read(out).unwrap(), stderr: fs::read(err).unwrap() }
    }

    /// Gives numbers to the API keys and identities in `text` that are new.
    fn learn(&mut self, text: &str) {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "+/=:".contains(c);
        for word in text.split(|c| !is_part(c)) {
            let value = word.split_once('=').filter(|(name, _)| is_name(name));
            let word = value.map_or(word, |(_, value)| value);
            let kind = match word.strip_prefix("kes:v1:") {
                Some(key) => {
                    let bytes = BASE64_STANDARD.decode(key).expect("an API key is base64");
                    assert_eq!((33, 0), (bytes.len(), bytes[0]), "an API key of Ed25519");
                    "KEY"
                }
                None if is_identity(word) => "IDENTITY",
                None => continue,
            };
            if !self.names.values().any(|known| known == word) {
                let number = self.names.keys().filter(|name| is_numbered(name, kind)).count() + 1;
                self.names.insert(format!("{kind}{number}"), word.to_owned());
            }
        }
    }

    /// The first lines of a command that does not end by itself, while keys come and go, and handshakes fail.
    fn first_lines(&self, words: &[String], count: usize) -> Output {
        let mut child = self.command(words).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let is_done = AtomicBool::new(false);
        let mut text = String::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    for verb in ["create", "rm"] {
                        let tick = ["kes", "key", verb, "tick"].map(str::to_owned);
                        assert!(self.command(&tick).status().unwrap().success());
                    }
                    if let Ok(mut stream) = TcpStream::connect(self.server.address) {
                        let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
                    }
                    thread::sleep(Duration::from_millis(50));
                }
            });
            for _ in 0..count {
                stdout.read_line(&mut text).unwrap();
            }
            is_done.store(true, Ordering::Relaxed);
        });
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        Output { stdout: text.into_bytes(), ..output }
    }

    /// `text` with shapes instead of the values that differ from run to run.
    fn shapes(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.names {
            if !["PLAINTEXT", "CIPHERTEXT"].contains(&&**name) {
                text = text.replace(&**value, &format!("<{}>", name.to_lowercase()));
            }
        }
        text = text.replace(&format!("{}…", &self.names["ROOT"][..11]), "<root>      ");
        text = text.replace(&self.folder.path().display().to_string(), "<folder>");
        assert!(!text.contains("kes:v1:A"), "a secret would be recorded");
        text = text.replace('\x1b', "\\e").replace("\r\n", "\n");
        text = text.replace("/v1/key/delete/tick", "/v1/key/create/tick");
        text = text.replace(env!("CARGO_PKG_VERSION"), "<version>");
        text = text.replace("amd64", "<arch>").replace("arm64", "<arch>");
        text = without_clocks(&text);
        for label in ["  CPUs  ", "  Heap  ", "  Stack "] {
            if let Some((before, (_, after))) = text
                .split_once(label)
                .and_then(|(before, rest)| Some((before, rest.split_once('\n')?)))
            {
                text = format!("{before}{label}      <n>\n{after}");
            }
        }
        let is_part = |c: char| c.is_alphanumeric() || "+/=-_.".contains(c);
        let mut shaped = String::new();
        let mut rest = &*text;
        while let Some(start) = rest.find(is_part) {
            let (before, from) = rest.split_at(start);
            let (word, after) = from.split_at(from.find(|c| !is_part(c)).unwrap_or(from.len()));
            shaped += before;
            shaped += &shape(word, &shaped);
            rest = after;
        }
        shaped + rest
    }
}

/// Whether this server has started: it sets its signals first of all, and begins to wait for reloads last.
fn waits_for_reloads(process: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let name = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm"));
    threads.filter_map(|thread| name(thread).ok()).any(|name| name == "reload\n")
}

/// Whether this process has set SIGTERM to be more than its end.
fn catches_signals(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & (1 << (Signal::TERM.as_raw() - 1)) != 0)
}

/// Whether `text` is the name of a variable.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_uppercase() || c == b'_')
}

fn is_numbered(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind).is_some_and(|number| number.bytes().all(|c| c.is_ascii_digit()))
}

fn is_identity(text: &str) -> bool {
    let is_digit = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    text.len() == 64 && text.bytes().all(is_digit) && !text.starts_with("00000000")
}

/// `text` with `<clock>` for hours, minutes and seconds, and what follows of a time zone.
fn without_clocks(text: &str) -> String {
    let is_clock = |text: &[u8]| {
        text.iter().zip(b"00:00:00").all(|(c, form)| match form {
            b'0' => c.is_ascii_digit(),
            form => c == form,
        })
    };
    let bytes = text.as_bytes();
    let mut shaped = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes.get(at..at + 8) {
            Some(clock) if is_clock(clock) => {
                shaped.extend(b"<clock>");
                at += 8;
                // A fraction and a time zone.
                while bytes.get(at).is_some_and(|c| b".0123456789Z+".contains(c)) {
                    at += 1;
                }
            }
            _ => {
                shaped.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(shaped).unwrap()
}

/// `word`, or its shape; `before` stands before it.
fn shape(word: &str, before: &str) -> String {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let is_form = |form: &str| {
        let fits = |(c, form): (u8, u8)| if form == b'0' { c.is_ascii_digit() } else { c == form };
        word.len() >= form.len() && word.bytes().zip(form.bytes()).all(fits)
    };
    let is_duration = || {
        let number = word.trim_end_matches(['n', 'µ', 'm', 's', 'h']);
        word.ends_with('s')
            && !number.is_empty()
            && number.starts_with(|c: char| c.is_ascii_digit())
            && number.chars().all(|c| c.is_ascii_digit() || "m.h".contains(c))
    };
    let label = before.lines().last().unwrap_or_default();
    let is_api = label.starts_with("GET")
        || label.starts_with("PUT")
        || label.starts_with("POST")
        || label.starts_with("DELETE");
    let is_base64 = || {
        let is_of = |c: u8| c.is_ascii_alphanumeric() || b"+/=".contains(&c);
        word.len() >= 40 && word.bytes().all(is_of) && !word.starts_with("00000000")
    };
    match word {
        _ if is_form("0000-00-00T") => "<time>".to_owned(),
        _ if is_form("0000-00-00") || is_form("0000/00/00") => "<date>".to_owned(),
        _ if is_form("00") && label.ends_with("127.0.0.1:") => "<port>".to_owned(),
        _ if !is_api && is_duration() => "<duration>".to_owned(),
        _ if is_base64() => "<base64>".to_owned(),
        // Numbers in JSON, and memory.
        _ if digits(word) && before.ends_with("\":") && !before.ends_with("\"code\":") => {
            "<n>".to_owned()
        }
        _ => word.to_owned(),
    }
}

/// The words of a line as a shell has them.
fn words(line: &str, names: &HashMap<String, String>) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for c in line.chars() {
        match c {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    let value = |word: String| match word.split_once('$') {
        Some((before, name)) => {
            format!("{before}{}", names.get(name).unwrap_or_else(|| panic!("no {name} yet")))
        }
        None => word,
    };
    words.into_iter().map(value).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn replay(file: &str, is_newest: bool) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/cli").join(file);
    let recorded = fs::read_to_string(&path).unwrap();
    let mut scene = Scene::new(is_newest);
    let mut found = String::new();
    for line in recorded.lines() {
        if let Some(call) = line.strip_prefix("$ ") {
            let _ = write!(found, "$ {call}\n{}", scene.run(call));
        } else if line.starts_with('#') {
            let _ = writeln!(found, "{line}");
        }
    }
    if std::env::var_os("KES_WRITE_TRANSCRIPTS").is_some() {
        fs::write(&path, &found).unwrap();
    }
    let differ = recorded.lines().zip(found.lines()).find(|(one, other)| one != other);
    assert_eq!(recorded, found, "the first difference: {differ:?}");
}

#[test]
fn commands_print_what_their_transcript_with_a_server_of_0_14_says() {
    replay("v0.14.txt", false);
}

#[test]
fn commands_print_what_their_transcript_with_a_server_of_the_newest_generation_says() {
    replay("newest.txt", true);
}

#[test]
fn commands_that_need_no_server_print_what_their_transcript_says() {
    replay("local.txt", true);
}
