//! Replies: status, headers and body, from values to the bytes of HTTP/1.1.

use std::{
    cell::RefCell,
    io::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use super::head::{Framing, Head};
use crate::base::clock;

/// The trailers that every answer of the API announces (`api.md` 1.3, 1.5).
const TRAILERS: &str = "Trailer: Status, Error\r\n";

/// An answer to one request.
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// `Content-Type`, if the body has one.
    pub content_type: Option<&'static str>,
    /// A further header.
    pub header: Option<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Whether the answer announces its trailers.
    pub announces_trailers: bool,
    /// Whether the body is sent in chunks with trailers that say that it is complete.
    pub is_stream: bool,
    /// Whether only the head is written; the body follows later, without length or trailers.
    pub is_open: bool,
}

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
    /// The frame of an answer that is given before the body was read: whoever announced a body and
    /// waits for a go-ahead may or may not send it now, so the connection can't be used any more.
    pub fn without_go_ahead(self, head: &Head) -> Self {
        let is_pending = head.expects_continue && head.framing != Framing::None;
        Self { keep_alive: self.keep_alive && !is_pending, ..self }
    }
}

impl Reply {
    /// Status 200 without content.
    pub fn empty() -> Self {
        Self {
            status: 200,
            content_type: None,
            header: None,
            body: Vec::new(),
            announces_trailers: true,
            is_stream: false,
            is_open: false,
        }
    }

    /// Status 200 with JSON text.
    pub fn json(body: Vec<u8>) -> Self {
        Self { content_type: Some("application/json"), body, ..Self::empty() }
    }

    /// Status 200 with lines of JSON, sent in chunks, complete when the trailer `Status` says 200.
    pub fn json_lines(body: Vec<u8>) -> Self {
        Self { content_type: Some("application/x-ndjson"), body, is_stream: true, ..Self::empty() }
    }

    /// The head of status 200 with lines of JSON that are sent as they come, until either side ends
    /// it. In HTTP/1.1 each [`chunk`] of them is one of the transfer coding.
    pub fn open_stream() -> Self {
        Self {
            content_type: Some("application/x-ndjson"),
            announces_trailers: false,
            is_open: true,
            ..Self::empty()
        }
    }

    /// Appends the whole answer to `out`.
    pub fn write(&self, frame: Frame, out: &mut Vec<u8>) {
        let put = |out: &mut Vec<u8>, text: &str| out.extend_from_slice(text.as_bytes());
        out.reserve(320 + self.body.len());
        put(out, if frame.is_http11 { "HTTP/1.1 " } else { "HTTP/1.0 " });
        put_number(out, self.status.into());
        put(out, " ");
        put(out, reason_phrase(self.status));
        put(out, "\r\n");
        DATE.with_borrow_mut(|date| out.extend_from_slice(date.header(clock::wall())));
        if let Some(content_type) = self.content_type {
            put(out, "Content-Type: ");
            put(out, content_type);
            put(out, "\r\n");
            if self.status >= 400 {
                put(out, "X-Content-Type-Options: nosniff\r\n");
            }
        }
        if let Some((name, value)) = &self.header {
            for part in [name, ": ", value, "\r\n"] {
                put(out, part);
            }
        }
        if self.announces_trailers {
            put(out, TRAILERS);
        }
        if !frame.keep_alive {
            put(out, "Connection: close\r\n");
        } else if !frame.is_http11 {
            put(out, "Connection: keep-alive\r\n");
        }
        if self.is_open {
            if frame.is_http11 {
                put(out, "Transfer-Encoding: chunked\r\n");
            }
            put(out, "\r\n");
            return;
        }
        if self.is_stream && frame.is_http11 {
            put(out, "Transfer-Encoding: chunked\r\n\r\n");
            if frame.is_head {
                return;
            }
            if !self.body.is_empty() {
                chunk(&self.body, out);
            }
            put(out, "0\r\nStatus: 200\r\nError: \r\n\r\n");
            return;
        }
        put(out, "Content-Length: ");
        put_number(out, self.body.len());
        put(out, "\r\n\r\n");
        if !frame.is_head {
            out.extend_from_slice(&self.body);
        }
    }
}

/// What ends the chunks of an open stream.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Appends `bytes`, at least one, as one chunk.
pub fn chunk(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends `number` in decimal digits; the formatting of the standard library costs more than the
/// rest of the head.
fn put_number(out: &mut Vec<u8>, mut number: usize) {
    let start = out.len();
    loop {
        // One decimal digit always fits.
        out.push(b'0' + (number % 10) as u8);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out[start..].reverse();
}

/// The reason phrase of `status` (RFC 9110 15).
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        301 => "Moved Permanently",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        417 => "Expectation Failed",
        422 => "Unprocessable Entity",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}

thread_local! {
    static DATE: RefCell<DateHeader> = const { RefCell::new(DateHeader { second: u64::MAX, line: [0; 37] }) };
}

/// Shows `look` the value of the `Date` header of now.
pub fn with_date<T>(look: impl FnOnce(&[u8]) -> T) -> T {
    DATE.with_borrow_mut(|date| {
        let line = date.header(clock::wall());
        look(&line["Date: ".len()..line.len() - "\r\n".len()])
    })
}

/// The `Date` header of the current second (RFC 9110 5.6.7), made once a second and thread.
struct DateHeader {
    second: u64,
    line: [u8; 37],
}

impl DateHeader {
    fn header(&mut self, now: SystemTime) -> &[u8] {
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second != self.second {
            self.second = second;
            let mut rest = self.line.as_mut_slice();
            let _ = write!(rest, "Date: {}\r\n", http_date(second));
        }
        &self.line
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(second: u64) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let second = i64::try_from(second).unwrap_or_default();
    let Ok(utc) = tz::UtcDateTime::from_timespec(second, 0) else {
        return "Thu, 01 Jan 1970 00:00:00 GMT".to_owned();
    };
    format!(
        "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
        DAYS[usize::from(utc.week_day()) % 7],
        utc.month_day(),
        MONTHS[usize::from(utc.month().saturating_sub(1)) % 12],
        utc.year(),
        utc.hour(),
        utc.minute(),
        utc.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_rfc() {
        assert_eq!("Sun, 06 Nov 1994 08:49:37 GMT", http_date(784_111_777));
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 200, 1_048_576, usize::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, number);
            assert_eq!(number.to_string().as_bytes(), out);
        }
    }

    #[test]
    fn a_stream_ends_with_its_trailers_in_http_1_1_only() {
        let reply = Reply::json_lines(b"{}\n".to_vec());
        let mut out = Vec::new();
        reply.write(Frame { is_http11: true, is_head: false, keep_alive: true }, &mut out);
        assert!(out.ends_with(b"\r\n\r\n3\r\n{}\n\r\n0\r\nStatus: 200\r\nError: \r\n\r\n"));
        out.clear();
        reply.write(Frame { is_http11: false, is_head: false, keep_alive: false }, &mut out);
        assert!(out.ends_with(b"Content-Length: 3\r\n\r\n{}\n"));
    }
}
