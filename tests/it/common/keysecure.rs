//! A simulator of the part of Gemalto KeySecure / Thales CipherTrust that stores secrets, written from
//! descriptions of its REST API. Numeric codes and wordings of errors are made up.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use httparse::{Status, parse_chunk_size};
use percent_encoding::percent_decode_str;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const SECRETS: [&str; 4] = ["api", "v1", "vault", "secrets"];
const TOKENS: [&str; 4] = ["api", "v1", "auth", "tokens"];

/// What a test can change: see [`Simulator::turn`].
#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Knobs {
    /// Seconds that the answer with a token states; anything, also 0 and less.
    duration: i64,
    /// Seconds after which tokens really expire; as stated without it.
    lifetime: Option<f64>,
    /// What the answer says instead of `Bearer`.
    token_type: String,
    /// What the answer holds instead of a fresh token.
    jwt: Option<String>,
    /// Refresh tokens are unknown.
    refuse_token: bool,
    /// Creates are answered with 201 but store nothing.
    ignore_writes: bool,
    /// Is added to `skip` in the answers to lists.
    wrong_skip: i64,
    faults: Vec<Fault>,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            duration: 300,
            lifetime: None,
            token_type: "Bearer".to_owned(),
            jwt: None,
            refuse_token: false,
            ignore_writes: false,
            wrong_skip: 0,
            faults: Vec::new(),
        }
    }
}

/// What goes wrong with the next calls; of several the first one that matches.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    /// How many calls; `null`: all.
    #[serde(default = "once")]
    count: Option<u64>,
    /// Only calls with this method.
    method: Option<String>,
    /// Only calls whose path, with its query, starts so.
    #[serde(default)]
    path: String,
    #[serde(default)]
    when: When,
    /// Seconds to wait.
    #[serde(default)]
    delay: f64,
    /// What is answered instead, with an error in JSON or with `body`.
    status: Option<u16>,
    body: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The connection is closed without an answer.
    #[serde(default)]
    drop: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum When {
    /// The call does not take effect; a delay is before it does.
    #[default]
    Before,
    /// It takes effect first.
    After,
    /// It takes effect, and the drop comes amid the answer.
    Within,
}

#[allow(clippy::unnecessary_wraps)]
fn once() -> Option<u64> {
    Some(1)
}

struct Answer {
    status: u16,
    body: String,
    content_type: &'static str,
    headers: BTreeMap<String, String>,
}

impl Answer {
    fn text(status: u16, body: impl Into<String>) -> Self {
        let content_type = "text/plain; charset=utf-8";
        Self { status, body: body.into(), content_type, headers: BTreeMap::new() }
    }

    fn json(status: u16, body: &Value) -> Self {
        let content_type = "application/json; charset=utf-8";
        Self { content_type, ..Self::text(status, body.to_string()) }
    }

    fn error(status: u16, text: &str) -> Self {
        let (code, name) = match status {
            400 => (4, "NCERRBadRequest"),
            401 => (1, "NCERRAuthFailure"),
            403 => (5, "NCERRForbidden"),
            404 => (6, "NCERRResourceNotFound"),
            405 => (7, "NCERRMethodNotAllowed"),
            409 => (11, "NCERRConflict"),
            422 => (22, "NCERRInvalidParamValue"),
            500 => (2, "NCERRInternalServerError"),
            503 => (3, "NCERRServiceUnavailable"),
            _ => (99, "NCERRUnknown"),
        };
        Self::json(status, &json!({ "code": code, "codeDesc": format!("{name}: {text}") }))
    }

    fn bytes(&self) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} Simulated\r\n", self.status);
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if self.status != 204 {
            let (kind, length) = (self.content_type, self.body.len());
            let _ = write!(text, "Content-Type: {kind}\r\nContent-Length: {length}\r\n");
        }
        format!("{text}\r\n{}", self.body).into_bytes()
    }

    fn send(&self, connection: &mut Connection) -> io::Result<()> {
        connection.write_all(&self.bytes())?;
        connection.flush()
    }
}

/// What the appliance knows. The knobs and counters are those since its last start.
#[derive(Default)]
struct State {
    knobs: Knobs,
    counters: HashMap<String, u64>,
    /// The domain and the end of each token.
    jwts: HashMap<String, (String, Instant)>,
    /// The secrets of each domain, in the order of their creation.
    domains: HashMap<String, Vec<Value>>,
}

