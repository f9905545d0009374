//! Either engine: what a connection needs of its protocol, whichever that is.

use std::time::Instant;

use super::{
    event::{Code, Event},
    one,
    reply::Reply,
    two,
};

/// The protocol of one connection.
///
/// Each request has a number, its stream, with which it is answered. Calls for a request that is over have
/// no effect.
pub enum Engine {
    One(one::Connection),
    Two(Box<two::Connection>),
}

impl Engine {
    pub fn one() -> Self {
        Self::One(one::Connection::new())
    }

    /// A connection of HTTP/2 that opens `now`; its first frames go to `out`.
    pub fn two(now: Instant, out: &mut Vec<u8>) -> Self {
        Self::Two(Box::new(two::Connection::new(now, out)))
    }

    /// Takes what comes first in `input`, which came in until `now`, and returns how many bytes that was; 0
    /// if it takes more bytes, or an answer. The values of the header `kept` are kept. Without room for a
    /// new request (`has_room`) HTTP/2 refuses it. Answers of the protocol go to `out`.
    ///
    /// # Errors
    /// Why the connection must end: [`end`](Self::end) reports that to the client.
    pub fn next<'a>(
        &mut self,
        input: &'a [u8],
        kept: Option<&str>,
        has_room: bool,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(usize, Event<'a>), Code> {
        match self {
            Self::One(one) => Ok(one.next(input, kept, now)),
            Self::Two(two) => two.next(input, kept, has_room, now, out),
        }
    }

    /// Lets a client that waits for it (`Head::expects_continue`) send its body. To be called for each such
    /// body that the server wants.
    pub fn go_ahead(&mut self, stream: u32, out: &mut Vec<u8>) {
        match self {
            Self::One(one) => one.go_ahead(stream, out),
            Self::Two(two) => two.go_ahead(stream, out),
        }
    }

    /// Sends the head of an answer, of which nothing follows if it `is_last`.
    pub fn send_head(&mut self, stream: u32, reply: &Reply, is_last: bool, out: &mut Vec<u8>) {
        match self {
            Self::One(one) => one.send_head(stream, reply, is_last, out),
            Self::Two(two) => two.send_head(stream, reply, is_last, out),
        }
    }

    /// Sends bytes of a body, for which there must be [`room`](Self::room). In HTTP/1.1 they are one chunk
    /// where the body has no length.
    pub fn send_body(&mut self, stream: u32, bytes: &[u8], is_last: bool, out: &mut Vec<u8>) {
        match self {
            Self::One(one) => one.send_body(stream, bytes, is_last, out),
            Self::Two(two) => two.send_body(stream, bytes, is_last, out),
        }
    }

    /// Ends an answer with trailers that say that it is complete, where the client understands them.
    pub fn send_trailers(&mut self, stream: u32, out: &mut Vec<u8>) {
        match self {
            Self::One(one) => one.send_trailers(stream, out),
            Self::Two(two) => two.send_trailers(stream, out),
        }
    }

    /// How many bytes of a body the client takes on a stream now.
    pub fn room(&self, stream: u32) -> usize {
        match self {
            Self::One(_) => usize::MAX,
            Self::Two(two) => two.room(stream),
        }
    }

    /// Whether the client takes no bytes of a body on a stream now, even if no other needed any.
    pub fn is_full(&self, stream: u32) -> bool {
        match self {
            Self::One(_) => false,
            Self::Two(two) => two.is_full(stream),
        }
    }

    /// How many bytes of bodies the client takes on all streams together.
    pub fn connection_room(&self) -> i64 {
        match self {
            Self::One(_) => i64::MAX,
            Self::Two(two) => two.connection_room(),
        }
    }

    /// Gives the client room for `count` more bytes on this stream, since as many are used up.
    pub fn release(&mut self, stream: u32, count: usize, out: &mut Vec<u8>) {
        match self {
            Self::One(_) => {}
            Self::Two(two) => two.release(stream, count, out),
        }
    }

    /// Ends a request, whether it is answered or not; in HTTP/1.1, the connection with it.
    pub fn reset(&mut self, stream: u32, code: Code, out: &mut Vec<u8>) {
        match self {
            Self::One(one) => one.reset(stream),
            Self::Two(two) => two.reset(stream, code, out),
        }
    }

    /// Ends a request whose client makes no room for the answer; fails if there are too many of them.
    pub fn give_up(&mut self, stream: u32, now: Instant, out: &mut Vec<u8>) -> Result<(), Code> {
        match self {
            Self::One(one) => {
                one.reset(stream);
                Ok(())
            }
            Self::Two(two) => two.give_up(stream, now, out),
        }
    }

    /// Ends the connection after the requests that are under way. HTTP/2 tells the client at once, HTTP/1.1
    /// with the next head of an answer.
    pub fn end(&mut self, code: Code, out: &mut Vec<u8>) {
        match self {
            Self::One(one) => one.end(),
            Self::Two(two) => two.end(code, out),
        }
    }

    /// Whether the connection ends as soon as no request is under way.
    pub fn is_ending(&self) -> bool {
        match self {
            Self::One(one) => one.is_ending(),
            Self::Two(two) => two.is_ending(),
        }
    }

    /// Whether there can be many requests at the same time: HTTP/2.
    pub fn is_multiplexed(&self) -> bool {
        matches!(self, Self::Two(_))
    }

    /// When the first byte of what is incomplete came in: a head, a frame, a header block.
    pub fn incomplete_since(&self) -> Option<Instant> {
        match self {
            Self::One(one) => one.incomplete_since(),
            Self::Two(two) => two.incomplete_since(),
        }
    }
}
