//! `kes config convert` on each older file of the tests, which are in `testdata/configurations/older.txt`: a
//! server with the file and one with what it becomes get the same requests. Their answers differ only in what
//! the conversion has announced.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    sync::Mutex,
    time::Duration,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::common::{
    Appliance, Authority, Bao, Client, Connection, Identity, Profile, Server, TempDir,
    appliance::TOKEN,
    base64, cases,
    certificates::pem,
    comparison::{Comparison, Difference},
    probe_address, stored_key,
    transcript::Answer,
};

/// A file, and how its server is started.
#[derive(Default)]
struct Older {
    name: String,
    text: String,
    flags: String,
    /// The flags of the conversion, if they are others.
    convert: Option<String>,
    /// What keeps it from being converted.
    refused: Option<String>,
    /// Keys stay in the cache for about a second.
    is_short: bool,
}

/// The files, as `README.md` beside them says.
fn older() -> Vec<Older> {
    let path = "testdata/configurations/older.txt";
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let pages = ["page-2021", "page-2021-vault"].map(|name| {
        let path = format!("testdata/configurations/{name}.yml");
        let file = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
        section(&format!("{name}\n{file}"))
    });
    text.split("\n=== ").skip(1).map(section).chain(pages).collect()
}

impl Older {
    fn needs_vault(&self) -> bool {
        self.text.contains("@VAULT@")
    }
}

