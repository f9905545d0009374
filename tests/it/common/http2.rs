//! A client of HTTP/2 (RFC 9113) that sends exactly the given frames, over real TLS.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use super::{
    Client, Connection, Response,
    client::{is_end, wrong},
    hpack::{Decoder, literal},
};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

pub const HEADER_TABLE_SIZE: u16 = 1;
pub const INITIAL_WINDOW_SIZE: u16 = 4;

pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// A number of 32 bits in the payload.
    pub fn number(&self, at: usize) -> u32 {
        let bytes = self.payload[at..at + 4].try_into().unwrap();
        u32::from_be_bytes(bytes)
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(kind::SETTINGS, 0, 0, payload)
}

pub fn window_update(stream: u32, more: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, more.to_be_bytes())
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, code.to_be_bytes())
}

/// The header block of a request.
pub fn block(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let first = [(":method", method), (":scheme", "https"), (":authority", "kes"), (":path", path)];
    let all = first.iter().chain(more);
    all.flat_map(|(name, value)| literal(name, value)).collect()
}

/// The frame that opens `stream` and asks for `path`.
pub fn head(stream: u32, method: &str, path: &str, is_all: bool) -> Vec<u8> {
    let flags = END_HEADERS | if is_all { END_STREAM } else { 0 };
    frame(kind::HEADERS, flags, stream, block(method, path, &[]))
}

/// The frames of a whole request.
pub fn request(stream: u32, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = head(stream, method, path, body.is_empty());
    if !body.is_empty() {
        bytes.extend(frame(kind::DATA, END_STREAM, stream, body));
    }
    bytes
}

/// What there is of an answer.
#[derive(Default)]
struct Answer {
    /// An interim status, such as 100.
    informed: Option<u16>,
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
    is_complete: bool,
    reset: Option<u32>,
}

/// One connection.
pub struct Http2 {
    pub connection: Connection,
    decoder: Decoder,
    answers: BTreeMap<u32, Answer>,
    /// A header block whose end is missing: its stream and flags.
    open_block: Option<(u32, u8, Vec<u8>)>,
    next: u32,
    /// What the server has added to the window of each stream, less what was sent; of all together
    /// at 0.
    windows: BTreeMap<u32, i64>,
    /// The window of a new stream.
    first_window: i64,
    /// The reason in the last GOAWAY.
    pub goaway: Option<u32>,
    /// Whether what was read is made room for again.
    pub opens_windows: bool,
    /// Whether settings and pings are left without an answer.
    pub is_quiet: bool,
}

impl Http2 {
    /// Connects and says hello.
    pub fn open(client: &Client) -> Self {
        Self::try_open(client).unwrap()
    }

    pub fn try_open(client: &Client) -> io::Result<Self> {
        let mut http2 = Self::silent(client)?;
        http2.try_send(&[PREFACE, &settings(&[])].concat())?;
        Ok(http2)
    }

