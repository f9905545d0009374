//! What object servers and SDKs send, and the answers that they insist on: the scripts of
//! `testdata/clients`, whose README says how they are read.

use std::{collections::BTreeMap, fs, path::Path};

use crate::common::{
    Client, Go, Http2, Identity, Response, Server,
    http2::{END_HEADERS, END_STREAM, block, frame, kind},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;

/// What an object server with all it can do needs.
const MINIO: [&str; 15] = [
    "/v1/key/bulk/decrypt/*",
    "/v1/key/create/*",
    "/v1/key/decrypt/*",
    "/v1/key/delete/*",
    "/v1/key/describe/*",
    "/v1/key/generate/*",
    "/v1/key/hmac/*",
    "/v1/key/list/*",
    "/v1/status",
    "/v1/api",
    "/v1/metrics",
    "/v1/policy/describe/*",
    "/v1/policy/list/*",
    "/v1/policy/read/*",
    "/v1/identity/describe/*",
];
const LIMITED: [&str; 2] = ["/v1/key/generate/*", "/v1/key/decrypt/*"];

/// One request of a script.
#[derive(Default)]
struct Step {
    line: usize,
    method: String,
    path: String,
    client: String,
    headers: Vec<(String, String)>,
    body: String,
    /// The configuration, which may be any, the status, and the pattern.
    answers: Vec<(Option<String>, u16, String)>,
}

/// The configurations of a script, and its requests.
fn parse(text: &str) -> (Vec<String>, Vec<Step>) {
    let (mut configurations, mut steps, mut is_new) = (Vec::new(), Vec::<Step>::new(), true);
    for (at, line) in text.lines().enumerate() {
        let names: &[String] = &configurations;
        let name = names.iter().find(|name| line.starts_with(&format!("{name}: ")));
        let answer = name.map_or(line, |name| &line[name.len() + 2..]);
        let (first, rest) = answer.split_once(' ').unwrap_or((answer, ""));
        match line.chars().next() {
            Some('#') => {}
            None => is_new = true,
            Some('@') => {
                configurations = line[1..].split(',').map(|name| name.trim().to_owned()).collect()
            }
            Some(_) if is_new => {
                is_new = false;
                let (path, client) = rest.split_once(" as ").unwrap_or((rest, "minio"));
                let [method, path, client] = [first, path, client].map(str::to_owned);
                steps.push(Step { line: at + 1, method, path, client, ..Step::default() });
            }
            Some(_) => {
                let step = steps.last_mut().unwrap();
                if let Ok(status) = first.parse() {
                    step.answers.push((name.cloned(), status, rest.to_owned()));
                } else if line.starts_with(['{', '[']) {
                    line.clone_into(&mut step.body);
                } else {
                    let (name, value) = line.split_once(": ").unwrap();
                    step.headers.push((name.to_owned(), value.to_owned()));
                }
            }
        }
    }
    (configurations, steps)
}

/// A client of either version with the headers that those of Go send, or one of Go itself.
enum Link {
    One(Client),
    Two(Box<Http2>),
    Go(Go),
}

const LINKS: [&str; 3] = ["HTTP/1.1", "HTTP/2", "Go"];

impl Link {
    /// The answer to the request of `step` with this path and body.
    fn ask(&mut self, step: &Step, path: &str, body: &str) -> Response {
        if let Self::Go(go) = self {
            return go.ask(&step.method, path, &step.headers, body);
        }
        let is_announced = !body.is_empty() || matches!(&*step.method, "POST" | "PUT");
        let length = is_announced.then(|| ("Content-Length".to_owned(), body.len().to_string()));
        let go = [("User-Agent", "Go-http-client"), ("Accept-Encoding", "gzip")];
        let go = go.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let headers = go.into_iter().chain(length).chain(step.headers.clone());
        match self {
            Self::One(client) => {
                let lines: String =
                    headers.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                let mut connection = client.connect();
                let method = &step.method;
                connection
                    .send(format!("{method} {path} HTTP/1.1\r\nHost: kes\r\n{lines}\r\n{body}"));
                connection.response()
            }
            Self::Two(http2) => {
                let headers: Vec<_> =
                    headers.map(|(name, value)| (name.to_lowercase(), value)).collect();
                let headers: Vec<_> =
                    headers.iter().map(|(name, value)| (&**name, &**value)).collect();
                let stream = http2.stream();
                let end = if body.is_empty() { END_STREAM } else { 0 };
                let head = block(&step.method, path, &headers);
                let mut bytes = frame(kind::HEADERS, END_HEADERS | end, stream, head);
                if !body.is_empty() {
                    bytes.extend(frame(kind::DATA, END_STREAM, stream, body));
                }
                http2.send(bytes);
                http2.answer(stream)
            }
            Self::Go(_) => unreachable!("it adds its headers itself"),
        }
    }
}

/// Whether `value` is what `pattern` says; learns the texts that it names.
fn matches(pattern: &Value, value: &Value, texts: &mut BTreeMap<String, String>) -> bool {
    let bytes = || BASE64_STANDARD.decode(value.as_str()?).ok();
    let is_text = value.as_str().is_some_and(|text| !text.is_empty());
    match (pattern, value) {
        (Value::String(pattern), _) if pattern.starts_with('<') => match &**pattern {
            "<text>" => is_text,
            "<number>" => value.is_u64(),
            "<time>" => is_text && value.as_str().unwrap().as_bytes().get(10) == Some(&b'T'),
            "<bytes>" => bytes().is_some(),
            "<32 bytes>" => bytes().is_some_and(|bytes| bytes.len() == 32),
            _ => panic!("{pattern} stands for nothing"),
        },
        (Value::String(pattern), Value::String(text)) => match pattern.strip_prefix('$') {
            Some(name) => texts.entry(name.to_owned()).or_insert_with(|| text.clone()) == text,
            None => pattern == text,
        },
        (Value::Object(pattern), Value::Object(members)) => {
            pattern.iter().all(|(name, pattern)| {
                members.get(name).is_some_and(|value| matches(pattern, value, texts))
            })
        }
        (Value::Array(patterns), Value::Array(values)) => {
            patterns.len() == values.len()
                && patterns
                    .iter()
                    .zip(values)
                    .all(|(pattern, value)| matches(pattern, value, texts))
        }
        _ => pattern == value,
    }
}

/// Whether `answer` has the content that `wanted` says.
fn fits(wanted: &str, answer: &Response, texts: &mut BTreeMap<String, String>) -> bool {
    let body = answer.text();
    if wanted == "empty" {
        return body.is_empty();
    }
    if let Some(part) = wanted.strip_prefix("page ") {
        return body.contains(part);
    }
    let type_of = answer.header("Content-Type").unwrap_or_default();
    if let Some(pattern) = wanted.strip_prefix("lines ") {
        let values: Result<Vec<Value>, _> = body.lines().map(serde_json::from_str).collect();
        let mut values = values.unwrap();
        values.sort_by_key(Value::to_string);
        let pattern = serde_json::from_str(pattern).unwrap();
        return type_of == "application/x-ndjson"
            && answer.trailer("Status") == Some("200")
            && answer.trailer("Error") == Some("")
            && matches(&pattern, &values.into(), texts);
    }
    let pattern: Value = serde_json::from_str(wanted).unwrap_or_else(|e| panic!("{wanted}: {e}"));
    // An SDK reads the message of JSON only.
    let Ok(value) = serde_json::from_str::<Value>(body) else {
        return false;
    };
    // Of the list of all APIs, one row is enough.
    if let (Value::Array(rows), Value::Array(values)) = (&pattern, &value)
        && rows.iter().any(|row| row.get("max_body").is_some())
    {
        return rows.iter().all(|row| values.contains(row));
    }
    type_of.starts_with("application/json") && matches(&pattern, &value, texts)
}

fn play(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/clients").join(name);
    let (configurations, steps) = parse(&fs::read_to_string(path).unwrap());
    assert!(!configurations.is_empty() && steps.len() > 10, "{name}");
    for configuration in configurations {
        for link_name in LINKS.into_iter().filter(|name| *name != "Go" || Go::is_there()) {
            let [minio, limited, stranger] = ["minio", "limited", "stranger"].map(Identity::new);
            let server = Server::start(|config| {
                config.policy("minio", &MINIO, &[&minio]);
                config.policy("limited", &LIMITED, &[&limited]);
                match &*configuration {
                    "v0.14" => {}
                    "newest" => config.is_newest = true,
                    "newest with texts of v0.14" => {
                        config.is_newest = true;
                        config.more.push_str("api: {texts: '0.14'}\n");
                    }
                    _ => panic!("{name}: {configuration} is no configuration"),
                }
            });
            let mut links = BTreeMap::new();
            let mut texts = BTreeMap::new();
            for step in &steps {
                let link = links.entry(&step.client).or_insert_with(|| {
                    let identity = match &*step.client {
                        "minio" => &minio,
                        "limited" => &limited,
                        "stranger" => &stranger,
                        "root" => &server.root_identity,
                        other => panic!("{name}: no client is called {other}"),
                    };
                    let client = server.client(identity);
                    match link_name {
                        "Go" => Link::Go(Go::start(&server, identity)),
                        "HTTP/2" => Link::Two(Box::new(Http2::open(&client))),
                        _ => Link::One(client),
                    }
                });
                let fill = |text: &str| {
                    texts.iter().fold(text.to_owned(), |text, (name, value): (&String, &String)| {
                        text.replace(&format!("${name}"), value)
                    })
                };
                let answer = link.ask(step, &fill(&step.path), &fill(&step.body));
                let is_here = |of: &Option<String>| {
                    of.as_ref().is_none_or(|of| configuration.starts_with(&**of))
                };
                let accepted = step.answers.iter().filter(|(of, ..)| is_here(of)).any(
                    |(_, status, wanted)| {
                        *status == answer.status && fits(wanted, &answer, &mut texts)
                    },
                );
                assert!(
                    accepted,
                    "{name}, line {}, {configuration}, {link_name}: {} {} {:?} {:?}",
                    step.line,
                    answer.status,
                    answer.text(),
                    answer.headers,
                    answer.trailers,
                );
            }
        }
    }
}

#[test]
fn a_client_of_0_14() {
    play("0.14.txt");
}

#[test]
fn an_object_server_of_2021() {
    play("2021-12.txt");
}

#[test]
fn an_object_server_of_2022() {
    play("2022-05.txt");
}

#[test]
fn an_object_server_of_2023() {
    play("2023-06.txt");
}

#[test]
fn an_object_server_of_2025() {
    play("2025-10.txt");
}