fn section(text: &str) -> Older {
    let (name, mut rest) = text.split_once('\n').unwrap();
    let mut older =
        Older { name: name.to_owned(), flags: "--auth off".to_owned(), ..Older::default() };
    let (mut end, mut start, mut is_cut) = ("\n", "", false);
    while let Some((line, text)) = rest.split_once('\n') {
        let (option, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.trim();
        match option {
            "flags" => older.flags = value.to_owned(),
            "convert with" => older.convert = Some(value.to_owned()),
            "refused" => older.refused = Some(value.to_owned()),
            "keys leave the cache" => older.is_short = true,
            "lines end with" => end = "\r\n",
            "no line end" => is_cut = true,
            "begins with" => start = "\u{feff}",
            _ => break,
        }
        rest = text;
    }
    let rest = if is_cut { rest.trim_end() } else { rest };
    older.text = format!("{start}{}", rest.replace('\n', end));
    older
}
/// Everything outside that files name.
struct Site {
    root: Identity,
    app: Identity,
    ops: Identity,
    proxy: Identity,
    stranger: Identity,
    /// Its certificate is trusted only where all are.
    outsider: Identity,
    authorities: String,
    appliance: Appliance,
}

impl Site {
    fn new() -> Self {
        let authority = Authority::new("authority");
        let issue = |name| authority.issue(name, &Profile::client());
        Self {
            root: issue("root"),
            app: issue("app"),
            ops: issue("ops"),
            proxy: issue("proxy"),
            stranger: issue("stranger"),
            outsider: Identity::new("outsider"),
            authorities: authority.identity.certificate_pem(),
            appliance: Appliance::start(),
        }
    }

    /// What is put in the place of names in files.
    fn values(&self, directory: &Path, bao: Option<&Bao>) -> Vec<(&'static str, String)> {
        let path = |name: &str| directory.join(name).display().to_string();
        let mut values = vec![
            ("@ADMIN@", self.root.id.clone()),
            ("@APP@", self.app.id.clone()),
            ("@OPS@", self.ops.id.clone()),
            ("@PROXY@", self.proxy.id.clone()),
            ("@KEY@", path("server.key")),
            ("@CERT@", path("server.crt")),
            ("@KEYS@", path("keys")),
            ("@PROBE@", probe_address().to_string()),
            ("@KEYSECURE@", format!("https://127.0.0.1:{}", self.appliance.port)),
            ("@KEYSECURE_CA@", self.appliance.file("ca.crt").display().to_string()),
            ("@TOKEN@", TOKEN.to_owned()),
        ];
        if let Some(bao) = bao {
            values.extend([
                ("@VAULT@", bao.address.clone()),
                ("@VAULT_CA@", bao.ca().display().to_string()),
                ("@ROLE_ID@", bao.role_id.clone()),
                ("@SECRET_ID@", bao.secret_id.clone()),
            ]);
        }
        values
    }

    /// The variables that files name.
    fn environment(&self, values: &[(&str, String)]) -> Vec<(String, String)> {
        let value = |name: &str| values.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
        let of = [
            ("ROOT", "@ADMIN@"),
            ("MINIO_KES_IDENTITY", "@ADMIN@"),
            ("ID", "@APP@"),
            ("DIR", "@KEYS@"),
            ("TOKEN", "@TOKEN@"),
        ];
        let vault = [("ROLE_ID", "@ROLE_ID@"), ("SECRET_ID", "@SECRET_ID@")];
        let of = of.into_iter().chain(vault).filter_map(|(name, of)| Some((name, value(of)?)));
        let fixed = [
            ("TIME", "90s"),
            ("SWITCH", "on"),
            ("GROUP", "P-256"),
            ("NUMBER", "70"),
            ("PORT", "7373"),
        ];
        let fixed = fixed.map(|(name, value)| (name, value.to_owned()));
        of.chain(fixed).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn filled_in(text: &str, values: &[(&str, String)]) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// The keys that are there before the server is. Of the first one there is a ciphertext.
const KEYS: [&str; 4] = ["my-key", "a", "x-1", "dotted.key"];

/// The bytes of one of `KEYS`.
fn bytes_of(name: &str) -> [u8; 32] {
    [u8::from(name != KEYS[0]); 32]
}

/// A client of the files.
struct Sender {
    name: &'static str,
    client: Client,
    /// The certificate that it forwards, as a line of the head.
    header: String,
}

struct Request {
    method: &'static str,
    path: String,
    body: String,
}

/// Each API with several names, where it takes one; what changes policies comes last, and what it has made goes.
fn requests(identities: &[&str]) -> Vec<Request> {
    let mut all = Vec::new();
    let mut add = |method, path: &str, body: &str| {
        all.push(Request { method, path: path.to_owned(), body: body.to_owned() });
    };
    let case = cases("ciphertexts.json").remove(0);
    let sealed = json!({ "ciphertext": case["ciphertext"] }).to_string();
    let imported = json!({ "bytes": base64([7; 32]) }).to_string();
    add("GET", "/version", "");
    for name in ["my-app", "my-app-1", "a", "b", "x-1", "dotted.name", "my-app/x", ""] {
        add("POST", &format!("/v1/key/create/{name}"), "");
    }
    add("PUT", "/v1/key/create/my-put", "");
    for name in ["my-import", "a"] {
        add("POST", &format!("/v1/key/import/{name}"), &imported);
    }
    for name in ["my-key", "my-app-1", "a", "x-1", "none", "dotted.key"] {
        add("POST", &format!("/v1/key/generate/{name}"), "{}");
        add("POST", &format!("/v1/key/encrypt/{name}"), "{\"plaintext\":\"aGVsbG8=\"}");
    }
    add("POST", "/v1/key/generate/my-key", "");
    for name in ["my-key", "a", "none"] {
        add("POST", &format!("/v1/key/decrypt/{name}"), &sealed);
        add("POST", &format!("/v1/key/bulk/decrypt/{name}"), &format!("[{sealed}]"));
        add("POST", &format!("/v1/key/hmac/{name}"), "{\"message\":\"aGVsbG8=\"}");
        add("GET", &format!("/v1/key/describe/{name}"), "");
    }
    for pattern in ["*", "my-*", "none*", "a", ""] {
        add("GET", &format!("/v1/key/list/{pattern}"), "");
        add("GET", &format!("/v1/policy/list/{pattern}"), "");
    }
    add("GET", "/v1/identity/list/*", "");
    add("GET", "/v1/identity/self/describe", "");
    for name in ["app", "my-app", "my.app", "a.b", "a-b-2", "ops", "none"] {
        add("GET", &format!("/v1/policy/read/{name}"), "");
        add("GET", &format!("/v1/policy/describe/{name}"), "");
    }
    for identity in identities.iter().chain(&["none"]) {
        add("GET", &format!("/v1/identity/describe/{identity}"), "");
    }
    for path in [
        "/v1/log/audit",
        "/v1/log/error",
        "/v1/log/audit/trace",
        "/v1/log/error/trace",
        "/v1/log/log/error/trace",
        "/v1/metrics",
        "/v1/status",
        "/v1/ready",
        "/v1/api",
        "/v1/key/create/a",
        "/v1/nothing",
        "/v1/enclave/create/a",
    ] {
        add("GET", path, "");
    }
    for name in ["a", "my-key", "none", "x-1"] {
        add("DELETE", &format!("/v1/key/delete/{name}"), "");
    }
    add("POST", "/v1/policy/write/new", "{\"paths\":[\"/version\"]}");
    add("POST", "/v1/policy/assign/new", "{\"identity\":\"someone\"}");
    add("POST", "/v1/identity/assign/new/somebody", "");
    add("DELETE", "/v1/identity/forget/somebody", "");
    add("DELETE", "/v1/identity/delete/someone", "");
    add("DELETE", "/v1/policy/delete/new", "");
    all
}

/// What was asked, and the answer.
struct Asked {
    /// The client, or what else was looked at.
    who: &'static str,
    method: &'static str,
    path: String,
    answer: Answer,
}

/// Something that is no answer.
fn noted(what: &'static str, text: impl Into<String>) -> Asked {
    let body = text.into().into_bytes();
    let answer = Answer { body, status: 200, ..Answer::default() };
    Asked { who: what, method: "", path: String::new(), answer }
}

/// A running server with a file.
struct Scene<'a> {
    site: &'a Site,
    older: &'a Older,
    server: Server,
    values: Vec<(&'static str, String)>,
    /// What its key store is, if that is Vault; it ends with the scene.
    _bao: Option<Bao>,
}

impl<'a> Scene<'a> {
    fn start(site: &'a Site, older: &'a Older) -> Self {
        let mut values = Vec::new();
        // One of its own: in the same engine, the keys of one file would be those of another.
        let bao = if older.needs_vault() { Bao::start() } else { None };
        let server = Server::start(|config| {
            let directory = config.keys().parent().unwrap().to_owned();
            values = site.values(&directory, bao.as_ref());
            config.text = filled_in(&older.text, &values);
            config.auth = "";
            config.root_identity = site.root.clone();
            config.arguments = words(&older.flags, &values);
            config.environment = site.environment(&values);
            let file = config.file("authorities.pem", &site.authorities);
            config.environment.push(("SSL_CERT_FILE".to_owned(), file.display().to_string()));
            put_keys(&config.keys());
        });
        values.push(("@ADDRESS@", server.address.to_string()));
        Self { site, older, server, values, _bao: bao }
    }

    fn is_remote(&self) -> bool {
        ["@VAULT@", "@KEYSECURE@"].iter().any(|name| self.older.text.contains(name))
    }

    fn senders(&self) -> Vec<Sender> {
        let Site { root, app, ops, proxy, stranger, .. } = self.site;
        let sender = |name, identity: &Identity, forwarded: Option<&Identity>| {
            let header = forwarded.map_or_else(String::new, |forwarded| {
                let pem = pem("CERTIFICATE", &forwarded.chain[0]);
                let text = utf8_percent_encode(&pem, NON_ALPHANUMERIC);
                format!("X-Tls-Client-Cert: {text}\r\n")
            });
            Sender { name, client: self.server.client(identity), header }
        };
        let has = |name: &str| self.older.text.contains(name);
        let mut senders = vec![sender("root", root, None)];
        if has("@APP@") || has("${ID}") {
            senders.push(sender("app", app, None));
        }
        if has("@OPS@") {
            senders.push(sender("ops", ops, None));
        }
        if has("@PROXY@") {
            senders.push(sender("app through a proxy", proxy, Some(app)));
            senders.push(sender("root through a proxy", proxy, Some(root)));
        }
        senders.push(sender("a stranger", stranger, None));
        senders
    }

    /// Sends everything, and ends the server.
    fn look(&mut self) -> Vec<Asked> {
        if self.is_remote() {
            self.put_remote_keys();
        }
        let Site { root, app, ops, outsider, .. } = self.site;
        let base = files(&self.server.keys());
        let names: Vec<_> = base.keys().map(String::as_str).collect();
        let mut seen = vec![noted("keys after the start", names.join(" "))];
        let requests = requests(&[&root.id, &app.id, &ops.id]);
        for sender in self.senders() {
            self.ask(&sender, &requests, &base, &mut seen);
        }
        let result = |worked: bool| if worked { "works" } else { "is refused" };
        let outdated = self.server.outdated().try_connect().is_ok();
        seen.push(noted("TLS 1.2", result(outdated)));
        let anonymous = self.server.anonymous().try_request("GET", "/version", b"").is_ok();
        seen.push(noted("no certificate", result(anonymous)));
        let outsider = self.server.client(outsider).try_request("GET", "/version", b"").is_ok();
        seen.push(noted("an outsider", result(outsider)));
        seen.extend(self.probe());
        if !self.is_remote() {
            seen.push(noted("the cache", self.cache()));
        }
        self.server.end();
        let audit = self.server.stdout();
        let lines = audit.lines().map(|line| serde_json::from_str(line).unwrap());
        let lines: Vec<Value> = lines
            .filter(|line: &Value| !line["request"]["path"].to_string().contains("/log/"))
            .collect();
        let events = lines
            .iter()
            .map(|line| format!("{} {}\n", line["request"]["path"], line["request"]["identity"]));
        seen.push(noted("audit events", events.collect::<String>()));
        let shape = lines.first().map_or(Value::Null, |line| line["request"].clone());
        let shape =
            shape.as_object().map(|members| members.keys().cloned().collect::<Vec<_>>().join(" "));
        seen.push(noted("an audit line", shape.unwrap_or_default()));
        seen
    }

    fn ask(
        &self,
        sender: &Sender,
        requests: &[Request],
        base: &BTreeMap<String, String>,
        seen: &mut Vec<Asked>,
    ) {
        let mut connection = sender.client.connect();
        for Request { method, path, body } in requests {
            let answer = send(&mut connection, sender, method, path, body);
            // The body of a log goes on.
            if answer.is_cut || answer.header("Connection") == Some("close") {
                connection = sender.client.connect();
            }
            let parts = ["/create/", "/import/", "/key/delete/"];
            let is_change = parts.iter().any(|part| path.contains(part));
            let mut kind = None;
            match (is_change, self.is_remote()) {
                (true, true) if answer.status == 200 => self.restore_remote(path),
                (true, false) => {
                    kind = Some(made(&self.server.keys(), base));
                    restore(&self.server.keys(), base);
                }
                _ => {}
            }
            let asked =
                |method, answer| Asked { who: sender.name, method, path: path.clone(), answer };
            seen.push(asked(*method, Answer { is_cut: false, ..answer }));
            if let Some(kind) = kind {
                seen.push(asked("file of", noted("", kind).answer));
            }
        }
    }

    /// What a probe gets, if there are probes.
    fn probe(&self) -> Option<Asked> {
        let (_, address) = self.values.iter().find(|(name, _)| *name == "@PROBE@")?;
        self.older.text.contains("@PROBE@").then_some(())?;
        let mut socket = TcpStream::connect(address).unwrap();
        write!(socket, "GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        Some(noted("a probe", text.split("\r\n").next().unwrap()))
    }

    /// What becomes of a key that is cached when its file goes.
    fn cache(&self) -> &'static str {
        let file = self.server.keys().join("my-key");
        let text = fs::read(&file).unwrap();
        let senders = self.senders();
        let generate = |sender: &Sender| sender.client.post("/v1/key/generate/my-key", "{}").status;
        let Some(sender) = senders.iter().find(|sender| generate(sender) == 200) else {
            return "nobody can tell";
        };
        // A key may go between two requests if the machine is very busy.
        for _ in 0..3 {
            generate(sender);
            fs::remove_file(&file).unwrap();
            // Each look is a use, so there are few.
            let looks = if self.older.is_short { 20 } else { 1 };
            let is_gone = (0..looks).any(|_| {
                std::thread::sleep(Duration::from_millis(if looks > 1 { 1300 } else { 0 }));
                generate(sender) == 404
            });
            fs::write(&file, &text).unwrap();
            if is_gone == self.older.is_short {
                return if is_gone { "it goes" } else { "it stays" };
            }
        }
        panic!("{}: a key leaves the cache, or does not", self.older.name)
    }

    fn put_remote_keys(&self) {
        let mut root = self.server.root().connect();
        for name in KEYS {
            let body = json!({ "bytes": base64(bytes_of(name)) }).to_string();
            root.request("POST", &format!("/v1/key/import/{name}"), body);
        }
    }

    fn restore_remote(&self, path: &str) {
        let name = path.rsplit('/').next().unwrap();
        match KEYS.contains(&name) {
            true => self.put_remote_keys(),
            false => drop(self.server.root().delete(&format!("/v1/key/delete/{name}"))),
        }
    }

    /// Runs the command on the file, and starts the server with what it becomes. What it has said.
    fn convert(&mut self) -> String {
        let flags = self.older.convert.as_ref().unwrap_or(&self.older.flags);
        let [old, new] = ["config.yml", "new.yml"].map(|name| self.server.file(name));
        let mut args = words(flags, &self.values);
        args.extend(["-o".to_owned(), new.display().to_string(), old.display().to_string()]);
        let args: Vec<_> =
            ["config", "convert"].into_iter().chain(args.iter().map(|arg| &**arg)).collect();
        let output = self.server.kes(&args);
        let said = String::from_utf8(output.stderr).unwrap();
        let code = if said.contains("WARNING:") { 3 } else { 0 };
        assert_eq!(Some(code), output.status.code(), "{}: {said}", self.older.name);
        fs::rename(new, old).unwrap();
        let keys = self.server.keys();
        restore(&keys, &BTreeMap::new());
        put_keys(&keys);
        self.server.start_again(&["-q"]);
        said
    }
}

fn words(text: &str, values: &[(&str, String)]) -> Vec<String> {
    text.split_whitespace().map(|word| filled_in(word, values)).collect()
}

fn send(
    connection: &mut Connection,
    sender: &Sender,
    method: &str,
    path: &str,
    body: &str,
) -> Answer {
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    let header = &sender.header;
    connection.send(format!("{method} {path} HTTP/1.1\r\nHost: kes\r\n{header}{length}\r\n{body}"));
    if !path.starts_with("/v1/log/") {
        return connection.response().into();
    }
    let mut head = connection.try_head().unwrap();
    if head.status == 200 {
        return Answer { is_cut: true, ..head.into() };
    }
    let length = head.header("Content-Length").unwrap().parse().unwrap();
    head.body = connection.take(length).unwrap();
    head.into()
}

fn put_keys(directory: &Path) {
    for name in KEYS {
        fs::write(directory.join(name), stored_key(&bytes_of(name))).unwrap();
    }
}

fn files(directory: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (name, fs::read_to_string(entry.path()).unwrap())
    };
    entries.map(file).collect()
}

/// The format of the file that is there beside those of `base`.
fn made(directory: &Path, base: &BTreeMap<String, String>) -> &'static str {
    let now = files(directory);
    match now.iter().find(|(name, _)| !base.contains_key(*name)) {
        Some((_, text)) if text.starts_with('{') => "JSON",
        Some(_) => "protobuf",
        None => "none",
    }
}

fn restore(directory: &Path, base: &BTreeMap<String, String>) {
    let now = files(directory);
    for name in now.keys().filter(|name| !base.contains_key(*name)) {
        fs::remove_file(directory.join(name)).unwrap();
    }
    for (name, text) in base.iter().filter(|(name, text)| now.get(*name) != Some(text)) {
        fs::write(directory.join(name), text).unwrap();
    }
}

/// A difference between two answers.
struct Seen<'a> {
    who: &'a str,
    request: String,
    path: &'a str,
    /// What differs, such as `status`, and how.
    field: &'a str,
    from: &'a str,
    to: &'a str,
    before: &'a Answer,
    after: &'a Answer,
    /// Policies that have other names now.
    renamed: &'a [(String, String)],
    /// The line that announces it.
    line: &'a str,
    is_remote: bool,
}

