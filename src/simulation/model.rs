//! What must hold, whatever happens: a plain model of keys, requests and the audit log beside the server.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    base::{
        secret::Secret,
        sync::world::{self, ensure},
    },
    crypto::{MasterKey, ciphertext, stored},
};

/// Threads may stall, and the clock moves in steps: a moment more or less is no fault.
pub const SLACK: Duration = Duration::from_secs(3);

/// A value that was stored, from when to when.
pub struct Version {
    value: Secret,
    from: Duration,
    until: Option<Duration>,
    /// This server has stored it.
    is_own: bool,
    /// When a read of it ended last.
    read: Option<Duration>,
    /// A create that was answered 200 stands for it.
    is_claimed: bool,
    /// Since when no request of this server may get it: a delete that covers it was answered.
    gone: Option<Duration>,
}

#[derive(Default)]
pub struct Model(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    keys: BTreeMap<String, Key>,
    /// The values that clients import.
    imports: Vec<Secret>,
    /// The requests that the server has begun, by connection and number.
    requests: BTreeMap<(u32, u32), Begun>,
    /// The answers that clients have got, by path and status.
    answers: BTreeMap<(String, u16), usize>,
    /// Lines of the audit log, the same.
    lines: BTreeMap<(String, u16), usize>,
    /// When the client might call, and when not.
    rights: Vec<(Duration, bool)>,
    /// Until when the key store is busy with calls for requests.
    busy: Duration,
    /// The server ends: connections may end without an answer.
    is_ending: bool,
}

#[derive(Default)]
struct Key {
    versions: Vec<Version>,
    /// When deletes were carried out.
    deletes: Vec<Duration>,
}

struct Begun {
    path: String,
    at: Duration,
    is_over: bool,
}

/// A request as its client sees it.
#[derive(Clone, Debug)]
pub struct Sent {
    pub what: What,
    pub name: String,
    /// The value that it imports.
    pub value: Option<Secret>,
    /// Before its first byte was sent.
    pub at: Duration,
    /// After its last.
    pub whole: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Create,
    Import,
    Delete,
    Generate,
    List,
    Describe,
}

impl What {
    pub fn method(self) -> &'static str {
        match self {
            Self::Create | Self::Import | Self::Generate => "POST",
            Self::Delete => "DELETE",
            Self::List | Self::Describe => "GET",
        }
    }

    pub fn path(self, name: &str) -> String {
        match self {
            Self::Create => format!("/v1/key/create/{name}"),
            Self::Import => format!("/v1/key/import/{name}"),
            Self::Delete => format!("/v1/key/delete/{name}"),
            Self::Generate => format!("/v1/key/generate/{name}"),
            Self::List => "/v1/key/list/*".to_owned(),
            Self::Describe => format!("/v1/key/describe/{name}"),
        }
    }
}

impl Key {
    fn current(&mut self) -> Option<&mut Version> {
        self.versions.last_mut().filter(|version| version.until.is_none())
    }

    /// Whether there was no value at some time between the two.
    fn was_absent(&self, from: Duration, to: Duration) -> bool {
        let mut at = from;
        for version in &self.versions {
            if version.from > at {
                return true;
            }
            match version.until {
                None => return false,
                Some(until) => at = at.max(until),
            }
            if at > to {
                return false;
            }
        }
        true
    }

    fn was_there(&self, from: Duration, to: Duration) -> bool {
        self.versions
            .iter()
            .any(|version| version.from <= to && version.until.is_none_or(|until| until >= from))
    }
}

impl Model {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client imports this value.
    pub fn import(&self, value: &Secret) {
        self.lock().imports.push(value.clone());
    }

    /// Stores a value, if there is none; `by_server` if the server wants that.
    pub fn create(&self, name: &str, value: &Secret, by_server: bool) -> bool {
        let (mut inner, now) = (self.lock(), world::elapsed());
        let key = inner.keys.entry(name.to_owned()).or_default();
        if key.current().is_some() {
            return false;
        }
        key.versions.push(Version {
            value: value.clone(),
            from: now,
            until: None,
            is_own: by_server,
            read: None,
            is_claimed: false,
            gone: None,
        });
        true
    }

    /// The value, and its number.
    pub fn read(&self, name: &str) -> Option<(Secret, usize)> {
        let mut inner = self.lock();
        let key = inner.keys.entry(name.to_owned()).or_default();
        let value = key.current().map(|version| version.value.clone())?;
        Some((value, key.versions.len() - 1))
    }

