//! Request bodies: finds where a body ends, for both framings, as the bytes come in.

use super::{Malformed, head::Framing};

/// The longest line inside a chunked body (chunk size with extensions, or a trailer), in bytes.
const MAX_LINE: usize = 1024;

/// More trailer lines than this are refused.
const MAX_TRAILERS: u32 = 32;

/// Takes a body out of the bytes of a connection.
#[derive(Debug)]
pub enum BodyReader {
    /// So many bytes are still to come.
    Length(u64),
    /// A chunked body.
    Chunked(Chunked),
}

/// What one step of a [`BodyReader`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// So many bytes of the input belong to the body and are used up.
    pub consumed: usize,
    /// Whether the body is complete.
    pub is_complete: bool,
}

impl BodyReader {
    /// A reader for the body of a head; `None` if it has no body.
    pub fn new(framing: Framing) -> Option<Self> {
        match framing {
            Framing::None | Framing::Length(0) => None,
            Framing::Length(length) => Some(Self::Length(length)),
            Framing::Chunked => Some(Self::Chunked(Chunked::default())),
        }
    }

    /// Uses up what it can of `input` and hands the content to `sink`.
    ///
    /// # Errors
    /// [`Malformed`] if the chunked framing is broken; nothing after it can be trusted.
    pub fn read(&mut self, input: &[u8], mut sink: impl FnMut(&[u8])) -> Result<Step, Malformed> {
        match self {
            Self::Length(left) => {
                let consumed = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                sink(&input[..consumed]);
                *left -= consumed as u64;
                Ok(Step { consumed, is_complete: *left == 0 })
            }
            Self::Chunked(chunked) => chunked.read(input, sink),
        }
    }
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
    fn read(&mut self, input: &[u8], mut sink: impl FnMut(&[u8])) -> Result<Step, Malformed> {
        let mut used = 0;
        while used < input.len() {
            if let At::Data(left) = self.at {
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - used);
                sink(&input[used..used + take]);
                used += take;
                let left = left - take as u64;
                self.at = if left == 0 { At::DataEnd } else { At::Data(left) };
                continue;
            }
            let byte = input[used];
            used += 1;
            if byte != b'\n' {
                self.line.push(byte);
                if self.line.len() > MAX_LINE {
                    return Err(Malformed::bad_request("chunk header too long"));
                }
                continue;
            }
            if self.line.pop() != Some(b'\r') {
                return Err(Malformed::bad_request("line feed without carriage return"));
            }
            let line = std::mem::take(&mut self.line);
            if line.contains(&b'\r') {
                return Err(Malformed::bad_request("carriage return inside a line"));
            }
            self.at = match self.at {
                At::Size => match chunk_size(&line)? {
                    0 => At::Trailers,
                    size => At::Data(size),
                },
                At::DataEnd if line.is_empty() => At::Size,
                At::Trailers if line.is_empty() => {
                    return Ok(Step { consumed: used, is_complete: true });
                }
                At::Trailers if self.trailers < MAX_TRAILERS => {
                    self.trailers += 1;
                    At::Trailers
                }
                _ => return Err(Malformed::bad_request("malformed chunked body")),
            };
        }
        Ok(Step { consumed: used, is_complete: false })
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let end = line.iter().position(|byte| *byte == b';').unwrap_or(line.len());
    let mut digits = &line[..end];
    while let [rest @ .., b' ' | b'\t'] = digits {
        digits = rest;
    }
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
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
        for part in input.chunks(piece) {
            let step = reader.read(part, |bytes| body.extend_from_slice(bytes))?;
            used += step.consumed;
            if step.is_complete {
                return Ok(Some((body, used)));
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
        ] {
            assert!(decode(input.as_bytes(), 64).is_err(), "{input:?} was taken");
        }
        assert!(decode(&[b'1'; 2000], 64).is_err());
    }

    #[test]
    fn a_length_ends_the_body_where_it_says() {
        let mut reader = BodyReader::new(Framing::Length(5)).expect("it has a body");
        assert_eq!(Step { consumed: 2, is_complete: false }, reader.read(b"ab", |_| {}).unwrap());
        assert_eq!(
            Step { consumed: 3, is_complete: true },
            reader.read(b"cdeGET", |_| {}).unwrap()
        );
    }
}
