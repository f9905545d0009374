//! What a client of HTTP/1.1 says, read line by line from all of its bytes: the plain reference for the engine.

use crate::http::{
    Method,
    request::{Framing, Head},
};

/// The limits of SECURITY.md, in bytes and lines, and those of an engine that drops what it does not look at.
const MAX_HEAD: usize = 64 * 1024;
const MAX_LINES: usize = 100;
const MAX_EMPTY_LINES: usize = 4;
const MAX_CHUNK_LINE: usize = 1024;
const MAX_TRAILERS: usize = 32;

const METHODS: [(&[u8], Method); 7] = [
    (b"GET", Method::Get),
    (b"HEAD", Method::Head),
    (b"POST", Method::Post),
    (b"PUT", Method::Put),
    (b"DELETE", Method::Delete),
    (b"PATCH", Method::Patch),
    (b"OPTIONS", Method::Options),
];

/// A request that came in, and its body.
#[derive(Debug, Default, PartialEq)]
pub struct Seen {
    /// `None` if it is refused.
    pub head: Option<Head>,
    pub body: Vec<u8>,
    pub is_whole: bool,
    pub is_bad: bool,
}

/// A head or a line has two meanings, or none.
struct Refused;

/// The requests in `input`, each of which is answered. Values of the header `x-kept` are kept.
pub fn read(mut input: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    loop {
        let lines = match head(&mut input) {
            Ok(Some(lines)) => lines,
            Ok(None) => return seen,
            Err(Refused) => {
                seen.push(Seen { is_bad: true, is_whole: true, ..Seen::default() });
                return seen;
            }
        };
        let Some(head) = meaning(&lines) else {
            seen.push(Seen { is_bad: true, is_whole: true, ..Seen::default() });
            return seen;
        };
        let mut next = Seen::default();
        match head.framing {
            Framing::None => next.is_whole = true,
            Framing::Length(length) => {
                let has = usize::try_from(length).unwrap_or(usize::MAX).min(input.len());
                next.body.extend_from_slice(&input[..has]);
                next.is_whole = has as u64 == length;
                input = &input[has..];
            }
            Framing::Chunked => match chunks(&mut input, &mut next.body) {
                Ok(is_whole) => next.is_whole = is_whole,
                Err(Refused) => next.is_bad = true,
            },
        }
        let goes_on = next.is_whole && goes_on(&head);
        seen.push(Seen { head: Some(head), ..next });
        if !goes_on {
            return seen;
        }
    }
}

/// Whether the connection goes on behind the answer to a request that is whole.
pub fn goes_on(head: &Head) -> bool {
    // It is not known what a client sends that expects to send nothing.
    head.keep_alive && !(head.expects_continue && head.framing == Framing::Length(0))
}

/// The next line, which ends with CR LF among the next `most` bytes. Fails if more than `refused` bytes have none.
fn line<'a>(
    input: &mut &'a [u8],
    most: usize,
    refused: usize,
) -> Result<Option<&'a [u8]>, Refused> {
    let Some(end) = input.iter().take(most).position(|byte| *byte == b'\n') else {
        return if input.len() > refused { Err(Refused) } else { Ok(None) };
    };
    let line = input[..end].strip_suffix(b"\r").ok_or(Refused)?;
    *input = &input[end + 1..];
    Ok(Some(line))
}

/// The lines of the next head, if it is whole.
fn head<'a>(input: &mut &'a [u8]) -> Result<Option<Vec<&'a [u8]>>, Refused> {
    for _ in 0..MAX_EMPTY_LINES {
        *input = input.strip_prefix(b"\r\n").unwrap_or(input);
    }
    if input.starts_with(b"\r\n") {
        return Err(Refused);
    }
    let (mut rest, mut lines) = (*input, Vec::new());
    loop {
        let room = MAX_HEAD - (input.len() - rest.len());
        let Some(line) = line(&mut rest, room, room)? else { return Ok(None) };
        if line.is_empty() {
            *input = rest;
            return Ok(Some(lines));
        }
        lines.push(line);
    }
}

