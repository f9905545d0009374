//! Just enough HTTP/1.1 to find where a message ends. Bodies have a `Content-Length` or none.

/// The length of the first message in `bytes`, head and body, or `None` while it is incomplete.
pub(crate) fn message_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let length = head + content_length(&bytes[..head]);
    (bytes.len() >= length).then_some(length)
}

/// The status of an answer, 0 if its first line is not one of HTTP/1.1.
pub(crate) fn status(answer: &[u8]) -> u16 {
    let code = answer.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
    code.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).unwrap_or(0)
}

/// The part after the head of a complete message.
pub(crate) fn body(message: &[u8]) -> &[u8] {
    let head = message.windows(4).position(|four| four == b"\r\n\r\n");
    head.map_or(&[], |at| &message[at + 4..])
}

/// A request with the headers that SDKs send, in one piece.
pub(crate) fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\n");
    match method {
        "GET" => format!("{head}\r\n").into_bytes(),
        _ => format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes(),
    }
}

fn content_length(head: &[u8]) -> usize {
    const NAME: &[u8] = b"content-length:";
    for line in head.split(|byte| *byte == b'\n') {
        if line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME) {
            let value = std::str::from_utf8(&line[NAME.len()..]).unwrap_or("");
            return value.trim().parse().unwrap_or(0);
        }
    }
    0
}
