//! Counts frames that ask for nothing, and finds the clients that send too many of them.
//!
//! Bounds the work that a client can cause. Its memory is bounded elsewhere.

use std::time::Instant;

/// Frames that are counted, since they cost more than they are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The end of a request before that of its answer: `RST_STREAM`, or a mistake for which the server
    /// resets the stream.
    Reset,
    /// `SETTINGS`, each of which must be answered.
    Settings,
    Ping,
    Continuation,
    /// Requests and bodies that are refused without an answer.
    Refused,
    /// Answers that were reset since the client made no room for them.
    Unread,
    /// Frames that are useful now and then beside requests: `WINDOW_UPDATE`, `PRIORITY`, empty `DATA`,
    /// `RST_STREAM` after the end of the answer, frames of unknown types.
    Other,
}

/// How many frames of a kind may come at once, how many more a second, and with each request.
struct Allowance {
    burst: u32,
    per_second: u32,
    per_request: u32,
}

/// In the order of [`Kind`]. An honest client may give up all of its requests at once, and Go sends a ping
/// along with a reset.
#[rustfmt::skip]
const ALLOWANCES: [Allowance; 7] = [
    Allowance { burst: 500, per_second: 100, per_request: 0 },
    Allowance { burst: 20, per_second: 1, per_request: 0 },
    Allowance { burst: 500, per_second: 20, per_request: 0 },
    Allowance { burst: 64, per_second: 16, per_request: 0 },
    Allowance { burst: 1000, per_second: 100, per_request: 0 },
    Allowance { burst: 100, per_second: 1, per_request: 0 },
    Allowance { burst: 2000, per_second: 500, per_request: 8 },
];

/// The frames that a client may still send.
pub struct Meter {
    left: [u32; ALLOWANCES.len()],
    refilled: Instant,
}

impl Meter {
    pub fn new(now: Instant) -> Self {
        Self { left: ALLOWANCES.map(|allowance| allowance.burst), refilled: now }
    }

    /// Counts a frame. `false` if there are too many.
    #[must_use]
    pub fn count(&mut self, kind: Kind, now: Instant) -> bool {
        self.refill(now);
        let left = &mut self.left[kind as usize];
        let has_one = *left > 0;
        *left = left.saturating_sub(1);
        has_one
    }

    /// A request allows some more.
    pub fn request(&mut self) {
        self.allow(|allowance| allowance.per_request);
    }

    /// Allows for the frames with which a client makes room again after `bytes` of a body were sent, on the
    /// stream and on the connection: Go sends them for every 4 KiB, others for every frame.
    pub fn sent(&mut self, bytes: usize) {
        let left = &mut self.left[Kind::Other as usize];
        *left = left.saturating_add(2 + u32::try_from(bytes / 2048).unwrap_or(u32::MAX / 2));
    }

    fn refill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.refilled).as_secs();
        if seconds > 0 {
            self.refilled = now;
            let seconds = u32::try_from(seconds.min(3600)).unwrap_or(3600);
            self.allow(|allowance| seconds * allowance.per_second);
        }
    }

    fn allow(&mut self, more: impl Fn(&Allowance) -> u32) {
        for (left, allowance) in self.left.iter_mut().zip(&ALLOWANCES) {
            // An allowance beyond the burst, for bytes that were sent, stays.
            let more = left.saturating_add(more(allowance));
            *left = more.min(allowance.burst).max(*left);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_allowed_passes_and_one_more_is_too_much() {
        let now = Instant::now();
        for (kind, allowed) in [(Kind::Reset, 500), (Kind::Settings, 20), (Kind::Other, 2000)] {
            let mut meter = Meter::new(now);
            assert!((0..allowed).all(|_| meter.count(kind, now)), "{kind:?}");
            assert!(!meter.count(kind, now), "{kind:?}");
            assert!(meter.count(Kind::Ping, now), "kinds are counted apart");
        }
    }

    #[test]
    fn requests_and_time_allow_more() {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        for _ in 0..10_000 {
            meter.request();
            assert!((0..8).all(|_| meter.count(Kind::Other, now)));
        }
        for second in 1..100 {
            let now = now + Duration::from_secs(second);
            assert!((0..20).all(|_| meter.count(Kind::Ping, now)));
        }
        // Requests do not pay for their own resets.
        let mut meter = Meter::new(now);
        for _ in 0..500 {
            meter.request();
            assert!(meter.count(Kind::Reset, now));
        }
        meter.request();
        assert!(!meter.count(Kind::Reset, now));
    }
}
