//! The whole path of a request, over memory: any bytes on several connections, into the dialog, the session, the
//! handlers and keys in memory.
//!
//! Nothing hangs, each request of a known client is audited once, and what clients get is well-formed.

use std::{
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, OnceLock},
    task::{Wake, Waker},
    time::{Duration, Instant},
};

use rustls_pki_types::CertificateDer;

use super::cursor::Cursor;
use crate::{
    api::{
        core::Core,
        routes::ROUTES,
        state::{self, State},
    },
    base::{deadline::Deadline, generation::Generation},
    cache::Expiry,
    http::{
        Engine, Malformed, Method,
        reply::Reply,
        request::Head,
        two::{
            connection::PREFACE,
            frame::{self, END_HEADERS, END_STREAM, Frame, HEADER},
            hpack::{self, Decoder},
        },
    },
    identity,
    io::{
        dialog::{Dialog, Next},
        service::{Begun, Handshake, NotAccepted, Service, Session},
        socket::Socket,
        turn::Turn,
        wire::Output,
    },
    keystore::{KeyName, KeyStore, mem::Mem},
    log::{AuditMode, Log, Settings},
    policy::{Policies, Policy, Rule},
    request::Api,
};

/// The longest that anything may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);
const IDLE_TIMEOUT: Duration = Duration::from_secs(100);
const BODIES: [&str; 6] = [
    "{}",
    r#"{"plaintext":"aGVsbG8="}"#,
    r#"{"plaintext":"aGVsbG8=","context":"Y29udGV4dA=="}"#,
    r#"{"bytes":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}"#,
    r#"{"allow":["/v1/key/*/*"],"deny":["/v1/key/delete/*"]}"#,
    r#"[{"ciphertext":"e30="},{"ciphertext":"AAAA","context":""}]"#,
];
const NAMES: [&str; 5] = ["my-key", "a", "*", "my-policy", "../x"];

/// The first byte chooses the generation, the next one the kinds of the connections; each step is an action on one
/// of them.
pub fn pipeline(data: &[u8]) {
    let mut cursor = Cursor(data);
    let choice = cursor.byte();
    let site = Site::get(usize::from(choice & 1));
    site.reset();
    let kinds = cursor.byte();
    let now = Instant::now();
    let mut lines: Vec<_> = (0..3)
        .map(|at| Line::open(site, kinds >> (2 * at) & 1 == 1, kinds >> (2 * at + 1) & 1 == 1, now))
        .collect();
    let (mut clock, mut begun) = (now, 0);
    while !cursor.is_empty() {
        let action = cursor.byte();
        let line = &mut lines[usize::from(action >> 6) % 3];
        match action & 15 {
            0..=2 => line.receive(cursor.bytes()),
            3..=7 => line.ask(&mut cursor),
            8 | 9 => {
                let filler = vec![b'x'; usize::from(cursor.short())];
                line.body(&filler, action & 1 == 1);
            }
            10 => line.settle(),
            11 => clock += Duration::from_secs(u64::from(cursor.byte()) / 4),
            12 => line.end(),
            13 => line.is_draining = true,
            _ => {
                let (is_two, is_root) = (line.is_two, action & 16 == 0);
                let old = std::mem::replace(line, Line::open(site, is_two, is_root, clock));
                begun += old.close();
            }
        }
        let line = &mut lines[usize::from(action >> 6) % 3];
        line.now = clock;
        line.drive();
        line.expire();
    }
    for mut line in lines {
        if choice & 2 == 0 {
            line.end();
        }
        begun += line.close();
    }
    site.check_audit(begun);
}

/// A server.
struct Site {
    core: &'static Core,
    store: Arc<Mem>,
    /// The certificates of root and of another client.
    chains: [Vec<CertificateDer<'static>>; 2],
    policies: Policies,
    wakes: Arc<Wakes>,
    /// Log streams want one.
    socket: Socket,
}

#[derive(Default)]
struct Wakes {
    has_come: Mutex<bool>,
    arrived: Condvar,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        *self.has_come.lock().expect("nobody panics with it") = true;
        self.arrived.notify_all();
    }
}

