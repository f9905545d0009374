//! Clients that share a server: limits of requests of an identity, and turns of identities at the key store.

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::common::{
    Client, Config, Http2, Identity, Inside, PATIENCE, Response, Server, http2, stored_key,
    wait_for,
};
use kes::inside::{
    Deadline, Generation, KeyName, KeyStore, KeyStoreError as Error, Policies, Secret,
};
use rustix::process::Signal;

const GENERATE: &str = "/v1/key/generate/my-key";
const MESSAGE: &str = "too many requests of this identity";

/// A server with `my-key`, which these may use, and with `limits`.
fn start(apps: &[&Identity], is_newest: bool, limits: &str) -> Server {
    Server::start(|config: &mut Config| {
        fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
        config.is_newest = is_newest;
        config.audit = "on";
        config.policy("apps", &["/v1/key/generate/*", "/v1/status", "/v1/ready"], apps);
        config.more = format!("limits: {limits}\n");
    })
}

fn generate(client: &Client) -> Response {
    client.post(GENERATE, "{}")
}

/// Asks again and again until the answer is 429, and says how many were 200. `rate` must be low.
#[track_caller]
fn until_limited(rate: f64, mut ask: impl FnMut() -> Response) -> usize {
    let begin = Instant::now();
    for count in 0.. {
        let answer = ask();
        if answer.status == 429 {
            assert_eq!(MESSAGE, answer.json()["message"]);
            assert_eq!(Some("1"), answer.header("retry-after"));
            return count;
        }
        assert_eq!(200, answer.status, "{}", answer.text());
        let most = rate * (1.0 + begin.elapsed().as_secs_f64());
        assert!((count as f64) < most, "{count} answers, not {most}");
        assert!(begin.elapsed() < PATIENCE, "no limit");
    }
    unreachable!()
}

#[test]
fn an_identity_that_asks_too_much_is_answered_429_and_nobody_else_is() {
    for is_newest in [false, true] {
        let (noisy, other) = (Identity::new("noisy"), Identity::new("other"));
        let server = start(&[&noisy, &other], is_newest, "{ requests_per_second: 2 }");
        let (noisy_client, other_client) = (server.client(&noisy), server.client(&other));
        let mut connection = noisy_client.connect();
        let served = until_limited(2.0, || connection.request("POST", GENERATE, "{}"));
        assert!(served >= 2);
        assert_eq!(200, generate(&other_client).status);
        let served = 1 + until_limited(2.0, || generate(&other_client));
        assert!(served >= 2);
        // Retry-After is to be believed, and the connection goes on.
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(200, connection.request("POST", GENERATE, "{}").status);

        assert_eq!(2, server.metric("kes_http_request_limited"));
        server.logs_error("has reached limits.requests_per_second: a request was answered 429");
        let limited: Vec<_> = server
            .stdout()
            .lines()
            .filter(|line| line.contains("\"code\":429"))
            .map(|line| [&noisy.id, &other.id].map(|id| line.contains(&**id)))
            .collect();
        assert_eq!([[true, false], [false, true]], *limited, "{}", server.stdout());
    }
}

#[test]
fn all_connections_and_streams_of_an_identity_count_together() {
    let noisy = Identity::new("noisy");
    let server = start(&[&noisy], false, "{ requests_per_second: 1 }");
    let client = server.client(&noisy);
    let begin = Instant::now();
    let mut statuses: Vec<_> = (0..10).map(|_| generate(&client).status).collect();
    let mut http2 = Http2::open(&client.speaking_http2());
    let streams: Vec<_> = (0..20).map(|_| http2.stream()).collect();
    let requests = streams.iter().map(|stream| http2::request(*stream, "POST", GENERATE, b"{}"));
    http2.send(requests.collect::<Vec<_>>().concat());
    for stream in streams {
        let answer = http2.answer(stream);
        if answer.status == 429 {
            answer.is_failure(429, MESSAGE);
            assert_eq!(Some("1"), answer.header("retry-after"));
        }
        statuses.push(answer.status);
    }
    let most = 2 + begin.elapsed().as_secs() as usize;
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    assert!((1..=most).contains(&count(200)), "{most}: {statuses:?}");
    assert_eq!(30, count(200) + count(429), "{statuses:?}");
}