    /// A read of this value has ended.
    pub fn has_read(&self, name: &str, number: usize) {
        let (mut inner, now) = (self.lock(), world::elapsed());
        let key = inner.keys.get_mut(name).expect("it was read");
        key.versions[number].read = Some(now);
    }

    /// Deletes the value; `by_server` if the server wants that.
    pub fn delete(&self, name: &str, by_server: bool) -> bool {
        let (mut inner, now) = (self.lock(), world::elapsed());
        let key = inner.keys.entry(name.to_owned()).or_default();
        if by_server {
            key.deletes.push(now);
        }
        let found = key.current();
        let is_found = found.is_some();
        if let Some(version) = found {
            version.until = Some(now);
        }
        is_found
    }

    pub fn names(&self) -> Vec<String> {
        let mut inner = self.lock();
        let keys = inner.keys.iter_mut();
        keys.filter_map(|(name, key)| key.current().map(|_| name.clone())).collect()
    }

    /// The key store is busy for this time.
    pub fn is_busy(&self, time: Duration) {
        let mut inner = self.lock();
        inner.busy = inner.busy.max(world::elapsed() + time);
    }

    /// The time of a request that waits is over. While the key store has nothing to do, none waits so long.
    pub fn check_waiting(&self, connection: u32, number: u32) {
        let inner = self.lock();
        ensure!(
            inner.is_ending || world::elapsed() <= inner.busy + SLACK,
            "request {number} of connection {connection} is forgotten: its time is over, and the key store has had \
             nothing to do since {:?}",
            inner.busy
        );
    }

    /// The client may call from now on, or may not.
    pub fn allow(&self, may: bool) {
        let now = world::elapsed();
        self.lock().rights.push((now, may));
    }

    pub fn end(&self) {
        self.lock().is_ending = true;
    }

    pub fn is_ending(&self) -> bool {
        self.lock().is_ending
    }

    pub fn begin(&self, connection: u32, number: u32, path: &str) {
        let begun = Begun { path: path.to_owned(), at: world::elapsed(), is_over: false };
        world::note(|| format!("request {number} of connection {connection}: {path}"));
        self.lock().requests.insert((connection, number), begun);
    }

    pub fn is_over(&self, connection: u32, number: u32) {
        if let Some(begun) = self.lock().requests.get_mut(&(connection, number)) {
            begun.is_over = true;
        }
    }

    /// The client has reset a stream a while ago, or its connection is gone: nothing of it is left.
    pub fn check_dropped(&self, connection: u32, number: u32) {
        let inner = self.lock();
        let Some(begun) = inner.requests.get(&(connection, number)) else { return };
        ensure!(
            begun.is_over,
            "request {number} of connection {connection} was reset and is still held: {}, begun {:?}",
            begun.path,
            begun.at
        );
    }

    /// The server has refused a stream, so that its client may send it again.
    pub fn check_not_begun(&self, connection: u32, number: u32) {
        let is_begun = self.lock().requests.contains_key(&(connection, number));
        ensure!(!is_begun, "request {number} of connection {connection} was begun and refused");
    }

    /// A line of the audit log.
    pub fn line(&self, line: &str) {
        let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { return };
        let path = line["request"]["path"].as_str().unwrap_or_default().to_owned();
        let code = line["response"]["code"].as_u64().unwrap_or_default() as u16;
        world::note(|| format!("audit line: {path} {code}"));
        *self.lock().lines.entry((path, code)).or_default() += 1;
    }

