//! Counts the frames of a client and finds those who send many that ask for nothing.
//!
//! `h2` bounds what a client can make it remember; the meter bounds what a client can make it do.
//! It reads along: frame headers only, from the bytes as they come in.

use std::time::Instant;

/// What a client sends before its first frame (RFC 9113 3.4), in bytes.
const PREFACE: usize = 24;
/// A frame header (RFC 9113 4.1), in bytes.
const HEADER: usize = 9;

/// Frames that cost more than they are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `RST_STREAM`: a request that was not worth waiting for.
    Reset,
    /// `SETTINGS`, each of which wants an answer.
    Settings,
    /// `PING`, likewise.
    Ping,
    /// `CONTINUATION` of a header block.
    Continuation,
    /// What makes sense now and then beside requests: `WINDOW_UPDATE`, `PRIORITY`, empty `DATA`,
    /// frames of unknown types.
    Other,
}

/// How many frames of a kind may come at once, how many more a second, and with each request.
struct Allowance {
    burst: u32,
    per_second: u32,
    per_request: u32,
}

/// In the order of [`Kind`]. A client that gives up all of its requests at once is honest, and Go
/// sends a ping along with a reset.
#[rustfmt::skip]
const ALLOWANCES: [Allowance; 5] = [
    Allowance { burst: 500, per_second: 100, per_request: 0 },
    Allowance { burst: 20, per_second: 1, per_request: 0 },
    Allowance { burst: 500, per_second: 20, per_request: 0 },
    Allowance { burst: 64, per_second: 16, per_request: 0 },
    Allowance { burst: 2000, per_second: 500, per_request: 8 },
];

/// A client sent too much that asks for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flood;

