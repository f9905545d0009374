//! Frames that ask for nothing, as the client counts them: how many the server takes, and that it refuses no others.

use crate::http::{Code, two::frame::*};

/// How many frames of a kind may come at once, how many more a second, and with each request.
#[rustfmt::skip]
const LIMITS: [(usize, usize, usize); 7] = [
    (500, 100, 0), (20, 1, 0), (500, 20, 0), (64, 16, 0), (1000, 100, 0), (2000, 500, 8), (100, 1, 0),
];

const RESETS: usize = 0;
const SETTINGS_FRAMES: usize = 1;
const PINGS: usize = 2;
const CONTINUATIONS: usize = 3;
/// Requests that are refused or ignored, and bodies of streams that are closed.
const REFUSED: usize = 4;
const OTHERS: usize = 5;
/// Answers that the client makes no room for.
const UNREAD: usize = 6;

#[derive(Default)]
pub struct Floods {
    taken: [usize; LIMITS.len()],
    pub seconds: usize,
    pub requests: usize,
}

impl Floods {
    /// Counts a frame that was taken, and made the server reset streams. `is_whole`: it ends a header block;
    /// `is_idle`: it has no bytes; `is_ignored`: nothing came of it.
    pub fn count(
        &mut self,
        kind: u8,
        resets: usize,
        is_whole: bool,
        is_idle: bool,
        is_ignored: bool,
    ) {
        self.taken[RESETS] += resets;
        match kind {
            DATA => {
                self.taken[OTHERS] += usize::from(is_idle);
                self.taken[REFUSED] += usize::from(is_ignored);
            }
            HEADERS | CONTINUATION => {
                self.taken[CONTINUATIONS] += usize::from(kind == CONTINUATION);
                self.taken[REFUSED] += usize::from(is_whole && is_ignored);
            }
            RST_STREAM => self.taken[OTHERS] += usize::from(resets == 0),
            SETTINGS => self.taken[SETTINGS_FRAMES] += 1,
            PING => self.taken[PINGS] += 1,
            _ => self.taken[OTHERS] += 1,
        }
    }

    /// Counts an answer that the server has given up.
    pub fn unread(&mut self, given_up: Result<(), Code>) -> Result<(), Code> {
        match &given_up {
            Ok(()) => self.taken[UNREAD] += 1,
            Err(code) => self.check_refusal(*code, false),
        }
        given_up
    }

    /// `sent`: updates that the answers of the server are a reason for.
    pub fn check(&self, sent: usize) {
        for (kind, (burst, per_second, per_request)) in LIMITS.into_iter().enumerate() {
            let more = self.seconds * per_second + self.requests * per_request;
            let most = burst + more + if kind == OTHERS { sent } else { 0 };
            let taken = self.taken[kind];
            assert!(taken <= most, "a flood: {taken} frames of kind {kind}, more than {most}");
        }
    }

    /// Nobody is cut off who has sent fewer. The rest of a header block may be too long.
    pub fn check_refusal(&self, code: Code, is_in_block: bool) {
        let is_flood = self.taken.iter().zip(LIMITS).any(|(taken, (burst, ..))| *taken >= burst);
        assert!(code != Code::EnhanceYourCalm || is_flood || is_in_block, "{:?}", self.taken);
    }
}
