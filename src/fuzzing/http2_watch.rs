//! The other end of a connection of HTTP/2: what the client has allowed, and what the server sends.

use std::collections::{BTreeMap, VecDeque};

use crate::http::two::{frame::*, hpack::Decoder};

/// Bytes that a client may send on a stream, and on a connection, before the server asks for more.
pub const STREAM_WINDOW: i64 = 65_535;
pub const CONNECTION_WINDOW: i64 = 1 << 20;

/// The client's side of the books.
#[derive(Default)]
pub struct Books {
    decoder: Decoder,
    /// Bytes that the server may send on all streams together, and on a new one.
    pub window: i64,
    pub initial: i64,
    /// Bytes that the client may send.
    pub ours: i64,
    pub streams: BTreeMap<u32, Side>,
    /// Pings and settings that the server has still to acknowledge.
    pub pings: VecDeque<Vec<u8>>,
    pub settings: usize,
    /// Frames of bodies that the server has sent, and 2,048 bytes each: the client has good reasons for updates.
    pub sent: usize,
}

/// A stream, as the client knows it.
pub struct Side {
    /// Bytes that the server may send, and the client.
    pub window: i64,
    pub ours: i64,
    /// Bytes of the body that the server has not made room for again.
    pub unused: usize,
    /// Bytes that the body still has, if its length was announced.
    pub left: Option<u64>,
    /// The head was refused: its body is of no interest.
    pub is_refused: bool,
    /// The client may send nothing more.
    pub is_whole: bool,
    /// The server may send nothing more.
    pub is_over: bool,
    /// Either has reset it.
    pub is_gone: bool,
    pub has_head: bool,
    /// The status of the answer, and the bytes of its body that are on their way.
    pub status: u16,
    pub owed: usize,
}

impl Side {
    pub fn is_open(&self) -> bool {
        !(self.is_gone || self.is_whole && self.is_over)
    }

    pub fn is_receiving(&self) -> bool {
        self.is_open() && !self.is_whole
    }
}

impl Books {
    pub fn new() -> Self {
        let (window, initial, ours) = (STREAM_WINDOW, STREAM_WINDOW, STREAM_WINDOW);
        // The server's own settings are no acknowledgement.
        Self { window, initial, ours, ..Self::default() }
    }

    /// Checks what the server has sent since the last time.
    pub fn watch(&mut self, out: &[u8]) {
        let (mut rest, mut open) = (out, None::<(u32, u8, Vec<u8>)>);
        while let Some(frame) = Frame::read(rest).expect("a frame that is not too large") {
            rest = &rest[HEADER + frame.payload.len()..];
            assert_eq!(open.is_some(), frame.kind == CONTINUATION, "a header block is interrupted");
            match frame.kind {
                DATA => self.data(&frame),
                HEADERS => open = Some((frame.stream, frame.flags, frame.payload.to_vec())),
                CONTINUATION => {
                    let (stream, _, block) = open.as_mut().expect("a block is open");
                    assert_eq!(*stream, frame.stream, "the stream of a header block");
                    block.extend_from_slice(frame.payload);
                }
                RST_STREAM => {
                    if let Some(side) = self.streams.get_mut(&frame.stream) {
                        (side.is_gone, side.owed) = (true, 0);
                    }
                }
                WINDOW_UPDATE => {
                    let more = frame.number().expect("a number");
                    assert!(more > 0, "an update by nothing");
                    match frame.stream {
                        0 => self.ours += i64::from(more),
                        id => self.streams.get_mut(&id).expect("a stream").ours += i64::from(more),
                    }
                }
                SETTINGS | PING if frame.has(ACK) => {
                    assert_eq!(0, frame.stream);
                    if frame.kind == PING {
                        assert_eq!(self.pings.pop_front().as_deref(), Some(frame.payload));
                    } else {
                        self.settings = self.settings.checked_sub(1).expect("they were sent");
                    }
                }
                SETTINGS | GOAWAY => assert_eq!(0, frame.stream),
                kind => panic!("the server sends frames of type {kind}"),
            }
            if let Some((stream, flags, block)) = open.take_if(|_| frame.has(END_HEADERS)) {
                self.block(stream, flags & END_STREAM != 0, &block);
            }
        }
        assert!(rest.is_empty() && open.is_none(), "a frame is cut off");
    }

    fn data(&mut self, frame: &Frame<'_>) {
        let side = self.streams.get_mut(&frame.stream).expect("a stream of the client");
        assert!(!side.is_over && side.has_head, "a body outside an answer");
        let size = frame.payload.len();
        assert!(frame.payload.iter().all(|byte| *byte == b'y'), "another body");
        side.owed = side.owed.checked_sub(size).expect("more bytes than the answer has");
        side.window -= size as i64;
        self.window -= size as i64;
        let has_room = side.window >= 0 && self.window >= 0;
        assert!(size == 0 || has_room, "more bytes than the client allows");
        side.is_over = frame.has(END_STREAM);
        self.sent += 2 + size / 2048;
    }

    fn block(&mut self, stream: u32, is_last: bool, block: &[u8]) {
        let mut status = None::<u16>;
        self.decoder
            .decode(block, |name, value| {
                let digits = String::from_utf8_lossy(value);
                status = if name == b":status" { digits.parse().ok() } else { status };
            })
            .expect("a header block that can be decoded");
        let side = self.streams.get_mut(&stream).expect("a stream of the client");
        assert!(!side.is_over, "a header block behind the end");
        assert_eq!(status.is_none(), side.has_head, "one status");
        assert!(status.is_none_or(|status| status == side.status), "another status");
        side.has_head = true;
        side.is_over = is_last;
    }

    /// Forgets the streams that are closed: the server may send nothing more there.
    pub fn forget(&mut self) {
        self.streams.retain(|_, side| side.is_open());
    }

    /// Checks what holds whenever the server has seen all that the client has sent.
    pub fn check(&self) {
        assert!(self.pings.is_empty() && self.settings == 0, "it is acknowledged");
        // The connection has room again at once, so that no stream keeps others from sending.
        let rooms = CONNECTION_WINDOW / 2..=CONNECTION_WINDOW;
        assert!(rooms.contains(&self.ours), "{} bytes of room on the connection", self.ours);
        for side in self.streams.values() {
            assert_eq!(0, side.owed, "all of an answer is sent");
            if side.is_receiving() {
                let room = side.ours + side.unused as i64;
                assert!((0..=STREAM_WINDOW).contains(&room), "{room} bytes for one body");
                // Updates of less than half a window are not worth a frame.
                assert!(side.ours >= 0 && room > STREAM_WINDOW / 2, "no room for a body");
            }
        }
    }
}
