//! The recorded sessions of `testdata/transcripts`, sent again: each answer is compared with the recorded
//! one, and `differences.txt` has a reason for each difference. `README.md` beside it says how.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use crate::common::{
    Client, Config, Connection, Identity, Response, Server, base64,
    comparison::{Comparison, Difference},
    from_base64,
    transcript::{self, Answer, End, Exchange},
    wait_for,
};
use serde_json::{Map, Value};

const TRANSCRIPTS: [&str; 2] = ["v0.14", "final"];

/// A server that should close by itself gets this much time.
const PATIENCE: f64 = 20.0;

/// The clients of the recordings.
const ROOT: &str = "948059b9ae45e1e957b3fdf749393afa764d473c2ca6caf94f0bd67032af369b";
const CLIENT: &str = "3a983cbc6490fb5d48db7a99b58b843be3e8b5d839e332cf2123eacacb658d41";
const NO_POLICY: &str = "132ede5e58a58b2940b8e0189ed71c9743651aaff45436a1d727e3103ce3899f";
/// Has the policy of `CLIENT`, and sends nothing.
const OTHER: &str = "78cea90572c2d1d466ef53bc483df9abddd6964919b47c393f9482ed63286d7f";

/// What `CLIENT` may do.
const PATHS: [&str; 5] = [
    "/v1/key/create/bench*",
    "/v1/key/generate/bench*",
    "/v1/key/encrypt/bench*",
    "/v1/key/decrypt/bench*",
    "/v1/key/delete/bench*",
];

/// The set-up of the recordings, and what depends on the session.
struct Scene {
    server: Server,
    root: Identity,
    client: Identity,
    no_policy: Identity,
    /// Recorded data keys and ciphertexts, and ours in their places.
    fresh: Vec<(String, String)>,
}