#[test]
fn questions_about_the_server_are_never_limited_and_refused_requests_count() {
    let (app, stranger) = (Identity::new("app"), Identity::new("stranger"));
    let server = start(&[&app], false, "{ requests_per_second: 1, concurrent: 1 }");
    let client = server.client(&app);
    for _ in 0..20 {
        for path in ["/version", "/v1/status", "/v1/ready"] {
            assert_eq!(200, client.get(path).status, "{path}");
        }
    }
    // All of these have left its second to it.
    let mut connection = client.connect();
    assert_eq!(403, connection.request("POST", "/v1/key/create/x", "").status);
    let answers = (0..100).map(|_| connection.request("POST", "/v1/key/create/x", "").status);
    assert!(answers.into_iter().any(|status| status == 429));
    // Strangers have no rights to spare, and no count.
    for _ in 0..20 {
        assert_eq!(403, generate(&server.client(&stranger)).status);
    }
    // Root has the same limits as others, and a count of its own.
    let root = server.root().connect();
    let mut root = root;
    until_limited(1.0, || root.request("POST", GENERATE, "{}"));
}

#[test]
fn a_reload_changes_limits() {
    let app = Identity::new("app");
    let server = start(&[&app], false, "{ requests_per_second: 1 }");
    let mut connection = server.client(&app).connect();
    let mut ask = || connection.request("POST", GENERATE, "{}");
    until_limited(1.0, &mut ask);
    for (from, to, is_limited) in [
        ("limits: { requests_per_second: 1 }", "limits: { requests_per_second: 100000 }", false),
        ("limits: { requests_per_second: 100000 }", "limits: { requests_per_second: 1 }", true),
        ("limits: { requests_per_second: 1 }", "limits: {}", false),
    ] {
        let file = server.file("config.yml");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(file, text.replace(from, to)).unwrap();
        let done = || server.stderr().matches("the configuration is reloaded").count();
        let before = done();
        server.signal(Signal::HUP);
        assert!(wait_for(PATIENCE, || (done() > before).then_some(())).is_some());
        match is_limited {
            true => drop(until_limited(1.0, &mut ask)),
            false => assert!((0..20).all(|_| ask().status == 200), "{to}"),
        }
    }
}

/// A key store whose keys, which are all the same, can be read one after the other as long as it is open.
#[derive(Default)]
struct Gate {
    is_open: AtomicBool,
    /// So many reads may go on while it is closed.
    passes: AtomicUsize,
    /// Names that were asked for, and created, in their order.
    asked: Mutex<Vec<String>>,
    /// Questions for the status wait until it is open, too.
    is_slow: AtomicBool,
    /// Questions for the status at this moment, and the most that there were.
    questions: AtomicUsize,
    most: AtomicUsize,
}

impl Gate {
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn has_asked(&self, count: usize) {
        let is_asked = || (self.asked().len() == count).then_some(());
        assert!(wait_for(PATIENCE, is_asked).is_some(), "{:?}", self.asked());
    }

    fn wait(&self) {
        let passes = |passes: usize| passes.checked_sub(1);
        let order = Ordering::SeqCst;
        let may_pass =
            || self.is_open.load(order) || self.passes.fetch_update(order, order, passes).is_ok();
        wait_for(4 * PATIENCE, || may_pass().then_some(()));
    }
}

impl KeyStore for Gate {
    fn create(&self, name: &KeyName, _: &Secret, _: Deadline) -> Result<(), Error> {
        self.asked.lock().unwrap().push(format!("create {name}"));
        Err(Error::Exists)
    }

    fn get(&self, name: &KeyName, _: Deadline) -> Result<Secret, Error> {
        self.asked.lock().unwrap().push(name.to_string());
        self.wait();
        Ok(Secret::new(stored_key(&[1; 32]).into_bytes()))
    }

    fn delete(&self, name: &KeyName, _: Deadline) -> Result<(), Error> {
        self.asked.lock().unwrap().push(format!("delete {name}"));
        self.wait();
        Err(Error::NotFound)
    }

    fn list(&self, _: Deadline) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    fn status(&self, _: Deadline) -> Result<(), Error> {
        let now = 1 + self.questions.fetch_add(1, Ordering::SeqCst);
        self.most.fetch_max(now, Ordering::SeqCst);
        if self.is_slow.load(Ordering::SeqCst) {
            self.wait();
        }
        self.questions.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }

    fn describe(&self) -> String {
        "Test".to_owned()
    }
}

/// A server of clients that may do everything, and two of these.
fn shared(store: &Arc<Gate>, concurrent: Option<usize>) -> (Inside, Client, Client) {
    let (noisy, quiet) = (Identity::new("noisy"), Identity::new("quiet"));
    let policies = |root: &str| {
        let mut policies = Policies::builder(root, &[]).build();
        policies.write(
            "all",
            kes::inside::Policy {
                allow: ["generate/*", "create/*", "delete/*"]
                    .map(|rule| format!("/v1/key/{rule}"))
                    .into_iter()
                    .chain(["/v1/status", "/v1/ready"].map(str::to_owned))
                    .map(|rule| kes::inside::Rule::glob(&rule).unwrap())
                    .collect(),
                deny: Vec::new(),
            },
        );
        for identity in [&noisy, &quiet] {
            policies.assign(&identity.id, "all", root).unwrap();
        }
        policies
    };
    let server = Inside::changed(store.clone(), Generation::V0_14, Vec::new(), policies, |state| {
        state.limits.concurrent = concurrent;
    });
    let clients = [&noisy, &quiet].map(|identity| server.client(Some(identity)));
    let [noisy, quiet] = clients;
    (server, noisy, quiet)
}

