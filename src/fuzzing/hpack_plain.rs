//! Header blocks that are written plainly, in all of the forms that RFC 7541 has, beside the fields that they have.

use super::cursor::Cursor;

/// A name and a value.
type Field = (Vec<u8>, Vec<u8>);
pub type Fields = Vec<Field>;

/// The bytes that a block may stand for: a few of it can mean thousands.
pub const MAX_FIELDS: usize = 1 << 20;
const MAX_TABLE: usize = 4096;
const STATIC_ENTRIES: usize = 61;

/// Some of appendix A.
const STATIC: [(usize, &str, &str); 6] = [
    (1, ":authority", ""),
    (2, ":method", "GET"),
    (7, ":scheme", "https"),
    (14, ":status", "500"),
    (16, "accept-encoding", "gzip, deflate"),
    (61, "www-authenticate", ""),
];

/// The shortest codes of appendix B: the first of each length, the length, and the symbols in their order.
const CODES: [(u32, u32, &[u8]); 4] = [
    (0, 5, b"012aceiost"),
    (0x14, 6, b" %-./3456789=A_bdfghlmnpru"),
    (0x5c, 7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (0xf8, 8, b"&*,;XZ"),
];

pub fn size(fields: &[Field]) -> usize {
    fields.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// An encoder that takes any form.
pub struct Writer {
    /// The newest first.
    table: Fields,
    max: usize,
}

impl Default for Writer {
    fn default() -> Self {
        Self { table: Fields::new(), max: MAX_TABLE }
    }
}

impl Writer {
    /// The next block, and its fields; `None` if it has to be refused.
    pub fn block(&mut self, cursor: &mut Cursor<'_>) -> (Vec<u8>, Option<Fields>) {
        let (mut block, mut fields, mut is_good) = (Vec::new(), Fields::new(), true);
        let mut total = 0;
        for _ in 0..cursor.byte() % 16 {
            let form = cursor.byte();
            if form >= 240 {
                let size = usize::from(cursor.short()) % (MAX_TABLE + 100);
                put_number(&mut block, 0x20, 5, size);
                is_good &= fields.is_empty() && size <= MAX_TABLE;
                self.max = size.min(MAX_TABLE);
                self.evict(0);
                continue;
            }
            let times = if form & 8 == 0 { 1 } else { 1 + 2 * usize::from(cursor.byte()) };
            let indexed = if form & 16 == 0 { None } else { Some(self.entry(cursor)) };
            is_good &= indexed.as_ref().is_none_or(|(_, entry)| entry.is_some());
            let texts = match form & 32 {
                0 if indexed.is_some() => None,
                _ => Some((text(cursor, form & 1), text(cursor, form & 2))),
            };
            for _ in 0..times {
                if total > MAX_FIELDS {
                    break;
                }
                let count = fields.len();
                match (&texts, &indexed) {
                    (Some((name, value)), None) => {
                        self.literal(&mut block, form, (0, name), value);
                        fields.push((name.clone(), value.clone()));
                    }
                    (Some((_, value)), Some((index, entry))) => {
                        let name = entry.as_ref().map_or(&[][..], |entry| &entry.0);
                        // Those that were kept since then have moved it, and may have dropped it.
                        let is_old = *index > STATIC_ENTRIES && entry.is_some();
                        let Some(index) = (if is_old { self.find(name) } else { Some(*index) })
                        else {
                            break;
                        };
                        self.literal(&mut block, form, (index, name), value);
                        fields.push((name.to_vec(), value.clone()));
                    }
                    (None, indexed) => {
                        let (index, entry) = indexed.as_ref().expect("there is either");
                        put_number(&mut block, 0x80, 7, *index);
                        fields.extend(entry.clone());
                    }
                }
                total += size(&fields[count..]);
            }
        }
        let is_good = is_good && total <= MAX_FIELDS;
        (block, is_good.then_some(fields))
    }

    /// A field whose value is written out, and its name where that has no index.
    fn literal(&mut self, block: &mut Vec<u8>, form: u8, name: (usize, &[u8]), value: &[u8]) {
        let (first, bits) = match (form & 64, form & 4) {
            (0, _) => (0x40, 6),
            (_, 0) => (0, 4),
            _ => (0x10, 4),
        };
        put_number(block, first, bits, name.0);
        if name.0 == 0 {
            put_string(block, name.1, form & 1 != 0);
        }
        put_string(block, value, form & 2 != 0);
        if form & 64 == 0 {
            self.keep(name.1, value);
        }
    }

    /// An index, and its entry if it has one.
    fn entry(&self, cursor: &mut Cursor<'_>) -> (usize, Option<Field>) {
        let choice = usize::from(cursor.byte());
        match STATIC.get(choice) {
            Some((index, name, value)) => (*index, Some(((*name).into(), (*value).into()))),
            None => {
                let at = choice - STATIC.len();
                (STATIC_ENTRIES + 1 + at, self.table.get(at).cloned())
            }
        }
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        let at = self.table.iter().position(|entry| entry.0 == name)?;
        Some(STATIC_ENTRIES + 1 + at)
    }

    fn keep(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + 32;
        self.evict(size);
        if size <= self.max {
            self.table.insert(0, (name.into(), value.into()));
        }
    }

    fn evict(&mut self, more: usize) {
        while !self.table.is_empty() && size(&self.table) + 32 * self.table.len() + more > self.max
        {
            self.table.pop();
        }
    }
}

/// A text, of which a few bytes of input can stand for a long one; for a Huffman code it has symbols with short codes.
fn text(cursor: &mut Cursor<'_>, is_coded: u8) -> Vec<u8> {
    let text = match cursor.byte() {
        250.. => {
            // Some more than a table takes; the other decoder needs its time for longer ones.
            let count = usize::from(cursor.short()) % 5000;
            vec![cursor.byte(); count]
        }
        count => cursor.take(count.into()).to_vec(),
    };
    let symbols: Vec<u8> = CODES.iter().flat_map(|(_, _, symbols)| *symbols).copied().collect();
    let symbol = |byte: u8| symbols[usize::from(byte) % symbols.len()];
    text.into_iter().map(|byte| if is_coded == 0 { byte } else { symbol(byte) }).collect()
}

/// A number whose first byte has `bits` of it behind those of `first` (RFC 7541 5.1).
fn put_number(out: &mut Vec<u8>, first: u8, bits: u32, number: usize) {
    let most = (1 << bits) - 1;
    let Some(mut rest) = number.checked_sub(most) else {
        return out.push(first | number as u8);
    };
    out.push(first | most as u8);
    while rest >= 128 {
        out.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    out.push(rest as u8);
}

fn put_string(out: &mut Vec<u8>, text: &[u8], is_coded: bool) {
    if !is_coded {
        put_number(out, 0, 7, text.len());
        return out.extend_from_slice(text);
    }
    let (mut coded, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for symbol in text {
        let (first, length, symbols) =
            CODES.iter().find(|(_, _, symbols)| symbols.contains(symbol)).expect("it has a code");
        let at = symbols.iter().position(|known| known == symbol).expect("it is one of them");
        bits = bits << length | (first + at as u32);
        count += length;
        while count >= 8 {
            count -= 8;
            coded.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    if count > 0 {
        // The end of string begins with ones.
        coded.push((bits << (8 - count)) as u8 | (0xff >> count));
    }
    put_number(out, 0x80, 7, coded.len());
    out.extend_from_slice(&coded);
}

/// Whether the other implementation reads a block that ours refuses, and must: the size of the table changes behind a
/// field. Or it panics, as it does if that size is cut off.
pub fn is_odd(mut block: &[u8]) -> bool {
    let mut has_fields = false;
    while let [first, ..] = *block {
        let is_size = first & 0xe0 == 0x20;
        let bits = match first {
            0x80.. => 7,
            0x40.. => 6,
            _ if is_size => 5,
            _ => 4,
        };
        let Some(index) = number(&mut block, bits) else { return is_size };
        if is_size && has_fields {
            return true;
        }
        has_fields |= !is_size;
        let strings = if is_size || first >= 0x80 { 0 } else { 1 + usize::from(index == 0) };
        for _ in 0..strings {
            match number(&mut block, 7).and_then(|length| block.get(length..)) {
                Some(rest) => block = rest,
                None => return false,
            }
        }
    }
    false
}

fn number(block: &mut &[u8], bits: u32) -> Option<usize> {
    let most = (1 << bits) - 1;
    let mut number = usize::from(block.first()? & most);
    *block = &block[1..];
    if number == usize::from(most) {
        for at in 0..4 {
            let byte = *block.first()?;
            *block = &block[1..];
            number += usize::from(byte & 127) << (7 * at);
            if byte < 128 {
                return Some(number);
            }
        }
        return None;
    }
    Some(number)
}
