mod clients;

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Wake, Waker},
    time::{Duration, Instant},
};

use rustls_pki_types::CertificateDer;

use super::*;
use crate::{
    api::state::{self, State},
    base::{deadline::Deadline, secret::Secret},
    cache::Expiry,
    http::{
        reply::Reply,
        request::{Head, Method},
    },
    io::service::{Begun, Handshake, Lines, Progress, Request},
    keystore::{Error, KeyName, KeyStore, mem::Mem},
    log::{AuditMode, Log, Settings},
    policy::Policies,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A key store that answers when its gate is open.
struct Gated {
    keys: Mem,
    is_open: Mutex<bool>,
    opened: Condvar,
    calls: AtomicUsize,
}

impl Gated {
    fn new(is_open: bool) -> Arc<Self> {
        let (keys, opened) = (Mem::default(), Condvar::new());
        Arc::new(Self { keys, is_open: Mutex::new(is_open), opened, calls: AtomicUsize::new(0) })
    }

    fn open(&self, is_open: bool) {
        *self.is_open.lock().unwrap() = is_open;
        self.opened.notify_all();
    }

    fn pass(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let gate = self.is_open.lock().unwrap();
        drop(self.opened.wait_while(gate, |is_open| !*is_open).unwrap());
    }
}

impl KeyStore for Gated {
    fn create(&self, name: &KeyName, value: &Secret, deadline: Deadline) -> Result<(), Error> {
        self.pass();
        self.keys.create(name, value, deadline)
    }

    fn get(&self, name: &KeyName, deadline: Deadline) -> Result<Secret, Error> {
        self.pass();
        match name.as_str() {
            "bad" => Err(Error::Sealed),
            "bug" => panic!("a bug"),
            _ => self.keys.get(name, deadline),
        }
    }

    fn delete(&self, name: &KeyName, deadline: Deadline) -> Result<(), Error> {
        self.pass();
        self.keys.delete(name, deadline)
    }

    fn list(&self, deadline: Deadline) -> Result<Vec<String>, Error> {
        self.pass();
        self.keys.list(deadline)
    }

    fn status(&self, _: Deadline) -> Result<(), Error> {
        Ok(())
    }

    fn describe(&self) -> String {
        "Gated".to_owned()
    }
}

/// Counts wakes.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A client, its connection, and the server.
struct Scene {
    api: Api,
    store: Arc<Gated>,
    session: Box<dyn Session>,
    chain: Vec<CertificateDer<'static>>,
    wakes: Arc<Wakes>,
}

impl Scene {
    fn new(is_open: bool) -> Self {
        Self::with_audit(is_open, AuditMode::Off)
    }

    fn with_audit(is_open: bool, audit: AuditMode) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![]).unwrap();
        let chain = vec![params.self_signed(&key).unwrap().der().clone()];
        let root = crate::identity::of_certificate(&chain[0]).unwrap();
        let policies = Policies::builder(&root, &[]).build();
        let state = State { policies, ..state::for_tests().0 };
        let log = Log::start(Settings { audit, error: false }, true).unwrap();
        let log = Box::leak(Box::new(log));
        let store = Gated::new(is_open);
        let core = Core::start(state, Expiry::default(), store.clone(), log, 1).unwrap();
        let api = Api(core);
        let (_, mut session) = api.open("127.0.0.1:1".parse().unwrap()).unwrap();
        let handshake = Handshake { chain: &chain, is_resumed: false, group: None };
        session.established(&handshake).unwrap();
        Self { api, store, session, chain, wakes: Arc::default() }
    }

    fn begin(&mut self, method: Method, path: &str) -> Box<dyn Request> {
        let head = Head::new(method, path).unwrap();
        match self.session.begin(head, &self.chain, Instant::now()) {
            Begun::Request(request, _) => request,
            Begun::Answer(reply, _) => panic!("{} {}", reply.status, text(&reply)),
        }
    }

    fn waker(&self) -> Waker {
        self.wakes.clone().into()
    }

    fn run(&self, request: &mut Box<dyn Request>, body: Option<&str>) -> Progress {
        request.run(body.map(str::as_bytes), Instant::now(), &|| self.waker())
    }

    fn poll(&self, request: &mut Box<dyn Request>) -> Progress {
        request.poll(Instant::now(), &|| self.waker())
    }

    fn wait(&self, what: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !what() {
            assert!(Instant::now() < until, "it does not come");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The answer to a request that runs.
    fn answer(&self, request: &mut Box<dyn Request>, progress: Progress) -> Reply {
        let mut progress = progress;
        let until = Instant::now() + PATIENCE;
        loop {
            match progress {
                Progress::Reply(reply) => return reply,
                Progress::Lines => panic!("a log stream"),
                Progress::Wait => std::thread::sleep(Duration::from_millis(1)),
            }
            assert!(Instant::now() < until, "there is no answer");
            progress = self.poll(request);
        }
    }

    fn call(&mut self, method: Method, path: &str, body: &str) -> Reply {
        let mut request = self.begin(method, path);
        let progress = self.run(&mut request, Some(body));
        self.answer(&mut request, progress)
    }

    /// How many requests ended with success, with an error and with a failure, and those that go on.
    fn counts(&self) -> [u64; 4] {
        let page = self.api.0.metrics.page([], 0, false, Instant::now());
        ["success", "error", "failure", "active"].map(|outcome| {
            let name = format!("kes_http_request_{outcome} ");
            page.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
        })
    }
}

fn text(reply: &Reply) -> &str {
    std::str::from_utf8(&reply.body).unwrap()
}

fn is_waiting(progress: &Progress) -> bool {
    matches!(progress, Progress::Wait)
}

const GENERATE: &str = "/v1/key/generate/my-key";

#[test]
fn an_answer_from_the_key_store_wakes_its_request_and_the_next_one_comes_from_the_cache() {
    let mut scene = Scene::new(true);
    assert_eq!(200, scene.call(Method::Post, "/v1/key/create/my-key", "").status);
    scene.store.open(false);
    let (mut first, mut second) =
        (scene.begin(Method::Post, GENERATE), scene.begin(Method::Post, GENERATE));
    let wakes = scene.wakes.0.load(Ordering::SeqCst);
    for request in [&mut first, &mut second] {
        assert!(is_waiting(&scene.run(request, Some(r#"{"context":"Yg=="}"#))));
        assert_eq!(1, request.held());
    }
    scene.store.open(true);
    scene.wait(|| scene.wakes.0.load(Ordering::SeqCst) == wakes + 2);
    for request in [&mut first, &mut second] {
        let Progress::Reply(reply) = scene.poll(request) else { panic!("it was woken") };
        assert!(text(&reply).starts_with(r#"{"plaintext":""#), "{}", text(&reply));
    }
    assert_eq!(2, scene.store.calls.load(Ordering::SeqCst), "a create and one get");

    // A hit needs no waker.
    let mut hit = scene.begin(Method::Post, GENERATE);
    let no_waker = || -> Waker { panic!("a hit does not wait") };
    let progress = hit.run(Some(b"{}"), Instant::now(), &no_waker);
    assert!(matches!(progress, Progress::Reply(Reply { status: 200, .. })));
    assert_eq!([4, 0, 0, 0], scene.counts());
}

#[test]
fn a_key_store_that_fails_or_never_answers_gives_failures() {
    let mut scene = Scene::new(true);
    assert_eq!(400, scene.call(Method::Post, GENERATE, "{").status);
    for (key, status) in [("none", 404), ("bad", 403), ("bug", 500)] {
        let path = format!("/v1/key/generate/{key}");
        assert_eq!(status, scene.call(Method::Post, &path, "{}").status, "{key}");
    }
    scene.store.open(false);
    for (method, path) in [
        (Method::Post, GENERATE),
        (Method::Get, "/v1/key/list/"),
        (Method::Post, "/v1/key/create/a"),
    ] {
        let mut request = scene.begin(method, path);
        assert!(is_waiting(&scene.run(&mut request, Some("{}"))));
        request.expire();
        let Progress::Reply(reply) = scene.poll(&mut request) else { panic!("{path} has expired") };
        assert_eq!(503, reply.status, "{path}");
    }
    let failed = scene.counts();
    // What comes later changes nothing.
    scene.store.open(true);
    scene.wait(|| scene.api.0.threads.depth() == 0);
    assert_eq!(failed, scene.counts());
}

#[test]
fn an_answer_that_came_before_the_deadline_is_given() {
    let mut scene = Scene::new(false);
    for (method, path) in [(Method::Get, "/v1/key/list/"), (Method::Post, "/v1/key/create/my-key")]
    {
        scene.store.open(false);
        let wakes = scene.wakes.0.load(Ordering::SeqCst);
        let mut request = scene.begin(method, path);
        assert!(is_waiting(&scene.run(&mut request, Some(""))));
        assert!(request.deadline() > Instant::now());
        scene.store.open(true);
        scene.wait(|| scene.wakes.0.load(Ordering::SeqCst) > wakes);
        request.expire();
        let Progress::Reply(reply) = scene.poll(&mut request) else { panic!("{path} is answered") };
        assert_eq!(200, reply.status, "{path}");
    }
    assert_eq!([2, 0, 0, 0], scene.counts());
}

#[test]
fn a_request_that_is_dropped_is_counted_once() {
    let mut scene = Scene::new(false);
    drop(scene.begin(Method::Post, GENERATE));
    assert_eq!([0, 1, 0, 0], scene.counts(), "its body was cut off");
    let mut request = scene.begin(Method::Post, GENERATE);
    let progress = scene.run(&mut request, None);
    assert_eq!(400, scene.answer(&mut request, progress).status);
    drop(request);
    assert_eq!([0, 2, 0, 0], scene.counts());

    // It waits, or its answer has come.
    for is_answered in [false, true] {
        scene.store.open(false);
        let mut request = scene.begin(Method::Get, "/v1/key/list/");
        assert!(is_waiting(&scene.run(&mut request, Some(""))));
        scene.store.open(true);
        if is_answered {
            scene.wait(|| scene.wakes.0.load(Ordering::SeqCst) > 0);
        }
        drop(request);
        scene.wait(|| scene.api.0.threads.depth() == 0);
    }
    assert_eq!([0, 2, 2, 0], scene.counts());

    // A change is carried out all the same, and counts as what it came to.
    scene.store.open(false);
    let mut request = scene.begin(Method::Post, "/v1/key/create/my-key");
    assert!(is_waiting(&scene.run(&mut request, Some(""))));
    drop(request);
    assert_eq!([0, 2, 2, 1], scene.counts());
    scene.store.open(true);
    scene.wait(|| scene.counts() == [1, 2, 2, 0]);
}

#[test]
fn a_request_that_goes_away_takes_its_secrets_along() {
    let mut scene = Scene::new(false);
    let body = format!(r#"{{"plaintext":"{}"}}"#, "AAAA".repeat(1000));
    let mut request = scene.begin(Method::Post, "/v1/key/encrypt/my-key");
    assert!(is_waiting(&scene.run(&mut request, Some(&body))));
    assert_eq!(3000, request.held());
    // The key store still hangs; what waits for it holds a waker and an empty slot.
    let held = Arc::strong_count(&scene.wakes);
    drop(request);
    assert_eq!(held, Arc::strong_count(&scene.wakes));
    scene.store.open(true);
    scene.wait(|| Arc::strong_count(&scene.wakes) == 1);
}

#[test]
fn a_list_that_waits_counts_as_large_as_the_last_one() {
    let mut scene = Scene::new(true);
    let list = "/v1/key/list/";
    scene.store.open(false);
    let mut request = scene.begin(Method::Get, list);
    assert!(is_waiting(&scene.run(&mut request, Some(""))));
    assert!(request.held() >= 1 << 20, "nobody knows how long it is");
    scene.store.open(true);
    let progress = scene.poll(&mut request);
    assert_eq!("", text(&scene.answer(&mut request, progress)));
    for name in ["a", "b"] {
        let path = format!("/v1/key/create/{name}");
        assert_eq!(200, scene.call(Method::Post, &path, "").status);
    }
    let names = "{\"Name\":\"a\"}\n{\"Name\":\"b\"}\n";
    assert_eq!(names, text(&scene.call(Method::Get, list, "")));
    scene.store.open(false);
    let mut request = scene.begin(Method::Get, "/v1/key/list/a");
    assert!(is_waiting(&scene.run(&mut request, Some(""))));
    assert_eq!(names.len(), request.held());
    scene.store.open(true);
    let progress = scene.poll(&mut request);
    assert_eq!("{\"Name\":\"a\"}\n", text(&scene.answer(&mut request, progress)));
}

#[test]
fn a_log_stream_gives_lines_until_its_client_falls_behind_or_may_not_see_it_any_more() {
    let mut scene = Scene::new(true);
    let path = "/v1/log/audit/trace";
    let follow = |scene: &mut Scene| {
        let mut request = scene.begin(Method::Get, path);
        assert!(matches!(scene.run(&mut request, Some("")), Progress::Lines));
        scene.wait(|| scene.wakes.0.swap(0, Ordering::SeqCst) > 0);
        match request.next_lines() {
            Lines::Block(lines) => assert!(std::str::from_utf8(&lines).unwrap().contains(path)),
            _ => panic!("its own request is the first event"),
        }
        assert!(matches!(request.next_lines(), Lines::Nothing));
        request
    };
    let (mut reader, mut slow) = (follow(&mut scene), follow(&mut scene));
    assert!(reader.may_go_on(&scene.chain));
    let long = format!("/v1/key/generate/{}", "a".repeat(250));
    let dropped = || scene.api.0.log.subscribers_dropped();
    // Many requests, on a machine that may do other things.
    let until = Instant::now() + 4 * PATIENCE;
    let cut_off = loop {
        drop(scene.session.begin(
            Head::new(Method::Post, &long).unwrap(),
            &scene.chain,
            Instant::now(),
        ));
        while let Lines::Block(_) = reader.next_lines() {}
        // One megabyte of lines of some 400 bytes each.
        if scene.counts()[1].is_multiple_of(4000) {
            std::thread::sleep(Duration::from_millis(200));
            if let end @ (Lines::CutOff | Lines::Nothing) = slow.next_lines() {
                break end;
            }
        }
        assert!(Instant::now() < until, "it never falls behind");
    };
    assert!(matches!(cut_off, Lines::CutOff));
    slow.count_drop();
    assert_eq!(1, dropped(), "once");

    let Ok(()) = scene.api.0.change_state(|state| {
        state.policies = Policies::default();
        Ok::<(), std::convert::Infallible>(())
    });
    assert!(!reader.may_go_on(&scene.chain));
    while let Lines::Block(_) = reader.next_lines() {}
    assert!(matches!(reader.next_lines(), Lines::End));
}
