//! Flow control (RFC 9113 5.2).

use super::frame::Result;
use crate::http::event::Code;

/// The initial window of a connection, and of a stream where no setting changes it.
pub const DEFAULT: i64 = 65_535;
pub const MAX: i64 = (1 << 31) - 1;

/// The bytes of bodies that one side may still send, on a stream or on the whole connection.
pub struct Window {
    /// Less than 0 after a setting that took more than there was.
    left: i64,
    /// Bytes that are used up, but not yet given back to the client.
    freed: i64,
}

impl Window {
    pub fn new(size: i64) -> Self {
        Self { left: size, freed: 0 }
    }

    pub fn left(&self) -> i64 {
        self.left
    }

    /// Uses `count` bytes, for which there must be room.
    pub fn take(&mut self, count: usize) -> Result<()> {
        self.left -= count as i64;
        if self.left < 0 { Err(Code::FlowControl) } else { Ok(()) }
    }

    /// The client makes room for `more` bytes (`WINDOW_UPDATE`).
    pub fn widen(&mut self, more: u32) -> Result<()> {
        match more {
            0 => Err(Code::Protocol),
            more => self.shift(more.into()),
        }
    }

    /// A setting of the client makes the window larger by `more` bytes, or smaller.
    pub fn shift(&mut self, more: i64) -> Result<()> {
        self.left += more;
        if self.left > MAX { Err(Code::FlowControl) } else { Ok(()) }
    }

    /// Gives back `count` bytes that were taken. Returns how many the client must be told of now: not
    /// fewer than `worthwhile`, so that updates are few.
    pub fn free(&mut self, count: usize, worthwhile: i64) -> Option<u32> {
        self.freed += count as i64;
        if self.freed < worthwhile {
            return None;
        }
        let freed = std::mem::take(&mut self.freed);
        self.left += freed;
        // A window is never larger than `MAX`.
        u32::try_from(freed).ok()
    }
}
