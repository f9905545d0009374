//! What the server tells a service manager, and the sockets that it takes over from one. Here the test is the
//! service manager; `scripts/it/53-systemd.sh` has a real one.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt as _,
        unix::net::{self, UnixDatagram},
    },
    time::Duration,
};

use rustix::{
    process::Signal,
    time::{ClockId, clock_gettime},
};

use crate::common::{
    Config, Crowd, Identity, PATIENCE, Profile, Server, TempDir, free_port, stored_key, wait_until,
};

/// A service manager.
struct Manager {
    socket: UnixDatagram,
    /// What the environment of the server names it.
    name: String,
    _directory: TempDir,
}

impl Manager {
    fn new(is_abstract: bool) -> Self {
        let directory = TempDir::new();
        let path = directory.path().join("notify").display().to_string();
        let (address, name) = match is_abstract {
            true => (net::SocketAddr::from_abstract_name(&path), format!("@{path}")),
            false => (net::SocketAddr::from_pathname(&path), path),
        };
        let socket = UnixDatagram::bind_addr(&address.unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, name, _directory: directory }
    }

    /// A server that this is the service manager of.
    fn start(&self, change: impl FnOnce(&mut Config)) -> Server {
        self.try_start(change).unwrap_or_else(|why| panic!("{why}"))
    }

    fn try_start(&self, change: impl FnOnce(&mut Config)) -> Result<Server, String> {
        let started = Server::try_start(|config| {
            config.environment.push(("NOTIFY_SOCKET".to_owned(), self.name.clone()));
            change(config);
        });
        started.map_err(|refusal| refusal.stderr)
    }

    fn try_hear(&self) -> Option<String> {
        let mut bytes = [0; 4096];
        let count = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..count].to_vec()).unwrap())
    }

    #[track_caller]
    fn hear(&self) -> String {
        self.try_hear().expect("the server says nothing")
    }

    #[track_caller]
    fn hears(&self, message: &str) {
        assert_eq!(message, self.hear());
    }

    /// Asserts that a reload is said to begin, and at which time.
    #[track_caller]
    fn hears_of_reload(&self, server: &Server) {
        let now = || {
            let now = clock_gettime(ClockId::Monotonic);
            now.tv_sec * 1_000_000 + now.tv_nsec / 1000
        };
        let before = now();
        server.signal(Signal::HUP);
        let message = self.hear();
        let micros = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&message);
        assert!((before..=now()).contains(&micros.parse().unwrap()), "{message}");
    }
}

fn serving(server: &Server) -> String {
    format!("STATUS=Serving clients at {}", server.address)
}

fn edit(server: &Server, from: &str, to: &str) {
    let file = server.file("config.yml");
    fs::write(&file, fs::read_to_string(&file).unwrap().replace(from, to)).unwrap();
}

#[test]
fn the_service_manager_hears_of_start_reload_and_end() {
    for is_abstract in [false, true] {
        let manager = Manager::new(is_abstract);
        let mut server = manager.start(|_| {});
        let serving = serving(&server);
        manager.hears("STATUS=Opening the key store");
        manager.hears(&format!("READY=1\n{serving}"));

        manager.hears_of_reload(&server);
        manager.hears(&format!("READY=1\n{serving}"));
        edit(&server, "audit: on", "audit: perhaps");
        manager.hears_of_reload(&server);
        let message = manager.hear();
        let failed = format!("READY=1\n{serving}; failed to reload the configuration, everything");
        assert!(message.starts_with(&failed) && message.contains("log.audit"), "{message}");
        edit(&server, "audit: perhaps", "audit: on");
        manager.hears_of_reload(&server);
        manager.hears(&format!("READY=1\n{serving}"));

        server.signal(Signal::TERM);
        manager.hears("STOPPING=1\nSTATUS=Stopping");
        assert!(server.wait_for_exit().success());
    }
}

#[test]
fn a_server_that_does_not_start_says_why_and_is_never_ready() {
    let manager = Manager::new(true);
    let refused = manager.try_start(|config| config.certificate.clear()).err().unwrap();
    assert!(refused.contains("server.crt"), "{refused}");
    assert!(manager.hear().contains("server.crt"));

    // Nothing listens there.
    let store = |more: &str| {
        let port = free_port();
        let login = "approle: {id: a, secret: b}";
        format!("vault: {{endpoint: 'https://127.0.0.1:{port}', {login}}}{more}")
    };
    assert!(manager.try_start(|config| config.key_store = store("")).is_err());
    manager.hears("STATUS=Opening the key store");
    assert!(manager.hear().starts_with("STATUS=failed to connect to Vault"));

    let server = manager.start(|config| config.key_store = store(", required: off"));
    manager.hears("STATUS=Opening the key store");
    let mut messages = [manager.hear(), manager.hear()];
    messages.sort();
    let [ready, status] = messages;
    assert!(ready.starts_with(&format!("READY=1\n{}", serving(&server))), "{ready}");
    assert!(status.contains("; the key store is not available: "), "{status}");
}

#[test]
fn the_service_manager_hears_of_the_key_store() {
    let manager = Manager::new(true);
    let server = manager.start(|config| {
        config.probe();
    });
    let serving = serving(&server);
    manager.hears("STATUS=Opening the key store");
    manager.hears(&format!("READY=1\n{serving}"));
    let away = server.keys().with_file_name("away");
    fs::rename(server.keys(), &away).unwrap();
    let message = manager.hear();
    assert!(message.starts_with(&format!("{serving}; the key store is not available: ")));
    fs::rename(&away, server.keys()).unwrap();
    manager.hears(&serving);
}

