//! Connections over real sockets, with a service that does what each test says.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Mutex,
    task::Waker,
};

use rustls::{ServerConfig, ServerConnection};
use rustls_pki_types::CertificateDer;

use super::{
    dialog::Dialog,
    service::{Begun, Handshake, Lines, NotAccepted, Progress, Request, Service, Session},
    transport::{Plain, Transport},
    turn::Turn,
    wire::{Output, Wire},
    *,
};
use crate::{
    http::{Engine, Malformed, reply::Reply, request::Head},
    metrics::Connections,
};

/// What the requests of a test share with it.
struct Script {
    connections: Connections,
    speaks_http2: bool,
    /// None for connections without TLS.
    tls: Option<Arc<ServerConfig>>,
    /// Of the requests that have come, in their order.
    paths: Mutex<Vec<String>>,
    /// The answer, as soon as it is there.
    answer: Mutex<Option<&'static str>>,
    wakers: Mutex<Vec<Waker>>,
    /// How requests ended.
    ends: Mutex<Vec<&'static str>>,
}

impl Script {
    fn new(speaks_http2: bool) -> Arc<Self> {
        Self::with(speaks_http2, None)
    }

    fn with(speaks_http2: bool, tls: Option<Arc<ServerConfig>>) -> Arc<Self> {
        Arc::new(Self {
            connections: Connections::new(10),
            speaks_http2,
            tls,
            paths: Mutex::default(),
            answer: Mutex::new(None),
            wakers: Mutex::default(),
            ends: Mutex::default(),
        })
    }
}

struct Scripted(Arc<Script>);

impl Service for Scripted {
    fn open(&self, _: SocketAddr) -> io::Result<(Transport, Box<dyn Session>)> {
        let mut plain = Plain::default();
        plain.speaks_http2 = self.0.speaks_http2;
        let transport = match &self.0.tls {
            None => Transport::Plain(plain),
            Some(tls) => Transport::Tls(ServerConnection::new(tls.clone()).unwrap()),
        };
        Ok((transport, Box::new(Scripted(self.0.clone()))))
    }

    fn idle_timeout(&self) -> Duration {
        Duration::from_secs(90)
    }

    fn connections(&self) -> &Connections {
        &self.0.connections
    }

    fn refuse(&self) -> &'static str {
        "connections"
    }
}

impl Session for Scripted {
    fn established(&mut self, _: &Handshake<'_>) -> Result<(), NotAccepted> {
        Ok(())
    }

    fn handshake_failed(&mut self, _: &str) {}

    fn kept_header(&self) -> Option<Arc<str>> {
        None
    }

    fn malformed(&mut self, _: Malformed, _: String, _: Instant) -> Reply {
        Reply::json(b"malformed".to_vec())
    }

    fn begin(&mut self, head: Head, _: &[CertificateDer<'static>], _: Instant) -> Begun {
        assert_ne!("/panic", head.path, "a bug");
        self.0.paths.lock().unwrap().push(head.path);
        Begun::Request(Box::new(Asked { script: self.0.clone(), is_answered: false }), 1024)
    }
}

struct Asked {
    script: Arc<Script>,
    is_answered: bool,
}

impl Request for Asked {
    fn run(&mut self, body: Option<&[u8]>, now: Instant, waker: &dyn Fn() -> Waker) -> Progress {
        if body.is_none() {
            self.is_answered = true;
            self.script.ends.lock().unwrap().push("cut off");
            return Progress::Reply(Reply::json(b"cut off".to_vec()));
        }
        self.script.wakers.lock().unwrap().push(waker());
        self.poll(now, waker)
    }

    fn poll(&mut self, _: Instant, _: &dyn Fn() -> Waker) -> Progress {
        match *self.script.answer.lock().unwrap() {
            None => Progress::Wait,
            Some(answer) => {
                self.is_answered = true;
                self.script.ends.lock().unwrap().push("answered");
                Progress::Reply(Reply::json(answer.as_bytes().to_vec()))
            }
        }
    }

    fn expire(&mut self) {
        self.script.answer.lock().unwrap().get_or_insert("too late");
    }

    fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn held(&self) -> usize {
        0
    }

    fn next_lines(&mut self) -> Lines {
        Lines::Nothing
    }

