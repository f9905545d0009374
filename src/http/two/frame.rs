//! Frames as they stand on the wire (RFC 9113 4 and 6).

use super::{Code, Result};

/// A frame header, in bytes.
pub(super) const HEADER: usize = 9;
/// The payload of a frame, in bytes: what we take (the default), and the least that clients take.
pub(super) const MAX_FRAME: usize = 16 * 1024;
// Types of frames (RFC 9113 6) and their flags.
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const HAS_PRIORITY: u8 = 0x20;

/// One frame as it came in.
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: &'a [u8],
}

pub(super) fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

impl<'a> Frame<'a> {
    /// The first frame of `input`, if it is there as a whole.
    pub(super) fn read(input: &'a [u8]) -> Result<Option<Self>> {
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

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload without padding and priority.
    pub(super) fn content(&self) -> Result<&'a [u8]> {
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

    /// Whether the priority of a `HEADERS` or `PRIORITY` frame is that of a stream before itself.
    pub(super) fn depends_on_itself(&self) -> bool {
        let padding = usize::from(self.kind == HEADERS && self.has(PADDED));
        let is_there = self.kind == PRIORITY || self.has(HAS_PRIORITY);
        let dependency = self.payload.get(padding..padding + 4);
        is_there && dependency.is_some_and(|bytes| number(bytes) & 0x7fff_ffff == self.stream)
    }
}

/// Appends a frame header.
pub(super) fn put_header(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let length = (length as u32).to_be_bytes();
    let [a, b, c, d] = stream.to_be_bytes();
    out.extend_from_slice(&[length[1], length[2], length[3], kind, flags, a, b, c, d]);
}

/// Appends a frame whose payload is one number.
pub(super) fn put_number(out: &mut Vec<u8>, kind: u8, stream: u32, number: u32) {
    put_header(out, 4, kind, 0, stream);
    out.extend_from_slice(&number.to_be_bytes());
}
