//! What `/v1/metrics` says, compared with what was sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

use crate::common::{
    Client, Follower, Identity, PATIENCE, Profile, Server, client::request, quickly, stored_key,
    wait_for, wait_until,
};

/// A page of metrics: samples by name, with the label of a histogram's bucket.
struct Page(BTreeMap<String, f64>);

impl Page {
    fn of(client: &Client) -> Self {
        let answer = client.get("/v1/metrics");
        assert_eq!(200, answer.status, "{}", answer.text());
        Self::parse(answer.text())
    }

    fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        Self(
            samples
                .map(|line| {
                    let (name, value) = line.rsplit_once(' ').unwrap();
                    (name.to_owned(), value.parse().unwrap())
                })
                .collect(),
        )
    }

    #[track_caller]
    fn get(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// What was added to each of `names` since `before`.
    #[track_caller]
    fn since<const N: usize>(&self, before: &Self, names: [&str; N]) -> [f64; N] {
        names.map(|name| self.get(name) - before.get(name))
    }
}

const REQUESTS: [&str; 4] = [
    "kes_http_request_success",
    "kes_http_request_error",
    "kes_http_request_failure",
    "kes_http_response_time_count",
];

fn server_with_key() -> Server {
    Server::start(|config| {
        fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
        fs::write(config.keys().join("broken"), "no key").unwrap();
    })
}

#[test]
fn the_page_has_every_family_once_with_one_sample_and_sorted() {
    let server = server_with_key();
    let answer = server.root().get("/v1/metrics");
    assert_eq!(200, answer.status);
    assert_eq!(Some("text/plain; version=0.0.4; charset=utf-8"), answer.header("Content-Type"));
    let mut names: Vec<(String, String)> = Vec::new();
    let lines: Vec<_> = answer.text().lines().collect();
    for family in lines.chunk_by(|_, next| !next.starts_with("# HELP ")) {
        let words: Vec<_> = family[1].split(' ').collect();
        let (name, kind) = (words[2], words[3]);
        assert!(family[0].starts_with(&format!("# HELP {name} ")), "{family:?}");
        match kind {
            "histogram" => assert_eq!(2 + 13, family.len(), "{family:?}"),
            _ => {
                assert_eq!(3, family.len(), "{family:?}");
                // No labels.
                assert!(family[2].starts_with(&format!("{name} ")), "{family:?}");
            }
        }
        names.push((name.to_owned(), kind.to_owned()));
    }
    assert!(names.is_sorted_by(|a, b| a.0 < b.0), "{names:?}");
    // What dashboards and clients of the original look for.
    for (name, kind) in [
        ("kes_http_request_success", "counter"),
        ("kes_http_request_error", "counter"),
        ("kes_http_request_failure", "counter"),
        ("kes_http_request_active", "gauge"),
        ("kes_http_response_time", "histogram"),
        ("kes_system_up_time", "gauge"),
        ("kes_system_num_cpu", "gauge"),
        ("kes_system_num_cpu_used", "gauge"),
        ("kes_system_num_threads", "gauge"),
        ("kes_system_mem_heap_used", "gauge"),
    ] {
        let wanted = (name.to_owned(), kind.to_owned());
        assert!(names.contains(&wanted), "{wanted:?} is not in {names:?}");
    }
    let bounds: Vec<_> = answer
        .text()
        .split("_bucket{le=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    assert_eq!(
        ["0.01", "0.05", "0.1", "0.25", "0.5", "1", "1.5", "3", "5", "10", "+Inf"].as_slice(),
        bounds
    );
}

#[test]
fn the_page_on_monitoring_names_all_families_and_no_others() {
    let server = Server::start(|_| {});
    let answer = server.root().get("/v1/metrics");
    let types = answer.text().lines();
    let served: BTreeSet<_> =
        types.filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let page = include_str!("../../docs/monitoring.md");
    let rows = page
        .lines()
        .skip_while(|line| !line.starts_with("| Family | Type |"))
        .take_while(|line| line.starts_with('|'));
    let named: BTreeSet<_> = rows
        .flat_map(|row| row.split('|').nth(1).unwrap().split('`'))
        .filter(|name| name.starts_with("kes_"))
        .collect();
    assert_eq!(served, named);
}