impl State {
    fn count(&mut self, name: &str) {
        *self.counters.entry(name.to_owned()).or_default() += 1;
    }

    fn take_fault(&mut self, method: &str, url: &str) -> Option<Fault> {
        let hits = |fault: &&mut Fault| {
            fault.count != Some(0)
                && fault.method.as_ref().is_none_or(|wanted| wanted == method)
                && url.starts_with(&fault.path)
        };
        let fault = self.knobs.faults.iter_mut().find(hits)?;
        fault.count = fault.count.map(|count| count - 1);
        Some(fault.clone())
    }

    /// Answers a call, which takes effect. `Err` is an answer, too.
    fn perform(&mut self, call: &Call<'_>, tokens: &[(&str, &str)]) -> Result<Answer, Answer> {
        if !call.url.starts_with("/api/v1/") {
            return Ok(Answer::text(404, "404 page not found\n"));
        }
        if call.kind == "token" {
            return self.issue(&parse(call.body)?, tokens);
        }
        let Some(authorization) = call.authorization else {
            return Ok(Answer::text(401, "Unauthorized\n"));
        };
        let jwt = authorization.strip_prefix("Bearer ").unwrap_or_default();
        let Some((domain, end)) = self.jwts.get(jwt).cloned() else {
            self.count("unknown_jwt");
            return Err(Answer::error(401, "invalid token"));
        };
        if Instant::now() >= end {
            self.count("expired_jwt");
            return Err(Answer::error(401, "token is expired"));
        }
        let known = self.domains.entry(domain.clone()).or_default();
        match call.kind {
            "create" => {
                let secret = parse(call.body)?;
                for member in ["name", "dataType", "material"] {
                    if secret[member].as_str().is_none_or(str::is_empty) {
                        return Err(Answer::error(422, &format!("{member} is missing or no text")));
                    }
                }
                if secret["dataType"] != "seed" {
                    return Err(Answer::error(422, "unsupported dataType"));
                }
                if known.iter().any(|other| other["name"] == secret["name"]) {
                    return Err(Answer::error(409, "Resource already exists"));
                }
                let secret = new_secret(&domain, &secret);
                let answer = Answer::json(201, &metadata(&secret));
                if !self.knobs.ignore_writes {
                    known.push(secret);
                }
                Ok(answer)
            }
            "export" => Ok(Answer::json(200, &known[call.find(known)?])),
            "delete" => {
                known.remove(call.find(known)?);
                Ok(Answer::text(204, ""))
            }
            "list" => {
                let number = |name, default| match call.query(name) {
                    None => Ok(default),
                    Some(text) => text
                        .parse::<u32>()
                        .map_err(|_| Answer::error(400, "limit and skip must be numbers")),
                };
                let (limit, skip) = (number("limit", 10)?, number("skip", 0)?);
                let page = known.iter().skip(skip as usize).take(limit as usize);
                let resources: Vec<_> = page.map(metadata).collect();
                let skip = i64::from(skip) + self.knobs.wrong_skip;
                Ok(Answer::json(
                    200,
                    &json!({ "skip": skip, "limit": limit, "total": known.len(), "resources": resources }),
                ))
            }
            _ if [SECRETS, TOKENS]
                .contains(&call.path.as_slice().try_into().unwrap_or([""; 4])) =>
            {
                Err(Answer::error(405, &format!("{} is not allowed", call.method)))
            }
            _ => Err(Answer::error(404, "Resource not found")),
        }
    }

