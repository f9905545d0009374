//! A connection of the pipeline, and the client's end of it.

use std::{
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use rustls_pki_types::CertificateDer;

use super::{
    cursor::Cursor,
    pipeline_answers::{self, Answers, Asked},
    pipeline_site::{PATIENCE, Site},
};
use crate::{
    api::routes::ROUTES,
    http::{
        Code, Engine, Malformed, Method,
        reply::Reply,
        request::{Framing, Head},
        two::{
            connection::PREFACE,
            frame::{self, END_HEADERS, END_STREAM},
            hpack,
        },
    },
    io::{
        dialog::{Dialog, Next},
        service::{Begun, Handshake, NotAccepted, Service, Session},
        turn::Turn,
        wire::Output,
    },
    request::Api,
};

/// What a client has so long for: a head or a body; the room for an answer; a connection without requests.
const BODY_TIME: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_secs(10);
const IDLE_TIME: Duration = Duration::from_secs(100);
/// From so many bytes of bodies on, a connection takes no more requests.
const MAX_HELD: usize = 4 << 20;
/// So many bytes fit between client and server, and those of one action.
const MAX_UNTAKEN: usize = 1 << 20;

const BODIES: [&str; 6] = [
    "{}",
    r#"{"plaintext":"aGVsbG8="}"#,
    r#"{"plaintext":"aGVsbG8=","context":"Y29udGV4dA=="}"#,
    r#"{"bytes":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}"#,
    r#"{"allow":["/v1/key/*/*"],"deny":["/v1/key/delete/*"]}"#,
    r#"[{"ciphertext":"e30="},{"ciphertext":"AAAA","context":""}]"#,
];
const NAMES: [&str; 5] = ["my-key", "a", "*", "my-policy", "../x"];

/// Notes the requests that begin.
struct Noting {
    inner: Box<dyn Session>,
    is_root: bool,
    asked: Vec<Asked>,
}

impl Session for Noting {
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
        self.asked.push(Asked {
            path: path.clone(),
            is_root: self.is_root,
            is_head: false,
            is_moved: false,
            is_malformed: true,
            max_body: 0,
            status: None,
        });
        self.inner.malformed(malformed, path, now)
    }

    fn begin(&mut self, head: Head, chain: &[CertificateDer<'static>], now: Instant) -> Begun {
        let mut asked = Asked {
            path: head.path.clone(),
            is_root: self.is_root,
            is_head: head.method == Method::Head,
            is_moved: false,
            is_malformed: false,
            max_body: 0,
            status: None,
        };
        let framing = head.framing;
        let begun = self.inner.begin(head, chain, now);
        match &begun {
            Begun::Answer(reply, _) => {
                asked.is_moved = reply.header.as_ref().is_some_and(|(name, _)| *name == "Location");
            }
            Begun::Request(_, max_body) => {
                let fits = match framing {
                    Framing::Length(length) => length <= *max_body as u64,
                    _ => true,
                };
                asked.max_body = if fits { *max_body } else { 0 };
            }
        }
        self.asked.push(asked);
        begun
    }
}

pub struct Line {
    site: &'static Site,
    /// Gone when the connection is closed.
    dialog: Option<Dialog>,
    /// Why it was closed, if the server did that.
    end: Option<Code>,
    session: Noting,
    /// How many of the requests were seen by [`take_paths`](Self::take_paths).
    seen: usize,
    pub is_two: bool,
    is_eof: bool,
    pub is_draining: bool,
    input: Vec<u8>,
    /// What came over HTTP/1.1, and over HTTP/2.
    received: Vec<u8>,
    answers: Answers,
    opened: Instant,
    pub now: Instant,
    /// The number of the next stream.
    stream: u32,
}

impl Line {
    pub fn open(site: &'static Site, is_two: bool, is_root: bool, now: Instant) -> Self {
        let address = "127.0.0.1:1".parse().expect("an address");
        let (_, mut inner) = Api(site.core).open(address).expect("a session");
        let chain = &site.chains[usize::from(!is_root)];
        inner.established(&Handshake { chain, is_resumed: false, group: None }).expect("a client");
        let (mut received, mut answers) = (Vec::new(), Answers::default());
        let engine = match is_two {
            true => Engine::two(now, &mut received),
            false => Engine::one(),
        };
        answers.got(&std::mem::take(&mut received));
        let mut input = Vec::new();
        if is_two {
            input.extend_from_slice(PREFACE);
            input.extend_from_slice(&frame::header(0, frame::SETTINGS, 0, 0));
        }
        Self {
            site,
            dialog: Some(Dialog::new(engine, now)),
            end: None,
            session: Noting { inner, is_root, asked: Vec::new() },
            seen: 0,
            is_two,
            is_eof: false,
            is_draining: false,
            input,
            received,
            answers,
            opened: now,
            now,
            stream: 1,
        }
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        if !self.is_eof && self.dialog.is_some() {
            self.input.extend_from_slice(bytes);
        }
    }

    /// Whether a client has to wait, as the server does not take what is there.
    pub fn is_stuck(&self) -> bool {
        self.input.len() > MAX_UNTAKEN
    }

    /// Sends a request for a path of the API.
    pub fn ask(&mut self, cursor: &mut Cursor<'_>) {
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
    pub fn body(&mut self, bytes: &[u8], is_last: bool) {
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

    /// Sends many frames that ask for nothing.
    pub fn flood(&mut self, cursor: &mut Cursor<'_>) {
        let (kind, count) = (cursor.byte(), 8 * usize::from(cursor.byte()));
        for _ in 0..count {
            match kind % 5 {
                _ if !self.is_two => {}
                0 => self.receive(&[&frame::header(8, frame::PING, 0, 0)[..], &[1; 8]].concat()),
                1 => self.receive(&frame::header(0, frame::SETTINGS, 0, 0)),
                2 => self.receive(&frame::header(0, frame::DATA, 0, self.stream.saturating_sub(2))),
                3 => self.receive(&frame::header(3, 0xfa, 0, 0)[..]),
                _ => {
                    // An import, of which the body does not come.
                    self.ask(&mut Cursor(&[2, 32]));
                    let last = self.stream - 2;
                    self.receive(&frame::header(4, frame::RST_STREAM, 0, last));
                    self.receive(&[0, 0, 0, 8]);
                }
            }
        }
    }

    /// Works on all that is there, as a worker does.
    pub fn drive(&mut self) {
        for _ in 0..10_000 {
            match self.turn(|dialog, input, turn| dialog.drive(input, turn)) {
                Some(Next::GoOn) => {}
                _ => return,
            }
        }
        panic!("a connection goes on for ever");
    }

    pub fn expire(&mut self) {
        let deadline = |dialog: &Dialog| dialog.deadline(IDLE_TIME, false);
        let until = Instant::now() + PATIENCE;
        while self.dialog.as_ref().and_then(deadline).is_some_and(|at| at <= self.now) {
            assert!(Instant::now() < until, "a deadline is due for ever");
            self.turn(|dialog, _, turn| (0, dialog.expire(IDLE_TIME, false, turn)));
            self.drive();
            // The answer to a change may be on its way from a thread that has no processor just now.
            std::thread::yield_now();
        }
    }

    fn turn(
        &mut self,
        work: impl FnOnce(&mut Dialog, &[u8], &mut Turn<'_>) -> (usize, Next),
    ) -> Option<Next> {
        let (dialog, is_root) = (self.dialog.as_mut()?, self.session.is_root);
        let wakes = &self.site.wakes;
        let mut output = Output::default();
        let (begun, held) = (self.session.asked.len(), self.answers.held(&self.session.asked));
        let mut turn = Turn {
            session: &mut self.session,
            chain: &self.site.chains[usize::from(!is_root)],
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
        if self.is_two {
            self.answers.took(&self.input[..used]);
            self.answers.got(&output.bytes);
            let seconds = self.now.duration_since(self.opened).as_secs() as usize;
            self.answers.check(seconds, self.session.asked.len());
            if self.session.asked.len() > begun {
                let held = held.into_iter().filter(|(id, _)| self.answers.awaits(*id));
                let held: usize = held.map(|(_, size)| size).sum();
                assert!(held < MAX_HELD, "a request begins beside {held} bytes of bodies");
            }
        } else {
            self.received.append(&mut output.bytes);
        }
        self.input.drain(..used);
        if let Next::Close(_) | Next::Break = next {
            self.end = Some(if let Next::Close(code) = next { code } else { Code::NoError });
            self.dialog.take().expect("it was there").abandon(self.now);
        }
        Some(next)
    }

    /// Waits until the requests that wait for the key store are answered.
    pub fn settle(&mut self) {
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
    pub fn end(&mut self) {
        self.is_eof = true;
        self.settle();
    }

    /// Lets time pass, in which the client sends nothing: its requests are answered, then it is disconnected.
    pub fn wait(&mut self) {
        self.settle();
        self.pass(BODY_TIME);
        self.check_answers(false);
        // One answer may wait for the window of its stream, and another behind it for that of the connection.
        (0..3).for_each(|_| self.pass(ANSWER_TIME));
        self.check_answers(true);
        if !self.session.asked.iter().any(Asked::is_log) {
            self.pass(IDLE_TIME);
            assert!(self.dialog.is_none(), "a connection stays open though nothing happens");
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.drive();
        self.expire();
        self.settle();
    }

    /// Whether each request has an answer, and all of it if it `is_due`. Only a client that broke the rules of HTTP/2,
    /// or takes no answers, may get less.
    fn check_answers(&mut self, is_due: bool) {
        if matches!(self.end, None | Some(Code::NoError)) {
            let asked = &mut self.session.asked;
            match self.is_two {
                true => self.answers.check_all(asked, is_due),
                false => assert_eq!(
                    asked.len(),
                    pipeline_answers::read(&self.received, asked),
                    "a request without an answer"
                ),
            }
        }
    }

    /// The bytes of the paths of new requests.
    pub fn take_paths(&mut self) -> usize {
        let new = &self.session.asked[self.seen..];
        self.seen = self.session.asked.len();
        new.iter().map(|asked| asked.path.len() + 200).sum()
    }

    /// Ends the connection, checks what came over it, and gives the requests that must be audited.
    pub fn close(mut self) -> Vec<Asked> {
        if let Some(dialog) = self.dialog.take() {
            dialog.abandon(self.now);
        }
        match self.is_two {
            true => self.answers.tell(&mut self.session.asked),
            false => {
                pipeline_answers::read(&self.received, &mut self.session.asked);
            }
        }
        self.session.asked
    }
}