#[test]
fn requests_are_counted_by_how_they_end() {
    let server = server_with_key();
    let root = server.root();
    let stranger = server.client(&Identity::new("stranger"));
    let before = Page::of(&root);
    for _ in 0..5 {
        root.get("/version");
    }
    let mut connection = root.connect();
    for _ in 0..20 {
        connection.request("POST", "/v1/key/generate/my-key", "{}").is_json_success();
    }
    for (path, status) in [
        ("/nowhere", 404),
        ("/v1/key/create/a/b", 400),
        ("/v1/key/generate/missing", 404),
        ("/v1/key/create/my-key", 400),
    ] {
        assert_eq!(status, root.post(path, "{}").status, "{path}");
    }
    assert_eq!(405, root.post("/version", "").status);
    assert_eq!(403, stranger.get("/v1/key/list/*").status);
    assert_eq!(502, root.post("/v1/key/generate/broken", "{}").status);
    // None of these counts.
    assert_eq!(301, root.get("/v1//key").status);
    assert_eq!(403, stranger.get("/v1/metrics").status);
    assert!(server.anonymous().try_request("GET", "/version", b"").is_err());
    for _ in 0..3 {
        root.get("/v1/metrics");
    }
    let after = Page::of(&root);
    assert_eq!([25.0, 6.0, 1.0, 32.0], after.since(&before, REQUESTS));
    assert_eq!(0.0, after.get("kes_http_request_active"));
    let bucket = "kes_http_response_time_bucket{le=\"+Inf\"}";
    assert_eq!([32.0], after.since(&before, [bucket]));
    assert!(after.get("kes_http_response_time_sum") > before.get("kes_http_response_time_sum"));
}

#[test]
fn requests_from_many_threads_are_all_counted() {
    let server = server_with_key();
    let root = server.root();
    let before = Page::of(&root);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let root = &root;
            scope.spawn(move || {
                let mut connection = root.connect();
                for number in 0..200 {
                    let key = ["my-key", "missing"][(thread + number) % 2];
                    let path = format!("/v1/key/generate/{key}");
                    connection.request("POST", &path, "{}");
                }
            });
        }
    });
    let after = Page::of(&root);
    assert_eq!([800.0, 800.0, 0.0, 1600.0], after.since(&before, REQUESTS));
}

#[test]
fn a_request_is_active_from_its_head_to_its_answer_and_its_time_counts() {
    let server = server_with_key();
    let root = server.root();
    let bytes = request("POST", "/v1/key/generate/my-key", b"{}");
    let (first, last) = bytes.split_at(bytes.len() - 1);
    let is_active = |page: &Page| page.get("kes_http_request_active") > 0.0;
    // A body is waited for for 5 seconds.
    quickly(Duration::from_secs(5), |clock| {
        let before = Page::of(&root);
        let mut slow = root.connect();
        clock.start();
        let start = Instant::now();
        slow.send(first);
        wait_until("the request is active", || is_active(&Page::of(&root)));
        std::thread::sleep(Duration::from_millis(300));
        slow.send(last);
        slow.response().is_json_success();
        let most = start.elapsed().as_secs_f64();
        let after = Page::of(&root);
        assert!(!is_active(&after));
        let buckets =
            ["0.25", "5"].map(|le| format!("kes_http_response_time_bucket{{le=\"{le}\"}}"));
        assert_eq!([0.0, 1.0], after.since(&before, buckets.each_ref().map(String::as_str)));
        let [sum] = after.since(&before, ["kes_http_response_time_sum"]);
        assert!((0.3..=most).contains(&sum), "{sum} of {most}");
    });
    let after = Page::of(&root);
    // One whose client goes away was asked, too.
    let mut gone = root.connect();
    gone.send(first);
    drop(gone);
    let counted = wait_for(PATIENCE, || {
        let page = Page::of(&root);
        let ended = page.since(&after, ["kes_http_request_error"]) == [1.0];
        (ended && !is_active(&page)).then_some(())
    });
    assert!(counted.is_some(), "a request that was given up is not counted");
}