impl Site {
    fn get(generation: usize) -> &'static Self {
        static SITES: OnceLock<[Site; 2]> = OnceLock::new();
        let start = || [Generation::V0_14, Generation::Newest].map(Self::start);
        &SITES.get_or_init(start)[generation]
    }

    fn start(generation: Generation) -> Self {
        let chains = [(); 2].map(|()| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let params = rcgen::CertificateParams::new(vec![]).expect("no names");
            vec![params.self_signed(&key).expect("a certificate").der().clone()]
        });
        let identity = |at: usize| identity::of_certificate(&chains[at][0]).expect("a certificate");
        let mut builder = Policies::builder(&identity(0), &[]);
        let rule = |text| match generation {
            Generation::V0_14 => Rule::glob(text).expect("a pattern"),
            Generation::Newest => Rule::prefix(text),
        };
        let policy = Policy {
            allow: ["/v1/key/*", "/v1/key/generate/*", "/v1/log/*"].map(rule).into(),
            deny: ["/v1/key/delete/*"].map(rule).into(),
        };
        builder.define(&"my-policy".into(), Arc::new(policy));
        builder.assign(&"my-policy".into(), &identity(1)).expect("it has none yet");
        let policies = builder.build();
        let state = State {
            policies: policies.clone(),
            generation,
            texts: generation,
            ..state::for_tests().0
        };
        let log = Log::without_threads(Settings { audit: AuditMode::On, error: false });
        let store = Arc::new(Mem::default());
        let core = Core::start(state, Expiry::default(), store.clone(), Box::leak(log.into()), 1);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let socket = TcpStream::connect(listener.local_addr().expect("it is bound"));
        Self {
            core: core.expect("threads"),
            store,
            chains,
            policies,
            wakes: Arc::default(),
            #[allow(clippy::useless_conversion, reason = "tests have sockets of other kinds, too")]
            socket: socket.expect("a connection").into(),
        }
    }

    /// Forgets what the input before this one has left.
    fn reset(&self) {
        let deadline = Deadline::after(Instant::now(), PATIENCE);
        for name in self.store.list(deadline).expect("it is in memory") {
            let name = KeyName::parse(&name).expect("it was stored");
            self.core.cache.remove(&name);
            self.store.delete(&name, deadline).expect("it is there");
        }
        let Ok(()) = self.core.change_state(|state| {
            state.policies = self.policies.clone();
            Ok::<_, std::convert::Infallible>(())
        });
    }

    fn check_audit(&self, begun: usize) {
        let until = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        while lines.len() < begun || self.core.threads.depth() > 0 {
            lines.append(&mut self.core.log.take_audit_lines());
            if lines.len() < begun {
                assert!(Instant::now() < until, "{begun} requests, audited: {lines:#?}");
                std::thread::yield_now();
            }
        }
        lines.append(&mut self.core.log.take_audit_lines());
        assert_eq!(begun, lines.len(), "one audit line for each request: {lines:#?}");
        let known = [0, 1].map(|at| identity::of_certificate(&self.chains[at][0]).expect("one"));
        for line in lines {
            let line: serde_json::Value = serde_json::from_str(&line).expect("a line is JSON");
            let identity = line["request"]["identity"].as_str().expect("it has an identity");
            assert!(known.iter().any(|it| it == identity), "{line}");
            assert!(
                (200..600).contains(&line["response"]["code"].as_u64().expect("a code")),
                "{line}"
            );
        }
    }
}

/// Counts the requests that begin.
struct Counting {
    inner: Box<dyn Session>,
    /// For each request whether its answer has no body.
    heads: Vec<bool>,
    /// Redirects, which are not audited.
    moved: usize,
}

impl Session for Counting {
    fn established(&mut self, handshake: &Handshake<'_>) -> Result<(), NotAccepted> {
        self.inner.established(handshake)
    }

    fn handshake_failed(&mut self, reason: &str) {
        self.inner.handshake_failed(reason);
    }

    fn kept_header(&self) -> Option<Arc<str>> {
        self.inner.kept_header()
    }

    fn malformed(&mut self, malformed: Malformed, path: String, now: Instant) -> Reply {
        self.heads.push(false);
        self.inner.malformed(malformed, path, now)
    }