impl Seen<'_> {
    fn statuses(&self) -> (u16, u16) {
        (self.before.status, self.after.status)
    }

    /// The last element of the path.
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    fn has_plain_name(&self) -> bool {
        !self.path.contains("my-app/x") && !self.name().contains('.')
    }

    fn is_list(&self) -> bool {
        self.path.contains("/list/") && self.statuses() == (200, 200)
    }

    /// Whether a name that only one list has is one of these.
    fn is_about(&self, is_it: impl Fn(&str) -> bool) -> bool {
        self.is_list()
            && self.field == "name"
            && is_it(&format!("{}{}", self.from, self.to).replace("absent", ""))
    }
}

/// What the conversion announces, and the differences that it may mean. Each row is needed by some file.
type Row = (&'static str, fn(&Seen<'_>) -> bool);

const ALLOWED: &[Row] = &[
    ("clients may also use TLS 1.2", |seen| {
        seen.who == "TLS 1.2" && (seen.from, seen.to) == ("is refused", "works")
    }),
    ("policies, and the identities that have them, change with the file only", |seen| {
        let apis = [
            "/v1/policy/write/",
            "/v1/policy/assign/",
            "/v1/policy/delete/",
            "/v1/identity/assign/",
            "/v1/identity/forget/",
            "/v1/identity/delete/",
        ];
        let is_gone = apis.iter().any(|api| seen.path.starts_with(api)) && seen.after.status == 404;
        // A client may write policies, but not delete them.
        is_gone || seen.is_about(|name| ["new", "someone", "somebody"].contains(&name))
    }),
    ("others can't be used or asked for", |seen| {
        let is_refused =
            [400, 403].contains(&seen.after.status) || (seen.from, seen.to) == ("JSON", "none");
        !seen.has_plain_name() && is_refused
    }),
    ("lists find names by their start", |seen| {
        seen.is_about(|name| {
            !seen.path.ends_with('*') && !seen.from.contains(name) && name.starts_with(seen.name())
        })
    }),
    ("are one JSON object each", |seen| {
        let is_read =
            seen.path.starts_with("/v1/policy/read/") || seen.path == "/v1/identity/self/describe";
        let is_admin = seen.path.starts_with("/v1/identity/list/") && seen.from == "absent";
        let has_shape = [
            "shape",
            "header Content-Type",
            "header Content-Length",
            "trailer Status",
            "trailer Error",
        ]
        .contains(&seen.field);
        (seen.is_list() && (has_shape || is_admin && seen.to == "the administrator"))
            || (is_read && seen.statuses() == (200, 200) && seen.field.starts_with("body."))
    }),
    ("a key to delete that is not there is answered with 404", |seen| {
        seen.request.starts_with("DELETE /v1/key/delete/") && seen.statuses() == (200, 404)
    }),
    ("a generate without a body is as one with {}", |seen| {
        seen.path.starts_with("/v1/key/generate/") && seen.statuses() == (400, 200)
    }),
    ("have other headers, limits and times", |seen| {
        seen.field.starts_with("header ")
            || ["/v1/api", "/version"].contains(&seen.path) && seen.statuses() == (200, 200)
            || seen.before.status == 405 && seen.to == seen.from.replace("POST", "PUT")
    }),
    ("metrics tell status codes apart", |seen| {
        seen.path == "/v1/metrics" && seen.statuses() == (200, 200) && seen.field == "samples"
    }),
    ("new keys and ciphertexts have formats", |seen| {
        let is_made_again = seen.is_remote
            && ["/v1/key/hmac/", "/v1/key/describe/"].iter().any(|api| seen.path.starts_with(api));
        (seen.request.starts_with("file of ") && seen.to == "protobuf")
            || (seen.field == "body.ciphertext" && seen.after.status == 200)
            || (is_made_again && seen.after.status == 200)
    }),
    ("audit lines have the newest format", |seen| seen.who == "an audit line"),
    ("can't be said by a prefix", |seen| {
        let apis = seen.line.split("so ").nth(1).unwrap().split(" is left out").next().unwrap();
        let is_lost = apis.split(", ").any(|api| seen.path.starts_with(api));
        is_lost
            && (seen.after.status == 403
                || (seen.request.starts_with("file of ") && seen.to == "none"))
    }),
    ("is called", |seen| {
        let is_old = |name: &str| seen.renamed.iter().any(|(old, _)| old == name);
        let is_new = |name: &str| seen.renamed.iter().any(|(_, new)| new == name);
        let is_found = seen.path.starts_with("/v1/policy/") && seen.statuses() == (404, 200);
        let of = |text: &str| text.trim_matches('"').to_owned();
        (is_found && is_new(seen.name()))
            || seen.field == "body.policy" && is_old(&of(seen.from)) && is_new(&of(seen.to))
            || seen.is_about(|name| is_old(name) || is_new(name))
    }),
    ("is no identity, and the newest format refuses it", |seen| {
        seen.is_about(|name| seen.line.contains(&format!("\"{name}\" is no identity")))
    }),
    ("can't be used in the newest generation", |seen| {
        let is_it = |name: &str| seen.line.contains(&format!("key \"{name}\" "));
        seen.is_about(is_it) || seen.who == "keys after the start"
    }),
    ("the newest KES has no TLS proxies", |seen| {
        let is_refused = [403, 404].contains(&seen.after.status) || seen.to == "none";
        seen.who.ends_with("through a proxy") && is_refused || seen.who == "audit events"
    }),
    ("certificates of clients must be trusted", |seen| {
        seen.who == "an outsider" && (seen.from, seen.to) == ("works", "is refused")
    }),
];

