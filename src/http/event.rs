//! The events of an engine: the requests of a client, piece by piece.

use super::request::{Head, Refused};

#[cfg_attr(test, derive(Debug))] // bodies are secret
#[derive(PartialEq, Eq)]
pub enum Event<'a> {
    Request {
        /// Numbers increase.
        stream: u32,
        head: Result<Head, Refused>,
        /// The request has no body.
        is_complete: bool,
    },
    Body {
        stream: u32,
        bytes: &'a [u8],
        is_complete: bool,
    },
    /// The body of this request has a broken framing (HTTP/1.1). Its answer ends the connection.
    BadBody {
        stream: u32,
    },
    /// The client cancelled this request, or broke the rules of HTTP/2 with it.
    Reset {
        stream: u32,
    },
    /// A malformed request that was reset (HTTP/2), and the path that it seems to be for.
    Malformed(String),
    Nothing,
}

/// Why a stream or a connection of HTTP/2 ends (RFC 9113 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    NoError = 0,
    Protocol = 1,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    RefusedStream = 7,
    Cancel = 8,
    Compression = 9,
    EnhanceYourCalm = 11,
}
