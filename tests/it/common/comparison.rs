//! Two answers, field by field. What differs in each session (times, random bytes, versions, counts) is
//! compared by its shape.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    from_base64,
    transcript::{Answer, End},
};

/// A field with two values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    pub field: String,
    pub recorded: String,
    pub ours: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} -> {}", self.field, self.recorded, self.ours)
    }
}

const ABSENT: &str = "absent";

/// Numbers that depend on the machine and the moment.
const COUNTS: &[&str] = &[
    "keystore_latency",
    "mem_heap_used",
    "mem_stack_used",
    "num_cpu",
    "num_cpu_used",
    "time",
    "uptime",
];

/// Texts that depend on the build and the machine.
const WORDS: &[&str] = &["arch", "commit", "os", "version"];

/// Random bytes.
const RANDOM: &[&str] = &["ciphertext", "hmac", "plaintext"];

/// What differs between a recorded session and ours.
#[derive(Default)]
pub struct Comparison {
    /// Whether the order of a list is that of a hash table or a directory.
    pub is_unordered: bool,
    pub differences: Vec<Difference>,
}

impl Comparison {
    fn add(
        &mut self,
        field: impl Into<String>,
        recorded: impl Into<String>,
        ours: impl Into<String>,
    ) {
        let (recorded, ours) = (recorded.into(), ours.into());
        // A message with more words.
        let start = recorded.strip_suffix('"').filter(|start| start.len() > 20);
        let ours = match start.and_then(|start| ours.strip_prefix(start)) {
            Some(_) => "the same and more".to_owned(),
            None => ours,
        };
        let [recorded, ours] = [recorded, ours].map(short);
        self.differences.push(Difference { field: field.into(), recorded, ours });
    }

    fn check(&mut self, field: impl Into<String>, recorded: &str, ours: &str) {
        if recorded != ours {
            self.add(field, recorded, ours);
        }
    }

    pub fn answers(&mut self, recorded: &[Answer], ours: &[Answer]) {
        let statuses = |answers: &[Answer]| {
            let list: Vec<_> = answers.iter().map(|answer| answer.status.to_string()).collect();
            if list.is_empty() { ABSENT.to_owned() } else { list.join(", ") }
        };
        self.check("status", &statuses(recorded), &statuses(ours));
        let is_final = |answer: &&Answer| answer.status >= 200;
        let ours = ours.iter().filter(is_final);
        for (recorded, ours) in recorded.iter().filter(is_final).zip(ours) {
            self.answer(recorded, ours);
        }
    }

    fn answer(&mut self, recorded: &Answer, ours: &Answer) {
        self.check("protocol", &recorded.protocol, &ours.protocol);
        if recorded.status == ours.status {
            self.check("phrase", &recorded.phrase, &ours.phrase);
        }
        self.headers("header", &recorded.headers, &ours.headers);
        self.headers("trailer", &recorded.trailers, &ours.trailers);
        let type_of = |answer: &Answer| answer.header("Content-Type").unwrap_or("").to_owned();
        if type_of(recorded).starts_with("text/plain; version=") && recorded.is_cut {
            return self.metrics(recorded, ours);
        }
        if recorded.is_cut {
            return self.beginning(recorded, ours);
        }
        let is_lines = |answer: &Answer| type_of(answer) == "application/x-ndjson";
        let values =
            [recorded, ours].map(|answer| Some(normal("", &json(&answer.body, is_lines(answer))?)));
        match &values {
            [Some(a), Some(b)] => self.value("body", a, b),
            [a, b] => {
                let text = |answer: &Answer, value: &Option<Value>| match value {
                    Some(Value::Array(values)) => Value::from(self.sorted(values)).to_string(),
                    Some(value) => value.to_string(),
                    None if answer.body.is_empty() => "empty".to_owned(),
                    None => quoted(String::from_utf8_lossy(&answer.body).trim_end()),
                };
                self.check("body", &text(recorded, a), &text(ours, b));
            }
        }
    }