/// Asks for so many keys whose names begin with `start`, without waiting for answers.
fn ask_for(http2: &mut Http2, start: &str, count: usize) -> Vec<u32> {
    let path = |number| format!("/v1/key/generate/{start}-{number}");
    (0..count).map(|number| http2.send_body("POST", &path(number), b"{}")).collect()
}

#[test]
fn requests_that_wait_for_the_key_store_are_under_way() {
    let store = Arc::new(Gate::default());
    let (_server, noisy, quiet) = shared(&store, Some(3));
    let mut connections = [(); 2].map(|()| Http2::open(&noisy));
    let held = connections.each_mut().map(|http2| ask_for(http2, "a", 1)[0]);
    let third = ask_for(&mut connections[1], "b", 1)[0];
    assert!(wait_for(PATIENCE, || (store.asked().len() == 2).then_some(())).is_some());
    for (number, http2) in connections.iter_mut().enumerate() {
        let answer = http2.request("POST", "/v1/key/generate/c", "{}");
        answer.is_failure(429, MESSAGE);
        assert_eq!(Some("1"), answer.header("retry-after"), "{number}");
    }
    noisy.connect().request("POST", "/v1/key/generate/c", "{}").is_failure(429, MESSAGE);
    // Others have a count of their own.
    let mut other = Http2::open(&quiet);
    let theirs = ask_for(&mut other, "d", 3);
    // A client that goes away takes its request with it.
    let [mut first, mut second] = connections;
    first.send(http2::reset(held[0], 8));
    let again = wait_for(PATIENCE, || {
        let stream = ask_for(&mut first, "e", 1)[0];
        // It is refused before the next one is answered, or waits for the key store.
        first.request("GET", "/version", "");
        (!first.is_answered(stream)).then_some(stream)
    });
    store.is_open.store(true, Ordering::SeqCst);
    assert_eq!(200, first.answer(again.unwrap()).status);
    assert_eq!([200; 2], [held[1], third].map(|stream| second.answer(stream).status));
    assert!(theirs.iter().all(|stream| other.answer(*stream).status == 200));
    assert_eq!(200, second.request("POST", "/v1/key/generate/f", "{}").status);
}

#[test]
fn a_client_that_waits_for_many_keys_lets_others_go_first() {
    let store = Arc::new(Gate::default());
    let (_server, noisy, quiet) = shared(&store, None);
    // More than the queue takes: the rest is answered 503.
    let mut crowd: Vec<_> = (0..12).map(|_| Http2::open(&noisy)).collect();
    let streams: Vec<_> = crowd
        .iter_mut()
        .enumerate()
        .map(|(number, http2)| ask_for(http2, &format!("noisy-{number}"), 100))
        .collect();
    assert!(wait_for(PATIENCE, || crowd.last_mut()?.catch_up().then_some(())).is_some());
    assert_eq!(503, crowd[11].answer(streams[11][99]).status);
    let asked = store.asked().len();
    assert_eq!(8, asked, "threads");
    let mut other = Http2::open(&quiet);
    let theirs = ask_for(&mut other, "quiet", 30);
    other.read_for(Duration::from_millis(100));
    assert!(theirs.iter().all(|stream| !other.is_answered(*stream)));
    store.is_open.store(true, Ordering::SeqCst);
    assert!(theirs.iter().all(|stream| other.answer(*stream).status == 200));
    let order = store.asked();
    let places = order.iter().enumerate().filter(|(_, name)| name.starts_with("quiet"));
    // A key of each in turn. The kernel may hold up threads, of which each has taken one key by then.
    let (last, _) = places.rev().nth(asked - 1).unwrap();
    assert!(last < asked + 2 * theirs.len(), "{last}: {order:?}");
}

/// A server whose key store threads have 8 of 600 keys in hand for a noisy client, which wants these last; then the
/// quiet one wants the same.
fn after_a_crowd(store: &Arc<Gate>, requests: &[&str]) -> (Inside, Vec<Http2>, Http2, Vec<u32>) {
    let (server, noisy, quiet) = shared(store, None);
    let mut crowd: Vec<_> = (0..7).map(|_| Http2::open(&noisy)).collect();
    for (number, http2) in crowd[..6].iter_mut().enumerate() {
        ask_for(http2, &format!("noisy-{number}"), 100);
        assert_eq!(200, http2.request("GET", "/version", "").status);
    }
    store.has_asked(8);
    let mut other = Http2::open(&quiet);
    let [_, theirs] = [&mut crowd[6], &mut other].map(|http2| {
        let send = |path: &&str| http2.send_body("POST", path, b"{}");
        let streams: Vec<_> = requests.iter().map(send).collect();
        assert_eq!(200, http2.request("GET", "/version", "").status);
        streams
    });
    (server, crowd, other, theirs)
}

