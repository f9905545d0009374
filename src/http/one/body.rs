//! Bodies of HTTP/1.1: finds where one ends, as the bytes come in.

use crate::http::request::{Framing, Malformed};

/// The longest line inside a chunked body (chunk size with extensions, or a trailer), in bytes.
const MAX_LINE: usize = 1024;

const MAX_TRAILERS: u32 = 32;

#[derive(Debug)]
pub enum BodyReader {
    /// The bytes that are still to come.
    Length(u64),
    Chunked(Chunked),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// The bytes of the input that are used up; at least one, if there are any.
    pub consumed: usize,
    /// The next bytes of the body; there may be more in the input behind them.
    pub content: &'a [u8],
    pub is_complete: bool,
}

impl BodyReader {
    /// A reader for a body with this framing; `None` if it is empty.
    pub fn new(framing: Framing) -> Option<Self> {
        match framing {
            Framing::None | Framing::Length(0) => None,
            Framing::Length(length) => Some(Self::Length(length)),
            Framing::Chunked => Some(Self::Chunked(Chunked::default())),
        }
    }

    /// Takes the next bytes of the body from the beginning of `input`.
    ///
    /// # Errors
    /// [`Malformed`] if the chunked framing is broken: nothing behind it can be trusted.
    pub fn read<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, Malformed> {
        match self {
            Self::Length(left) => {
                let content = at_most(*left, input);
                *left -= content.len() as u64;
                Ok(Step { consumed: content.len(), content, is_complete: *left == 0 })
            }
            Self::Chunked(chunked) => chunked.read(input),
        }
    }
}

fn at_most(count: u64, input: &[u8]) -> &[u8] {
    &input[..usize::try_from(count).unwrap_or(usize::MAX).min(input.len())]
}

/// The state of a chunked body (RFC 9112 7.1).
#[derive(Debug, Default)]
pub struct Chunked {
    at: At,
    line: Vec<u8>,
    trailers: u32,
}

#[derive(Clone, Copy, Debug, Default)]
enum At {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
}

impl Chunked {
    fn read<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, Malformed> {
        let mut used = 0;
        while used < input.len() {
            if let At::Data(left) = self.at {
                let content = at_most(left, &input[used..]);
                self.at = match left - content.len() as u64 {
                    0 => At::DataEnd,
                    left => At::Data(left),
                };
                let consumed = used + content.len();
                return Ok(Step { consumed, content, is_complete: false });
            }
            let byte = input[used];
            used += 1;
            self.line.push(byte);
            if byte != b'\n' && self.line.len() > MAX_LINE {
                return Err(Malformed::bad_request("chunk header too long"));
            }
            if byte == b'\n' && self.end_line()? {
                return Ok(Step { consumed: used, content: &[], is_complete: true });
            }
        }
        Ok(Step { consumed: used, content: &[], is_complete: false })
    }

    /// Goes on behind a line. `true` if it was the last one of the body.
    fn end_line(&mut self) -> Result<bool, Malformed> {
        let Some(line) = self.line.strip_suffix(b"\r\n") else {
            return Err(Malformed::bad_request("line feed without carriage return"));
        };
        if line.contains(&b'\r') {
            return Err(Malformed::bad_request("carriage return inside a line"));
        }
        self.at = match self.at {
            At::Size => match chunk_size(line)? {
                0 => At::Trailers,
                size => At::Data(size),
            },
            At::DataEnd if line.is_empty() => At::Size,
            At::Trailers if line.is_empty() => return Ok(true),
            At::Trailers if self.trailers < MAX_TRAILERS => {
                self.trailers += 1;
                At::Trailers
            }
            _ => return Err(Malformed::bad_request("malformed chunked body")),
        };
        self.line.clear();
        Ok(false)
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let end = line.iter().position(|byte| *byte == b';').unwrap_or(line.len());
    let mut digits = &line[..end];
    while let [rest @ .., b' ' | b'\t'] = digits {
        digits = rest;
    }
    if digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Malformed::bad_request("malformed chunk size"));
    }
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or(Malformed::bad_request("malformed chunk size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(input: &[u8], piece: usize) -> Result<Option<(Vec<u8>, usize)>, Malformed> {
        let mut reader = BodyReader::new(Framing::Chunked).expect("chunked has a body");
        let (mut body, mut used) = (Vec::new(), 0);
        for mut part in input.chunks(piece) {
            while !part.is_empty() {
                let step = reader.read(part)?;
                body.extend_from_slice(step.content);
                used += step.consumed;
                part = &part[step.consumed..];
                if step.is_complete {
                    return Ok(Some((body, used)));
                }
            }
        }
        Ok(None)
    }

    #[test]
    fn chunks_are_joined_however_they_arrive() {
        let input = b"3\r\nabc\r\n0a;ext=1\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET ";
        for piece in 1..input.len() {
            let (body, used) = decode(input, piece).unwrap().expect("the body is whole");
            assert_eq!(b"abc0123456789", body.as_slice());
            assert_eq!(input.len() - 4, used);
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        for input in [
            "x\r\n",
            "\r\n",
            "-1\r\n",
            "0x1\r\n",
            "1\nA",
            "1\r\nAB\r\n",
            "fffffffffffffffff\r\n",
            "1;a\rb\r\nA\r\n",
            "1\x0c\r\nA\r\n",
            "0\r\nT: a\rb\r\n\r\n",
            " 1\r\nA\r\n",
            "+1\r\nA\r\n",
            "0000000000000001\r\nA\r\n",
        ] {
            assert!(decode(input.as_bytes(), 64).is_err(), "{input:?} was taken");
        }
        assert!(decode(&[b'1'; 2000], 64).is_err());
        assert!(decode(b"000000000000001\r\nA\r\n", 64).is_ok());
        let trailers = |count| "0\r\n".to_owned() + &"T: x\r\n".repeat(count) + "\r\n";
        assert!(decode(trailers(32).as_bytes(), 64).is_ok_and(|body| body.is_some()));
        assert!(decode(trailers(33).as_bytes(), 64).is_err());
        let line = |length| "1;".to_owned() + &"x".repeat(length - 3) + "\r\n";
        assert!(decode(line(MAX_LINE).as_bytes(), 64).is_ok());
        assert!(decode(line(MAX_LINE + 1).as_bytes(), 64).is_err());
    }

    #[test]
    fn a_length_ends_the_body_where_it_says() {
        let mut reader = BodyReader::new(Framing::Length(5)).expect("it has a body");
        for (input, content, is_complete) in [("ab", "ab", false), ("cdeGET", "cde", true)] {
            let step = Step { consumed: content.len(), content: content.as_bytes(), is_complete };
            assert_eq!(Ok(step), reader.read(input.as_bytes()));
        }
    }
}
