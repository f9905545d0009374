//! Answers as the bytes of HTTP/1.1 (RFC 9112).

use crate::http::{
    date::with_date,
    reply::{Reply, TRAILER, decimal},
};

pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
pub const TRAILERS: &[u8] = b"0\r\nStatus: 200\r\nError: \r\n\r\n";
/// A body up to this size finds room behind its head without another allocation, in bytes.
const SMALL_BODY: usize = 4096;

/// Appends the head of `reply`. `true` if its body must follow in chunks.
pub fn put_head(reply: &Reply, is_http11: bool, keep_alive: bool, out: &mut Vec<u8>) -> bool {
    out.reserve(320 + reply.body.len().min(SMALL_BODY));
    out.extend_from_slice(if is_http11 { b"HTTP/1.1 " } else { b"HTTP/1.0 " });
    out.extend_from_slice(decimal(reply.status.into(), &mut [0; 20]));
    put(out, &[" ", reason_phrase(reply.status), "\r\nDate: "]);
    with_date(|date| out.extend_from_slice(date));
    put(out, &["\r\n"]);
    if let Some(content_type) = reply.content_type {
        put(out, &["Content-Type: ", content_type, "\r\n"]);
        if reply.is_nosniff {
            put(out, &["X-Content-Type-Options: nosniff\r\n"]);
        }
    }
    if let Some((name, value)) = &reply.header {
        put(out, &[name, ": ", value, "\r\n"]);
    }
    if reply.announces_trailers {
        put(out, &["Trailer: ", TRAILER, "\r\n"]);
    }
    match (is_http11, keep_alive) {
        (true, true) => {}
        (false, true) => put(out, &["Connection: keep-alive\r\n"]),
        (_, false) => put(out, &["Connection: close\r\n"]),
    }
    let is_chunked = is_http11 && (reply.is_stream || reply.is_open);
    if is_chunked {
        put(out, &["Transfer-Encoding: chunked\r\n"]);
    } else if !reply.is_open {
        put(out, &["Content-Length: "]);
        out.extend_from_slice(decimal(reply.body.len(), &mut [0; 20]));
        put(out, &["\r\n"]);
    }
    put(out, &["\r\n"]);
    is_chunked
}

/// Appends `bytes`, at least one, as one chunk.
pub fn put_chunk(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn put(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        301 => "Moved Permanently",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        417 => "Expectation Failed",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}