#[test]
fn key_store_and_cache_are_counted() {
    let server = server_with_key();
    let mut root = server.root().connect();
    let page = |root: &mut crate::common::Connection| {
        Page::parse(root.request("GET", "/v1/metrics", "").text())
    };
    let before = page(&mut root);
    for _ in 0..10 {
        root.request("POST", "/v1/key/generate/my-key", "{}");
    }
    root.request("POST", "/v1/key/create/new", "");
    root.request("POST", "/v1/key/create/new", "");
    root.request("POST", "/v1/key/generate/missing", "{}");
    root.request("GET", "/v1/key/list/*", "");
    root.request("DELETE", "/v1/key/delete/new", "");
    let after = page(&mut root);
    let calls = ["kes_keystore_success", "kes_keystore_error", "kes_keystore_failure"];
    assert_eq!([4.0, 2.0, 0.0], after.since(&before, calls));
    let cache = ["kes_cache_hits", "kes_cache_misses", "kes_cache_size"];
    assert_eq!([9.0, 2.0, 1.0], after.since(&before, cache));
    // The thread that had the last answer may not be back yet.
    let is_done = || (page(&mut root).get("kes_keystore_queue") == 0.0).then_some(());
    assert!(wait_for(PATIENCE, is_done).is_some());

    let away = server.keys().with_file_name("away");
    fs::rename(server.keys(), &away).unwrap();
    assert_eq!(502, root.request("POST", "/v1/key/create/b", "").status);
    let failed = page(&mut root);
    assert_eq!([0.0, 0.0, 1.0], failed.since(&after, calls));
}

#[test]
fn the_page_says_whether_the_key_store_is_available() {
    let server = Server::start(|config| {
        config.probe();
    });
    let root = server.root();
    let shows = |available: f64| {
        let page = wait_for(PATIENCE, || {
            let page = Page::of(&root);
            (page.get("kes_keystore_available") == available).then_some(page)
        });
        let page = page.unwrap_or_else(|| panic!("kes_keystore_available is never {available}"));
        for name in ["kes_keystore_sealed", "kes_keystore_login_failing"] {
            assert_eq!(0.0, page.get(name), "{name}");
        }
        assert!((0.0..60.0).contains(&page.get("kes_keystore_latency")));
    };
    shows(1.0);
    let away = server.keys().with_file_name("away");
    fs::rename(server.keys(), &away).unwrap();
    shows(0.0);
    fs::rename(&away, server.keys()).unwrap();
    shows(1.0);
}

#[test]
fn connections_and_handshakes_are_counted() {
    let server = server_with_key();
    let root = server.root();
    let mut watcher = root.connect();
    let mut page = || Page::parse(watcher.request("GET", "/v1/metrics", "").text());
    // The connections with which the start was awaited are over then.
    let before = wait_for(PATIENCE, || {
        let page = page();
        (page.get("kes_connections_open") == 1.0).then_some(page)
    });
    let before = before.unwrap();
    let idle: Vec<_> = (0..3)
        .map(|_| {
            let mut connection = root.connect();
            connection.request("GET", "/version", "");
            connection
        })
        .collect();
    let mut busy = root.connect();
    busy.send(b"GET /version HTTP/1.1\r\n");
    let resuming = root.resuming();
    resuming.get("/version");
    resuming.get("/version");
    let _ = server.anonymous().try_request("GET", "/version", b"");
    let handshakes =
        ["kes_tls_handshake_full", "kes_tls_handshake_resumed", "kes_tls_handshake_failed"];
    let connections = ["kes_connections_open", "kes_connections_idle"];
    let mut last = page();
    let seen = wait_for(PATIENCE, || {
        last = page();
        (last.since(&before, connections) == [4.0, 3.0]
            && last.since(&before, handshakes) == [5.0, 1.0, 1.0])
        .then_some(())
    });
    let found = last.since(&before, handshakes);
    assert!(seen.is_some(), "{:?}, {found:?}", last.since(&before, connections));
    drop((idle, busy));
    let gone =
        wait_for(PATIENCE, || (page().since(&before, connections) == [0.0, 0.0]).then_some(()));
    assert!(gone.is_some());
}

