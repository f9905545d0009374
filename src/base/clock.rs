//! The time of day, cheap enough for each request.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use rustls_pki_types::UnixTime;

/// The time of day, a few milliseconds late at most.
pub fn wall() -> SystemTime {
    UNIX_EPOCH + since_epoch()
}

pub fn unix() -> UnixTime {
    UnixTime::since_unix_epoch(since_epoch())
}

fn since_epoch() -> Duration {
    // The kernel updates it at each tick; reading a precise clock costs ten times as much.
    let now = clock_gettime(ClockId::RealtimeCoarse);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(now.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_tells_the_time() {
        let precise = SystemTime::now();
        let coarse = wall();
        let apart = coarse.duration_since(precise).unwrap_or_else(|e| e.duration());
        assert!(apart < Duration::from_secs(5), "{apart:?}");
    }
}