    fn issue(&mut self, request: &Value, tokens: &[(&str, &str)]) -> Result<Answer, Answer> {
        if request["grant_type"] != "refresh_token" {
            return Err(Answer::error(400, "unsupported grant type"));
        }
        let domain = request.get("domain").unwrap_or(&json!("")).as_str().map(ToOwned::to_owned);
        let (Some(token), Some(domain)) = (request["refresh_token"].as_str(), domain) else {
            return Err(Answer::error(400, "refresh_token and domain must be text"));
        };
        if self.knobs.refuse_token || !tokens.contains(&(token, &domain)) {
            self.count("tokens_refused");
            return Err(Answer::error(401, "invalid refresh token"));
        }
        self.count("tokens_issued");
        let Knobs { duration, lifetime, token_type, jwt, .. } = &self.knobs;
        let jwt = jwt.clone().unwrap_or_else(|| {
            let part = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
            let header = part(br#"{"alg":"HS256","typ":"JWT"}"#);
            format!("{header}.{}.{}", part(&random::<16>()), part(&random::<32>()))
        });
        #[allow(clippy::cast_precision_loss)]
        let lifetime = lifetime.unwrap_or(*duration as f64).max(0.0);
        let answer = json!({
            "jwt": jwt,
            "token_type": token_type,
            "duration": duration,
            "client_id": "5a2f3b6e-7f0d-5a0e-9a39-1f6b2f1f0a01",
            "refresh_token_id": "e0f6c4fe-22c4-5f7e-8a6b-0e4f5f6a7b02",
            "refresh_token": token,
        });
        self.jwts.insert(jwt, (domain, Instant::now() + Duration::from_secs_f64(lifetime)));
        Ok(Answer::json(200, &answer))
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

fn new_secret(domain: &str, wanted: &Value) -> Value {
    let name = wanted["name"].as_str().unwrap();
    let space = if domain.is_empty() { "kylo" } else { domain };
    json!({
        "id": super::hex(&random::<32>()),
        "uri": format!("kylo:{space}:vault:secrets:{name}-v0"),
        "name": name,
        "dataType": wanted["dataType"],
        "version": 0,
        "createdAt": "2026-01-02T03:04:05.678901Z",
        "updatedAt": "2026-01-02T03:04:05.678901Z",
        "material": wanted["material"],
    })
}

/// A secret without its value.
fn metadata(secret: &Value) -> Value {
    let mut secret = secret.clone();
    secret.as_object_mut().unwrap().remove("material");
    secret
}

fn parse(body: &[u8]) -> Result<Value, Answer> {
    let value: Value =
        serde_json::from_slice(body).map_err(|_| Answer::error(400, "malformed JSON"))?;
    if value.is_object() { Ok(value) } else { Err(Answer::error(400, "not a JSON object")) }
}

/// A call, taken apart.
struct Call<'a> {
    method: &'a str,
    url: &'a str,
    /// The segments of the path, as sent.
    path: Vec<&'a str>,
    /// The name of its counter.
    kind: &'static str,
    authorization: Option<&'a str>,
    body: &'a [u8],
}

impl Call<'_> {
    fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.url.split_once('?')?;
        query.split('&').find_map(|member| member.strip_prefix(name)?.strip_prefix('='))
    }

    /// Where the secret is that the path names, by its id or with `type=name` by its name.
    fn find(&self, known: &[Value]) -> Result<usize, Answer> {
        let member = match self.query("type") {
            None | Some("id") => "id",
            Some("name") => "name",
            Some(_) => return Err(Answer::error(400, "unsupported type")),
        };
        let key = percent_decode_str(self.path[SECRETS.len()]).decode_utf8();
        let key = key.map_err(|_| Answer::error(400, "the path is not UTF-8"))?;
        let found = known.iter().position(|secret| secret[member] == *key);
        found.ok_or_else(|| Answer::error(404, "Resource not found"))
    }
}

/// The appliance. Its data and tokens survive [`Simulator::kill`].
pub struct Simulator {
    shared: Arc<Shared>,
    port: u16,
}

struct Shared {
    /// Refresh tokens, each with its domain.
    tokens: Vec<(&'static str, &'static str)>,
    state: Mutex<State>,
    gate: Mutex<Gate>,
    changed: Condvar,
}

/// Held while bytes are sent or a call takes effect, so that neither happens after a kill or a pause.
#[derive(Default)]
struct Gate {
    is_paused: bool,
    /// Counts kills.
    life: u64,
    connections: Vec<TcpStream>,
}

impl Simulator {
    pub fn new(tokens: Vec<(&'static str, &'static str)>) -> Self {
        let (state, gate, changed) = (Mutex::default(), Mutex::default(), Condvar::new());
        Self { shared: Arc::new(Shared { tokens, state, gate, changed }), port: 0 }
    }