/// A field and its values before and after.
type Field = (String, String, String);

/// The names in a list of either generation.
fn names(answer: &Answer) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(&answer.body);
    let values = serde_json::Deserializer::from_str(&text).into_iter::<Value>().map(Result::unwrap);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut names = BTreeSet::new();
    for value in values {
        match &value {
            Value::Array(list) => names.extend(list.iter().map(text)),
            Value::Object(members) => {
                match (members.get("Name"), members.get("names").or(members.get("identities"))) {
                    (Some(name), _) => drop(names.insert(text(name))),
                    (_, Some(list)) => names.extend(list.as_array().unwrap().iter().map(text)),
                    _ => names.extend(members.keys().cloned()),
                }
            }
            _ => panic!("no list: {value}"),
        }
    }
    names
}

/// The families of metrics, and their samples without the values.
fn metrics(answer: &Answer) -> [String; 2] {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let lines = |is_wanted: fn(&&str) -> bool| {
        let lines = text.lines().filter(is_wanted);
        lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned() + "\n").collect::<String>()
    };
    [lines(|line| line.starts_with("# TYPE")), lines(|line| !line.starts_with('#'))]
}

/// What differs between two answers.
fn differences(before: &Asked, after: &Asked, admin: &str) -> Vec<Field> {
    let (a, b) = (&before.answer, &after.answer);
    if ["", "file of"].contains(&before.method) {
        let [a, b] = [a, b].map(|answer| String::from_utf8_lossy(&answer.body).into_owned());
        return if a == b { Vec::new() } else { vec![("text".into(), a, b)] };
    }
    let mut comparison = Comparison { is_unordered: true, ..Comparison::default() };
    comparison.answers(std::slice::from_ref(a), std::slice::from_ref(b));
    let all = comparison.differences.into_iter();
    let mut all: Vec<_> =
        all.map(|Difference { field, recorded, ours }| (field, recorded, ours)).collect();
    if (a.status, b.status) != (200, 200) {
        return all;
    }
    if before.path.contains("/list/") {
        // Its content, and that it looks otherwise.
        let others = all.len();
        all.retain(|(field, ..)| !field.starts_with("body"));
        if all.len() < others {
            all.push(("shape".into(), String::new(), String::new()));
        }
        let (old, new) = (names(a), names(b));
        let absent = || "absent".to_owned();
        all.extend(old.difference(&new).map(|name| ("name".into(), name.clone(), absent())));
        all.extend(new.difference(&old).map(|name| {
            let name = if name == admin { "the administrator" } else { name };
            ("name".into(), absent(), name.to_owned())
        }));
    }
    if before.path == "/v1/metrics" {
        all.retain(|(field, ..)| !field.starts_with("body"));
        for (field, (a, b)) in
            ["families", "samples"].into_iter().zip(metrics(a).into_iter().zip(metrics(b)))
        {
            if a != b {
                all.push((field.into(), a, b));
            }
        }
    }
    all
}

