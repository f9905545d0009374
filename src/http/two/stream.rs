//! One stream.

use super::{
    frame::Result,
    window::{self, Window},
};
use crate::http::event::Code;

/// The states of a stream that is open at least to one side (RFC 9113 5.1). A stream is idle if no other
/// with its number or a higher one was opened, and closed otherwise.
///
/// ```text
///               idle
///                 |
///      HEADERS    |    HEADERS with END_STREAM
///        +--------+------------+
///        v      END_STREAM     v
///       Open ----------> HalfClosedRemote
///        |     of the client   |
///        | END_STREAM          | END_STREAM
///        | of the server       | of the server
///        v                     v
///  HalfClosedLocal ---------> closed <--- RST_STREAM of either, from all of them
///               END_STREAM
///              of the client
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Open,
    HalfClosedRemote,
    HalfClosedLocal,
}

impl State {
    /// The state after `END_STREAM` of the client; `None` if that closes the stream.
    pub fn received(self) -> Option<Self> {
        (self == Self::Open).then_some(Self::HalfClosedRemote)
    }

    /// The state after `END_STREAM` of the server; `None` if that closes the stream.
    pub fn sent(self) -> Option<Self> {
        (self == Self::Open).then_some(Self::HalfClosedLocal)
    }
}

pub struct Stream {
    pub id: u32,
    pub state: State,
    pub sending: Window,
    pub receiving: Window,
    /// The rest of the body, if its length was announced, in bytes.
    pub left: Option<u64>,
}

impl Stream {
    pub fn new(id: u32, is_complete: bool, length: Option<u64>, initial: i64) -> Self {
        Self {
            id,
            state: if is_complete { State::HalfClosedRemote } else { State::Open },
            sending: Window::new(initial),
            receiving: Window::new(window::DEFAULT),
            left: length,
        }
    }

    pub fn is_receiving(&self) -> bool {
        self.state != State::HalfClosedRemote
    }

    /// Takes `length` bytes of the body, `padded` to more. Fails if the stream must be reset.
    pub fn receive(&mut self, length: usize, padded: usize, is_last: bool) -> Result<()> {
        if !self.is_receiving() {
            return Err(Code::StreamClosed);
        }
        self.receiving.take(padded)?;
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(length as u64).ok_or(Code::Protocol)?;
            if is_last && *left > 0 {
                return Err(Code::Protocol);
            }
        }
        Ok(())
    }
}
