//! The error log says why a request was prohibited by policy, and what would allow it.
//!
//! A client that is refused again and again must not fill the log or keep the workers busy: each
//! second the first [`LINES`] refusals are explained, the others are counted, and the sweeper tells
//! the count.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Server, failure::Failure};
use crate::policy::Policies;

/// Refusals that are explained from one look of the sweeper to the next, which is a second later.
const LINES: u32 = 10;
/// The longest explanation, in bytes: a path may be much longer.
const MAX_LINE: usize = 2048;

/// Which refusals are still explained, and how many were not.
pub(super) struct Explanations {
    left: AtomicU32,
    unexplained: AtomicU64,
}

impl Default for Explanations {
    fn default() -> Self {
        Self {
            left: AtomicU32::new(LINES),
            unexplained: AtomicU64::new(0),
        }
    }
}

impl Server {
    /// The failure of a request that `policies` do not allow.
    pub(super) fn prohibit(&self, policies: &Policies, identity: &str, path: &str) -> Failure {
        self.explain(identity, path, || policies.why(identity, path).to_string());
        Failure::Prohibited
    }

    /// The failure of a request over a connection whose certificate is not accepted any more.
    pub(super) fn distrust(&self, identity: &str, path: &str) -> Failure {
        self.explain(identity, path, || {
            "refused: the certificate has expired or is no longer trusted".to_owned()
        });
        Failure::Distrusted
    }

    fn explain(&self, identity: &str, path: &str, why: impl FnOnce() -> String) {
        let Explanations { left, unexplained } = &self.explanations;
        let take = |left: u32| left.checked_sub(1);
        if left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_err()
        {
            unexplained.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut line = format!("identity {identity:?} called {path:?}: {}", why());
        if line.len() > MAX_LINE {
            let end = (0..=MAX_LINE).rfind(|end| line.is_char_boundary(*end));
            line.truncate(end.unwrap_or_default());
            line.push_str("...");
        }
        self.log_error(&line);
    }

    /// Lets the next refusals be explained, and tells how many were not. Called once a second.
    pub(super) fn report_unexplained(&self) {
        let Explanations { left, unexplained } = &self.explanations;
        left.store(LINES, Ordering::Relaxed);
        let count = unexplained.swap(0, Ordering::Relaxed);
        if count > 0 {
            self.log_error(&format!(
                "{count} more requests were prohibited by policy within a second"
            ));
        }
    }
}