impl Scene {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        // In the order of the recorded ones: some lists are sorted.
        let between = |low: &str, high: &str| loop {
            let identity = Identity::new("client");
            if low < &*identity.id && &*identity.id < high {
                return identity;
            }
        };
        let no_policy = between("", "4");
        let client = between(&no_policy.id, OTHER);
        let root = between(OTHER, "g");
        let server = Server::start(|config| {
            config.root_identity = root.clone();
            config.root.clone_from(&root.id);
            let other = Identity::from_der(Vec::new(), Vec::new(), OTHER.to_owned());
            config.policy("bench", &PATHS, &[&client, &other]);
            change(config);
        });
        Self { server, root, client, no_policy, fresh: Vec::new() }
    }

    fn client(&self, name: &str) -> Client {
        match name {
            "root" => self.server.client(&self.root),
            "client-p256" => self.server.client(&self.client),
            "nopolicy" => self.server.client(&self.no_policy),
            "none" => self.server.anonymous(),
            _ => panic!("no client is called {name}"),
        }
    }

    fn identities(&self) -> [(&str, &str); 3] {
        [(ROOT, &self.root.id), (CLIENT, &self.client.id), (NO_POLICY, &self.no_policy.id)]
    }

    /// The request as the client of this session sends it: with its identities and ciphertexts.
    fn request(&self, recorded: &[u8]) -> Vec<u8> {
        let Ok(mut text) = String::from_utf8(recorded.to_vec()) else {
            return recorded.to_vec();
        };
        for (theirs, ours) in self.identities() {
            text = text.replace(theirs, ours);
            let start = |id: &str| format!("/v1/identity/list/{}* ", &id[..4]);
            text = text.replace(&start(theirs), &start(ours));
        }
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let body: Map<String, Value> = serde_json::from_str(body).unwrap_or_default();
        if let Some(theirs) = body.get("ciphertext").and_then(Value::as_str)
            && let Some(ours) = self.ciphertext(theirs)
        {
            text = text.replace(theirs, &ours);
            if let Some((_, body)) = text.split_once("\r\n\r\n") {
                let length = format!("Content-Length: {}", body.len());
                let old = text.lines().find(|line| line.starts_with("Content-Length: "));
                text = text.replace(&old.unwrap().to_owned(), &length);
            }
        }
        text.into_bytes()
    }

    /// Our ciphertext in the place of a recorded one, with the same damage if it was tampered with.
    fn ciphertext(&self, theirs: &str) -> Option<String> {
        if let Some((_, ours)) = self.fresh.iter().find(|(recorded, _)| recorded == theirs) {
            return Some(ours.clone());
        }
        let damaged = from_base64_or_none(theirs)?;
        self.fresh.iter().find_map(|(recorded, ours)| {
            let [recorded, ours] = [recorded, ours].map(|text| from_base64(text));
            damage(&damaged, &recorded, &ours).map(base64)
        })
    }

    /// Takes note of the random bytes of an answer, and checks that what was decrypted is what was
    /// encrypted.
    fn learn(
        &mut self,
        path: &str,
        recorded: &Answer,
        ours: &mut Answer,
        found: &mut Vec<Difference>,
    ) {
        let object = |answer: &Answer| {
            let object: Option<Map<String, Value>> = serde_json::from_slice(&answer.body).ok();
            object.filter(|_| !answer.is_cut)
        };
        if let Ok(mut text) = String::from_utf8(ours.body.clone()) {
            for (theirs, mine) in self.identities() {
                text = text.replace(mine, theirs);
            }
            ours.body = text.into_bytes();
        }
        let (Some(theirs), Some(mine)) = (object(recorded), object(ours)) else {
            return;
        };
        for name in ["plaintext", "ciphertext"] {
            let value = |object: &Map<String, Value>| object.get(name)?.as_str().map(str::to_owned);
            let (Some(theirs), Some(mine)) = (value(&theirs), value(&mine)) else {
                continue;
            };
            if !path.starts_with("/v1/key/decrypt/") {
                self.fresh.push((theirs, mine));
                continue;
            }
            let fresh = self.fresh.iter().find(|(recorded, _)| *recorded == theirs);
            let expected = fresh.map_or(&theirs, |(_, ours)| ours);
            if mine != *expected {
                let [field, recorded, ours] =
                    ["body.plaintext", "what was encrypted", "something else"].map(str::to_owned);
                found.push(Difference { field, recorded, ours });
            }
        }
    }

    /// Sends what was recorded, and returns what comes back.
    fn repeat(&self, exchange: &Exchange) -> (Vec<Answer>, End) {
        let request = self.request(&exchange.request);
        let Some(name) = &exchange.client else {
            return match exchange.title.split(' ').next() {
                Some("plain") => self.repeat_in_plain(&request),
                Some("stream") => self.follow(exchange, &request),
                _ => self.wait(exchange, &request),
            };
        };
        let client = match exchange.title.as_str() {
            "TLS 1.2" => Client::with_versions(
                self.server.address,
                self.server.certificate.chain[0].clone(),
                Some(&self.client),
                &[&rustls::version::TLS12],
            ),
            _ => self.client(name),
        };
        let refused = |e: std::io::Error| {
            let alert = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()).cloned();
            match alert {
                Some(rustls::Error::AlertReceived(alert)) => End::Refused(format!("{alert:?}")),
                _ => panic!("{}: {e}", exchange.number),
            }
        };
        let mut connection = match client.try_connect() {
            Ok(connection) => connection,
            Err(e) => return (Vec::new(), refused(e)),
        };
        // A server may refuse a request before it was sent whole.
        let _ = connection.try_send(&request);
        if let End::Refused(_) = exchange.end {
            return match connection.try_response(false) {
                Ok(response) => (vec![response.into()], End::Open),
                Err(e) => (Vec::new(), refused(e)),
            };
        }
        let count = exchange.answers.iter().filter(|answer| answer.status >= 200).count();
        let mut answers = Vec::new();
        while answers.iter().filter(|answer: &&Answer| answer.status >= 200).count() < count {
            match connection.try_response(exchange.method() == "HEAD") {
                Ok(response) => answers.push(response.into()),
                Err(e) => panic!("{}: {e}, after {answers:?}", exchange.number),
            }
        }
        (answers, end(&mut connection, exchange.number))
    }

    fn repeat_in_plain(&self, request: &[u8]) -> (Vec<Answer>, End) {
        let mut socket = TcpStream::connect(self.server.address).unwrap();
        socket.write_all(request).unwrap();
        let mut bytes = Vec::new();
        let _ = socket.read_to_end(&mut bytes);
        match String::from_utf8(bytes) {
            Ok(text) if text.starts_with("HTTP/") => {
                (transcript::answers(&text.replace("\r\n", "\n"), false), End::Closed)
            }
            // TLS, as far as it got.
            _ => (Vec::new(), End::Closed),
        }
    }

    /// Waits until the server logs all that the next seconds bring: of refused requests, it logs some a
    /// second and then says how many were left out.
    fn await_allowance(&self) {
        let count = || self.server.stderr().matches("prohibited by policy within a second").count();
        let before = count();
        let mut connection = self.client("nopolicy").connect();
        let is_new = || (count() > before).then_some(());
        while wait_for(Duration::from_secs(2), is_new).is_none() {
            for _ in 0..20 {
                connection.request("POST", "/v1/key/create/bench-t4", "");
            }
        }
    }

    /// Subscribes to a log, and does what the title of the recording says.
    fn follow(&self, exchange: &Exchange, request: &[u8]) -> (Vec<Answer>, End) {
        self.await_allowance();
        let mut connection = self.client("root").connect();
        connection.send(request);
        let mut answer = Answer::from(connection.try_response(true).unwrap());
        for (name, method, api, body) in [
            ("client-p256", "POST", "create", ""),
            ("client-p256", "POST", "generate", "{}"),
            ("client-p256", "POST", "generate", "{bad"),
            ("nopolicy", "POST", "generate", "{}"),
            ("client-p256", "DELETE", "delete", ""),
        ] {
            self.client(name).request(method, &format!("/v1/key/{api}/bench-log"), body);
        }
        let anonymous = self.server.anonymous().connect().try_response(false);
        assert!(anonymous.is_err(), "{anonymous:?}");
        let last =
            if exchange.path().contains("audit") { "delete/bench-log" } else { "certificate" };
        while !String::from_utf8_lossy(&answer.body).contains(last) {
            match connection.chunk() {
                Ok(chunk) => answer.body.extend(chunk),
                Err(e) => panic!("{}: {e}, after {answer:?}", exchange.number),
            }
        }
        let is_open = connection.receive_available();
        (vec![answer], if is_open { End::Open } else { End::Closed })
    }

    /// Sends too little, and waits until the server closes.
    fn wait(&self, exchange: &Exchange, request: &[u8]) -> (Vec<Answer>, End) {
        let start = Instant::now();
        let has_time = || start.elapsed().as_secs_f64() < PATIENCE;
        let mut text = Vec::new();
        let closed = if exchange.title.contains("no TLS ClientHello") {
            let mut socket = TcpStream::connect(self.server.address).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs_f64(PATIENCE))).unwrap();
            socket.read_to_end(&mut text).is_ok()
        } else {
            let mut connection = self.client("client-p256").connect();
            connection.send(request);
            let mut is_open = true;
            while is_open && has_time() {
                is_open = connection.receive_available();
                std::thread::sleep(Duration::from_millis(20));
            }
            text.extend(connection.received());
            !is_open
        };
        let seconds = start.elapsed().as_secs_f64();
        let text = String::from_utf8(text).unwrap().replace("\r\n", "\n");
        (transcript::answers(&text, false), End::After { seconds, closed })
    }
}