/// Takes the audit events of requests whose answers differ, which is looked at anyway, from both.
fn leave_out_events_of_others(before: &mut [Asked], after: &mut [Asked]) {
    let pairs = before.iter().zip(&*after);
    let differing = pairs.filter(|(before, after)| before.answer.status != after.answer.status);
    let paths: BTreeSet<_> = differing.map(|(before, _)| format!("{:?} ", before.path)).collect();
    for asked in before.iter_mut().chain(after).filter(|asked| asked.who == "audit events") {
        let text = String::from_utf8_lossy(&asked.answer.body).into_owned();
        let is_left = |line: &&str| !paths.iter().any(|path| line.starts_with(&**path));
        let lines = text.lines().filter(is_left).map(|line| format!("{line}\n"));
        asked.answer.body = lines.collect::<String>().into_bytes();
    }
}

/// What came of a file.
struct Outcome {
    requests: usize,
    /// How many differences each row of the table allows.
    allowed: Vec<usize>,
    /// Differences that nothing announced.
    others: Vec<String>,
}

fn play(site: &Site, older: &Older) -> Outcome {
    let mut scene = Scene::start(site, older);
    let mut before = scene.look();
    if older.name == "readme" {
        all_apis_are_asked_for(&before);
    }
    let said = scene.convert();
    let mut after = scene.look();
    leave_out_events_of_others(&mut before, &mut after);
    let config = fs::read_to_string(scene.server.file("config.yml")).unwrap();
    let admin = config.split("identity").nth(1).unwrap().chars();
    let admin = admin.skip_while(|c| !c.is_alphanumeric()).take_while(|c| c.is_alphanumeric());
    let admin: String = admin.collect();
    let admin = if ["ROOT", "MINIO"].contains(&&*admin) { &site.root.id } else { &admin };
    let renamed = said.lines().filter_map(|line| {
        let (old, new) = line.split_once(" is called \"")?;
        let (_, old) = old.split_once("policy \"")?;
        Some((old.strip_suffix('"')?.to_owned(), new.strip_suffix('"')?.to_owned()))
    });
    let renamed: Vec<_> = renamed.collect();
    let mut outcome = Outcome { requests: 0, allowed: vec![0; ALLOWED.len()], others: Vec::new() };
    assert_eq!(before.len(), after.len(), "{}", older.name);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((before.who, &before.path), (after.who, &after.path));
        outcome.requests += usize::from(!before.path.is_empty() && before.method != "file of");
        for (field, from, to) in differences(before, after, admin) {
            let mut seen = Seen {
                who: before.who,
                request: format!("{} {}", before.method, before.path),
                path: &before.path,
                field: &field,
                from: &from,
                to: &to,
                before: &before.answer,
                after: &after.answer,
                renamed: &renamed,
                line: "",
                is_remote: scene.is_remote(),
            };
            let row = ALLOWED.iter().position(|(announcement, allows)| {
                said.lines().filter(|line| line.contains(announcement)).any(|line| {
                    seen.line = line;
                    allows(&seen)
                })
            });
            match row {
                Some(row) => outcome.allowed[row] += 1,
                None => outcome.others.push(format!(
                    "{}: {}: {}: {field}: {from} -> {to}",
                    older.name, before.who, seen.request
                )),
            }
        }
    }
    outcome
}

