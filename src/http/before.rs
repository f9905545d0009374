//! What the old connection needs besides the engines.

use super::{
    one::{answer, body::BodyReader},
    reply::Reply,
    request::{Framing, Head, Malformed},
};

/// What the connection adds to a reply.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// The request was HTTP/1.1, so chunks and trailers are understood.
    pub is_http11: bool,
    /// The request was a HEAD: headers only.
    pub is_head: bool,
    /// The connection stays open.
    pub keep_alive: bool,
}

impl Frame {
    /// The frame of an answer that comes before the body was read: a client that waits for a go-ahead may
    /// or may not send its body now, so the connection can't be used any more.
    pub fn without_go_ahead(self, head: &Head) -> Self {
        let is_pending = head.expects_continue && head.framing != Framing::None;
        Self { keep_alive: self.keep_alive && !is_pending, ..self }
    }
}

impl Reply {
    /// Appends the whole answer to `out`.
    pub fn write(&self, frame: Frame, out: &mut Vec<u8>) {
        let is_chunked = answer::put_head(self, frame.is_http11, frame.keep_alive, out);
        if self.is_open || frame.is_head {
            return;
        }
        if !is_chunked {
            out.extend_from_slice(&self.body);
            return;
        }
        if !self.body.is_empty() {
            answer::put_chunk(&self.body, out);
        }
        out.extend_from_slice(answer::TRAILERS);
    }
}

impl BodyReader {
    /// Uses up what it can of `input` and hands the content to `sink`. Returns how much that was, and
    /// whether the body is complete.
    pub fn read_all(
        &mut self,
        input: &[u8],
        mut sink: impl FnMut(&[u8]),
    ) -> Result<(usize, bool), Malformed> {
        let mut used = 0;
        while used < input.len() {
            let step = self.read(&input[used..])?;
            sink(step.content);
            used += step.consumed;
            if step.is_complete {
                return Ok((used, true));
            }
        }
        Ok((used, false))
    }
}