/// Whether another request is answered on the connection.
fn end(connection: &mut Connection, number: usize) -> End {
    match connection.try_request("GET", "/version", b"") {
        Ok(response) => {
            assert_eq!(200, response.status, "{number}: {}", response.text());
            let _ = connection.socket().shutdown(Shutdown::Both);
            End::Open
        }
        Err(e) if crate::common::client::is_end(&e) => End::Closed,
        Err(e) => panic!("{number}: {e}"),
    }
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self {
            protocol: response.version,
            status: response.status,
            phrase: response.phrase,
            headers: response.headers,
            body: response.body,
            trailers: response.trailers,
            is_cut: false,
        }
    }
}

fn from_base64_or_none(text: &str) -> Option<Vec<u8>> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD.decode(text).ok()
}

/// `ours` with the damage that `damaged` has beside `recorded`; nothing if these two have little in common.
fn damage(damaged: &[u8], recorded: &[u8], ours: &[u8]) -> Option<Vec<u8>> {
    let object = |bytes| serde_json::from_slice::<Map<String, Value>>(bytes).ok();
    if let (Some(mut damaged), Some(recorded), Some(ours)) =
        (object(damaged), object(recorded), object(ours))
    {
        let same = damaged.iter().filter(|(name, value)| recorded.get(*name) == Some(*value));
        if same.count() < 3 {
            return None;
        }
        for (name, value) in &mut damaged {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let (theirs, mine) = (text(&recorded[name]), text(&ours[name]));
            if text(value) == theirs {
                *value = mine.into();
            } else if let Some(bytes) = from_base64_or_none(&text(value))
                && let Some(bytes) = flipped(&bytes, &from_base64(&theirs), &from_base64(&mine))
            {
                *value = base64(bytes).into();
            }
        }
        return serde_json::to_vec(&damaged).ok();
    }
    flipped(damaged, recorded, ours)
}