#[test]
fn a_client_that_wants_a_key_of_another_s_backlog_does_not_wait_for_that() {
    let store = Arc::new(Gate::default());
    let (_server, _crowd, mut other, theirs) = after_a_crowd(&store, &["/v1/key/generate/shared"]);
    // The threads take eight more: at the latest the second is for the quiet client.
    store.passes.store(8, Ordering::SeqCst);
    store.has_asked(16);
    assert_eq!("shared", store.asked().into_iter().find(|name| name == "shared").unwrap());
    let answered = wait_for(PATIENCE, || {
        store.passes.fetch_max(1, Ordering::SeqCst);
        other.read_for(Duration::from_millis(20));
        other.is_answered(theirs[0]).then_some(())
    });
    assert!(answered.is_some());
    let asked = store.asked();
    assert_eq!(1, asked.iter().filter(|name| *name == "shared").count(), "{asked:?}");
    store.is_open.store(true, Ordering::SeqCst);
}

#[test]
fn a_client_that_changes_a_key_of_another_s_backlog_does_not_wait_for_that() {
    let store = Arc::new(Gate::default());
    let (_server, mut crowd, mut other, theirs) =
        after_a_crowd(&store, &["/v1/key/create/shared", "/v1/key/create/other"]);
    store.passes.store(8, Ordering::SeqCst);
    for stream in theirs {
        other.answer(stream).is_failure(400, "key does already exist");
        // The next turn of the quiet client.
        store.passes.store(8, Ordering::SeqCst);
    }
    // Those of the noisy one had waited when the key store said that there is such a key.
    assert_eq!(400, crowd[6].answer(1).status);
    assert_eq!(400, crowd[6].answer(3).status);
    let creates: Vec<_> =
        store.asked().into_iter().filter(|name| name.starts_with("create")).collect();
    assert_eq!(["create shared", "create other"], *creates);
    store.is_open.store(true, Ordering::SeqCst);
}

#[test]
fn a_client_that_changes_a_key_waits_for_one_change_of_another_at_most_beside_the_one_that_runs() {
    let store = Arc::new(Gate::default());
    let (_server, noisy, quiet) = shared(&store, None);
    let (mut crowd, mut other) = (Http2::open(&noisy), Http2::open(&quiet));
    let delete = |http2: &mut Http2| http2.ask("DELETE", "/v1/key/delete/shared", "");
    let first = delete(&mut crowd);
    store.has_asked(1);
    // So many of an identity may wait.
    let streams: Vec<_> = (0..128).map(|_| delete(&mut crowd)).collect();
    assert_eq!(200, crowd.request("GET", "/version", "").status);
    let theirs = delete(&mut other);
    assert_eq!(200, other.request("GET", "/version", "").status);
    let last = delete(&mut crowd);
    assert_eq!(503, crowd.answer(last).status);
    // Some more than three, as the kernel may hold up the thread with the turn of the quiet client.
    store.passes.store(8, Ordering::SeqCst);
    assert_eq!(200, other.answer(theirs).status);
    store.is_open.store(true, Ordering::SeqCst);
    assert_eq!(200, crowd.answer(first).status);
    assert!(streams.into_iter().all(|stream| crowd.answer(stream).status == 200));
}

#[test]
fn all_who_ask_for_the_status_share_one_question_which_waits_for_no_backlog() {
    let store = Arc::new(Gate::default());
    let (_server, _crowd, mut other, _) = after_a_crowd(&store, &[]);
    store.is_slow.store(true, Ordering::SeqCst);
    let streams: Vec<_> = (0..50)
        .map(|number| other.ask("GET", ["/v1/status", "/v1/ready"][number % 2], ""))
        .collect();
    assert_eq!(200, other.request("GET", "/version", "").status);
    store.passes.store(8, Ordering::SeqCst);
    let is_asked = || (store.most.load(Ordering::SeqCst) >= 1).then_some(());
    assert!(wait_for(PATIENCE, is_asked).is_some());
    store.is_open.store(true, Ordering::SeqCst);
    for (number, stream) in streams.into_iter().enumerate() {
        let answer = other.answer(stream);
        assert_eq!(200, answer.status, "{number}");
        if number % 2 == 0 {
            assert!(answer.json()["keystore_latency"].as_u64().unwrap() >= 1);
        }
    }
    // The server asks by itself, too.
    assert!(store.most.load(Ordering::SeqCst) <= 2);
}