    /// Listens, on the port that it had before; the port.
    pub fn start(&mut self, config: Arc<ServerConfig>) -> u16 {
        if self.port == 0 {
            self.port = super::free_port();
        }
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        let shared = self.shared.clone();
        let life = shared.gate().life;
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let socket = socket.unwrap();
                let mut gate = shared.gate();
                if gate.life != life {
                    return;
                }
                gate.connections.push(socket.try_clone().unwrap());
                drop(gate);
                let (shared, config) = (shared.clone(), config.clone());
                std::thread::spawn(move || {
                    let tls = ServerConnection::new(config).unwrap();
                    let socket = Gated { socket, shared: shared.clone(), life };
                    // Its end, however it comes about, is that of the connection.
                    let _ = shared.serve(&mut StreamOwned::new(tls, socket), life);
                });
            }
        });
        self.port
    }

    /// Ends it as SIGKILL would: nothing listens, and all connections are closed.
    pub fn kill(&self) {
        let connections = {
            let mut gate = self.shared.gate();
            gate.life += 1;
            gate.is_paused = false;
            std::mem::take(&mut gate.connections)
        };
        self.shared.changed.notify_all();
        for socket in connections {
            let _ = socket.shutdown(Shutdown::Both);
        }
        // Each look wakes the listener, which then ends.
        let is_closed = || TcpStream::connect(("127.0.0.1", self.port)).is_err().then_some(());
        super::wait_for(super::PATIENCE, is_closed).expect("it does not end");
        let mut state = self.shared.state();
        state.knobs = Knobs::default();
        state.counters.clear();
    }

    /// Lets nothing happen until [`Simulator::go_on`].
    pub fn pause(&self) {
        self.shared.gate().is_paused = true;
    }

    pub fn go_on(&self) {
        self.shared.gate().is_paused = false;
        self.shared.changed.notify_all();
    }

    /// Changes the knobs that `wanted` names. First of all, `reset` sets them and the counters back,
    /// and `revoke` makes all tokens unknown.
    pub fn turn(&self, mut wanted: Value) {
        let wanted = wanted.as_object_mut().unwrap();
        let mut state = self.shared.state();
        if wanted.remove("reset").is_some() {
            state.knobs = Knobs::default();
            state.counters.clear();
        }
        if wanted.remove("revoke").is_some() {
            state.jwts.clear();
        }
        let mut knobs = serde_json::to_value(&state.knobs).unwrap();
        knobs.as_object_mut().unwrap().append(wanted);
        state.knobs = serde_json::from_value(knobs).unwrap();
    }

    /// A counter: `calls/` and a kind of call, `tokens_issued`, `tokens_refused`, `unknown_jwt`,
    /// `expired_jwt` or `not_json_type`.
    pub fn count(&self, name: &str) -> u64 {
        self.shared.state().counters.get(name).copied().unwrap_or_default()
    }

    /// How many secrets a domain has.
    pub fn secrets(&self, domain: &str) -> usize {
        self.shared.state().domains.get(domain).map_or(0, Vec::len)
    }

    /// The value of a secret.
    pub fn material(&self, domain: &str, name: &str) -> String {
        let state = self.shared.state();
        let found = state.domains[domain].iter().find(|secret| secret["name"] == name);
        found.unwrap()["material"].as_str().unwrap().to_owned()
    }

    /// Stores a secret of the root domain.
    pub fn add(&self, name: &str) {
        let secret = json!({ "name": name, "dataType": "seed", "material": "m" });
        let mut state = self.shared.state();
        state.domains.entry(String::new()).or_default().push(new_secret("", &secret));
    }

    /// The tokens that are known.
    pub fn jwts(&self) -> Vec<String> {
        self.shared.state().jwts.keys().cloned().collect()
    }
}