/// `ours` with the bits flipped that differ between two others, if these are few.
fn flipped(damaged: &[u8], recorded: &[u8], ours: &[u8]) -> Option<Vec<u8>> {
    let flips: Vec<_> = damaged.iter().zip(recorded).map(|(a, b)| a ^ b).collect();
    let is_near = flips.iter().filter(|flip| **flip != 0).count() < 4;
    let are_equal = damaged.len() == recorded.len() && recorded.len() == ours.len();
    (is_near && are_equal).then(|| ours.iter().zip(flips).map(|(byte, flip)| byte ^ flip).collect())
}

// The list of differences

/// A reason for so many requests is about the transport, not about them.
const GENERAL: usize = 20;

/// Differences of some requests, and their reason.
#[derive(Default)]
struct Entry {
    line: usize,
    transcript: String,
    numbers: BTreeSet<usize>,
    differences: Vec<String>,
    reason: String,
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/transcripts").join(name);
    std::fs::read_to_string(path).unwrap()
}

fn entries() -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (at, line) in read("differences.txt").lines().enumerate() {
        let text = line.trim();
        if text.is_empty() || line.starts_with('#') {
            continue;
        }
        if !line.starts_with(' ') {
            let (transcript, numbers) = line.split_once(' ').unwrap();
            let range = |text: &str| {
                let (first, last) = text.split_once('-').unwrap_or((text, text));
                let number =
                    |text: &str| text.parse::<usize>().unwrap_or_else(|e| panic!("{line}: {e}"));
                number(first)..=number(last)
            };
            entries.push(Entry {
                line: at + 1,
                transcript: transcript.to_owned(),
                numbers: numbers.split(", ").flat_map(range).collect(),
                ..Entry::default()
            });
            continue;
        }
        let entry = entries.last_mut().unwrap();
        if text.contains(" -> ") {
            assert!(
                entry.reason.is_empty(),
                "line {}: a reason stands behind the differences",
                at + 1
            );
            entry.differences.push(text.to_owned());
        } else {
            entry.reason.push_str(text);
        }
    }
    for entry in &entries {
        assert!(
            TRANSCRIPTS.contains(&&*entry.transcript),
            "line {}: no such transcript",
            entry.line
        );
        assert!(
            entry.reason.split(' ').count() > 3,
            "line {}: a reason in words is missing",
            entry.line
        );
        assert!(!entry.differences.is_empty(), "line {}: no difference", entry.line);
    }
    entries
}

/// Numbers as a list of ranges.
fn ranges(numbers: &BTreeSet<usize>) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => parts.push((*number, *number)),
        }
    }
    let parts = parts.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// Holds what was found against the list, and prints the score.
