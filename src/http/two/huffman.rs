//! The Huffman code of HPACK (RFC 7541 appendix B): decoding only, since nothing has to be encoded.
//!
//! The code is canonical: codes of one length are consecutive numbers in the order of their symbols,
//! so the lengths say all.

/// The length of the code of each symbol, in bits; the last is the end of string, which never occurs.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The longest code, in bits.
const LONGEST: usize = 30;
/// Codes up to this length, which are those of nearly all text, are found with one look.
const SHORT: u32 = 8;

struct Code {
    /// The symbol and the length of what begins with these bits; length 0 if that is longer.
    short: [(u8, u8); 1 << SHORT],
    /// For each length: the first code, how many codes there are, and where their symbols begin.
    first: [u32; LONGEST + 1],
    count: [u16; LONGEST + 1],
    start: [u16; LONGEST + 1],
    /// The symbols in the order of their codes.
    symbols: [u16; 257],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut code = Code {
        short: [(0, 0); 1 << SHORT],
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        start: [0; LONGEST + 1],
        symbols: [0; 257],
    };
    let (mut next, mut used, mut length) = (0_u32, 0, 1);
    while length <= LONGEST {
        code.first[length] = next;
        code.start[length] = used as u16;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                if length <= SHORT as usize {
                    let free = SHORT as usize - length;
                    let mut at = (next as usize) << free;
                    let end = at + (1 << free);
                    while at < end {
                        code.short[at] = (symbol as u8, length as u8);
                        at += 1;
                    }
                }
                code.symbols[used] = symbol as u16;
                code.count[length] += 1;
                used += 1;
                next += 1;
            }
            symbol += 1;
        }
        next <<= 1;
        length += 1;
    }
    code
}

/// Appends what `coded` stands for to `out`; `None` if it is no valid string.
pub fn decode(coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    // Bits that were not used yet, the first one highest, and how many.
    let (mut bits, mut has, mut rest) = (0_u64, 0_u32, coded.iter());
    loop {
        while has <= 56
            && let Some(byte) = rest.next()
        {
            bits |= u64::from(*byte) << (56 - has);
            has += 8;
        }
        let (symbol, length) = CODE.short[(bits >> (64 - SHORT)) as usize];
        let (symbol, length) = match u32::from(length) {
            0 => match long(bits, has) {
                Some(found) => found,
                None => break,
            },
            length if length <= has => (symbol, length),
            _ => break,
        };
        out.push(symbol);
        bits <<= length;
        has -= length;
    }
    // The rest must be the beginning of the end of string: less than a byte of ones.
    let is_padding = has < 8 && (has == 0 || bits >> (64 - has) == (1 << has) - 1);
    is_padding.then_some(())
}

/// The symbol that begins in `bits`, of which there are `has`, and the length of its code.
fn long(bits: u64, has: u32) -> Option<(u8, u32)> {
    (SHORT + 1..=(LONGEST as u32).min(has)).find_map(|length| {
        let at = length as usize;
        let offset = ((bits >> (64 - length)) as u32).checked_sub(CODE.first[at])?;
        let is_one = offset < u32::from(CODE.count[at]);
        let symbol = is_one.then(|| CODE.symbols[usize::from(CODE.start[at]) + offset as usize])?;
        Some((u8::try_from(symbol).ok()?, length))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(coded: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    /// The code of `text`, by the table.
    fn coded(text: &[u8]) -> Vec<u8> {
        let (mut bits, mut has, mut out) = (0_u64, 0, Vec::new());
        for byte in text {
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let start = usize::from(CODE.start[length]);
            let offset = CODE.symbols[start..]
                .iter()
                .position(|symbol| *symbol == u16::from(*byte))
                .unwrap();
            bits = bits << length | (u64::from(CODE.first[length]) + offset as u64);
            has += length;
            while has >= 8 {
                has -= 8;
                out.push((bits >> has) as u8);
            }
        }
        if has > 0 {
            out.push((bits << (8 - has)) as u8 | (0xff >> has));
        }
        out
    }

    #[test]
    fn the_examples_of_the_rfc_are_decoded() {
        // RFC 7541 C.4 and C.6.
        for (coded, text) in [
            (&b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..], "www.example.com"),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf", "custom-value"),
            (
                b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
            (b"", ""),
        ] {
            assert_eq!(Some(text.as_bytes().to_vec()), decoded(coded), "{text}");
        }
    }

    #[test]
    fn every_byte_is_decoded_among_others() {
        let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        assert_eq!(Some(all.clone()), decoded(&coded(&all)));
        for byte in 0..=255 {
            for text in [vec![byte], vec![byte; 3], vec![b'a', byte, b'~']] {
                assert_eq!(Some(text.clone()), decoded(&coded(&text)));
            }
        }
    }

    #[test]
    fn wrong_padding_and_the_end_of_string_are_refused() {
        for wrong in [
            &b"\xff"[..], // a whole byte of padding
            b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff\xff",
            b"\x00",             // "0" and padding with zeros
            b"\xff\xff\xff\xff", // the end of string
            b"\xff\xff\xff\xfc",
            b"\xfe", // cut off
        ] {
            assert_eq!(None, decoded(wrong), "{wrong:?}");
        }
    }
}