#[test]
fn log_streams_are_active_while_they_are_open_and_their_events_are_counted() {
    let server = Server::start(|_| {});
    let root = server.root();
    let before = Page::of(&root);
    let mut streams: Vec<_> = ["audit", "audit", "error"]
        .map(|kind| Follower::start(&root, &format!("/v1/log/{kind}/trace")))
        .into();
    let path = "kes_http_response_time_count";
    let open = wait_for(PATIENCE, || {
        let page = Page::of(&root);
        (page.get("kes_log_subscribers") == 3.0).then_some(page)
    });
    let open = open.unwrap();
    assert_eq!(3.0, open.get("kes_http_request_active"));
    // They count as answered when they open.
    let opened = open.since(&before, ["kes_http_request_success", path]);
    assert_eq!([3.0, 3.0], opened);
    root.get("/version");
    for stream in &mut streams[..2] {
        stream.until("/version");
    }
    let sent = Page::of(&root).get("kes_log_audit_events");
    assert!(sent >= 5.0, "{sent}");
    drop(streams);
    let closed = wait_for(PATIENCE, || {
        // A write shows which clients have left.
        root.get("/version");
        let page = Page::of(&root);
        (page.get("kes_log_subscribers") == 0.0).then_some(page)
    });
    let closed = closed.unwrap();
    assert_eq!(0.0, closed.get("kes_http_request_active"));
    assert_eq!(0.0, closed.get("kes_log_subscribers_dropped"));
}

#[test]
fn the_process_and_its_certificate_are_told() {
    let server = Server::start(|config| {
        let profile = Profile::server().valid_for(1000);
        config.server_identity = Identity::self_signed("server", &profile);
        config.certificate = config.server_identity.certificate_pem();
        config.key = config.server_identity.key_pem();
    });
    let page = Page::of(&server.root());
    let left = page.get("kes_tls_certificate_expiry");
    assert!((900.0..=1000.0).contains(&left), "{left}");
    let up = page.get("kes_system_up_time");
    assert!(up < 60.0 && ((up * 100.0).round() - up * 100.0).abs() < 1e-6, "{up}");
    let threads = wait_for(PATIENCE, || {
        let page = Page::of(&server.root());
        (server.threads() as f64 == page.get("kes_system_num_threads")).then_some(())
    });
    assert!(threads.is_some());
    assert!(page.get("kes_system_num_cpu") >= page.get("kes_system_num_cpu_used"));
    assert!(page.get("kes_system_num_cpu_used") >= 1.0);
    let memory = page.get("kes_system_mem_heap_used");
    assert!((1e5..1e8).contains(&memory), "{memory}");
    assert_eq!(0.0, page.get("kes_log_audit_lost"));
}

#[test]
fn the_page_wants_a_policy() {
    let reader = Identity::new("prometheus");
    let server = Server::start(|config| {
        config.policy("metrics", &["/v1/metrics"], &[&reader]);
    });
    let client = server.client(&reader);
    Page::of(&client);
    client.post("/v1/key/create/a", "").is_failure(403, "prohibited by policy");
    server
        .client(&Identity::new("stranger"))
        .get("/v1/metrics")
        .is_failure(403, "prohibited by policy");
}