fn judge(name: &str, found: &BTreeMap<usize, BTreeSet<String>>) {
    let mut entries = entries();
    entries.retain(|entry| entry.transcript == name);
    let mut listed = BTreeSet::new();
    let mut faults = Vec::new();
    for entry in &entries {
        for number in &entry.numbers {
            for difference in &entry.differences {
                if !listed.insert((*number, difference)) {
                    faults.push(format!(
                        "line {}: {number} has two reasons: {difference}",
                        entry.line
                    ));
                }
                if !found.get(number).is_some_and(|found| found.contains(difference)) {
                    faults
                        .push(format!("line {}: {number} has no longer: {difference}", entry.line));
                }
            }
        }
    }
    // Those without a reason, as they would be listed.
    let mut missing: BTreeMap<Vec<&String>, BTreeSet<usize>> = BTreeMap::new();
    for (number, differences) in found {
        let rest: Vec<_> = differences
            .iter()
            .filter(|difference| !listed.contains(&(*number, *difference)))
            .collect();
        if !rest.is_empty() {
            missing.entry(rest).or_default().insert(*number);
        }
    }
    let mut missing: Vec<_> = missing.into_iter().collect();
    missing.sort_by_key(|(_, numbers)| numbers.first().copied());
    for (differences, numbers) in missing {
        let lines: String = differences.iter().map(|line| format!("\n    {line}")).collect();
        faults.push(format!("without a reason:\n{name} {}{lines}", ranges(&numbers)));
    }
    let general = entries.iter().filter(|entry| entry.numbers.len() >= GENERAL);
    let general: BTreeSet<_> = general.flat_map(|entry| &entry.differences).collect();
    let count = |is_counted: &dyn Fn(&BTreeSet<String>) -> bool| {
        found.values().filter(|differences| is_counted(differences)).count()
    };
    let (total, identical) = (found.len(), count(&BTreeSet::is_empty));
    let alike = count(&|differences| differences.iter().all(|line| general.contains(line)));
    let but_for = match general.len() {
        0 => String::new(),
        count => format!("{} but for {count} general differences, ", alike - identical),
    };
    // Past the capture of the test harness: a score that nobody sees is none.
    let _ = writeln!(
        std::io::stderr(),
        "replay of {name}: {total} requests, {identical} answered the same in every field, {but_for}\
         {} with other differences; {} reasons",
        total - alike,
        entries.len()
    );
    assert!(faults.is_empty(), "{} faults\n\n{}\n", faults.len(), faults.join("\n\n"));
}

fn replay(name: &str, mut scene: Scene, is_unordered: bool) {
    let exchanges = transcript::parse(&read(&format!("{name}.txt")));
    let (timed, others): (Vec<_>, Vec<_>) =
        exchanges.iter().partition(|exchange| exchange.is_about_time());
    let mut found = BTreeMap::new();
    let mut compare = |exchange: &Exchange,
                       mut answers: Vec<Answer>,
                       mut end: End,
                       scene: &mut Scene| {
        let mut comparison = Comparison { is_unordered, ..Comparison::default() };
        for (recorded, ours) in exchange.answers.iter().zip(&mut answers) {
            scene.learn(exchange.path(), recorded, ours, &mut comparison.differences);
        }
        let mut recorded = exchange.end.clone();
        if let (End::After { seconds: theirs, closed }, End::After { seconds, closed: closes }) =
            (&mut recorded, &mut end)
        {
            // Longer is no fault: the machine may be slow.
            if *closes && *seconds > *theirs - 0.7 {
                *seconds = *theirs;
            }
            if *theirs > PATIENCE {
                (*theirs, *closed) = (PATIENCE, false);
            }
        }
        comparison.answers(&exchange.answers, &answers);
        comparison.end(&recorded, &end);
        let lines = comparison.differences.iter().map(Difference::to_string).collect();
        found.insert(exchange.number, lines);
    };
    for exchange in others {
        let (answers, end) = scene.repeat(exchange);
        compare(exchange, answers, end, &mut scene);
    }
    let results: Vec<_> = std::thread::scope(|scope| {
        let scene = &scene;
        let threads: Vec<_> =
            timed.iter().map(|exchange| scope.spawn(move || scene.repeat(exchange))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (exchange, (answers, end)) in timed.iter().zip(results) {
        compare(exchange, answers, end, &mut scene);
    }
    judge(name, &found);
}

#[test]
fn a_session_of_0_14() {
    replay("v0.14", Scene::new(|_| {}), true);
}

#[test]
fn a_session_of_the_newest() {
    replay("final", Scene::new(|config| config.is_newest = true), false);
}
