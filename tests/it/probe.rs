//! The probe listener: what it tells without TLS, and that it tells nothing else.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Command, Output},
    time::{Duration, Instant},
};

use crate::common::{
    AT_5_SECONDS, Identity, PATIENCE, Profile, Server, WHILE_IT_ENDS, client::request,
    closes_between, free_port, quickly, stored_key, wait_for, wait_until,
};
use rustix::process::Signal;

fn start() -> (Server, SocketAddr) {
    let mut address = None;
    let server = Server::start(|config| {
        address = Some(config.probe());
        fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
    });
    let address = address.unwrap();
    assert!(is_ready(address), "{}", server.stderr());
    (server, address)
}

fn is_ready(address: SocketAddr) -> bool {
    wait_for(PATIENCE, || (get(address, "/ready").0 == 200).then_some(())).is_some()
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Status and body of the answer to `bytes`, after which the server closes.
fn send(address: SocketAddr, bytes: &str) -> (u16, String, String) {
    let mut socket = connect(address);
    socket.write_all(bytes.as_bytes()).unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

fn ask(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    send(address, &format!("{method} {path} HTTP/1.1\r\nHost: kes\r\nConnection: close\r\n\r\n"))
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let (status, _, body) = ask(address, "GET", path);
    (status, body)
}

#[test]
fn probes_are_answered_without_tls() {
    let (server, probe) = start();
    assert_eq!((200, "ok\n".to_owned()), get(probe, "/live"));
    assert_eq!((200, "ok\n".to_owned()), get(probe, "/ready"));
    let version = server.root().get("/version");
    assert_eq!((200, version.text().to_owned()), get(probe, "/version"));
    let (status, head, page) = ask(probe, "GET", "/v1/metrics");
    assert_eq!(200, status);
    assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"));
    assert!(page.contains("\n# TYPE kes_http_request_success counter\n"));
    let (status, head, body) = ask(probe, "HEAD", "/live");
    assert_eq!((200, ""), (status, body.as_str()));
    assert!(head.contains("Content-Length: 3"), "{head}");
    assert_eq!("", server.stderr());
}

#[test]
fn nothing_else_is_served_there() {
    let (server, probe) = start();
    for path in [
        "/",
        "/v1/key/list/*",
        "/v1/key/create/a",
        "/v1/metrics/",
        "//live",
        "/live/../version",
        "/readyz",
    ] {
        for method in ["GET", "POST", "DELETE", "PUT"] {
            let (status, _, body) = ask(probe, method, path);
            assert_eq!((404, "404 page not found\n"), (status, body.as_str()), "{path}");
        }
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "get"] {
        for path in ["/live", "/ready", "/version", "/v1/metrics"] {
            let (status, head, _) = ask(probe, method, path);
            assert_eq!(405, status, "{method} {path}");
            assert!(head.contains("Allow: GET, HEAD"), "{head}");
        }
    }
    assert_eq!(400, send(probe, "nonsense\r\n\r\n").0);
    assert_eq!(vec!["my-key"], server.key_files());
    // The port for clients stays what it was: TLS with a certificate, and none of these paths.
    assert_eq!(404, server.root().get("/live").status);
    assert_eq!(404, server.root().get("/ready").status);
    let mut plain = connect(server.address);
    plain.write_all(b"GET /live HTTP/1.1\r\nHost: kes\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 400 ") && answer.contains("HTTPS server"), "{answer}");
}

#[test]
fn a_connection_serves_many_probes_also_with_bodies_that_nobody_reads() {
    let (_server, probe) = start();
    let mut socket = connect(probe);
    let body = "x".repeat(10_000);
    for _ in 0..3 {
        socket.write_all(&request("GET", "/live", body.as_bytes())).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok\n") {
            let mut bytes = [0; 1000];
            let count = socket.read(&mut bytes).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&bytes[..count]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(!String::from_utf8_lossy(&answer).contains("Trailer"));
    }
    // A page that is larger than what the socket takes at once arrives whole.
    let many = "GET /v1/metrics HTTP/1.1\r\nHost: kes\r\n\r\n".repeat(200)
        + "GET /live HTTP/1.1\r\nHost: kes\r\nConnection: close\r\n\r\n";
    socket.write_all(many.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    assert_eq!(200, text.matches("\nkes_http_request_success 0\n").count());
    assert!(text.ends_with("\r\n\r\nok\n"));
}

#[test]
fn probes_are_neither_audited_nor_counted() {
    let (server, probe) = start();
    for path in ["/live", "/ready", "/version", "/v1/metrics", "/nowhere"] {
        get(probe, path);
    }
    let held: Vec<_> = (0..3).map(|_| connect(probe)).collect();
    server.root().get("/version");
    let page = get(probe, "/v1/metrics").1;
    assert!(page.contains("\nkes_http_request_success 1\n"), "{page}");
    assert!(page.contains("\nkes_http_request_error 0\n"), "{page}");
    assert!(page.contains("\nkes_tls_handshake_failed 0\n"), "{page}");
    let gone = wait_for(PATIENCE, || {
        get(probe, "/v1/metrics").1.contains("\nkes_connections_open 0\n").then_some(())
    });
    assert!(gone.is_some(), "connections of probes count as clients");
    drop(held);
    assert_eq!(1, server.audit(1).len());
}

#[test]
fn ready_is_what_the_key_store_says() {
    let (server, probe) = start();
    let away = server.keys().with_file_name("away");
    fs::rename(server.keys(), &away).unwrap();
    let answer = wait_for(PATIENCE, || {
        let answer = get(probe, "/ready");
        (answer.0 == 503).then_some(answer.1)
    });
    assert_eq!(Some("the key store is not available\n"), answer.as_deref());
    // Those who only ask whether the process runs are not told otherwise.
    assert_eq!(200, get(probe, "/live").0);
    server.logs_error("the key store is not available: ");
    fs::rename(&away, server.keys()).unwrap();
    assert!(is_ready(probe));
    server.logs_error("the key store is available again");
}

#[test]
fn a_server_that_ends_is_not_ready() {
    quickly(WHILE_IT_ENDS, |clock| {
        let (mut server, probe) = start();
        // A request that keeps the server from ending at once.
        let mut slow = server.root().connect();
        let bytes = request("POST", "/v1/key/generate/my-key", b"{}");
        slow.send(&bytes[..bytes.len() - 1]);
        wait_until("the request is active", || {
            get(probe, "/v1/metrics").1.contains("\nkes_http_request_active 1\n")
        });
        clock.start();
        server.signal(Signal::TERM);
        let answer = wait_for(WHILE_IT_ENDS, || {
            let mut socket = TcpStream::connect(probe).ok()?;
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let head = "GET /ready HTTP/1.1\r\nHost: kes\r\nConnection: close\r\n\r\n";
            socket.write_all(head.as_bytes()).ok()?;
            // A connection that was accepted just before the signal may be closed without an answer.
            let mut text = String::new();
            socket.read_to_string(&mut text).ok()?;
            text.starts_with("HTTP/1.1 503 ").then_some(text)
        });
        assert!(answer.is_some_and(|text| text.ends_with("\r\n\r\nthe server is ending\n")));
        clock.stop();
        // Whether it comes in time or not, the server ends.
        let _ = slow.try_send(&bytes[bytes.len() - 1..]);
        drop(slow);
        assert!(server.wait_for_exit().success());
    });
}

#[test]
fn open_probes_do_not_hold_up_the_end() {
    // They are closed after 5 seconds; one quick end shows that nobody waits for that.
    let quick = (0..5).any(|_| {
        let (mut server, probe) = start();
        let _held: Vec<_> = (0..5).map(|_| connect(probe)).collect();
        std::thread::sleep(Duration::from_millis(100));
        let start = Instant::now();
        server.signal(Signal::TERM);
        assert!(server.wait_for_exit().success());
        start.elapsed() < Duration::from_millis(4500)
    });
    assert!(quick);
}

#[test]
fn silent_and_slow_probes_are_closed_and_too_many_are_refused() {
    let (server, probe) = start();
    let start = Instant::now();
    let silent = connect(probe);
    let mut slow = connect(probe);
    let ended = |socket: &mut TcpStream| {
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        match socket.read(&mut [0; 1]) {
            Ok(0) => true,
            Err(e) => !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
            Ok(_) => false,
        }
    };
    for mut socket in [silent, slow.try_clone().unwrap()] {
        let closed = wait_for(PATIENCE, || {
            let _ = slow.write_all(b"G");
            ended(&mut socket).then_some(())
        });
        assert!(closed.is_some());
    }
    assert!(start.elapsed() > Duration::from_secs(3));

    let mut held: Vec<_> = (0..40).map(|_| connect(probe)).collect();
    server.logs_error("refused a connection: all 32 connections for probes are in use");
    let refused = wait_for(PATIENCE, || {
        (held.iter_mut().filter_map(|socket| ended(socket).then_some(())).count() >= 8)
            .then_some(())
    });
    assert!(refused.is_some());
    // Clients are served all the while.
    server.root().get("/version").is_json_success();
    for socket in &held {
        let _ = socket.shutdown(Shutdown::Both);
    }
    drop(held);
    assert!(
        wait_for(PATIENCE, || {
            let mut socket = TcpStream::connect(probe).ok()?;
            socket.set_read_timeout(Some(PATIENCE)).ok()?;
            socket
                .write_all(b"GET /live HTTP/1.1\r\nHost: kes\r\nConnection: close\r\n\r\n")
                .ok()?;
            let mut text = String::new();
            socket.read_to_string(&mut text).ok()?;
            text.starts_with("HTTP/1.1 200").then_some(())
        })
        .is_some()
    );
}

#[test]
fn a_probe_address_that_is_taken_ends_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let refusal = Server::try_start(|config| {
        config.address = format!("127.0.0.1:{}", free_port());
        config.more = format!("probe: {{address: {address}}}\n");
    });
    let refusal = refusal.err().unwrap();
    assert_eq!(Some(1), refusal.code);
    let expected = format!("Error: failed to start server: listen tcp {address}: ");
    assert!(refusal.stderr.contains(&expected), "{refusal:?}");
    let hint = "another program uses this port; stop it or choose another with probe.address";
    assert!(refusal.stderr.contains(hint), "{refusal:?}");
}

// kes healthcheck

fn healthcheck(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kes"))
        .arg("healthcheck")
        .args(arguments)
        .env("http_proxy", "http://127.0.0.1:1")
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("ALL_PROXY", "http://127.0.0.1:1")
        .output()
        .unwrap()
}

/// Exit code, stdout and stderr.
fn parts(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn healthcheck_asks_the_probe() {
    let (mut server, probe) = start();
    let address = probe.to_string();
    let config = server.keys().with_file_name("config.yml");
    let config = config.to_str().unwrap();
    let nothing = String::new();
    for arguments in [&["--probe", &address][..], &["--config", config]] {
        for more in [&[][..], &["--live"]] {
            let output = healthcheck(&[arguments, more].concat());
            assert_eq!((0, nothing.clone(), nothing.clone()), parts(&output));
        }
    }
    let json = |healthy, says, status| {
        format!(
            "{{\"healthy\":{healthy},\"says\":\"{says}\",\"status\":{status},\
             \"url\":\"http://{probe}/ready\"}}\n"
        )
    };
    let output = healthcheck(&["--probe", &address, "--json"]);
    assert_eq!((0, json(true, "ok", 200), nothing.clone()), parts(&output));
    fs::rename(server.keys(), server.keys().with_file_name("away")).unwrap();
    let unhealthy = wait_for(PATIENCE, || {
        let output = parts(&healthcheck(&["--probe", &address]));
        (output.0 != 0).then_some(output)
    });
    let expected =
        format!("Error: unhealthy: http://{probe}/ready says the key store is not available\n");
    assert_eq!(Some((1, nothing.clone(), expected)), unhealthy);
    let output = healthcheck(&["--probe", &address, "--json"]);
    let expected = json(false, "the key store is not available", 503);
    assert_eq!((1, expected, nothing.clone()), parts(&output));
    assert_eq!(0, parts(&healthcheck(&["--probe", &address, "--live"])).0);
    server.signal(Signal::TERM);
    server.wait_for_exit();
    let (code, _, text) = parts(&healthcheck(&["--probe", &address, "--live"]));
    assert_eq!(1, code);
    let expected = format!("Error: unhealthy: http://{probe}/live does not answer: ");
    assert!(text.starts_with(&expected), "{text}");
    assert_eq!(1, text.lines().count());
}

#[test]
fn healthcheck_wants_to_know_where() {
    let (code, _, text) = parts(&healthcheck(&[]));
    assert_eq!(1, code);
    assert!(text.starts_with("Error: no probe address"), "{text}");
    let (code, _, text) = parts(&healthcheck(&["--probe", "somewhere"]));
    assert_eq!(
        (
            1,
            "Error: invalid probe address: \"somewhere\": write IP:PORT, or :PORT for this machine\n"
        ),
        (code, text.as_str())
    );
    assert_eq!(1, parts(&healthcheck(&["--probe", "127.0.0.1:1", "extra"])).0);
    assert_eq!(2, parts(&healthcheck(&["--nonsense"])).0);
    let (code, _, text) = parts(&healthcheck(&["--config", "/nowhere.yml"]));
    assert_eq!(1, code);
    assert!(text.contains("/nowhere.yml"), "{text}");
}

#[test]
fn without_a_probe_healthcheck_asks_the_server_itself() {
    for auth in ["off", "on"] {
        let own = Identity::new("root");
        let mut server = Server::start(|config| {
            config.auth = auth;
            let trusted = config.file("trusted.crt", &own.certificate_pem());
            let trusted = trusted.display().to_string();
            config.environment.push(("SSL_CERT_FILE".to_owned(), trusted));
            config.root = own.id.clone();
            config.root_identity = own.clone();
        });
        let config = server.file("config.yml");
        let config = config.to_str().unwrap();
        let ask = || parts(&healthcheck(&["--config", config]));
        assert_eq!((0, String::new(), String::new()), ask(), "{auth}");
        assert_eq!(0, parts(&healthcheck(&["--config", config, "--live"])).0);
        let from_environment = Command::new(env!("CARGO_BIN_EXE_kes"))
            .arg("healthcheck")
            .env("KES_SERVER", server.address.to_string())
            .output();
        assert_eq!(0, parts(&from_environment.unwrap()).0);
        let of_two = Command::new(env!("CARGO_BIN_EXE_kes"))
            .args(["healthcheck", "--json"])
            .env("KES_SERVER", format!("127.0.0.1:1,{}", server.address))
            .output();
        let (code, text, _) = parts(&of_two.unwrap());
        let is_one = text.lines().count() == 1 && text.starts_with("{\"healthy\":true,");
        assert!(code == 0 && is_one, "{text}");
        // Another server at its place is not this one.
        let other = Identity::self_signed("other", &Profile::server());
        let whole = fs::read(server.file("server.crt")).unwrap();
        fs::write(server.file("server.crt"), other.certificate_pem()).unwrap();
        let (code, _, text) = ask();
        assert_eq!(1, code);
        assert!(text.contains("does not answer: ") && text.contains(&other.id), "{text}");
        fs::write(server.file("server.crt"), whole).unwrap();
        server.signal(Signal::TERM);
        server.wait_for_exit();
        let (code, _, text) = ask();
        assert_eq!(1, code);
        assert!(text.contains("does not answer: connection refused"), "{text}");
        let (code, text, _) = parts(&healthcheck(&["--config", config, "--json"]));
        assert_eq!(1, code);
        assert!(text.starts_with("{\"healthy\":false,"), "{text}");
    }
}

#[test]
fn healthcheck_of_a_client_asks_whether_the_server_is_ready() {
    let server = Server::start(|_| {});
    assert_eq!(Some(0), server.kes(&["healthcheck"]).status.code());
    fs::rename(server.keys(), server.keys().with_file_name("away")).unwrap();
    let output = server.kes(&["healthcheck", "--live"]);
    // It trusts anyone, and sends nothing.
    assert_eq!((0, String::new(), String::new()), parts(&output));
    let (code, _, text) = parts(&server.kes(&["healthcheck"]));
    assert_eq!(1, code);
    assert!(text.contains("/v1/ready says "), "{text}");
}

#[test]
fn a_probe_that_never_answers_is_unhealthy() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let start = Instant::now();
    let (code, _, text) = parts(&healthcheck(&["--probe", &address]));
    assert_eq!(1, code);
    assert!(text.contains("does not answer: no answer in time"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn idle_probes_make_room_for_others_within_seconds() {
    let (_server, probe) = start();
    let answered = || {
        let mut socket = connect(probe);
        let _ = socket.write_all(b"GET /live HTTP/1.1\r\nHost: kes\r\n\r\n");
        matches!(socket.read(&mut [0; 4096]), Ok(1..)).then_some(socket)
    };
    // The client that checked that the server is up may not be gone yet.
    let idle = (0..32).map(|_| wait_for(PATIENCE, answered).expect("an answer"));
    let _idle: Vec<_> = idle.collect();
    let began = Instant::now();
    let served = wait_for(PATIENCE, answered);
    assert!(served.is_some(), "nobody else is served");
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn empty_lines_put_off_no_end() {
    let (_server, probe) = start();
    let mut socket = connect(probe);
    let began = Instant::now();
    let request = b"GET /live HTTP/1.1\r\nHost: kes\r\n\r\n";
    socket.write_all(request).unwrap();
    assert!(socket.read(&mut [0; 4096]).unwrap() > 0);
    // 5 seconds after the request is the end, however many lines come.
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    closes_between(began, (AT_5_SECONDS.0, Duration::from_secs(30)), || {
        (0..20).any(|_| {
            let _ = socket.write_all(b"\r\n");
            match socket.read(&mut [0; 1]) {
                Ok(count) => count == 0,
                Err(e) => ![io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&e.kind()),
            }
        })
    });
}

#[test]
fn healthcheck_needs_no_more_of_the_file_than_the_address() {
    let (server, probe) = start();
    let config = server.keys().with_file_name("config.yml");
    let path = config.to_str().unwrap();
    let good = fs::read_to_string(&config).unwrap();
    for broken in [
        "nonsense: 1\n",
        "policy:\n  a:\n    paths: [\"/v1/[\"]\n",
        "policy:\n  a: {}\n  a: {}\n",
        "cache:\n  expiry:\n    any: soon\n",
        "root2: \"a\\qb\"\n",
    ] {
        for text in [format!("{good}{broken}"), format!("{broken}{good}")] {
            fs::write(&config, text).unwrap();
            let (code, _, text) = parts(&healthcheck(&["--config", path]));
            assert_eq!(0, code, "{broken:?}: {text}");
        }
    }
    fs::write(&config, "[").unwrap();
    let (code, _, text) = parts(&healthcheck(&["--config", path]));
    assert_eq!(1, code);
    assert!(text.contains("no probe.address in") && text.contains(": line "), "{text}");
    fs::write(&config, "probe:\n  address: somewhere\n").unwrap();
    let (code, _, text) = parts(&healthcheck(&["--config", path]));
    assert_eq!(1, code);
    assert!(text.contains("line 2: ") && text.contains("somewhere"), "{text}");
    fs::write(&config, "rot: 1\nprobe:\n  address: ${PROBE}\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_kes"))
        .args(["healthcheck", "--config", path])
        .env("PROBE", probe.to_string())
        .output();
    assert_eq!(0, parts(&output.unwrap()).0);
    // The port for clients is not the one to ask.
    let clients = server.address.to_string();
    let (code, _, text) = parts(&healthcheck(&["--probe", &clients]));
    assert_eq!(1, code);
    assert!(text.contains("speaks TLS"), "{text}");
}