/// Where in the frames of a client we are, and what it may still send.
pub(super) struct Meter {
    /// Bytes to skip: the preface, then payloads.
    skip: usize,
    header: [u8; HEADER],
    has: usize,
    /// A header block has begun and not ended.
    is_in_headers: bool,
    /// When what is incomplete began to come in.
    since: Option<Instant>,
    left: [u32; ALLOWANCES.len()],
    refilled: Instant,
    has_reset: bool,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            skip: PREFACE,
            header: [0; HEADER],
            has: 0,
            is_in_headers: false,
            since: None,
            left: ALLOWANCES.map(|allowance| allowance.burst),
            refilled: now,
            has_reset: false,
        }
    }

    /// Reads along in `bytes`, which came in `now`.
    ///
    /// # Errors
    /// [`Flood`] if there is too much that asks for nothing.
    pub(super) fn read(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Flood> {
        self.refill(now);
        while !bytes.is_empty() {
            if self.skip > 0 {
                let count = self.skip.min(bytes.len());
                self.skip -= count;
                bytes = &bytes[count..];
                continue;
            }
            let count = (HEADER - self.has).min(bytes.len());
            self.header[self.has..self.has + count].copy_from_slice(&bytes[..count]);
            self.has += count;
            bytes = &bytes[count..];
            if self.has == HEADER {
                self.has = 0;
                self.frame()?;
            }
        }
        let is_whole = self.skip == 0 && self.has == 0 && !self.is_in_headers;
        self.since = match is_whole {
            true => None,
            false => Some(self.since.unwrap_or(now)),
        };
        Ok(())
    }

    /// When what is incomplete began to come in: a frame, or the frames of a header block.
    pub(super) fn incomplete_since(&self) -> Option<Instant> {
        self.since
    }

    /// Whether a stream was reset since this was asked last.
    pub(super) fn has_reset(&mut self) -> bool {
        std::mem::take(&mut self.has_reset)
    }

    fn frame(&mut self) -> Result<(), Flood> {
        // One frame of a long body after the other is progress.
        self.since = if self.is_in_headers { self.since } else { None };
        const END_HEADERS: u8 = 4;
        let [a, b, c, kind, flags, ..] = self.header;
        self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let ends_headers = flags & END_HEADERS != 0;
        let kind = match kind {
            0 if self.skip > 0 => return Ok(()),
            1 => {
                self.is_in_headers = !ends_headers;
                for (left, allowance) in self.left.iter_mut().zip(&ALLOWANCES) {
                    *left = (*left + allowance.per_request).min(allowance.burst);
                }
                return Ok(());
            }
            3 => {
                self.has_reset = true;
                Kind::Reset
            }
            4 => Kind::Settings,
            6 => Kind::Ping,
            9 => {
                self.is_in_headers &= !ends_headers;
                Kind::Continuation
            }
            _ => Kind::Other,
        };
        let left = &mut self.left[kind as usize];
        *left = left.checked_sub(1).ok_or(Flood)?;
        Ok(())
    }

    fn refill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.refilled).as_secs();
        if seconds > 0 {
            self.refilled = now;
            let seconds = u32::try_from(seconds.min(3600)).unwrap_or(3600);
            for (left, allowance) in self.left.iter_mut().zip(&ALLOWANCES) {
                *left = (*left + seconds * allowance.per_second).min(allowance.burst);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    fn opened(now: Instant) -> Meter {
        let mut meter = Meter::new(now);
        meter.read(&[0; PREFACE], now).unwrap();
        meter
    }

    #[test]
    fn what_is_allowed_passes_and_one_more_is_a_flood() {
        let now = Instant::now();
        for (kind, allowed) in [
            (3, 500),
            (4, 20),
            (6, 500),
            (9, 64),
            (2, 2000),
            (8, 2000),
            (99, 2000),
        ] {
            let mut meter = opened(now);
            let flood = frame(kind, 0, &[0; 8]).repeat(allowed);
            assert_eq!(Ok(()), meter.read(&flood, now), "{kind}");
            assert_eq!(Err(Flood), meter.read(&frame(kind, 0, &[]), now), "{kind}");
        }
        let mut meter = opened(now);
        let empty = frame(0, 0, &[]);
        assert_eq!(Ok(()), meter.read(&empty.repeat(2000), now));
        assert_eq!(Err(Flood), meter.read(&empty, now));
    }

    #[test]
    fn requests_and_time_allow_more() {
        let now = Instant::now();
        let mut meter = opened(now);
        let request = [frame(1, 4, b"x"), frame(8, 0, &[0; 4]).repeat(8)].concat();
        for _ in 0..10_000 {
            meter.read(&request, now).unwrap();
        }
        let mut meter = opened(now);
        for second in 0..100 {
            let now = now + Duration::from_secs(second);
            meter.read(&frame(6, 0, &[0; 8]).repeat(20), now).unwrap();
        }
        // Requests do not pay for their own resets.
        let mut meter = opened(now);
        let reset = [frame(1, 4, b"x"), frame(3, 0, &[0; 4])].concat();
        assert_eq!(Ok(()), meter.read(&reset.repeat(500), now));
        assert_eq!(Err(Flood), meter.read(&reset, now));
    }

    #[test]
    fn it_makes_no_difference_how_the_bytes_arrive() {
        let now = Instant::now();
        let all = [vec![0; PREFACE], frame(1, 4, b"head"), frame(0, 1, b"body")].concat();
        let pings = frame(6, 0, &[0; 8]).repeat(501);
        for piece in [1, 2, 8, 9, 10, 1000] {
            let mut meter = Meter::new(now);
            for part in all.chunks(piece) {
                meter.read(part, now).unwrap();
            }
            assert_eq!(None, meter.incomplete_since());
            assert!(
                pings
                    .chunks(piece)
                    .any(|part| meter.read(part, now).is_err())
            );
        }
    }

    #[test]
    fn what_is_incomplete_is_known_with_the_time_it_began() {
        let now = Instant::now();
        let later = now + Duration::from_secs(3);
        let mut meter = opened(now);
        meter.read(&frame(0, 0, b"body")[..10], now).unwrap();
        meter.read(b"o", later).unwrap();
        assert_eq!(Some(now), meter.incomplete_since());
        meter.read(b"dy", later).unwrap();
        assert_eq!(None, meter.incomplete_since());
        // A header block is incomplete until its last frame, however many come.
        meter.read(&frame(1, 0, b"a"), now).unwrap();
        meter.read(&frame(9, 0, b"b"), later).unwrap();
        assert_eq!(Some(now), meter.incomplete_since());
        meter.read(&frame(9, 4, b"c"), later).unwrap();
        assert_eq!(None, meter.incomplete_since());
    }
}