    /// Checks an answer against all that has happened. `expiry`: how long the server may keep a key that others
    /// have deleted.
    pub fn check(&self, sent: &Sent, status: u16, body: &[u8], expiry: Duration) {
        let (mut inner, now) = (self.lock(), world::elapsed());
        let path = sent.what.path(&sent.name);
        *inner.answers.entry((path.clone(), status)).or_default() += 1;
        let what = format!("{} {path}, sent at {:?}: {status}", sent.what.method(), sent.at);
        if status == 403 {
            let before = inner.rights.iter().rev().find(|(at, _)| *at <= sent.at);
            let may = before.is_none_or(|(_, may)| *may);
            let changes = inner.rights.iter().any(|(at, _)| *at > sent.at && *at <= now);
            ensure!(!may || changes, "{what}, though the client may");
            return;
        }
        if let Some((since, false)) = inner.rights.iter().rev().find(|(at, _)| *at <= sent.at) {
            let changes = inner.rights.iter().any(|(at, _)| *at > sent.at && *at <= now);
            ensure!(changes || status >= 500, "{what}, though the client may not since {since:?}");
        }
        let inner = &mut *inner;
        let key = inner.keys.entry(sent.name.clone()).or_default();
        match (sent.what, status) {
            (What::Create | What::Import, 200) => {
                let is_sent = |value: &Secret| match &sent.value {
                    Some(sent) => sent == value,
                    None => !inner.imports.contains(value),
                };
                let is_it = |version: &&mut Version| {
                    version.from >= sent.at
                        && version.is_own
                        && !version.is_claimed
                        && is_sent(&version.value)
                };
                match key.versions.iter_mut().find(is_it) {
                    Some(version) => version.is_claimed = true,
                    None => world::fail(format!("{what}, but nothing was stored")),
                }
            }
            (What::Create | What::Import, 400) => {
                ensure!(key.was_there(sent.at, now), "{what}, but there was no such key");
            }
            (What::Delete, 200) => match key.deletes.iter().find(|at| **at >= sent.at) {
                None => world::fail(format!("{what}, but nothing was deleted")),
                Some(&at) => {
                    let covered = key.versions.iter_mut().filter(|version| {
                        version.until.is_some_and(|until| until <= at) && version.gone.is_none()
                    });
                    covered.for_each(|version| version.gone = Some(now));
                }
            },
            (What::Generate, 200) => {
                let Some(version) = version_of(key, body) else {
                    return world::fail(format!("{what}, with a key that was never stored"));
                };
                ensure!(
                    version.gone.is_none_or(|gone| gone >= sent.at),
                    "{what}, with a key whose delete was answered at {:?}",
                    version.gone
                );
                ensure!(version.from <= now, "{what}, with a key of the future");
                if let Some(until) = version.until {
                    // Another server has deleted it, or a delete whose answer was lost.
                    let kept = version.read.map_or(until, |read| read.max(until) + expiry);
                    ensure!(
                        sent.at <= kept + SLACK,
                        "{what}, with a key that was deleted at {until:?} and read last at {:?}",
                        version.read
                    );
                }
            }
            (What::Generate | What::Describe, 404) => {
                ensure!(key.was_absent(sent.at, now), "{what}, but the key was there all the time");
            }
            (What::List, 200) => {
                let text = String::from_utf8_lossy(body);
                for (name, key) in &inner.keys {
                    let is_listed = text.contains(&format!("\"{name}\""));
                    ensure!(is_listed || key.was_absent(sent.at, now), "{what}: {name} is missing");
                    ensure!(
                        !is_listed || key.was_there(sent.at, now),
                        "{what}: {name} was not there"
                    );
                }
            }
            (_, 200 | 500 | 503) => {}
            // The key store failed.
            (_, 501..=599) => {}
            (_, 403) => {}
            _ => world::fail(format!("{what}: {}", String::from_utf8_lossy(body))),
        }
    }

    /// What must hold when the server has ended: each request has one line, and no other.
    pub fn check_end(&self) {
        let inner = self.lock();
        let mut begun: BTreeMap<&str, usize> = BTreeMap::new();
        for ((connection, number), request) in &inner.requests {
            *begun.entry(&request.path).or_default() += 1;
            ensure!(
                request.is_over,
                "request {number} of connection {connection} never ended: {}",
                request.path
            );
        }
        let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
        for ((path, _), count) in &inner.lines {
            *lines.entry(path).or_default() += count;
        }
        ensure!(begun == lines, "requests: {begun:?}, but lines of the audit log: {lines:?}");
        let of = |counts: &BTreeMap<(String, u16), usize>, path: &str, status| {
            counts.get(&(path.to_owned(), status)).copied().unwrap_or_default()
        };
        for ((path, status), count) in &inner.answers {
            let mut lines = of(&inner.lines, path, *status);
            if *status == 503 {
                // The log may show an answer that was refused since its line took too long.
                lines += of(&inner.lines, path, 200).saturating_sub(of(&inner.answers, path, 200));
            }
            ensure!(
                *count <= lines,
                "{count} times {status} for {path}, but lines of the audit log: {lines}"
            );
        }
    }
}

/// The version whose key has sealed the ciphertext in `body`.
fn version_of<'a>(key: &'a Key, body: &[u8]) -> Option<&'a Version> {
    use base64::Engine as _;

    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    let sealed = crate::crypto::BASE64.decode(answer["ciphertext"].as_str()?).ok()?;
    key.versions.iter().rev().find(|version| {
        let key = stored::decode(version.value.expose());
        key.is_ok_and(|key: MasterKey| ciphertext::open(&key, &sealed, b"").is_ok())
    })
}

pub type Shared = Arc<Model>;
