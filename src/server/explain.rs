//! The error log says why a request was prohibited by policy, and what would allow it.
//!
//! A client that is refused again and again must not fill the log or keep the workers busy: each
//! second the first [`LINES`] refusals are explained, the others are counted, and the sweeper tells
//! the count.

use std::{
    borrow::Cow,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use super::{
    Server,
    advice::{Advice, quoted},
    failure::Failure,
};
use crate::policy::{Policies, Verdict};

/// Refusals that are explained from one look of the sweeper to the next, which is a second later.
const LINES: u32 = 10;
/// The longest explanation, in bytes: a path may be much longer. Advice comes on top, as a part of it
/// is no advice.
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
        self.explain(&caller(identity), path, || {
            let verdict = policies.why(identity, path);
            let advice = match (&verdict, Advice::for_call(path)) {
                (Verdict::Refused { .. }, Advice::Add(pattern)) => {
                    format!("; to allow it, add the path {}", quoted(&pattern))
                }
                (_, Advice::Mend(why)) => format!("; {why}"),
                _ => String::new(),
            };
            (verdict.to_string(), advice)
        });
        Failure::Prohibited
    }

    /// The failure of a request over a connection whose certificate is not accepted any more.
    pub(super) fn distrust(&self, identity: &str, path: &str) -> Failure {
        self.explain(&caller(identity), path, || {
            let why = "refused: the certificate has expired or is no longer trusted";
            (why.to_owned(), String::new())
        });
        Failure::Distrusted
    }

    /// Tells which certificates, in the words of `several`, left no single identity.
    pub(super) fn explain_several(&self, several: &str, path: &str) {
        self.explain("a client", path, || {
            let why = format!("refused: too many identities: {several} are both no authority's");
            let advice = "; a client sends its own certificate and those of its authorities only";
            (why, advice.to_owned())
        });
    }

    /// Logs that `caller` called `path`, and what `why` says of it: the reason, and advice.
    fn explain(&self, caller: &str, path: &str, why: impl FnOnce() -> (String, String)) {
        let Explanations { left, unexplained } = &self.explanations;
        let take = |left: u32| left.checked_sub(1);
        if left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_err()
        {
            unexplained.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let (reason, advice) = why();
        // The path is not all of it, so that there is room for the reason.
        let path = format!("{path:?}");
        let line = format!("{caller} called {}: {reason}", cut(&path, MAX_LINE / 2));
        self.log_error(&(cut(&line, MAX_LINE).into_owned() + &advice));
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

fn caller(identity: &str) -> String {
    format!("identity {identity:?}")
}

/// `text`, or its beginning of at most `length` bytes.
fn cut(text: &str, length: usize) -> Cow<'_, str> {
    match text.len() <= length {
        true => text.into(),
        false => {
            let end = (0..=length).rfind(|end| text.is_char_boundary(*end));
            format!("{}...", &text[..end.unwrap_or_default()]).into()
        }
    }
}
