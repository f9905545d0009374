//! The fields of a request of HTTP/2: lists of them, and what each means by RFC 9113 8.2 and 8.3, read plainly.

use super::{cursor::Cursor, heads_plain};
use crate::http::{
    Method,
    request::{Framing, Head},
    two::hpack,
};

/// Names, which need not be good ones, and values.
pub type Fields = Vec<(String, Vec<u8>)>;

/// The largest size of a request's fields, each with 32 bytes more.
const MAX_FIELDS: usize = 64 * 1024;

#[rustfmt::skip]
const NAMES: [&str; 19] = [
    ":method", ":path", ":scheme", ":authority", ":status", "host", "content-length", "transfer-encoding", "connection",
    "te", "expect", "content-type", "x-kept", "X-Kept", "cookie", "a b", "", "upgrade", "keep-alive",
];
#[rustfmt::skip]
const VALUES: [&str; 18] = [
    "GET", "/", "https", "kes", "KES", "100-continue", "trailers", "2", "02", "chunked", "", "gzip", " a", "a\t", "*",
    "/a%252Fb%2F?c", "a\nb", "99999999999999999999",
];

#[derive(Debug, PartialEq)]
pub enum Meaning {
    Head(Head),
    /// It is answered, with a reason.
    Refused,
    /// Its stream is reset.
    Malformed,
    /// Either.
    TooLarge,
}

/// The fields of a request that is good in most cases.
pub fn request(cursor: &mut Cursor<'_>) -> Fields {
    let choice = cursor.byte();
    let method = if choice & 1 == 0 { "GET" } else { "POST" };
    let path = if choice & 2 == 0 { b"/a" } else { cursor.bytes() };
    let mut fields = vec![field(":scheme", b"https"), field(":method", method.as_bytes())];
    fields.push(field(":path", path));
    if choice & 4 != 0 {
        fields.push(field("content-length", cursor.short().to_string().as_bytes()));
    }
    if choice & 8 != 0 {
        fields.push(field("expect", b"100-continue"));
    }
    if choice & 16 != 0 {
        fields.push(field(&cursor.text().to_ascii_lowercase(), cursor.bytes()));
    }
    fields
}

/// Any fields; a long value takes a few bytes.
pub fn any(cursor: &mut Cursor<'_>) -> Fields {
    let choice = cursor.byte();
    let first = [(":method", "PUT"), (":scheme", "https"), (":path", "/a")];
    let kept = first.iter().enumerate().filter(|(at, _)| choice >> at & 1 == 0);
    let mut fields: Fields = kept.map(|(_, (name, value))| field(name, value.as_bytes())).collect();
    for _ in 0..cursor.byte() % 8 {
        let name = cursor.one_of(&NAMES);
        let value = match cursor.byte() {
            255 => vec![b'v'; cursor.short().into()],
            at => VALUES[usize::from(at) % VALUES.len()].as_bytes().to_vec(),
        };
        let at = if choice & 8 == 0 { fields.len() } else { 0 };
        fields.insert(at, field(name, &value));
    }
    fields
}

fn field(name: &str, value: &[u8]) -> (String, Vec<u8>) {
    (name.to_owned(), value.to_vec())
}

pub fn block(fields: &Fields) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        hpack::put_field(&mut block, name, value);
    }
    block
}

/// What the fields of a request mean that ends with them (`is_complete`), or has a body.
pub fn meaning(fields: &Fields, is_complete: bool) -> Meaning {
    if fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>() > MAX_FIELDS
    {
        return Meaning::TooLarge;
    }
    let all = |name: &str| -> Vec<&[u8]> {
        fields.iter().filter(|field| field.0 == name).map(|field| &*field.1).collect()
    };
    let text = |name| all(name).first().map(|value| String::from_utf8_lossy(value).into_owned());
    let lengths: Vec<Option<u64>> = all("content-length").into_iter().map(digits).collect();
    let is_malformed = !are_well_formed(fields)
        || lengths.iter().any(|length| length.is_none() || *length != lengths[0])
        || is_complete && lengths.first().is_some_and(|length| *length != Some(0));
    let (Some(path), false) = (text(":path"), is_malformed) else { return Meaning::Malformed };
    if !(path.starts_with('/') || path == "*") {
        return Meaning::Malformed;
    }
    let expects = all("expect");
    let target = heads_plain::target(&path);
    let (Some((path, query)), true) =
        (target, expects.iter().all(|value| value.eq_ignore_ascii_case(b"100-continue")))
    else {
        return Meaning::Refused;
    };
    Meaning::Head(Head {
        method: Method::parse(&text(":method").expect("it is well-formed")),
        path,
        query,
        is_http11: true,
        keep_alive: true,
        framing: match lengths.first() {
            _ if is_complete => Framing::None,
            Some(length) => Framing::Length(length.expect("it is well-formed")),
            None => Framing::Chunked,
        },
        has_content_type: !all("content-type").is_empty(),
        expects_continue: !expects.is_empty() && !is_complete,
        kept: all("x-kept").into_iter().map(<[u8]>::to_vec).collect(),
    })
}

fn are_well_formed(fields: &Fields) -> bool {
    let is_pseudo = |name: &str| name.starts_with(':');
    let count = |name: &str| fields.iter().filter(|field| field.0 == name).count();
    let first_regular = fields.iter().take_while(|field| is_pseudo(&field.0)).count();
    let (pseudo, regular) = fields.split_at(first_regular);
    let is_blank = |byte: Option<&u8>| byte.is_some_and(|byte| b" \t".contains(byte));
    let is_value = |value: &[u8]| {
        !(value.iter().any(|byte| b"\0\r\n".contains(byte))
            || is_blank(value.first())
            || is_blank(value.last()))
    };
    let authority = pseudo.iter().find(|field| field.0 == ":authority");
    fields.iter().all(|field| is_value(&field.1))
        && [":method", ":scheme", ":path"].iter().all(|name| count(name) == 1)
        && count(":authority") <= 1
        && count("host") <= 1
        && pseudo.iter().all(|(name, value)| match &**name {
            ":method" => heads_plain::is_token(value),
            ":scheme" | ":path" | ":authority" => std::str::from_utf8(value).is_ok(),
            _ => false,
        })
        && regular.iter().all(|(name, value)| match &**name {
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" => {
                false
            }
            "te" => value.eq_ignore_ascii_case(b"trailers"),
            "host" => authority.is_none_or(|field| field.1.eq_ignore_ascii_case(value)),
            name => heads_plain::is_token(name.as_bytes()) && *name == name.to_ascii_lowercase(),
        })
}

fn digits(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}
