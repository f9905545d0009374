//! The answers that a client gets: of HTTP/1.1 one behind the other, of HTTP/2 beside each other.

use std::collections::BTreeMap;

use super::http2_floods::Floods;
use crate::http::two::{
    connection::PREFACE,
    frame::{self, END_HEADERS, END_STREAM, Frame, HEADER},
    hpack::Decoder,
};

/// For a wrong length or trailers, and for more than the window has: PROTOCOL_ERROR, FLOW_CONTROL_ERROR.
const BROKEN: [u32; 2] = [1, 3];
const REFUSED_STREAM: u32 = 7;

/// A request that has begun.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub is_root: bool,
    /// Its answer has no body.
    pub is_head: bool,
    /// Redirects are not audited.
    pub is_moved: bool,
    /// It was reset as it came in.
    pub is_malformed: bool,
    /// How long a body the server keeps until it is whole.
    pub max_body: usize,
    /// The status of its answer, if the audit line must say the same.
    pub status: Option<u16>,
}

impl Asked {
    pub fn is_log(&self) -> bool {
        self.path.starts_with("/v1/log/")
    }

    fn answered(&mut self, status: u16) {
        assert!((200..600).contains(&status), "status {status}");
        let mut changes = ["create/", "import/", "delete/"].iter();
        let name = self.path.strip_prefix("/v1/key/").unwrap_or_default();
        // A change that ends too late is answered so, and audited as it ends.
        let is_late = status >= 500 && changes.any(|change| name.starts_with(change));
        self.status = (!is_late).then_some(status);
    }
}