    /// All headers, but how the end of the body is announced: only whether there is a length. `Date` has
    /// to be there.
    fn headers(&mut self, kind: &str, recorded: &[(String, String)], ours: &[(String, String)]) {
        let names: BTreeSet<_> = recorded.iter().chain(ours).map(|(name, _)| name).collect();
        for name in names {
            let value = |headers: &[(String, String)]| {
                let found = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
                found.map_or(ABSENT.to_owned(), |(_, value)| match &**name {
                    "Date" | "Content-Length" => "present".to_owned(),
                    _ if value.is_empty() => "empty".to_owned(),
                    _ => value.clone(),
                })
            };
            if name != "Transfer-Encoding" {
                self.check(format!("{kind} {name}"), &value(recorded), &value(ours));
            }
        }
    }

    /// Both were normalised.
    fn value(&mut self, place: &str, recorded: &Value, ours: &Value) {
        match (recorded, ours) {
            (Value::Object(a), Value::Object(b)) => self.members(place, a, b),
            (Value::Array(a), Value::Array(b)) => self.elements(place, a, b),
            _ => self.check(place, &recorded.to_string(), &ours.to_string()),
        }
    }

    fn members(&mut self, place: &str, recorded: &Map<String, Value>, ours: &Map<String, Value>) {
        let names: BTreeSet<_> = recorded.keys().chain(ours.keys()).collect();
        for name in names {
            let place = format!("{place}.{name}");
            match (recorded.get(name), ours.get(name)) {
                (Some(a), Some(b)) => self.value(&place, a, b),
                (a, b) => {
                    let [a, b] =
                        [a, b].map(|value| value.map_or(ABSENT.to_owned(), Value::to_string));
                    self.add(place, a, b);
                }
            }
        }
    }

    fn sorted(&self, values: &[Value]) -> Vec<Value> {
        let mut values = values.to_vec();
        if self.is_unordered {
            values.sort_by_key(Value::to_string);
        }
        values
    }

    fn elements(&mut self, place: &str, recorded: &[Value], ours: &[Value]) {
        let [a, b] = [recorded, ours].map(|values| self.sorted(values));
        if a.len() == b.len() && a.iter().chain(&b).all(Value::is_object) {
            for (at, (a, b)) in a.iter().zip(&b).enumerate() {
                self.value(&format!("{place}[{at}]"), a, b);
            }
            return;
        }
        // Elements that only one list has tell more than positions.
        let only = |these: &[Value], those: &[Value]| {
            let rest: Vec<_> =
                these.iter().filter(|value| !those.contains(value)).cloned().collect();
            Value::from(rest).to_string()
        };
        let (left, right) = (only(&a, &b), only(&b, &a));
        if left == right {
            self.check(place, &Value::from(a).to_string(), &Value::from(b).to_string());
        } else {
            self.check(place, &left, &right);
        }
    }

    /// Families and samples of the recording that ours lacks; ours has more.
    fn metrics(&mut self, recorded: &Answer, ours: &Answer) {
        let lines = |answer: &Answer| -> Vec<String> {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            text.lines()
                .map(|line| match line.strip_prefix('#') {
                    Some(_) => line.to_owned(),
                    None => line.rsplit_once(' ').map_or(line, |(sample, _)| sample).to_owned(),
                })
                .collect()
        };
        let (mut a, b) = (lines(recorded), lines(ours));
        a.pop();
        // Everyone words the help as they like.
        let is_help = |line: &String| line.starts_with("# HELP");
        for line in a.into_iter().filter(|line| !is_help(line) && !b.contains(line)) {
            self.add("body", quoted(&line), ABSENT);
        }
    }

