//! Signals, and the end of the server for load balancers; what is printed where at the start.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::common::{PATIENCE, Server, client::request, stored_key, wait_until};

/// What the ready probe says.
fn ready(probe: SocketAddr) -> Option<String> {
    let mut socket = TcpStream::connect(probe).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(b"GET /ready HTTP/1.0\r\nHost: kes\r\n\r\n").ok()?;
    let mut text = String::new();
    socket.read_to_string(&mut text).ok()?;
    Some(text)
}

#[test]
fn new_clients_are_served_during_the_delay_and_the_ready_probe_sends_them_elsewhere() {
    let mut probe = None;
    let mut server = Server::start(|config| {
        probe = Some(config.probe());
        config.more += "shutdown: {delay: 1h}\n";
        fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
    });
    let probe = probe.unwrap();
    wait_until("it is ready", || ready(probe).is_some_and(|text| text.contains(" 200 ")));
    let mut open = server.root().connect();
    server.signal(Signal::TERM);
    wait_until("it is not ready", || ready(probe).is_some_and(|text| text.contains(" 503 ")));
    for _ in 0..3 {
        server.root().post("/v1/key/generate/my-key", "{}").is_json_success();
        open.request("POST", "/v1/key/generate/my-key", "{}").is_json_success();
    }
    assert!(server.is_running());
    // A second signal ends it at once.
    server.signal(Signal::TERM);
    assert_eq!(Some(1), server.wait_for_exit().code());
}

#[test]
fn the_server_ends_after_the_delay_and_a_reload_may_change_it() {
    let mut server = Server::start(|config| config.more += "shutdown: {delay: 1h}\n");
    let file = server.file("config.yml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("delay: 1h", "delay: 300ms, timeout: 10ms")).unwrap();
    server.signal(Signal::HUP);
    server.logs_error("the configuration is reloaded");
    let begin = Instant::now();
    server.signal(Signal::TERM);
    assert!(server.wait_for_exit().success());
    assert!(begin.elapsed() >= Duration::from_millis(300));
}

#[test]
fn rights_can_be_withdrawn_while_the_server_serves_on() {
    let mut server = Server::start(|config| {
        fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
        config.more += "shutdown: {delay: 1h}\n";
    });
    server.signal(Signal::TERM);
    server.root().post("/v1/key/generate/my-key", "{}").is_json_success();
    let file = server.file("config.yml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(&server.root_identity.id, "disabled")).unwrap();
    server.signal(Signal::HUP);
    server.logs_error("the configuration is reloaded");
    assert_eq!(403, server.root().post("/v1/key/generate/my-key", "{}").status);
    assert!(server.is_running());
    server.signal(Signal::TERM);
    assert_eq!(Some(1), server.wait_for_exit().code());
}

#[test]
fn requests_may_take_as_long_as_the_configuration_says() {
    let mut server = Server::start(|config| {
        config.more += "shutdown: {timeout: 10m}\n";
        fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
    });
    let mut slow = server.root().connect();
    let bytes = request("POST", "/v1/key/generate/my-key", b"{}");
    slow.send(&bytes[..bytes.len() - 1]);
    server.reads_all_of(&slow);
    server.signal(Signal::TERM);
    // Longer than without the setting.
    wait_until("no one is accepted", || TcpStream::connect(server.address).is_err());
    std::thread::sleep(Duration::from_millis(1500));
    slow.send(&bytes[bytes.len() - 1..]);
    slow.response().is_json_success();
    assert!(server.wait_for_exit().success());
}

#[test]
fn the_user_signals_mean_nothing() {
    let mut server = Server::start(|_| {});
    for signal in [Signal::USR1, Signal::USR2] {
        server.signal(signal);
        server.root().get("/version").is_json_success();
    }
    assert!(server.is_running());
    assert_eq!("", server.stderr());
}

#[test]
fn the_start_up_text_does_not_get_among_the_audit_lines() {
    for (audit, is_newest, is_apart) in [
        ("off", false, false),
        ("on", false, true),
        ("changes", true, true),
        ("required", true, true),
    ] {
        let server = Server::start(|config| {
            config.audit = audit;
            config.is_newest = is_newest;
            config.is_quiet = false;
        });
        let text = format!("export KES_SERVER=https://{}", server.address);
        let (out, err) = (server.stdout(), server.stderr());
        assert_eq!((!is_apart, is_apart), (out.contains(&text), err.contains(&text)), "{out}{err}");
        if is_apart {
            assert_eq!(200, server.root().post("/v1/key/create/my-key", "").status);
            let events = server.audit(1);
            assert!(events.iter().any(|event| event["request"]["path"] == "/v1/key/create/my-key"));
        }
    }
}

#[test]
fn times_are_those_of_the_zone_that_the_environment_names() {
    for (zone, offset) in [
        ("", "Z"),
        ("UTC", "Z"),
        ("XXX-5:30", "+05:30"),
        // A rule needs no file.
        ("<-03>3", "-03:00"),
        ("No/Where", "Z"),
    ] {
        let server = Server::start(|config| {
            config.environment.push(("TZ".to_owned(), zone.to_owned()));
        });
        server.root().get("/version");
        let event = &server.audit(1)[0];
        let time = event["time"].as_str().unwrap();
        assert!(time.ends_with(offset), "{zone}: {time}");
        let is_unknown = server.stderr().contains("TZ is \"No/Where\", which is no time zone here");
        assert_eq!(zone == "No/Where", is_unknown, "{}", server.stderr());
    }
}