#[test]
fn a_service_manager_that_is_not_there_is_no_reason_not_to_serve() {
    let too_long = format!("/{}", "x".repeat(200));
    for name in ["/nowhere/notify", "@", &too_long] {
        let server = Server::start(|config| {
            config.environment.push(("NOTIFY_SOCKET".to_owned(), name.to_owned()));
        });
        let warning = "Warning: the service manager hears nothing of this server: NOTIFY_SOCKET: ";
        let is_warned = server.stderr().starts_with(warning);
        assert_eq!(name == too_long, is_warned, "{}", server.stderr());
    }
}

#[test]
fn the_watchdog_is_fed_at_rest_and_under_full_load() {
    let manager = Manager::new(true);
    let server = manager.start(|config| {
        fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
        config.environment.push(("WATCHDOG_USEC".to_owned(), "400000".to_owned()));
    });
    let feeds = |count| {
        for _ in 0..count {
            while manager.hear() != "WATCHDOG=1" {}
        }
    };
    feeds(5);
    let crowd = Crowd::start(&server, 32);
    feeds(20);
    crowd.stop();
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    let manager = Manager::new(true);
    let mut server = manager.start(|config| {
        config.environment.push(("WATCHDOG_USEC".to_owned(), "1000".to_owned()));
        config.environment.push(("WATCHDOG_PID".to_owned(), "1".to_owned()));
    });
    std::thread::sleep(Duration::from_millis(300));
    server.signal(Signal::TERM);
    server.wait_for_exit();
    manager.socket.set_nonblocking(true).unwrap();
    while let Some(message) = manager.try_hear() {
        assert_ne!("WATCHDOG=1", message);
    }
}

/// A listening socket as a service manager opens it, and its address.
fn socket() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn copy(socket: &TcpListener) -> OwnedFd {
    socket.try_clone().unwrap().into()
}

#[test]
fn a_socket_of_the_service_manager_keeps_clients_waiting_while_the_server_restarts() {
    let (socket, address) = socket();
    let identity = Identity::self_signed("server", &Profile::server());
    let root = Identity::new("root");
    let start = || {
        Server::start(|config| {
            config.address = address.to_string();
            config.passed.push(copy(&socket));
            (config.certificate, config.key) = (identity.certificate_pem(), identity.key_pem());
            config.server_identity = identity.clone();
            config.root.clone_from(&root.id);
            config.root_identity = root.clone();
            fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
        })
    };
    let mut first = start();
    first.root().post("/v1/key/generate/my-key", "{}").is_json_success();
    first.signal(Signal::TERM);
    assert!(first.wait_for_exit().success());
    // Nobody accepts it now.
    let client = first.root();
    let waiting = std::thread::spawn(move || client.post("/v1/key/generate/my-key", "{}").status);
    std::thread::sleep(Duration::from_millis(100));
    let second = start();
    assert_eq!(200, waiting.join().unwrap());
    second.root().get("/version").is_json_success();
    assert_eq!("", first.stderr() + &second.stderr());
}

#[test]
fn sockets_are_told_apart_by_where_they_listen() {
    let [(api, at), (probe, probe_at)] = [socket(), socket()];
    for reverse in [false, true] {
        let mut passed = vec![copy(&api), copy(&probe)];
        if reverse {
            passed.reverse();
        }
        let server = Server::start(|config| {
            config.address = at.to_string();
            config.more = format!("probe: {{address: {probe_at}}}\n");
            config.passed = passed;
        });
        server.root().get("/version").is_json_success();
        let mut answer = String::new();
        wait_until("it is ready", || {
            let mut socket = TcpStream::connect(probe_at).unwrap();
            socket.write_all(b"GET /ready HTTP/1.0\r\nHost: kes\r\n\r\n").unwrap();
            answer.clear();
            socket.read_to_string(&mut answer).is_ok() && answer.contains(" 200 ")
        });
    }
    // One that is missing is the server's own.
    drop(probe);
    let server = Server::start(|config| {
        config.address = at.to_string();
        config.probe();
        config.passed.push(copy(&api));
    });
    server.root().get("/version").is_json_success();
}

#[test]
fn sockets_that_do_not_fit_are_an_error() {
    let (other, address) = socket();
    let refused = |socket: OwnedFd, environment: &[(&str, &str)]| {
        let refusal = Server::try_start(|config| {
            let environment = environment.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
            config.environment.extend(environment);
            config.passed.push(socket);
            config.address = format!("127.0.0.1:{}", free_port());
        });
        refusal.err().expect("it starts").stderr
    };
    let start = "failed to start server: socket activation: ";
    for (text, message) in [
        (
            format!("{start}descriptor 3 (kes.socket) listens on {address}, and the configuration"),
            refused(copy(&other), &[("LISTEN_FDNAMES", "kes.socket")]),
        ),
        (
            format!("{start}LISTEN_FDS is \"many\", not a number of sockets"),
            refused(copy(&other), &[("LISTEN_FDS", "many")]),
        ),
        (
            format!("{start}descriptor 4 is no listening TCP socket"),
            refused(copy(&other), &[("LISTEN_FDS", "2")]),
        ),
        (
            format!("{start}descriptor 3 is no listening TCP socket"),
            refused(UdpSocket::bind("127.0.0.1:0").unwrap().into(), &[]),
        ),
        (
            format!("{start}descriptor 3 is no listening TCP socket"),
            refused(fs::File::open("/dev/null").unwrap().into(), &[]),
        ),
    ] {
        assert!(message.contains(&text), "{message:?} is not {text:?}");
    }
}

#[test]
fn sockets_for_another_process_are_not_taken() {
    let (other, _) = socket();
    let server = Server::start(|config| {
        config.environment.push(("LISTEN_PID".to_owned(), "1".to_owned()));
        config.passed.push(other.into());
    });
    server.root().get("/version").is_json_success();
}