/// Reads answers of HTTP/1.1 in their order, notes their statuses, and says how many there are. Only a log stream, or a
/// body without a length, may be cut off.
pub fn read(mut rest: &[u8], asked: &mut [Asked]) -> usize {
    let (mut count, mut is_over) = (0, false);
    while !rest.is_empty() {
        assert!(!is_over, "an answer behind the last one");
        let mut lines = [httparse::EMPTY_HEADER; 20];
        let mut answer = httparse::Response::new(&mut lines);
        let Ok(httparse::Status::Complete(length)) = answer.parse(rest) else {
            panic!("no head of an answer: {:?}", String::from_utf8_lossy(rest));
        };
        rest = &rest[length..];
        if answer.code == Some(100) {
            continue;
        }
        let asked = asked.get_mut(count).expect("an answer without a request");
        count += 1;
        asked.answered(answer.code.expect("a status"));
        let value = |name: &str| {
            let line = answer.headers.iter().find(|line| line.name == name);
            line.map(|line| std::str::from_utf8(line.value).expect("it is ASCII"))
        };
        is_over = value("Connection") == Some("close");
        let body = match value("Content-Length") {
            _ if asked.is_head => 0,
            Some(length) => length.parse().expect("a number"),
            None if value("Transfer-Encoding") == Some("chunked") => match chunked(rest) {
                Some(length) => length,
                None => {
                    assert!(asked.is_log(), "an answer is cut off");
                    return count;
                }
            },
            None => rest.len(),
        };
        rest = rest.get(body..).expect("an answer is cut off");
    }
    count
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

/// A connection of HTTP/2, as its frames show it.
#[derive(Default)]
pub struct Answers {
    has_begun: bool,
    decoder: Decoder,
    /// The streams that the client has opened.
    streams: BTreeMap<u32, Answer>,
    floods: Floods,
    /// Those that the client has reset in this turn.
    given_up: Vec<u32>,
    /// Those whose body the client has ended in this turn, or tried to: the frame may break a rule.
    ended: Vec<u32>,
    /// Frames of bodies, and 2,048 bytes each: the client has good reasons for updates.
    sent: usize,
    /// The last stream that the server takes, if it has said so.
    last: Option<u32>,
}

#[derive(Debug, Default)]
struct Answer {
    /// The bytes of the body, and whether the client has sent all of it or given up.
    body: usize,
    is_whole: bool,
    is_given_up: bool,
    /// The frames about its priority that are wrong, each of which is answered with a reset, at any time.
    wrong: usize,
    /// The answer: its status, its length if it says that, its bytes, and whether it has ended.
    status: Option<u16>,
    length: Option<usize>,
    size: usize,
    is_over: bool,
    /// Why the server has reset the stream.
    reset: Option<u32>,
}

impl Answer {
    fn is_known(&self) -> bool {
        self.reset != Some(REFUSED_STREAM)
    }
}

impl Answers {
    /// The server has taken these frames.
    pub fn took(&mut self, mut bytes: &[u8]) {
        if !bytes.is_empty() && !std::mem::replace(&mut self.has_begun, true) {
            bytes = &bytes[PREFACE.len()..];
        }
        self.ended.clear();
        while let Some(frame) = Frame::read(bytes).expect("it was taken") {
            bytes = &bytes[HEADER + frame.payload.len()..];
            let newest = self.streams.last_key_value().map_or(0, |(id, _)| *id);
            // Trailers end a body.
            if frame.kind == frame::HEADERS && frame.stream > newest {
                self.streams.insert(frame.stream, Answer::default());
            }
            if let Some(answer) = self.streams.get_mut(&frame.stream) {
                let ends = matches!(frame.kind, frame::DATA | frame::HEADERS);
                let ends = ends && frame.has(END_STREAM);
                if ends && !std::mem::replace(&mut answer.is_whole, true) && frame.stream <= newest
                {
                    self.ended.push(frame.stream);
                }
                match frame.kind {
                    frame::DATA => answer.body += frame.content().expect("it was taken").len(),
                    frame::PRIORITY if frame.payload.len() != 5 || frame.depends_on_itself() => {
                        answer.wrong += 1;
                    }
                    frame::RST_STREAM => {
                        let is_open = !answer.is_whole && answer.reset.is_none();
                        let is_first = !std::mem::replace(&mut answer.is_given_up, true);
                        if is_open && is_first {
                            self.given_up.push(frame.stream);
                            continue;
                        }
                    }
                    _ => {}
                }
            }
            let is_idle = frame.payload.is_empty() && !frame.has(END_STREAM);
            self.floods.count(frame.kind, 0, false, is_idle, false);
        }
        assert!(bytes.is_empty(), "a part of a frame was taken");
    }

    /// The client gets these frames.
    pub fn got(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = Frame::read(bytes).expect("a frame that is not too large") {
            bytes = &bytes[HEADER + frame.payload.len()..];
            if frame.kind == frame::GOAWAY {
                self.last = Some(frame::number(&frame.payload[..4]));
            }
            let is_answer = matches!(frame.kind, frame::HEADERS | frame::DATA | frame::RST_STREAM);
            if !is_answer {
                continue;
            }
            let answer = self.streams.get_mut(&frame.stream).expect("a stream of the client");
            // Behind the answer, a reset says that nobody wants the rest of the body.
            let is_reset = frame.kind == frame::RST_STREAM;
            let is_refused = self.ended.contains(&frame.stream)
                && frame.number().is_ok_and(|code| BROKEN.contains(&code));
            let is_meant = is_reset && (!answer.is_whole || answer.wrong > 0 || is_refused);
            assert!(!answer.is_over || is_meant, "more of an answer behind its end: {answer:?}");
            if is_reset {
                self.ended.retain(|ended| *ended != frame.stream);
                answer.wrong = answer.wrong.saturating_sub(1);
            }
            match frame.kind {
                frame::HEADERS => {
                    assert!(frame.has(END_HEADERS), "no answer has so long a head");
                    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                    let field = |name: &[u8], value: &[u8]| match name {
                        b":status" => answer.status = Some(text(value).parse().expect("digits")),
                        b"content-length" => {
                            answer.length = Some(text(value).parse().expect("digits"));
                        }
                        _ => {}
                    };
                    self.decoder.decode(frame.payload, field).expect("it can be read");
                    // The client may go ahead; the answer is still to come.
                    answer.status = answer.status.filter(|status| *status != 100);
                }
                frame::DATA => {
                    answer.size += frame.payload.len();
                    self.sent += 2 + frame.payload.len() / 2048;
                }
                _ => answer.reset = Some(frame.number().expect("a number")),
            }
            answer.is_over |= frame.has(END_STREAM) && frame.kind != frame::RST_STREAM;
        }
        assert!(bytes.is_empty(), "a frame is cut off");
    }

    /// Checks what holds after each turn, so many seconds after the beginning: there are as many requests as the client
    /// has made, and no flood.
    pub fn check(&mut self, seconds: usize, asked: usize) {
        for stream in std::mem::take(&mut self.given_up) {
            // Nothing is answered behind a reset: an answer that is over came before it, in the same turn.
            let answer = &self.streams[&stream];
            let is_ignored = self.last.is_some_and(|last| stream > last);
            let is_over = is_ignored || answer.is_over || answer.reset.is_some();
            let resets = usize::from(!is_over);
            self.floods.count(frame::RST_STREAM, resets, false, false, false);
        }
        self.floods.seconds = seconds;
        self.floods.requests = asked;
        self.floods.check(self.sent);
        let made = self.made().count();
        assert!(made >= asked, "{asked} requests of a client that has made {made}");
    }

    /// The requests that the server has taken: not those that it refused or ignored.
    fn made(&self) -> impl Iterator<Item = (&u32, &Answer)> {
        let last = self.last.unwrap_or(u32::MAX);
        let is_made = move |(id, answer): &(&u32, &Answer)| **id <= last && answer.is_known();
        self.streams.iter().filter(is_made)
    }

    /// The bodies that are not whole and that the server keeps, as far as is known.
    pub fn held(&self, asked: &[Asked]) -> Vec<(u32, usize)> {
        let bodies = self.made().zip(asked).filter(|((id, answer), asked)| {
            !asked.is_malformed && answer.body <= asked.max_body && self.awaits(**id)
        });
        bodies.map(|((id, answer), _)| (*id, answer.body)).collect()
    }

    /// Whether a stream has neither its body nor its answer.
    pub fn awaits(&self, id: u32) -> bool {
        let answer = &self.streams[&id];
        !answer.is_whole && !answer.is_given_up && answer.status.is_none() && answer.reset.is_none()
    }

    /// Whether each request is answered, and to its end if that `is_due`.
    pub fn check_all(&self, asked: &[Asked], is_due: bool) {
        assert_eq!(self.made().count(), asked.len(), "requests that begin");
        for ((id, answer), asked) in self.made().zip(asked) {
            let is_reset = answer.reset.is_some() || answer.is_given_up;
            assert!(answer.status.is_some() || is_reset, "stream {id} has no answer: {asked:?}");
            let is_whole = answer.is_over || is_reset || asked.is_log();
            assert!(is_whole || !is_due, "an answer is cut off on stream {id}: {asked:?}");
            let is_long = answer.is_over && !asked.is_head;
            let is_of_length = answer.length.is_none_or(|length| length == answer.size);
            assert!(is_of_length || !is_long, "another length than announced: {answer:?}");
        }
    }

    /// Notes the statuses of the answers.
    pub fn tell(&self, asked: &mut [Asked]) {
        for ((_, answer), asked) in self.made().zip(asked) {
            if let Some(status) = answer.status {
                asked.answered(status);
            }
        }
    }
}