    fn begin(&mut self, head: Head, chain: &[CertificateDer<'static>], now: Instant) -> Begun {
        self.heads.push(head.method == Method::Head);
        let begun = self.inner.begin(head, chain, now);
        if let Begun::Answer(Reply { header: Some(("Location", _)), .. }, _) = &begun {
            self.moved += 1;
        }
        begun
    }
}

/// A connection, and the client's end of it.
struct Line {
    site: &'static Site,
    /// Gone when the connection is closed.
    dialog: Option<Dialog>,
    session: Counting,
    is_root: bool,
    is_two: bool,
    is_eof: bool,
    is_broken: bool,
    is_draining: bool,
    input: Vec<u8>,
    received: Vec<u8>,
    now: Instant,
    /// The number of the next stream.
    stream: u32,
}

impl Line {
    fn open(site: &'static Site, is_two: bool, is_root: bool, now: Instant) -> Self {
        let address = "127.0.0.1:1".parse().expect("an address");
        let (_, mut inner) = Api(site.core).open(address).expect("a session");
        let chain = &site.chains[usize::from(!is_root)];
        inner.established(&Handshake { chain, is_resumed: false, group: None }).expect("a client");
        let mut received = Vec::new();
        let engine = match is_two {
            true => Engine::two(now, &mut received),
            false => Engine::one(),
        };
        let mut input = Vec::new();
        if is_two {
            input.extend_from_slice(PREFACE);
            input.extend_from_slice(&frame::header(0, frame::SETTINGS, 0, 0));
        }
        Self {
            site,
            dialog: Some(Dialog::new(engine, now)),
            session: Counting { inner, heads: Vec::new(), moved: 0 },
            is_root,
            is_two,
            is_eof: false,
            is_broken: false,
            is_draining: false,
            input,
            received,
            now,
            stream: 1,
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        if !self.is_eof && self.dialog.is_some() {
            self.input.extend_from_slice(bytes);
        }
    }

    /// Sends a request for a path of the API.
    fn ask(&mut self, cursor: &mut Cursor<'_>) {
        let route = &ROUTES[usize::from(cursor.byte()) % ROUTES.len()];
        let (choice, body) = (cursor.byte(), cursor.one_of(&BODIES));
        let name = NAMES[usize::from(choice & 15) % NAMES.len()];
        let path = match route.path.ends_with('/') {
            true => format!("{}{name}", route.path),
            false => route.path.to_owned(),
        };
        let method = if choice & 16 == 0 { route.method.name() } else { "HEAD" };
        let is_cut = choice & 32 != 0;
        if !self.is_two {
            let length = body.len() + usize::from(is_cut);
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: kes\r\nContent-Length: {length}\r\n\r\n"
            );
            self.receive(head.as_bytes());
            return self.receive(body.as_bytes());
        }
        let mut block = vec![0x80 | 7];
        hpack::put_field(&mut block, ":method", method.as_bytes());
        hpack::put_field(&mut block, ":path", path.as_bytes());
        self.receive(&frame::header(block.len(), frame::HEADERS, END_HEADERS, self.stream));
        self.receive(&block);
        self.stream += 2;
        self.body(body.as_bytes(), !is_cut);
    }

    /// Sends more of a body.
    fn body(&mut self, bytes: &[u8], is_last: bool) {
        if !self.is_two {
            return self.receive(bytes);
        }
        for part in bytes.chunks(frame::MAX_FRAME) {
            let flags = if is_last && part.as_ptr_range().end == bytes.as_ptr_range().end {
                END_STREAM
            } else {
                0
            };
            let stream = self.stream.saturating_sub(2);
            self.receive(&frame::header(part.len(), frame::DATA, flags, stream));
            self.receive(part);
        }
    }

    /// Works on all that is there, as a worker does.
    fn drive(&mut self) {
        for _ in 0..10_000 {
            match self.turn(|dialog, input, turn| dialog.drive(input, turn)) {
                Some(Next::GoOn) => {}
                _ => return,
            }
        }
        panic!("a connection goes on for ever");
    }

    fn expire(&mut self) {
        let deadline = |dialog: &Dialog| dialog.deadline(IDLE_TIMEOUT, false);
        let until = Instant::now() + PATIENCE;
        while self.dialog.as_ref().and_then(deadline).is_some_and(|at| at <= self.now) {
            assert!(Instant::now() < until, "a deadline is due for ever");
            self.turn(|dialog, _, turn| (0, dialog.expire(IDLE_TIMEOUT, false, turn)));
            self.drive();
            // The answer to a change may be on its way from a thread that has no processor just now.
            std::thread::yield_now();
        }
    }

