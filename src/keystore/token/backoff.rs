//! When to log in again: after failures and refusals, and when a token is refused.

use std::time::{Duration, Instant};

/// Logins that may be forced one after the other, each by the refusal of another token.
const MAX_FORCED: usize = 3;
/// Forced logins are this far apart on average, whatever the retry interval.
const MIN_FORCED: Duration = Duration::from_secs(1);
/// The same where the refusal most likely has another reason than the token.
const MIN_FORCED_IN_DOUBT: Duration = Duration::from_secs(60);
/// Vault counts a refused login if it comes within 15 minutes of the one before, and locks the role
/// at the fifth for all who share it. After this time it begins to count anew.
const UNCOUNTED: Duration = Duration::from_secs(16 * 60);
/// Refusals that are counted and may follow each other sooner: two servers with the same wrong
/// credentials don't lock the role between them.
const MAX_COUNTED: u32 = 2;

/// How a key store wants its tokens treated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// A token is renewed after this many percent of its lifetime.
    pub(crate) renew_after: u32,
    /// The time from a login that failed to the next; from one that was refused at first.
    pub(crate) retry: Duration,
    /// The longest time from a login that was refused to the next, unless refusals are counted.
    pub(crate) longest_retry: Duration,
    /// Whether a new token needs time to be known everywhere.
    pub(crate) settles: bool,
}

/// Whether a login that has failed was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The key store has not judged the credentials.
    No,
    /// The credentials are refused.
    Yes,
    /// The same, and the key store locks credentials that it refuses too often.
    Counted,
}

/// When logins may be tried.
#[derive(Debug)]
pub(crate) struct Backoff {
    rules: Rules,
    /// When the last login failed, if it did, and how long after that the next one comes.
    failed: Option<(Instant, Duration)>,
    /// Logins that were refused since one succeeded, and those of them that were counted.
    refusals: u32,
    counted: u32,
    forced: Forced<MAX_FORCED>,
    forced_in_doubt: Forced<1>,
}

impl Backoff {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            failed: None,
            refusals: 0,
            counted: 0,
            forced: Forced::new(rules.retry.max(MIN_FORCED)),
            forced_in_doubt: Forced::new(rules.retry.max(MIN_FORCED_IN_DOUBT)),
        }
    }

    /// The time until the next login may be tried.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        let (at, pause) = self.failed.filter(|(at, _)| *at <= now)?;
        let left = (at + pause).saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    pub(crate) fn succeeded(&mut self) {
        (self.failed, self.refusals, self.counted) = (None, 0, 0);
    }

    /// A login has failed at `now`. The time until the next one, which grows with each refusal in a
    /// row: what is refused is not right a moment later, and others may share the credentials.
    pub(crate) fn failed(&mut self, refusal: Refusal, now: Instant) -> Duration {
        let retry = self.rules.retry;
        if refusal != Refusal::No {
            self.refusals = self.refusals.saturating_add(1);
        }
        let pause = match refusal {
            Refusal::No => retry,
            Refusal::Yes => {
                let doublings = (self.refusals - 1).min(16);
                let longest = self.rules.longest_retry.max(retry);
                retry.saturating_mul(1 << doublings).min(longest)
            }
            Refusal::Counted => {
                self.counted = self.counted.saturating_add(1);
                match self.counted < MAX_COUNTED {
                    true => retry,
                    false => retry.max(UNCOUNTED),
                }
            }
        };
        self.failed = Some((now, pause));
        pause
    }

    /// Somebody may have mended what was refused: a login may be tried at once. Refusals that the key
    /// store has counted still count.
    pub(crate) fn retry(&mut self) {
        (self.failed, self.refusals) = (None, 0);
    }

    /// Whether the refusal of a token, or of something else if that `is_doubtful`, may force a login at
    /// `now`; then it is counted.
    pub(crate) fn force(&mut self, is_doubtful: bool, now: Instant) -> bool {
        match is_doubtful {
            true => self.forced_in_doubt.take(now),
            false => self.forced.take(now),
        }
    }
}

/// Forced logins: a few at once, and a steady rate in the long run.
#[derive(Debug)]
struct Forced<const N: usize> {
    /// When the last ones were, the oldest first.
    last: [Option<Instant>; N],
    /// N of them take at least this time.
    window: Duration,
}

impl<const N: usize> Forced<N> {
    fn new(gap: Duration) -> Self {
        Self { last: [None; N], window: gap * N as u32 }
    }

    /// Whether one may be forced at `now`; then it is.
    fn take(&mut self, now: Instant) -> bool {
        if self.last[0].is_some_and(|at| at <= now && now - at < self.window) {
            return false;
        }
        self.last.rotate_left(1);
        self.last[N - 1] = Some(now);
        true
    }
}