    fn may_go_on(&mut self, _: &[CertificateDer<'static>]) -> bool {
        true
    }

    fn count_drop(&mut self) {}
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.is_answered {
            self.script.ends.lock().unwrap().push("dropped");
        }
    }
}

struct Site {
    sockets: Arc<Sockets>,
    workers: Workers,
    acceptor: Acceptor,
    script: Arc<Script>,
    address: SocketAddr,
}

impl Site {
    fn start() -> Self {
        Self::with(2, false)
    }

    fn with(workers: usize, speaks_http2: bool) -> Self {
        Self::run(workers, Script::new(speaks_http2))
    }

    fn run(workers: usize, script: Arc<Script>) -> Self {
        let log: &'static Log =
            Box::leak(Box::new(Log::start(crate::log::Settings::default(), true).unwrap()));
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new(workers)));
        let (sockets, workers) = Sockets::start(workers, log, metrics).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let service = Box::new(Scripted(script.clone()));
        let acceptor = Acceptor::start(&sockets, listener.into(), service).unwrap();
        Self { sockets, workers, acceptor, script, address }
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    /// Asks for `path`, and returns when the request waits or has ended.
    fn ask(&self, path: &str) -> TcpStream {
        let mut client = self.connect();
        let wakers = self.script.wakers.lock().unwrap().len();
        write!(client, "GET {path} HTTP/1.1\r\nHost: kes\r\n\r\n").unwrap();
        until(|| self.script.wakers.lock().unwrap().len() > wakers);
        client
    }

    fn answer(&self, text: &'static str) {
        *self.script.answer.lock().unwrap() = Some(text);
        self.script.wakers.lock().unwrap().iter().for_each(Waker::wake_by_ref);
    }

    fn ends(&self) -> Vec<&'static str> {
        self.script.ends.lock().unwrap().clone()
    }

    fn stop(self) -> Arc<Script> {
        self.acceptor.stop();
        self.sockets.drain(Instant::now() + Duration::from_millis(100), || {});
        self.sockets.stop(&self.workers);
        self.script
    }
}

