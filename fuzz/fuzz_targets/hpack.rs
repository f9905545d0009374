//! Header blocks of HTTP/2, against another implementation.
// Covers: src/http/two/hpack.rs src/http/two/huffman.rs
#![no_main]

use fluke_hpack::{Decoder, Encoder};
use kes::inside::fuzzing::{self, Fields};

struct Other {
    decoder: Decoder<'static>,
    encoder: Encoder<'static>,
}

impl Default for Other {
    fn default() -> Self {
        let (mut decoder, encoder) = (Decoder::default(), Encoder::default());
        // The default of HTTP/2, which the server leaves as it is.
        decoder.set_max_allowed_table_size(4096);
        Self { decoder, encoder }
    }
}

impl fuzzing::Other for Other {
    fn decode(&mut self, block: &[u8]) -> Option<Fields> {
        self.decoder.decode(block).ok()
    }

    fn encode(&mut self, fields: &Fields) -> Vec<u8> {
        self.encoder.encode(fields.iter().map(|(name, value)| (&**name, &**value)))
    }
}

kes_fuzz::target!(|data| fuzzing::hpack(data, Some(&mut Other::default())), 32 << 20);
