//! Frames as they stand on the wire (RFC 9113 4 and 6).

use crate::http::event::Code;

/// `Err`: why the connection must end, or just a stream.
pub type Result<T, E = Code> = std::result::Result<T, E>;

/// A frame header, in bytes.
pub const HEADER: usize = 9;
/// The largest payload of a frame, in bytes: the default, which all clients take.
pub const MAX_FRAME: usize = 16 * 1024;
// Types of frames (RFC 9113 6) and their flags.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const HAS_PRIORITY: u8 = 0x20;

pub struct Frame<'a> {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: &'a [u8],
}

pub fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

impl<'a> Frame<'a> {
    /// The first frame of `input`, if that is whole.
    pub fn read(input: &'a [u8]) -> Result<Option<Self>> {
        let Some((header, rest)) = input.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = number(&header[..3]) as usize;
        if length > MAX_FRAME {
            return Err(Code::FrameSize);
        }
        Ok(rest.get(..length).map(|payload| Self {
            kind: header[3],
            flags: header[4],
            stream: number(&header[5..]) & 0x7fff_ffff,
            payload,
        }))
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The number that is the whole payload.
    pub fn number(&self) -> Result<u32> {
        match self.payload {
            [_, _, _, _] => Ok(number(self.payload)),
            _ => Err(Code::FrameSize),
        }
    }

    /// The payload without padding and priority.
    pub fn content(&self) -> Result<&'a [u8]> {
        let mut content = self.payload;
        if self.has(PADDED) {
            let (length, rest) = content.split_first().ok_or(Code::FrameSize)?;
            let length = rest.len().checked_sub(usize::from(*length));
            content = &rest[..length.ok_or(Code::Protocol)?];
        }
        if self.kind == HEADERS && self.has(HAS_PRIORITY) {
            content = content.get(5..).ok_or(Code::FrameSize)?;
        }
        Ok(content)
    }

    /// Whether a `HEADERS` or `PRIORITY` frame makes its stream depend on itself.
    pub fn depends_on_itself(&self) -> bool {
        let padding = usize::from(self.kind == HEADERS && self.has(PADDED));
        let is_there = self.kind == PRIORITY || self.has(HAS_PRIORITY);
        let dependency = self.payload.get(padding..padding + 4);
        is_there && dependency.is_some_and(|bytes| number(bytes) & 0x7fff_ffff == self.stream)
    }
}

pub fn header(length: usize, kind: u8, flags: u8, stream: u32) -> [u8; HEADER] {
    let [_, high, middle, low] = (length as u32).to_be_bytes();
    let [a, b, c, d] = stream.to_be_bytes();
    [high, middle, low, kind, flags, a, b, c, d]
}

/// Appends a frame whose payload is one number.
pub fn put_number(out: &mut Vec<u8>, kind: u8, stream: u32, number: u32) {
    out.extend_from_slice(&header(4, kind, 0, stream));
    out.extend_from_slice(&number.to_be_bytes());
}
