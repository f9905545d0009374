//! Header blocks of HTTP/2, against another implementation.
// Covers: src/http/two/hpack.rs src/http/two/huffman.rs
#![no_main]

use fluke_hpack::{Decoder, Encoder};
use kes::inside::fuzzing::{self, Fields};

#[derive(Default)]
struct Other {
    decoder: Decoder<'static>,
    encoder: Encoder<'static>,
}

impl fuzzing::Other for Other {
    fn decode(&mut self, block: &[u8]) -> Option<Fields> {
        self.decoder.decode(block).ok()
    }

    fn encode(&mut self, fields: &Fields) -> Vec<u8> {
        self.encoder.encode(fields.iter().map(|(name, value)| (&**name, &**value)))
    }
}

kes_fuzz::target!(|data| fuzzing::hpack(data, Some(&mut Other::default())), 4 << 20);
