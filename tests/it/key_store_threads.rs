//! What happens around the threads of the key store: one change of a name at a time, without a thread
//! for each that waits, and bugs that end a request and nothing else. The key store is the test's own.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::common::{
    Client, Follower, Http2, Inside, PATIENCE, Server, base64, stored_key, wait_for,
};
use kes::inside::{
    ApiOptions, Deadline, Expiry, Generation, KeyName, KeyStore, KeyStoreError as Error, Policies,
    Secret,
};
use serde_json::{Value, json};

const AUDIT: &str = "/v1/log/audit/trace";
const BUG: &str = "internal server error";

/// A key store in memory with bugs: what is done with a key called `bug` panics, and one called `broken`
/// can't be read.
#[derive(Default)]
struct Store {
    values: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Creates of each name.
    creates: Mutex<Vec<String>>,
    /// Creates of a name called `slow` wait for this.
    is_open: AtomicBool,
    /// A read of `late` has found what it found, and then waits for the same.
    late: AtomicUsize,
    /// Calls for `slow` at this moment, and the most that there were.
    inside: AtomicUsize,
    most: AtomicUsize,
    /// It does not answer questions about keys and its status.
    is_silent: AtomicBool,
    /// It refuses to create and to read.
    is_gone: AtomicBool,
    /// So many times threads that ask by themselves meet a bug.
    bugs: AtomicUsize,
}

impl Store {
    fn bug(name: &KeyName) {
        assert_ne!("bug", name.as_str(), "a bug");
    }

    fn bug_by_itself(&self) {
        let left = |left: usize| left.checked_sub(1);
        let (order, bugs) = (Ordering::SeqCst, &self.bugs);
        assert!(bugs.fetch_update(order, order, left).is_err(), "a bug");
    }

    fn answer(&self) -> Result<(), Error> {
        wait_for(2 * PATIENCE, || (!self.is_silent.load(Ordering::SeqCst)).then_some(()));
        match self.is_gone.load(Ordering::SeqCst) {
            true => Err(Error::during("ask")("it is gone")),
            false => Ok(()),
        }
    }

