//! What must hold, whatever happens: a plain model of keys, requests and the audit log beside the server.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    identities,
    keys::{Key, Outage, Version},
    sent::{self, Sealed, Sent, What},
};
use crate::{
    base::{
        secret::Secret,
        sync::world::{self, ensure},
    },
    cache::Expiry,
};

/// Threads may stall, and the clock moves in steps: a moment more or less is no fault.
pub const SLACK: Duration = Duration::from_secs(3);

/// The circumstances of a run.
#[derive(Default)]
pub struct Terms {
    pub expiry: Expiry,
    pub is_audit_required: bool,
    /// Neither the key store nor the log ever fails.
    pub is_healthy: bool,
}

#[derive(Default)]
pub struct Model {
    terms: Terms,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    keys: BTreeMap<String, Key>,
    outages: Vec<Outage>,
    /// When the key store was asked for the status that it has not said yet.
    asked: Option<Duration>,
    /// The values that clients import.
    imports: Vec<Secret>,
    /// Ciphertexts that clients have got, with the names of their keys.
    sealed: Vec<(String, Sealed)>,
    /// The requests that the server has begun, by connection and number.
    requests: BTreeMap<(u32, u32), Begun>,
    /// The answers that clients have got, by call and status.
    answers: BTreeMap<(String, u16), usize>,
    /// Those that had to wait for their audit lines, by call.
    held: BTreeMap<String, usize>,
    /// Lines of the audit log, by call and status.
    lines: BTreeMap<(String, u16), usize>,
    /// When each client might call, and when not.
    rights: [Vec<(Duration, bool)>; 2],
    are_rights_changing: [bool; 2],
    /// Until when the key store is busy with calls for requests.
    busy: Duration,
    /// Since when the server drains.
    ending: Option<Duration>,
    /// Its patience is over: connections may end without an answer.
    is_cut_off: bool,
}

struct Begun {
    call: String,
    at: Duration,
    is_over: bool,
}

/// A path and its client, by which answers and lines are counted.
fn call(path: &str, client: u32) -> String {
    format!("{path} of client {client}")
}

impl Inner {
    /// A key store that does not say its status is not available.
    fn notice_silence(&mut self, now: Duration) {
        /// Half a second early, as the server may have looked at the clock before.
        const LATE: Duration = Duration::from_millis(5_500);
        let is_on = self.outages.last().is_some_and(|outage| outage.until.is_none());
        if let Some(from) = self.asked.filter(|asked| !is_on && now >= *asked + LATE) {
            self.outages.push(Outage { from, until: None });
        }
    }
}