/// Asserts that no API of 0.14 is left out.
fn all_apis_are_asked_for(asked: &[Asked]) {
    let list = asked.iter().find(|asked| asked.path == "/v1/api" && asked.answer.status == 200);
    let list: Value = serde_json::from_slice(&list.unwrap().answer.body).unwrap();
    for api in list.as_array().unwrap() {
        let path = api["path"].as_str().unwrap();
        assert!(asked.iter().any(|asked| asked.path.starts_with(path)), "{path}");
    }
}

/// A file that can't be converted is refused for the reason that is known.
fn refuse(site: &Site, older: &Older, reason: &str) {
    let directory = TempDir::new();
    let values = site.values(directory.path(), None);
    let file = directory.path().join("config.yml");
    fs::write(&file, filled_in(&older.text, &values).replace("@ADDRESS@", "127.0.0.1:7373"))
        .unwrap();
    let flags = words(&older.flags.replace("@ADDRESS@", "127.0.0.1:7373"), &values);
    let output = Command::new(env!("CARGO_BIN_EXE_kes"))
        .args(["config", "convert"])
        .args(flags)
        .arg(file)
        .env_clear()
        .envs(site.environment(&values))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(Some(78), output.status.code(), "{}: {said}", older.name);
    assert!(said.contains(reason), "{}: {said}", older.name);
    assert!(output.stdout.is_empty(), "{}", older.name);
}

