//! Reads structure out of the bytes of an input.

/// The bytes that are left. Where none are, numbers are 0 and texts are empty.
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    /// Two bytes.
    pub fn short(&mut self) -> u16 {
        self.take(2).iter().fold(0, |number, byte| number << 8 | u16::from(*byte))
    }

    /// Four bytes.
    pub fn long(&mut self) -> u32 {
        u32::from(self.short()) << 16 | u32::from(self.short())
    }

    /// Up to `count` bytes.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes behind their length, which is one byte.
    pub fn bytes(&mut self) -> &'a [u8] {
        let count = self.byte();
        self.take(count.into())
    }

    /// Bytes as a text.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// One of `choices`.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }
}

/// Cuts `input` in pieces whose lengths `sizes` gives in turn, 1 to 256 bytes; all of it if there are none.
pub fn pieces<'a>(mut input: &'a [u8], sizes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut sizes = sizes.iter().cycle();
    std::iter::from_fn(move || {
        let size = sizes.next().map_or(input.len(), |size| usize::from(*size) + 1);
        let (piece, rest) = input.split_at(size.min(input.len()));
        input = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// `input`, in which 0xff stands for a run: the byte behind it, as often as the next two say. `most` bytes at most.
pub fn with_runs(input: &[u8], most: usize) -> Vec<u8> {
    let (mut cursor, mut output) = (Cursor(input), Vec::new());
    while !cursor.is_empty() && output.len() < most {
        match cursor.byte() {
            0xff => {
                let (byte, count) = (cursor.byte(), cursor.short());
                output.resize(output.len() + usize::from(count), byte);
            }
            byte => output.push(byte),
        }
    }
    output.truncate(most);
    output
}