type Connection = StreamOwned<ServerConnection, Gated>;

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap()
    }

    /// Waits while the appliance is paused, and fails once it has ended.
    fn pass(&self, life: u64) -> io::Result<MutexGuard<'_, Gate>> {
        let mut gate = self.gate();
        while gate.is_paused && gate.life == life {
            gate = self.changed.wait(gate).unwrap();
        }
        if gate.life == life { Ok(gate) } else { Err(ErrorKind::ConnectionAborted.into()) }
    }

    /// Answers the calls of a connection, one after the other.
    fn serve(&self, connection: &mut Connection, life: u64) -> io::Result<()> {
        let mut input = Vec::new();
        while let Some(request) = Request::read(connection, &mut input)? {
            let is_json = request.content_type.starts_with("application/json");
            let call = request.call();
            let fault = {
                let mut state = self.state();
                state.count(&format!("calls/{}", call.kind));
                if !call.body.is_empty() && !is_json {
                    state.count("not_json_type");
                }
                state.take_fault(call.method, call.url)
            };
            let perform = || {
                let _gate = self.pass(life)?;
                let answer = self.state().perform(&call, &self.tokens);
                io::Result::Ok(answer.unwrap_or_else(|refusal| refusal))
            };
            let Some(fault) = fault else {
                perform()?.send(connection)?;
                continue;
            };
            let done = if fault.when == When::Before { None } else { Some(perform()?) };
            std::thread::sleep(Duration::from_secs_f64(fault.delay));
            if fault.drop && fault.when != When::Within {
                return Ok(());
            }
            let answer = match (fault.status, done) {
                (None, Some(done)) => done,
                (None, None) => perform()?,
                (Some(status), _) => {
                    let answer = match fault.body {
                        Some(body) => Answer::text(status, body),
                        None => Answer::error(status, "simulated failure"),
                    };
                    Answer { headers: fault.headers, ..answer }
                }
            };
            if fault.drop {
                let bytes = answer.bytes();
                let half = bytes.len() - answer.body.len().div_ceil(2).max(1);
                connection.write_all(&bytes[..half])?;
                return connection.flush();
            }
            answer.send(connection)?;
        }
        Ok(())
    }
}

/// The socket of a connection. Dropped, it ends without the farewell of TLS.
struct Gated {
    socket: TcpStream,
    shared: Arc<Shared>,
    life: u64,
}

impl Read for Gated {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.read(bytes)?;
        drop(self.shared.pass(self.life)?);
        Ok(count)
    }
}

impl Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _gate = self.shared.pass(self.life)?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        // The gate has a handle of it, too.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

struct Request {
    method: String,
    url: String,
    authorization: Option<String>,
    content_type: String,
    body: Vec<u8>,
}

/// A body of this length, or in chunks, and where it ends; `None` if it is not whole yet.
fn body(input: &[u8], length: Option<usize>) -> Option<(Vec<u8>, usize)> {
    if let Some(length) = length {
        return Some((input.get(..length)?.to_vec(), length));
    }
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Status::Complete((start, size)) = parse_chunk_size(&input[at..]).unwrap() else {
            return None;
        };
        let (start, size) = (at + start, usize::try_from(size).unwrap());
        at = start + size + "\r\n".len();
        body.extend(input.get(start..at)?.split_at(size).0);
        if size == 0 {
            return Some((body, at));
        }
    }
}

impl Request {
    /// Reads one; `None` if there are no more. `input` is what was read and not yet needed.
    fn read(connection: &mut Connection, input: &mut Vec<u8>) -> io::Result<Option<Self>> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut head = httparse::Request::new(&mut headers);
            let parsed = head.parse(input).map_err(io::Error::other)?;
            let header = |name: &str| {
                let found =
                    head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
                found.map(|header| String::from_utf8_lossy(header.value).into_owned())
            };
            let length = match header("Content-Length") {
                _ if header("Transfer-Encoding").is_some() => None,
                length => Some(length.map_or(0, |length| length.parse().unwrap())),
            };
            if let Status::Complete(start) = parsed
                && let Some((body, end)) = body(&input[start..], length)
            {
                let request = Self {
                    method: head.method.unwrap().to_owned(),
                    url: head.path.unwrap().to_owned(),
                    authorization: header("Authorization"),
                    content_type: header("Content-Type").unwrap_or_default(),
                    body,
                };
                input.drain(..start + end);
                return Ok(Some(request));
            }
            let mut bytes = [0; 16 * 1024];
            match connection.read(&mut bytes)? {
                0 => return Ok(None),
                count => input.extend(&bytes[..count]),
            }
        }
    }

    fn call(&self) -> Call<'_> {
        let path = self.url.split('?').next().unwrap_or_default();
        let path: Vec<_> = path.split('/').skip(1).collect();
        let kind = match (self.method.as_str(), path.as_slice()) {
            ("POST", path) if path == TOKENS => "token",
            ("POST", path) if path == SECRETS => "create",
            ("GET", path) if path == SECRETS => "list",
            ("DELETE", [space @ .., _]) if space == SECRETS => "delete",
            ("POST", [space @ .., _, "export"]) if space == SECRETS => "export",
            // By itself the server looks whether the appliance is there.
            ("GET", [""]) => "look",
            _ => "other",
        };
        let Self { method, url, authorization, body, .. } = self;
        Call { method, url, path, kind, authorization: authorization.as_deref(), body }
    }
}