    /// Connects and says nothing.
    pub fn silent(client: &Client) -> io::Result<Self> {
        let connection = client.speaking_http2().try_connect()?;
        assert_eq!(Some("h2"), connection.protocol().as_deref());
        Ok(Self {
            connection,
            decoder: Decoder::default(),
            answers: BTreeMap::new(),
            open_block: None,
            next: 1,
            windows: BTreeMap::from([(0, 65_535)]),
            first_window: 65_535,
            goaway: None,
            opens_windows: true,
            is_quiet: false,
        })
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).unwrap();
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.count(bytes);
        self.connection.try_send(bytes)
    }

    /// Counts the data in whole frames against the windows.
    fn count(&mut self, mut bytes: &[u8]) {
        bytes = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
        while let [a, b, c, kind, _, rest @ ..] = bytes {
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if *kind == kind::DATA && rest.len() >= 4 {
                let stream = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]);
                for stream in [0, stream] {
                    *self.windows.entry(stream).or_default() -= length as i64;
                }
            }
            bytes = bytes.get(9 + length..).unwrap_or_default();
        }
    }

    /// The number of a new stream.
    pub fn stream(&mut self) -> u32 {
        let stream = self.next;
        self.next += 2;
        stream
    }

    /// Sends a request; its answer is waited for by its stream.
    pub fn ask(&mut self, method: &str, path: &str, body: impl AsRef<[u8]>) -> u32 {
        let stream = self.stream();
        self.send(request(stream, method, path, body.as_ref()));
        stream
    }

    /// Sends a request with a body of any length, as room is made for it.
    pub fn send_body(&mut self, method: &str, path: &str, body: &[u8]) -> u32 {
        let stream = self.stream();
        self.send(head(stream, method, path, body.is_empty()));
        let mut parts = body.chunks(16_384).peekable();
        while let Some(part) = parts.next() {
            while self.room(stream) < part.len() as i64 && !self.has_status(stream) {
                self.read().unwrap();
            }
            // A refused client need not go on.
            if self.has_status(stream) {
                break;
            }
            let flags = if parts.peek().is_none() { END_STREAM } else { 0 };
            self.send(frame(kind::DATA, flags, stream, part));
        }
        stream
    }

    /// Sends a request with more headers.
    pub fn ask_with(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> u32 {
        let stream = self.stream();
        let block = block(method, path, headers);
        let mut bytes = frame(kind::HEADERS, END_HEADERS, stream, block);
        bytes.extend(frame(kind::DATA, END_STREAM, stream, body));
        self.send(bytes);
        stream
    }

    pub fn try_request(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Response> {
        if body.len() > 16_384 {
            let stream = self.send_body(method, path, body);
            return self.try_answer(stream);
        }
        let stream = self.stream();
        self.try_send(&request(stream, method, path, body))?;
        self.try_answer(stream)
    }

    pub fn request(&mut self, method: &str, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.try_request(method, path, body.as_ref()).unwrap()
    }

    /// The whole answer to the request of this stream.
    #[track_caller]
    pub fn answer(&mut self, stream: u32) -> Response {
        self.try_answer(stream).unwrap_or_else(|e| panic!("stream {stream}: {e}"))
    }

    pub fn try_answer(&mut self, stream: u32) -> io::Result<Response> {
        loop {
            let answer = self.answers.entry(stream).or_default();
            if let Some(code) = answer.reset.filter(|_| !answer.is_complete) {
                return Err(io::Error::other(format!("reset with {code}")));
            }
            if answer.is_complete {
                let answer = self.answers.remove(&stream).unwrap_or_default();
                return Ok(Response {
                    version: "HTTP/2".to_owned(),
                    status: answer.status,
                    phrase: String::new(),
                    headers: answer.headers,
                    body: answer.body,
                    trailers: answer.trailers,
                });
            }
            self.read()?;
        }
    }

    /// Whether the answer of this stream is all there, as far as was read.
    pub fn is_answered(&self, stream: u32) -> bool {
        self.answers.get(&stream).is_some_and(|answer| answer.is_complete)
    }

    /// The reason with which the server has reset this stream.
    pub fn was_reset(&self, stream: u32) -> Option<u32> {
        self.answers.get(&stream)?.reset
    }

    /// What has come of a body that goes on, up to the end of the line that contains `text`.
    pub fn lines_until(&mut self, stream: u32, text: &str) -> io::Result<Vec<String>> {
        loop {
            let answer = self.answers.entry(stream).or_default();
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            if body.contains(text) && body.ends_with('\n') {
                answer.body.clear();
                return Ok(body.lines().map(str::to_owned).collect());
            }
            if answer.is_complete || answer.reset.is_some() {
                return Err(wrong("the stream has ended"));
            }
            self.read()?;
        }
    }

    /// The head of an answer: its status.
    pub fn status(&mut self, stream: u32) -> io::Result<u16> {
        loop {
            match self.answers.get(&stream) {
                Some(answer) if answer.status > 0 => return Ok(answer.status),
                Some(answer) if answer.reset.is_some() => return Err(wrong("it was reset")),
                _ => self.read()?,
            }
        }
    }

    /// Whether the head of the answer is there, as far as was read.
    pub fn has_status(&self, stream: u32) -> bool {
        self.answers.get(&stream).is_some_and(|answer| answer.status > 0)
    }

    /// The interim status that came for this stream.
    pub fn informed(&self, stream: u32) -> Option<u16> {
        self.answers.get(&stream)?.informed
    }

    /// Bytes that may be sent on this stream now.
    pub fn room(&self, stream: u32) -> i64 {
        let of = |stream| self.windows.get(&stream).copied().unwrap_or_default();
        let first = if stream == 0 { 0 } else { self.first_window };
        (of(stream) + first).min(of(0))
    }

    /// Waits until the server has taken up our settings.
    pub fn is_acknowledged(&mut self) -> io::Result<()> {
        loop {
            let frame = self.frame()?;
            if frame.kind == kind::SETTINGS && frame.has(ACK) {
                return Ok(());
            }
        }
    }

    /// Reads and handles one frame.
    pub fn read(&mut self) -> io::Result<()> {
        self.frame().map(|_| ())
    }

    /// The next frame, after it was handled.
    pub fn frame(&mut self) -> io::Result<Frame> {
        let header = self.connection.take(9)?;
        let frame = Frame {
            kind: header[3],
            flags: header[4],
            stream: u32::from_be_bytes([header[5], header[6], header[7], header[8]]) & 0x7fff_ffff,
            payload: self.connection.take(
                usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]),
            )?,
        };
        self.handle(&frame)?;
        Ok(frame)
    }

    /// Handles whatever has come in, without waiting. Whether the connection is still open.
    pub fn catch_up(&mut self) -> bool {
        let is_open = self.connection.receive_available();
        while self.connection.has_frame() {
            if self.read().is_err() {
                return false;
            }
        }
        is_open
    }

    /// Reads until the server closes; returns the reason of its GOAWAY.
    pub fn end(&mut self) -> io::Result<Option<u32>> {
        loop {
            match self.read() {
                Ok(()) => {}
                Err(e) if is_end(&e) => return Ok(self.goaway),
                Err(e) => return Err(e),
            }
        }
    }

    /// Reads for this long, and ends earlier if the server closes.
    pub fn read_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && self.catch_up() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends what a frame asks for. A server that has closed does not want it any more.
    fn reply(&mut self, bytes: &[u8]) {
        if !self.is_quiet {
            let _ = self.try_send(bytes);
        }
    }

    fn handle(&mut self, frame: &Frame) -> io::Result<()> {
        match frame.kind {
            kind::DATA => {
                let count = frame.payload.len() as u32;
                let answer = self.answers.entry(frame.stream).or_default();
                answer.body.extend(&frame.payload);
                answer.is_complete |= frame.has(END_STREAM);
                if self.opens_windows && count > 0 {
                    let mut more = window_update(0, count);
                    if !frame.has(END_STREAM) {
                        more.extend(window_update(frame.stream, count));
                    }
                    self.reply(&more);
                }
            }
            kind::HEADERS | kind::CONTINUATION => {
                let (stream, flags, mut block) =
                    self.open_block.take().unwrap_or((frame.stream, frame.flags, Vec::new()));
                assert_eq!(stream, frame.stream, "header blocks are not mixed");
                block.extend(&frame.payload);
                if !frame.has(END_HEADERS) {
                    self.open_block = Some((stream, flags, block));
                    return Ok(());
                }
                let headers = self.decoder.decode(&block)?;
                let answer = self.answers.entry(stream).or_default();
                answer.is_complete |= flags & END_STREAM != 0;
                if answer.status > 0 {
                    answer.trailers = headers;
                    return Ok(());
                }
                let (first, rest) = headers.split_first().ok_or_else(|| wrong("no status"))?;
                assert_eq!(":status", first.0);
                let status = first.1.parse().map_err(io::Error::other)?;
                if status < 200 {
                    answer.informed = Some(status);
                    return Ok(());
                }
                answer.status = status;
                answer.headers = rest.to_vec();
            }
            kind::RST_STREAM => {
                let answer = self.answers.entry(frame.stream).or_default();
                answer.reset = Some(frame.number(0));
            }
            kind::WINDOW_UPDATE => {
                let more = i64::from(frame.number(0));
                *self.windows.entry(frame.stream).or_default() += more;
            }
            kind::SETTINGS if !frame.has(ACK) => {
                for setting in frame.payload.chunks(6) {
                    if setting[..2] == INITIAL_WINDOW_SIZE.to_be_bytes() {
                        let value = setting[2..6].try_into().unwrap();
                        self.first_window = i64::from(u32::from_be_bytes(value));
                    }
                }
                self.reply(&self::frame(kind::SETTINGS, ACK, 0, []));
            }
            kind::PING if !frame.has(ACK) => {
                self.reply(&self::frame(kind::PING, ACK, 0, &frame.payload));
            }
            kind::GOAWAY => self.goaway = Some(frame.number(4)),
            _ => {}
        }
        Ok(())
    }
}