impl Model {
    pub fn new(terms: Terms) -> Self {
        Self { terms, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// A read of this key begins. It counts as one without an answer until it has one.
    pub fn begin_read(&self, name: &str) -> usize {
        let (mut inner, now) = (self.lock(), world::elapsed());
        let unanswered = &mut inner.keys.entry(name.to_owned()).or_default().unanswered;
        unanswered.push((now, None));
        unanswered.len() - 1
    }

    /// The read with this number has ended.
    pub fn end_read(&self, name: &str, number: usize, is_answered: bool) {
        let (mut inner, now) = (self.lock(), world::elapsed());
        let key = inner.keys.get_mut(name).expect("it was read");
        key.unanswered[number] = match is_answered {
            true => (Duration::MAX, None),
            false => (key.unanswered[number].0, Some(now)),
        };
    }

    /// A read of this value has ended, which began when it was `asked`.
    pub fn has_read(&self, name: &str, number: usize, asked: Duration) {
        let (mut inner, now) = (self.lock(), world::elapsed());
        let key = inner.keys.get_mut(name).expect("it was read");
        let read = &mut key.versions[number].read;
        let last = read.map_or(asked, |(last, _)| asked.max(last));
        *read = Some((last, now));
    }

    /// The key store is asked whether it is available.
    pub fn ask_status(&self) {
        self.lock().asked = Some(world::elapsed());
    }

    /// The key store has said whether it is available, which it was `asked` then.
    pub fn status(&self, is_available: bool, asked: Duration) {
        let (mut inner, now) = (self.lock(), world::elapsed());
        inner.notice_silence(now);
        inner.asked = None;
        let outage = inner.outages.last_mut().filter(|outage| outage.until.is_none());
        match outage {
            Some(outage) if is_available => outage.until = Some(now),
            None if !is_available => inner.outages.push(Outage { from: asked, until: None }),
            _ => {}
        }
    }

    /// A ciphertext that some key of this name has made, if there is one.
    pub fn sealed(&self, name: &str) -> Option<Sealed> {
        let inner = self.lock();
        let of_name: Vec<_> = inner.sealed.iter().filter(|(own, _)| own == name).collect();
        if of_name.is_empty() {
            return None;
        }
        Some(of_name[world::below(of_name.len() as u64) as usize].1.clone())
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
            inner.is_cut_off || world::elapsed() <= inner.busy + SLACK,
            "request {number} of connection {connection} is forgotten: its time is over, and the key store has had \
             nothing to do since {:?}",
            inner.busy
        );
    }

    /// The client may call, or may not, from some time between the first and the second of two calls.
    pub fn allow(&self, client: u32, may: bool) {
        let (mut inner, now) = (self.lock(), world::elapsed());
        inner.rights[client as usize].push((now, may));
        let is_changing = &mut inner.are_rights_changing[client as usize];
        *is_changing = !*is_changing;
    }

    /// The server drains from now on.
    pub fn end(&self) {
        self.lock().ending = Some(world::elapsed());
    }

    pub fn is_ending(&self) -> bool {
        self.lock().ending.is_some()
    }

    pub fn cut_off(&self) {
        self.lock().is_cut_off = true;
    }

    pub fn is_cut_off(&self) -> bool {
        self.lock().is_cut_off
    }

    /// Whether the end of the server is a reason for it to close without an answer to this.
    pub fn may_close(&self, sent: &Sent) -> bool {
        let inner = self.lock();
        inner.is_cut_off || inner.ending.is_some_and(|at| sent.begun >= at)
    }

    pub fn begin(&self, connection: u32, number: u32, path: &str) {
        let (mut inner, now) = (self.lock(), world::elapsed());
        world::note(|| format!("request {number} of connection {connection}: {path}"));
        if let Some(name) = sent::used_by(path) {
            inner.keys.entry(name.to_owned()).or_default().uses.push(now);
        }
        let call = call(path, identities::client_of(connection));
        inner.requests.insert((connection, number), Begun { call, at: now, is_over: false });
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
            begun.call,
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
        let text = |name: &str| line["request"][name].as_str().unwrap_or_default();
        let call = call(text("path"), identities::prepared().client(text("identity")));
        let code = line["response"]["code"].as_u64().unwrap_or_default() as u16;
        world::note(|| format!("audit line: {call} {code}"));
        *self.lock().lines.entry((call, code)).or_default() += 1;
    }

    /// Checks an answer against all that has happened.
    pub fn check(&self, sent: &Sent, status: u16, body: &[u8]) {
        let (mut inner, now) = (self.lock(), world::elapsed());
        inner.notice_silence(now);
        let (expiry, path) = (&self.terms.expiry, sent.what.path(&sent.name));
        let call = call(&path, sent.client);
        let what = format!("{} {call}, sent at {:?}: {status}", sent.what.method(), sent.at);
        let text = || String::from_utf8_lossy(body);
        *inner.answers.entry((call.clone(), status)).or_default() += 1;
        let rights = &inner.rights[sent.client as usize];
        let changes = inner.are_rights_changing[sent.client as usize]
            || rights.iter().any(|(at, _)| *at > sent.at && *at <= now);
        let before = rights.iter().rev().find(|(at, _)| *at <= sent.at);
        let may = before.is_none_or(|(_, may)| *may);
        if status == 403 {
            ensure!(!may || changes, "{what}, though the client may");
            // The state that takes the rights away has other words.
            let is_told = text().contains("not authorized");
            ensure!(is_told, "{what}, in the words of another state: {}", text());
            return;
        }
        if status >= 500 {
            let may_fail = !self.terms.is_healthy || inner.is_cut_off;
            ensure!(may_fail, "{what}, though nothing fails: {}", text());
            return;
        }
        ensure!(may || changes, "{what}, though the client may not since {before:?}");
        if status == 200
            && self.terms.is_audit_required
            && !sent.what.is_change()
            && !body.is_empty()
        {
            let held = inner.held.entry(call.clone()).or_default();
            *held += 1;
            let (held, lines) = (*held, inner.lines.get(&(call, 200)).copied().unwrap_or_default());
            ensure!(held <= lines, "{what}, {held} times, but {lines} audit lines are written");
        }
        let inner = &mut *inner;
        let key = inner.keys.entry(sent.name.clone()).or_default();
        let forbids =
            |key: &Key, version| key.forbids(version, (sent.at, now), expiry, &inner.outages);
        let uses_other_than = |key: &Key, other| {
            (0..key.versions.len())
                .any(|version| Some(version) != other && forbids(key, version).is_none())
        };
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
            (What::Generate | What::Encrypt, 200) => {
                let [plaintext, ciphertext] = texts_of(body, ["plaintext", "ciphertext"]);
                let Some(sealed) = key.open(&ciphertext) else {
                    return world::fail(format!("{what}, with a key that was never stored"));
                };
                let is_generated = sent.what == What::Generate;
                let expected = if is_generated { &plaintext } else { &sent.sealed.plaintext };
                ensure!(sealed.plaintext == *expected, "{what}, but the ciphertext is of another");
                if let Some(why) = forbids(key, sealed.version) {
                    world::fail(format!("{what}, {why}"));
                }
                inner.sealed.push((sent.name.clone(), sealed));
            }
            (What::Decrypt, 200) => {
                let [plaintext] = texts_of(body, ["plaintext"]);
                ensure!(plaintext == sent.sealed.plaintext, "{what}, but the plaintext is another");
                if let Some(why) = forbids(key, sent.sealed.version) {
                    world::fail(format!("{what}, {why}"));
                }
            }
            (What::Decrypt, 400) => {
                let is_replaced = uses_other_than(key, Some(sent.sealed.version));
                ensure!(is_replaced, "{what}, but the key was the same: {}", text());
            }
            (What::Describe, 200) => {
                ensure!(uses_other_than(key, None), "{what}, but there was no such key");
            }
            (What::Generate | What::Encrypt | What::Decrypt | What::Describe, 404) => {
                ensure!(key.was_absent(sent.at, now), "{what}, but the key was there all the time");
            }
            (What::List, 200) => {
                let text = text();
                for (name, key) in &inner.keys {
                    let is_listed = text.contains(&format!("\"{name}\""));
                    ensure!(is_listed || key.was_absent(sent.at, now), "{what}: {name} is missing");
                    ensure!(
                        !is_listed || key.was_there(sent.at, now),
                        "{what}: {name} was not there"
                    );
                }
            }
            _ => world::fail(format!("{what}: {}", text())),
        }
    }

    /// What must hold when the server has ended: each request has one line, and no other.
    pub fn check_end(&self) {
        let inner = self.lock();
        let mut begun: BTreeMap<&str, usize> = BTreeMap::new();
        for ((connection, number), request) in &inner.requests {
            *begun.entry(&request.call).or_default() += 1;
            ensure!(
                request.is_over,
                "request {number} of connection {connection} never ended: {}",
                request.call
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

/// These texts of a JSON object.
fn texts_of<const N: usize>(body: &[u8], names: [&str; N]) -> [String; N] {
    let answer = serde_json::from_slice::<serde_json::Value>(body).unwrap_or_default();
    names.map(|name| answer[name].as_str().unwrap_or_default().to_owned())
}

pub type Shared = Arc<Model>;
