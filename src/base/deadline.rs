//! A point in time by which something must be done.
//!
//! Every function takes `now`, so that tests need not wait.

use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    pub fn after(now: Instant, timeout: Duration) -> Self {
        Self(now + timeout)
    }

    pub fn earlier(self, time: Duration) -> Self {
        Self(self.0.checked_sub(time).unwrap_or(self.0))
    }

    pub fn instant(self) -> Instant {
        self.0
    }

    /// The time left at `now`; zero once the deadline has passed.
    pub fn remaining(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    pub fn has_passed(self, now: Instant) -> bool {
        now >= self.0
    }
}