    fn turn(
        &mut self,
        work: impl FnOnce(&mut Dialog, &[u8], &mut Turn<'_>) -> (usize, Next),
    ) -> Option<Next> {
        let dialog = self.dialog.as_mut()?;
        let wakes = &self.site.wakes;
        let mut output = Output::default();
        let mut turn = Turn {
            session: &mut self.session,
            chain: &self.site.chains[usize::from(!self.is_root)],
            socket: &self.site.socket,
            output: &mut output,
            waker: &|| Waker::from(wakes.clone()),
            now: self.now,
            is_eof: self.is_eof,
            is_draining: self.is_draining,
            is_fresh: false,
            is_broken: false,
        };
        let (used, next) = work(dialog, &self.input, &mut turn);
        self.received.append(&mut output.bytes);
        self.input.drain(..used);
        if matches!(next, Next::Close(_) | Next::Break) {
            self.is_broken |= next == Next::Break;
            self.dialog.take().expect("it was there").abandon(self.now);
        }
        Some(next)
    }

    /// Waits until the requests that wait for the key store are answered.
    fn settle(&mut self) {
        self.drive();
        let until = Instant::now() + PATIENCE;
        while self.dialog.as_ref().is_some_and(Dialog::is_waiting) {
            let has_come = self.site.wakes.has_come.lock().expect("nobody panics with it");
            let wait = Duration::from_millis(100);
            let arrived = &self.site.wakes.arrived;
            let (mut has_come, _) = arrived
                .wait_timeout_while(has_come, wait, |it| !*it)
                .expect("nobody panics with it");
            *has_come = false;
            drop(has_come);
            assert!(Instant::now() < until, "a request hangs");
            self.drive();
        }
    }

    /// The client sends nothing more.
    fn end(&mut self) {
        self.is_eof = true;
        self.settle();
    }

    /// Ends the connection, checks what came over it, and gives the number of requests that must be audited.
    fn close(mut self) -> usize {
        if let Some(dialog) = self.dialog.take() {
            dialog.abandon(self.now);
        }
        match self.is_two {
            true => check_frames(&self.received),
            false => self.check_answers(),
        }
        self.session.heads.len() - self.session.moved
    }

    /// Whether the client got answers of HTTP/1.1 in their order, the last of which may be cut off.
    fn check_answers(&self) {
        let (mut rest, mut heads) = (&self.received[..], self.session.heads.iter());
        while !rest.is_empty() {
            let mut lines = [httparse::EMPTY_HEADER; 20];
            let mut answer = httparse::Response::new(&mut lines);
            let Ok(httparse::Status::Complete(length)) = answer.parse(rest) else {
                panic!("no head of an answer: {:?}", String::from_utf8_lossy(rest));
            };
            rest = &rest[length..];
            if answer.code == Some(100) {
                continue;
            }
            let is_head = heads.next().expect("an answer without a request");
            let value = |name: &str| {
                let line = answer.headers.iter().find(|line| line.name == name);
                line.map(|line| std::str::from_utf8(line.value).expect("it is ASCII"))
            };
            let is_last = value("Connection") == Some("close");
            let body = match value("Content-Length") {
                _ if *is_head => 0,
                Some(length) => length.parse().expect("a number"),
                None if value("Transfer-Encoding") == Some("chunked") => match chunked(rest) {
                    Some(length) => length,
                    None => return,
                },
                None => rest.len(),
            };
            if body > rest.len() {
                return;
            }
            rest = &rest[body..];
            assert!(!is_last || rest.is_empty(), "an answer behind the last one");
        }
        let is_whole = self.is_eof && !self.is_broken;
        assert!(!is_whole || heads.next().is_none(), "a request without an answer");
    }
}

/// The length of a chunked body with its trailers; `None` if it is cut off.
fn chunked(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let end = at + memchr::memmem::find(&body[at..], b"\r\n")?;
        let digits = std::str::from_utf8(&body[at..end]).expect("a size");
        let size = usize::from_str_radix(digits, 16).expect("a size");
        at = end + 2;
        if size == 0 {
            return match body.get(at..at + 2)? {
                b"\r\n" => Some(at + 2),
                _ => Some(at + memchr::memmem::find(&body[at..], b"\r\n\r\n")? + 4),
            };
        }
        assert_eq!(b"\r\n", body.get(at + size..at + size + 2)?, "the end of a chunk");
        at += size + 2;
    }
}

/// Whether the client got whole frames, and header blocks that it can read.
fn check_frames(mut rest: &[u8]) {
    let mut decoder = Decoder::default();
    while let Some(frame) = Frame::read(rest).expect("a frame that is not too large") {
        rest = &rest[HEADER + frame.payload.len()..];
        if frame.kind == frame::HEADERS {
            assert!(frame.has(END_HEADERS), "no answer has so long a head");
            decoder.decode(frame.payload, |_, _| {}).expect("it can be read");
        }
    }
    assert!(rest.is_empty(), "a frame is cut off");
}
