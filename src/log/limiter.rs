//! Error lines that others can cause: a few a second are logged, the others are counted.
//!
//! Each cause has its own allowance, so that a flood of failed handshakes hides no refused request. The
//! owner refills the allowances once a second and logs the counts. Knows nothing of clocks.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Handshake,
    /// A connection was not taken, or failed in the server's hands.
    Connection,
    /// A policy does not allow a request, or its client is no longer trusted.
    Refusal,
    /// An identity has reached a limit.
    Limit,
    /// A TLS proxy forwarded a certificate that does not count.
    Forwarded,
    /// A request failed because of its key or the key store.
    Failure,
    Panic,
}

/// The causes in their order: lines that are logged each second, and what the count of the others says.
const CAUSES: [(u32, &str); 7] = [
    (10, "TLS handshakes failed"),
    (1, "connections were refused or failed"),
    (10, "requests were prohibited by policy"),
    (1, "requests were answered 429"),
    (10, "certificates of TLS proxies' clients were refused"),
    // Each may be about another key, and its client has the right to it.
    (100, "requests failed"),
    (10, "panics happened"),
];

/// The longest line, in bytes: a path, or what a certificate says, may be much longer.
pub const MAX_LINE: usize = 2048;

/// Lines that may be logged until the next refill, and the number of those left out since the last.
pub struct Limiter([Allowance; CAUSES.len()]);

struct Allowance {
    left: AtomicU32,
    left_out: AtomicU64,
}

impl Default for Limiter {
    fn default() -> Self {
        Self(CAUSES.map(|(lines, _)| Allowance {
            left: AtomicU32::new(lines),
            left_out: AtomicU64::new(0),
        }))
    }
}

impl Limiter {
    /// Whether one more line may be logged. If not, it is counted.
    pub fn admits(&self, cause: Cause) -> bool {
        let Allowance { left, left_out } = &self.0[cause as usize];
        let take = |left: u32| left.checked_sub(1);
        let is_taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        if is_taken.is_err() {
            left_out.fetch_add(1, Ordering::Relaxed);
        }
        is_taken.is_ok()
    }

    /// Gives each cause its full allowance; the lines that tell what was left out. Called once a second.
    pub fn refill(&self) -> impl Iterator<Item = String> {
        let causes = self.0.iter().zip(CAUSES);
        causes.filter_map(|(Allowance { left, left_out }, (lines, what))| {
            left.store(lines, Ordering::Relaxed);
            let count = left_out.swap(0, Ordering::Relaxed);
            (count > 0)
                .then(|| format!("{count} more {what} within a second: left out of this log"))
        })
    }
}

/// `text`, or its beginning, in at most `length` bytes.
pub fn cut(mut text: String, length: usize) -> String {
    const DOTS: &str = "...";
    if text.len() > length {
        let length = length.saturating_sub(DOTS.len());
        let end = (0..=length).rfind(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push_str(DOTS);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_either_admitted_or_counted() {
        let limiter = Limiter::default();
        let admitted = (0..3000).filter(|_| limiter.admits(Cause::Handshake)).count();
        assert_eq!(10, admitted);
        assert!(limiter.admits(Cause::Refusal), "causes are counted apart");
        let told: Vec<_> = limiter.refill().collect();
        let wanted = "2990 more TLS handshakes failed within a second: left out of this log";
        assert_eq!([wanted], *told);
        assert!(limiter.admits(Cause::Handshake));
        assert_eq!(0, limiter.refill().count());
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        assert_eq!("short", cut("short".to_owned(), 5));
        assert_eq!("éé...", cut("é".repeat(5), 7));
        assert_eq!("aé...", cut("aéééé".to_owned(), 7));
    }
}