#[test]
fn a_converted_file_answers_as_before_but_for_what_was_announced() {
    let site = Site::new();
    let all = older();
    let queue = Mutex::new(all.iter());
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some(older) = queue.lock().unwrap().next() else { break };
                    match &older.refused {
                        Some(reason) => refuse(&site, older, reason),
                        None if older.needs_vault() && !Bao::is_there() => {}
                        None => outcomes.lock().unwrap().push(play(&site, older)),
                    }
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    let requests: usize = outcomes.iter().map(|outcome| outcome.requests).sum();
    let refused = all.iter().filter(|older| older.refused.is_some()).count();
    println!(
        "{} files, of which {} are converted, {refused} can't be; {requests} requests to each server",
        all.len(),
        outcomes.len()
    );
    let mut unused = Vec::new();
    for (row, (announcement, _)) in ALLOWED.iter().enumerate() {
        let count: usize = outcomes.iter().map(|outcome| outcome.allowed[row]).sum();
        println!("{count:>6} {announcement}");
        if count == 0 {
            unused.push(announcement);
        }
    }
    let others: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.others).collect();
    assert!(others.is_empty(), "{} differences without an announcement: {others:#?}", others.len());
    assert!(unused.is_empty(), "no difference is of these rows: {unused:#?}");
}