/// What a head means, if that is one thing (RFC 9112 2 to 6, RFC 9110 5).
fn meaning(lines: &[&[u8]]) -> Option<Head> {
    let words: Vec<_> = lines[0].split(|byte| *byte == b' ').collect();
    let [method, target_text, version] = words[..] else { return None };
    let is_http11 = version == b"HTTP/1.1";
    if !is_token(method) || !(is_http11 || version == b"HTTP/1.0") || lines.len() > MAX_LINES + 1 {
        return None;
    }
    if target_text.iter().any(|byte| *byte < b'!' || *byte == 0x7f) {
        return None;
    }
    let (path, query) = target(std::str::from_utf8(target_text).ok()?)?;
    let mut fields = Vec::new();
    for line in &lines[1..] {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if !is_token(name) || value.iter().any(|byte| is_control(*byte)) {
            return None;
        }
        fields.push((name.to_ascii_lowercase(), value.trim_ascii()));
    }
    let all = |name: &[u8]| -> Vec<&[u8]> {
        fields.iter().filter(|field| field.0 == name).map(|field| field.1).collect()
    };
    let framing = match (&all(b"content-length")[..], &all(b"transfer-encoding")[..]) {
        ([], []) => Framing::None,
        ([length], []) => Framing::Length(digits(length, 10)?),
        ([], [coding]) if is_http11 && coding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        _ => return None,
    };
    let expects = all(b"expect");
    if expects.iter().any(|value| !value.eq_ignore_ascii_case(b"100-continue")) {
        return None;
    }
    if !matches!((all(b"host").len(), is_http11), (1, _) | (0, false)) {
        return None;
    }
    let connection = all(b"connection").join(&b',');
    let says = |word: &[u8]| {
        let mut options = connection.split(|byte| *byte == b',');
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(word))
    };
    Some(Head {
        method: METHODS.iter().find(|known| known.0 == method).map_or(Method::Other, |it| it.1),
        path,
        query,
        is_http11,
        keep_alive: (is_http11 || says(b"keep-alive")) && !says(b"close"),
        framing,
        has_content_type: !all(b"content-type").is_empty(),
        expects_continue: is_http11 && !expects.is_empty(),
        kept: all(b"x-kept").into_iter().map(<[u8]>::to_vec).collect(),
    })
}

/// The path of a request target, decoded once, and its query.
pub fn target(text: &str) -> Option<(String, Option<String>)> {
    let lower = text.to_ascii_lowercase();
    let scheme = ["http://", "https://"].into_iter().find(|scheme| lower.starts_with(scheme));
    let local = match scheme {
        Some(scheme) => {
            let rest = &text[scheme.len()..];
            let rest = &rest[rest.find(['/', '?']).unwrap_or(rest.len())..];
            format!("/{}", rest.strip_prefix('/').unwrap_or(rest))
        }
        None => text.starts_with('/').then(|| text.to_owned())?,
    };
    let (path, query) = match local.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (&*local, None),
    };
    let (mut decoded, mut rest) = (Vec::new(), path.bytes());
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'%' => digits(&[rest.next()?, rest.next()?], 16)? as u8,
            byte => byte,
        });
    }
    Some((String::from_utf8(decoded).ok()?, query))
}

/// Reads a chunked body. `false` if it is not whole yet.
fn chunks(input: &mut &[u8], body: &mut Vec<u8>) -> Result<bool, Refused> {
    loop {
        let Some(line) = chunk_line(input)? else { return Ok(false) };
        let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let end = size.iter().rposition(|byte| !b" \t".contains(byte)).map_or(0, |at| at + 1);
        let size = digits(&size[..end.min(16)], 16).filter(|_| end < 16).ok_or(Refused)?;
        if size == 0 {
            break;
        }
        let has = usize::try_from(size).unwrap_or(usize::MAX).min(input.len());
        body.extend_from_slice(&input[..has]);
        *input = &input[has..];
        match chunk_line(input)? {
            Some(b"") => {}
            None => return Ok(false),
            Some(_) => return Err(Refused),
        }
    }
    for _ in 0..=MAX_TRAILERS {
        match chunk_line(input)? {
            Some(b"") => return Ok(true),
            None => return Ok(false),
            Some(_) => {}
        }
    }
    Err(Refused)
}

fn chunk_line<'a>(input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Refused> {
    match line(input, MAX_CHUNK_LINE + 1, MAX_CHUNK_LINE)? {
        Some(line) if line.contains(&b'\r') => Err(Refused),
        line => Ok(line),
    }
}

/// Digits and nothing else.
fn digits(text: &[u8], radix: u32) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = char::from(*byte).to_digit(radix)?;
        number.checked_mul(radix.into())?.checked_add(digit.into())
    })
}

/// Whether `text` is a token (RFC 9110 5.6.2).
pub fn is_token(text: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(byte);
    !text.is_empty() && text.iter().all(is_part)
}

fn is_control(byte: u8) -> bool {
    byte < b' ' && byte != b'\t' || byte == 0x7f
}