    /// An answer of which the recording has the beginning.
    fn beginning(&mut self, recorded: &Answer, ours: &Answer) {
        let [a, b] =
            [recorded, ours].map(|answer| String::from_utf8_lossy(&answer.body).into_owned());
        if let Some(objects) = a.strip_prefix("[{") {
            // The last one may be cut.
            let mut objects: Vec<_> = objects.split("},{").collect();
            objects.pop();
            let ours: Vec<Value> = serde_json::from_str(&b).unwrap_or_default();
            for object in objects {
                let object: Value = serde_json::from_str(&format!("{{{object}}}")).unwrap();
                if !ours.contains(&object) {
                    let path = &object["path"];
                    let same = ours.iter().find(|other| other["path"] == *path);
                    let same = same.map_or(ABSENT.to_owned(), Value::to_string);
                    self.add("body", object.to_string(), same);
                }
            }
            return;
        }
        // One member with random bytes.
        let name = |text: &str| text.split("\":\"").next().unwrap_or("").to_owned();
        self.check("body", &quoted(&name(&a)), &quoted(&name(&b)));
    }

    pub fn end(&mut self, recorded: &End, ours: &End) {
        let was_closed = matches!(recorded, End::After { closed: true, .. });
        let text = |end: &End| match end {
            End::Open => "stays open".to_owned(),
            End::Refused(alert) => alert.clone(),
            End::After { seconds, closed: true } if was_closed => {
                format!("is closed after {seconds:.0} s")
            }
            // When is a matter of the machine.
            End::Closed | End::After { closed: true, .. } => "is closed".to_owned(),
            End::After { seconds, .. } => format!("is open after {seconds:.0} s"),
        };
        self.check("connection", &text(recorded), &text(ours));
    }
}

/// A body as JSON; several lines are a list.
fn json(body: &[u8], is_lines: bool) -> Option<Value> {
    if !is_lines {
        return serde_json::from_slice(body).ok();
    }
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice(line).ok())
        .collect::<Option<Vec<_>>>()
        .map(Value::Array)
}

/// What of a value, which is the member `name`, is compared.
fn normal(name: &str, value: &Value) -> Value {
    match value {
        Value::Number(_) if COUNTS.contains(&name) => "<number>".into(),
        Value::String(_) if WORDS.contains(&name) => "<text>".into(),
        Value::String(text) if RANDOM.contains(&name) && text.len() >= 32 => {
            random(&from_base64(text)).into()
        }
        Value::String(text) => without_times(text).into(),
        Value::Array(values) => values.iter().map(|value| normal(name, value)).collect(),
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| (name.clone(), normal(name, value)));
            Value::Object(members.collect())
        }
        _ => value.clone(),
    }
}

/// Random bytes: how many, or the members of the object that has them.
fn random(bytes: &[u8]) -> String {
    match serde_json::from_slice::<Map<String, Value>>(bytes) {
        Ok(object) => {
            let members = object.iter().map(|(name, value)| match value.as_str() {
                Some(text) if name != "aead" => format!("{name}: {}", random(&from_base64(text))),
                _ => format!("{name}: {value}"),
            });
            format!("<{}>", members.collect::<Vec<_>>().join(", "))
        }
        Err(_) => format!("<{} bytes>", bytes.len()),
    }
}

/// Times, dates and ports become zeros.
fn without_times(text: &str) -> String {
    let is_time =
        text.len() > 19 && text.as_bytes()[10] == b'T' && text.as_bytes()[19..].ends_with(b"Z");
    let is_date =
        text.len() > 19 && text.as_bytes()[..5].ends_with(b"/") && text.as_bytes()[10] == b' ';
    if is_time && text.chars().all(|c| c.is_ascii_digit() || "-:.TZ".contains(c)) {
        return if text.len() == 20 { "<time>" } else { "<time with fraction>" }.to_owned();
    }
    let text = if is_date { format!("<date> {}", &text[20..]) } else { text.to_owned() };
    match text.split_once("127.0.0.1:") {
        Some((before, after)) => {
            let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{before}127.0.0.1:<port>{rest}")
        }
        None => text,
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Enough to recognise a value in one line.
fn short(text: String) -> String {
    let Some((at, _)) = text.char_indices().nth(200) else {
        return text;
    };
    match serde_json::from_str::<Vec<Value>>(&text) {
        Ok(elements) => format!("<{} elements>", elements.len()),
        Err(_) => format!("{}... ({} bytes)", &text[..at], text.len()),
    }
}