fn until(is_done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !is_done() {
        assert!(Instant::now() < end, "it does not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The body of the next answer.
fn body(client: &mut TcpStream) -> String {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !text.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    let head = String::from_utf8(text).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    client.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

fn is_closed(client: &mut TcpStream) -> bool {
    matches!(client.read(&mut [0]), Ok(0))
}

#[test]
fn a_request_that_waits_is_answered_when_it_wakes_its_connection() {
    let site = Site::start();
    let mut clients: Vec<_> = (0..5).map(|_| site.ask("/")).collect();
    assert_eq!((5, 0), (site.script.connections.open(), site.script.connections.idle()));
    site.answer("names");
    clients.iter_mut().for_each(|client| assert_eq!("names", body(client)));
    until(|| site.script.connections.idle() == 5);
    assert_eq!(vec!["answered"; 5], site.stop().ends.lock().unwrap()[..]);
}

#[test]
fn requests_that_follow_one_that_waits_are_answered_in_their_order() {
    let site = Site::start();
    let mut client = site.ask("/");
    client.write_all(&b"GET / HTTP/1.1\r\nHost: kes\r\n\r\n".repeat(3)).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(1, site.script.wakers.lock().unwrap().len(), "one after the other");
    site.answer("names");
    (0..4).for_each(|_| assert_eq!("names", body(&mut client)));
}

#[test]
fn a_panic_closes_the_connection_and_no_other() {
    let site = Site::start();
    let mut other = site.ask("/");
    let mut client = site.connect();
    client.write_all(b"GET /panic HTTP/1.1\r\nHost: kes\r\n\r\n").unwrap();
    assert!(is_closed(&mut client));
    until(|| site.script.connections.open() == 1);
    site.answer("names");
    assert_eq!("names", body(&mut other));
}

#[test]
fn a_body_that_is_cut_off_is_refused_and_a_request_whose_connection_ends_is_dropped() {
    let site = Site::start();
    let mut client = site.connect();
    client.write_all(b"POST / HTTP/1.1\r\nHost: kes\r\nContent-Length: 9\r\n\r\nhalf").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!("cut off", body(&mut client));
    assert!(is_closed(&mut client));
    let mut waiting = site.ask("/");
    assert_eq!(["cut off"], site.ends()[..]);
    let script = site.stop();
    assert_eq!(["cut off", "dropped"], script.ends.lock().unwrap()[..]);
    assert!(is_closed(&mut waiting));
    assert_eq!((0, 0), (script.connections.open(), script.connections.idle()));
}

#[test]
fn a_body_that_came_in_time_is_read_though_no_worker_had_time_for_it() {
    let is_read = || {
        let site = Site::start();
        let mut client = site.idle();
        site.answer("names");
        client.write_all(b"POST / HTTP/1.1\r\nHost: kes\r\nContent-Length: 4\r\n\r\nha").unwrap();
        until(|| site.sockets.registry.select(Connection::is_idle).is_empty());
        site.sockets.poller.stop();
        until(|| site.workers.0.iter().all(JoinHandle::is_finished));
        client.write_all(b"lf").unwrap();
        site.sockets.sweep(Instant::now() + Duration::from_secs(60));
        body(&mut client) == "names"
    };
    // A kernel that is busy hands the bytes over later.
    assert!((0..20).any(|_| is_read()));
}

/// The sweeper's clock is the test's, so that neither a late close nor an early one passes on any machine.
#[test]
fn a_handshake_has_five_seconds_from_the_connection_on_whatever_comes_meanwhile() {
    const LIMIT: Duration = Duration::from_secs(5);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let tls = ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], key.into())
        .unwrap();
    let site = Site::run(2, Script::with(false, Some(tls.into())));
    let connections = || site.sockets.registry.select(|_| true);

    let before = clock::now();
    let (silent, mut crawling) = (site.connect(), site.connect());
    // The beginning of a greeting of 512 bytes.
    crawling.write_all(&[22, 3, 1, 2, 0, 1, 0]).unwrap();
    until(|| connections().len() == 2);
    let after = clock::now();
    std::thread::sleep(Duration::from_millis(50));
    crawling.write_all(&[1]).unwrap();
    connections().iter().for_each(Connection::drive);

    site.sockets.sweep(before + LIMIT - Duration::from_millis(10));
    assert_eq!(2, connections().len(), "too early");
    site.sockets.sweep(after + LIMIT);
    assert_eq!(0, connections().len(), "too late");
    [silent, crawling].iter_mut().for_each(|client| assert!(is_closed(client)));
}

impl Site {
    fn drain(&self) {
        self.sockets.is_draining.store(true, Ordering::SeqCst);
        let all = self.sockets.registry.select(|_| true);
        all.iter().for_each(|connection| connection.drain(false));
    }

    /// A connection that has been answered, and is idle.
    fn idle(&self) -> TcpStream {
        self.answer("names");
        let mut client = self.ask("/");
        assert_eq!("names", body(&mut client));
        *self.script.answer.lock().unwrap() = None;
        until(|| self.script.connections.idle() == 1);
        client
    }
}

#[test]
fn an_idle_connection_is_closed_when_the_server_drains_and_an_answer_is_given_before() {
    let site = Site::start();
    let (mut idle, mut waiting) = (site.idle(), site.ask("/"));
    site.drain();
    assert!(is_closed(&mut idle));
    site.answer("names");
    assert_eq!("names", body(&mut waiting));
    assert!(is_closed(&mut waiting));
}

#[test]
fn a_client_that_connects_just_before_the_server_drains_gets_one_answer() {
    let is_answered = || {
        let site = Site::start();
        let (mut idle, mut fresh, begin) = (site.idle(), site.connect(), Instant::now());
        until(|| site.script.connections.open() == 2);
        site.drain();
        assert!(is_closed(&mut idle));
        site.answer("names");
        let _ = fresh.write_all(b"GET / HTTP/1.1\r\nHost: kes\r\n\r\n");
        let mut answer = String::new();
        let _ = fresh.read_to_string(&mut answer);
        let is_answered = answer.contains("Connection: close") && answer.ends_with("names");
        // A machine that is too slow has another try.
        assert!(is_answered || begin.elapsed() > Duration::from_secs(1), "{answer}");
        is_answered
    };
    assert!((0..20).any(|_| is_answered()));
}

#[test]
fn a_client_that_connects_and_says_nothing_does_not_hold_up_the_drain_for_long() {
    let site = Site::start();
    let mut silent = site.connect();
    until(|| site.script.connections.open() == 1);
    site.acceptor.stop();
    std::thread::scope(|scope| {
        let end = Instant::now() + Duration::from_secs(600);
        let drain = scope.spawn(move || site.sockets.drain(end, || {}));
        assert!(is_closed(&mut silent));
        drop(silent);
        drain.join().unwrap();
    });
}

#[test]
fn a_listener_that_another_process_has_too_stays_open() {
    let site = Site::start();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let kept = socket.try_clone().unwrap();
    let listening = Listening { socket, is_shared: true };
    let service = Box::new(Scripted(site.script.clone()));
    let acceptor = Acceptor::start(&site.sockets, listening, service).unwrap();
    let _first = TcpStream::connect(address).unwrap();
    until(|| site.script.connections.open() == 1);
    acceptor.stop();
    let _second = TcpStream::connect(address).unwrap();
    kept.set_nonblocking(false).unwrap();
    assert!(kept.accept().is_ok());
    // One that only this process has is closed.
    site.acceptor.stop();
    assert!(TcpStream::connect(site.address).is_err());
}

#[test]
fn output_for_a_client_that_is_always_behind_does_not_grow() {
    const PART: usize = 64 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut wire = Wire::new(socket.into(), Transport::plain());
    let mut sent = 0_usize;
    let mut write = |wire: &mut Wire| {
        wire.output.bytes.extend_from_slice(&[(sent / PART) as u8; PART]);
        sent += PART;
        wire.flush(Instant::now()).unwrap()
    };
    while write(&mut wire) {}
    for _ in 0..64 {
        write(&mut wire);
    }
    let mut received = vec![0; PART];
    for number in 0..300_usize {
        // What comes out is what went in, in its order.
        client.read_exact(&mut received).unwrap();
        assert_eq!(vec![number as u8; PART], received);
        write(&mut wire);
        let held = wire.output.bytes.capacity();
        assert!(held <= 4 * PART, "{held} bytes after {number} parts");
    }
}

/// How HTTP/2 begins.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A request on each of so many streams; the path has eight bytes.
fn streams(path: &str, count: u32) -> Vec<u8> {
    let mut bytes = HELLO.to_vec();
    for number in 0..count {
        let block = [b"\x82\x87\x04\x08", path.as_bytes(), b"\x01\x03kes"].concat();
        bytes.extend([0, 0, block.len() as u8, 1, 5]);
        bytes.extend((2 * number + 1).to_be_bytes());
        bytes.extend(block);
    }
    bytes
}

#[test]
fn a_client_with_hundreds_of_streams_does_not_make_others_wait_for_all_of_them() {
    let site = Site::with(1, true);
    let paths = || site.script.paths.lock().unwrap().clone();
    *site.script.answer.lock().unwrap() = Some("answer");
    // The worker stops at it, until what the others ask is there.
    let gate = site.script.wakers.lock().unwrap();
    let clients = [("/stopper", 1), ("/greedy-", 500), ("/patient", 1)].map(|(path, count)| {
        let mut client = site.connect();
        client.write_all(&streams(path, count)).unwrap();
        until(|| paths().len() == 1);
        client
    });
    until(|| site.script.connections.open() == clients.len());
    drop(gate);
    until(|| paths().len() == 502);
    let before = paths().iter().position(|path| path == "/patient").unwrap();
    assert!(before <= 1 + 2 * dialog::TURN as usize, "{before} requests were served first");
    site.stop();
}

#[test]
fn frames_that_ask_for_nothing_do_not_put_off_the_end_of_an_idle_connection() {
    const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0pingpong";
    const IDLE: Duration = Duration::from_secs(90);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap().into();
    let mut session = Scripted(Script::new(true));
    let start = Instant::now();
    let mut dialog = Dialog::new(Engine::two(start, &mut Vec::new()), start);
    let mut send = |dialog: &mut Dialog, input, second| {
        let mut turn = Turn {
            session: &mut session,
            chain: &[],
            socket: &socket,
            output: &mut Output::default(),
            waker: &|| Waker::noop().clone(),
            now: start + Duration::from_secs(second),
            is_eof: false,
            is_draining: false,
            is_fresh: false,
            is_broken: false,
        };
        dialog.drive(input, &mut turn).0
    };
    let deadline = |dialog: &Dialog| dialog.deadline(IDLE, false).unwrap() - start;
    assert_eq!(Duration::from_secs(5), deadline(&dialog));
    assert_eq!(HELLO.len(), send(&mut dialog, HELLO, 1));
    for second in 2..89 {
        assert_eq!(PING.len(), send(&mut dialog, PING, second));
        assert_eq!(IDLE, deadline(&dialog));
    }
    // Nor do they if one of them is always on its way.
    assert_eq!(0, send(&mut dialog, &PING[..12], 89));
    assert_eq!(IDLE, deadline(&dialog));
    assert_eq!(PING.len(), send(&mut dialog, PING, 90));
    assert_eq!(IDLE, deadline(&dialog));
}