    fn wait(&self, name: &KeyName) {
        if name.as_str() == "slow" {
            let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(inside, Ordering::SeqCst);
            wait_for(2 * PATIENCE, || self.is_open.load(Ordering::SeqCst).then_some(()));
            self.inside.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl KeyStore for Store {
    fn create(&self, name: &KeyName, value: &Secret, _: Deadline) -> Result<(), Error> {
        Self::bug(name);
        self.creates.lock().unwrap().push(name.to_string());
        self.answer()?;
        self.wait(name);
        let mut values = self.values.lock().unwrap();
        match values.contains_key(name.as_str()) {
            true => Err(Error::Exists),
            false => {
                values.insert(name.to_string(), value.expose().to_vec());
                Ok(())
            }
        }
    }

    fn get(&self, name: &KeyName, _: Deadline) -> Result<Secret, Error> {
        Self::bug(name);
        if name.as_str() == "broken" {
            return Err(Error::during("read the key")("it is broken"));
        }
        self.answer()?;
        let value = self.values.lock().unwrap().get(name.as_str()).cloned();
        if name.as_str() == "late" {
            self.late.fetch_add(1, Ordering::SeqCst);
            wait_for(2 * PATIENCE, || self.is_open.load(Ordering::SeqCst).then_some(()));
        }
        Ok(Secret::new(value.ok_or(Error::NotFound)?))
    }

    fn delete(&self, name: &KeyName, _: Deadline) -> Result<(), Error> {
        Self::bug(name);
        self.wait(name);
        self.values.lock().unwrap().remove(name.as_str());
        Ok(())
    }

    fn list(&self, _: Deadline) -> Result<Vec<String>, Error> {
        self.bug_by_itself();
        Ok(self.values.lock().unwrap().keys().cloned().collect())
    }

    fn status(&self, _: Deadline) -> Result<(), Error> {
        self.bug_by_itself();
        self.answer()
    }

    fn describe(&self) -> String {
        "Test".to_owned()
    }

    fn ping(&self) -> Option<Duration> {
        Some(Duration::ZERO)
    }

    fn notices(&self) -> Vec<String> {
        self.bug_by_itself();
        Vec::new()
    }
}

/// Waits until the audit log has told of so many requests other than the one that follows it: their
/// paths and statuses.
fn told(audit: &mut Follower, count: usize) -> Vec<(String, u64)> {
    let mut told = Vec::new();
    while told.len() < count {
        let event = audit.event();
        let path = event["request"]["path"].as_str().unwrap();
        if path != AUDIT {
            told.push((path.to_owned(), status(&event)));
        }
    }
    told
}

fn status(event: &Value) -> u64 {
    event["response"]["code"].as_u64().unwrap()
}

/// Sends so many requests at once, each over a connection of its own. Their answers come in the end.
fn at_once(client: &Client, count: usize, method: &str, path: &str) -> Vec<Http2> {
    (0..count)
        .map(|_| {
            let mut http2 = Http2::open(client);
            assert_eq!(1, http2.ask(method, path, ""));
            http2
        })
        .collect()
}

fn statuses(clients: Vec<Http2>) -> Vec<u16> {
    let answers = clients.into_iter().map(|mut http2| http2.answer(1));
    let mut statuses: Vec<_> = answers.map(|answer| answer.status).collect();
    statuses.sort_unstable();
    statuses
}

#[test]
fn of_many_who_create_a_key_that_takes_long_one_succeeds_and_nobody_else_waits() {
    let store = Arc::new(Store::default());
    let server = Inside::start(store.clone());
    let root = server.root();
    let creates = at_once(&root, 16, "POST", "/v1/key/create/slow");
    wait_for(PATIENCE, || (store.inside.load(Ordering::SeqCst) > 0).then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    // There is a thread for others, although there are half as many threads as creates.
    root.post("/v1/key/create/other", "").is_empty_success();
    store.is_open.store(true, Ordering::SeqCst);
    let expected = [vec![200], vec![400; 15]].concat();
    assert_eq!(expected, statuses(creates));
    assert_eq!(1, store.most.load(Ordering::SeqCst), "two at once");
    // The key store is asked once more for those that came when the first had begun: another server may have
    // deleted the key before that.
    let creates = store.creates.lock().unwrap().clone();
    assert!(creates.iter().filter(|name| *name == "slow").count() <= 2, "{creates:?}");
    root.post("/v1/key/create/slow", "").is_failure(400, "key does already exist");
}

#[test]
fn changes_of_a_name_come_one_after_the_other_as_they_were_asked_for() {
    let store = Arc::new(Store::default());
    let server = Inside::start(store.clone());
    let mut http2 = Http2::open(&server.root());
    let import = json!({ "bytes": base64([7; 32]) }).to_string();
    let streams = [
        ("POST", "/v1/key/create/slow", "", 200),
        ("POST", "/v1/key/create/slow", "", 400),
        ("DELETE", "/v1/key/delete/slow", "", 200),
        ("POST", "/v1/key/import/slow", &import, 200),
        ("POST", "/v1/key/create/slow", "", 400),
    ]
    .map(|(method, path, body, status)| (http2.ask(method, path, body), status));
    http2.read_for(Duration::from_millis(300));
    assert!(streams.iter().all(|(stream, _)| !http2.is_answered(*stream)));
    store.is_open.store(true, Ordering::SeqCst);
    for (stream, status) in streams {
        assert_eq!(status, http2.answer(stream).status, "stream {stream}");
    }
    assert_eq!(1, store.most.load(Ordering::SeqCst), "two at once");
    let value = store.values.lock().unwrap()["slow"].clone();
    assert_eq!(stored_key(&[7; 32]).as_bytes(), value);
}

/// Another server creates it after this one has found that it is not there.
#[test]
fn a_key_that_is_there_when_a_request_comes_is_found_although_an_older_read_found_none() {
    let store = Arc::new(Store::default());
    let server = Inside::start(store.clone());
    let root = server.root();
    let early = at_once(&root, 1, "GET", "/v1/key/describe/late");
    let has_read = || (store.late.load(Ordering::SeqCst) > 0).then_some(());
    assert!(wait_for(PATIENCE, has_read).is_some());
    let value = stored_key(&[7; 32]).into_bytes();
    store.values.lock().unwrap().insert("late".to_owned(), value);
    let later = at_once(&root, 3, "GET", "/v1/key/describe/late");
    std::thread::sleep(Duration::from_millis(300));
    store.is_open.store(true, Ordering::SeqCst);
    assert_eq!(vec![404], statuses(early));
    assert_eq!(vec![200; 3], statuses(later));
    let reads = store.late.load(Ordering::SeqCst);
    assert!(reads <= 3, "{reads} reads: those that wait share one");
}

#[test]
fn a_create_without_an_answer_leaves_the_cached_key_and_one_of_a_key_that_exists_asks_again() {
    let store = Arc::new(Store::default());
    let server = Inside::start(store.clone());
    let root = server.root();
    let uses = |status| assert_eq!(status, root.get("/v1/key/describe/a").status);
    root.post("/v1/key/create/a", "").is_empty_success();
    uses(200);
    store.is_gone.store(true, Ordering::SeqCst);
    root.post("/v1/key/create/a", "").is_failure(502, "bad gateway: failed to create key");
    uses(200);
    store.is_gone.store(false, Ordering::SeqCst);
    // Another server may have deleted the cached key and created this one.
    root.post("/v1/key/create/a", "").is_failure(400, "key does already exist");
    store.values.lock().unwrap().clear();
    uses(404);
}

/// Such as a directory on a network, or Vault behind a firewall that drops its packets.
#[test]
fn while_the_key_store_hangs_keys_that_came_due_serve_and_nobody_waits_for_it_to_return() {
    let store = Arc::new(Store::default());
    let any = Duration::from_secs(1);
    let expiry = Expiry { any: Some(any), unused: None, offline: Some(Duration::from_secs(3600)) };
    let patient = ApiOptions { timeout: Some(2 * PATIENCE), ..ApiOptions::default() };
    let apis = [("/v1/key/describe/".to_owned(), patient)].into();
    let (policies, generation) =
        (|root: &str| Policies::builder(root, &[]).build(), Generation::Newest);
    let server = Inside::caching(store.clone(), expiry, generation, apis, policies, |_| {});
    let root = server.root();
    for name in ["a", "b"] {
        assert_eq!(200, root.post(&format!("/v1/key/create/{name}"), "").status);
        assert_eq!(200, root.get(&format!("/v1/key/describe/{name}")).status);
    }
    store.is_silent.store(true, Ordering::SeqCst);
    std::thread::sleep(2 * any);
    let began = Instant::now();
    let those_who_wait = at_once(&root, 3, "GET", "/v1/key/describe/a");
    assert_eq!(vec![200; 3], statuses(those_who_wait));
    assert_eq!(200, root.get("/v1/key/describe/b").status);
    assert!(began.elapsed() < PATIENCE, "the key store was waited for");
    assert_eq!(0, root.get("/v1/metrics").sample("kes_keystore_available"));
    // It returns, and is asked again.
    store.values.lock().unwrap().remove("b");
    store.is_silent.store(false, Ordering::SeqCst);
    let is_gone = || (root.get("/v1/key/describe/b").status == 404).then_some(());
    assert!(wait_for(PATIENCE, is_gone).is_some());
}

#[test]
fn a_key_that_comes_due_while_a_body_is_on_its_way_is_read_again() {
    let server = Server::start(|config| config.expiry = "{any: 1s}");
    let root = server.root();
    root.post("/v1/key/create/old", "").is_empty_success();
    root.post("/v1/key/generate/old", "{}").is_json_success();
    let mut slow = root.connect();
    slow.send("POST /v1/key/generate/old HTTP/1.1\r\nHost: kes\r\nContent-Length: 2\r\n\r\n{");
    std::fs::remove_file(server.keys().join("old")).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    slow.send("}");
    slow.response().is_failure(404, "key does not exist");
}

#[test]
fn a_change_that_has_not_begun_when_the_server_ends_does_not_begin_any_more() {
    let store = Arc::new(Store::default());
    let mut server = Inside::start(store.clone());
    let mut http2 = Http2::open(&server.root());
    http2.ask("POST", "/v1/key/create/slow", "");
    // They are audited as failures when the server ends.
    http2.ask("DELETE", "/v1/key/delete/slow", "");
    http2.ask("POST", "/v1/key/create/slow", "");
    let count = |inside: &AtomicUsize, wanted| {
        wait_for(PATIENCE, || (inside.load(Ordering::SeqCst) == wanted).then_some(()))
    };
    assert!(count(&store.inside, 1).is_some());
    std::thread::sleep(Duration::from_millis(300));
    server.stop();
    store.is_open.store(true, Ordering::SeqCst);
    assert!(count(&store.inside, 0).is_some());
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(["slow"], *store.creates.lock().unwrap().clone());
    assert!(store.values.lock().unwrap().contains_key("slow"));
}

#[test]
fn more_changes_of_a_name_than_may_wait_are_refused_at_once() {
    let store = Arc::new(Store::default());
    let server = Inside::start(store.clone());
    let mut http2 = Http2::open(&server.root());
    let streams: Vec<_> = (0..140).map(|_| http2.ask("POST", "/v1/key/create/slow", "")).collect();
    for stream in &streams[129..] {
        http2.answer(*stream).is_failure(503, "too many requests wait for the key store");
    }
    http2.request("POST", "/v1/key/create/other", "").is_empty_success();
    store.is_open.store(true, Ordering::SeqCst);
    http2.answer(streams[0]).is_empty_success();
    for stream in &streams[1..129] {
        assert_eq!(400, http2.answer(*stream).status);
    }
}

#[test]
fn a_change_that_takes_effect_too_late_is_in_the_error_log_whatever_else_fails() {
    let store = Arc::new(Store::default());
    let server = Inside::start(store.clone());
    let root = server.root();
    let mut errors = Follower::start(&root, "/v1/log/error/trace");
    let mut slow = Http2::open(&root);
    slow.ask("POST", "/v1/key/create/slow", "");
    slow.answer(1).is_failure(503, "timeout");
    let is_told = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut root, began) = (root.connect(), Instant::now());
            while !is_told.load(Ordering::SeqCst) && began.elapsed() < PATIENCE {
                root.request("POST", "/v1/key/generate/broken", "{}")
                    .is_failure(502, "bad gateway: failed to access key");
            }
        });
        errors.until("requests failed within a second: left out of this log");
        std::thread::sleep(Duration::from_millis(500));
        store.is_open.store(true, Ordering::SeqCst);
        errors.until("was created after its client had been answered 503");
        is_told.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_bug_in_the_key_store_is_answered_at_once_and_audited_and_nobody_else_notices() {
    let store = Arc::new(Store::default());
    let server = Inside::start(store.clone());
    let root = server.root();
    root.post("/v1/key/create/good", "").is_empty_success();
    let mut audit = Follower::start(&root, AUDIT);
    let (mut http1, mut http2) = (root.connect(), Http2::open(&root));
    let began = Instant::now();
    let calls = [
        ("POST", "/v1/key/create/bug", ""),
        ("POST", "/v1/key/generate/bug", "{}"),
        ("DELETE", "/v1/key/delete/bug", ""),
    ];
    for (method, path, body) in calls {
        http1.request(method, path, body).is_failure(500, BUG);
        http2.request(method, path, body).is_failure(500, BUG);
    }
    // Not when the time for an answer is over, which is 15 seconds.
    assert!(began.elapsed() < Duration::from_secs(14), "{:?}", began.elapsed());
    // More often than there are threads.
    for _ in 0..10 {
        http2.request("POST", "/v1/key/create/bug", "").is_failure(500, BUG);
    }
    http1.request("POST", "/v1/key/generate/good", "{}").is_json_success();
    http2.request("POST", "/v1/key/create/bu", "").is_empty_success();
    let told = told(&mut audit, 18);
    let of_bugs = told.iter().filter(|(path, _)| path.ends_with("/bug"));
    assert!(of_bugs.clone().all(|(_, status)| *status == 500), "{told:?}");
    assert_eq!(16, of_bugs.count());
}

#[test]
fn threads_survive_a_bug_that_they_meet() {
    let store = Arc::new(Store::default());
    let server = Inside::start(store.clone());
    // The sweeper and the one that asks for the status, several times each.
    store.bugs.store(6, Ordering::SeqCst);
    let is_over = wait_for(PATIENCE, || (store.bugs.load(Ordering::SeqCst) == 0).then_some(()));
    assert!(is_over.is_some(), "nobody asks any more");
    // The sweeper still does its work.
    let mut slow = server.root().connect();
    slow.send("GET /version HTTP/1.1\r\n");
    let began = Instant::now();
    assert!(slow.is_closed());
    let took = began.elapsed();
    // Without a sweeper it would be open for longer.
    assert!(took < Duration::from_secs(45), "{took:?}");
    server.root().get("/version").is_json_success();
}
